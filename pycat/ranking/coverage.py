"""Coverage: a greedy choice of the pairs that add n-grams the choice has seldom seen.

    gain(pair) = sum over distinct n-grams f of both sides, n = 1 to 3, of ln(N / C(f)) d^S(f)
                 / tokens of both sides

N pairs are there to choose from, C(f) of them have f, and so have S(f) of those chosen so far; d is
0.5. The pair of the highest gain is chosen, one after the other; of equal gains the lower row comes
first. A gain within 10 % of the highest counts as the highest: 2.5 times as fast.
Source: feature decay, Biçici and Yuret 2015 (FDA5, IEEE/ACM TASLP 23(2)), with the n-grams
of the pool in place of those of a test set.

What is new is also what is broken, so noise has to be dropped before.
"""

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pycat._core import NgramCoverage
from pycat.data.corpus import Corpus
from pycat.runtime.progress import progress

DECAY = 0.5
_TOLERANCE = 0.1
# Cells of 4 bytes; more n-grams than cells share them by their hashes.
_MIN_CELLS, _MAX_CELLS = 1 << 20, 1 << 27
_CELLS_PER_TOKEN = 4
_CHUNK_PAIRS = 1 << 16


def coverage(
    corpus: Corpus,
    left: NDArray[np.bool_],
    budget: int,
    *,
    costs: NDArray[np.int32] | None = None,
    tolerance: float = _TOLERANCE,
    max_cells: int = _MAX_CELLS,
    num_threads: int | None = None,
) -> NDArray[np.float64]:
    """Choose pairs greedily until they use up a budget.

    The first 128 tokens of a side count, without EOS. Memory holds at most 512 MB of cells, and
    40 bytes a pair that is left.

    Args:
        corpus: N pairs.
        left: the pairs (N,) to choose from.
        budget: number of pairs to choose, or their cost.
        costs: of each pair (N,); 1 unless given.
        tolerance: a pair may be chosen that gains less than the best by this share; 0 is the exact
            greedy choice, which measures pairs several times as often.
        max_cells: most cells for n-grams, a power of two.
        num_threads: cores to use, None for all this process may use; the result is the same.

    Returns:
        Gains (N,): of a chosen pair when it was chosen, but no more than the pair before it;
        of other pairs that are left, what they would add in the end, but less than any chosen one;
        0 for pairs that are not left.

    Raises:
        CorpusError: a token lies outside the vocabulary, or a file has changed.
    """
    threads = len(os.sched_getaffinity(0)) if num_threads is None else num_threads
    gains = np.zeros(len(corpus))
    rows = np.flatnonzero(left)
    if len(rows) == 0:
        return gains
    src, tgt, view = corpus.files
    ids = rows if view is None else view[rows]
    num_tokens = sum(int(lengths[rows].sum()) for lengths in corpus.lengths)
    num_cells = min(_MIN_CELLS, max_cells)
    while num_cells < _CELLS_PER_TOKEN * num_tokens and 2 * num_cells <= max_cells:
        num_cells *= 2
    chooser = NgramCoverage(
        src, tgt, ids, num_cells=num_cells, decay=DECAY, tolerance=tolerance, num_threads=threads
    )
    with progress("n-grams", len(rows), "pairs") as advance:
        for begin, end in _chunks(len(rows)):
            chooser.count(begin, end)
            advance(end - begin)
    chooser.weigh()
    spent = 0
    is_chosen = np.zeros(len(rows), dtype=bool)
    with progress("coverage", budget, "pairs" if costs is None else "tokens") as advance:
        while spent < budget and len(chosen := chooser.choose(min(_CHUNK_PAIRS, budget - spent))):
            cost = len(chosen) if costs is None else int(costs[rows[chosen]].sum())
            advance(min(cost, budget - spent))
            spent += cost
            is_chosen[chosen] = True
    found = np.concatenate([chooser.measure(begin, end) for begin, end in _chunks(len(rows))])
    below = np.nextafter(found[is_chosen].min(initial=np.inf), np.float32(-np.inf))
    gains[rows] = np.where(is_chosen, found, np.minimum(found, below))
    return gains


def _chunks(size: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, size, _CHUNK_PAIRS):
        yield begin, min(begin + _CHUNK_PAIRS, size)
