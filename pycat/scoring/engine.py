"""Scores of every pair of a corpus under every checkpoint."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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
from pycat.data.staging import names_copies, staged_checkpoints, staged_corpus
from pycat.errors import CheckpointError, OutputError, PycatError
from pycat.kernels.ops import require_triton
from pycat.kernels.stat_names import STAT_NAMES, Stats
from pycat.runtime.device import SCORING_DTYPES, choose_device, choose_dtype
from pycat.runtime.locks import scratch_folder
from pycat.runtime.manifest import list_files
from pycat.runtime.numbers import check_number
from pycat.runtime.output import OutputFolder, recorded_recipe
from pycat.runtime.progress import progress
from pycat.scores.parts import (
    PAIR_COLUMNS,
    PART_PAIRS,
    SCORE_FILES,
    column_names,
    part_path,
    read_part,
    score_files,
    statistic_columns,
    write_part,
)
from pycat.scores.score_table import ScoreTable, as_table
from pycat.scoring.adapter import Adapter, ProxyAdapter
from pycat.scoring.cpu_forward import CpuForward
from pycat.scoring.flops import model_flops, product_rate
from pycat.scoring.forward import BatchSums, Forward
from pycat.scoring.loading import Checkpoint, load_adapters
from pycat.scoring.reduced_precision import EXACT_FILE, reduced_precision
from pycat.scoring.reuse import WORKING_FILES, Earlier, ReusedSums
from pycat.scoring.stacked_forward import StackedForward
from pycat.scoring.torch_forward import TorchForward
from pycat.scoring.truncation import KeptLengths, cut_packed, cut_padded

# A shorter run of so many seconds says little of how well the device is used.
_MIN_UTILIZATION_S = 5.0

TOO_LONG = ("refuse", "truncate")
STATS: tuple[Stats, ...] = get_args(Stats)


@names_copies
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
    base: ScoreTable | str | PathLike[str] | None = None,
    overwrite: bool = False,
    stage: str | PathLike[str] | None = None,
) -> ScoreTable:
    """Sum each pair's negative log-likelihood, and other statistics, under each checkpoint.

    Memory holds the checkpoints, the hidden states and attention of one batch, which grow with
    `batch_tokens`, and the results of 65,536 pairs. With `out` it does not grow with the corpus,
    except for 8 bytes a pair where the model's positions are bounded, 8 with a reduced precision,
    and with `exact_keep` some 40 more and the sums of the pairs that are scored again.

    Args:
        corpus: an open Corpus of N pairs (or a subset), or the path of one.
        checkpoints: K >= 2 of them, in training order: files of `pycat train`, folders that
            Hugging Face's transformers saved, such as a Trainer's `checkpoint-*` (put in the order
            of their updates), or `Adapter` objects; or the folder of a run that holds them. All are
            in memory at once.
        out: the folder to make; without one, the table stays in memory. A folder of the same input
            is resumed if its run was interrupted, and opened as it is if finished.
        stats: "nll" alone, or "all": also `p_target`, `correct`, `el2n`, `margin`, `entropy` and
            `grad_norm_bound` as `kernels.reference.SequenceStats` defines them.
        batch_tokens: tokens of the larger side of a batch, padding included where there is any;
            bounds memory. The default is the fastest. Changes scores by rounding alone.
        device: "cpu", "cuda" or "auto".
        dtype: of the operands of matrix products: "float32", "bfloat16", "int8" on a CPU with AVX2
            (the output layer then has 16-bit whole numbers), or "auto": bfloat16 where the device
            has it, else float32, or int8 if `exact_keep` is given. Logits are float32 and never in
            memory, sums over tokens float64. With a reduced precision a sample is scored in float32
            too: 2 % of the pairs or 200, whichever is more, at most 2,000. The manifest's
            `rank_agreement` compares both ranks.
        too_long: what to do with pairs that exceed the model's positions: "refuse" the corpus, or
            "truncate" them and score the rest. `num_tokens` then counts the tokens scored, and
            `num_truncated` in the manifest counts the truncated pairs.
        exact_keep: with a reduced precision, the fraction of the pairs that `cat_var` is to keep.
            Pairs that the precision could carry across that cut are scored again in float32 and
            hold its sums, so that the kept pairs are those of float32. `exact_cut` in the manifest
            counts them, `exact.parquet` lists them.
        base: an earlier table under these checkpoints, of another corpus by the same tokenizer.
            Pairs whose tokens it holds are not scored again: their sums are taken over. `reused` in
            the manifest counts them. The table is the same as without, bit for bit where the
            extension computes (docs/forward.md), else but for rounding. On the disk, the join takes
            some 60 bytes a pair and the sums while it is made.
        overwrite: replace a table made from other input.
        stage: a folder on this machine's own disk; corpus and checkpoints are copied into it first,
            unless they are there, and read there (`pycat.data.staging`).

    Returns:
        The table, rows in pair order. In its manifest `tokens_per_s` is target tokens times
        checkpoints per second of scoring; `model_flops` is `flops.model_flops` over all
        checkpoints; `flop_utilization` is their rate over that of a large matrix product, which is
        measured afterwards in this process (left out below 5 s of scoring). An interrupted run's
        time counts up to its last part.

    Raises:
        CheckpointError: fewer than two (one of monolingual text), of different shapes, of another
            tokenizer, damaged, or one whose scores are not finite.
        CorpusError: the corpus is damaged, has tokens beyond the model's vocabulary, or pairs
            longer than its positions.
        OutputError: `out` holds something else, or a table made from other input.
        PycatError: `base` has other checkpoints, another tokenizer, dtype or device, or less
            statistics.

    Source: Chimoto et al. 2024, arXiv:2405.19462.
    """
    corpus = as_corpus(corpus)
    if stage is not None:
        corpus, checkpoints = staged_corpus(corpus, stage), staged_checkpoints(checkpoints, stage)
    check_too_long(too_long)
    if batch_tokens is not None:
        check_number("batch_tokens", batch_tokens, low=1)
    if exact_keep is not None and not 0 < exact_keep <= 1:
        raise PycatError(f"exact_keep is {exact_keep}; expected a fraction above 0, at most 1")
    if stats not in STATS:
        raise PycatError(f"stats is {stats!r}; expected one of {', '.join(STATS)}")

    # Load the models before touching the folder: a damaged checkpoint must not cost the old table.
    torch_device = choose_device(device)
    if torch_device.type == "cuda":
        require_triton()
    torch_dtype = choose_dtype(dtype, torch_device, SCORING_DTYPES)
    # How perplexity moves takes two checkpoints; monolingual text is ranked by perplexity itself.
    fewest = 1 if corpus.is_monolingual else 2
    loaded = load_adapters(checkpoints, corpus, min_checkpoints=fewest)
    models = [adapter.to(torch_device) for adapter in loaded]
    if exact_keep is not None and len(models) < 2:
        raise PycatError(
            "exact_keep is for a cut by cat_var, which takes two checkpoints, and there is one; "
            "leave it out"
        )
    if dtype == "auto" and torch_device.type == "cpu" and _core.cpu_isa() != "avx512_bf16":
        torch_dtype = _auto_without_bfloat16(models[0], exact_keep)
    is_reduced = torch_dtype != torch.float32
    kept = KeptLengths.of(corpus, models, too_long)
    recipe = {
        "corpus": corpus.id,
        "checkpoints": [model.sha256 for model in models],
        "device": torch_device.type,
        "dtype": str(torch_dtype).removeprefix("torch."),
        # Record an option only where it differs from the default, so that older tables still match.
        **({} if stats == "nll" else {"stats": stats}),
        **({} if too_long == "refuse" else {"too_long": too_long}),
        **({} if exact_keep is None or not is_reduced else {"exact_keep": exact_keep}),
    }
    earlier = None if base is None else Earlier.of(as_table(base), corpus, recipe)
    scorer = _Scorer(corpus, models, kept, torch_device, stats, batch_tokens, earlier)

    # Build the forward pass before touching the folder: an unusable dtype must not cost the old
    # table. A folder of the same recipe may be finished, and then needs no forward pass.
    started = time.perf_counter()
    if out is None or recorded_recipe(Path(out), "scores") != recipe:
        scorer.use(torch_dtype)
    if out is None:
        return _make_table(scorer, torch_dtype, recipe, started, None)
    source = None if earlier is None else earlier.table.path
    if source is not None and source.resolve() == Path(out).resolve():
        raise OutputError(f"{out}: is the table to take scores from; name another folder")
    owned, working = (*SCORE_FILES, WORKING_FILES), (WORKING_FILES,)
    with OutputFolder(Path(out), "scores", recipe, owned, overwrite, working=working) as folder:
        if folder.manifest is not None:
            return ScoreTable.open(folder.path)
        return _make_table(scorer, torch_dtype, recipe, started, folder)


def _make_table(
    scorer: "_Scorer",
    dtype: torch.dtype,
    recipe: Mapping[str, Any],
    started: float,
    folder: OutputFolder | None,
) -> ScoreTable:
    """Score what an interrupted run has not, and finish the table, in `folder` or in memory."""
    corpus, models, kept = scorer.corpus, scorer.models, scorer.kept
    scorer.use(dtype)
    with ExitStack() as stack:
        if scorer.earlier is not None:
            place = stack.enter_context(scratch_folder()) if folder is None else folder.path
            scorer.reused = ReusedSums(scorer.earlier, corpus, kept, place)
        parts, flops = scorer.score_parts(folder)
    scoring_s = time.perf_counter() - started if folder is None else folder.elapsed_s

    # Finish: facts for the manifest, and what a reduced precision owes to float32.
    num_tokens = int(kept.tgt.sum())
    facts: dict[str, Any] = {
        "corpus": corpus.manifest["id"],
        "num_pairs": len(corpus),
        "num_tokens": num_tokens,
        **({"num_truncated": kept.num_cut} if kept.num_cut else {}),
        "steps": [model.step for model in models],
        "tokenizer_sha256": corpus.manifest["tokenizer_sha256"],
        "torch": torch.__version__,
        "corpus_options": corpus.options,
        "tokens_per_s": round(scorer.num_scored_tokens * len(models) / scoring_s, 1),
        "model_flops": flops,
    }
    if scorer.reused is not None:
        facts["reused"] = scorer.reused.facts(None if folder is None else folder.path)
    elif scoring_s >= _MIN_UTILIZATION_S:
        utilization = flops / scoring_s / product_rate(scorer.device, dtype)
        facts["flop_utilization"] = round(utilization, 4)
    if dtype != torch.float32:
        exact_file = None if folder is None else folder.path / EXACT_FILE
        exact_keep = recipe.get("exact_keep")
        facts |= reduced_precision(
            parts, kept.tgt, len(models), scorer.score_rows, exact_keep, exact_file
        )
    if folder is None:
        elapsed_s = round(time.perf_counter() - started, 3)
        where = {"corpus_path": str(corpus.path.resolve()), "elapsed_s": elapsed_s}
        return ScoreTable.from_arrow(pa.concat_tables(parts), {"recipe": recipe, **facts, **where})
    folder.finish(
        **facts,
        num_parts=len(parts),
        files=list_files(folder.path, score_files(folder.path)),
        corpus_path=os.path.relpath(corpus.path.resolve(), folder.path.resolve()),
    )
    return ScoreTable.open(folder.path)


def check_too_long(too_long: str) -> None:
    """Refuse an unknown name."""
    if too_long not in TOO_LONG:
        raise PycatError(f"too_long is {too_long!r}; expected one of {', '.join(TOO_LONG)}")


@dataclass
class _Scorer:
    """A corpus of N pairs, K models that score it, and one forward pass at a time.

    Attributes:
        corpus, models: on `device`.
        kept: lengths of the N pairs that are scored.
        stats: "nll" or "all".
        batch_tokens: as for `score`.
        earlier: where sums may come from; `reused` holds them while parts are scored.
    """

    corpus: Corpus
    models: Sequence[Adapter]
    kept: KeptLengths
    device: torch.device
    stats: Stats
    batch_tokens: int | None
    earlier: Earlier | None = None
    reused: ReusedSums | None = None
    _forward: Forward | None = None
    _dtype: torch.dtype | None = None

    def use(self, dtype: torch.dtype) -> None:
        """Build the forward pass in `dtype`, unless it is the one in use.

        Raises:
            PycatError: as `make_forward`.
        """
        if dtype != self._dtype:
            self._forward = None  # frees its packed weights before the others are packed
            self._forward = make_forward(
                self.models, self.kept, self.device, dtype, stats=self.stats
            )
            self._dtype = dtype

    @property
    def num_scored_tokens(self) -> int:
        """Target tokens of the pairs whose sums are not taken over."""
        taken = 0 if self.reused is None else self.reused.num_tokens
        return int(self.kept.tgt.sum()) - taken

    def score_parts(self, folder: OutputFolder | None) -> tuple[list[pa.Table | Path], int]:
        """Score all pairs, a part at a time, but for the parts that `folder` holds already.

        Returns:
            The parts in pair order, as files of the folder or as tables; and the floating-point
            operations of all of them under all models.
        """
        starts = range(0, len(self.corpus), PART_PAIRS)
        resumes = folder is not None and folder.resumes
        paths = [None if folder is None else part_path(folder.path, i) for i in range(len(starts))]
        finished = [
            resumes and path is not None and path.is_file() and self._is_intact(path, first)
            for path, first in zip(paths, starts, strict=True)
        ]
        num_done = sum(
            int(self.kept.rows(first, PART_PAIRS).tgt.sum())
            for first, is_finished in zip(starts, finished, strict=True)
            if is_finished
        )
        parts: list[pa.Table | Path] = []
        flops, num_models = 0, len(self.models)
        total = int(self.kept.tgt.sum()) * num_models
        with progress("score", total, "tokens x checkpoints", num_done * num_models) as advance:
            for first, path, is_finished in zip(starts, paths, finished, strict=True):
                part = self.corpus[first : first + PART_PAIRS]
                lengths = self.kept.rows(first, len(part))
                flops += num_models * model_flops(self.models[0], lengths.src, lengths.tgt)
                if not is_finished:
                    sums = self._part_sums(part, first, lengths, advance)
                    table = pa.table(_columns(part, lengths, sums))
                    if folder is not None and path is not None:
                        write_part(table, path)
                        folder.record()
                parts.append(table if path is None else path)
        return parts, flops

    def _part_sums(
        self, part: Corpus, first: int, lengths: KeptLengths, advance: Callable[[int], None]
    ) -> NDArray[np.float64]:
        """Sums (S, K, n) of the n pairs of a part from row `first` on: taken over, or scored."""
        if self.reused is None:
            return self._score(part, lengths, advance)
        is_there, taken = self.reused.rows(first, len(part))
        rest = np.flatnonzero(~is_there)
        sums = np.empty((*taken.shape[:2], len(part)))
        sums[:, :, is_there] = taken
        advance(int(lengths.tgt[is_there].sum()) * len(self.models))
        if len(rest):
            pairs = self.corpus.subset(part.pair_ids[rest])
            sums[:, :, rest] = self._score(pairs, lengths.take(rest), advance)
        return sums

    def _is_intact(self, path: Path, first: int) -> bool:
        """Whether an earlier run's part can be read in full and holds the pairs from `first`."""
        part = self.corpus[first : first + PART_PAIRS]
        lengths = self.kept.rows(first, len(part))
        stats = STAT_NAMES if self.stats == "all" else ("nll",)
        try:
            table = read_part(path)
        except OutputError:
            return False
        expected: dict[str, NDArray[Any]] = dict(
            zip(PAIR_COLUMNS, (part.pair_ids, lengths.src, lengths.tgt), strict=True)
        )
        return table.column_names == column_names(stats, len(self.models)) and all(
            np.array_equal(table[name].to_numpy(), values) for name, values in expected.items()
        )

    def score_rows(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Score rows (n,) of the corpus again, in float32: sums (S, K, n)."""
        self.use(torch.float32)
        lengths = self.kept.take(rows)
        pairs = self.corpus.subset(self.corpus.pair_ids[rows])
        return self._score(pairs, lengths, lambda num_tokens: None)

    def _score(
        self, corpus: Corpus, lengths: KeptLengths, advance: Callable[[int], None]
    ) -> NDArray[np.float64]:
        assert self._forward is not None
        return _sums(corpus, self.models, lengths, self._forward, self.batch_tokens, advance)


def _auto_without_bfloat16(model: Adapter, exact_keep: float | None) -> torch.dtype:
    """What "auto" is on a CPU without products of bfloat16.

    int8 only where its errors can't change what is kept, and the extension runs the model.
    """
    can_be_int8 = exact_keep is not None and _core.cpu_isa() not in ("portable", "neon")
    if can_be_int8 and model.transformer_weights(1) is not None:
        return torch.int8
    return torch.float32


def _can_stack(models: Sequence[Adapter], device: torch.device) -> bool:
    """Whether these models run as one: proxies, on CUDA."""
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
            "dtype 'int8' is for models that the extension runs on the CPU "
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
    """Sums (S, K, N) of the N pairs of a corpus, in their order."""
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
