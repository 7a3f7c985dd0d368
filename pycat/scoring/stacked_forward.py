"""Forward pass of stacked proxies over batches, with copies that overlap computation.

While the device computes one batch, another stream copies the next batch to it, and the results of
the previous batch return. The device's queue is empty only at the ends of a corpus.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pycat.data.batches import Batch
from pycat.kernels.ops import cat_linear_cross_entropy
from pycat.kernels.stat_names import STAT_NAMES, Stats
from pycat.proxy.packed_attention import Side
from pycat.scoring.adapter import ProxyAdapter
from pycat.scoring.forward import BatchSums
from pycat.scoring.stacked_proxies import StackedProxies


class StackedForward:
    """Proxies of one shape as one model, on packed batches.

    Args:
        models: K, on `device`.
        device: "cuda", or the CPU, where nothing overlaps.
        dtype: of the operands of matrix products.
        stats: "nll" or "all".
        per_token: also nll of single tokens.
    """

    padded = False
    batch_tokens = 16_384  # enough to fill a large device; not yet measured on one

    def __init__(
        self,
        models: Sequence[ProxyAdapter],
        device: torch.device,
        dtype: torch.dtype,
        *,
        stats: Stats = "nll",
        per_token: bool = False,
    ) -> None:
        self._device, self._stats, self._per_token = device, stats, per_token
        self.pinned = device.type == "cuda"
        self._proxies = StackedProxies([item.model for item in models], models[0].eos_id, dtype)

    def run(self, batches: Iterable[Batch]) -> Iterator[BatchSums]:
        """Yield the sums of packed batches, in their order.

        On CUDA a target beyond the vocabulary makes its pair NaN.

        Args:
            batches: for CUDA in pinned memory; each must stay valid until the next is asked for.
        """
        pending: deque[_PendingResult] = deque()
        with closing(copied_ahead(batches, self._device)) as copies:
            for host, batch in copies:
                pending.append(self._begin(host, batch))
                if len(pending) > 1:
                    yield pending.popleft().wait()
        while pending:
            yield pending.popleft().wait()

    @torch.inference_mode()
    def _begin(self, host: Batch, batch: Batch) -> "_PendingResult":
        scored = cat_linear_cross_entropy(
            self._proxies.hidden(*sides(host, batch)),
            self._proxies.head,
            batch.tgt_tokens,
            batch.tgt_cu_seqlens,
            stats=self._stats,
            per_token=self._per_token,
            check=self._device.type != "cuda",  # the check would wait for the device
        )
        columns = [getattr(scored, name) for name in STAT_NAMES]
        sums = _to_host(torch.stack([column for column in columns if column is not None]))
        tokens = None if scored.nll_per_token is None else _to_host(scored.nll_per_token)
        done = None
        if batch.pair_ids.is_cuda:
            done = torch.cuda.current_stream(batch.pair_ids.device).record_event()
        # Copied, because the stream reads another batch into this memory.
        pair_ids, cu_seqlens = host.pair_ids.numpy().copy(), host.tgt_cu_seqlens.numpy().copy()
        return _PendingResult(pair_ids, sums, tokens, cu_seqlens, done)


def sides(host: Batch, batch: Batch) -> tuple[Side, Side]:
    """Source and target of a packed batch, which is both on the host and on the device."""
    src, tgt = (
        cu_seqlens.diff().numpy().astype(np.int64)
        for cu_seqlens in (host.src_cu_seqlens, host.tgt_cu_seqlens)
    )
    return (
        Side(batch.src_tokens, batch.src_cu_seqlens, src),
        Side(batch.tgt_tokens, batch.tgt_cu_seqlens, tgt),
    )


def copied_ahead(
    batches: Iterable[Batch], device: torch.device
) -> Generator[tuple[Batch, Batch], None, None]:
    """Yield each batch and its copy on the device, after the copy of the next one has begun.

    Each batch on the host must stay valid until the next one is asked for.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch, batch.to(device)
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def begin(batch: Batch) -> tuple[Batch, Batch, torch.cuda.Event]:
        with torch.cuda.stream(copying):
            copy = Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))
            return batch, copy, copying.record_event()

    current = None
    try:
        for following in chain(map(begin, batches), [None]):
            if current is not None:
                batch, copy, copied = current
                computing = torch.cuda.current_stream(device)
                computing.wait_event(copied)
                for tensor in copy:
                    # The allocator must not reuse this memory while the copy is computed on.
                    tensor.record_stream(computing)
                yield batch, copy
                # By now the copy is complete, and the host may reuse the memory of the batch.
                copied.synchronize()
            current = following
    finally:
        copying.synchronize()


class _PendingResult(NamedTuple):
    """Results that are being copied to the host; complete once the event `done` has happened."""

    pair_ids: NDArray[np.int64]
    sums: Tensor
    nll_per_token: Tensor | None
    tgt_cu_seqlens: NDArray[np.int32]
    done: torch.cuda.Event | None

    def wait(self) -> BatchSums:
        if self.done is not None:
            self.done.synchronize()
        tokens = None if self.nll_per_token is None else self.nll_per_token.double().numpy()
        return BatchSums(self.pair_ids, self.sums.numpy(), tokens, self.tgt_cu_seqlens)


def _to_host(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    # A copy into pageable memory would wait for the device.
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)
