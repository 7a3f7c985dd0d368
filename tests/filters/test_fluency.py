"""Order and endings: counts written out by hand, and what they find."""

import math
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers import corpus_of, toy_pairs

import pycat
from pycat._core import IndexedWriter
from pycat.filters.fluency import _MIN_ENDINGS, _PRIOR, fluency


def order_by_hand(
    corpus: pycat.Corpus, side: int, counted: list[int], vocab_size: int | None = None
) -> list[float]:
    """Scores of the order of tokens, counted in dictionaries, a pair and a token at a time."""
    lines = [[-1, *corpus[i][side][:-1].tolist(), -1] for i in range(len(corpus))]

    def counts(rows: list[int]) -> tuple[Counter[int], Counter[tuple[int, int]]]:
        tokens = Counter(y for row in rows for y in lines[row][1:])
        return tokens, Counter(pair for row in rows for pair in pairwise(lines[row]))

    tokens, pairs = counts(counted)
    total, means = sum(tokens.values()) + (vocab_size or corpus.vocab_size) + 1, []
    for row, line in enumerate(lines):
        own_tokens, own_pairs = counts([row] if row in counted else [])
        ratios = []
        for x, y in pairwise(line):
            share = (tokens[y] - own_tokens[y] + 1) / total
            after = pairs[x, y] - own_pairs[x, y]
            before = tokens[x] - own_tokens[x]
            ratios.append(math.log((after / share + _PRIOR) / (before + _PRIOR)))
        means.append(sum(ratios) / len(ratios))
    return means


@pytest.mark.parametrize("max_sample", [1000, 20])
def test_order_is_by_counts_without_the_pair_itself(
    toy_corpus: pycat.Corpus, max_sample: int
) -> None:
    corpus = toy_corpus[:60]
    counted = np.linspace(0, 59, min(60, max_sample)).astype(int).tolist()
    found = fluency(corpus, max_sample=max_sample)
    for side, order in ((0, found.order_src), (1, found.order_tgt)):
        np.testing.assert_allclose(order, order_by_hand(corpus, side, counted), rtol=1e-5)


def test_endings_are_classes_of_frequent_last_tokens(
    tmp_path: Path, toy_corpus: pycat.Corpus
) -> None:
    pairs = [(a + (" ten" if i % 3 else " two"), b) for i, (a, b) in enumerate(toy_pairs(900))]
    corpus = corpus_of(tmp_path, pairs, toy_corpus.path / "tokenizer.model")
    last = [[int(corpus[i][side][-2]) for i in range(len(corpus))] for side in (0, 1)]
    named = []
    for tokens in last:
        counts = Counter(tokens)
        named.append([t if counts[t] >= _MIN_ENDINGS * len(tokens) else -1 for t in tokens])
    both, given, kinds = Counter(zip(*named, strict=True)), Counter(named[0]), {-1, *named[1]}
    expected = [
        math.log((both[x, y] + 0.5) / (given[x] + 0.5 * len(kinds)))
        for x, y in zip(*named, strict=True)
    ]
    np.testing.assert_allclose(fluency(corpus).ending, expected, rtol=1e-5)


def test_shuffled_and_truncated_sides_are_lower(tmp_path: Path, toy_corpus: pycat.Corpus) -> None:
    rng = random.Random(0)
    pairs, kinds = [], []
    for i, (src, _) in enumerate(toy_pairs(3000)):
        words = f"{src} stop".split()
        kinds.append(kind := i % 10 if len(words) > 3 else 9)
        if kind == 0:
            spoilt = words[:]
            while spoilt == words:
                rng.shuffle(spoilt)
            words = spoilt
        if kind == 1:
            words = words[: len(words) // 2]
        pairs.append((f"{src} stop", " ".join(words)))
    corpus = corpus_of(tmp_path, pairs, toy_corpus.path / "tokenizer.model")
    found, kind_of = fluency(corpus), np.array(kinds)[corpus.lines]
    clean = kind_of > 1
    assert (found.order_tgt[clean][:, None] > found.order_tgt[kind_of == 0]).mean() > 0.95
    assert (found.ending[clean][:, None] > found.ending[kind_of == 1]).mean() > 0.95


def test_a_view_is_a_corpus_of_its_own(toy_corpus: pycat.Corpus) -> None:
    view = toy_corpus.subset(np.arange(5, 300, 7))
    found = fluency(view)
    for side, order in ((0, found.order_src), (1, found.order_tgt)):
        expected = order_by_hand(view, side, list(range(len(view))))
        np.testing.assert_allclose(order, expected, rtol=1e-5)


def test_sides_may_have_vocabularies_of_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [
        [[*rng.integers(4, size, rng.integers(0, 9)), 2] for _ in range(200)] for size in (400, 9)
    ]
    for side, sequences in zip(("en", "de"), lines, strict=True):
        with IndexedWriter(tmp_path / f"train.en-de.{side}", dtype="uint16") as writer:
            lengths = np.array([len(tokens) for tokens in sequences], np.int32)
            writer.append(np.concatenate(sequences).astype(np.int32), lengths)
        words = 400 if side == "en" else 9
        (tmp_path / f"dict.{side}.txt").write_text("".join(f"w{i} 1\n" for i in range(4, words)))
    corpus = pycat.open_corpus(tmp_path, languages=("en", "de"))
    assert (corpus.src_vocab_size, corpus.vocab_size) == (400, 9)
    found = fluency(corpus)
    everything = list(range(200))
    for row, order, size in ((0, found.order_src, 400), (1, found.order_tgt, 9)):
        expected = order_by_hand(corpus, row, everything, size)
        np.testing.assert_allclose(order, expected, rtol=1e-5)
    assert np.isfinite(found.ending).all()
