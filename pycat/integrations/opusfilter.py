"""Filters for OpusFilter, whose configuration names them.

    - type: filter
      parameters:
        inputs: [train.en, train.de]
        outputs: [kept.en, kept.de]
        filters:
          - PycatFilter: {scores: work/scores, threshold: 1.5}
            module: pycat.integrations.opusfilter

`PycatFilter` looks pairs up in scores that `pycat score` made of the same text; `PycatScorer` runs
a model on whatever pairs it is given. Relative paths begin at the configuration's output directory.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import opusfilter

from pycat.data.tokenizing import tokenize
from pycat.errors import PycatError, TextError
from pycat.filters.rules import complete_rules, read_rules
from pycat.scoring.line_scores import score_lines
from pycat.scoring.loading import tokenizer_of
from pycat.selection.classifying import ScoredText

Pair = Sequence[str]

# Pairs that a model scores at a time: loading it takes as long as some thousands of them.
_CHUNK_PAIRS = 50_000


class PycatFilter(opusfilter.FilterABC):  # type: ignore[misc]
    """Accepts pairs by their scores in a table that `pycat score` made of this text.

    A pair that is not in the table has the score nan and is not accepted, nor is one that a rule
    hits.
    """

    score_direction = opusfilter.CLEAN_HIGH
    accept_threshold = float("-inf")
    reject_threshold = float("inf")

    def __init__(
        self,
        scores: str,
        by: str | None = None,
        threshold: float = 0.0,
        rules: str = "none",
        **kwargs: Any,
    ) -> None:
        """Open the table.

        Args:
            scores: folder of the table.
            by: the criterion, as in `pycat.select`, by default "learnability".
            threshold: pairs of at least this score are accepted.
            rules: "none", "default", or a JSON file of thresholds, as in `pycat.select`.
            **kwargs: OpusFilter's own: `name`, `workdir`.
        """
        super().__init__(**kwargs)
        self.threshold = threshold
        changed = read_rules(rules)
        self._scored = ScoredText(
            Path(self.workdir) / scores,
            by,
            rules=None if changed is None else complete_rules(changed),
        )

    def score(self, pairs: Iterable[Pair]) -> Iterator[float]:
        """Yield the score of each pair; nan where it is to be removed whatever the threshold."""
        for pair in pairs:
            src, tgt = _sides(pair)
            score, reason = self._scored.find(src.encode(), tgt.encode())
            yield score if reason is None else float("nan")

    def accept(self, score: float) -> bool:
        """Whether the score reaches the threshold."""
        return score >= self.threshold


class PycatScorer(opusfilter.FilterABC):  # type: ignore[misc]
    """Cross-entropy of the target given the source under a model: nats a token, lower is better.

    A pair that cannot be scored (an empty side, more tokens than `max_tokens`) has the score inf.
    """

    score_direction = opusfilter.CLEAN_LOW
    accept_threshold = float("inf")
    reject_threshold = 0.0

    def __init__(
        self,
        checkpoint: str,
        vocabs: Sequence[str] = (),
        sentencepiece: Sequence[str] = (),
        threshold: float = 5.0,
        max_tokens: int = 512,
        dtype: str = "float32",
        device: str = "auto",
        reverse: bool = False,
        **kwargs: Any,
    ) -> None:
        """Find the model's tokenizer.

        Args:
            checkpoint: of any kind that `pycat score` takes.
            vocabs, sentencepiece: as in `pycat.tokenize`, for models that hold no vocabulary.
            threshold: pairs below it are accepted.
            max_tokens: of a side; longer pairs are not scored.
            dtype, device: as in `pycat.score`.
            reverse: whether the model reads the target and predicts the source.
            **kwargs: OpusFilter's own: `name`, `workdir`.
        """
        super().__init__(**kwargs)
        here = Path(self.workdir)
        self.threshold, self._max_tokens = threshold, max_tokens
        self._how: dict[str, Any] = {"dtype": dtype, "device": device}
        self._reverse, self._checkpoint = reverse, here / checkpoint
        self._tokenizer = tokenizer_of(
            [self._checkpoint],
            [here / path for path in vocabs],
            [here / path for path in sentencepiece],
        )
        if self._tokenizer is None:
            raise PycatError(
                f"{self._checkpoint}: has no tokenizer beside the weights; name its vocabularies "
                "(vocabs)"
            )

    def score(self, pairs: Iterable[Pair]) -> Iterator[float]:
        """Yield the score of each pair; the model is loaded once for 50,000 of them."""
        remaining = iter(pairs)
        while chunk := [_sides(pair) for pair in islice(remaining, _CHUNK_PAIRS)]:
            yield from self._chunk_scores(chunk)

    def accept(self, score: float) -> bool:
        """Whether the score is below the threshold."""
        return score < self.threshold

    def filter(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """Yield accepted pairs; OpusFilter's own way would load the model for each pair."""
        return self._decided(pairs, accepted=True)

    def filterfalse(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """Yield pairs that are not accepted."""
        return self._decided(pairs, accepted=False)

    def _decided(self, pairs: Iterable[Pair], *, accepted: bool) -> Iterator[Pair]:
        remaining = iter(pairs)
        while chunk := list(islice(remaining, _CHUNK_PAIRS)):
            for pair, score in zip(chunk, self.score(chunk), strict=True):
                if self.accept(score) == accepted:
                    yield pair

    def _chunk_scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        sides = [[pair[1], pair[0]] for pair in pairs] if self._reverse else pairs
        with tempfile.TemporaryDirectory(prefix="pycat-") as name:
            folder = Path(name)
            for at, file in enumerate(("text.src", "text.tgt")):
                lines = (" ".join(side[at].split("\n")) for side in sides)
                (folder / file).write_text("".join(f"{line}\n" for line in lines), "utf-8")
            try:
                corpus = tokenize(
                    folder / "text.src",
                    folder / "text.tgt",
                    out=folder / "corpus",
                    tokenizer=self._tokenizer,
                    max_tokens=self._max_tokens,
                )
            except TextError:
                if all(src.strip() and tgt.strip() for src, tgt in pairs):
                    raise
                return [float("inf")] * len(pairs)  # no pair of this chunk has text on both sides
            out = folder / "scores.jsonl"
            score_lines(corpus, [self._checkpoint], format="jsonl", out=out, **self._how)
            records = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
        return [
            float("inf") if record["pair"] is None else record["nll"][0] / record["num_tokens"]
            for record in records
        ]


def _sides(pair: Pair) -> tuple[str, str]:
    if len(pair) != 2:
        raise PycatError(f"pairs have {len(pair)} sides; expected source and target: two inputs")
    src, tgt = (side.removesuffix("\n").removesuffix("\r") for side in pair)
    return src, tgt
