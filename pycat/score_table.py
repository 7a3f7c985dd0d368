"""The score table: per pair and checkpoint the raw sums that every criterion is made of.

A folder of Parquet parts, rows in pair order, and `scores.json`. Columns: `pair` int64,
`num_src_tokens` and `num_tokens` int32 (EOS counted), and per checkpoint k `nll_k` float64: the sum
over target tokens of -log p, in nats. Any Parquet reader opens the parts without pycat.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat.errors import OutputError
from pycat.output import read_manifest, replacing

_CHUNK_PAIRS = 65_536
_COLUMNS = ("pair", "num_src_tokens", "num_tokens")


@dataclass(frozen=True)
class ScoreTable:
    """Statistics of N pairs under K checkpoints, in pair order.

    Attributes:
        pair_ids: int64 (N,), ascending.
        num_src_tokens, num_tokens: int32 (N,), EOS counted.
        nll: float64 (N, K) in nats, checkpoints in training order.
        manifest: hashes of corpus, tokenizer and checkpoints, dtype, device, versions.
        path: the folder, or None for a table in memory.
    """

    pair_ids: NDArray[np.int64]
    num_src_tokens: NDArray[np.int32]
    num_tokens: NDArray[np.int32]
    nll: NDArray[np.float64]
    manifest: Mapping[str, Any]
    path: Path | None = None
    more: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pair_ids)

    def __repr__(self) -> str:
        return f"ScoreTable({len(self):,} pairs, {self.nll.shape[1]} checkpoints, {self.path})"

    @cached_property
    def ppl(self) -> NDArray[np.float64]:
        """Perplexity exp(nll / num_tokens), (N, K)."""
        with np.errstate(over="ignore"):
            ppl: NDArray[np.float64] = np.exp(self.nll / self.num_tokens[:, None])
        return ppl

    @property
    def names(self) -> list[str]:
        """The columns, those of each checkpoint and added ones included."""
        return [*_COLUMNS, *(f"nll_{k}" for k in range(self.nll.shape[1])), *self.more]

    def column(self, name: str) -> NDArray[Any]:
        """One column (N,); a per-checkpoint statistic by its bare name, (N, K)."""
        known = {"pair": self.pair_ids, "nll": self.nll, **self.more}
        if name in known:
            return known[name]
        if name in _COLUMNS:
            return np.asarray(getattr(self, name))
        stat, _, k = name.rpartition("_")
        if stat == "nll":
            return self.nll[:, int(k)]
        return np.column_stack([self.more[f"{name}_{k}"] for k in range(self.nll.shape[1])])

    def chunks(self) -> Iterator[tuple[slice, "ScoreTable"]]:
        """The rows in pair order, about a part at a time."""
        for first in range(0, len(self), _CHUNK_PAIRS):
            rows = slice(first, min(first + _CHUNK_PAIRS, len(self)))
            yield (
                rows,
                ScoreTable(
                    self.pair_ids[rows],
                    self.num_src_tokens[rows],
                    self.num_tokens[rows],
                    self.nll[rows],
                    self.manifest,
                    more={name: values[rows] for name, values in self.more.items()},
                ),
            )

    def add(self, name: str, values: NDArray[Any]) -> None:
        """Add a column (N,), in memory."""
        self.__dict__["more"] = {**self.more, name: values}

    @property
    def steps(self) -> list[int]:
        """Training updates of the K checkpoints."""
        return list(self.manifest["steps"])

    @property
    def corpus_path(self) -> Path:
        """Folder of the corpus that was scored."""
        recorded = Path(self.manifest["corpus_path"])
        return recorded if self.path is None else (self.path / recorded).resolve()

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "ScoreTable":
        """Open a folder.

        Raises:
            OutputError: not a complete table, or a part is missing or damaged.
        """
        folder = Path(path)
        manifest = read_manifest(folder, "scores")
        parts = [read_part(part_path(folder, i)) for i in range(manifest["num_parts"])]
        columns = [*_COLUMNS, *(f"nll_{k}" for k in range(len(manifest["steps"])))]
        for i, part in enumerate(parts):
            if part.column_names != columns:
                raise OutputError(
                    f"{part_path(folder, i)}: found columns {', '.join(part.column_names)}, "
                    f"expected {', '.join(columns)}; delete the table's folder and run "
                    "'pycat score' again"
                )
        table = pa.concat_tables(parts)
        if table.num_rows != manifest["num_pairs"]:
            raise OutputError(
                f"{folder}: the parts hold {table.num_rows:,} rows, expected "
                f"{manifest['num_pairs']:,}; delete the folder and run 'pycat score' again"
            )
        return cls.from_arrow(table, manifest, folder)

    @classmethod
    def from_arrow(
        cls, table: pa.Table, manifest: Mapping[str, Any], path: Path | None = None
    ) -> "ScoreTable":
        """The table that these columns are."""
        num_checkpoints = sum(name.startswith("nll_") for name in table.column_names)
        return cls(
            table["pair"].to_numpy(),
            table["num_src_tokens"].to_numpy(),
            table["num_tokens"].to_numpy(),
            np.column_stack([table[f"nll_{k}"].to_numpy() for k in range(num_checkpoints)]),
            manifest,
            path,
            {
                name: table[name].to_numpy()
                for name in table.column_names
                if name not in _COLUMNS and not name.startswith("nll_")
            },
        )


def part_path(folder: Path, index: int) -> Path:
    """Where part `index` of a table lies."""
    return folder / f"part-{index:05}.parquet"


def write_part(table: pa.Table, path: Path) -> None:
    """Write a part so that it appears complete or not at all."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_part(path: Path) -> pa.Table:
    """Read a part.

    Raises:
        OutputError: missing or damaged.
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        table.column_names  # noqa: B018  damaged names decode on first use
    except (OSError, ValueError, pa.ArrowException) as error:
        raise OutputError(
            f"{path}: this part of the score table cannot be read ({error}); delete the table's "
            "folder and run 'pycat score' again"
        ) from None
    return table
