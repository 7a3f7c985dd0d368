"""Criteria in SQL: expressions over the columns of a score table, evaluated by DuckDB."""

import re
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pycat.errors import PycatError
from pycat.scores.score_table import ScoreTable

_ROW = "pycat_row"


def evaluate(table: ScoreTable, expression: str) -> NDArray[np.float64]:
    """Values (N,) of an expression such as `nll_0 / num_tokens - ln(num_src_tokens)`.

    Columns stream through DuckDB a chunk at a time. Window functions (`… OVER ()`) see all rows;
    DuckDB holds what they need in memory.

    Raises:
        PycatError: DuckDB is missing or refuses the expression, or a value is NULL.
    """
    try:
        import duckdb
    except ModuleNotFoundError:
        raise PycatError(
            f"criterion 'sql: {expression}' needs DuckDB; pip install 'pycat-nmt[sql]'"
        ) from None
    # Read only the columns that the expression mentions.
    used = [name for name in table.names if re.search(rf"\b{name}\b", expression, re.IGNORECASE)]
    batches = _batches(table, used)
    first = next(batches)
    stream = pa.RecordBatchReader.from_batches(first.schema, chain([first], batches))
    values = np.full(len(table), np.nan)
    try:
        with duckdb.connect() as connection:
            connection.register("scores", stream)
            rows = connection.sql(
                f"SELECT {_ROW}, CAST(({expression}) AS DOUBLE) AS value FROM scores"
            )
            for batch in rows.to_arrow_reader(1 << 16):
                values[batch[_ROW].to_numpy()] = batch["value"].to_numpy(zero_copy_only=False)
    except duckdb.Error as error:
        raise PycatError(
            f"criterion 'sql: {expression}': {error}; expected an expression over the columns "
            f"{', '.join(table.names)}"
        ) from None
    return values


def _batches(table: ScoreTable, names: list[str]) -> Iterator[pa.RecordBatch]:
    for rows, chunk in table.chunks():
        columns = {name: pa.array(chunk.column(name)) for name in names}
        columns[_ROW] = pa.array(np.arange(rows.start, rows.stop))
        yield pa.RecordBatch.from_pydict(columns)
