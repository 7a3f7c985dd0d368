"""Criteria against values worked by hand, and scores that cannot be ranked."""

import math
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers import MakeScores
from numpy.typing import NDArray
from tolerances import FLOAT64_ROUNDING, assert_within, ppl_error, variance_error

from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.ranking import criteria
from pycat.ranking.criteria import CRITERIA, cat_diff, cat_var, evaluate_criterion, length, random
from pycat.ranking.rarity import token_rarity
from pycat.scores.criterion_names import CRITERION_NAMES
from pycat.scores.score_table import ScoreTable


def table(nll: NDArray[np.float64], num_tokens: list[int], first_pair: int = 0) -> ScoreTable:
    tokens = np.array(num_tokens, dtype=np.int32)
    columns = {
        "pair": np.arange(first_pair, first_pair + len(nll)),
        "num_src_tokens": tokens,
        "num_tokens": tokens,
        **{f"nll_{k}": column for k, column in enumerate(nll.T)},
    }
    return ScoreTable.from_arrow(pa.table(columns), {})


# Rows of ppl over three checkpoints.
#   10 4 1: mean 5, squared deviations 25 + 1 + 16 = 42, over 3 = 14; first - last = 9
#   3 3 3: no change
#   2 8 5: mean 5, 9 + 9 + 0 = 18, over 3 = 6; 2 - 5 = -3
PPL = np.array([[10.0, 4.0, 1.0], [3.0, 3.0, 3.0], [2.0, 8.0, 5.0]])
VARIANCES = [14.0, 0.0, 6.0]
DIFFERENCES = [9.0, 0.0, -3.0]


def test_no_added_column_takes_the_name_of_a_criterion() -> None:
    assert tuple(CRITERIA) == CRITERION_NAMES


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
    ppl = np.array([[3.0, 3.0], [2.0, 1.0]])
    errors = ppl_error(ppl, FLOAT64_ROUNDING)
    assert_within(scores.ppl, ppl, errors)
    # mean 1.5, deviations 0.5 both: variance 0.25
    allowed = variance_error(ppl.T, errors.T)
    assert_within(evaluate_criterion(scores, "cat_var"), [0.0, 0.25], allowed)
    assert_within(evaluate_criterion(scores, "cat_diff"), [0.0, 1.0], errors.sum(axis=1))


def test_named_criteria_use_the_right_columns() -> None:
    nll = np.log(PPL) * np.array([[7], [5], [6]])
    scores = table(nll, [7, 5, 6], first_pair=4)
    errors = ppl_error(PPL, FLOAT64_ROUNDING)
    allowed = variance_error(PPL.T, errors.T)
    assert_within(evaluate_criterion(scores, "cat_var"), VARIANCES, allowed)
    allowed = errors[:, 0] + errors[:, -1]
    assert_within(evaluate_criterion(scores, "cat_diff"), DIFFERENCES, allowed)
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


STATISTICS = ("nll", "p_target", "correct", "el2n", "margin", "entropy", "grad_norm_bound")


def full_table(count: int = 50, num_checkpoints: int = 5, **added: Any) -> ScoreTable:
    """Every statistic, of sums over one to nine tokens."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 10, count).astype(np.int32)
    columns: dict[str, Any] = {
        "pair": np.arange(100, 100 + count),
        "num_src_tokens": tokens[::-1].copy(),
        "num_tokens": tokens,
    }
    for name in STATISTICS:
        for k in range(num_checkpoints):
            sums = rng.uniform(0, 3, count) * tokens
            columns[f"{name}_{k}"] = sums if name == "nll" else sums.astype(np.float32)
    return ScoreTable.from_arrow(pa.table({**columns, **added}), {"steps": [*range(5)]})


# Five checkpoints, one pair; early are the first two, late the last two.
TRAJECTORY = np.array([[0.5, 0.3, 0.7, 0.7, 0.1]])


def test_trajectories_worked_by_hand() -> None:
    def of(function: Any, *more: Any) -> float:
        return float(function(TRAJECTORY, *more)[0])

    mean = (0.5 + 0.3 + 0.7 + 0.7 + 0.1) / 5
    assert of(criteria.confidence) == pytest.approx(0.46)
    assert of(criteria.correctness) == pytest.approx(0.46)
    assert of(criteria.aum) == pytest.approx(0.46)
    assert of(criteria.el2n) == pytest.approx(0.46)
    variance = sum((value - mean) ** 2 for value in TRAJECTORY[0]) / 5
    assert of(criteria.variability) == pytest.approx(variance**0.5)
    assert of(criteria.cat_var_log) == pytest.approx(variance)
    # Falls of 0.2, then of 0.6; what rises or stays is not forgotten.
    assert of(criteria.forgetting) == pytest.approx(0.8)
    assert of(criteria.ign) == pytest.approx((0.5 + 0.3) / 2)
    assert of(criteria.learnability) == pytest.approx((0.5 + 0.3) / 2 - (0.7 + 0.1) / 2)
    # Ceilings: 0.5 0.3 0.4 0.4 0.1, mean 0.34, squares .0256 .0016 .0036 .0036 .0576, over 5.
    ceilings = np.array([1.0, 1.0, 0.4, 0.4, 1.0])
    assert of(criteria.cat_var_clipped, ceilings) == pytest.approx(0.0184)
    # Of two and of three checkpoints early is the first and late the last.
    assert criteria.learnability(np.array([[3.0, 9.0, 1.0]])).tolist() == [2.0]
    assert criteria.ign(np.array([[3.0, 1.0]])).tolist() == [3.0]
    assert criteria.ppl(np.log([2.0])).tolist() == pytest.approx([2.0])


def test_cat_var_rank_counts_places_not_heights() -> None:
    # Ranks of four pairs, as shares: 1 2 3.5 3.5, then 4 2 3 1, over 4.
    first, second = np.array([1.0, 5.0, 90.0, 90.0]), np.array([9.0, 2.0, 3.0, 0.0])
    expected = [((a - b) / 2 / 4) ** 2 for a, b in ((1, 4), (2, 2), (3.5, 3), (3.5, 1))]
    np.testing.assert_allclose(criteria.cat_var_rank([first, second]), expected, atol=1e-15)
    again = criteria.cat_var_rank([first**3, np.exp(second)])
    assert again.tolist() == criteria.cat_var_rank([first, second]).tolist()


@pytest.mark.parametrize(
    ("name", "statistic"),
    [
        *(("cat_var_log", "nll"), ("learnability", "nll"), ("confidence", "p_target")),
        *(("variability", "p_target"), ("correctness", "correct"), ("forgetting", "correct")),
        *(("aum", "margin"), ("el2n", "el2n"), ("ign", "grad_norm_bound")),
    ],
)
def test_names_read_their_statistic_per_token(name: str, statistic: str) -> None:
    table = full_table()
    sums = np.column_stack([table.column(f"{statistic}_{k}") for k in range(5)])
    expected = getattr(criteria, name)(sums / table.num_tokens[:, None])
    np.testing.assert_allclose(evaluate_criterion(table, name), expected, rtol=1e-12)
    some = evaluate_criterion(table, name, checkpoints=[0, 2, 3])
    expected = getattr(criteria, name)(sums[:, [0, 2, 3]] / table.num_tokens[:, None])
    np.testing.assert_allclose(some, expected, rtol=1e-12)


def test_every_name_is_evaluated_and_documented() -> None:
    table = full_table(rarity=np.linspace(1, 2, 50))
    given = {name: lambda: np.linspace(0, 1, 50) for name in ("noise", "fitted_noise", "coverage")}
    for name in CRITERIA:
        assert evaluate_criterion(table, name, given=given).shape == (50,)
        assert getattr(criteria, name.removeprefix("fitted_")).__doc__
    assert evaluate_criterion(table, "rarity").tolist() == np.linspace(1, 2, 50).tolist()


def test_at_one_checkpoint() -> None:
    table = full_table()
    for by, column in (("el2n@1", "el2n_1"), ("entropy", "entropy_4"), ("entropy@-2", "entropy_3")):
        expected = table.column(column) / table.num_tokens
        assert evaluate_criterion(table, by).tolist() == expected.tolist()
    for by, k in (("ppl", 4), ("ppl@0", 0), ("-ppl@-1", 4)):
        expected = np.exp(table.nll[:, k] / table.num_tokens) * (-1 if by[0] == "-" else 1)
        np.testing.assert_allclose(evaluate_criterion(table, by), expected, rtol=1e-14)
    for by, message in (
        ("ppl@5", "the table has 5 checkpoints, expected 0 to 4 after the @, or -1 for the last"),
        ("aum@1", "only ppl, entropy, el2n are had at one checkpoint; leave out @1"),
    ):
        with pytest.raises(PycatError) as caught:
            evaluate_criterion(table, by)
        assert str(caught.value) == f"criterion {by!r}: {message}"


def test_clipping_leaves_95_percent_of_a_checkpoint() -> None:
    table = full_table(2000)
    ppl = table.ppl
    clipped = np.minimum(ppl, np.sort(ppl, axis=0)[1899])
    expected = clipped.var(axis=1)
    np.testing.assert_allclose(evaluate_criterion(table, "cat_var_clipped"), expected, rtol=1e-9)
    assert (clipped < ppl).sum(axis=0).tolist() == [100] * 5


def test_columns_are_criteria() -> None:
    table = full_table(noisy=np.arange(50) % 7, domain=["web"] * 50)
    assert evaluate_criterion(table, "-noisy").tolist() == (-(np.arange(50) % 7)).tolist()
    assert evaluate_criterion(table, "nll_3").tolist() == table.nll[:, 3].tolist()
    with pytest.raises(PycatError, match="column domain holds object, expected numbers to rank by"):
        evaluate_criterion(table, "domain")


def test_a_missing_statistic_is_named_with_the_option_that_gives_it() -> None:
    with pytest.raises(PycatError) as caught:
        evaluate_criterion(table(PPL, [1, 1, 1]), "-el2n")
    assert str(caught.value) == (
        "score table: criterion el2n needs the columns el2n_0 to el2n_2, which this table lacks; "
        "score again with --stats all (stats='all')"
    )


def test_chunks_give_what_the_whole_table_gives() -> None:
    scores = full_table(140_000, 2)
    np.testing.assert_array_equal(evaluate_criterion(scores, "cat_var"), cat_var(scores.ppl))
    drawn = evaluate_criterion(scores, "random", seed=4)
    assert drawn.tolist() == random(scores.pair_ids, 4).tolist()
    sql = evaluate_criterion(scores, "sql: nll_1 - nll_0")
    np.testing.assert_array_equal(sql, scores.nll[:, 1] - scores.nll[:, 0])


@pytest.mark.parametrize("name", ["cat_var", "cat_var_log"])
def test_a_score_does_not_depend_on_where_its_row_lies(name: str) -> None:
    """The last block holds one row; sums over these checkpoints are inexact."""
    nll = np.random.default_rng(3).uniform(1, 9, 12)
    equal = table(np.tile(nll, (criteria._BLOCK_ROWS + 1, 1)), [1] * (criteria._BLOCK_ROWS + 1))
    assert len(np.unique(evaluate_criterion(equal, name))) == 1
    assert evaluate_criterion(table(nll[None], [1]), name) == evaluate_criterion(equal, name)[:1]


def test_rarity_is_that_of_the_report(toy_corpus: Corpus, make_scores: MakeScores) -> None:
    for corpus in (toy_corpus, toy_corpus.subset(np.arange(1, 300, 3))):
        scores = make_scores(corpus, np.ones((len(corpus), 2)))
        assert evaluate_criterion(scores, "rarity").tolist() == token_rarity(corpus).tolist()


def test_sql_expressions() -> None:
    table = full_table(noisy=np.arange(50.0))
    found = evaluate_criterion(table, "-sql: nll_0 / num_tokens + 2 * Noisy")
    expected = -(table.nll[:, 0] / table.num_tokens + 2 * np.arange(50))
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    # A window sees all rows, whatever order they come out in.
    ranks = evaluate_criterion(table, "sql: rank() OVER (ORDER BY noisy DESC)")
    assert ranks.tolist() == list(range(50, 0, -1))
    with pytest.raises(PycatError, match=r"^criterion 'sql: nll_9': .*\n?(.|\n)*; expected an exp"):
        evaluate_criterion(table, "sql: nll_9")
    with pytest.raises(PycatError, match="is not a number for pair 103; it cannot be ranked"):
        evaluate_criterion(table, "sql: CASE WHEN noisy = 3 THEN NULL ELSE 1 END")


def test_sql_without_duckdb_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(PycatError) as caught:
        evaluate_criterion(full_table(), "sql: nll_0")
    assert str(caught.value) == (
        "criterion 'sql: nll_0' needs DuckDB; pip install 'pycat-nmt[sql]'"
    )


def test_a_function_may_return_what_it_keeps() -> None:
    mine = np.arange(50.0)
    evaluate_criterion(full_table(), lambda given: mine)[:] = -1
    assert mine.tolist() == list(range(50))
