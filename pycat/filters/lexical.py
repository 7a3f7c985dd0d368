"""Lexical translation scores by IBM Model 1, which is estimated on the corpus itself.

In a pair whose sides are no translation of each other, words lack their usual translations. A proxy
that trained for minutes hardly sees that yet; counts of tokens that occur together do.

    t(y | x)  from four rounds of expectation-maximisation over pairs (Brown et al. 1993, 4)
    ratio(y)  = ln( mean over tokens x of t(y | x) / p(y) )
    mean      of the ratios of a side
    gap       = largest sum of min(ln 2 - ratio, 2) over tokens that follow each other, or 0

A token that the other side makes less than twice as likely adds to a gap, at most 2. p(y) is the
token's frequency, and NULL is one of the x. The counts that a pair itself added to t are subtracted
before it is scored: every token occurs together with those of its own pair, in noise too.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pycat import _core
from pycat.data.corpus import Corpus
from pycat.runtime.progress import progress

# Cells of 16 bytes for token pairs. More token pairs than cells share them by their hashes.
_MAX_CELLS = 1 << 24
# The tables are estimated on at most so many pairs, spread evenly. Of 333,000 English-German pairs,
# a tenth with exchanged targets of like length, the lower mean puts a good pair above a bad one in
# .985 of cases with 50,000, .988 with 100,000, .991 with 200,000 and .992 with all.
_MAX_SAMPLE = 500_000
_NUM_ROUNDS = 4
# Pairs a thread counts or scores at a time; Ctrl-C is noticed in between.
_CHUNK_PAIRS = 8192

Floats = NDArray[np.float32]


class LexicalScores(NamedTuple):
    """Lexical scores of N pairs in nats, float32 (N,) each.

    Attributes:
        tgt, src: mean ratio of the target's tokens given the source, and of the source's given the
            target. It is near 0 where the other side tells nothing about a side's tokens. `tgt` is
            low where the target says what the source does not, `src` where it leaves something out.
        tgt_gap, src_gap: largest gap of that side: high where a run of its tokens is not explained,
            however well the others are.
    """

    tgt: Floats
    src: Floats
    tgt_gap: Floats
    src_gap: Floats


def lexical_scores(
    corpus: Corpus, *, max_sample: int = _MAX_SAMPLE, num_threads: int | None = None
) -> LexicalScores:
    """Score each pair of a corpus.

    The first 128 tokens of a side count, without EOS; a side without any scores 0. Beside the
    result, memory holds 256 MB, 0.6 MB a thread and 20 bytes for each token of both vocabularies,
    whatever N.

    Args:
        corpus: N pairs.
        max_sample: the tables are estimated on at most so many pairs, spread evenly; at most
            2**22. Every pair is scored, those of the sample without their own counts.
        num_threads: cores to use, None for all this process may use; the scores are the same.

    Raises:
        CorpusError: a token lies outside the vocabulary, or a file has changed.
        ValueError: `max_sample` or `num_threads` is out of range.
    """
    threads = len(os.sched_getaffinity(0)) if num_threads is None else num_threads
    sampled = min(max_sample, len(corpus))
    with progress("lexical scores", _NUM_ROUNDS * sampled + len(corpus), "pairs") as advance:
        model = LexicalModel(corpus, max_sample, threads, advance)
        return model.score(0, len(corpus), advance)


class LexicalModel:
    """The tables of a corpus, which score any of its pairs.

    Args:
        corpus, max_sample: as for `lexical_scores`.
        num_threads: cores to use.
        advance: called with pairs that were counted.
    """

    def __init__(
        self,
        corpus: Corpus,
        max_sample: int = _MAX_SAMPLE,
        num_threads: int = 1,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        self._num_threads = num_threads
        self._model = _core.IbmModel1(
            *corpus.files, max_sample=max_sample, max_cells=_MAX_CELLS, num_threads=num_threads
        )
        for round_ in range(_NUM_ROUNDS):
            if round_ > 0:
                self._model.start_round()
            for begin, end in self._chunks(0, self._model.num_sampled):
                self._model.count(begin, end)
                if advance is not None:
                    advance(end - begin)

    def score(
        self, first: int, end: int, advance: Callable[[int], None] | None = None
    ) -> LexicalScores:
        """Scores of the pairs from row `first` to `end`."""
        result = np.empty((2, 2, end - first), np.float32)
        for begin, stop in self._chunks(first, end):
            scores = self._model.score(begin, stop).transpose(0, 2, 1)
            result[:, :, begin - first : stop - first] = scores
            if advance is not None:
                advance(stop - begin)
        (tgt, tgt_gap), (src, src_gap) = result
        return LexicalScores(tgt, src, tgt_gap, src_gap)

    def _chunks(self, first: int, end: int) -> list[tuple[int, int]]:
        step = _CHUNK_PAIRS * self._num_threads
        return [(begin, min(begin + step, end)) for begin in range(first, end, step)]
