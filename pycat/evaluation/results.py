"""Results of an evaluation, for what opens one without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from pycat.runtime.output import read_manifest


@dataclass(frozen=True)
class EvaluationRow:
    """Result of one arm on one test set.

    Attributes:
        arm: "full", "random", or the name of the selection's criterion; "selected" where that name
            does not say what was selected (rules or the noise filter were used, or it is a
            baseline's) or cannot be a folder's.
        num_pairs: pairs that the arm was trained on.
        num_tokens: target tokens of those pairs, EOS counted.
        updates: of its training.
        test: name of the test set.
        bleu, chrf: 0-100.
    """

    arm: str
    num_pairs: int
    num_tokens: int
    updates: int
    test: str
    bleu: float
    chrf: float


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        path: the folder.
        rows: one result for each arm and test set, ordered by arm.
        bleu_signature, chrf_signature: how sacreBLEU computed the metrics.
        manifest: the folder's manifest, with the options.
    """

    path: Path
    rows: list[EvaluationRow]
    bleu_signature: str
    chrf_signature: str
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "Evaluation":
        """Open the folder of a finished evaluation."""
        folder = Path(path)
        manifest = read_manifest(folder, "evaluation")
        rows = [EvaluationRow(**row) for row in manifest["rows"]]
        return cls(folder, rows, manifest["bleu_signature"], manifest["chrf_signature"], manifest)
