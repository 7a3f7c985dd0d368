"""Score every pair of a corpus under every checkpoint."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pycat import _core
from pycat.data.batches import Batch
from pycat.data.corpus import Corpus, as_corpus
from pycat.errors import CheckpointError, PycatError
from pycat.kernels.ops import require_triton
from pycat.kernels.reference import Stats
from pycat.runtime.device import SCORING_DTYPES, choose_device, choose_dtype
from pycat.runtime.output import OutputFolder, recorded_recipe
from pycat.runtime.progress import progress
from pycat.scores.parts import (
    PART_PAIRS,
    SCORE_FILES,
    part_path,
    statistic_columns,
    write_part,
)
from pycat.scores.score_table import ScoreTable
from pycat.scoring.adapter import Adapter, ProxyAdapter
from pycat.scoring.cpu_forward import CpuForward
from pycat.scoring.flops import model_flops, product_rate
from pycat.scoring.forward import BatchSums, Forward
from pycat.scoring.loading import Checkpoint, load_adapters
from pycat.scoring.reduced_precision import EXACT_FILE, reduced_precision
from pycat.scoring.stacked_forward import StackedForward
from pycat.scoring.torch_forward import TorchForward
from pycat.scoring.truncation import KeptLengths, cut_packed, cut_padded

# Below so many seconds of scoring, how well the device is used says little.
_LEAST_UTILIZATION_S = 5.0

TOO_LONG = ("refuse", "truncate")
STATS: tuple[Stats, ...] = get_args(Stats)


def score(
    corpus: Corpus | str | PathLike[str],
    checkpoints: Checkpoint | Sequence[Checkpoint],
    *,
    out: str | PathLike[str] | None = None,
    stats: Stats = "all",
    batch_tokens: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    too_long: str = "refuse",
    exact_keep: float | None = None,
    overwrite: bool = False,
) -> ScoreTable:
    """Sum each pair's negative log-likelihood, and more, under each checkpoint.

    Memory is that of the checkpoints, of the hidden states and attention of one batch, which grow
    with `batch_tokens`, and of 65,536 pairs' results. With `out` it does not grow with the corpus,
    but for 8 bytes a pair where the model's positions are bounded, 8 with a reduced precision, and
    with `exact_keep` some 40 more, and the sums of what is scored again.

    Args:
        corpus: an open Corpus of N pairs (or a subset), or the path of one.
        checkpoints: K >= 2 of them, in training order: files of `pycat train`, folders that
            Hugging Face's transformers saved, such as a Trainer's `checkpoint-*` (put in the order
            of their updates), or `Adapter` objects; or the folder of a run that holds them. All are
            in memory at once.
        out: the folder to make; without one, the table stays in memory. An interrupted run of
            the same input goes on in it, and a finished one is opened as it is.
        stats: "nll" alone, or "all": also `p_target`, `correct`, `el2n`, `margin`, `entropy` and
            `grad_norm_bound` as `kernels.reference.SequenceStats` defines them.
        batch_tokens: tokens of the larger side of a batch, padding included where there is any;
            bounds memory. By default what is fastest. Does not change the scores beyond rounding.
        device: "cpu", "cuda" or "auto".
        dtype: of what matrix products read: "float32", "bfloat16", "auto" (bfloat16 where the
            device has it), or "int8" on a CPU with AVX-512 VNNI and bfloat16 (the output layer then
            in bfloat16). Logits are float32 and never in memory, sums over tokens float64. Where it
            is not float32, a sample is scored in float32 too: 2 % of the pairs or 200, whichever
            is more, at most 2,000. The manifest's `rank_agreement` says how both rank it.
        too_long: what to do with pairs that exceed the model's positions: "refuse" the corpus, or
            "truncate" them and score what is left; `num_tokens` counts that, and the manifest
            says of how many pairs (`num_truncated`).
        exact_keep: with a reduced precision, the fraction of the pairs that is to be kept by
            `cat_var`: pairs that the precision could carry across that cut are scored again in
            float32, and hold its sums (`exact_cut` in the manifest says how many, `exact.parquet`
            which), so that the pairs kept are those that float32 keeps.
        overwrite: replace a table made from other input.

    Returns:
        The table, rows in pair order. In its manifest `tokens_per_s` counts target tokens times
        checkpoints in a second of scoring; `model_flops` is what `flops.model_flops` counts, for
        all checkpoints; `flop_utilization` is the share it had of the rate of a large matrix
        product, measured afterwards in this process (left out below 5 s of scoring). An
        interrupted run's time counts up to its last part.

    Raises:
        CheckpointError: fewer than two, of different shapes, of another tokenizer, damaged, or
            one whose scores are not finite.
        CorpusError: the corpus is damaged, has tokens beyond the model's vocabulary, or pairs
            longer than its positions.
        OutputError: `out` holds something else, or a table made from other input.

    Source: Chimoto et al. 2024, arXiv:2405.19462.
    """
    corpus = as_corpus(corpus)
    check_too_long(too_long)
    if exact_keep is not None and not 0 < exact_keep <= 1:
        raise PycatError(f"exact_keep is {exact_keep}; expected a fraction above 0, at most 1")
    if stats not in STATS:
        raise PycatError(f"stats is {stats!r}; expected one of {', '.join(STATS)}")
    torch_device = choose_device(device)
    if torch_device.type == "cuda":
        require_triton()
    torch_dtype = choose_dtype(dtype, torch_device, SCORING_DTYPES)
    is_reduced = torch_dtype != torch.float32
    # Loaded before the folder is touched: overwriting for a damaged checkpoint would lose a table.
    models = [adapter.to(torch_device) for adapter in load_adapters(checkpoints, corpus)]
    kept = KeptLengths.of(corpus, models, too_long)
    recipe = {
        "corpus": corpus.id,
        "checkpoints": [model.sha256 for model in models],
        "device": torch_device.type,
        "dtype": str(torch_dtype).removeprefix("torch."),
        # Only what is not as it was before there was a choice: older tables open as they are.
        **({} if stats == "nll" else {"stats": stats}),
        **({} if too_long == "refuse" else {"too_long": too_long}),
        **({} if exact_keep is None or not is_reduced else {"exact_keep": exact_keep}),
    }
    facts: dict[str, Any] = {
        "corpus": corpus.manifest["id"],
        "num_pairs": len(corpus),
        "num_tokens": int(kept.tgt.sum()),
        **({"num_truncated": kept.num_cut} if kept.num_cut else {}),
        "steps": [model.step for model in models],
        "tokenizer_sha256": corpus.manifest["tokenizer_sha256"],
        "torch": torch.__version__,
        "corpus_options": corpus.options,
    }
    starts = range(0, len(corpus), PART_PAIRS)
    folder = forward = None
    started = time.perf_counter()
    # So is what runs them, unless the table may be there.
    if out is None or recorded_recipe(Path(out), "scores") != recipe:
        forward = make_forward(models, kept, torch_device, torch_dtype, stats=stats)
    if out is not None:
        folder = OutputFolder(Path(out), "scores", recipe, SCORE_FILES, overwrite)
        if folder.manifest is not None:
            return ScoreTable.open(folder.path)
    if forward is None:
        forward = make_forward(models, kept, torch_device, torch_dtype, stats=stats)
    paths = [None if folder is None else part_path(folder.path, i) for i in range(len(starts))]
    resumes = folder is not None and folder.resumes
    finished = [resumes and path is not None and path.is_file() for path in paths]
    done = sum(
        int(kept.rows(first, PART_PAIRS).tgt.sum())
        for first, is_finished in zip(starts, finished, strict=True)
        if is_finished
    )
    parts: list[pa.Table | Path] = []
    flops, total = 0, facts["num_tokens"] * len(models)
    with progress("score", total, "tokens x checkpoints", done * len(models)) as advance:
        for first, path, is_finished in zip(starts, paths, finished, strict=True):
            part = corpus[first : first + PART_PAIRS]
            lengths = kept.rows(first, len(part))
            flops += len(models) * model_flops(models[0], lengths.src, lengths.tgt)
            if not is_finished:
                sums = _sums(part, models, lengths, forward, batch_tokens, advance)
                table = pa.table(_columns(part, lengths, sums))
                if folder is not None and path is not None:
                    write_part(table, path)
                    folder.record()
            parts.append(table if path is None else path)
    scoring_s = time.perf_counter() - started if folder is None else folder.elapsed_s
    facts |= {"tokens_per_s": round(total / scoring_s, 1), "model_flops": flops}
    if scoring_s >= _LEAST_UTILIZATION_S:
        of_products = flops / scoring_s / product_rate(torch_device, torch_dtype)
        facts["flop_utilization"] = round(of_products, 4)
    if is_reduced:
        del forward  # its packed weights
        exact: Forward | None = None

        def score_rows(rows: NDArray[np.int64]) -> NDArray[np.float64]:
            nonlocal exact
            if exact is None:
                exact = make_forward(models, kept, torch_device, torch.float32, stats=stats)
            some = corpus.subset(corpus.pair_ids[rows])
            lengths = KeptLengths(kept.src[rows], kept.tgt[rows], kept.num_cut)
            return _sums(some, models, lengths, exact, batch_tokens, lambda count: None)

        in_folder = None if folder is None else folder.path / EXACT_FILE
        facts |= reduced_precision(parts, kept.tgt, len(models), score_rows, exact_keep, in_folder)
    if folder is None:
        elapsed_s = round(time.perf_counter() - started, 3)
        where = {"corpus_path": str(corpus.path.resolve()), "elapsed_s": elapsed_s}
        return ScoreTable.from_arrow(pa.concat_tables(parts), {"recipe": recipe, **facts, **where})
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


def _stacks(models: Sequence[Adapter], device: torch.device) -> bool:
    """Whether these run as one model."""
    return device.type == "cuda" and all(isinstance(model, ProxyAdapter) for model in models)


def make_forward(
    models: Sequence[Adapter],
    lengths: KeptLengths,
    device: torch.device,
    dtype: torch.dtype,
    *,
    stats: Stats = "nll",
    per_token: bool = False,
) -> Forward:
    """What runs these models, which are on `device`, over pairs of these lengths.

    Raises:
        PycatError: `dtype` is beyond the device or the models.
    """
    if _stacks(models, device) and dtype != torch.int8:
        proxies = [cast(ProxyAdapter, model) for model in models]
        return StackedForward(proxies, device, dtype, stats=stats, per_token=per_token)
    if device.type == "cpu":
        longest = int(max(lengths.src.max(), lengths.tgt.max()))
        weights = [model.transformer_weights(longest) for model in models]
        known = [checkpoint for checkpoint in weights if checkpoint is not None]
        has_dtype = dtype != torch.bfloat16 or _core.cpu_isa() == "avx512_bf16"
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
            "dtype 'int8' is for encoder-decoder models that the extension runs on the CPU "
            f"(docs/forward.md), and {models[0].name} is none on {device.type}; use 'auto'"
        )
    return TorchForward(models, device, dtype, stats=stats, per_token=per_token)


def _sums(
    corpus: Corpus,
    models: Sequence[Adapter],
    lengths: KeptLengths,
    forward: Forward,
    batch_tokens: int | None,
    advance: Callable[[int], None],
) -> NDArray[np.float64]:
    """Sums (S, K, N) of the corpus's pairs, in their order."""
    sums: NDArray[np.float64] | None = None
    batches = batch_sums(corpus, models, lengths, forward, batch_tokens, advance)
    for rows, batch in batches:
        if sums is None:
            sums = np.empty((*batch.sums.shape[:2], len(corpus)))
        sums[:, :, rows] = batch.sums
    assert sums is not None
    return sums


def _columns(
    corpus: Corpus, lengths: KeptLengths, sums: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    """The columns of a part."""
    return {
        "pair": corpus.pair_ids,
        "num_src_tokens": lengths.src,
        "num_tokens": lengths.tgt,
        **statistic_columns(sums),
    }


def batch_sums(
    corpus: Corpus,
    models: Sequence[Adapter],
    lengths: KeptLengths,
    forward: Forward,
    batch_tokens: int | None,
    advance: Callable[[int], None],
) -> Iterator[tuple[NDArray[np.int64], BatchSums]]:
    """Rows int64 (B,) of the corpus and their sums, batch by batch, in no particular order.

    Raises:
        CheckpointError: an nll is not finite; names the checkpoint of `models`.
    """
    for found in forward.run(_batches(corpus, lengths, forward, batch_tokens)):
        for model, nll in zip(models, found.sums[0], strict=True):
            if not np.isfinite(nll).all():
                at = int(np.flatnonzero(~np.isfinite(nll))[0])
                raise CheckpointError(
                    f"{model.name}: the nll of pair {int(found.pair_ids[at]):,} is not a finite "
                    "number; the weights are damaged or the training diverged: leave this "
                    "checkpoint out"
                )
        yield np.searchsorted(corpus.pair_ids, found.pair_ids), found
        advance(int(found.tgt_cu_seqlens[-1]) * len(models))


def _batches(
    corpus: Corpus, lengths: KeptLengths, forward: Forward, batch_tokens: int | None
) -> Iterator[Batch]:
    """Batches as the forward pass reads them, cut to what the models have positions for."""
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
