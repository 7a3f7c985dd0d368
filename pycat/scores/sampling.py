"""Samples of a score table in memory, for charts and percentiles of large tables."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pycat.scores.score_table import ScoreTable


def evenly(num_rows: int, max_rows: int) -> NDArray[np.int64]:
    """Every n-th row, `max_rows` at most; all rows where there are no more."""
    return np.arange(0, num_rows, max(1, -(-num_rows // max_rows)), dtype=np.int64)


def take(table: ScoreTable, rows: NDArray[np.int64]) -> ScoreTable:
    """Read ascending rows (n,) into a table in memory, with added columns, part by part."""
    pieces = []
    for part, chunk in table.chunks():
        first, end = np.searchsorted(rows, [part.start, part.stop])
        if first < end:
            columns = chunk.rows(chunk.names, 0, len(chunk))
            pieces.append(columns.take(pa.array(rows[first:end] - part.start)))
    manifest = {**table.manifest, "corpus_path": str(table.corpus_path)}
    return ScoreTable.from_arrow(pa.concat_tables(pieces), manifest)
