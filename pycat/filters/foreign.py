"""Shares of a side's tokens that belong to the other side's language, by token frequencies.

Half-translated sentences, near copies and swapped sides show without a model of any language: their
words are frequent on the other side of this corpus and rare on their own.
"""

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.data.token_chunks import spread_rows, token_chunks
from pycat.runtime.progress import progress

# Token frequencies are counted on at most so many pairs, spread evenly over the corpus.
_MAX_SAMPLE = 1_000_000
# A token is foreign where the other side uses it e^1.5 = 4.5 times as often.
_MIN_LOG_RATIO = 1.5
# Tokens added to the length of a side: in a short sentence one name is a large share.
_EXTRA_LENGTH = 4


def foreign_shares(
    corpus: Corpus, *, max_sample: int = _MAX_SAMPLE
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Share (N,) of each source's and each target's tokens that are foreign.

    A token is foreign where its frequency is 4.5 times as high on the other side. The share is that
    of the side's length plus 4. Beside the result, memory does not grow with N.

    Args:
        corpus: N pairs. Where the sides have vocabularies of their own, all shares are 0.
        max_sample: frequencies are counted on at most so many pairs, spread evenly; every pair is
            measured.
    """
    if corpus.src_vocab_size is not None:
        return np.zeros(len(corpus), np.float32), np.zeros(len(corpus), np.float32)
    sample = spread_rows(corpus, max_sample)
    counts = np.ones((2, corpus.vocab_size))
    shares = np.empty((2, len(corpus)), np.float32)
    with progress("languages' shares", len(sample) + len(corpus), "pairs") as advance:
        for rows, *pair in token_chunks(corpus, sample):
            for count, side in zip(counts, pair, strict=True):
                count += np.bincount(side.tokens, minlength=len(count))
            advance(len(rows))
        src, tgt = np.log(counts) - np.log(counts.sum(1, keepdims=True))
        foreign_tokens = tgt - src > _MIN_LOG_RATIO, src - tgt > _MIN_LOG_RATIO  # (V,) each
        for rows, *pair in token_chunks(corpus):
            for share, side, is_foreign in zip(shares, pair, foreign_tokens, strict=True):
                num_foreign = np.bincount(side.row, is_foreign[side.tokens], len(side.lengths))
                share[rows] = num_foreign / (side.lengths + _EXTRA_LENGTH)
            advance(len(rows))
    return shares[0], shares[1]
