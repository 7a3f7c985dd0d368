"""From parallel text to pruned text and the report about it: the verbs in their order."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from pycat.data.corpus import Corpus
from pycat.data.parallel_text import ParallelText
from pycat.data.tokenizing import known_text, tokenize
from pycat.errors import OutputError
from pycat.evaluation.evaluation import TestSet, evaluate, test_text
from pycat.evaluation.results import Evaluation
from pycat.filters.rules import complete_rules, read_rules
from pycat.proxy.run import Run
from pycat.proxy.training import train
from pycat.report.page import write_report
from pycat.runtime.output import OutputFolder, changes, digest, recorded_recipe
from pycat.scores.score_table import ScoreTable
from pycat.scoring.engine import score
from pycat.selection.recipe import Recipe
from pycat.selection.selection import Selection, select

_STAGES = ("tokenize", "train", "score", "select", "evaluate")
_FOLDERS = {
    "tokenize": "corpus",
    "train": "proxy",
    "score": "scores",
    "select": "selection",
    "evaluate": "evaluation",
}


@dataclass(frozen=True)
class Pruned:
    """What `prune` made: each stage's result, the pruned text and the report."""

    corpus: Corpus
    run: Run
    scores: ScoreTable
    selection: Selection
    evaluation: Evaluation | None
    texts: tuple[Path, ...]
    report: Path
    timings: Mapping[str, float]


def prune(
    src: str | PathLike[str] | None = None,
    tgt: str | PathLike[str] | None = None,
    *,
    tsv: str | PathLike[str] | None = None,
    out: str | PathLike[str],
    keep: float = 0.5,
    by: str = "cat_var",
    rules: str | PathLike[str] | Mapping[str, float | None] | None = "default",
    guard: float = 0.5,
    seed: int = 0,
    tests: Mapping[str, TestSet] | None = None,
    tokenize_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
    score_options: Mapping[str, Any] | None = None,
    evaluate_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Pruned:
    """Tokenize, train, score, select, and write pruned text and a report.

    The default recipe drops what the rules say of the text, then the likeliest noise, and keeps the
    highest `cat_var` of the rest. With `rules="none", guard=0` it is plain CAT-VAR, which is what
    the paper's method means.

    Args:
        src, tgt: UTF-8 files of equal line count; plain, `.gz` or `.zst`.
        tsv: instead of both, one file of source, tab, target.
        out: the folder to make: `corpus`, `proxy`, `scores`, `selection`, the pruned text, and
            `report.html`. Finished stages in it are not repeated.
        keep: fraction of the pairs to keep, in (0, 1].
        by: name of a criterion.
        rules, guard: what to drop before the criterion chooses, as in `select`.
        seed: of the proxy, the random criterion and the evaluation.
        tests: test sets as in `evaluate`; with them the arms are retrained and compared.
        tokenize_options, train_options, score_options, evaluate_options: further keyword
            arguments of those functions.
        overwrite: replace the stages that a changed option invalidates.

    Returns:
        The results of all stages, and where text and report lie.

    Raises:
        OutputError: `out` holds something else, or options changed (naming the stages which that
            invalidates) without `overwrite`.
        PycatError: as each stage.
    """
    changed = read_rules(rules)
    thresholds = None if changed is None else complete_rules(changed)
    Recipe(keep, by, rules=thresholds, guard=guard).check()
    for test in (tests or {}).values():
        test_text(test)
    text = ParallelText.of(src, tgt, tsv)
    work = Path(out)
    options: dict[str, dict[str, Any]] = {
        "tokenize": dict(tokenize_options or {}),
        "train": {"seed": seed, **(train_options or {})},
        "score": dict(score_options or {}),
        "select": {"keep": keep, "by": by, "rules": thresholds, "guard": guard, "seed": seed},
    }
    if tests:
        options["evaluate"] = {"tests": tests, "seed": seed, **(evaluate_options or {})}
    recipe = {stage: _plain(given) for stage, given in options.items()}
    prints = text.fingerprint(known_text(work / _FOLDERS["tokenize"]))
    recipe["tokenize"]["text"] = [row["sha256"] for row in prints]
    folder = _open_work(work, recipe, overwrite)

    def where(stage: str) -> dict[str, Any]:
        return {"out": work / _FOLDERS[stage], "overwrite": overwrite}

    corpus = tokenize(src, tgt, tsv=tsv, **where("tokenize"), **options["tokenize"])
    run = train(corpus, **where("train"), **options["train"])
    scores = score(corpus, run.checkpoints, **where("score"), **options["score"])
    selection = select(scores, **where("select"), **options["select"])
    evaluation = None
    if tests:
        evaluation = evaluate(selection, **where("evaluate"), **options["evaluate"])
    elif "evaluate" in folder.recipe:
        evaluation = _earlier_evaluation(work, selection)
    results: dict[str, Corpus | Run | ScoreTable | Selection | Evaluation] = {
        "tokenize": corpus,
        "train": run,
        "score": scores,
        "select": selection,
    }
    if evaluation is not None:
        results["evaluate"] = evaluation
    timings = {stage: result.manifest["elapsed_s"] for stage, result in results.items()}
    made = {stage: digest(dict(result.manifest)) for stage, result in results.items()}
    texts = _text_paths(work, text, corpus.languages)
    report = work / "report.html"
    before = folder.manifest or {}
    if before.get("made") != made or not all(path.is_file() for path in (*texts, report)):
        if text.is_tsv:
            selection.write_tsv(texts[0], overwrite=True)
        else:
            selection.write_text(*texts, overwrite=True)
        write_report(report, selection, scores, run, timings=timings, evaluation=evaluation)
        folder.finish(made=made)
    return Pruned(corpus, run, scores, selection, evaluation, texts, report, timings)


def _earlier_evaluation(work: Path, selection: Selection) -> Evaluation | None:
    """The evaluation that an earlier call made of this very selection."""
    try:
        evaluation = Evaluation.open(work / _FOLDERS["evaluate"])
    except OutputError:
        return None
    kept = selection.corpus().subset(selection.pair_ids).id
    return evaluation if kept in evaluation.manifest["recipe"]["arms"].values() else None


def _open_work(work: Path, recipe: dict[str, Any], overwrite: bool) -> OutputFolder:
    """The work folder with this recipe recorded, and that of stages done before but not now.

    Raises:
        OutputError: options of a stage that was made before changed and `overwrite` is not
            given, or the folder holds something else.
    """
    before = recorded_recipe(work, "prune") or {}
    for first, stage in enumerate(_STAGES):
        if stage not in before or stage not in recipe or before[stage] == recipe[stage]:
            continue
        if overwrite:
            before = {}
            break
        changed = "; ".join(changes(before[stage], recipe[stage]))
        again = ", ".join(later for later in _STAGES[first:] if later in before)
        stay = ", ".join(_STAGES[:first]) or "nothing"
        raise OutputError(
            f"{work}: {changed}. This invalidates {again} and the report ({stay} would stay); "
            "pass --overwrite (overwrite=True) to make them again, or choose another folder"
        )
    # What differs was just allowed: each stage replaces its own folder if its input changed.
    return OutputFolder(work, "prune", {**before, **recipe}, (), overwrite=True)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON values: paths absolute, tuples as lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, PathLike):
            return str(Path(value).absolute())
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    return {key: plain(value) for key, value in options.items()}


def _text_paths(work: Path, text: ParallelText, languages: tuple[str, str]) -> tuple[Path, ...]:
    """`pruned.en` and `pruned.de`, or `pruned.tsv`, compressed as the input is."""
    endings = ("tsv",) if text.is_tsv else languages
    compressed = [path.suffix if path.suffix in (".gz", ".zst") else "" for path in text.paths]
    return tuple(
        work / f"pruned.{ending}{suffix}"
        for ending, suffix in zip(endings, compressed, strict=True)
    )
