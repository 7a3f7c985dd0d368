"""Shares of the other side's language: by hand, and what they find."""

import random
from pathlib import Path

import numpy as np
from conftest import toy_pairs
from test_lexical import corpus_of

import pycat
from pycat.foreign import best_runs, foreign_shares
from pycat.token_chunks import Side


def test_best_runs_are_kadanes() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 12, 500)
    weights = rng.uniform(-1, 1, lengths.sum())
    side = Side(np.zeros(lengths.sum(), np.int64), np.repeat(np.arange(500), lengths), lengths)
    expected = []
    for some in np.split(weights, np.cumsum(lengths)[:-1]):
        best = run = 0.0
        for weight in some:
            run = max(0.0, run + weight)
            best = max(best, run)
        expected.append(best)
    np.testing.assert_allclose(best_runs(weights, side), expected, atol=1e-9)


def test_half_translated_and_swapped_pairs_stand_out(
    tmp_path: Path, toy_corpus: pycat.Corpus
) -> None:
    rng = random.Random(0)
    pairs = []
    for i in range(1000):
        (a, b), (c, d) = rng.choices(toy_pairs(400), k=2)
        src, tgt = f"{a} {c}", f"{b} {d}"
        if i % 20 == 0:
            tgt = f"{b} {c}"
        if i % 20 == 1:
            src, tgt = tgt, src
        pairs.append((src, tgt))
    corpus = corpus_of(tmp_path, pairs, toy_corpus.path / "tokenizer.model")
    kind = np.arange(1000)[corpus.lines] % 20
    src, tgt = foreign_shares(corpus)
    for share in (src[kind > 1], tgt[kind > 1], src[kind == 0]):
        assert (share > 0.2).mean() < 0.05
    assert (tgt[kind == 0] > 0.2).mean() > 0.9
    assert (np.minimum(src, tgt)[kind == 1] > 0.2).mean() > 0.9


def test_short_sides_and_empty_ones_are_near_0(tmp_path: Path, toy_corpus: pycat.Corpus) -> None:
    pairs = [*toy_pairs(300), ("one", "one"), ("two hundred", "two")]
    corpus = corpus_of(tmp_path, pairs, toy_corpus.path / "tokenizer.model")
    for share in foreign_shares(corpus, max_sample=50):
        assert share.dtype == np.float32
        assert ((share >= 0) & (share < 0.4)).all()
