"""What a table in a reduced precision owes to float32: how both rank, and, on request, one cut."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat.scores.score_table import read_part, statistic_columns, write_part
from pycat.scoring.exact_cut import Deviation, deviation, score_near_cut
from pycat.scoring.rank_agreement import rank_agreement, sample_rows

EXACT_FILE = "exact.parquet"

# What the file of exact pairs says besides them.
_FACTS = b"pycat.facts"


def reduced_precision(
    parts: list[pa.Table | Path],
    num_tokens: NDArray[np.int32],
    num_checkpoints: int,
    score_rows: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    exact_keep: float | None,
    exact_file: Path | None,
) -> dict[str, Any]:
    """Measure the rank agreement with float32, and make the pairs around a cut exact.

    Args:
        parts: of the table, in order; tables in memory are replaced, files rewritten.
        num_tokens: (N,).
        num_checkpoints: K.
        score_rows: sums (S, K, n) of rows (n,), in float32.
        exact_keep: the cut, or None for none.
        exact_file: where the exact pairs are kept, for tables on the disk. It is written before
            any part is changed, so that an interrupted run goes on from it.

    Returns:
        For the manifest: `rank_agreement`, and `exact_cut` with `exact_keep`.
    """
    if exact_file is not None and exact_file.is_file():
        exact = read_part(exact_file)
        facts: dict[str, Any] = json.loads(exact.schema.metadata[_FACTS])
    else:
        names = [f"nll_{k}" for k in range(num_checkpoints)]
        sample = sample_rows(len(num_tokens))
        pieces = [_read(part, names).take(own) for part, own in _by_part(parts, sample)]
        exact_nll = score_rows(sample)[0].T
        nll = _matrix(pa.concat_tables(pieces))
        facts = {"rank_agreement": rank_agreement(nll, exact_nll, num_tokens[sample])}
        if exact_keep is None:
            return facts
        moves = Deviation(np.empty(len(num_tokens)), np.empty(len(num_tokens)))
        first = 0
        for part in parts:
            nll = _matrix(_read(part, names))
            rows = slice(first, first + len(nll))
            moves.deviation[rows], moves.size[rows] = deviation(nll, num_tokens[rows])
            first = rows.stop
        cut = score_near_cut(moves, num_tokens, exact_keep, (sample, exact_nll), score_rows)
        facts["exact_cut"] = cut.facts
        columns = {"row": cut.rows, **statistic_columns(cut.sums)}
        exact = pa.table(columns).replace_schema_metadata({_FACTS: json.dumps(facts)})
        if exact_file is not None:
            write_part(exact, exact_file)
    _put(exact, parts)
    return facts


def _put(exact: pa.Table, parts: list[pa.Table | Path]) -> None:
    """Exact sums in place of the others, in the parts that have such pairs."""
    first = 0
    for i, (part, own) in enumerate(_by_part(parts, exact["row"].to_numpy())):
        some = slice(first, first + len(own))
        first = some.stop
        if len(own) == 0:
            continue
        table = _read(part)
        for name in exact.column_names[1:]:
            values = table[name].to_numpy().copy()
            values[own] = exact[name].to_numpy()[some]
            table = table.set_column(table.column_names.index(name), name, pa.array(values))
        if isinstance(part, Path):
            write_part(table, part)
        else:
            parts[i] = table


def _by_part(
    parts: list[pa.Table | Path], rows: NDArray[np.int64]
) -> list[tuple[pa.Table | Path, NDArray[np.int64]]]:
    """Each part, and which of its rows are among `rows`, which ascend."""
    sizes = [
        pq.read_metadata(part).num_rows if isinstance(part, Path) else part.num_rows
        for part in parts
    ]
    starts = np.concatenate(([0], np.cumsum(sizes)))
    ends = np.searchsorted(rows, starts)
    return [(part, rows[ends[i] : ends[i + 1]] - starts[i]) for i, part in enumerate(parts)]


def _read(part: pa.Table | Path, names: list[str] | None = None) -> pa.Table:
    if isinstance(part, Path):
        return read_part(part, names)
    return part if names is None else part.select(names)


def _matrix(table: pa.Table) -> NDArray[np.float64]:
    return np.column_stack([column.to_numpy() for column in table.columns])
