"""The interface of a forward pass over batches: `Forward`, and the sums it yields."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pycat.data.batches import Batch


class BatchSums(NamedTuple):
    """Sums of K checkpoints over a batch of B pairs with T target tokens.

    Attributes:
        pair_ids: int64 (B,).
        sums: float64 (S, K, B), over the target tokens of each pair: the statistics of
            `kernels.reference.STAT_NAMES` in that order, or nll alone. `grad_norm_bound` of a head
            with a soft cap omits the slope of the cap, which is at most 1, and remains a bound.
        nll_per_token: float64 (K, T), pair after pair; None unless asked for.
        tgt_cu_seqlens: int32 (B + 1,), where the tokens of each pair begin, then T.
    """

    pair_ids: NDArray[np.int64]
    sums: NDArray[np.float64]
    nll_per_token: NDArray[np.float64] | None
    tgt_cu_seqlens: NDArray[np.int32]


class Forward(Protocol):
    """K checkpoints, prepared once for many batches.

    Attributes:
        padded: whether it takes padded batches, or packed ones.
        pinned: whether batches should be in pinned memory. Each must stay valid until the next is
            asked for.
        batch_tokens: tokens of the larger side of a batch with which it is fastest.
    """

    padded: bool
    pinned: bool
    batch_tokens: int

    def run(self, batches: Iterable[Batch]) -> Iterator[BatchSums]:
        """Yield the sums of batches, in their order."""
        ...
