"""Ranks, their correlation, and perplexity."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def average_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks (N,), from 1 for the lowest value to N; equal values share their average rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    average: NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return average[inverse]


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Spearman's rank correlation of two arrays (N,); NaN where either is constant."""
    x, y = (average_ranks(values) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else float("nan")


def perplexity(surprise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Perplexity of a mean nll in nats a token; infinite where the nll exceeds 709."""
    with np.errstate(over="ignore"):
        return np.exp(surprise)
