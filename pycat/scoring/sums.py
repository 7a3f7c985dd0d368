"""Sums of pairs under models: the forward pass that suits them, and what it gives of a corpus."""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from pycat import _core
from pycat.data.batches import Batch
from pycat.data.corpus import Corpus
from pycat.errors import CheckpointError, PycatError
from pycat.kernels.stat_names import Stats
from pycat.scoring.adapter import Adapter, ProxyAdapter
from pycat.scoring.cpu_forward import CpuForward
from pycat.scoring.forward import BatchSums, Forward
from pycat.scoring.stacked_forward import StackedForward
from pycat.scoring.torch_forward import TorchForward
from pycat.scoring.truncation import KeptLengths, cut_packed, cut_padded


def make_forward(
    models: Sequence[Adapter],
    lengths: KeptLengths,
    device: torch.device,
    dtype: torch.dtype,
    *,
    stats: Stats = "nll",
    per_token: bool = False,
) -> Forward:
    """Build the fastest forward pass of these models, on `device`, for pairs of these lengths.

    Raises:
        PycatError: `dtype` is beyond the device or the models.
    """
    if _can_stack(models, device) and dtype != torch.int8:
        proxies = [cast(ProxyAdapter, model) for model in models]
        return StackedForward(proxies, device, dtype, stats=stats, per_token=per_token)
    if device.type == "cpu":
        longest = int(max(lengths.src.max(), lengths.tgt.max()))
        weights = [model.transformer_weights(longest) for model in models]
        known = [checkpoint for checkpoint in weights if checkpoint is not None]
        has_dtype = dtype != torch.bfloat16 or _core.cpu_isa().endswith("_bf16")
        if len(known) == len(models) and has_dtype:
            return CpuForward(
                known,
                str(dtype).removeprefix("torch."),
                stats=stats,
                per_token=per_token,
                num_workers=torch.get_num_threads(),
            )
    if dtype == torch.int8:
        raise PycatError(
            "dtype 'int8' is for models that the extension runs on the CPU "
            f"(docs/forward.md), and {models[0].name} is none on {device.type}; use 'auto'"
        )
    return TorchForward(models, device, dtype, stats=stats, per_token=per_token)


def _can_stack(models: Sequence[Adapter], device: torch.device) -> bool:
    """Whether these models run as one: proxies, on CUDA."""
    return device.type == "cuda" and all(isinstance(model, ProxyAdapter) for model in models)


def corpus_sums(
    corpus: Corpus,
    models: Sequence[Adapter],
    lengths: KeptLengths,
    forward: Forward,
    batch_tokens: int | None,
    advance: Callable[[int], None],
) -> NDArray[np.float64]:
    """Sums (S, K, N) of the N pairs of a corpus, in their order."""
    sums: NDArray[np.float64] | None = None
    batches = batch_sums(corpus, models, lengths, forward, batch_tokens, advance)
    for rows, batch in batches:
        if sums is None:
            sums = np.empty((*batch.sums.shape[:2], len(corpus)))
        sums[:, :, rows] = batch.sums
    assert sums is not None
    return sums


def batch_sums(
    corpus: Corpus,
    models: Sequence[Adapter],
    lengths: KeptLengths,
    forward: Forward,
    batch_tokens: int | None,
    advance: Callable[[int], None],
) -> Iterator[tuple[NDArray[np.int64], BatchSums]]:
    """Yield rows int64 (B,) of the corpus and their sums, batch by batch, in no particular order.

    Raises:
        CheckpointError: an nll is not finite; names the checkpoint of `models`.
    """
    for scored in forward.run(_batches(corpus, lengths, forward, batch_tokens)):
        for model, nll in zip(models, scored.sums[0], strict=True):  # nll (B,)
            if not np.isfinite(nll).all():
                at = int(np.flatnonzero(~np.isfinite(nll))[0])
                raise CheckpointError(
                    f"{model.name}: the nll of pair {int(scored.pair_ids[at]):,} is not a finite "
                    "number; the weights are damaged or the training diverged: leave this "
                    "checkpoint out"
                )
        yield np.searchsorted(corpus.pair_ids, scored.pair_ids), scored
        advance(int(scored.tgt_cu_seqlens[-1]) * len(models))


def _batches(
    corpus: Corpus, lengths: KeptLengths, forward: Forward, batch_tokens: int | None
) -> Iterator[Batch]:
    """Batches in the layout that the forward pass reads, truncated to the models' positions."""
    tail = corpus.template.src_tail
    for batch in corpus.batches(
        forward.batch_tokens if batch_tokens is None else batch_tokens,
        padded=forward.padded,
        pin_memory=forward.pinned,
    ):
        if lengths.num_cut:
            rows = np.searchsorted(corpus.pair_ids, batch.pair_ids.numpy())
            src, tgt = (torch.from_numpy(side[rows]) for side in (lengths.src, lengths.tgt))
            batch = (cut_padded if forward.padded else cut_packed)(batch, src, tgt, tail)
        yield batch
