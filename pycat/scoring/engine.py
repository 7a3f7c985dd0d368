"""Scores of every pair of a corpus under every checkpoint."""

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pycat import _core
from pycat.data.corpus import Corpus
from pycat.data.opening import as_corpus
from pycat.data.reopening import CorpusAddress
from pycat.data.staging import names_copies, staged_checkpoints, staged_corpus
from pycat.errors import CheckpointError, OutputError, PycatError
from pycat.kernels.ops import require_triton
from pycat.kernels.stat_names import STAT_NAMES, Stats
from pycat.runtime.device import SCORING_DTYPES, choose_device, choose_dtype
from pycat.runtime.locks import scratch_folder
from pycat.runtime.manifest import list_files
from pycat.runtime.numbers import check_number
from pycat.runtime.output import OutputFolder, recorded_recipe
from pycat.runtime.parts import is_here, map_parts
from pycat.runtime.progress import progress
from pycat.scores.parts import (
    CLUSTERS_FOLDER,
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
from pycat.scoring.adapter import Adapter
from pycat.scoring.flops import model_flops, product_rate
from pycat.scoring.forward import Forward
from pycat.scoring.loading import Checkpoint, absolute, load_adapters
from pycat.scoring.reduced_precision import EXACT_FILE, reduced_precision
from pycat.scoring.reuse import WORKING_FILES, Earlier, ReusedSums, SumsFile
from pycat.scoring.sums import corpus_sums, make_forward
from pycat.scoring.truncation import KeptLengths

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
    on: str = "local",
    num_workers: int | None = None,
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
        on: where parts of 65,536 pairs are scored: "local", on this machine; "ray", on a Ray that
            is started here for this call; "ray://HOST:PORT", or "auto": on a cluster that is there
            (docs/cluster.md). Elsewhere than in this process, `out` must be given, and corpus,
            checkpoints and `out` lie where each worker finds them under the same names. In float32
            on CPUs of one kind the table is the same to the bit.
        num_workers: local processes that share the cores, None for this one alone; on Ray, workers
            at most, None for as many as have room. Each of a Ray has a GPU if `device` is "cuda".
        overwrite: replace a table made from other input.
        stage: a folder on the own disk of this machine, and of each that has workers; corpus and
            checkpoints are copied into it first, unless they are there, and read there
            (`pycat.data.staging`).

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
            statistics; Ray or a cluster is missing, or workers were lost.

    Source: Chimoto et al. 2024, arXiv:2405.19462.
    """
    here, given = is_here(on, num_workers), checkpoints
    if not here and out is None:
        raise PycatError(
            f"on={on!r}, num_workers={num_workers}: workers write files; pass out, the folder of "
            "the table"
        )
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
    torch_device = choose_device(device) if here else _device_of_workers(device, dtype)
    has_device = torch_device.type == "cpu" or torch.cuda.is_available()
    own_device = torch_device if has_device else torch.device("cpu")
    if own_device.type == "cuda":
        require_triton()
    torch_dtype = choose_dtype(dtype, torch_device, SCORING_DTYPES)
    # How perplexity moves takes two checkpoints; monolingual text is ranked by perplexity itself.
    fewest = 1 if corpus.is_monolingual else 2
    loaded = load_adapters(checkpoints, corpus, min_checkpoints=fewest)
    models = [adapter.to(own_device) for adapter in loaded]
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
    scorer = _Scorer(corpus, models, kept, own_device, stats, batch_tokens, earlier)

    # Build the forward pass before touching the folder: an unusable dtype must not cost the old
    # table. A folder of the same recipe may be finished, and then needs no forward pass.
    started = time.perf_counter()
    if has_device and (out is None or recorded_recipe(Path(out), "scores") != recipe):
        scorer.use(torch_dtype)
    if out is None:
        return _make_table(scorer, torch_dtype, recipe, started, None, None)
    source = None if earlier is None else earlier.table.path
    if source is not None and source.resolve() == Path(out).resolve():
        raise OutputError(f"{out}: is the table to take scores from; name another folder")
    owned = (*SCORE_FILES, WORKING_FILES, f"{CLUSTERS_FOLDER}/*")
    with OutputFolder(
        Path(out), "scores", recipe, owned, overwrite, working=(WORKING_FILES,)
    ) as folder:
        if folder.manifest is not None:
            return ScoreTable.open(folder.path)
        workers = None
        if not here:
            scorer.drop_forward()
            load = _LoadScorer(
                CorpusAddress.of(corpus),
                absolute(given),
                [model.sha256 for model in models],
                torch_device.type,
                torch_dtype,
                stats,
                batch_tokens,
                too_long,
                None if stage is None else Path(stage).absolute(),
                None if earlier is None else SumsFile.of(earlier, corpus, folder.path.absolute()),
            )
            uses_gpu = torch_device.type == "cuda"
            workers = partial(map_parts, load, on=on, num_workers=num_workers, uses_gpu=uses_gpu)
        return _make_table(scorer, torch_dtype, recipe, started, folder, workers)


class _Rows(NamedTuple):
    """A part: rows of the corpus, and the file of their scores, if they are to have one."""

    first: int
    end: int
    path: Path | None


# Has workers score parts: `map_parts` with all but the parts given.
_Workers = Callable[[list[_Rows]], Generator[tuple[_Rows, pa.Table | None], None, None]]


def _device_of_workers(device: str, dtype: str) -> torch.device:
    """The device of workers elsewhere: each looks for it, and this machine need not have it."""
    if not device.startswith("cuda"):
        return choose_device(device)
    if dtype == "auto" and not torch.cuda.is_available():
        raise PycatError(
            "dtype 'auto' depends on the device, and this machine has no CUDA; pass 'float32' or "
            "'bfloat16'"
        )
    return torch.device("cuda")


def _make_table(
    scorer: "_Scorer",
    dtype: torch.dtype,
    recipe: Mapping[str, Any],
    started: float,
    folder: OutputFolder | None,
    workers: _Workers | None,
) -> ScoreTable:
    """Score what an interrupted run has not, and finish the table, in `folder` or in memory."""
    corpus, models, kept = scorer.corpus, scorer.models, scorer.kept
    if workers is None:
        scorer.use(dtype)
    with ExitStack() as stack:
        if scorer.earlier is not None:
            place = stack.enter_context(scratch_folder()) if folder is None else folder.path
            scorer.reused = ReusedSums(scorer.earlier, corpus, kept, place)
            scorer.taken = scorer.reused.file
        parts, flops = scorer.score_parts(folder, workers)
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
    elif scoring_s >= _MIN_UTILIZATION_S and workers is None:
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
        taken: the file of what `reused` holds, which another process may have made.
    """

    corpus: Corpus
    models: Sequence[Adapter]
    kept: KeptLengths
    device: torch.device
    stats: Stats
    batch_tokens: int | None
    earlier: Earlier | None = None
    reused: ReusedSums | None = None
    taken: SumsFile | None = None
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

    def drop_forward(self) -> None:
        """Free the memory of the forward pass."""
        self._forward = self._dtype = None

    @property
    def num_scored_tokens(self) -> int:
        """Target tokens of the pairs whose sums are not taken over."""
        taken = 0 if self.reused is None else self.reused.num_tokens
        return int(self.kept.tgt.sum()) - taken

    def score_parts(
        self, folder: OutputFolder | None, workers: _Workers | None
    ) -> tuple[list[pa.Table | Path], int]:
        """Score all pairs, a part at a time, but for the parts that `folder` holds already.

        Args:
            folder: where the parts go; None leaves them in memory.
            workers: score parts elsewhere, for a folder; None scores here.

        Returns:
            The parts in pair order, as files of the folder or as tables; and the floating-point
            operations of all of them under all models.
        """
        num_pairs, num_models = len(self.corpus), len(self.models)
        parts = []
        for index, first in enumerate(range(0, num_pairs, PART_PAIRS)):
            path = None if folder is None else part_path(folder.path.absolute(), index)
            parts.append(_Rows(first, min(first + PART_PAIRS, num_pairs), path))
        sizes, flops = {}, 0  # target tokens of each part under all models
        for part in parts:
            lengths = self.kept.rows(part.first, part.end - part.first)
            sizes[part] = int(lengths.tgt.sum()) * num_models
            flops += num_models * model_flops(self.models[0], lengths.src, lengths.tgt)
        resumes = folder is not None and folder.resumes
        todo = [part for part in parts if not (resumes and self._is_intact(part))]
        total = sum(sizes.values())
        done = total - sum(sizes[part] for part in todo)
        tables: dict[_Rows, pa.Table | Path | None] = {part: part.path for part in parts}
        with progress("score", total, "tokens x checkpoints", done) as advance:
            map_all = workers or partial(map_parts, lambda _: partial(self.score_part, advance))
            with closing(map_all(todo)) as scored:
                for part, table in scored:
                    if workers is not None:
                        advance(sizes[part])
                    if folder is not None:
                        folder.record()
                    else:
                        tables[part] = table
        return [table for table in tables.values() if table is not None], flops

    def score_part(self, advance: Callable[[int], None], part: _Rows) -> pa.Table | None:
        """Score rows of the corpus, and write them, or return their table if they have no path."""
        pairs = self.corpus[part.first : part.end]
        lengths = self.kept.rows(part.first, len(pairs))
        sums = self._part_sums(pairs, part.first, lengths, advance)
        table = pa.table(_columns(pairs, lengths, sums))
        if part.path is None:
            return table
        write_part(table, part.path)
        return None

    def _part_sums(
        self, part: Corpus, first: int, lengths: KeptLengths, advance: Callable[[int], None]
    ) -> NDArray[np.float64]:
        """Sums (S, K, n) of the n pairs of a part from row `first` on: taken over, or scored."""
        if self.taken is None:
            return self._score(part, lengths, advance)
        is_there, taken = self.taken.rows(first, len(part))
        rest = np.flatnonzero(~is_there)
        sums = np.empty((*taken.shape[:2], len(part)))
        sums[:, :, is_there] = taken
        advance(int(lengths.tgt[is_there].sum()) * len(self.models))
        if len(rest):
            pairs = self.corpus.subset(part.pair_ids[rest])
            sums[:, :, rest] = self._score(pairs, lengths.take(rest), advance)
        return sums

    def _is_intact(self, rows: _Rows) -> bool:
        """Whether an earlier run's part is there, can be read in full and holds these pairs."""
        path = rows.path
        if path is None or not path.is_file():
            return False
        part = self.corpus[rows.first : rows.end]
        lengths = self.kept.rows(rows.first, len(part))
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
        return corpus_sums(corpus, self.models, lengths, self._forward, self.batch_tokens, advance)


@dataclass(frozen=True)
class _LoadScorer:
    """Loads, in a worker, what the driver's scorer has, and scores parts of the same folder.

    Attributes:
        corpus, checkpoints, sha256s: of the driver; what the worker finds must be the same.
        device, dtype: of the forward pass.
        stats, batch_tokens, too_long, stage: as for `score`; the corpus knows of its own copy.
        taken: sums that need not be scored, in a file of the driver's.
    """

    corpus: CorpusAddress
    checkpoints: list[Checkpoint]
    sha256s: list[str]
    device: str
    dtype: torch.dtype
    stats: Stats
    batch_tokens: int | None
    too_long: str
    stage: Path | None
    taken: SumsFile | None

    def __call__(self, num_threads: int) -> Callable[[_Rows], pa.Table | None]:
        torch.set_num_threads(num_threads)
        corpus, checkpoints = self.corpus.open(), self.checkpoints
        if self.stage is not None:
            checkpoints = staged_checkpoints(checkpoints, self.stage)
        device = choose_device(self.device)
        if device.type == "cuda":
            require_triton()
        loaded = load_adapters(checkpoints, corpus, min_checkpoints=len(self.sha256s))
        models = [adapter.to(device) for adapter in loaded]
        for model, sha256 in zip(models, self.sha256s, strict=True):
            if model.sha256 != sha256:
                raise CheckpointError(
                    f"{model.name}: found other weights than where the command runs; let every "
                    "node see the same files"
                )
        kept = KeptLengths.of(corpus, models, self.too_long)
        scorer = _Scorer(corpus, models, kept, device, self.stats, self.batch_tokens)
        scorer.taken = self.taken
        scorer.use(self.dtype)
        return partial(scorer.score_part, lambda num_tokens: None)


def _auto_without_bfloat16(model: Adapter, exact_keep: float | None) -> torch.dtype:
    """What "auto" is on a CPU without products of bfloat16.

    int8 only where its errors can't change what is kept, and the extension runs the model.
    """
    can_be_int8 = exact_keep is not None and _core.cpu_isa() not in ("portable", "neon")
    if can_be_int8 and model.transformer_weights(1) is not None:
        return torch.int8
    return torch.float32


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
