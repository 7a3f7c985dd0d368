"""The verb `report`: the page of `prune`, for stages that were run one by one."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pycat
from pycat.cli.options import measures_option, option
from pycat.runtime.named_files import is_stream


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the page that prune writes about a selection, for stages run one by one."""

    selection: Path = option("Show the selection in this folder, made by select.", metavar="FOLDER")
    scores: Path | None = option(
        "Show the scores in this folder, made by score, that the selection is of; without it, the "
        "selection is one of a corpus.",
        None,
        metavar="FOLDER",
    )
    measures: Path | None = measures_option()
    proxy: Path | None = option(
        "Show losses and options of the run in this folder, made by train.", None, metavar="FOLDER"
    )
    evaluation: Path | None = option(
        "Show the table in this folder, made by evaluate.", None, metavar="FOLDER"
    )
    out: Path = option("Write this page, or replace an older one.")
    overwrite: bool = option("Replace a file that is no report.", False)

    def run(self) -> None:
        """Write the page, and print its name."""
        from pycat.report.page import write_report
        from pycat.scores.unscored import unscored

        selection = pycat.Selection.open(self.selection)
        scores = (
            unscored(selection.corpus())
            if self.scores is None
            else pycat.ScoreTable.open(self.scores)
        )
        proxy = None if self.proxy is None else pycat.Run.open(self.proxy)
        evaluation = None if self.evaluation is None else pycat.Evaluation.open(self.evaluation)
        stages = {
            "tokenize": selection.corpus(),
            "train": proxy,
            "score": scores,
            "select": selection,
            "evaluate": evaluation,
        }
        timings = {
            stage: float(made.manifest["elapsed_s"])
            for stage, made in stages.items()
            if made is not None and "elapsed_s" in made.manifest
        }
        print(
            write_report(
                self.out,
                selection,
                scores,
                proxy,
                timings=timings,
                measures=self.measures,
                evaluation=evaluation,
                overwrite=self.overwrite,
            ),
            file=sys.stderr if is_stream(self.out) else sys.stdout,
        )
