"""Score every pair of a corpus under every checkpoint."""

import os
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pycat.adapters import (
    Adapter,
    Checkpoint,
    Head,
    KeptLengths,
    ProxyAdapter,
    cut_batch,
    load_adapters,
)
from pycat.batches import Batch, length_mask
from pycat.corpus import Corpus, open_corpus
from pycat.device import autocast, choose_device, choose_dtype
from pycat.errors import CheckpointError, PycatError
from pycat.hf_tokenizer import Template
from pycat.kernels.ops import (
    PackedWeight,
    cat_cross_entropy,
    cat_linear_cross_entropy,
    pack_weight,
    require_triton,
)
from pycat.output import OutputFolder
from pycat.progress import progress
from pycat.score_table import ScoreTable, part_path, write_part
from pycat.stacked_scoring import StackedForward

# Pairs of one Parquet part: what an interrupted run can lose.
_PART_PAIRS = 65_536

# Logits of a capped head made at a time: in float32 they stay below what malloc reuses (32 MiB).
_BLOCK_LOGITS = 4_000_000

TOO_LONG = ("refuse", "truncate")


def score(
    corpus: Corpus | str | PathLike[str],
    checkpoints: Checkpoint | Sequence[Checkpoint],
    *,
    out: str | PathLike[str] | None = None,
    batch_tokens: int = 4096,
    device: str = "auto",
    dtype: str = "float32",
    too_long: str = "refuse",
    overwrite: bool = False,
) -> ScoreTable:
    """Sum each pair's negative log-likelihood under each checkpoint.

    Args:
        corpus: an open Corpus of N pairs (or a subset), or the path of one.
        checkpoints: K >= 2 of them, in training order: files of `pycat train`, folders that
            Hugging Face's transformers saved, such as a Trainer's `checkpoint-*` (put in the order
            of their updates), or `Adapter` objects; or the folder of a run that holds them. All are
            in memory at once.
        out: the folder to make; without one, the table stays in memory. An interrupted run of
            the same input goes on in it, and a finished one is opened as it is.
        batch_tokens: tokens of the larger side of a batch, padding included where there is any;
            bounds memory and does not change the scores beyond rounding.
        device: "cpu", "cuda" or "auto".
        dtype: of what matrix products read: "float32", "bfloat16" or "auto" (bfloat16 where the
            device has it). Logits are float32 and never in memory, sums over tokens float64.
        too_long: what to do with pairs that exceed the model's positions: "refuse" the corpus, or
            "truncate" them and score what is left; `num_tokens` counts that, and the manifest
            says of how many pairs (`num_truncated`).
        overwrite: replace a table made from other input.

    Returns:
        The table, rows in pair order.

    Raises:
        CheckpointError: fewer than two, of different shapes, of another tokenizer, damaged, or
            one whose scores are not finite.
        CorpusError: the corpus is damaged, has tokens beyond the model's vocabulary, or pairs
            longer than its positions.
        OutputError: `out` holds something else, or a table made from other input.

    Source: Chimoto et al. 2024, arXiv:2405.19462.
    """
    corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    check_too_long(too_long)
    torch_device = choose_device(device)
    if torch_device.type == "cuda":
        require_triton()
    torch_dtype = choose_dtype(dtype, torch_device)
    # Loaded before the folder is touched: overwriting for a damaged checkpoint would lose a table.
    models = [adapter.to(torch_device) for adapter in load_adapters(checkpoints, corpus)]
    kept = KeptLengths.of(corpus, models, too_long)
    recipe = {
        "corpus": corpus.id,
        "checkpoints": [model.sha256 for model in models],
        "device": torch_device.type,
        "dtype": str(torch_dtype).removeprefix("torch."),
        **({} if too_long == "refuse" else {"too_long": too_long}),
    }
    facts = {
        "corpus": corpus.manifest["id"],
        "num_pairs": len(corpus),
        "num_tokens": int(kept.tgt.sum()),
        **({"num_truncated": kept.num_cut} if kept.num_cut else {}),
        "steps": [model.step for model in models],
        "tokenizer_sha256": corpus.manifest["tokenizer_sha256"],
        "torch": torch.__version__,
        "corpus_options": corpus.options,
    }
    starts = range(0, len(corpus), _PART_PAIRS)
    folder = None
    if out is not None:
        folder = OutputFolder(Path(out), "scores", recipe, ("part-*.parquet",), overwrite)
        if folder.manifest is not None:
            return ScoreTable.open(folder.path)
    tables = []
    with progress("score", facts["num_tokens"] * len(models), "tokens") as advance:
        for i, first in enumerate(starts):
            part = corpus[first : first + _PART_PAIRS]
            lengths = kept.rows(first, len(part))
            path = None if folder is None else part_path(folder.path, i)
            if path is not None and folder is not None and folder.resumes and path.is_file():
                advance(int(lengths.tgt.sum()) * len(models))
                continue
            nll = _nll(part, models, lengths, torch_device, torch_dtype, batch_tokens, advance)
            columns = {
                "pair": part.pair_ids,
                "num_src_tokens": lengths.src,
                "num_tokens": lengths.tgt,
                **{f"nll_{k}": nll[:, k] for k in range(len(models))},
            }
            if folder is None or path is None:
                tables.append(pa.table(columns))
            else:
                write_part(pa.table(columns), path)
                folder.record()
    if folder is None:
        manifest = {"recipe": recipe, **facts, "corpus_path": str(corpus.path.resolve())}
        return ScoreTable.from_arrow(pa.concat_tables(tables), manifest)
    folder.finish(
        **facts,
        num_parts=len(starts),
        corpus_path=os.path.relpath(corpus.path.resolve(), folder.path.resolve()),
    )
    return ScoreTable.open(folder.path)


def check_too_long(too_long: str) -> None:
    """Refuse an unknown name."""
    if too_long not in TOO_LONG:
        raise PycatError(f"too_long is {too_long!r}; expected one of {', '.join(TOO_LONG)}")


def _nll(
    corpus: Corpus,
    models: Sequence[Adapter],
    lengths: KeptLengths,
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
    advance: Callable[[int], None],
) -> NDArray[np.float64]:
    """Summed nll (N, K) of the corpus's pairs, in their order."""
    nll = np.empty((len(corpus), len(models)))
    for rows, sums, _ in batch_nll(corpus, models, lengths, device, dtype, batch_tokens, advance):
        nll[rows] = sums.T
    return nll


def batch_nll(
    corpus: Corpus,
    models: Sequence[Adapter],
    lengths: KeptLengths,
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
    advance: Callable[[int], None],
    *,
    per_token: bool = False,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int32]]]:
    """Nll of each pair or target token, batch by batch, pairs in no particular order.

    Yields:
        rows int64 (B,) of the corpus; nll, of pairs (K, B) or of tokens (K, T); and where in those
        T the tokens of each pair begin, then T, int32 (B + 1,).
    """
    compute = _stacked if _stacks(models, device) else _one_by_one
    for pair_ids, nll, boundaries in compute(
        corpus, models, lengths, device, dtype, batch_tokens, per_token
    ):
        for model, values in zip(models, nll, strict=True):
            if not np.isfinite(values).all():
                at = int(np.flatnonzero(~np.isfinite(values))[0])
                if per_token:
                    at = int(np.searchsorted(boundaries, at, side="right")) - 1
                raise CheckpointError(
                    f"{model.name}: the nll of pair {int(pair_ids[at]):,} is not a finite "
                    "number; the weights are damaged or the training diverged: leave this "
                    "checkpoint out"
                )
        yield np.searchsorted(corpus.pair_ids, pair_ids), nll, boundaries
        advance(int(boundaries[-1]) * len(models))


# Pair ids int64 (B,), nll and boundaries of a batch as `batch_nll` yields them.
_BatchNll = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int32]]


def _stacks(models: Sequence[Adapter], device: torch.device) -> bool:
    """Whether these run as one model."""
    return device.type == "cuda" and all(isinstance(model, ProxyAdapter) for model in models)


def _stacked(
    corpus: Corpus,
    models: Sequence[Adapter],
    lengths: KeptLengths,
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
    per_token: bool,
) -> Iterator[_BatchNll]:
    """All checkpoints of a proxy as one model on packed batches."""
    assert lengths.num_cut == 0  # a proxy has positions for any length
    adapters = [cast(ProxyAdapter, model) for model in models]
    forward = StackedForward(adapters, device, dtype, per_token=per_token)
    for batch in forward.run(corpus, batch_tokens):
        nll = batch.sums[0] if batch.nll_per_token is None else batch.nll_per_token
        yield batch.pair_ids, nll.numpy(), batch.cu_seqlens


def _one_by_one(
    corpus: Corpus,
    models: Sequence[Adapter],
    lengths: KeptLengths,
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
    per_token: bool,
) -> Iterator[_BatchNll]:
    """Each checkpoint on padded batches."""
    tail = Template.of(corpus.manifest).src_tail
    heads = [_pack(model.head, dtype) for model in models]
    for batch in corpus.batches(batch_tokens, padded=True, pin_memory=device.type == "cuda"):
        pair_ids = batch.pair_ids.numpy()
        batch = batch.to(device)
        if lengths.num_cut:
            rows = np.searchsorted(corpus.pair_ids, pair_ids)
            src, tgt = (
                torch.from_numpy(side[rows]).to(device) for side in (lengths.src, lengths.tgt)
            )
            batch = cut_batch(batch, src, tgt, tail)
        nll = _batch_nll(models, heads, batch, device, dtype, per_token=per_token).cpu().numpy()
        yield pair_ids, nll, batch.tgt_cu_seqlens.cpu().numpy()


def _pack(head: Head, dtype: torch.dtype) -> PackedWeight | None:
    """The head as the fused kernel reads it; None for one with a soft cap, which goes by logits."""
    if head.softcap is not None:
        return None
    bias = None if head.bias is None else head.bias.float()[None]
    return pack_weight(head.weight.to(dtype)[None], bias)


@torch.inference_mode()
def _batch_nll(
    models: Sequence[Adapter],
    heads: Sequence[PackedWeight | None],
    batch: Batch,
    device: torch.device,
    dtype: torch.dtype,
    *,
    per_token: bool,
) -> Tensor:
    """Summed nll (K, B), or that of each target token (K, T), float64."""
    targets = batch.tgt_tokens[length_mask(batch.tgt_tokens, batch.tgt_cu_seqlens)]
    nll = []
    for model, packed in zip(models, heads, strict=True):
        with autocast(device, dtype):
            hidden = model.hidden(batch)
        if packed is None:
            tokens = _capped_nll(model.head, hidden, targets)
            nll.append(tokens if per_token else _sums(tokens, batch.tgt_cu_seqlens))
            continue
        if model.head.scale != 1.0:
            hidden = model.head.scale * hidden.float()
        # One checkpoint at a time: stacked hidden states would cost K times the memory here.
        stats = cat_linear_cross_entropy(
            hidden.to(dtype)[None], packed, targets, batch.tgt_cu_seqlens, per_token=per_token
        )
        tokens = stats.nll if stats.nll_per_token is None else stats.nll_per_token
        nll.append(tokens[0].double())
    return torch.stack(nll)


def _capped_nll(head: Head, hidden: Tensor, targets: Tensor) -> Tensor:
    """Nll (T,) by way of logits, which a soft cap needs, a block of tokens at a time."""
    size = max(1, _BLOCK_LOGITS // len(head.weight))
    # A token's own nll is the sum of a sequence of one.
    ones = torch.arange(len(targets) + 1, dtype=torch.int32, device=targets.device)
    blocks = [
        cat_cross_entropy(head.logits(rows.float())[None], some, ones[: len(some) + 1]).nll[0]
        for rows, some in zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    ]
    return torch.cat(blocks)


def _sums(tokens: Tensor, boundaries: Tensor) -> Tensor:
    """Of the tokens of each sequence."""
    lengths = boundaries.diff().long()
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=tokens.device), lengths)
    return tokens.new_zeros(len(lengths)).index_add_(0, rows, tokens)
