"""The verb `evaluate`: on a selection, or a whole study by a run file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import pycat
from pycat.cli.options import (
    TestFiles,
    dashed,
    device_option,
    group,
    on_option,
    option,
    out_option,
    overwrite_option,
    stage_option,
    tests_option,
)
from pycat.cli.stages import EvaluateOptions, print_evaluation
from pycat.errors import PycatError

if TYPE_CHECKING:
    from pycat.evaluation.results import Evaluation


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Retrain on the kept pairs and on alternatives, and compare their loss on held-out text."""

    work: Path | None = option(
        "Take the selection in this folder, made by prune.", None, positional=True, metavar="WORK"
    )
    out: Path = out_option(
        "Make this folder. A finished one of the same options is not made again."
    )
    overwrite: bool = overwrite_option()
    selection: Path | None = option(
        "Instead of WORK, take the pairs kept in this folder, made by select.",
        None,
        metavar="FOLDER",
    )
    run_file: Path | None = option(
        "Make a whole study, from text to evaluation, in --out, as this TOML file says.",
        None,
        flag="--run",
    )
    test: Mapping[str, TestFiles] | None = tests_option(None)
    how: EvaluateOptions = group()
    seed: int = option("Begin the seeds of weights, batches and random arms with this number.", 0)
    device: str = device_option()
    on: str = on_option()
    stage: Path | None = stage_option("the corpus")

    def run(self) -> None:
        """Evaluate, print the tables, and write the page."""
        evaluation = self._evaluate() if self.run_file is None else self._study(self.run_file)
        print_evaluation(evaluation, pycat.write_evaluation_page(evaluation))

    def _evaluate(self) -> "Evaluation":
        if (self.work is None) == (self.selection is None):
            raise PycatError("evaluate: expected either the folder of prune, or --selection FOLDER")
        if not self.test:
            raise PycatError("evaluate: expected held-out text; pass --test [NAME=]SRC,REF")
        return pycat.evaluate(
            self.selection or self.work or Path(),
            tests=self.test,
            **self.how.arguments(),
            out=self.out,
            overwrite=self.overwrite,
            seed=self.seed,
            device=self.device,
            on=self.on,
            stage=self.stage,
        )

    def _study(self, file: Path) -> "Evaluation":
        given = [
            name
            for name, is_given in (
                ("WORK", self.work is not None),
                ("--selection", self.selection is not None),
                ("--test", bool(self.test)),
                ("--seed", self.seed != 0),
                *(
                    (f"--{dashed(entry.name)}", getattr(self.how, entry.name) != entry.default)
                    for entry in fields(self.how)
                ),
            )
            if is_given
        ]
        if given:
            raise PycatError(
                f"evaluate: --run says what to make; put {', '.join(given)} into {file}"
            )
        from pycat.cli.run_file import run_study

        return run_study(
            file,
            self.out,
            device=self.device,
            on=self.on,
            stage=self.stage,
            overwrite=self.overwrite,
        )
