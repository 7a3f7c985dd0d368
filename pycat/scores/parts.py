"""Parquet parts of a score table: names, columns, reading and writing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat.errors import OutputError
from pycat.kernels.stat_names import STAT_NAMES
from pycat.runtime.output import replacing

# Pairs of one Parquet part: what an interrupted run can lose, and what streaming holds.
PART_PAIRS = 65_536

# What a scores folder may hold beside its manifest.
SCORE_FILES = ("part-*.parquet", "column-*.parquet", "exact.parquet")
# A folder of the table that holds unfinished clusters.
CLUSTERS_FOLDER = "clustering"

# Types of statistics that are not float32.
_STORED: dict[str, type] = {"nll": np.float64, "correct": np.int32}

PAIR_COLUMNS = ("pair", "num_src_tokens", "num_tokens")


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a table: in memory, or in files whose columns are read on request."""

    num_rows: int
    table: pa.Table | None = None
    path: Path | None = None

    def read(self, names: Sequence[str], added: Sequence[str]) -> pa.Table:
        """Read the columns `names`; each of those in `added` has its own file beside the part."""
        if self.table is not None:
            return self.table.select(names)
        assert self.path is not None
        in_part = [name for name in names if name not in added]
        files = [(self.path, in_part)] if in_part else []
        files += [(column_path(self.path, name), [name]) for name in names if name in added]
        columns: dict[str, pa.ChunkedArray] = {}
        for file, in_file in files:
            read = read_part(file, in_file)
            if read.num_rows != self.num_rows:
                raise OutputError(
                    f"{file}: found {read.num_rows:,} rows of {in_file[0]}, expected "
                    f"{self.num_rows:,}; delete the table's folder and run 'pycat score' again"
                )
            columns |= dict(zip(in_file, read.columns, strict=True))
        return pa.table({name: columns[name] for name in names})


def column_names(stats: Sequence[str], num_checkpoints: int) -> list[str]:
    """Columns of a table of these statistics, in order."""
    return [*PAIR_COLUMNS, *(f"{stat}_{k}" for stat in stats for k in range(num_checkpoints))]


def part_path(folder: Path, index: int) -> Path:
    """Path of part `index` of a table."""
    return folder / f"part-{index:05}.parquet"


def score_files(folder: Path) -> list[str]:
    """Names of the files of a table, but for its manifest."""
    return [file.name for pattern in SCORE_FILES for file in folder.glob(pattern)]


def column_path(part: Path, name: str) -> Path:
    """Path of the file that holds an added column for the pairs of `part`."""
    return part.with_name(part.name.replace("part", f"column-{name}", 1))


def statistic_columns(sums: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Columns `nll_0`, … (N,) of sums (S, K, N), each in its stored type."""
    return {
        f"{stat}_{k}": values.astype(_STORED.get(stat, np.float32))
        for stat, rows in zip(STAT_NAMES, sums, strict=False)
        for k, values in enumerate(rows)
    }


def stored_type(name: str) -> type:
    """The type in which a statistic's column, such as `nll_0`, is stored."""
    return _STORED.get(name.rpartition("_")[0], np.float32)


def _type_of(name: str) -> pa.DataType | None:
    """The stored type of a pair's column or a statistic's; None of other columns."""
    if name in PAIR_COLUMNS:
        return pa.int64() if name == "pair" else pa.int32()
    stat, _, k = name.rpartition("_")
    if stat not in STAT_NAMES or not k.isdigit():
        return None
    return pa.from_numpy_dtype(_STORED.get(stat, np.float32))


def write_part(table: pa.Table, path: Path) -> None:
    """Write a part so that it appears complete or not at all."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, **file_options(table.schema))


def file_options(schema: pa.Schema) -> dict[str, Any]:
    """How files of these columns are written, for `pyarrow.parquet.ParquetWriter`.

    Sums hardly repeat, so a dictionary would only add bytes. Their first bytes, second bytes and so
    on are stored as separate streams, which compress well because exponents are alike. Pair ids
    and line numbers ascend and are stored as differences. Compared with dictionaries and zstd, a
    real table of nll takes 0.65 of the bytes and is read in 0.22 of the time; a table of all
    statistics takes 0.72 of the bytes and 0.33 of the time.
    """
    split = [field.name for field in schema if pa.types.is_floating(field.type)]
    ascending = [
        field.name
        for field in schema
        if field.name in ("pair", "line") and pa.types.is_integer(field.type)
    ]
    encodings = dict.fromkeys(split, "BYTE_STREAM_SPLIT")
    return {
        "compression": "lz4",
        "use_dictionary": [name for name in schema.names if name not in (*split, *ascending)],
        "column_encoding": encodings | dict.fromkeys(ascending, "DELTA_BINARY_PACKED"),
        "write_page_checksum": True,
    }


def read_part(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """Read a part, or these columns of it.

    Raises:
        OutputError: missing or damaged.
    """
    try:
        # `pq.read_table` would first search the folder for a data set. Several callers read parts
        # at once, so one thread each and one column at a time is a fifth faster.
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            table = file.read(None if names is None else list(names), use_threads=False)
        table.column_names  # noqa: B018  decodes the names: damaged ones raise here
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    if names is not None and table.column_names != list(names):
        raise _unreadable(path, KeyError(", ".join(names)))
    return table


def read_schema(path: Path) -> tuple[list[str], int]:
    """Read the column names and the number of rows of a part.

    Raises:
        OutputError: missing or damaged, or a column of a pair or statistic has another type than
            pycat gives it.
    """
    try:
        with pq.ParquetFile(path) as file:
            for field in file.schema_arrow:
                wanted = _type_of(field.name)
                if wanted is not None and field.type != wanted:
                    raise ValueError(f"{field.name} is {field.type}, expected {wanted}")
            return list(file.schema_arrow.names), file.metadata.num_rows
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> OutputError:
    return OutputError(
        f"{path}: this part of the score table cannot be read ({error}); delete the table's "
        "folder and run 'pycat score' again"
    )
