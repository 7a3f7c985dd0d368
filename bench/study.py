"""What halves of a text are worth: recipes against random halves, clean halves and the whole.

python bench/study.py --tsv train.tsv.gz --test NAME=test.tsv.gz ... --work DIR
                      [--name NAME] [--languages en,de] [--pairs N] [--random-pairs]
                      [--label-column N] [--keep X] [--passes X] [--seeds N] [--preset NAME]
                      [--device NAME] [--proxy-preset NAME] [--arms NAME ...] [--no-curve]
                      [--json FILE]

Every half is cut at the same number of target tokens; `selected` is what pycat keeps by default.
With `--label-column` (from 1) the pairs whose label there is "clean" are the arm `oracle`. Each
stage and each trained model is kept in DIR: the same command goes on where it was, and one with
more arms trains these alone.
"""

import argparse
import gzip
import json
import random
import time
from pathlib import Path
from typing import Any

import pycat

# What each arm keeps: options of `pycat.select`, beside those that name no rules and noise filter.
FILTERED: dict[str, Any] = {"rules": "default", "guard": 0.5}
UNFILTERED: dict[str, Any] = {"rules": "none", "guard": 0.0}
# What `pycat.prune` keeps without options.
DEFAULT: dict[str, Any] = {**FILTERED, "by": "learnability+noise", "strata": "cluster"}
RECIPES: dict[str, dict[str, Any]] = {
    "cat_var": {**UNFILTERED, "by": "cat_var"},
    "rules-random": {"rules": "default", "guard": 0.0, "by": "random"},
    "filter-random": {**FILTERED, "by": "random"},
    "filter-cat_var": {**FILTERED, "by": "cat_var"},
    "filter-learnability": {**FILTERED, "by": "learnability"},
    "filter-learnability+noise": {**FILTERED, "by": "learnability+noise"},
    "filter-learnability-length": {**FILTERED, "by": "learnability", "strata": "length"},
    "filter-learnability-cluster": {**FILTERED, "by": "learnability", "strata": "cluster"},
    "filter-learnability-cluster-length": {
        **FILTERED,
        "by": "learnability",
        "strata": "cluster,length",
        "num_strata": 5,
    },
    "filter-learnability-mix": {**FILTERED, "by": "learnability", "mix": 0.5},
    "filter-coverage": {**FILTERED, "by": "coverage"},
    "noise": {"rules": "default", "guard": 0.0, "by": "noise"},
    "noise-length": {"rules": "default", "guard": 0.0, "by": "noise", "strata": "length"},
    "noise-cluster": {"rules": "default", "guard": 0.0, "by": "noise", "strata": "cluster"},
    "learnability+noise-cluster": {
        "rules": "default",
        "guard": 0.0,
        "by": "learnability+noise",
        "strata": "cluster",
    },
    "fitted_noise": {"rules": "default", "guard": 0.0, "by": "fitted_noise"},
    "share-random": {"rules": "default", "guard": "auto", "by": "random"},
    "share-learnability": {"rules": "default", "guard": "auto", "by": "learnability"},
    "share-learnability+noise-cluster": {
        "rules": "default",
        "guard": "auto",
        "by": "learnability+noise",
        "strata": "cluster",
    },
    "share-coverage": {"rules": "default", "guard": "auto", "by": "coverage"},
    "share-noise-mix": {"rules": "default", "guard": "auto", "by": "noise", "mix": 0.2},
}
ARMS = ("filter-random", "noise", "cat_var")


def take_pairs(options: argparse.Namespace) -> tuple[Path, Path | None]:
    """The first pairs of the text, or random ones, and their labels: files in the work folder."""
    text, labels = options.work / "train.tsv", options.work / "labels.txt"
    has_labels = options.label_column is not None
    if not text.is_file():
        opened = gzip.open if options.tsv.suffix == ".gz" else open
        with opened(options.tsv, "rt", encoding="utf-8", newline="\n") as file:
            lines = file.read().split("\n")[:-1]
        if options.random_pairs:
            lines = random.Random(0).sample(lines, min(options.pairs, len(lines)))
        rows = [line.split("\t") for line in lines[: options.pairs]]
        if has_labels:
            column = options.label_column - 1
            labels.write_text("".join(f"{row[column]}\n" for row in rows), "utf-8")
        made = text.with_suffix(".tmp")
        made.write_text("".join("\t".join(row[:2]) + "\n" for row in rows), "utf-8", newline="\n")
        made.replace(text)
    return text, labels if has_labels else None


def run(options: argparse.Namespace) -> dict[str, Any]:
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    device = {"device": options.device}
    seconds: dict[str, float] = {}

    def timed(name: str, call: Any, *arguments: Any, **more: Any) -> Any:
        started = time.perf_counter()
        made = call(*arguments, **more)
        seconds[name] = round(time.perf_counter() - started, 1)
        print(f"{name}: {seconds[name]} s", flush=True)
        return made

    text, labels = take_pairs(options)
    languages = tuple(options.languages.split(","))
    corpus = timed(
        "tokenize",
        pycat.tokenize,
        tsv=text,
        out=work / "corpus",
        languages=languages,
        vocab_size=options.vocab_size,
    )
    measures = timed("measure", pycat.measure, corpus, out=work / "measures")
    proxy = timed(
        "train", pycat.train, corpus, out=work / "proxy", preset=options.proxy_preset, **device
    )
    scores = timed("score", pycat.score, corpus, proxy.checkpoints, out=work / "scores", **device)
    if "cluster" not in scores.names:
        timed("cluster", pycat.add_clusters, scores, proxy.checkpoints[-1], device=options.device)
    chosen: dict[str, Any] = {"keep": options.keep, "unit": "tokens", "measures": measures}
    selected = pycat.select(scores, out=work / "selection", **chosen, **DEFAULT)
    arms = ["full", "random", "selected", *(["oracle"] if labels else [])]
    for name in options.arms:
        pycat.select(scores, out=work / "arms" / name, **chosen, **RECIPES[name])
        arms.append(str(work / "arms" / name))
    evaluation = timed(
        "evaluate",
        pycat.evaluate,
        selected,
        tests=dict(options.tests),
        out=work / f"evaluation-{options.preset}-{options.passes:g}",
        arms=arms,
        labels=labels,
        seeds=options.seeds,
        passes=options.passes,
        preset=options.preset,
        batch_tokens=options.batch_tokens,
        dropout=options.dropout,
        curve=not options.no_curve,
        overwrite=True,  # models of arms that are trained already stay
        **device,
    )
    return {
        "bench": "study",
        "text": options.name or options.work.name,
        "pairs": len(corpus),
        "keep": options.keep,
        "passes": options.passes,
        "seeds": options.seeds,
        "preset": options.preset,
        "updates": evaluation.manifest["recipe"]["updates"],
        "arms": evaluation.arms,
        "random_curve": evaluation.manifest["random_curve"],
        "ledger": evaluation.manifest["ledger"],
        "warnings": evaluation.warnings,
        "seconds": seconds,
        "pycat": pycat.__version__,
    }


def named_test(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    return name, path


def show(result: dict[str, Any]) -> None:
    """The loss of each arm on each test set, and the gain on a random half."""
    arms = result["arms"]
    tests = list(next(iter(arms.values()))["tests"])
    print(f"{'arm':20}" + "".join(f"{test[:15]:>26}" for test in tests))
    for name, arm in arms.items():
        cells = ""
        for test in tests:
            found = arm["tests"][test]
            low, high = found.get("gain_on_random", (0.0, 0.0, 0.0))[1:]
            cells += f"{found['nll']:10.4f} [{low:+.3f},{high:+.3f}]"
        print(f"{name:20}{cells}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tsv", type=Path, required=True)
    parser.add_argument("--test", dest="tests", action="append", type=named_test, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--name", help="of the text, in the results; that of DIR without it")
    parser.add_argument("--languages", default="en,de")
    parser.add_argument("--pairs", type=int, default=30_000)
    parser.add_argument("--random-pairs", action="store_true")
    parser.add_argument("--label-column", type=int)
    parser.add_argument("--vocab-size", type=int, default=4000)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--passes", type=float, default=16.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--proxy-preset", default="mini")
    parser.add_argument("--arms", nargs="+", choices=RECIPES, default=ARMS)
    parser.add_argument("--no-curve", action="store_true", help="no random eighths and quarters")
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = run(options)
    show(result)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "arms"}))


if __name__ == "__main__":
    main()
