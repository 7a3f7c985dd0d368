"""Rank correlations of criteria, plain and partial.

A table of more than a million pairs is sampled: every n-th pair, a million at most. The standard
error is then about 0.001, and memory holds no whole table.
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
    """Every n-th row, a million at most."""
    return slice(0, None, max(1, -(-num_pairs // _MAX_PAIRS)))


def sampled_column(table: ScoreTable, name: str) -> NDArray[Any]:
    """A column of the table at `sampled_rows`."""
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
    """Measure how much of a ranking is explained by properties of the pairs, such as length.

    Args:
        scores: (N,).
        properties: (N,) each.

    Returns:
        `spearman`, the rank correlation with each property; `partial`, the partial rank
        correlation with each property given the others; `r2`, the share of the variance of the
        ranks that all properties explain by least squares. NaN where undefined.
    """
    ranks = np.stack([average_ranks(values) for values in (scores, *properties.values())])
    ranks -= ranks.mean(axis=1, keepdims=True)
    score, others = ranks[0], ranks[1:]
    spearman, partial = {}, {}
    for i, name in enumerate(properties):
        rest = np.delete(others, i, axis=0)
        spearman[name] = _correlation(score, others[i])
        partial[name] = _correlation(_residuals(score, rest), _residuals(others[i], rest))
    unexplained = _residuals(score, others)
    total = score @ score
    r2 = 1 - float(unexplained @ unexplained / total) if total > 0 else float("nan")
    return {"spearman": spearman, "partial": partial, "r2": r2}


def _correlation(a: Scores, b: Scores) -> float:
    """Correlation of two centred arrays of ranks (N,); NaN where either is rounding alone."""
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 1e-9 * len(a) ** 3 / 12 else float("nan")


def _residuals(values: Scores, others: NDArray[np.float64]) -> Scores:
    """Residuals of a least-squares fit of centred values (N,) by centred others (M, N)."""
    return values - others.T @ np.linalg.lstsq(others.T, values)[0]
