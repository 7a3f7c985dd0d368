"""Noise: signals by hand, evidence within lengths, and what is made of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import pycat
from pycat.filters.fluency import fluency
from pycat.filters.lexical import lexical_scores
from pycat.filters.measures import Measures, measure
from pycat.filters.noise import (
    Evidence,
    combine_sides,
    corpus_signals,
    evidence,
    late_mean,
    noise_score,
    sum_of_squares,
    surprise,
    surprise_evidence,
)
from pycat.filters.rule_measures import length_z, usual_lengths


def test_late_mean_and_surprise_by_hand() -> None:
    nll = np.array([[90.0, 8.0, 4.0], [90.0, 30.0, 10.0]])
    entropy = np.array([[50.0, 6.0, 2.0], [50.0, 10.0, 10.0]])
    num_tokens = np.array([2, 5], np.int32)
    assert late_mean(nll, num_tokens).tolist() == [3.0, 4.0]
    assert surprise(nll, entropy, num_tokens).tolist() == [1.0, 2.0]


def test_evidence_is_minus_log_of_the_rank_among_pairs_of_like_length() -> None:
    signal = np.arange(200.0) % 10
    signal[0] = 9.0  # equal to another one of its stratum: ranked by row
    found = evidence(signal, np.repeat(np.arange(20), 10).astype(np.int32))
    assert found.dtype == np.float32
    shares = [0.05, 0.95, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.15]
    np.testing.assert_allclose(found[:10], -np.log(shares), rtol=1e-6)
    np.testing.assert_allclose(found[10:20], -np.log(np.arange(9.5, 0, -1) / 10), rtol=1e-6)


def test_combine_sides_side_the_stronger_counts_for_less_than_alone() -> None:
    one, other = np.array([3.0, 0.1], np.float32), np.array([1.0, 0.2], np.float32)
    np.testing.assert_allclose(combine_sides(one, other), [3 - np.log(2), 0], rtol=1e-6)


def test_the_score_is_the_rank_of_the_sum_of_squares() -> None:
    one = np.array([3.0, 2.0, 0.1, 0.0], np.float32)
    other = np.array([0.0, 1.5, 0.1, 0.0], np.float32)
    total = sum_of_squares(iter([one, other]), 4)
    np.testing.assert_allclose(total, [9, 6.25, 0.02, 0], rtol=1e-6)
    assert noise_score(total).tolist() == [0.75, 0.5, 0.25, 0.0]


def test_long_pairs_are_not_noise_for_being_long() -> None:
    rng = np.random.default_rng(0)
    num_tokens = rng.integers(3, 60, 20_000).astype(np.int32)
    signal = num_tokens + rng.normal(size=20_000)
    noisy = rng.random(20_000) < 0.1
    signal[noisy] += 20
    left = noise_score(evidence(signal, num_tokens)) < 0.9
    assert abs(num_tokens[left].mean() / num_tokens.mean() - 1) < 0.02
    assert left[noisy].mean() < 0.1


def signals_of(corpus: pycat.Corpus, measures: Measures) -> dict[str, Evidence]:
    return dict(corpus_signals(measures.column, *corpus.lengths, has_text=corpus.has_text))


def test_each_signal_is_the_evidence_of_its_columns(
    toy_corpus: pycat.Corpus, tmp_path: Path
) -> None:
    measures = measure(toy_corpus, out=tmp_path / "measures")
    lexical, order, column = lexical_scores(toy_corpus), fluency(toy_corpus), measures.column
    src, tgt = toy_corpus.lengths
    expected = {
        "lexical": combine_sides(evidence(-lexical.tgt, tgt), evidence(-lexical.src, src)),
        "gap": combine_sides(evidence(lexical.tgt_gap, tgt), evidence(lexical.src_gap, src)),
        "order": combine_sides(evidence(-order.order_tgt, tgt), evidence(-order.order_src, src)),
        "ending": evidence(-order.ending, tgt),
        "length": evidence(np.abs(length_z(src, tgt, *usual_lengths(src, tgt))), tgt),
        "pieces": combine_sides(
            evidence((tgt - 1) / column("tgt_chars"), column("tgt_chars")),
            evidence((src - 1) / column("src_chars"), column("src_chars")),
        ),
    }
    signals = signals_of(toy_corpus, measures)
    assert signals.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(signals[name], values)


def test_without_text_the_pieces_are_not_asked(toy_corpus: pycat.Corpus, tmp_path: Path) -> None:
    sides = (toy_corpus.path / "src", toy_corpus.path / "tgt")
    tokens = pycat.open_corpus(sides, vocab_size=toy_corpus.vocab_size, eos_id=toy_corpus.eos_id)
    of_tokens = signals_of(tokens, measure(tokens, out=tmp_path / "measures"))
    of_text = signals_of(toy_corpus, measure(toy_corpus, out=tmp_path / "with-text"))
    assert of_tokens.keys() == of_text.keys() - {"pieces"}
    for name, values in of_tokens.items():
        np.testing.assert_array_equal(values, of_text[name])


def table_of(corpus: pycat.Corpus, **sums: NDArray[np.float64]) -> pycat.ScoreTable:
    columns = {
        "pair": corpus.pair_ids,
        "num_src_tokens": corpus.num_src_tokens,
        "num_tokens": corpus.num_tokens,
        **{f"{name}_{k}": values[:, k] for name, values in sums.items() for k in range(3)},
    }
    return pycat.ScoreTable.from_arrow(pa.table(columns), {"steps": [1, 2, 3]})


def test_surprise_is_asked_where_the_table_has_entropy(toy_corpus: pycat.Corpus) -> None:
    nll, entropy = np.random.default_rng(0).uniform(1, 50, (2, 300, 3))
    assert surprise_evidence(table_of(toy_corpus, nll=nll)) is None
    tgt = toy_corpus.num_tokens
    ranked = surprise_evidence(table_of(toy_corpus, nll=nll, entropy=entropy))
    assert ranked is not None
    expected = evidence(surprise(nll, entropy, tgt).astype(np.float32), tgt)
    np.testing.assert_array_equal(ranked, expected)


def test_what_is_no_number_is_as_suspect_as_can_be(toy_corpus: pycat.Corpus) -> None:
    nll, entropy = np.random.default_rng(0).uniform(1, 50, (2, 300, 3))
    nll[7, 2] = entropy[7, 2] = np.inf
    ranked = surprise_evidence(table_of(toy_corpus, nll=nll, entropy=entropy))
    assert ranked is not None
    like = np.array_split(np.argsort(toy_corpus.num_tokens, kind="stable"), 20)
    [rows] = [rows for rows in like if 7 in rows]
    assert ranked[7] == ranked[rows].max()
