"""What a criterion agrees with: rank correlations, plain and partial.

Of more than a million pairs every n-th is taken, a million or fewer: the standard error is then
about 0.001, and no table is held in memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.ranking.criteria import Scores
from pycat.ranking.ranks import average_ranks
from pycat.scores.score_table import ScoreTable

_MAX_PAIRS = 1_000_000


def sampled_rows(num_pairs: int) -> slice:
    """Every n-th row, a million or fewer."""
    return slice(0, None, max(1, -(-num_pairs // _MAX_PAIRS)))


def sampled_column(table: ScoreTable, name: str) -> NDArray[Any]:
    """The column at `sampled_rows`."""
    step = sampled_rows(len(table)).step
    return np.concatenate(
        [chunk.column(name)[-rows.start % step :: step] for rows, chunk in table.chunks()]
    )


def correlations(scores: Sequence[Scores]) -> NDArray[np.float64]:
    """Spearman's rank correlations (C, C) of C arrays (N,); NaN where either is constant."""
    ranks = [average_ranks(values) for values in scores]
    centred = [values - values.mean() for values in ranks]
    return np.array([[_correlation(a, b) for b in centred] for a in centred])


def explained_by(scores: Scores, properties: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """How much of a ranking properties of the pairs explain, such as length and rarity.

    Args:
        scores: (N,).
        properties: (N,) each.

    Returns:
        `spearman`, the rank correlation with each property; `partial`, the same with what the
        other properties explain taken from both sides; `r2`, the share of the variance of the
        ranks that all of them explain by least squares. NaN where it is not defined.
    """
    ranks = np.stack([average_ranks(values) for values in (scores, *properties.values())])
    ranks -= ranks.mean(axis=1, keepdims=True)
    score, others = ranks[0], ranks[1:]
    spearman, partial = {}, {}
    for i, name in enumerate(properties):
        rest = np.delete(others, i, axis=0)
        spearman[name] = _correlation(score, others[i])
        partial[name] = _correlation(_residuals(score, rest), _residuals(others[i], rest))
    left = _residuals(score, others)
    total = score @ score
    r2 = 1 - float(left @ left / total) if total > 0 else float("nan")
    return {"spearman": spearman, "partial": partial, "r2": r2}


def _correlation(a: Scores, b: Scores) -> float:
    """Of two centred (N,); NaN where either is nothing but rounding of ranks up to N."""
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 1e-9 * len(a) ** 3 / 12 else float("nan")


def _residuals(values: Scores, others: NDArray[np.float64]) -> Scores:
    """What least squares by centred others (M, N) leaves of centred values (N,)."""
    return values - others.T @ np.linalg.lstsq(others.T, values)[0]
