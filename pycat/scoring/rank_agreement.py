"""How far a reduced precision ranks pairs as float32 does, on a sample of the corpus."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.ranking.criteria import cat_var
from pycat.report.histograms import spearman


def sample_rows(num_pairs: int) -> NDArray[np.int64]:
    """Rows spread evenly over a corpus: 2 % of it or 200, whichever is more, at most 2,000."""
    size = min(num_pairs, 2000, max(200, num_pairs // 50))
    return np.arange(size, dtype=np.int64) * num_pairs // size


def rank_agreement(
    nll: NDArray[np.float64], exact: NDArray[np.float64], num_tokens: NDArray[np.int32]
) -> dict[str, Any]:
    """Spearman's correlation of cat_var, and how far nll (N, K) is from `exact` (N, K).

    Returns:
        `criterion`, `spearman` (None where all pairs rank alike), `num_pairs`: those of the N whose
        variance is finite either way, and `mean_relative_nll_difference` over all N x K.
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
