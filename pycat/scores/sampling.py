"""Some of a table's pairs, in memory: what charts and percentiles of large tables show."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pycat.scores.score_table import ScoreTable


def evenly(num_rows: int, most: int) -> NDArray[np.int64]:
    """Every n-th row, at most `most` of them; all rows where they are no more."""
    return np.arange(0, num_rows, max(1, -(-num_rows // most)), dtype=np.int64)


def take(table: ScoreTable, rows: NDArray[np.int64]) -> ScoreTable:
    """A table in memory of those rows, ascending, added columns included.

    The parts that hold them are read one at a time.
    """
    pieces = []
    for part, chunk in table.chunks():
        first, end = np.searchsorted(rows, [part.start, part.stop])
        if first < end:
            columns = chunk.rows(chunk.names, 0, len(chunk))
            pieces.append(columns.take(pa.array(rows[first:end] - part.start)))
    manifest = {**table.manifest, "corpus_path": str(table.corpus_path)}
    return ScoreTable.from_arrow(pa.concat_tables(pieces), manifest)
