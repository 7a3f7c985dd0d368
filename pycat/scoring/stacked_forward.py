"""Batches of a corpus through the stacked proxies, with copies hidden behind the computing.

While the device computes one batch, the next is copied to it on a stream of its own, and results
of the one before are on their way back: its queue is empty only at the ends of a corpus.
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
from pycat.kernels.reference import STAT_NAMES, Stats
from pycat.scoring.adapter import ProxyAdapter
from pycat.scoring.forward import BatchSums
from pycat.scoring.packed_attention import Side
from pycat.scoring.stacked_proxies import StackedProxies


class StackedForward:
    """Proxies of one shape as one model, on packed batches.

    Args:
        models: K, on `device`.
        device: "cuda", or the CPU, where nothing is hidden.
        dtype: of what matrix products read.
        stats: "nll" or "all".
        per_token: whether nll of single tokens is wanted too.
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
        """The sums of packed batches, in their order.

        Args:
            batches: in pinned memory for CUDA; each stays as it is until the next is asked for.
                There a target beyond the vocabulary makes its pair NaN.
        """
        under_way: deque[_UnderWay] = deque()
        with closing(copied_ahead(batches, self._device)) as copies:
            for host, batch in copies:
                under_way.append(self._begin(host, batch))
                if len(under_way) > 1:
                    yield under_way.popleft().wait()
        while under_way:
            yield under_way.popleft().wait()

    @torch.inference_mode()
    def _begin(self, host: Batch, batch: Batch) -> "_UnderWay":
        scored = cat_linear_cross_entropy(
            self._proxies.hidden(*sides(host, batch)),
            self._proxies.head,
            batch.tgt_tokens,
            batch.tgt_cu_seqlens,
            stats=self._stats,
            per_token=self._per_token,
            check=self._device.type != "cuda",  # there it would wait
        )
        columns = [getattr(scored, name) for name in STAT_NAMES]
        sums = _to_host(torch.stack([column for column in columns if column is not None]))
        tokens = None if scored.nll_per_token is None else _to_host(scored.nll_per_token)
        done = None
        if batch.pair_ids.is_cuda:
            done = torch.cuda.current_stream(batch.pair_ids.device).record_event()
        # Copied: the stream reads another batch into this memory.
        pair_ids, cu_seqlens = host.pair_ids.numpy().copy(), host.tgt_cu_seqlens.numpy().copy()
        return _UnderWay(pair_ids, sums, tokens, cu_seqlens, done)


def sides(host: Batch, batch: Batch) -> tuple[Side, Side]:
    """The two sides of a packed batch, given on the host and on the device."""
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
    """Each batch and its copy on the device, the next one's copy begun already.

    The batch on the host stays as it is until the next one is asked for.
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
                    # The allocator must not give it to the next copy while it is computed on.
                    tensor.record_stream(computing)
                yield batch, copy
                # Long done; now the stream may read another batch into that memory.
                copied.synchronize()
            current = following
    finally:
        copying.synchronize()


class _UnderWay(NamedTuple):
    """Results on their way to the host, there once `done` has happened."""

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
    # Into pageable memory a copy would wait.
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)
