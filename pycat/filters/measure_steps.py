"""The steps of the measure stage: rules, lexical and fluency scores, here or by workers.

Each step leaves a file of columns of all pairs, which an interrupted run does not make again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.data.parallel_text import ParallelText
from pycat.data.reopening import CorpusAddress
from pycat.data.text_parts import text_parts
from pycat.errors import OutputError
from pycat.filters.duplicates import Copies, LoadCopies, hash_ranges, read_copies
from pycat.filters.fluency import FluencyModel, fluency
from pycat.filters.lexical import LexicalModel, lexical_scores
from pycat.filters.rule_measures import LoadLines, measure_file_options, measure_text
from pycat.runtime.output import OutputFolder, replacing
from pycat.runtime.part_files import Arrays, map_to_files, read_arrays
from pycat.runtime.progress import progress
from pycat.scores.parts import PART_PAIRS

# Columns of finished steps; and what workers measured of parts, until a step is whole.
STEP_FILES = "step-*.parquet"
PART_FILES = "step-*.npz"

_LEXICAL = ("lexical_tgt", "lexical_src", "gap_tgt", "gap_src")
_FLUENCY = ("order_tgt", "order_src", "ending")


class Steps:
    """The files of finished steps: columns of all pairs, a row group for each part."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._file_of = {name: path for path in paths for name in read_schema(path)[0]}

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return list(self._file_of)

    def column(self, name: str) -> NDArray[Any]:
        """A column (N,)."""
        return read_column(self._file_of[name], name)

    def part(self, index: int) -> pa.Table:
        """All columns of the pairs of a part."""
        columns: dict[str, pa.ChunkedArray] = {}
        for path in self._paths:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                group = file.read_row_group(index)
            columns |= dict(zip(group.column_names, group.columns, strict=True))
        return pa.table(columns)


def measure_steps(
    corpus: Corpus,
    folder: OutputFolder,
    num_threads: int | None,
    place: Mapping[str, Any] | None,
) -> Steps:
    """Run the steps that an earlier run did not finish; each leaves a file.

    Args:
        corpus, folder, num_threads: what to measure, where, and how many cores to use.
        place: `on` and `num_workers` of workers, None for this process.
    """

    def rules(path: Path) -> None:
        elsewhere = None if place is None else _TextElsewhere(corpus, folder, place)
        measure_text(corpus, path, num_threads=num_threads, elsewhere=elsewhere)

    def lexical(path: Path) -> None:
        if place is None:
            _write_step(_LEXICAL, lexical_scores(corpus, num_threads=num_threads), path)
        else:
            load = _LoadModel(CorpusAddress.of(corpus), "lexical")
            _write_step(_LEXICAL, _pairs_elsewhere(load, _LEXICAL, corpus, folder, place), path)

    def usual_order(path: Path) -> None:
        if place is None:
            _write_step(_FLUENCY, fluency(corpus), path)
        else:
            load = _LoadModel(CorpusAddress.of(corpus), "fluency")
            _write_step(_FLUENCY, _pairs_elsewhere(load, _FLUENCY, corpus, folder, place), path)

    steps = {"lexical": lexical, "fluency": usual_order}
    if corpus.has_text:
        steps = {"rules": rules, **steps}
    paths = []
    for name, step in steps.items():
        path = folder.path / f"step-{name}.parquet"
        if not (folder.resumes and path.is_file()):
            step(path)
            folder.record()
            for part in folder.path.glob(f"step-{name}-*.npz"):
                part.unlink()
        paths.append(path)
    return Steps(paths)


@dataclass(frozen=True)
class _TextElsewhere:
    """Workers that measure the text of a corpus, part by part, and then find duplicates in it."""

    corpus: Corpus
    folder: OutputFolder
    place: Mapping[str, Any]

    def measured(self, text: ParallelText) -> list[Path]:
        """Measure; returns the workers' files."""
        base = self.folder.path.absolute()
        with progress("rules", text.file_bytes / 1e6, "MB") as advance:
            return map_to_files(
                LoadLines(CorpusAddress.of(self.corpus)),
                ((base / f"step-rules-{part.index:05}.npz", part) for part in text_parts(text)),
                lambda part: advance(part.file_bytes / 1e6),
                resumes=self.folder.resumes,
                **self.place,
            )

    def copies(self, parts: list[tuple[Path, int]], num_rows: int) -> Callable[[str], Copies]:
        """Find copies in all columns; returns what reads those of one."""
        base, ranges = self.folder.path.absolute(), hash_ranges(num_rows)
        with progress("duplicates", len(ranges), "parts") as advance:
            paths = map_to_files(
                LoadCopies(tuple(parts)),
                [(base / f"step-rules-{each.column}-{each.number}.npz", each) for each in ranges],
                lambda _: advance(1),
                resumes=self.folder.resumes,
                **self.place,
            )

        def read(column: str) -> Copies:
            own = [path for path, each in zip(paths, ranges, strict=True) if each.column == column]
            return read_copies(own)

        return read


@dataclass(frozen=True)
class _LoadModel:
    """Loads, in a worker, the lexical or the fluency scores' tables, which score ranges of rows."""

    corpus: CorpusAddress
    step: str

    def __call__(self, num_threads: int) -> Callable[[tuple[int, int]], Arrays]:
        corpus = self.corpus.open()
        if self.step == "lexical":
            return partial(_scored, _LEXICAL, LexicalModel(corpus, num_threads=num_threads))
        return partial(_scored, _FLUENCY, FluencyModel(corpus))


def _scored(
    names: Sequence[str], model: LexicalModel | FluencyModel, rows: tuple[int, int]
) -> Arrays:
    return dict(zip(names, model.score(*rows), strict=True))


def _pairs_elsewhere(
    load: _LoadModel,
    names: Sequence[str],
    corpus: Corpus,
    folder: OutputFolder,
    place: Mapping[str, Any],
) -> list[NDArray[Any]]:
    """Let workers score all pairs; returns the columns of these names."""
    base, size = folder.path.absolute(), len(corpus)
    ranges = [(first, min(first + PART_PAIRS, size)) for first in range(0, size, PART_PAIRS)]
    title = {"lexical": "lexical scores"}.get(load.step, load.step)
    with progress(title, size, "pairs") as advance:
        paths = map_to_files(
            load,
            [(base / f"step-{load.step}-{i:05}.npz", rows) for i, rows in enumerate(ranges)],
            lambda rows: advance(rows[1] - rows[0]),
            resumes=folder.resumes,
            **place,
        )
    parts = [read_arrays(path) for path in paths]
    return [np.concatenate([part[name] for part in parts]) for name in names]


def _write_step(names: Sequence[str], columns: Sequence[NDArray[Any]], path: Path) -> None:
    table = pa.table(dict(zip(names, columns, strict=True)))
    with replacing(path) as temporary:
        pq.write_table(
            table, temporary, row_group_size=PART_PAIRS, **measure_file_options(table.schema)
        )


def read_schema(path: Path) -> tuple[dict[str, np.dtype[Any]], int]:
    """Names and types of the columns of a part, and its number of rows."""
    try:
        with pq.ParquetFile(path) as file:
            fields = file.schema_arrow
            dtypes = {field.name: np.dtype(field.type.to_pandas_dtype()) for field in fields}
            return dtypes, file.metadata.num_rows
    except (OSError, ValueError, NotImplementedError, pa.ArrowException) as error:
        raise unreadable(path, str(error)) from None


def read_column(path: Path, name: str) -> NDArray[Any]:
    """A column of a part or step."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            column: NDArray[Any] = file.read([name], use_threads=False)[name].to_numpy()
            if len(column) != file.metadata.num_rows:
                raise ValueError(f"{len(column):,} rows, expected {file.metadata.num_rows:,}")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise unreadable(path, f"column {name}: {error}") from None
    return column


def unreadable(path: Path, problem: str) -> OutputError:
    """The error that a part or step is gone or damaged."""
    return OutputError(
        f"{path}: these measures cannot be read ({problem}); delete {path.parent} and run 'pycat "
        "measure' again"
    )
