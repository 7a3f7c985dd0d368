"""Scores of a table, looked up by the text of a pair: for filters that read lines from a pipe.

Lines are found by their text, so they may come in another order than the corpus's, or be some of
them. Memory holds 20 bytes a line of the corpus's text.
"""

import hashlib
from collections.abc import Mapping
from os import PathLike
from typing import NamedTuple

import numpy as np

from pycat.data.corpus import SKIPPED_FILE, Corpus
from pycat.errors import PycatError
from pycat.filters.measures import find_measures, no_measures
from pycat.ranking.criteria import Criterion, evaluate_criterion
from pycat.scores.score_table import ScoreTable, as_table
from pycat.selection.recipe import default_criterion

_NOT_SCORED = "not scored"


class Verdict(NamedTuple):
    """What is known of one line.

    Attributes:
        score: by the criterion; NaN for a line without one.
        reason: why a line is to be removed whatever its score; None for no such reason.
    """

    score: float
    reason: str | None


class ScoredText:
    """Scores of the text of a corpus by one criterion.

    Attributes:
        criterion: its name.
    """

    def __init__(
        self,
        scores: ScoreTable | str | PathLike[str],
        by: str | Criterion | None = None,
        *,
        rules: Mapping[str, float | None] | None = None,
        seed: int = 0,
    ) -> None:
        """Read the scores and the text of the corpus.

        Args:
            scores: the table, or the path of one, of a corpus that was made from text.
            by: the criterion, as in `select`; "learnability" unless given, and "noise" of a corpus.
            rules: thresholds of rules about the text, as in `select`; None for none.
            seed: of the criterion "random".

        Raises:
            CorpusError, TextError: the corpus or its text is gone or changed, or it has none.
            OutputError: rules need measures, and there are none of this corpus.
            PycatError: the criterion cannot be evaluated.
        """
        table = as_table(scores)
        by = by or default_criterion(table.num_checkpoints > 0, is_measured=False)
        self.criterion = by if isinstance(by, str) else getattr(by, "__name__", "criterion")
        corpus = table.corpus()
        view = table.view_of(corpus)
        lines = view.lines
        self._scores = np.full(corpus.manifest["num_lines"], np.nan)  # of every line
        self._scores[lines] = evaluate_criterion(table, by, seed)
        self._reasons = _skip_reasons(corpus)
        self._hits: list[str] = []
        self._hit_of = np.full(len(self._scores), -1, dtype=np.int16)
        if rules is not None:
            measures = find_measures(table, view, None)
            if measures is None:
                raise no_measures(table, view)
            for rule, hit in measures.each_hit(rules):
                rows = lines[hit]
                self._hit_of[rows[self._hit_of[rows] < 0]] = len(self._hits)
                self._hits.append(f"rule {rule}")
        text = corpus.text()
        keys = np.fromiter(
            (pair_hash(src, tgt) for src, tgt in text.pairs()), np.uint64, len(self._scores)
        )
        # Of lines of one text the first counts: their scores are equal.
        self._keys, self._line = np.unique(keys, return_index=True)

    def find(self, src: bytes, tgt: bytes) -> Verdict:
        """What is known of a pair by its text, without line ends."""
        key = np.uint64(pair_hash(src, tgt))
        at = int(np.searchsorted(self._keys, key))
        if at == len(self._keys) or self._keys[at] != key:
            return Verdict(float("nan"), _NOT_SCORED)
        line = int(self._line[at])
        if line in self._reasons:
            return Verdict(float("nan"), self._reasons[line])
        score = float(self._scores[line])
        if np.isnan(score):  # of a table of some of the pairs
            return Verdict(score, _NOT_SCORED)
        hit = int(self._hit_of[line])
        return Verdict(score, self._hits[hit] if hit >= 0 else None)


def pair_hash(src: bytes, tgt: bytes) -> int:
    """64 bits of a hash of both sides."""
    joined = len(src).to_bytes(8, "little") + src + tgt
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little")


def _skip_reasons(corpus: Corpus) -> dict[int, str]:
    """Why lines (from 0) of the text are not in the corpus."""
    if not corpus.has_text:
        raise PycatError(
            f"{corpus.path}: holds tokens only, so its pairs have no text to look up; make "
            "a corpus with 'pycat tokenize'"
        )
    reasons: dict[int, str] = {}
    with (corpus.path / SKIPPED_FILE).open(encoding="utf-8") as file:
        next(file)
        for row in file:
            number, reason = row.rstrip("\n").split("\t", 1)
            reasons[int(number) - 1] = reason
    return reasons
