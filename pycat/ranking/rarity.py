"""Rarity of a pair's target tokens in its corpus."""

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus

_BLOCK_PAIRS = 8192


def token_rarity(corpus: Corpus) -> NDArray[np.float32]:
    """Mean surprisal of each pair's target tokens under their frequencies, in bits a token.

    Args:
        corpus: an open Corpus, or a view, of N pairs; it is read twice, a block of pairs at a time.

    Returns:
        float32 (N,): mean over a pair's target tokens of -log2 of the token's share of all target
        tokens of this corpus. EOS does not count; a pair of EOS alone has 0.
    """
    counts = np.zeros(corpus.vocab_size, dtype=np.int64)
    blocks = [
        corpus.pair_ids[first : first + _BLOCK_PAIRS]
        for first in range(0, len(corpus), _BLOCK_PAIRS)
    ]
    for ids in blocks:
        counts += np.bincount(corpus.read_arrays(ids).tgt_tokens, minlength=len(counts))
    counts[corpus.eos_id] = 0
    bits = np.log2(max(1, counts.sum())) - np.log2(np.maximum(counts, 1))
    bits[corpus.eos_id] = 0.0
    rarity = np.empty(len(corpus), dtype=np.float32)
    first = 0
    for ids in blocks:
        batch = corpus.read_arrays(ids)
        tokens, lengths = batch.tgt_tokens, np.diff(batch.tgt_cu_seqlens)
        rows = np.repeat(np.arange(len(ids)), lengths)
        sums = np.bincount(rows, weights=bits[tokens], minlength=len(ids))
        nums = np.bincount(rows, weights=tokens != corpus.eos_id, minlength=len(ids))
        rarity[first : first + len(ids)] = sums / np.maximum(nums, 1)
        first += len(ids)
    return rarity
