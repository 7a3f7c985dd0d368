"""Criteria against values worked by hand, and scores that cannot be ranked."""

import math
from typing import Any

import numpy as np
import pytest
from conftest import MakeScores
from numpy.typing import NDArray

from pycat.corpus import Corpus
from pycat.criteria import CRITERIA, cat_diff, cat_var, evaluate_criterion, length, random
from pycat.errors import PycatError
from pycat.score_table import ScoreTable


def table(nll: NDArray[np.float64], num_tokens: list[int], first_pair: int = 0) -> ScoreTable:
    pairs = np.arange(first_pair, first_pair + len(nll))
    tokens = np.array(num_tokens, dtype=np.int32)
    return ScoreTable(pairs, tokens, tokens, nll, {})


# Rows of ppl over three checkpoints.
#   10 4 1: mean 5, squared deviations 25 + 1 + 16 = 42, over 3 = 14; first - last = 9
#   3 3 3: no change
#   2 8 5: mean 5, 9 + 9 + 0 = 18, over 3 = 6; 2 - 5 = -3
PPL = np.array([[10.0, 4.0, 1.0], [3.0, 3.0, 3.0], [2.0, 8.0, 5.0]])
VARIANCES = [14.0, 0.0, 6.0]
DIFFERENCES = [9.0, 0.0, -3.0]


def test_cat_var_is_the_population_variance_over_checkpoints() -> None:
    np.testing.assert_allclose(cat_var(PPL), VARIANCES, rtol=1e-15)
    # two checkpoints: mean 3, (2² + 2²) / 2 = 4
    np.testing.assert_allclose(cat_var(np.array([[5.0, 1.0]])), [4.0], rtol=1e-15)


def test_cat_diff_is_first_minus_last() -> None:
    assert cat_diff(PPL).tolist() == DIFFERENCES
    assert cat_diff(PPL[:, ::-1]).tolist() == [-value for value in DIFFERENCES]


def test_length_is_the_number_of_target_tokens() -> None:
    scores = length(np.array([3, 1, 2**31 - 1], dtype=np.int32))
    assert scores.dtype == np.float64
    assert scores.tolist() == [3.0, 1.0, 2147483647.0]


def test_ppl_is_exp_of_nll_per_token_eos_counted() -> None:
    # One word and EOS, each of probability 1/3: nll = 2 ln 3, ppl = 3. Four tokens, of 1/2 each
    # under one checkpoint and certain under the other: nll = 4 ln 2 and 0, ppl = 2 and 1.
    nll = np.array([[2 * math.log(3), 2 * math.log(3)], [4 * math.log(2), 0.0]])
    scores = table(nll, [2, 4])
    np.testing.assert_allclose(scores.ppl, [[3.0, 3.0], [2.0, 1.0]], rtol=1e-15)
    # mean 1.5, deviations 0.5 both: variance 0.25
    np.testing.assert_allclose(evaluate_criterion(scores, "cat_var"), [0.0, 0.25], atol=1e-15)
    np.testing.assert_allclose(evaluate_criterion(scores, "cat_diff"), [0.0, 1.0], atol=1e-15)


def test_named_criteria_use_the_right_columns() -> None:
    scores = ScoreTable(
        np.array([4, 8, 9]),
        np.array([1, 1, 1], dtype=np.int32),
        np.array([7, 5, 6], dtype=np.int32),
        np.log(PPL) * np.array([[7], [5], [6]]),
        {},
    )
    np.testing.assert_allclose(evaluate_criterion(scores, "cat_var"), VARIANCES, atol=1e-13)
    np.testing.assert_allclose(evaluate_criterion(scores, "cat_diff"), DIFFERENCES, atol=1e-13)
    assert evaluate_criterion(scores, "length").tolist() == [7.0, 5.0, 6.0]
    drawn = evaluate_criterion(scores, "random", seed=3)
    assert drawn.tolist() == random(scores.pair_ids, 3).tolist()


def splitmix64(state: int) -> int:
    """SplitMix64 in plain integers: the next output after `state`."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_random_is_splitmix64() -> None:
    assert splitmix64(1234567) == 6457827717110365317  # published with the generator
    pairs = np.array([0, 1, 2, 77, 2**31, 2**40 + 1])
    for seed in (0, 1, 2**40):
        start = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
        expected = [
            (splitmix64((start + (int(pair) - 1) * 0x9E3779B97F4A7C15) % 2**64) >> 11) / 2**53
            for pair in pairs
        ]
        assert random(pairs, seed).tolist() == expected


def test_random_of_a_pair_depends_on_nothing_but_pair_and_seed() -> None:
    pairs = np.arange(1000)
    scores = random(pairs, 5)
    some = np.array([999, 3, 500, 3])
    assert random(some, 5).tolist() == scores[some].tolist()
    assert random(pairs[:1], 5).tolist() == scores[:1].tolist()
    assert (random(pairs, 6) != scores).all()
    assert len(set(scores.tolist())) == 1000


@pytest.mark.parametrize("seed", [0, 1, 123])
def test_random_is_uniform_and_not_correlated(seed: int) -> None:
    count = 100_000
    pairs = np.arange(count)
    scores = random(pairs, seed)
    assert scores.min() >= 0
    assert scores.max() < 1
    # Standard deviation of the mean: 1 / sqrt(12 * 100,000) = 0.0009; of r: 0.0032.
    assert abs(scores.mean() - 0.5) < 0.0045
    others = {
        "pair id": (scores, pairs),
        "next pair": (scores[1:], scores[:-1]),
        "next seed": (scores, random(pairs, seed + 1)),
    }
    for name, (one, other) in others.items():
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.016, name
    # Chi-square of 20 bins: 19 degrees of freedom, beyond 60 with probability 4e-6.
    counts = np.histogram(scores, bins=20, range=(0, 1))[0]
    assert ((counts - count / 20) ** 2 / (count / 20)).sum() < 60


def test_an_unknown_criterion_lists_the_names() -> None:
    with pytest.raises(PycatError) as caught:
        evaluate_criterion(table(PPL, [1, 1, 1]), "cat_vra")
    assert str(caught.value) == (
        f"criterion 'cat_vra' is not known; expected one of {', '.join(CRITERIA)}, a column of the "
        "table (pair, num_src_tokens, num_tokens, nll_0, nll_1, nll_2), or 'sql: …'"
    )
    assert {"cat_var", "cat_diff", "length", "random"} <= CRITERIA.keys()


def test_a_criterion_may_be_a_function_of_the_table(
    toy_corpus: Corpus, make_scores: MakeScores
) -> None:
    scores = make_scores(toy_corpus, np.ones((300, 2)))
    values = evaluate_criterion(scores, lambda given: given.num_src_tokens / given.num_tokens)
    expected = [
        int(src) / int(tgt)
        for src, tgt in zip(toy_corpus.num_src_tokens, toy_corpus.num_tokens, strict=True)
    ]
    assert values.dtype == np.float64
    assert values.tolist() == expected


def test_a_score_that_is_not_a_number_is_refused_with_its_pair() -> None:
    nll = np.ones((3, 2))
    nll[1, 0] = np.nan
    scores = table(nll, [1, 1, 1], first_pair=1_000_000)
    for name in ("cat_var", "cat_diff"):
        with pytest.raises(PycatError) as caught:
            evaluate_criterion(scores, name)
        assert str(caught.value) == (
            f"criterion {name} is not a number for pair 1,000,001; it cannot be ranked"
        )

    def ratio(given: ScoreTable) -> Any:
        return np.array([1.0, 2.0, np.nan])

    with pytest.raises(PycatError, match="criterion ratio is not a number for pair 1,000,002;"):
        evaluate_criterion(scores, ratio)


@pytest.mark.parametrize("shape", [(2,), (3, 1), ()])
def test_a_function_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    def mine(given: ScoreTable) -> Any:
        return np.zeros(shape)

    with pytest.raises(PycatError) as caught:
        evaluate_criterion(table(PPL, [1, 1, 1]), mine)
    assert str(caught.value) == (
        f"criterion mine returned shape {shape}; expected (3,), one score a pair"
    )
