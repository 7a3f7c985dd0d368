"""How scores and properties of pairs are distributed: histograms and tenths."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUM_BINS = 48


@dataclass(frozen=True)
class Ranking:
    """N pairs in corpus order, their scores, and which of them were kept.

    Attributes:
        values: float64 (N,), one score a pair.
        kept: bool (N,).
        surprise: float64 (N, K), mean nll in nats a token: finite where perplexity may not be.
    """

    values: NDArray[np.float64]
    kept: NDArray[np.bool_]
    surprise: NDArray[np.float64]

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Rows from the highest score to the lowest, among equals the lower row first."""
        return np.argsort(-self.values, kind="stable")

    @cached_property
    def groups(self) -> dict[str, NDArray[np.int64]]:
        """Rows of the kept and of the dropped, in that order."""
        kept = self.kept[self.order]
        return {"kept": self.order[kept], "dropped": self.order[~kept]}


@dataclass(frozen=True)
class Histogram:
    """Counts of kept and dropped pairs between `edges` (bins + 1,).

    The first and the last bin hold everything beyond them, infinities too; `log` says that the
    edges are evenly spaced in the logarithm.
    """

    edges: NDArray[np.float64]
    kept: NDArray[np.int64]
    dropped: NDArray[np.int64]
    log: bool


@dataclass(frozen=True)
class Tenth:
    """The pairs between two values, both included: about a tenth, equal values together."""

    low: float
    high: float
    num_pairs: int
    num_kept: int

    @property
    def share(self) -> float:
        """Share kept."""
        return self.num_kept / self.num_pairs


def histogram(values: NDArray[np.float64], kept: NDArray[np.bool_]) -> Histogram:
    """Count kept and dropped pairs by value, on a log scale where the upper tail is heavy."""
    # Beyond 1e300 a bin's width would leave float64; there a value counts as infinite.
    finite = values[np.abs(values) <= 1e300]
    if len(finite) == 0:
        finite = np.zeros(1)
    low, middle, high = np.quantile(finite, (0.001, 0.5, 0.999), method="nearest").tolist()
    log = low > 0 and high > 8 * middle
    if np.isclose(low, high, rtol=1e-9, atol=0):
        margin = abs(low) / 2 or 0.5
        edges = np.array([low - margin, low + margin])
    elif log:
        edges = np.geomspace(low, high, _NUM_BINS + 1)
    elif high < 1e6 and np.all(finite == np.rint(finite)):
        width = max(1.0, np.ceil((high - low) / _NUM_BINS))
        edges = np.arange(low - 0.5, high + width, width)
    else:
        edges = np.linspace(low, high, _NUM_BINS + 1)
    within = np.clip(values, edges[0], edges[-1])
    counts = [np.histogram(within[rows], edges)[0] for rows in (kept, ~kept)]
    return Histogram(edges, counts[0], counts[1], log)


def by_tenths(values: NDArray[Any], kept: NDArray[np.bool_]) -> list[Tenth]:
    """Count kept pairs in about ten groups of equal size by value; equal values stay together."""
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
