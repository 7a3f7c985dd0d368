"""The verb `report` of the command line: the page of `prune`, for stages run one by one."""

import argparse
from pathlib import Path

from pycat.evaluation.evaluation import Evaluation
from pycat.proxy.training import Run
from pycat.report.page import write_report
from pycat.scores.score_table import ScoreTable
from pycat.selection.selection import Selection


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add those of `report`."""
    for name, text, required in (
        ("selection", "folder made by select", True),
        ("scores", "folder made by score, that the selection is of", True),
        ("proxy", "folder made by train, for its losses and options", False),
        ("evaluation", "folder made by evaluate, for its table", False),
    ):
        parser.add_argument(f"--{name}", type=Path, required=required, metavar="FOLDER", help=text)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="page to write, or to replace"
    )


def run(
    selection: Path, scores: Path, proxy: Path | None, evaluation: Path | None, out: Path
) -> None:
    """Write the page."""
    chosen, table = Selection.open(selection), ScoreTable.open(scores)
    trained = None if proxy is None else Run.open(proxy)
    arms = None if evaluation is None else Evaluation.open(evaluation)
    stages = {
        "tokenize": chosen.corpus(),
        "train": trained,
        "score": table,
        "select": chosen,
        "evaluate": arms,
    }
    timings = {
        stage: float(made.manifest["elapsed_s"])
        for stage, made in stages.items()
        if made is not None and "elapsed_s" in made.manifest
    }
    print(write_report(out, chosen, table, trained, timings=timings, evaluation=arms))
