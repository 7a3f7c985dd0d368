"""Score tables: for each pair and checkpoint, the raw sums that every criterion is made of.

A folder of Parquet parts, rows in pair order, and `scores.json`. Columns: `pair` int64,
`num_src_tokens` and `num_tokens` int32 (EOS counted), and per statistic and checkpoint k the sum
over target tokens: `nll_k` float64, -log p in nats, and those of `pycat.score(stats="all")`. A
column added later has a file of its own beside each part. Any Parquet reader opens these files
without pycat.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from pycat.data.corpus import Corpus
from pycat.data.opening import reopen_corpus
from pycat.errors import OutputError, PycatError
from pycat.kernels.stat_names import STAT_NAMES
from pycat.runtime.locks import LOCK_FILE, Lock
from pycat.runtime.manifest import check_file, list_files, problem_with, read_manifest
from pycat.runtime.notebook import html_table, new_axes
from pycat.runtime.output import write_manifest
from pycat.runtime.publishing import remove_left_files
from pycat.runtime.workers import on_workers
from pycat.scores.criterion_names import CRITERION_NAMES
from pycat.scores.parts import (
    PAIR_COLUMNS,
    PART_PAIRS,
    SCORE_FILES,
    Part,
    column_names,
    column_path,
    part_path,
    read_schema,
    write_part,
)

# More threads would wait for each other: a part of reading a column holds the GIL.
_MAX_WORKERS = 8

# What a damaged table needs.
_REMEDY = "delete the table's folder and run 'pycat score' again"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# Names that no text given by a user takes: those of every table, and what strata are made by.
RESERVED_COLUMNS = (*PAIR_COLUMNS, "cluster", "score")
_Result = TypeVar("_Result")


class ScoreTable:
    """Statistics of N pairs under K checkpoints, in pair order.

    Opening reads no column. Each access to a column reads it from the disk again, so keep an array
    that is used twice. `chunks` streams tables that do not fit into memory.

    Attributes:
        manifest: hashes of corpus, tokenizer and checkpoints, dtype, device, versions.
        path: the folder, or None for a table in memory.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        names: Sequence[str],
        manifest: Mapping[str, Any],
        path: Path | None = None,
    ) -> None:
        """Tables come from `score`, `open`, `from_arrow` and `merge_scores`."""
        self._parts, self._base_names = list(parts), tuple(names)
        self.manifest, self.path = manifest, path
        self._num_pairs = sum(part.num_rows for part in parts)

    def __len__(self) -> int:
        return self._num_pairs

    def __repr__(self) -> str:
        return f"ScoreTable({len(self):,} pairs, {self.num_checkpoints} checkpoints, {self.path})"

    def _repr_html_(self) -> str:
        """Perplexity of the pairs under each checkpoint, as a table of a notebook."""
        rows = [[step, *row] for step, row in zip(self.steps, self._quartiles().T, strict=True)]
        title = f"ScoreTable: {len(self):,} pairs under {self.num_checkpoints} checkpoints"
        header = ("updates", "lower quartile of perplexity", "median", "upper quartile")
        return html_table(title, header, [[int(step), *map(float, row)] for step, *row in rows])

    def plot(self) -> Any:
        """Draw the perplexity of the pairs over the checkpoints: median and quartiles.

        Returns:
            The axes of matplotlib, which draws it (the extra `plot`).
        """
        axes = new_axes("Perplexity of the pairs", "updates", "perplexity")
        low, median, high = self._quartiles()
        axes.fill_between(self.steps, low, high, alpha=0.25, label="half of the pairs")
        axes.plot(self.steps, median, marker="o", label="median")
        axes.set_yscale("log")
        axes.legend()
        return axes

    def _quartiles(self) -> NDArray[np.float64]:
        """Quartiles of perplexity (3, K)."""
        num_tokens = self.num_tokens
        quartiles = np.empty((3, self.num_checkpoints))
        for k in range(self.num_checkpoints):
            means = self.column(f"nll_{k}") / num_tokens
            with np.errstate(over="ignore"):
                quartiles[:, k] = np.exp(np.quantile(means, (0.25, 0.5, 0.75)))
        return quartiles

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns: `pair`, `num_src_tokens`, `num_tokens`, `nll_0`, …, then added ones."""
        return (*self._base_names, *self._added)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names, without `_k`, of the sums that the table holds: `nll`, or `nll` and others."""
        return tuple(name for name in STAT_NAMES if f"{name}_0" in self._base_names)

    @property
    def num_checkpoints(self) -> int:
        """K."""
        return sum(_is_of(name, "nll") for name in self._base_names)

    def column(self, name: str) -> NDArray[Any]:
        """A column (N,), or a statistic of all checkpoints (N, K) by its bare name.

        Args:
            name: one of `names` or `statistics`.

        Returns:
            In the stored type; text as Python strings (dtype object).

        Raises:
            PycatError: no such column.
            OutputError: a part is gone or damaged.
        """
        names = self._columns_of(name)
        values: NDArray[Any] | None = None
        first = 0
        read_names = partial(Part.read, names=names, added=self._added)
        reads = on_workers(read_names, self._parts, _num_workers(len(self._parts)))
        for part, read in zip(self._parts, reads, strict=True):
            if values is None:
                dtype = read.schema.types[0].to_pandas_dtype()
                values = np.empty((len(self), len(names)), dtype)
            for k, column in enumerate(read.columns):
                values[first : first + part.num_rows, k] = column.to_numpy()
            first += part.num_rows
        assert values is not None
        return values if name not in self.names else values[:, 0]

    def chunks(self) -> Iterator[tuple[slice, "ScoreTable"]]:
        """Yield each part in pair order: its rows in this table, and a table of these alone."""
        first = 0
        for part in self._parts:
            if part.table is None:
                pieces = [part]
            else:
                starts = range(0, part.num_rows, PART_PAIRS)
                tables = [part.table.slice(start, PART_PAIRS) for start in starts]
                pieces = [Part(table.num_rows, table) for table in tables]
            for piece in pieces:
                rows = slice(first, first + piece.num_rows)
                yield rows, ScoreTable([piece], self._base_names, self.manifest, self.path)
                first = rows.stop

    def on_chunks(self, work: Callable[[slice, "ScoreTable"], _Result]) -> Iterator[_Result]:
        """Yield `work` of each of `chunks`, in pair order, computed by one thread a core.

        Each thread reads the columns it needs: Arrow and numpy release the GIL meanwhile.
        """
        num_workers = _num_workers(-(-len(self) // PART_PAIRS))
        return on_workers(lambda chunk: work(*chunk), self.chunks(), num_workers)

    def rows(self, names: Sequence[str], first: int, end: int) -> pa.Table:
        """Rows `first` to `end` of the columns `names`; reads only the parts that hold them."""
        read, start = [], 0
        for part in self._parts:
            lower, upper = max(first - start, 0), min(end - start, part.num_rows)
            if lower < upper:
                read.append(part.read(names, self._added).slice(lower, upper - lower))
            start += part.num_rows
        return pa.concat_tables(read or [self._parts[0].read(names, self._added).slice(0, 0)])

    @property
    def pair_ids(self) -> NDArray[np.int64]:
        """int64 (N,), ascending."""
        return self.column("pair")

    @property
    def num_src_tokens(self) -> NDArray[np.int32]:
        """Source tokens of each pair, int32 (N,), EOS counted."""
        return self.column("num_src_tokens")

    @property
    def num_tokens(self) -> NDArray[np.int32]:
        """Target tokens of each pair, int32 (N,), EOS counted."""
        return self.column("num_tokens")

    @property
    def nll(self) -> NDArray[np.float64]:
        """Float64 (N, K) in nats, checkpoints in training order."""
        return self.column("nll") if self.num_checkpoints else np.empty((len(self), 0))

    @property
    def ppl(self) -> NDArray[np.float64]:
        """Perplexity exp(nll / num_tokens), (N, K)."""
        with np.errstate(over="ignore"):
            ppl: NDArray[np.float64] = np.exp(self.nll / self.num_tokens[:, None])
        return ppl

    @property
    def steps(self) -> list[int]:
        """Training updates of the K checkpoints."""
        return list(self.manifest["steps"])

    @property
    def corpus_path(self) -> Path:
        """Folder of the corpus that was scored."""
        recorded = Path(self.manifest["corpus_path"])
        return recorded if self.path is None else (self.path / recorded).resolve()

    def corpus(self) -> Corpus:
        """Open the whole corpus that was scored; `view_of` limits it to the pairs of the table.

        Raises:
            CorpusError: the corpus is gone or damaged.
            PycatError: another corpus stands in its place.
        """
        corpus = reopen_corpus(self.corpus_path, self.manifest.get("corpus_options", {}))
        if corpus.manifest["id"] != self.manifest["corpus"]:
            raise PycatError(
                f"{corpus.path}: the corpus was made anew since it was scored; run 'pycat score' "
                "again"
            )
        return corpus

    def view_of(self, corpus: Corpus) -> Corpus:
        """View of the pairs of `corpus` that are in the table; all of it where none is missing."""
        if len(corpus) != len(self):
            return corpus.subset(self.pair_ids)
        # The parts of older tables are not compared with hashes; they might hold foreign pairs.
        if "files" not in self.manifest and (self.pair_ids != corpus.pair_ids).any():
            raise OutputError(
                f"{self.path or 'score table'}: holds other pair ids than {corpus.path}; {_REMEDY}"
            )
        return corpus

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "ScoreTable":
        """Open a folder; reads the schemas of the parts, and no column.

        Raises:
            OutputError: not a complete table, or a part is missing or damaged.
        """
        folder = Path(path)
        manifest = read_manifest(folder, "scores")
        for name in manifest.get("columns") or ():
            if not _NAME.fullmatch(name):
                raise OutputError(
                    f"{folder / 'scores.json'}: has a column named {name!r}, expected a letter, "
                    "then letters, digits and '_'; delete the folder and run 'pycat score' again"
                )
        num_checkpoints = len(manifest["steps"])
        parts: list[Part] = []
        expected: list[str] = []
        for i in range(manifest["num_parts"]):
            file = part_path(folder, i)
            check_file(folder, manifest, file.name, _REMEDY)
            names, num_rows = read_schema(file)
            if not expected:
                stats = [name for name in STAT_NAMES if name == "nll" or f"{name}_0" in names]
                expected = column_names(stats, num_checkpoints)
            if names != expected:
                raise OutputError(
                    f"{file}: found columns {', '.join(names)}, expected {', '.join(expected)}; "
                    "delete the table's folder and run 'pycat score' again"
                )
            for name in manifest.get("columns", ()):
                check_file(folder, manifest, column_path(file, name).name, _REMEDY)
                found = read_schema(column_path(file, name))
                if found != (["pair", name], num_rows):
                    raise OutputError(
                        f"{column_path(file, name)}: found columns {', '.join(found[0])} and "
                        f"{found[1]:,} rows, expected pair, {name} and {num_rows:,}; it belongs to "
                        f"another table: {_REMEDY}"
                    )
            parts.append(Part(num_rows, path=file))
        table = cls(parts, expected, manifest, folder)
        if len(table) != manifest["num_pairs"]:
            raise OutputError(
                f"{folder}: the parts hold {len(table):,} rows, expected "
                f"{manifest['num_pairs']:,}; delete the folder and run 'pycat score' again"
            )
        return table

    @classmethod
    def from_arrow(cls, table: pa.Table, manifest: Mapping[str, Any]) -> "ScoreTable":
        """Make a table in memory of these columns."""
        return cls([Part(table.num_rows, table)], table.column_names, manifest)

    def add(self, name: str, values: ArrayLike, made_by: Mapping[str, Any] | None = None) -> int:
        """Add a column: on the disk a file beside each part, and all of the files or none.

        Args:
            name: letters, digits and `_`; not the name of a column, statistic or criterion, except
                "rarity": a column of that name replaces the criterion.
            values: (N,) numbers, booleans or text, in the order of the pairs.
            made_by: how the column was made, in JSON's types, for the manifest's `made_by`.

        Returns:
            How many of the values are NaN.

        Raises:
            PycatError: the name is taken or not allowed, or the values have another shape or type.
            OSError: a file cannot be written; it is named, and none is left.
        """
        column = np.asarray(values)
        if column.shape != (len(self),):
            raise PycatError(
                f"column {name}: found shape {column.shape}, expected ({len(self)},), one value a "
                "pair of the table"
            )
        manifest = self._checked(name)
        values = _arrow(name, column)
        how = {} if made_by is None else {"made_by": {name: dict(made_by)}}
        if self.path is None:
            [part] = self._parts
            assert part.table is not None
            self._parts = [Part(part.num_rows, part.table.append_column(name, values))]
            self._base_names = (*self._base_names, name)
            self.manifest = {**self.manifest, **_with(self.manifest, how)}
        else:
            if len(self) != manifest["num_pairs"]:
                raise PycatError(
                    f"column {name}: this is a chunk of {self.path}; add to the whole table, as "
                    "ScoreTable.open returns it"
                )
            with Lock.of_folder(self.path):
                manifest = self._checked(name)
                self._remove_left_files()
                self.manifest = self._write_column(
                    name, values, {**manifest, **_with(manifest, how)}
                )
        return int(np.isnan(column).sum()) if column.dtype.kind == "f" else 0

    def remove(self, name: str) -> None:
        """Remove a column that was added.

        Raises:
            PycatError: the table has no such column, or it is none that was added.
        """
        if self.path is None:
            raise PycatError(f"column {name}: only a table on the disk removes columns")
        with Lock.of_folder(self.path):
            manifest = dict(read_manifest(self.path, "scores"))
            if name not in manifest.get("columns", ()):
                added = ", ".join(manifest.get("columns", ())) or "none"
                raise PycatError(
                    f"column {name}: {self.path} has none of this name that was added ({added})"
                )
            files = [column_path(part.path, name) for part in self._parts if part.path is not None]
            gone = {file.name for file in files}
            manifest["columns"] = [other for other in manifest["columns"] if other != name]
            for key, without in (("made_by", {name}), ("files", gone)):
                if key in manifest:
                    manifest[key] = {k: v for k, v in manifest[key].items() if k not in without}
            write_manifest(self.path / "scores.json", manifest)
            self.manifest = manifest
            for file in files:
                file.unlink(missing_ok=True)

    def check_name(self, name: str) -> None:
        """Refuse a name that `add` refuses.

        Raises:
            PycatError: the name is taken or not allowed.
        """
        self.sweep()
        self._checked(name)

    def sweep(self) -> None:
        """Delete what a process left beside the table that was killed while it added a column."""
        if self.path is not None and (self.path / LOCK_FILE).exists():
            # A running process deletes its own.
            with suppress(OutputError, OSError), Lock.of_folder(self.path):
                self._remove_left_files()

    def _remove_left_files(self) -> None:
        assert self.path is not None
        for pattern in ("scores.json", *SCORE_FILES):
            remove_left_files(self.path, pattern)

    def _checked(self, name: str) -> dict[str, Any]:
        """The manifest as it is now, in which the name is free."""
        # Another process may have added a column since the table was opened.
        manifest = dict(self.manifest if self.path is None else read_manifest(self.path, "scores"))
        check_column_name(name, (*self._base_names, *manifest.get("columns", ())))
        return manifest

    @property
    def _added(self) -> Sequence[str]:
        """Columns that were added: each has its own file beside every part."""
        added: Sequence[str] = () if self.path is None else self.manifest.get("columns", ())
        return added

    def _columns_of(self, name: str) -> list[str]:
        if name in self.names:
            return [name]
        if name in self.statistics:
            return [f"{name}_{k}" for k in range(self.num_checkpoints)]
        stat = next((stat for stat in STAT_NAMES if name == stat or _is_of(name, stat)), None)
        if stat is None:
            remedy = "add() it first"
        elif stat in self.statistics:
            remedy = f"checkpoints count from 0 to {self.num_checkpoints - 1}"
        else:
            remedy = "score again with --stats all (stats='all')"
        raise PycatError(
            f"{self.path or 'score table'}: found no column {name!r}, only "
            f"{', '.join((*self.statistics, *PAIR_COLUMNS, *self._added))}; {remedy}"
        )

    def _write_column(
        self, name: str, values: pa.Array, manifest: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the files of a column, then the manifest that lists them; return that."""
        assert self.path is not None
        written = {**manifest, "columns": [*manifest.get("columns", ()), name]}
        files = [column_path(part.path, name) for part in self._parts if part.path is not None]
        first = 0
        try:
            for part, file in zip(self._parts, files, strict=True):
                pairs = part.read(["pair"], ())["pair"]
                columns = {"pair": pairs, name: values.slice(first, part.num_rows)}
                write_part(pa.table(columns), file)
                first += part.num_rows
            if "files" in manifest:
                listed = list_files(self.path, [file.name for file in files])
                written["files"] = {**manifest["files"], **listed}
            write_manifest(self.path / "scores.json", written)
        except BaseException:
            # An interruption after the manifest was renamed comes too late: the column is there.
            if name not in read_manifest(self.path, "scores").get("columns", ()):
                for file in files:
                    file.unlink(missing_ok=True)
            raise
        return written

    def verify(self) -> None:
        """Read every part in full, and compare it with what the manifest and the table say.

        Raises:
            OutputError: names the first file that is not as it was written, or holds pair ids that
                do not ascend, or numbers of tokens below 1.
        """
        if self.path is not None:
            for name, listed in self.manifest.get("files", {}).items():
                if problem := problem_with(self.path, name, listed, full=True):
                    raise OutputError(f"{self.path / name}: {problem}; {_REMEDY}")
        last = -1
        for part in self._parts:
            columns = part.read(self.names, self._added)
            pairs = columns["pair"].to_numpy()
            if part.num_rows and (pairs[0] <= last or (np.diff(pairs) <= 0).any()):
                raise OutputError(f"{part.path}: its pair ids do not ascend; {_REMEDY}")
            for name in ("num_src_tokens", "num_tokens"):
                if part.num_rows and columns[name].to_numpy().min() < 1:
                    raise OutputError(f"{part.path}: {name} is below 1; {_REMEDY}")
            last = int(pairs[-1]) if part.num_rows else last


def check_column_name(name: str, taken: Sequence[str] = ()) -> None:
    """Refuse a name that no added column can have, or one of those that are taken.

    Raises:
        PycatError: the name is taken or not allowed.
    """
    if not _NAME.fullmatch(name):
        raise PycatError(f"column {name!r}: expected a letter, then letters, digits and '_'")
    if (
        name in taken
        or (name in CRITERION_NAMES and name != "rarity")
        or name in STAT_NAMES
        or any(_is_of(name, stat) for stat in STAT_NAMES)
    ):
        raise PycatError(f"column {name}: the table has or keeps this name; choose another")


def _with(manifest: Mapping[str, Any], how: Mapping[str, Any]) -> dict[str, Any]:
    """How the added columns were made, and one more of them."""
    return {key: {**manifest.get(key, {}), **added} for key, added in how.items()}


def _arrow(name: str, column: NDArray[Any]) -> pa.Array:
    """Values of an added column in their stored type; only text may be None."""
    try:
        values = pa.array(column)
    except pa.ArrowException as error:
        raise PycatError(f"column {name}: expected numbers, booleans or text ({error})") from None
    is_text = pa.types.is_string(values.type)
    is_number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if not (is_text or is_number or pa.types.is_boolean(values.type)):
        raise PycatError(f"column {name}: found {values.type}, expected numbers, booleans or text")
    if values.null_count and not is_text:
        raise PycatError(f"column {name}: {values.null_count:,} values are None; give NaN instead")
    return values


def as_table(scores: ScoreTable | str | PathLike[str]) -> ScoreTable:
    """The table itself, or opened by its path."""
    return scores if isinstance(scores, ScoreTable) else ScoreTable.open(scores)


def _num_workers(num_chunks: int) -> int:
    return min(num_chunks, len(os.sched_getaffinity(0)), _MAX_WORKERS)


def _is_of(name: str, stat: str) -> bool:
    """Whether a column is this statistic under some checkpoint."""
    return name.startswith(f"{stat}_") and name[len(stat) + 1 :].isdigit()
