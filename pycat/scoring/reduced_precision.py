"""Comparison of a reduced precision with float32, and float32 sums for the pairs near a cut.

`rank_agreement` compares both on a sample. `score_near_cut` scores pairs again in float32, so that
a cut by cat_var keeps the pairs that float32 keeps:

The order of cat_var is that of its root s, the standard deviation of the K perplexities. Errors of
the perplexities change s by at most their root mean square. Relative to a pair's own perplexity,
errors are about equal all over a corpus. So with c the largest |change of s| / perplexity, only
pairs with |s - cut| <= c * perplexity can change sides. These pairs are scored again in float32.
They also give a new value of c, so the band is widened until it is twice the largest change found.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat.errors import PycatError
from pycat.ranking.criteria import cat_var
from pycat.ranking.ranks import spearman
from pycat.scores.parts import (
    read_part,
    statistic_columns,
    write_part,
)

EXACT_FILE = "exact.parquet"

# Key of the metadata of the file of exact pairs, which holds the facts for the manifest.
_FACTS = b"pycat.facts"

# Width of the band, in units of the largest change found.
_MARGIN = 2.0


def reduced_precision(
    parts: list[pa.Table | Path],
    num_tokens: NDArray[np.int32],
    num_checkpoints: int,
    score_rows: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    exact_keep: float | None,
    exact_file: Path | None,
) -> dict[str, Any]:
    """Measure the rank agreement with float32, and put float32 sums into the pairs near a cut.

    Args:
        parts: of the table, in order; tables in memory are replaced, files rewritten.
        num_tokens: int32 (N,).
        num_checkpoints: K.
        score_rows: function from rows (n,) to their sums (S, K, n) in float32.
        exact_keep: fraction of the pairs above the cut, or None for no cut.
        exact_file: the file of exact pairs, for a table on the disk. It is written before any part
            is changed, so that an interrupted run resumes from it.

    Returns:
        For the manifest: `rank_agreement`, and `exact_cut` with `exact_keep`.
    """
    if exact_file is not None and exact_file.is_file():
        exact = read_part(exact_file)
        facts: dict[str, Any] = json.loads(exact.schema.metadata[_FACTS])
    else:
        names = [f"nll_{k}" for k in range(num_checkpoints)]
        sample = sample_rows(len(num_tokens))
        pieces = [_read(part, names).take(rows) for part, rows in _by_part(parts, sample)]
        exact_nll = score_rows(sample)[0].T  # (n, K)
        nll = _matrix(pa.concat_tables(pieces))  # (n, K)
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
    """Replace sums by the exact ones, in the parts that hold exact pairs."""
    first = 0
    for i, (part, rows) in enumerate(_by_part(parts, exact["row"].to_numpy())):
        in_exact = slice(first, first + len(rows))
        first = in_exact.stop
        if len(rows) == 0:
            continue
        table = _read(part)
        for name in exact.column_names[1:]:
            values = table[name].to_numpy().copy()
            values[rows] = exact[name].to_numpy()[in_exact]
            table = table.set_column(table.column_names.index(name), name, pa.array(values))
        if isinstance(part, Path):
            write_part(table, part)
        else:
            parts[i] = table


def _by_part(
    parts: list[pa.Table | Path], rows: NDArray[np.int64]
) -> list[tuple[pa.Table | Path, NDArray[np.int64]]]:
    """Each part, and the rows within it of those among the ascending `rows`."""
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


def sample_rows(num_pairs: int) -> NDArray[np.int64]:
    """Rows spread evenly over a corpus: 2 % or 200, whichever is more, but at most 2,000."""
    size = min(num_pairs, 2000, max(200, num_pairs // 50))
    return np.arange(size, dtype=np.int64) * num_pairs // size


def rank_agreement(
    nll: NDArray[np.float64], exact: NDArray[np.float64], num_tokens: NDArray[np.int32]
) -> dict[str, Any]:
    """Compare nll (N, K) with `exact` (N, K), and the ranks of cat_var by either.

    Returns:
        `criterion`; `spearman`, the rank correlation (None where all pairs rank alike) over the
        `num_pairs` pairs whose variances are finite; `mean_relative_nll_difference` over all N x K.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        scores = [cat_var(np.exp(sums / num_tokens[:, None])) for sums in (nll, exact)]
        difference = np.abs(nll / exact - 1)
    finite = np.isfinite(scores[0]) & np.isfinite(scores[1])
    correlation = spearman(scores[0][finite], scores[1][finite]) if finite.any() else math.nan
    return {
        "criterion": "cat_var",
        "spearman": None if math.isnan(correlation) else correlation,
        "num_pairs": int(finite.sum()),
        "mean_relative_nll_difference": float(difference[exact > 0].mean()),
    }


class Deviation(NamedTuple):
    """Standard deviation and root mean square (N,) of perplexities (N, K) over checkpoints."""

    deviation: NDArray[np.float64]
    size: NDArray[np.float64]


class ExactCut(NamedTuple):
    """Pairs that were scored again in float32.

    Attributes:
        rows: int64 (n,), ascending.
        sums: float64 (S, K, n).
        facts: for the manifest: `criterion`, `keep`, `num_pairs` n, and `largest_change` of the
            standard deviation among them, over the pair's perplexity.
    """

    rows: NDArray[np.int64]
    sums: NDArray[np.float64]
    facts: dict[str, Any]


def deviation(nll: NDArray[np.float64], num_tokens: NDArray[np.int32]) -> Deviation:
    """`Deviation` of the perplexities, from nll (N, K)."""
    with np.errstate(all="ignore"):
        ppl = np.exp(nll / num_tokens[:, None])
        return Deviation(np.sqrt(cat_var(ppl)), np.sqrt(np.square(ppl).mean(axis=1)))


def score_near_cut(
    reduced: Deviation,
    num_tokens: NDArray[np.int32],
    keep: float,
    sample: tuple[NDArray[np.int64], NDArray[np.float64]],
    score_rows: Callable[[NDArray[np.int64]], NDArray[np.float64]],
) -> ExactCut:
    """Score again the pairs that a cut by cat_var could put on the wrong side.

    Args:
        reduced: of N pairs in the reduced precision.
        num_tokens: int32 (N,).
        keep: fraction of the pairs, those of the highest cat_var, above the cut.
        sample: rows (n,) and their nll (n, K) in float32.
        score_rows: function from rows (n,) to their sums (S, K, n) in float32.

    Raises:
        PycatError: a perplexity overflows.
    """
    scores, count = reduced.deviation.copy(), max(1, round(keep * len(num_tokens)))
    done = np.zeros(len(scores), dtype=bool)
    rescored: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []

    def largest_change(rows: NDArray[np.int64], exact: NDArray[np.float64]) -> float:
        with np.errstate(all="ignore"):
            changes = np.abs(exact - reduced.deviation[rows]) / reduced.size[rows]
        return float(np.max(changes, initial=0.0, where=np.isfinite(changes)))

    if np.isnan(reduced.deviation).any():
        row = int(np.flatnonzero(np.isnan(reduced.deviation))[0])
        raise PycatError(
            f"exact_keep: the perplexity of the pair in row {row:,} is beyond what a number holds, "
            "so no cut by cat_var can be made; leave exact_keep out and select by cat_var_log"
        )
    change = largest_change(sample[0], deviation(sample[1], num_tokens[sample[0]]).deviation)
    while True:
        low, high = _cut(scores, count)
        with np.errstate(all="ignore"):
            band = _MARGIN * change * reduced.size
            again = np.flatnonzero((scores >= low - band) & (scores <= high + band) & ~done)
        if len(again) == 0:
            break
        sums = score_rows(again)
        rescored.append((again, sums))
        done[again] = True
        scores[again] = deviation(sums[0].T, num_tokens[again]).deviation
        change = max(change, largest_change(again, scores[again]))
    rows = np.concatenate([again for again, _ in rescored])
    order = np.argsort(rows)
    facts = {
        "criterion": "cat_var",
        "keep": keep,
        "num_pairs": len(rows),
        "largest_change": largest_change(rows, scores[rows]),
    }
    all_sums = np.concatenate([sums for _, sums in rescored], axis=2)
    return ExactCut(rows[order], all_sums[:, :, order], facts)


def _cut(scores: NDArray[np.float64], count: int) -> tuple[float, float]:
    """The highest dropped score, and the lowest kept score."""
    last = len(scores) - count
    if last == 0:
        return float("-inf"), float(scores.min())
    cut = np.partition(scores, [last - 1, last])
    return float(cut[last - 1]), float(cut[last])
