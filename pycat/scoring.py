"""Score every pair of a corpus under every checkpoint."""

import os
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pycat.batches import Batch, length_mask
from pycat.checkpoint import CheckpointInfo, load_model, read_infos
from pycat.corpus import Corpus, open_corpus
from pycat.device import autocast, choose_device, choose_dtype
from pycat.errors import CheckpointError
from pycat.kernels.reference import cat_linear_cross_entropy
from pycat.model import Transformer
from pycat.output import OutputFolder
from pycat.progress import progress
from pycat.score_table import ScoreTable, part_path, write_part
from pycat.training import shift_right

# Pairs of one Parquet part: what an interrupted run can lose.
_PART_PAIRS = 65_536


def score(
    corpus: Corpus | str | PathLike[str],
    checkpoints: Sequence[str | PathLike[str]],
    *,
    out: str | PathLike[str] | None = None,
    batch_tokens: int = 4096,
    device: str = "auto",
    dtype: str = "float32",
    overwrite: bool = False,
) -> ScoreTable:
    """Sum each pair's negative log-likelihood under each checkpoint.

    Args:
        corpus: an open Corpus of N pairs (or a subset), or the path of one.
        checkpoints: K >= 2 checkpoint files, in training order.
        out: the folder to make; without one, the table stays in memory. An interrupted run of
            the same input goes on in it, and a finished one is opened as it is.
        batch_tokens: tokens of the larger side of a batch, padding included; bounds memory and
            does not change the scores beyond rounding.
        device: "cpu", "cuda" or "auto".
        dtype: of the layers' matrix products: "float32", "bfloat16" or "auto" (bfloat16 where the
            device has it). Logits are float32, sums over tokens float64.
        overwrite: replace a table made from other input.

    Returns:
        The table, rows in pair order.

    Raises:
        CheckpointError: fewer than two, of different shapes, of another tokenizer, damaged, or
            one whose scores are not finite.
        CorpusError: the corpus is damaged.
        OutputError: `out` holds something else, or a table made from other input.

    Source: Chimoto et al. 2024, arXiv:2405.19462.
    """
    corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
    infos = read_infos(checkpoints, corpus)
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)
    recipe = {
        "corpus": corpus.id,
        "checkpoints": [info.sha256 for info in infos],
        "device": torch_device.type,
        "dtype": str(torch_dtype).removeprefix("torch."),
    }
    facts = {
        "corpus": corpus.manifest["id"],
        "num_pairs": len(corpus),
        "num_tokens": int(corpus.num_tokens.sum()),
        "steps": [info.step for info in infos],
        "tokenizer_sha256": corpus.manifest["tokenizer_sha256"],
        "torch": torch.__version__,
        "corpus_options": corpus.options,
    }
    starts = range(0, len(corpus), _PART_PAIRS)
    # Loaded before the folder is touched: overwriting for a damaged checkpoint would lose a table.
    models = [load_model(info, torch_device) for info in infos]
    folder = None
    if out is not None:
        folder = OutputFolder(Path(out), "scores", recipe, ("part-*.parquet",), overwrite)
        if folder.manifest is not None:
            return ScoreTable.open(folder.path)
    tables = []
    with progress("score", facts["num_tokens"] * len(infos), "tokens") as advance:
        for i, first in enumerate(starts):
            part = corpus[first : first + _PART_PAIRS]
            path = None if folder is None else part_path(folder.path, i)
            if path is not None and folder is not None and folder.resumes and path.is_file():
                advance(int(part.num_tokens.sum()) * len(infos))
                continue
            nll = _nll(part, infos, models, torch_device, torch_dtype, batch_tokens, advance)
            columns = {
                "pair": part.pair_ids,
                "num_src_tokens": part.num_src_tokens,
                "num_tokens": part.num_tokens,
                **{f"nll_{k}": nll[:, k] for k in range(len(infos))},
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


def _nll(
    corpus: Corpus,
    infos: Sequence[CheckpointInfo],
    models: Sequence[Transformer],
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
    advance: Callable[[int], None],
) -> NDArray[np.float64]:
    """Summed nll (N, K) of the corpus's pairs, in their order."""
    nll = np.empty((len(corpus), len(models)))
    for batch in corpus.batches(batch_tokens, padded=True, pin_memory=device.type == "cuda"):
        sums = _batch_nll(models, batch.to(device), corpus.eos_id, device, dtype).cpu().numpy()
        for k, info in enumerate(infos):
            if not np.isfinite(sums[k]).all():
                pair = int(batch.pair_ids[int(np.flatnonzero(~np.isfinite(sums[k]))[0])])
                raise CheckpointError(
                    f"{info.path}: the nll of pair {pair:,} is not a finite number; the weights "
                    "are damaged or the training diverged: leave this checkpoint out"
                )
        nll[np.searchsorted(corpus.pair_ids, batch.pair_ids.numpy())] = sums.T
        advance(int(batch.tgt_cu_seqlens[-1]) * len(models))
    return nll


@torch.inference_mode()
def _batch_nll(
    models: Sequence[Transformer],
    batch: Batch,
    eos_id: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Summed nll (K, B), float64."""
    tgt, mask = batch.tgt_tokens, length_mask(batch.tgt_tokens, batch.tgt_cu_seqlens)
    targets, tgt_in = tgt[mask], shift_right(tgt, eos_id)
    src_lengths = batch.src_cu_seqlens.diff().long()
    sums = []
    for model in models:
        with autocast(device, dtype):
            hidden = model(batch.src_tokens, src_lengths, tgt_in)[mask]
        # Outside autocast, which would round logits to bfloat16. One checkpoint at a time: stacked
        # hidden states would cost K times the memory here.
        stats = cat_linear_cross_entropy(
            hidden[None],
            model.output_weight[None],
            targets,
            batch.tgt_cu_seqlens,
            dtype=torch.float32,
        )
        sums.append(stats.nll[0])
    return torch.stack(sums)
