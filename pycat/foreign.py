"""How much of each side is in the other side's language, by how often each side uses its tokens.

Half-translated sentences, copies in all but a few letters and swapped sides need no model of any
language: the words they leave stand often on the other side of this corpus, and seldom on theirs.
"""

import numpy as np
from numpy.typing import NDArray

from pycat.corpus import Corpus
from pycat.progress import progress
from pycat.token_chunks import Side, spread_rows, token_chunks

# Shares of tokens are counted on so many pairs, spread over the corpus.
_MAX_SAMPLE = 1_000_000
# So many tokens are added to the length: in few words a name is a large share.
_SHORT = 4
# A token counts for one or against where a side uses it e^1.5 = 4.5 times as often as the other.
_CLEAR = 1.5


def foreign_shares(
    corpus: Corpus, *, max_sample: int = _MAX_SAMPLE
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Share of sources and of targets (N,) that one run of the other side's tokens makes up.

    A token weighs ln(p_other / p_own) / 1.5, from -1 to 1; of all runs of a side's tokens the one
    of the largest sum counts (Kadane's maximum subarray), divided by the number of tokens and 4. So
    a name or a quotation makes little, and tokens that both sides use make nothing.

    Args:
        corpus: of N pairs; both sides must share one vocabulary.
        max_sample: so many pairs, spread evenly, are counted; every pair is measured. Memory does
            not grow with N beyond the result.
    """
    sample = spread_rows(corpus, max_sample)
    counts = np.ones((2, corpus.vocab_size))
    shares = np.empty((2, len(corpus)), np.float32)
    with progress("languages' shares", len(sample) + len(corpus), "pairs") as advance:
        for some, *pair in token_chunks(corpus, sample):
            for count, side in zip(counts, pair, strict=True):
                count += np.bincount(side.tokens, minlength=len(count))
            advance(len(some))
        src, tgt = np.log(counts) - np.log(counts.sum(1, keepdims=True))
        weight = np.clip((tgt - src) / _CLEAR, -1, 1)
        for some, *pair in token_chunks(corpus):
            for share, side, sign in zip(shares, pair, (1, -1), strict=True):
                best = best_runs(sign * weight[side.tokens], side)
                share[some] = best / (side.lengths + _SHORT)
            advance(len(some))
    return shares[0], shares[1]


def best_runs(weights: NDArray[np.float64], side: Side) -> NDArray[np.float64]:
    """Largest sum (B,) over a run of each pair's token weights (T,), which lie in [-1, 1]; or 0."""
    sums = np.cumsum(weights)
    # The lowest sum so far, of each pair alone: those of pairs before are lifted out of reach.
    lift = 2.0 * (1 + side.lengths.max(initial=0))
    before = sums - weights - lift * side.row
    lowest = np.minimum.accumulate(before) + lift * side.row
    best = np.zeros(len(side.lengths))
    np.maximum.at(best, side.row, sums - lowest)
    return best
