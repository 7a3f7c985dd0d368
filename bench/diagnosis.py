"""What candidates for a recipe keep, before any training: minutes, not hours.

python bench/diagnosis.py --work DIR [--tsv train.tsv.gz --domain-column 3] [--label-column 4]
                          [--test NAME=test.tsv.gz ...] [--keep X] [--json FILE]

DIR is a folder of `bench/study.py` or of `pycat prune`: `corpus`, `measures` and, unless it was
pruned fast, `scores`. For each candidate: pairs kept at the same number of target tokens, mean
length, the share kept of short, middle and long pairs and of each domain (or label), how many of
the tests' word n-grams the half has at least three times (against a random half), the rank
correlation with perplexity at the first checkpoint, and the overlap with the rules' random half.
"""

import argparse
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pycat
from pycat.errors import PycatError
from pycat.ranking.criteria import evaluate_criterion
from pycat.ranking.ranks import spearman
from pycat.scores.unscored import unscored
from pycat.selection.recipe import Recipe
from pycat.selection.selecting import choose_measured

# Options of `pycat.select`. Those that a table lacks the columns for are left out.
CANDIDATES: dict[str, dict[str, Any]] = {
    "random": {"by": "random", "rules": "none", "guard": 0.0},
    "rules": {"by": "random", "guard": 0.0},
    "rules, noise filter": {"by": "random"},
    "rules, share of noise": {"by": "random", "guard": "auto"},
    "noise": {"by": "noise", "guard": 0.0},
    "noise, 0.2 random": {"by": "noise", "guard": "auto", "mix": 0.2},
    "coverage": {"by": "coverage"},
    "coverage, share of noise": {"by": "coverage", "guard": "auto"},
    "noise + coverage": {"by": "noise+coverage", "guard": "auto"},
    "cat_var alone": {"by": "cat_var", "rules": "none", "guard": 0.0},
    "cat_var": {"by": "cat_var"},
    "cat_var_log": {"by": "cat_var_log"},
    "learnability": {"by": "learnability"},
    "learnability + noise": {"by": "learnability+noise"},
    "learnability, tails": {"by": "learnability", "tails": (0.1, 0.05)},
    "learnability by length": {"by": "learnability", "strata": "length"},
    "trusted": {"by": "trusted"},
    "trusted + noise": {"by": "trusted+noise"},
}
_TIMES = 3
_MAX_ORDER = 2


def opened(path: Path) -> Iterator[list[str]]:
    """Columns of each line of a tab-separated file."""
    with (gzip.open if path.suffix == ".gz" else open)(
        path, "rt", encoding="utf-8", newline="\n"
    ) as f:
        for line in f:
            yield line.rstrip("\n").split("\t")


def ngrams(text: str) -> Iterator[str]:
    """N-grams of words, n from 1 to 2."""
    words = text.lower().split()
    for n in range(1, _MAX_ORDER + 1):
        yield from (" ".join(words[i : i + n]) for i in range(len(words) - n + 1))


def test_coverage(
    sentences: list[tuple[str, str]], kept: NDArray[np.bool_], wanted: set[str]
) -> float:
    """The share of the tests' n-grams that the targets of the kept pairs have three times."""
    counts: Counter[str] = Counter()
    for row in np.flatnonzero(kept).tolist():
        counts.update(gram for gram in ngrams(sentences[row][1]) if gram in wanted)
    return sum(counts[gram] >= _TIMES for gram in wanted) / max(1, len(wanted))


def run(options: argparse.Namespace) -> dict[str, Any]:
    work: Path = options.work
    corpus = pycat.open_corpus(work / "corpus")
    scores = work / "scores"
    table = pycat.ScoreTable.open(scores) if scores.is_dir() else unscored(corpus)
    measures = pycat.Measures.open(work / "measures")
    groups = {"length": np.digitize(corpus.num_tokens, [11, 31]).astype(str)}
    groups["length"] = np.array(["10 or fewer", "11 to 30", "over 30"])[
        groups["length"].astype(int)
    ]
    for name, column in (("domain", options.domain_column), ("label", options.label_column)):
        if column is not None:
            rows = [row[column - 1] for row in opened(options.tsv)]
            groups[name] = np.array(rows)[corpus.lines]
    sentences = corpus.sentences(corpus.pair_ids.tolist()) if options.tests else []
    wanted = {
        name: {gram for row in opened(Path(path)) for gram in ngrams(row[1])}
        for name, path in options.tests
    }
    result: dict[str, Any] = {}
    halves: dict[str, NDArray[np.bool_]] = {}
    for name, recipe in CANDIDATES.items():
        rules = None if recipe.get("rules") == "none" else pycat.DEFAULT_RULES
        more = {key: value for key, value in recipe.items() if key not in ("rules", "guard")}
        asked = Recipe(
            keep=options.keep, unit="tokens", rules=rules, guard=recipe.get("guard", 0.5), **more
        )
        try:
            asked.check(table)
            choice, _ = choose_measured(table, corpus, asked, measures)
        except PycatError as error:
            print(f"{name}: left out, {error}", flush=True)
            continue
        halves[name] = kept = choice.kept
        row: dict[str, Any] = {
            "pairs": int(kept.sum()),
            "mean_tokens": float(corpus.num_tokens[kept].mean()),
            "dropped": choice.facts["dropped"],
            "noise_share": choice.facts.get("noise_share"),
        }
        if table.num_checkpoints:
            first = evaluate_criterion(table, "ppl@0")
            row["with_first_ppl"] = spearman(choice.scores, first)
        for group, values in groups.items():
            row[group] = {
                str(value): round(float(kept[values == value].mean()), 3)
                for value in np.unique(values)
            }
        row["n_grams"] = {
            test: round(test_coverage(sentences, kept, grams), 4) for test, grams in wanted.items()
        }
        row["overlap_with_rules"] = round(
            float(
                (kept & halves.get("rules", kept)).sum() / (kept | halves.get("rules", kept)).sum()
            ),
            3,
        )
        result[name] = row
        print(f"{name}: {json.dumps(row)}", flush=True)
    return result


def named_test(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    return name, path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tsv", type=Path)
    parser.add_argument("--domain-column", type=int)
    parser.add_argument("--label-column", type=int)
    parser.add_argument("--test", dest="tests", action="append", type=named_test, default=[])
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = run(options)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"bench": "diagnosis", "keep": options.keep, "candidates": len(result)}))


if __name__ == "__main__":
    main()
