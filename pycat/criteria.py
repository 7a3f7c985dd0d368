"""Criteria: from a pair's statistics to one number. Higher ranks first.

Each is a pure function of arrays; `CRITERIA` names those that can be asked for by name.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pycat.errors import PycatError
from pycat.score_table import ScoreTable

Scores = NDArray[np.float64]
Criterion = Callable[[ScoreTable], Scores]


def cat_var(ppl: NDArray[np.float64]) -> Scores:
    """Population variance of perplexity (N, K) over checkpoints: (N,).

    Source: CAT-VAR, Chimoto et al. 2024, arXiv:2405.19462.
    """
    variance: Scores = ppl.var(axis=1)
    return variance


def cat_diff(ppl: NDArray[np.float64]) -> Scores:
    """Perplexity (N, K) at the first checkpoint minus that at the last: (N,).

    Source: CAT-DIFF, Chimoto et al. 2024, arXiv:2405.19462.
    """
    difference: Scores = ppl[:, 0] - ppl[:, -1]
    return difference


def length(num_tokens: NDArray[np.int32]) -> Scores:
    """Target tokens (N,), EOS counted: the baseline that keeps the longest."""
    return num_tokens.astype(np.float64)


def random(pair_ids: NDArray[np.int64], seed: int) -> Scores:
    """A number in [0, 1) that depends on pair id and seed alone: (N,).

    Source: the output function of SplitMix64, Steele, Lea and Flood 2014 (OOPSLA).
    """
    stream = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    z = pair_ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + stream
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    uniform: Scores = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


CRITERIA: dict[str, Callable[[ScoreTable, int], Scores]] = {
    "cat_var": lambda table, seed: cat_var(table.ppl),
    "cat_diff": lambda table, seed: cat_diff(table.ppl),
    "length": lambda table, seed: length(table.num_tokens),
    "random": lambda table, seed: random(table.pair_ids, seed),
}


def evaluate_criterion(table: ScoreTable, by: str | Criterion, seed: int = 0) -> Scores:
    """Scores (N,) of a criterion given by name, or as a function of the table.

    Raises:
        PycatError: no criterion of that name, or a score is not a number.
    """
    if callable(by):
        scores, name = np.asarray(by(table), dtype=np.float64), getattr(by, "__name__", "by")
    elif by in CRITERIA:
        scores, name = CRITERIA[by](table, seed), by
    else:
        raise PycatError(f"criterion {by!r} is not known; expected one of {', '.join(CRITERIA)}")
    if scores.shape != (len(table),):
        raise PycatError(
            f"criterion {name} returned shape {scores.shape}; expected ({len(table)},), one score "
            "a pair"
        )
    if np.isnan(scores).any():
        pair = int(table.pair_ids[np.isnan(scores)][0])
        raise PycatError(f"criterion {name} is not a number for pair {pair:,}; it cannot be ranked")
    return scores
