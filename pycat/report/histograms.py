"""Distributions of scores and properties over kept and dropped pairs."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUM_BINS = 48


@dataclass(frozen=True)
class Ranking:
    """The scores of N pairs, in corpus order, and whether each pair was kept.

    Attributes:
        values: score of each pair, float64 (N,).
        kept: whether each pair was kept, bool (N,).
        surprise: mean nll in nats a token at each checkpoint, float64 (N, K). It stays finite
            where perplexity overflows.
    """

    values: NDArray[np.float64]
    kept: NDArray[np.bool_]
    surprise: NDArray[np.float64]

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Rows from the highest score to the lowest; of equal scores the lower row comes first."""
        return np.argsort(-self.values, kind="stable")

    @cached_property
    def groups(self) -> dict[str, NDArray[np.int64]]:
        """Rows of the "kept" and of the "dropped" pairs, each in the order of the ranking."""
        kept = self.kept[self.order]
        return {"kept": self.order[kept], "dropped": self.order[~kept]}


@dataclass(frozen=True)
class Histogram:
    """Histogram of kept and of dropped pairs.

    Attributes:
        edges: bounds of the bins, (bins + 1,).
        kept, dropped: pairs in each bin, (bins,). The first and the last bin also count the values
            beyond them, infinite ones included.
        log: the edges are evenly spaced in the logarithm.
    """

    edges: NDArray[np.float64]
    kept: NDArray[np.int64]
    dropped: NDArray[np.int64]
    log: bool


@dataclass(frozen=True)
class Tenth:
    """About a tenth of the pairs: those between two values, both included."""

    low: float
    high: float
    num_pairs: int
    num_kept: int

    @property
    def share(self) -> float:
        """Share of the pairs that was kept."""
        return self.num_kept / self.num_pairs


def histogram(values: NDArray[np.float64], kept: NDArray[np.bool_]) -> Histogram:
    """Count kept and dropped pairs by value (N,), on a log scale where the upper tail is heavy."""
    # Values beyond 1e300 are taken as infinite, since the width of a bin would overflow.
    finite = values[np.abs(values) <= 1e300]
    if len(finite) == 0:
        finite = np.zeros(1)
    low, middle, high = np.quantile(finite, (0.001, 0.5, 0.999), method="nearest").tolist()
    log = low > 0 and high > 8 * middle
    whole = high < 1e6 and bool(np.all(finite == np.rint(finite)))
    if np.isclose(low, high, rtol=1e-9, atol=0):
        margin = abs(low) / 2 or 0.5
        edges = np.array([low - margin, low + margin])
    elif log and whole:
        # Between whole numbers, and half as many, so that no bin of small values stays empty.
        edges = np.unique(np.rint(np.geomspace(low, high + 1, _NUM_BINS // 2 + 1))) - 0.5
    elif log:
        edges = np.geomspace(low, high, _NUM_BINS + 1)
    elif whole:
        width = max(1.0, np.ceil((high - low) / _NUM_BINS))
        edges = np.arange(low - 0.5, high + width, width)
    else:
        edges = np.linspace(low, high, _NUM_BINS + 1)
    within = np.clip(values, edges[0], edges[-1])
    counts = [np.histogram(within[rows], edges)[0] for rows in (kept, ~kept)]
    return Histogram(edges, counts[0], counts[1], log)


def by_tenths(values: NDArray[Any], kept: NDArray[np.bool_]) -> list[Tenth]:
    """Count kept pairs in about ten equal groups by value (N,); equal values stay together."""
    ordered = np.sort(values)
    bounds = np.unique(ordered[[len(ordered) * i // 10 for i in range(1, 10)]])
    groups = np.searchsorted(bounds, values, side="right")
    return [
        Tenth(
            float(values[rows].min()),
            float(values[rows].max()),
            int(rows.sum()),
            int(kept[rows].sum()),
        )
        for group in range(len(bounds) + 1)
        if (rows := groups == group).any()
    ]
