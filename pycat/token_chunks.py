"""The tokens of a corpus a chunk of pairs at a time, for what counts them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pycat.corpus import Corpus

_CHUNK_PAIRS = 8192


class Side(NamedTuple):
    """One side of B pairs, back to back, without EOS.

    Attributes:
        tokens: int64 (T,).
        row: (T,) the pair of each token, 0 to B - 1.
        lengths: (B,) tokens of each pair.
    """

    tokens: NDArray[np.int64]
    row: NDArray[np.int64]
    lengths: NDArray[np.int64]


def token_chunks(
    corpus: Corpus, rows: NDArray[np.int64] | None = None
) -> Iterator[tuple[NDArray[np.int64], Side, Side]]:
    """Rows of the corpus with their source and target; all rows unless given some."""
    if rows is None:
        rows = np.arange(len(corpus))
    for first in range(0, len(rows), _CHUNK_PAIRS):
        some = rows[first : first + _CHUNK_PAIRS]
        batch = corpus.read(corpus.pair_ids[some])
        src, tgt = (
            _side(tokens.numpy(), boundaries.numpy())
            for tokens, boundaries in (
                (batch.src_tokens, batch.src_cu_seqlens),
                (batch.tgt_tokens, batch.tgt_cu_seqlens),
            )
        )
        yield some, src, tgt


def spread_rows(corpus: Corpus, most: int) -> NDArray[np.int64]:
    """At most so many rows, evenly spread over the corpus, ascending."""
    count = min(len(corpus), most)
    return np.linspace(0, len(corpus) - 1, count).astype(np.int64)


def _side(tokens: NDArray[np.int64], boundaries: NDArray[np.int32]) -> Side:
    lengths = np.diff(boundaries).astype(np.int64)
    inside = np.ones(len(tokens), bool)
    inside[boundaries[1:] - 1] = False
    return Side(tokens[inside], np.repeat(np.arange(len(lengths)), lengths - 1), lengths - 1)
