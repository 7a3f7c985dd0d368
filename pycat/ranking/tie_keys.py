"""Keys that break ties between pairs by their content, whatever the order of the text."""

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.ranking.top_k import TieKeys

_BLOCK_PAIRS = 8192
_STEP = 0x9E3779B97F4A7C15


def tie_keys(corpus: Corpus, seed: int = 0, *, reverse: bool = False) -> TieKeys:
    """Hashes of the tokens of a corpus's pairs.

    Corpora are concatenated by domain. Equal scores must not prefer the domain that came first, and
    a text in another order must keep the same pairs. Pairs of the same tokens have the same key.

    Args:
        corpus: N pairs, or a view of them; rows of the keys are its rows.
        seed: another seed orders ties in another way.
        reverse: order ties from the other end.
    """
    offset = np.uint64(_STEP * (seed + 1) % 2**64)

    def keys(rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        found = np.empty(len(rows), dtype=np.uint64)
        for first in range(0, len(rows), _BLOCK_PAIRS):
            block = slice(first, first + _BLOCK_PAIRS)
            batch = corpus.read_arrays(corpus.pair_ids[rows[block]])
            src = _sequence_hashes(batch.src_tokens, batch.src_cu_seqlens)
            tgt = _sequence_hashes(batch.tgt_tokens, batch.tgt_cu_seqlens)
            found[block] = _mixed(_mixed(src + offset) + tgt)
        return ~found if reverse else found

    return keys


def _sequence_hashes(
    tokens: NDArray[np.integer], cu_seqlens: NDArray[np.int32]
) -> NDArray[np.uint64]:
    """A hash (B,) of each packed sequence: the sum of its tokens, each mixed with its place."""
    lengths = np.diff(cu_seqlens)
    place = np.arange(len(tokens)) - np.repeat(cu_seqlens[:-1], lengths)
    mixed = _mixed(tokens.astype(np.uint64) + np.uint64(_STEP) * (place + 1).astype(np.uint64))
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)))
    hashes: NDArray[np.uint64] = np.diff(sums[cu_seqlens])
    return hashes


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser, as csrc/base/hash.h has it."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
