"""Batches of a corpus for training: packed, without padding, shuffled anew in each epoch."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.data.batches import Batch
from pycat.data.corpus import Corpus


class PackedBatches(Iterator[Batch]):
    """Packed batches of a corpus, epoch after epoch without end.

    An epoch is a random order of the pairs, cut wherever the next pair would carry a side beyond
    `batch_tokens`, or the batch beyond `batch_pairs`. A pair longer than `batch_tokens` stands
    alone. Two subsets of a corpus read the pairs that they share in the same order. Memory: 24
    bytes a pair.

    Args:
        corpus: the pairs.
        batch_tokens: most tokens of either side.
        batch_pairs: most pairs; None for no bound.
        seed: of the orders.
        position: `position` of earlier batches of the same arguments, to go on behind them.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_tokens: int,
        *,
        batch_pairs: int | None = None,
        seed: int = 0,
        position: Mapping[str, Any] | None = None,
    ) -> None:
        self._corpus, self._batch_tokens, self._seed = corpus, batch_tokens, seed
        self._pair_ids = corpus.pair_ids
        self._batch_pairs = len(corpus) if batch_pairs is None else batch_pairs
        self._epoch, self._batch = 0, 0
        self._rows = np.zeros(0, dtype=np.int64)  # of the last batch
        if position is not None:
            self._epoch, self._batch = position["epoch"], position["batch"]
        self._begin_epoch()

    @property
    def position(self) -> dict[str, Any]:
        """Where the next batch stands."""
        return {"epoch": self._epoch, "batch": self._batch}

    @property
    def num_batches(self) -> int:
        """Batches of this epoch."""
        return len(self._ends)

    def __next__(self) -> Batch:
        if self._batch == len(self._ends):
            self._epoch, self._batch = self._epoch + 1, 0
            self._begin_epoch()
        first = self._ends[self._batch - 1] if self._batch else 0
        self._rows = self._order[first : self._ends[self._batch]]
        self._batch += 1
        return self._corpus.read(self._pair_ids[self._rows])

    def go_to(self, position: Mapping[str, Any]) -> None:
        """Go on at a `position` of these batches."""
        epoch, self._batch = position["epoch"], position["batch"]
        if epoch != self._epoch:
            self._epoch = epoch
            self._begin_epoch()

    def _begin_epoch(self) -> None:
        # Pairs are ordered by a random number of each pair of the whole corpus.
        rows = self._epoch_rows()
        pair_ids = self._pair_ids[rows]
        generator = np.random.default_rng((self._seed, self._epoch))
        keys = generator.random(int(pair_ids.max()) + 1)
        self._order = rows[np.argsort(keys[pair_ids], kind="stable")]
        self._ends = cut_batches(
            self._corpus.num_src_tokens[self._order],
            self._corpus.num_tokens[self._order],
            self._batch_tokens,
            self._batch_pairs,
        )

    def _epoch_rows(self) -> NDArray[np.int64]:
        """The pairs of this epoch, as rows of the corpus: all of them."""
        return np.arange(len(self._corpus))


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


def packed_positions(cu_seqlens: NDArray[np.int32]) -> NDArray[np.int64]:
    """The position of each packed token in its sequence, from 0: int64 (T,)."""
    starts = np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))
    positions: NDArray[np.int64] = np.arange(int(cu_seqlens[-1]), dtype=np.int64) - starts
    return positions
