"""Tokens of a corpus as arrays, a chunk of pairs at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus

_CHUNK_PAIRS = 8192


class Side(NamedTuple):
    """One side of B pairs, packed, without the special tokens at the end.

    Attributes:
        tokens: int64 (T,).
        row: int64 (T,), the pair of each token, 0 to B - 1.
        lengths: int64 (B,), tokens of each pair.
    """

    tokens: NDArray[np.int64]
    row: NDArray[np.int64]
    lengths: NDArray[np.int64]


def token_chunks(
    corpus: Corpus, rows: NDArray[np.int64] | None = None
) -> Iterator[tuple[NDArray[np.int64], Side, Side]]:
    """Yield rows of the corpus with their sources and targets: `rows`, by default all of them."""
    num_rows, view = len(corpus) if rows is None else len(rows), corpus.files[2]
    tail = corpus.template.src_tail
    for first in range(0, num_rows, _CHUNK_PAIRS):
        end = min(first + _CHUNK_PAIRS, num_rows)
        chunk = np.arange(first, end) if rows is None else rows[first:end]
        batch = corpus.read_arrays(chunk if view is None else view[chunk])
        src = _side(batch.src_tokens, batch.src_cu_seqlens, tail)
        yield chunk, src, _side(batch.tgt_tokens, batch.tgt_cu_seqlens, 1)


def spread_rows(corpus: Corpus, max_rows: int) -> NDArray[np.int64]:
    """At most `max_rows` rows, evenly spread over the corpus, ascending."""
    count = min(len(corpus), max_rows)
    return np.linspace(0, len(corpus) - 1, count).astype(np.int64)


def _side(tokens: NDArray[np.int64], boundaries: NDArray[np.int32], tail: int) -> Side:
    """Drop the last `tail` of the tokens (T,) of each sequence; `boundaries` (B + 1,)."""
    all_lengths = np.diff(boundaries).astype(np.int64)
    lengths = np.maximum(all_lengths - tail, 0)
    row = np.repeat(np.arange(len(all_lengths)), all_lengths)
    inside = np.arange(len(tokens)) < (boundaries[:-1] + lengths)[row]
    return Side(tokens[inside], row[inside], lengths)
