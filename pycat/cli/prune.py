"""The verb `prune`: all stages with the options of each, prefixed by its name."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import pycat
from pycat.cli.options import (
    TestFiles,
    TextFiles,
    dashed,
    device_option,
    fraction,
    group,
    on_option,
    option,
    out_option,
    overwrite_option,
    tests_option,
    trusted_option,
)
from pycat.cli.score import ScoreOptions
from pycat.cli.select import CRITERION_HELP, RULES_HELP, guard_option, summary
from pycat.cli.stages import (
    EvaluateOptions,
    TokenizeOptions,
    TrainOptions,
    print_evaluation,
    print_left_out,
)
from pycat.errors import PycatError

if TYPE_CHECKING:
    from pycat.pruning import Pruned


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Tokenize, measure, train, score and select; write pruned text and a report.

    Rules and a guard drop likely noise first. Plain CAT-VAR, the paper's method, is
    --by cat_var --rules none --guard 0.
    """

    out: Path = out_option("Make this folder. Finished stages in it are not made again.")
    overwrite: bool = overwrite_option()
    text: TextFiles = group()
    keep: float = option(
        "Keep this fraction of the pairs, above 0 and at most 1.", 0.5, type=fraction
    )
    by: str | None = option(
        f"{CRITERION_HELP} Without it: learnability+noise (learnability with "
        "--rules none --guard 0), within clusters of the proxy's states unless --strata names "
        "others; --fast: noise; --trusted: its columns.",
        None,
        metavar="CRITERION",
    )
    rules: str = option(RULES_HELP, "default", metavar="default|none|FILE")
    guard: float | str = guard_option()
    strata: str | None = option(
        "Keep the same share of each cluster of the proxy's states, or of each length, or of each "
        "combination of both (cluster,length).",
        None,
        metavar="cluster|length|score[,…]",
    )
    trusted: Mapping[str, TestFiles] | None = trusted_option(None)
    fast: bool = option(
        "Train and score no proxy: a minute or two in place of hours, for a criterion that needs "
        "none.",
        False,
    )
    check: bool = option(
        "Train small models on the kept pairs, on random parts and on all, four passes each, and "
        "say what the kept pairs are worth; on the --test sets or, without any, on pairs of the "
        "text itself that no model trains on.",
        False,
    )
    base: Path | None = option(
        "Take over the tokenizer and the proxy of this folder, which prune made of other text and "
        "which may be --out itself, and its scores of all pairs with the same tokens; score the "
        "other pairs alone. Measures, selection and report are made anew.",
        None,
        metavar="FOLDER",
    )
    train_anew: bool = option(
        "With --base, take over the tokenizer alone: train a proxy on this text, and score all.",
        False,
    )
    seed: int = option(
        "Seed the proxy, the criterion random and the evaluation with this number.", 0
    )
    device: str = device_option()
    on: str = on_option()
    evaluate: bool = option("Retrain on the kept pairs, and measure on the --test sets.", False)
    test: Mapping[str, TestFiles] | None = tests_option(None)
    tokenize_options: TokenizeOptions = group("options of tokenize", prefix="tokenize-")
    train_options: TrainOptions = group("options of train", prefix="train-")
    score_options: ScoreOptions = group("options of score", prefix="score-")
    evaluate_options: EvaluateOptions = group("options of evaluate", prefix="evaluate-")

    def run(self) -> None:
        """Prune, and print what was kept, times and places."""
        if not self.check and self.evaluate != bool(self.test):
            raise PycatError(
                "prune: --evaluate and --test belong together: --test names the held-out text that "
                "--evaluate measures on; pass both, or neither"
            )
        self._refuse_options_of_no_stage()
        device = {"device": self.device}
        pruned = pycat.prune(
            **vars(self.text),
            out=self.out,
            overwrite=self.overwrite,
            keep=self.keep,
            by=self.by,
            rules=self.rules,
            guard=self.guard,
            strata=self.strata,
            fast=self.fast,
            check=self.check,
            trusted=self.trusted,
            base=self.base,
            train_anew=self.train_anew,
            seed=self.seed,
            tests=self.test,
            tokenize_options=vars(self.tokenize_options),
            train_options=vars(self.train_options) | device,
            score_options=vars(self.score_options) | device,
            evaluate_options=self.evaluate_options.arguments() | device,
            on=self.on,
        )
        print_left_out(pruned.corpus)
        print(summary(pruned.selection))
        if pruned.evaluation is not None:
            print_evaluation(pruned.evaluation)
        print_places(pruned)

    def _refuse_options_of_no_stage(self) -> None:
        is_evaluated, has_proxy = self.evaluate or self.check, not self.fast
        for stage, options, is_made, remedy in (
            ("train", self.train_options, has_proxy, "leave out --fast"),
            ("score", self.score_options, has_proxy, "leave out --fast"),
            ("evaluate", self.evaluate_options, is_evaluated, "pass --check, or --evaluate"),
        ):
            given = [
                f"--{stage}-{dashed(entry.name)}"
                for entry in fields(options)
                if getattr(options, entry.name) != entry.default
            ]
            if given and not is_made:
                raise PycatError(
                    f"prune: {', '.join(given)}: this command has no stage {stage}; {remedy}, or "
                    "leave out these options"
                )


def print_places(pruned: "Pruned") -> None:
    """Print the time of each stage, and where text and report lie."""
    print("time: " + ", ".join(f"{stage} {s:,.1f} s" for stage, s in pruned.timings.items()))
    print("text: " + ", ".join(map(str, pruned.texts)))
    print(f"report: {pruned.report}")
