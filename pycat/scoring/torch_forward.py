"""The forward pass of any adapter, in PyTorch."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from pycat.data.batches import Batch, length_mask
from pycat.kernels.ops import (
    PackedWeight,
    cat_cross_entropy,
    cat_linear_cross_entropy,
    pack_weight,
)
from pycat.kernels.stat_names import STAT_NAMES, Stats
from pycat.runtime.device import autocast
from pycat.scoring.adapter import Adapter, Head
from pycat.scoring.forward import BatchSums

# Logits of a capped head are made so many at a time: in float32 malloc reuses their memory (up to
# 32 MiB).
_BLOCK_LOGITS = 4_000_000


class TorchForward:
    """Adapters of any kind, on padded batches.

    Args:
        models: K, on `device`.
        device: where they compute.
        dtype: of the operands of matrix products.
        stats: "nll" or "all".
        per_token: also nll of single tokens.
    """

    padded = True
    batch_tokens = 4096

    def __init__(
        self,
        models: Sequence[Adapter],
        device: torch.device,
        dtype: torch.dtype,
        *,
        stats: Stats = "nll",
        per_token: bool = False,
    ) -> None:
        self._models, self._device, self._dtype = models, device, dtype
        self._stats, self._per_token = stats, per_token
        self.pinned = device.type == "cuda"
        self._names = STAT_NAMES if stats == "all" else STAT_NAMES[:1]
        self._heads = [self._pack(model.head) for model in models]

    def run(self, batches: Iterable[Batch]) -> Iterator[BatchSums]:
        """Yield the sums of padded batches, in their order."""
        return map(self._score, batches)

    @torch.inference_mode()
    def _score(self, batch: Batch) -> BatchSums:
        pair_ids, ends = batch.pair_ids.numpy(), batch.tgt_cu_seqlens.numpy()
        batch = batch.to(self._device)
        targets = batch.tgt_tokens[length_mask(batch.tgt_tokens, batch.tgt_cu_seqlens)]
        sums, tokens = [], []
        for model, packed in zip(self._models, self._heads, strict=True):
            with autocast(self._device, self._dtype):
                hidden = model.hidden(batch)  # (T, H)
            if packed is None:
                values = self._by_logits(model.head, hidden, targets)  # (S, T)
                sums.append(_sums(values, batch.tgt_cu_seqlens))
                tokens.append(values[0])
                continue
            if model.head.scale != 1.0:
                hidden = model.head.scale * hidden.float()
            # One checkpoint at a time: stacked hidden states would cost K times the memory here.
            stats = cat_linear_cross_entropy(
                hidden.to(self._dtype)[None],
                packed,
                targets,
                batch.tgt_cu_seqlens,
                stats=self._stats,
                per_token=self._per_token,
            )
            sums.append(torch.stack([getattr(stats, name)[0] for name in self._names]))
            if stats.nll_per_token is not None:
                tokens.append(stats.nll_per_token[0].double())
        nll_per_token = torch.stack(tokens).cpu().numpy() if self._per_token else None
        return BatchSums(pair_ids, torch.stack(sums, dim=1).cpu().numpy(), nll_per_token, ends)

    def _pack(self, head: Head) -> PackedWeight | None:
        """The head in the layout of the fused kernel; None for a head with a soft cap."""
        if head.softcap is not None:
            return None
        bias = None if head.bias is None else head.bias.float()[None]
        return pack_weight(head.weight.to(self._dtype)[None], bias)

    def _by_logits(self, head: Head, hidden: Tensor, targets: Tensor) -> Tensor:
        """Statistics (S, T) of hidden states (T, H) through logits, a block of tokens at a time."""
        size = max(1, _BLOCK_LOGITS // len(head.weight))
        # Sums over sequences of one token are the statistics of the tokens.
        starts = torch.arange(len(targets) + 1, dtype=torch.int32, device=targets.device)
        blocks = []
        pieces = zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
        for rows, block_targets in pieces:
            states = rows.float()
            stats = cat_cross_entropy(
                head.logits(states)[None],
                block_targets,
                starts[: len(block_targets) + 1],
                stats=self._stats,
            )
            if stats.el2n is not None:
                norm = head.scale * states.double().norm(dim=1)
                stats = stats._replace(grad_norm_bound=stats.el2n * norm)
            blocks.append(torch.stack([getattr(stats, name)[0] for name in self._names]))
        return torch.cat(blocks, dim=1)


def _sums(values: Tensor, boundaries: Tensor) -> Tensor:
    """Sums (S, B) of statistics (S, T) over the tokens of each sequence."""
    lengths = boundaries.diff().long()
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths)
    return values.new_zeros(len(values), len(lengths)).index_add_(1, rows, values)
