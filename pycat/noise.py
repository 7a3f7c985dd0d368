"""Hard or noisy: what flags the pairs that are likely not translations of each other.

Raw variance of perplexity keeps copies, other languages and misaligned pairs, which a model learns
fast or never. Three signals see different kinds of noise; a pair is as suspect as its worst one:

    surprise   (nll - entropy) / tokens: the target is less likely than the model's own guesses are
    el2n       sum of ||p - onehot(y)|| / tokens: confidently wrong about it (Paul et al. 2021)
    lexical    the sides' tokens rarely keep each other's company elsewhere (`lexical.py`)

Long pairs are harder than short ones without being noise, so each signal is a rank among pairs of
like length. The guard of a selection drops those of the highest `noise_score` that the rules left.
docs/evidence.md has what this finds and what not.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pycat.corpus import Corpus
from pycat.errors import PycatError
from pycat.lexical import lexical_scores
from pycat.score_table import ScoreTable

# Columns that `measure_noise` adds to a score table.
NOISE_SCORE = "noise_score"
_LEXICAL = ("lexical_tgt", "lexical_src")
_NEEDED = ("el2n", "entropy")

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


def measure_noise(table: ScoreTable, corpus: Corpus) -> None:
    """Add `lexical_tgt`, `lexical_src` and `noise_score` to a table, but those that it has.

    The ranks are those among all pairs of the table, so the score is the same whatever rules drop.
    Holds 58 bytes a pair beside `lexical_scores` (measured on 3 million).

    Args:
        table: N pairs with the statistics el2n and entropy.
        corpus: of those N pairs.

    Raises:
        PycatError: the table lacks them.
        OSError: a column cannot be written.
    """
    check_noise(table)
    if NOISE_SCORE in table.names:
        return
    if not {*_LEXICAL} <= {*table.names}:
        found = lexical_scores(corpus)
        for name, scores in zip(_LEXICAL, (found.tgt, found.src), strict=True):
            if name not in table.names:
                table.add(name, scores)
    num_tokens = table.num_tokens
    lexical = np.minimum(*(table.column(name) for name in _LEXICAL))
    signals = [np.empty(len(table), np.float32), np.empty(len(table), np.float32), -lexical]
    for rows, chunk in table.chunks():
        sums = {name: chunk.column(name) for name in ("nll", *_NEEDED)}
        signals[0][rows] = surprise(sums["nll"], sums["entropy"], num_tokens[rows])
        signals[1][rows] = late_mean(sums["el2n"], num_tokens[rows])
    table.add(NOISE_SCORE, noise_score(signals, num_tokens))


def check_noise(table: ScoreTable) -> None:
    """Refuse a table that has not what `measure_noise` needs.

    Raises:
        PycatError: with the remedy.
    """
    if NOISE_SCORE not in table.names and not {*_NEEDED} <= {*table.statistics}:
        raise PycatError(
            f"{table.path or 'score table'}: the guard needs the statistics "
            f"{' and '.join(_NEEDED)}, found {', '.join(table.statistics)}; score again with "
            "--stats all (stats='all'), or pass --guard 0 (guard=0)"
        )
