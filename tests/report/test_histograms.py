"""Ranks, rarity, histograms and tenths against cases worked by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

import pycat
from pycat.data.corpus import Corpus
from pycat.report.histograms import (
    Ranking,
    by_tenths,
    histogram,
    perplexity,
    spearman,
    token_rarity,
)


@pytest.fixture
def word_corpus(tmp_path: Path) -> Corpus:
    """Three pairs whose target tokens are whole words: 4 x mo, 2 x ka, 1 x ri, 1 x su."""
    src, tgt = ["a b", "a", "b"], ["mo mo ka", "mo ri", "ka su mo"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(src + tgt),
        model_prefix=str(tmp_path / "word"),
        model_type="word",
        vocab_size=9,
        minloglevel=2,
    )
    for name, lines in (("t.xx", src), ("t.yy", tgt)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", "utf-8")
    return pycat.tokenize(
        tmp_path / "t.xx",
        tmp_path / "t.yy",
        out=tmp_path / "corpus",
        tokenizer=tmp_path / "word.model",
    )


def test_rarity_is_the_mean_surprisal_in_bits(word_corpus: Corpus) -> None:
    # Of 8 tokens mo is 1/2 (1 bit), ka 1/4 (2 bits), ri and su 1/8 (3 bits); EOS counts nowhere.
    rarity = token_rarity(word_corpus)
    assert rarity.dtype == np.float32
    np.testing.assert_allclose(rarity, [(1 + 1 + 2) / 3, (1 + 3) / 2, (2 + 3 + 1) / 3], rtol=1e-6)


def test_rarity_of_a_view_counts_the_view_alone(word_corpus: Corpus) -> None:
    # mo, ri, ka, su, mo: 2/5 for mo and 1/5 for the others.
    mo, other = -math.log2(2 / 5), -math.log2(1 / 5)
    rarity = token_rarity(word_corpus.subset(np.array([1, 2])))
    np.testing.assert_allclose(rarity, [(mo + other) / 2, (mo + 2 * other) / 3], rtol=1e-6)


def test_rarity_does_not_depend_on_the_block(
    word_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = token_rarity(word_corpus)
    monkeypatch.setattr("pycat.report.histograms._BLOCK_PAIRS", 2)
    np.testing.assert_array_equal(token_rarity(word_corpus), whole)


def test_spearman_by_hand() -> None:
    # Ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6 (1 + 1 + 1 + 1) / (5 * 24) = 0.8.
    assert spearman(np.array([1, 2, 3, 4, 5]), np.array([20, 10, 40, 30, 50])) == pytest.approx(0.8)
    # Ties share ranks: 1.5 1.5 3 against 1 2 3; centred (-.5 -.5 1) and (-1 0 1).
    expected = 1.5 / math.sqrt(1.5 * 2)
    assert spearman(np.array([7.0, 7.0, 9.0]), np.array([1, 2, 3])) == pytest.approx(expected)
    assert spearman(np.arange(9), -np.exp(np.arange(9.0))) == pytest.approx(-1)


def test_spearman_of_infinite_and_of_equal_values() -> None:
    assert spearman(np.array([1.0, np.inf, 2.0]), np.array([1, 3, 2])) == pytest.approx(1)
    assert math.isnan(spearman(np.ones(4), np.arange(4)))


def test_ranking_puts_the_lower_row_first_among_equals() -> None:
    values = np.array([1.0, 3.0, 1.0, np.inf, 3.0])
    ranking = Ranking(values, np.array([False, True, False, True, False]), np.zeros((5, 2)))
    assert ranking.order.tolist() == [3, 1, 4, 0, 2]
    assert ranking.groups["kept"].tolist() == [3, 1]
    assert ranking.groups["dropped"].tolist() == [4, 0, 2]


def test_histogram_of_a_heavy_tail_is_logarithmic_and_counts_every_pair() -> None:
    values = np.exp(np.random.default_rng(0).normal(0, 3, 5000))
    values[:3] = 0.0, 1e-200, np.inf
    kept = values > 1
    counts = histogram(values, kept)
    assert counts.log
    assert counts.kept.sum() == kept.sum()
    assert counts.dropped.sum() == (~kept).sum()
    ratios = counts.edges[1:] / counts.edges[:-1]
    np.testing.assert_allclose(ratios, ratios[0])
    assert counts.dropped[0] >= 2
    assert counts.kept[-1] >= 1


def test_histogram_of_small_integers_has_a_bin_for_each() -> None:
    values = np.array([3.0, 3, 4, 6, 6, 6])
    counts = histogram(values, np.array([True, False, False, True, True, True]))
    assert not counts.log
    assert counts.edges.tolist() == [2.5, 3.5, 4.5, 5.5, 6.5]
    assert counts.kept.tolist() == [1, 0, 0, 3]
    assert counts.dropped.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("value", [0.0, 5.0, -1e-9, 1e17, np.inf])
def test_histogram_of_equal_values_is_one_bin(value: float) -> None:
    counts = histogram(np.full(4, value), np.array([True, True, False, False]))
    assert (counts.kept.sum(), counts.dropped.sum()) == (2, 2)
    assert np.all(np.diff(counts.edges) > 0)


def test_tenths_are_equal_parts() -> None:
    values = np.random.default_rng(0).permutation(200)
    tenths = by_tenths(values, values >= 150)
    assert [tenth.num_pairs for tenth in tenths] == [20] * 10
    assert [tenth.num_kept for tenth in tenths] == [0] * 7 + [10, 20, 20]
    assert (tenths[0].low, tenths[0].high, tenths[7].share) == (0, 19, 0.5)


def test_tenths_keep_equal_values_together() -> None:
    values = np.array([5] * 15 + [6] * 3 + [9] * 2)
    tenths = by_tenths(values, np.ones(20, dtype=bool))
    assert [(tenth.low, tenth.high, tenth.num_pairs) for tenth in tenths] == [
        (5, 5, 15),
        (6, 6, 3),
        (9, 9, 2),
    ]


def test_perplexity_may_be_infinite() -> None:
    assert perplexity(np.array([0.0, math.log(3), 800.0])).tolist() == pytest.approx(
        [1, 3, math.inf]
    )
