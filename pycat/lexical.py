"""How well each side's tokens are explained by the other's: IBM Model 1 on the corpus itself.

A pair of sentences that do not belong together has words whose usual translations are missing. A
proxy that trained for minutes hardly sees that yet; counting which tokens keep company does.

    t(y | x) from a few rounds of expectation-maximisation over pairs (Brown et al. 1993, section 4)
    score    = mean over tokens y of ln( mean over tokens x of t(y | x) / p(y) )

p(y) is the token's own frequency and NULL one of the x. A pair's own counts are taken out of t
before it is scored: each token occurs in its own company, noise too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pycat.corpus import Corpus
from pycat.progress import progress

# Cells of the table, into which pairs of tokens are hashed: 128 MB with their former values.
_TABLE_BITS = 24
# Tables are estimated on so many pairs, spread over the corpus; more change little.
_MAX_SAMPLE = 200_000
_NUM_ROUNDS = 4
# Of a longer side the first so many tokens count: cost grows with the product of both sides.
_MAX_TOKENS = 128
_CHUNK_CELLS = 4_000_000
_FLOOR = 1e-7


def lexical_scores(
    corpus: Corpus, *, max_sample: int = _MAX_SAMPLE
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lexical scores (N,) of the targets given their sources, and of the sources given theirs.

    Near 0 where the other side tells nothing of a side's tokens, and higher the more it does. The
    first is low where the target says what the source does not, the second where it leaves
    something out.

    Args:
        corpus: of N pairs.
        max_sample: so many pairs, spread evenly, estimate the table. Every pair is scored, and in
            the sample each without its own counts. Memory does not grow with N beyond the result.
    """
    return _scores(corpus, 0, max_sample), _scores(corpus, 1, max_sample)


@dataclass(frozen=True)
class _Cells:
    """Every token x, NULL included, beside every token y of some pairs.

    Of C cells: `x` its token, `at` its place in the table, `column` the token y it belongs to. Of Y
    tokens y: `y` itself, its pair `row` and `num_x`, how many x stand beside it.
    """

    x: NDArray[np.int64]
    at: NDArray[np.int64]
    column: NDArray[np.int64]
    y: NDArray[np.int64]
    row: NDArray[np.int64]
    num_x: NDArray[np.int64]

    def sums(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of the values (C,) of each y (Y,)."""
        return np.bincount(self.column, values, minlength=len(self.y)).astype(np.float64)


def _scores(corpus: Corpus, given: int, max_sample: int) -> NDArray[np.float32]:
    """Mean log ratio (N,) of the other side's tokens, given side 0 (source) or 1 (target)."""
    num_pairs, vocab_size = len(corpus), max(corpus.vocab_size, corpus.src_vocab_size or 0)
    sample = np.unique(np.linspace(0, num_pairs - 1, min(num_pairs, max_sample)).astype(np.int64))
    counts = np.full(1 << _TABLE_BITS, 1.0, np.float32)
    totals = np.ones(vocab_size + 1, np.float32)
    before, totals_before = counts, totals
    frequency = np.zeros(vocab_size)
    scores = np.empty(num_pairs, np.float32)
    work = _NUM_ROUNDS * len(sample) + num_pairs
    with progress("lexical scores", work, "pairs") as advance:
        for round_ in range(_NUM_ROUNDS):
            before, totals_before = counts, totals
            counts, totals = np.zeros_like(counts), np.zeros_like(totals)
            for rows, cells in _chunks(corpus, sample, given, vocab_size):
                posterior = _posterior(cells, before, totals_before)
                np.add.at(counts, cells.at, posterior)
                np.add.at(totals, cells.x, posterior)
                if round_ == 0:
                    frequency += np.bincount(cells.y, minlength=vocab_size)
                advance(len(rows))
        log_frequency = np.log((frequency + 1) / (frequency.sum() + vocab_size))
        sampled = np.zeros(num_pairs, bool)
        sampled[sample] = True
        for rows, cells in _chunks(corpus, np.arange(num_pairs), given, vocab_size):
            # Tokens that the sample never saw give 0/0, in pairs that have no own counts.
            with np.errstate(invalid="ignore", divide="ignore"):
                own = _posterior(cells, before, totals_before)
            own = np.where(sampled[rows][cells.row[cells.column]], own, 0)
            rest = np.maximum(counts[cells.at] - own, 0)
            chance = rest / np.maximum(totals[cells.x] - own, 1e-3)
            mean = np.maximum(cells.sums(chance) / cells.num_x, _FLOOR)
            ratio = np.log(mean) - log_frequency[cells.y]
            num_y = np.bincount(cells.row, minlength=len(rows))
            total = np.bincount(cells.row, ratio, minlength=len(rows))
            scores[rows] = total / np.maximum(num_y, 1)
            advance(len(rows))
    return scores


def _posterior(
    cells: _Cells, counts: NDArray[np.float32], totals: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Probability (C,) that y comes from this x and not another one of its pair."""
    chance = counts[cells.at] / totals[cells.x]
    return (chance / cells.sums(chance).astype(np.float32)[cells.column]).astype(np.float32)


def _chunks(
    corpus: Corpus, rows: NDArray[np.int64], given: int, vocab_size: int
) -> Iterator[tuple[NDArray[np.int64], _Cells]]:
    """The cells of those rows of the corpus, about `_CHUNK_CELLS` at a time."""
    lengths = [np.minimum(side[rows], _MAX_TOKENS).astype(np.int64) for side in corpus.lengths]
    sizes = np.cumsum(lengths[0] * lengths[1])
    cuts = np.searchsorted(sizes, np.arange(_CHUNK_CELLS, sizes[-1], _CHUNK_CELLS))
    for some in np.split(rows, np.unique(cuts)):
        if len(some):
            yield some, _cells(corpus, some, given, vocab_size)


def _cells(corpus: Corpus, rows: NDArray[np.int64], given: int, vocab_size: int) -> _Cells:
    batch = corpus.read(corpus.pair_ids[rows])
    sides = [
        (batch.src_tokens.numpy(), batch.src_cu_seqlens.numpy()),
        (batch.tgt_tokens.numpy(), batch.tgt_cu_seqlens.numpy()),
    ]
    x, x_begins, num_x = _without_eos(*sides[given])
    y, y_begins, num_y = _without_eos(*sides[1 - given])
    row = np.repeat(np.arange(len(rows)), num_y)
    y = y[np.repeat(y_begins, num_y) + _count_up(num_y)]
    beside = num_x[row] + 1
    column = np.repeat(np.arange(len(y)), beside)
    place = _count_up(beside)
    # In place 0 stands NULL, which the id beyond the vocabulary means.
    at = np.maximum(x_begins[row[column]] + place - 1, 0)
    x = np.where(place == 0, vocab_size, x[at])
    mixed = (x * vocab_size + y[column]).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    place = (mixed >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)
    return _Cells(x, place, column, y, row, beside)


def _without_eos(
    tokens: NDArray[np.int64], boundaries: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The tokens, where each sequence begins, and how many of it count."""
    begins = boundaries[:-1].astype(np.int64)
    return tokens, begins, np.minimum(np.diff(boundaries) - 1, _MAX_TOKENS).astype(np.int64)


def _count_up(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 to length - 1 for each length, back to back."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
