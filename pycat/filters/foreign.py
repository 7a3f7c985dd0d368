"""How much of each side is in the other side's language, by how often each side uses its tokens.

Half-translated sentences, copies in all but a few letters and swapped sides need no model of any
language: the words they leave stand often on the other side of this corpus, and seldom on theirs.
"""

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.data.token_chunks import spread_rows, token_chunks
from pycat.runtime.progress import progress

# Shares of tokens are counted on so many pairs, spread over the corpus.
_MAX_SAMPLE = 1_000_000
# A token is the other side's where that uses it e^1.5 = 4.5 times as often.
_CLEAR = 1.5
# So many tokens are added to the length: in few words a name is a large share.
_SHORT = 4


def foreign_shares(
    corpus: Corpus, *, max_sample: int = _MAX_SAMPLE
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Share (N,) of each source's and each target's tokens that are the other side's.

    Those are the tokens that make up 4.5 times as large a share of the other side's tokens. The
    length counts 4 tokens more than there are.

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
        for some, *pair in token_chunks(corpus):
            for share, side, foreign in zip(
                shares, pair, (tgt - src > _CLEAR, src - tgt > _CLEAR), strict=True
            ):
                number = np.bincount(side.row, foreign[side.tokens], len(side.lengths))
                share[some] = number / (side.lengths + _SHORT)
            advance(len(some))
    return shares[0], shares[1]
