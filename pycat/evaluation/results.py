"""Finished evaluations, for what opens one without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from pycat.runtime.manifest import read_manifest
from pycat.runtime.notebook import html_table, new_axes


@dataclass(frozen=True)
class Translated:
    """BLEU and chrF of one arm on one test set.

    Attributes:
        arm, test: their names.
        bleu, chrf: 0-100, of the model of the arm's first seed.
        bleu_signature, chrf_signature: how sacreBLEU computed them.
    """

    arm: str
    test: str
    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        path: the folder.
        arms: for each arm `pairs`, `target_tokens`, `seeds`, and under `tests` for each test set
            `nll`, `nll_by_seed`, `nll_by_updates`, `effective_data`, `verdict` and more, as
            docs/format.md describes them.
        rows: BLEU and chrF of each arm and test set that were translated.
        warnings: what the experiment cannot show, and that pruning does not pay, in sentences.
        manifest: all of `evaluation.json`.
    """

    path: Path
    arms: Mapping[str, Mapping[str, Any]]
    rows: list[Translated]
    warnings: list[str]
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "Evaluation":
        """Open the folder of a finished evaluation."""
        folder = Path(path)
        manifest = read_manifest(folder, "evaluation")
        rows = [Translated(**row) for row in manifest["translations"]]
        return cls(folder, manifest["arms"], rows, manifest["warnings"], manifest)

    def worth_text(self, arm: str, test: str) -> str:
        """Effective data in words: "78 % [74, 82]", "< 12.5 %", or how far beyond all of the text.

        Without a curve it is the gain on everything; "-" where neither is known.
        """
        curve = (self.manifest.get("random_curve") or {}).get(test) or {}
        if arm == "full":
            return "all of it"
        return worth_text(self.arms[arm]["tests"][test], curve.get("min_share", 0.0))

    def _repr_html_(self) -> str:
        """Held-out loss and verdict of each arm, as a table of a notebook."""
        rows = [
            [arm, facts["pairs"], test, found["nll"], found.get("verdict") or ""]
            for arm, facts in self.arms.items()
            for test, found in facts["tests"].items()
        ]
        header = ("arm", "pairs", "test", "nll (nats a token)", "verdict")
        return html_table(f"Evaluation: {self.path}", header, rows)

    def plot(self) -> Any:
        """Draw the held-out loss of each arm on each test set.

        Returns:
            The axes of matplotlib, which draws it (the extra `plot`).
        """
        axes = new_axes("Held-out loss", "nats a target token", "")
        arms = list(self.arms)
        tests = {test: None for facts in self.arms.values() for test in facts["tests"]}
        for test in tests:
            found = [self.arms[arm]["tests"].get(test, {}).get("nll") for arm in arms]
            places = [at for at, nll in enumerate(found) if nll is not None]
            axes.scatter([found[at] for at in places], places, label=test)
        axes.set_yticks(range(len(arms)), arms)
        axes.invert_yaxis()
        axes.legend()
        return axes


def worth_text(result: Mapping[str, Any], min_share: float) -> str:
    """What `evaluation.json` says of an arm's effective data on one test set, in words.

    Args:
        result: of the arm on the test set.
        min_share: share of everything that the smallest random part has, below which nothing is
            read off the curve.
    """
    share = result.get("effective_data")
    gain = result.get("gain_on_full")
    if share is None and gain is not None:  # without a curve
        return f"{gain[0]:+.3f} nats on full"
    if share is None or share[0] is None:
        return "-"
    if is_beyond(result):
        return f"> 100 % ({result['gain_on_full'][0]:+.3f} nats)"
    value, low, high = (_percent(part, min_share) for part in share)
    return f"{value} %" if low == high else f"{value} % [{low}, {high}]"


def is_beyond(result: Mapping[str, Any]) -> bool:
    """Whether an arm is worth more than all of the text: its loss is lower, not only as low."""
    gain = result.get("gain_on_full")
    return result["effective_data"][0] >= 1 and gain is not None and gain[0] > 0


def _percent(share: float | None, min_share: float) -> str:
    """A share without its sign of percent; 0 says less than the smallest random part."""
    if share is None:
        return "-"
    return f"< {100 * min_share:.1f}" if share == 0 else f"{100 * share:.0f}"
