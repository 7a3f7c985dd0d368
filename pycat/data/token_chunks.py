"""The tokens of a corpus a chunk of pairs at a time, for what counts them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus

_CHUNK_PAIRS = 8192


class Side(NamedTuple):
    """One side of B pairs, back to back, without EOS and what follows it.

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
    num_rows, view = len(corpus) if rows is None else len(rows), corpus.files[2]
    tail = corpus.template.src_tail
    for first in range(0, num_rows, _CHUNK_PAIRS):
        end = min(first + _CHUNK_PAIRS, num_rows)
        some = np.arange(first, end) if rows is None else rows[first:end]
        batch = corpus.read(some if view is None else view[some])
        src = _side(batch.src_tokens.numpy(), batch.src_cu_seqlens.numpy(), tail)
        yield some, src, _side(batch.tgt_tokens.numpy(), batch.tgt_cu_seqlens.numpy(), 1)


def spread_rows(corpus: Corpus, most: int) -> NDArray[np.int64]:
    """At most so many rows, evenly spread over the corpus, ascending."""
    count = min(len(corpus), most)
    return np.linspace(0, len(corpus) - 1, count).astype(np.int64)


def _side(tokens: NDArray[np.int64], boundaries: NDArray[np.int32], tail: int) -> Side:
    """Without the last `tail` tokens of each sequence."""
    whole = np.diff(boundaries).astype(np.int64)
    lengths = np.maximum(whole - tail, 0)
    row = np.repeat(np.arange(len(whole)), whole)
    inside = np.arange(len(tokens)) < (boundaries[:-1] + lengths)[row]
    return Side(tokens[inside], row[inside], lengths)
