"""How usual the order of tokens is, and how sentences end: by counts in the corpus itself.

Words out of order, letters that went wrong and sentences cut off are hard to tell from hard
sentences by a proxy that trained for minutes. Which token follows which tells them at once.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.data.token_chunks import Side, spread_rows, token_chunks
from pycat.runtime.progress import progress

# Tables are counted on so many pairs, spread over the corpus.
_MAX_SAMPLE = 1_000_000
# Cells of a table, into which pairs of tokens are hashed: 64 MB a side.
_TABLE_BITS = 24
# So many made-up occurrences after each token, spread as tokens are altogether.
_PRIOR = 100.0
# Tokens that end fewer sentences than this share are one class.
_MIN_ENDINGS = 0.004

Floats = NDArray[np.float32]


class Fluency(NamedTuple):
    """Of N pairs, (N,) each; low where something is wrong.

    Attributes:
        order_tgt, order_src: mean over a side's tokens, EOS too, of ln(p(y | x) / p(y)), x the
            token before y: how much better it tells the next one than frequency does.
        ending: ln of the probability of the target's last token given the source's.
    """

    order_tgt: Floats
    order_src: Floats
    ending: Floats


def fluency(corpus: Corpus, *, max_sample: int = _MAX_SAMPLE) -> Fluency:
    """Measure the order and the endings of N pairs.

    A pair's own counts are left out of p(y | x), which is estimated with a Dirichlet prior
    (MacKay and Peto 1995) of 100 on p(y).

    Args:
        corpus: of N pairs.
        max_sample: so many pairs, spread evenly, are counted; every pair is measured. Memory does
            not grow with N beyond the result, and is the same for any vocabulary below 4,000,000.
    """
    sample = spread_rows(corpus, max_sample)
    sampled = np.zeros(len(corpus), bool)
    sampled[sample] = True
    sides = [_Followers(corpus.src_vocab_size or corpus.vocab_size), _Followers(corpus.vocab_size)]
    endings = _Endings(sides[0].vocab_size, sides[1].vocab_size)
    orders = np.empty((2, len(corpus)), np.float32)
    ending = np.empty(len(corpus), np.float32)
    with progress("fluency", len(sample) + len(corpus), "pairs") as advance:
        for some, *pair in token_chunks(corpus, sample):
            for followers, side in zip(sides, pair, strict=True):
                followers.count(side)
            endings.count(*pair)
            advance(len(some))
        for some, *pair in token_chunks(corpus):
            for order, followers, side in zip(orders, sides, pair, strict=True):
                order[some] = followers.measure(side, sampled[some])
            ending[some] = endings.measure(*pair)
            advance(len(some))
    return Fluency(orders[1], orders[0], ending)


class _Followers:
    """How often which token follows which on one side; EOS stands at both ends."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._pairs = np.zeros(1 << _TABLE_BITS, np.uint32)
        self._tokens = np.zeros(vocab_size + 1, np.int64)

    def count(self, side: Side) -> None:
        _, y, cells = self._cells(side)
        found, times = np.unique(cells, return_counts=True)
        self._pairs[found] += times.astype(np.uint32)
        self._tokens += np.bincount(y, minlength=len(self._tokens))

    def measure(self, side: Side, sampled: NDArray[np.bool_]) -> Floats:
        """Mean log ratio (B,), without the own counts of the pairs that were counted."""
        x, y, cells = self._cells(side)
        lengths = side.lengths + 1
        row = np.repeat(np.arange(len(lengths)), lengths)
        own = np.repeat(sampled, lengths)
        after = self._pairs[cells] - own * _times(row, cells)
        # Each token stands once before another one, EOS as the beginning: its count is the same.
        before = self._tokens[x] - own * _times(row, x)
        share = (self._tokens[y] - own * _times(row, y) + 1) / (
            self._tokens.sum() + len(self._tokens)
        )
        ratio = np.log((after / share + _PRIOR) / (before + _PRIOR))
        mean: Floats = (np.bincount(row, ratio, len(lengths)) / lengths).astype(np.float32)
        return mean

    def _cells(self, side: Side) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Each token and the next one, and their place in the table: length + 1 of each pair."""
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
    """How often which last token of the target stands beside which of the source."""

    def __init__(self, src_vocab_size: int, tgt_vocab_size: int) -> None:
        self._ends = [np.zeros(size + 1, np.int64) for size in (src_vocab_size, tgt_vocab_size)]
        self._seen: list[NDArray[np.int64]] = []
        self._classes: list[NDArray[np.int64]] = []
        self._share = np.zeros((0, 0))

    def count(self, src: Side, tgt: Side) -> None:
        last = [
            _last(side, len(ends) - 1) for side, ends in zip((src, tgt), self._ends, strict=True)
        ]
        for ends, tokens in zip(self._ends, last, strict=True):
            ends += np.bincount(tokens, minlength=len(ends))
        self._seen.append(last[0] * len(self._ends[1]) + last[1])

    def measure(self, src: Side, tgt: Side) -> Floats:
        """Ln p (B,) of the class of the target's last token given that of the source's."""
        if not self._classes:
            self._estimate()
        x, y = (
            classes[_last(side, len(classes) - 1)]
            for side, classes in zip((src, tgt), self._classes, strict=True)
        )
        return np.log(self._share[x, y]).astype(np.float32)

    def _estimate(self) -> None:
        for ends in self._ends:
            frequent = ends >= _MIN_ENDINGS * ends.sum()
            self._classes.append(np.where(frequent, np.cumsum(frequent), 0))
        x, y = np.divmod(np.concatenate(self._seen), len(self._ends[1]))
        num_x, num_y = (classes.max() + 1 for classes in self._classes)
        cells = self._classes[0][x] * num_y + self._classes[1][y]
        counts = np.bincount(cells, minlength=num_x * num_y).reshape(num_x, num_y)
        self._share = (counts + 0.5) / (counts.sum(1, keepdims=True) + 0.5 * num_y)


def _last(side: Side, none: int) -> NDArray[np.int64]:
    """The last token (B,) of each pair, `none` where there is not one."""
    ends = np.cumsum(side.lengths)
    last = side.tokens[np.maximum(ends - 1, 0)] if len(side.tokens) else np.zeros_like(ends)
    return np.where(side.lengths > 0, last, none)


def _times(row: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each value occurs in its row."""
    keys = row << np.int64(_TABLE_BITS) | values
    _, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
    times: NDArray[np.int64] = counts[place]
    return times
