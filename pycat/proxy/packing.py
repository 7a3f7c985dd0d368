"""Batches of a corpus for training: packed, without padding, shuffled anew in each epoch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pycat.data.batches import Batch
from pycat.data.corpus import Corpus
from pycat.runtime.ranks import ALONE, Ranks

# Pairs of a block of an epoch's order. A corpus of fewer pairs is ordered at once.
_BLOCK_PAIRS = 1 << 22


class PackedBatches(Iterator[Batch]):
    """Packed batches of a corpus, epoch after epoch without end.

    An epoch is a random order of the pairs, cut wherever the next pair would carry a side beyond
    `batch_tokens`, or the batch beyond `batch_pairs`. A pair longer than `batch_tokens` stands
    alone. Two subsets of a corpus read the pairs that they share in the same order.

    The order is found a block of about four million pairs at a time, by a pass over the random
    numbers and lengths of all pairs. Memory: 80 bytes a pair of a block.

    Args:
        corpus: the pairs.
        batch_tokens: most tokens of either side.
        batch_pairs: most pairs; None for no bound.
        seed: of the orders.
        position: `position` of earlier batches of the same arguments, to go on behind them.
        ranks: those that share each batch out; this process reads its own share alone.

    Attributes:
        lengths: source and target tokens of each pair of the last batch, of all ranks: (B,) each.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_tokens: int,
        *,
        batch_pairs: int | None = None,
        seed: int = 0,
        position: Mapping[str, Any] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._corpus, self._batch_tokens, self._seed = corpus, batch_tokens, seed
        self._ranks = ranks
        self._view = corpus.files[2]
        self._batch_pairs = len(corpus) if batch_pairs is None else batch_pairs
        self._epoch, self._batch = 0, 0
        self._rows = np.zeros(0, dtype=np.int64)  # of the last batch
        self.lengths = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32)
        if position is not None:
            self._epoch, self._batch = position["epoch"], position["batch"]
        self._begin_epoch()

    @property
    def position(self) -> dict[str, Any]:
        """Where the next batch stands."""
        return {"epoch": self._epoch, "batch": self._batch}

    @property
    def num_batches(self) -> int:
        """Batches of this epoch; of a large corpus, counting them takes a pass for each block."""
        if self._is_last_block:
            return self._first_batch + len(self._ends)
        blocks = cut_blocks(self._ordered_blocks(), self._batch_tokens, self._batch_pairs)
        return sum(len(block.ends) for block in blocks)

    def __next__(self) -> Batch:
        if not self._find_block():
            self._epoch, self._batch = self._epoch + 1, 0
            self._begin_epoch()
        at = self._batch - self._first_batch
        pairs = slice(self._ends[at - 1] if at else 0, self._ends[at])
        self._batch += 1
        src, tgt = self._order.num_src_tokens[pairs], self._order.num_tokens[pairs]
        self._rows = self._order.rows[pairs]
        self.lengths = src, tgt
        mine = self._rows[rank_share(src + tgt, self._ranks.rank, self._ranks.num_ranks)]
        return self._corpus.read(mine if self._view is None else self._view[mine])

    def go_to(self, position: Mapping[str, Any]) -> None:
        """Go on at a `position` of these batches."""
        epoch, self._batch = position["epoch"], position["batch"]
        if epoch != self._epoch or self._batch < self._first_batch:
            self._epoch = epoch
            self._begin_epoch()
        self._find_block()

    def _begin_epoch(self) -> None:
        """Order the pairs of the epoch anew, up to those of the next batch."""
        self._blocks = cut_blocks(self._ordered_blocks(), self._batch_tokens, self._batch_pairs)
        self._first_batch, self._ends, self._is_last_block = 0, list[int](), False
        self._find_block()

    def _find_block(self) -> bool:
        """Go on to the block of the next batch; returns whether the epoch has it."""
        while self._batch >= self._first_batch + len(self._ends):
            if not self._next_block():
                return False
        return True

    def _next_block(self) -> bool:
        """Go on to the next block of the epoch; returns whether there is one."""
        block = next(self._blocks, None)
        if block is None:
            return False
        self._first_batch += len(self._ends)
        self._order, self._ends, self._is_last_block = block
        return True

    def _end_epoch(self) -> None:
        """Let the next batch be the first of another epoch."""
        self._blocks = iter(())
        self._batch = self._first_batch + len(self._ends)

    def _epoch_rows(self) -> NDArray[np.int64] | None:
        """The pairs of this epoch, as ascending rows of the corpus; None for all of them."""
        return None

    def _ordered_blocks(self) -> "Iterator[_Order]":
        """The pairs of this epoch in their order, a block at a time."""
        # Pairs are ordered by a random number of each pair of the whole corpus.
        rows, ids = self._epoch_rows(), self._view
        if rows is not None:
            ids = rows if ids is None else ids[rows]
        num_pairs = len(self._corpus) if ids is None else len(ids)
        num_blocks = -(-num_pairs // _BLOCK_PAIRS)
        for block in range(num_blocks):
            bounds = block / num_blocks, (block + 1) / num_blocks
            keys, order = self._between(*bounds, rows, ids)
            ascending = np.argsort(keys, kind="stable")
            yield order.taken(ascending)

    def _between(
        self,
        low: float,
        high: float,
        rows: NDArray[np.int64] | None,
        ids: NDArray[np.int64] | None,
    ) -> "tuple[NDArray[np.float64], _Order]":
        """The pairs whose random numbers lie in [low, high), by their ids, and the numbers."""
        num_ids = len(self._corpus) if ids is None else int(ids[-1]) + 1
        generator = np.random.default_rng((self._seed, self._epoch))
        src, tgt = self._corpus.lengths
        keys: list[NDArray[np.float64]] = []
        parts: list[_Order] = []
        for first in range(0, num_ids, _BLOCK_PAIRS):
            numbers = generator.random(min(_BLOCK_PAIRS, num_ids - first))
            at = first
            if ids is not None:
                at, end = (int(i) for i in np.searchsorted(ids, (first, first + len(numbers))))
                numbers = numbers[ids[at:end] - first]
            chosen = np.flatnonzero((numbers >= low) & (numbers < high))
            keys.append(numbers[chosen])
            chosen += at
            if rows is not None:
                chosen = rows[chosen]
            parts.append(_Order(chosen, src[chosen], tgt[chosen]))
        return np.concatenate(keys), _Order.joined(parts)


class _Order(NamedTuple):
    """Pairs in an order: rows of the corpus, and their tokens of source and target, (N,) each."""

    rows: NDArray[np.int64]
    num_src_tokens: NDArray[np.int32]
    num_tokens: NDArray[np.int32]

    def taken(self, which: slice | NDArray[np.int64]) -> "_Order":
        """Some of the pairs, in another order."""
        return _Order(self.rows[which], self.num_src_tokens[which], self.num_tokens[which])

    @classmethod
    def joined(cls, parts: "Sequence[_Order]") -> "_Order":
        """Pairs of one order behind those of another."""
        return cls(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.num_src_tokens for part in parts]),
            np.concatenate([part.num_tokens for part in parts]),
        )


class _Block(NamedTuple):
    """Whole batches: their pairs, where each ends, and whether the epoch ends with them."""

    order: _Order
    ends: list[int]
    is_last: bool


def cut_blocks(blocks: Iterator[_Order], batch_tokens: int, batch_pairs: int) -> Iterator[_Block]:
    """Cut blocks of an order into batches, as if they were one.

    The last batch of a block may not be whole: it is left to the next one.
    """
    order = next(blocks)
    for following in blocks:
        ends = cut_batches(order.num_src_tokens, order.num_tokens, batch_tokens, batch_pairs)[:-1]
        whole = ends[-1] if ends else 0
        yield _Block(order.taken(slice(whole)), ends, False)
        order = _Order.joined((order.taken(slice(whole, None)), following))
    ends = cut_batches(order.num_src_tokens, order.num_tokens, batch_tokens, batch_pairs)
    yield _Block(order, ends, True)


def cut_batches(
    num_src_tokens: NDArray[np.int32],
    num_tokens: NDArray[np.int32],
    batch_tokens: int,
    batch_pairs: int,
) -> list[int]:
    """Where batches end, as counts of pairs: each as long as bounds allow, one pair at least."""
    ends: list[int] = []
    sides = [np.cumsum(lengths, dtype=np.int64) for lengths in (num_src_tokens, num_tokens)]
    first = 0
    while first < len(num_tokens):
        before = [int(side[first - 1]) if first else 0 for side in sides]
        within = [
            int(np.searchsorted(side, start + batch_tokens, side="right"))
            for side, start in zip(sides, before, strict=True)
        ]
        first = max(first + 1, min(*within, first + batch_pairs))
        ends.append(first)
    return ends


def rank_share(num_tokens: NDArray[np.int32], rank: int, num_ranks: int) -> NDArray[np.int64]:
    """Which pairs of a batch a rank takes, so that all have about as many tokens.

    The pairs are dealt from the longest to the shortest, back and forth. Numbers of pairs differ by
    one at most, sums of tokens by no more than the longest pair.

    Args:
        num_tokens: of each pair of the batch, both sides: (B,).
        rank: counts from 0.
        num_ranks: 1 takes all pairs, as they come.
    """
    if num_ranks == 1:
        return np.arange(len(num_tokens))
    descending = np.argsort(-num_tokens.astype(np.int64), kind="stable")
    rounds, seats = np.divmod(np.arange(len(num_tokens)), num_ranks)
    taken: NDArray[np.int64] = descending[
        np.where(rounds % 2 == 0, seats, num_ranks - 1 - seats) == rank
    ]
    return taken


def packed_positions(cu_seqlens: NDArray[np.int32]) -> NDArray[np.int64]:
    """The position of each packed token in its sequence, from 0: int64 (T,)."""
    starts = np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))
    positions: NDArray[np.int64] = np.arange(int(cu_seqlens[-1]), dtype=np.int64) - starts
    return positions
