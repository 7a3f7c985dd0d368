"""Shares of the other side's language: by hand, and what they find."""

import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
from helpers import corpus_of, toy_pairs

import pycat
from pycat.filters.foreign import foreign_shares


def test_shares_by_hand(tmp_path: Path, toy_corpus: pycat.Corpus) -> None:
    pairs = [*toy_pairs(300), ("one", "one"), ("two hundred", "two")]
    corpus = corpus_of(tmp_path, pairs, toy_corpus.path / "tokenizer.model")
    sides = [[corpus[i][side][:-1].tolist() for i in range(len(corpus))] for side in (0, 1)]
    counts = [Counter(token for tokens in lines for token in tokens) for lines in sides]
    totals = [sum(count.values()) + corpus.vocab_size for count in counts]
    for side, share in enumerate(foreign_shares(corpus)):
        assert share.dtype == np.float32

        def is_foreign(token: int, side: int = side) -> bool:
            own, other = ((counts[s][token] + 1) / totals[s] for s in (side, 1 - side))
            return math.log(other / own) > 1.5

        expected = [sum(map(is_foreign, tokens)) / (len(tokens) + 4) for tokens in sides[side]]
        np.testing.assert_allclose(share, expected, rtol=1e-6)


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
    of_src, of_tgt = foreign_shares(corpus)
    for share in (of_src[kind > 1], of_tgt[kind > 1], of_src[kind == 0]):
        assert (share > 0.15).mean() < 0.05
    assert (of_tgt[kind == 0] > 0.15).mean() > 0.9
    assert (np.minimum(of_src, of_tgt)[kind == 1] > 0.15).mean() > 0.9


def test_a_view_is_a_corpus_of_its_own(toy_corpus: pycat.Corpus) -> None:
    rows = np.arange(200)
    for whole, view in zip(
        foreign_shares(toy_corpus[:200]), foreign_shares(toy_corpus.subset(rows)), strict=True
    ):
        np.testing.assert_array_equal(whole, view)
    assert foreign_shares(toy_corpus[100:103])[0].shape == (3,)
