"""Bigram and sentence-end plausibility scores, from counts in the corpus itself.

A proxy that trained for minutes hardly tells shuffled words, damaged letters and truncated
sentences from hard sentences. Counts of which token follows which tell them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.data.token_chunks import Side, spread_rows, token_chunks
from pycat.runtime.progress import progress

# The tables are counted on at most so many pairs, spread evenly over the corpus.
_MAX_SAMPLE = 1_000_000
# log2 of the cells into which bigrams are hashed: 64 MB a side.
_TABLE_BITS = 24
# Pseudo-counts added after each token, distributed as the tokens of the corpus are.
_PRIOR = 100.0
# Tokens that end a smaller share of the sentences than this fall into one class.
_MIN_ENDINGS = 0.004

Floats = NDArray[np.float32]


class Fluency(NamedTuple):
    """Plausibility scores of N pairs, float32 (N,) each; low scores are suspect.

    Attributes:
        order_tgt, order_src: mean over a side's tokens, EOS included, of ln(p(y | x) / p(y)), where
            x is the token before y: how much x tells about y beyond y's frequency.
        ending: ln of the probability of the target's last token given the source's.
    """

    order_tgt: Floats
    order_src: Floats
    ending: Floats


def fluency(corpus: Corpus, *, max_sample: int = _MAX_SAMPLE) -> Fluency:
    """Score the order of tokens and the sentence ends of N pairs.

    p(y | x) is estimated with a Dirichlet prior of weight 100 on p(y) (MacKay and Peto 1995). The
    counts of the scored pair itself are subtracted first. Beside the result, memory does not grow
    with N, and is the same for any vocabulary below 4,000,000.

    Args:
        corpus: N pairs.
        max_sample: the counts are taken on at most so many pairs, spread evenly; every pair is
            scored.
    """
    work = min(len(corpus), max_sample) + len(corpus)
    with progress("fluency", work, "pairs") as advance:
        return FluencyModel(corpus, max_sample, advance).score(0, len(corpus), advance)


class FluencyModel:
    """The counts of a corpus, which score any of its pairs.

    Args:
        corpus, max_sample: as for `fluency`.
        advance: called with pairs that were counted.
    """

    def __init__(
        self,
        corpus: Corpus,
        max_sample: int = _MAX_SAMPLE,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        self._corpus = corpus
        sample = spread_rows(corpus, max_sample)
        self._sampled = np.zeros(len(corpus), bool)
        self._sampled[sample] = True
        sizes = corpus.src_vocab_size or corpus.vocab_size, corpus.vocab_size
        self._sides = [_Bigrams(size) for size in sizes]
        self._endings = _Endings(*sizes)
        for rows, *pair in token_chunks(corpus, sample):
            for bigrams, side in zip(self._sides, pair, strict=True):
                bigrams.count(side)
            self._endings.count(*pair)
            if advance is not None:
                advance(len(rows))

    def score(self, first: int, end: int, advance: Callable[[int], None] | None = None) -> Fluency:
        """Scores of the pairs from row `first` to `end`."""
        orders = np.empty((2, end - first), np.float32)
        ending = np.empty(end - first, np.float32)
        for rows, *pair in token_chunks(self._corpus, np.arange(first, end)):
            places = rows - first
            for order, bigrams, side in zip(orders, self._sides, pair, strict=True):
                order[places] = bigrams.score(side, self._sampled[rows])
            ending[places] = self._endings.score(*pair)
            if advance is not None:
                advance(len(rows))
        return Fluency(orders[1], orders[0], ending)


class _Bigrams:
    """Counts of the bigrams of one side, with EOS before the first token and after the last."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._pairs = np.zeros(1 << _TABLE_BITS, np.uint32)
        self._tokens = np.zeros(vocab_size + 1, np.int64)

    def count(self, side: Side) -> None:
        """Add the bigrams of some pairs."""
        _, y, cells = self._cells(side)
        distinct, counts = np.unique(cells, return_counts=True)
        self._pairs[distinct] += counts.astype(np.uint32)
        self._tokens += np.bincount(y, minlength=len(self._tokens))

    def score(self, side: Side, sampled: NDArray[np.bool_]) -> Floats:
        """Mean log ratio (B,), without the counts that sampled (B,) pairs themselves added."""
        x, y, cells = self._cells(side)
        lengths = side.lengths + 1
        row = np.repeat(np.arange(len(lengths)), lengths)
        counted = np.repeat(sampled, lengths)
        num_xy = self._pairs[cells] - counted * _count_in_row(row, cells)
        # Every token, and EOS at the beginning, stands before one other: this is its own count.
        num_x = self._tokens[x] - counted * _count_in_row(row, x)
        p_y = (self._tokens[y] - counted * _count_in_row(row, y) + 1) / (
            self._tokens.sum() + len(self._tokens)
        )
        ratio = np.log((num_xy / p_y + _PRIOR) / (num_x + _PRIOR))
        mean: Floats = (np.bincount(row, ratio, len(lengths)) / lengths).astype(np.float32)
        return mean

    def _cells(self, side: Side) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Each token x, the next one y, and the cell of the bigram: length + 1 of each pair."""
        ends = np.cumsum(side.lengths + 1)
        y = np.full(ends[-1], self.vocab_size)
        inside = np.ones(len(y), bool)
        inside[ends - 1] = False
        y[inside] = side.tokens
        x = np.empty_like(y)
        x[0] = self.vocab_size
        x[1:] = y[:-1]
        mixed = (x * (self.vocab_size + 1) + y).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return x, y, (mixed >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)


class _Endings:
    """Counts of the last tokens of source and target together."""

    def __init__(self, src_vocab_size: int, tgt_vocab_size: int) -> None:
        self._ends = [np.zeros(size + 1, np.int64) for size in (src_vocab_size, tgt_vocab_size)]
        self._seen: list[NDArray[np.int64]] = []
        self._classes: list[NDArray[np.int64]] = []
        self._share = np.zeros((0, 0))

    def count(self, src: Side, tgt: Side) -> None:
        """Add the last tokens of some pairs."""
        last = [
            _last(side, len(ends) - 1) for side, ends in zip((src, tgt), self._ends, strict=True)
        ]
        for ends, tokens in zip(self._ends, last, strict=True):
            ends += np.bincount(tokens, minlength=len(ends))
        self._seen.append(last[0] * len(self._ends[1]) + last[1])

    def score(self, src: Side, tgt: Side) -> Floats:
        """Ln p (B,) of the class of the target's last token given that of the source's."""
        if not self._classes:
            self._estimate()
        x, y = (
            classes[_last(side, len(classes) - 1)]
            for side, classes in zip((src, tgt), self._classes, strict=True)
        )
        return np.log(self._share[x, y]).astype(np.float32)

    def _estimate(self) -> None:
        """Class the last tokens by frequency, and estimate p of each two classes."""
        for ends in self._ends:
            frequent = ends >= _MIN_ENDINGS * ends.sum()
            self._classes.append(np.where(frequent, np.cumsum(frequent), 0))
        x, y = np.divmod(np.concatenate(self._seen), len(self._ends[1]))
        num_x, num_y = (classes.max() + 1 for classes in self._classes)
        cells = self._classes[0][x] * num_y + self._classes[1][y]
        counts = np.bincount(cells, minlength=num_x * num_y).reshape(num_x, num_y)
        self._share = (counts + 0.5) / (counts.sum(1, keepdims=True) + 0.5 * num_y)


def _last(side: Side, none: int) -> NDArray[np.int64]:
    """The last token (B,) of each pair; `none` where the side is empty."""
    ends = np.cumsum(side.lengths)
    last = side.tokens[np.maximum(ends - 1, 0)] if len(side.tokens) else np.zeros_like(ends)
    return np.where(side.lengths > 0, last, none)


def _count_in_row(row: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each value occurs in its row."""
    keys = row << np.int64(_TABLE_BITS) | values
    _, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
    in_row: NDArray[np.int64] = counts[place]
    return in_row
