"""The verb `explain`."""

import json
from dataclasses import dataclass
from pathlib import Path

import pycat
from pycat.cli.options import measures_option, option
from pycat.errors import PycatError


@dataclass(frozen=True, kw_only=True)
class Explain:
    """Show a pair: its text, its scores among those of all pairs, why it was kept or dropped."""

    scores: Path | None = option(
        "Read the table in this folder, made by score; without it, the selection is of a corpus.",
        None,
        metavar="FOLDER",
    )
    pair: int = option("Explain the pair of this id; ids begin at 0.")
    selection: Path | None = option(
        "Say why the selection in this folder, made by select, kept or dropped the pair.",
        None,
        metavar="FOLDER",
    )
    measures: Path | None = measures_option()
    json: bool = option("Print JSON, for other programs.", False)

    def run(self) -> None:
        """Explain, and print it."""
        if self.scores is None and self.selection is None:
            raise PycatError("explain: expected --scores FOLDER, --selection FOLDER, or both")
        scores = self.scores or pycat.Selection.open(self.selection or Path()).corpus()
        explanation = pycat.explain(
            scores, self.pair, selection=self.selection, measures=self.measures
        )
        if self.json:
            print(json.dumps(explanation.json(), ensure_ascii=False, indent=2, allow_nan=False))
        else:
            from pycat.cli.pair_view import show

            show(explanation)
