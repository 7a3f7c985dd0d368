"""Pairs near the cut in float32, so that a reduced precision keeps the pairs that float32 keeps.

The order of cat_var is that of its root s, the standard deviation of the K perplexities. Errors of
those change s by at most their root mean square; in units of the pair's own perplexity, errors are
alike all over a corpus. So with c the largest |change of s| / perplexity, only pairs with
|s - cut| <= c * perplexity can change sides. Those are scored again in float32. They also show c
anew, so the band is widened until it is twice the largest change found.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pycat.errors import PycatError
from pycat.ranking.criteria import cat_var

# The band is so many times the largest change that was found.
_MARGIN = 2.0


class Deviation(NamedTuple):
    """Of the perplexities (N, K) over checkpoints: standard deviation and root mean square (N,)."""

    deviation: NDArray[np.float64]
    size: NDArray[np.float64]


class ExactCut(NamedTuple):
    """What was scored again.

    Attributes:
        rows: int64 (n,), ascending.
        sums: float64 (S, K, n), of float32's precision.
        facts: for the manifest: `criterion`, `keep`, `num_pairs` n, and `largest_change` of the
            standard deviation among them, over the pair's perplexity.
    """

    rows: NDArray[np.int64]
    sums: NDArray[np.float64]
    facts: dict[str, Any]


def deviation(nll: NDArray[np.float64], num_tokens: NDArray[np.int32]) -> Deviation:
    """How perplexity moves, from nll (N, K)."""
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
    """Score again what a cut that keeps the highest cat_var could take for the other side.

    Args:
        reduced: of N pairs in the reduced precision.
        num_tokens: (N,).
        keep: fraction of the pairs.
        sample: some rows (n,) and their nll (n, K) in float32.
        score_rows: sums (S, K, n) of rows in float32.

    Raises:
        PycatError: a perplexity overflows.
    """
    scores, count = reduced.deviation.copy(), max(1, round(keep * len(num_tokens)))
    done = np.zeros(len(scores), dtype=bool)
    found: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []

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
        found.append((again, sums))
        done[again] = True
        scores[again] = deviation(sums[0].T, num_tokens[again]).deviation
        change = max(change, largest_change(again, scores[again]))
    rows = np.concatenate([again for again, _ in found])
    order = np.argsort(rows)
    facts = {
        "criterion": "cat_var",
        "keep": keep,
        "num_pairs": len(rows),
        "largest_change": largest_change(rows, scores[rows]),
    }
    all_sums = np.concatenate([sums for _, sums in found], axis=2)
    return ExactCut(rows[order], all_sums[:, :, order], facts)


def _cut(scores: NDArray[np.float64], count: int) -> tuple[float, float]:
    """The highest score that is dropped, and the lowest that is kept."""
    last = len(scores) - count
    if last == 0:
        return float("-inf"), float(scores.min())
    cut = np.partition(scores, [last - 1, last])
    return float(cut[last - 1]), float(cut[last])
