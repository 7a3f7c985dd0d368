"""Hard or noisy: what flags the pairs that are likely not translations of each other.

Raw variance of perplexity keeps copies, other languages and misaligned pairs, which a model learns
fast or never. Three signals see different kinds of noise; a pair is as suspect as its worst one:

    surprise   (nll - entropy) / tokens: the target is less likely than the model's own guesses are
    el2n       sum of ||p - onehot(y)|| / tokens: confidently wrong about it (Paul et al. 2021)
    lexical    the sides' tokens rarely keep each other's company elsewhere (`lexical.py`)

Long pairs are harder than short ones without being noise, so each signal is a rank among pairs of
like length. docs/evidence.md has what this finds and what not.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Checkpoints at the end over which a signal is averaged: earlier ones know no language yet.
_NUM_LATE = 2
_NUM_STRATA = 20


def surprise(nll: Floats, entropy: Floats, num_tokens: NDArray[np.int32]) -> Floats:
    """How much less likely targets are than what the late checkpoints expect, nats a token (N,).

    Expected is the entropy: a pair that is hard in a way the model knows of is at 0.

    Args:
        nll, entropy: sums over target tokens (N, K), checkpoints in training order.
        num_tokens: (N,).
    """
    return late_mean(nll - entropy, num_tokens)


def late_mean(sums: Floats, num_tokens: NDArray[np.int32]) -> Floats:
    """Mean (N,) over target tokens and the last two checkpoints, of sums over tokens (N, K)."""
    mean: Floats = sums[:, -_NUM_LATE:].mean(axis=1) / num_tokens
    return mean


def noise_score(signals: Sequence[NDArray[np.floating]], num_tokens: NDArray[np.int32]) -> Floats:
    """How suspect each pair is, in [0, 1): the highest of its ranks among pairs of like length.

    Args:
        signals: (N,) each, higher where noise is likelier.
        num_tokens: target tokens (N,), by which pairs are parted into 20 equal strata.

    Returns:
        (N,). Ties rank by row.
    """
    strata = np.array_split(np.argsort(num_tokens, kind="stable"), _NUM_STRATA)
    score = np.zeros(len(num_tokens))
    for rows in strata:
        for signal in signals:
            rank = np.empty(len(rows))
            rank[np.argsort(signal[rows], kind="stable")] = np.arange(len(rows)) / max(1, len(rows))
            score[rows] = np.maximum(score[rows], rank)
    return score


def guard(
    signals: Sequence[NDArray[np.floating]],
    num_tokens: NDArray[np.int32],
    kept: NDArray[np.bool_],
    keep: float,
    share: float = 0.5,
) -> NDArray[np.bool_]:
    """Which pairs (N,) are left once the most suspect of those in `kept` are dropped too.

    Args:
        signals, num_tokens: as `noise_score`, over all N pairs.
        kept: the pairs (N,) that the rules left; only they are ranked.
        keep: fraction of the N pairs that the selection is to keep in the end.
        share: of the (1 - keep) N pairs that have to go, so many are dropped here; the rest is for
            a criterion to choose. Never more than leaves the fraction `keep`.

    Raises:
        ValueError: `keep` or `share` is not between 0 and 1.
    """
    if not (0 < keep <= 1 and 0 <= share <= 1):
        raise ValueError(f"keep is {keep} and share {share}; expected fractions from 0 to 1")
    rows = np.flatnonzero(kept)
    wanted = round(share * (1 - keep) * len(kept))
    count = max(0, min(wanted, len(rows) - round(keep * len(kept))))
    suspect = noise_score([signal[rows] for signal in signals], num_tokens[rows])
    left = kept.copy()
    left[rows[np.argsort(-suspect, kind="stable")[:count]]] = False
    return left
