"""The whole way from parallel text to pruned text and its report: the stages in their order."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.data.parallel_text import ParallelText
from pycat.data.row_files import Columns, RowFile
from pycat.data.same_tokenizer import further_text
from pycat.data.several_files import SeveralFiles, open_texts
from pycat.data.tab_columns import wrong_column
from pycat.data.text_files import compression_suffix
from pycat.data.tokenizing import known_text, tokenize
from pycat.earlier_work import EarlierWork, delete_set_aside, finish_setting_aside
from pycat.errors import OutputError, PycatError
from pycat.evaluation.evaluation import DEFAULT_PASSES, TestSet, evaluate
from pycat.evaluation.results import Evaluation
from pycat.filters.measures import MEASURES_FOLDER, Measures, measure
from pycat.filters.noise_share import check_num_pairs
from pycat.filters.rules import complete_rules, hits_in_words, read_rules
from pycat.proxy.copying import copy_run
from pycat.proxy.run import Run
from pycat.proxy.training import train
from pycat.ranking.criteria import is_of, members_of, needs_proxy
from pycat.report.page import write_report
from pycat.runtime.device import choose_device
from pycat.runtime.locks import Lock
from pycat.runtime.manifest import list_files, load_manifest
from pycat.runtime.output import OutputFolder, changes, digest, recorded_recipe
from pycat.runtime.parts import connected, is_here
from pycat.scores.score_table import RESERVED_COLUMNS, ScoreTable, check_column_name
from pycat.scores.unscored import unscored
from pycat.scoring.clusters import add_clusters
from pycat.scoring.engine import score
from pycat.scoring.trusted import TrustedText, add_trusted
from pycat.selection.recipe import (
    DEFAULT_STRATA,
    FAST_CRITERION,
    KNOWN_STRATA,
    Recipe,
    default_criterion,
)
from pycat.selection.selecting import select
from pycat.selection.selection import Selection

_STAGES = ("tokenize", "measure", "train", "score", "trusted", "select", "evaluate")
_FOLDERS = {
    "tokenize": "corpus",
    "measure": MEASURES_FOLDER,
    "train": "proxy",
    "score": "scores",
    "trusted": "trusted",
    "select": "selection",
    "evaluate": "evaluation",
}

# Where the rules leave less, something is wrong with the text or the rules, and not with its pairs.
_MIN_SHARE_LEFT = 0.01
_MIN_PAIRS_LEFT = 100
# Texts of fewer pairs are held to the share alone.
_SMALL_TEXT = 1000
_NUM_EXAMPLES = 3
# Passes over the kept pairs in a check, and the pairs of the text itself that it measures on.
_CHECK_PASSES = 4.0
# Options that say how a stage uses the machine.
_OF_THE_MACHINE = ("num_workers",)
_MAX_HELD_OUT, _HELD_OUT_PART = 1000, 20
_EXAMPLE_CHARS = 60


@dataclass(frozen=True)
class Pruned:
    """What `prune` made: each stage's result, the pruned text and the report.

    `measures` is None where no step needs them, `evaluation` without tests. Where `prune` was fast,
    `run` is None, and `scores` has no checkpoint.
    """

    corpus: Corpus
    measures: Measures | None
    run: Run | None
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
    columns: Columns | None = None,
    out: str | PathLike[str],
    keep: float = 0.5,
    by: str | None = None,
    rules: str | PathLike[str] | Mapping[str, float | None] | None = "default",
    guard: float | str = 0.5,
    strata: str | None = None,
    fast: bool = False,
    trusted: Mapping[str, TrustedText] | None = None,
    check: bool = False,
    seed: int = 0,
    tests: Mapping[str, TestSet] | None = None,
    tokenize_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
    score_options: Mapping[str, Any] | None = None,
    evaluate_options: Mapping[str, Any] | None = None,
    base: str | PathLike[str] | None = None,
    train_anew: bool = False,
    on: str = "local",
    overwrite: bool = False,
) -> Pruned:
    """Tokenize, measure, train, score, select, and write pruned text and a report.

    The default recipe drops what the rules say of the text, then the likeliest noise, and keeps the
    highest `learnability+noise` of the rest, the same share of each cluster of the proxy's states.
    With `by="cat_var", rules="none", guard=0` it is plain CAT-VAR, the paper's method, and nothing
    is measured.

    Before anything is trained, a text is refused of which the rules leave fewer than 1 % of the
    pairs, or of 1,000 pairs and more fewer than 100: most likely a column is wrong.

    Args:
        src, tgt: UTF-8 files of equal line count; plain or compressed.
        tsv: instead of both, one file of source, tab, target; or of Parquet or JSON Lines, whose
            kept rows are written as they are.
        columns: of source and target in `tsv`, as in `tokenize`.
        out: the folder to make: `corpus`, `measures`, `proxy`, `scores`, `selection`, the pruned
            text, and `report.html`. Finished stages in it are not repeated.
        keep: fraction of the pairs to keep, in (0, 1].
        by: name of a criterion; unless given, "learnability+noise", "noise" where `fast`, or
            `trusted`.
        rules, guard: what to drop before the criterion chooses, as in `select`.
        strata: as in `select`; "cluster" stands for clusters of the proxy's states, which are then
            made. Where neither strata nor a criterion nor trusted text is given, clusters are it.
        fast: train and score no proxy; the criterion must be one that needs none, such as "noise",
            "length" or "random".
        trusted: texts that are known to be good, by the names of the columns that `add_trusted`
            makes of them. Where no criterion is given, they are it, as the mean of their ranks.
        check: train small models on the kept pairs, on random parts and on all pairs, and say what
            the kept ones are worth: `evaluate` with four passes, on the tests or, without any, on
            up to 1,000 pairs that the rules leave, which no model then trains on.
        seed: of the proxy, the random criterion and the evaluation.
        tests: test sets as in `evaluate`; with them the arms are retrained and compared.
        tokenize_options, train_options, score_options, evaluate_options: further keyword
            arguments of those functions.
        base: the folder that an earlier call made of other text, such as less of it; it may be
            `out` itself. Its tokenizer and proxy are taken over, and its scores of all pairs that
            have the same tokens; the other pairs alone are scored. What depends on the whole text
            is made anew: measures, selection, evaluation and report.
        train_anew: take over the tokenizer alone, and train a proxy on this text, which scores all.
        on: where text is tokenized and measured, pairs scored and models of the evaluation trained,
            as in `score`; the proxy is trained here.
        overwrite: replace the stages that a changed option invalidates.

    Returns:
        The results of all stages, and where text and report lie.

    Raises:
        OutputError: `out` holds something else, or options changed (naming the stages which that
            invalidates) without `overwrite`.
        PycatError: the rules leave next to nothing, as above; the message has the hits of each rule
            and three of the pairs. Or as each stage.
    """
    # One function, longer than most: it is the order of the stages.
    is_here(on, None)  # an error, if it names no place
    changed = read_rules(rules)
    thresholds = None if changed is None else complete_rules(changed)
    if by is None and not (trusted or fast):
        strata = strata or DEFAULT_STRATA
    by = by or "+".join(trusted or ())
    by = by or default_criterion(not fast, thresholds is not None or bool(guard))
    asked = Recipe(keep, by, strata=strata, rules=thresholds, guard=guard)
    by_cluster = DEFAULT_STRATA in asked.strata_names
    for name in trusted or ():
        check_column_name(name, RESERVED_COLUMNS)
    if unknown := {*asked.strata_names} - {*KNOWN_STRATA, *(trusted or ())}:
        raise PycatError(
            f"prune: strata by {', '.join(sorted(unknown))} are not known; expected cluster, "
            "length, score, a name of trusted text, or several of the first two and the last"
        )
    # The columns of trusted text are not there yet; the rest of the criterion is checked.
    members = (str(member) for member in members_of(by))
    known = [member for member in members if member.removeprefix("-") not in (trusted or {})]
    replace(asked, by="+".join(known) or FAST_CRITERION).check()
    if fast and (trusted or needs_proxy(by)):
        needing = "trusted text" if trusted else f"the criterion {by}"
        raise PycatError(
            f"prune: fast trains no proxy, which {needing} needs; leave one of them out"
        )
    if fast and by_cluster:
        raise PycatError(
            "prune: fast trains no proxy, whose states strata by cluster are made of; leave one out"
        )
    if base is not None and fast:
        raise PycatError(
            "prune: base brings a proxy and its scores, and fast uses neither; leave one out"
        )
    if base is None and train_anew:
        raise PycatError("prune: train_anew goes with base, whose proxy it leaves out")
    languages = (tokenize_options or {}).get("languages")
    text = open_texts(src, tgt, tsv, columns, languages)
    for further in (*(trusted or {}).values(), *(tests or {}).values()):
        further_text(further, languages or text.languages, text.recipe.get("columns"))
    work = Path(out)
    options: dict[str, dict[str, Any]] = {
        "tokenize": dict(tokenize_options or {}),
        **({"measure": {}} if thresholds is not None or asked.needs_noise else {}),
        **({} if fast else {"train": {"seed": seed, **(train_options or {})}}),
        **({} if fast else {"score": dict(score_options or {})}),
        **({"trusted": dict(trusted)} if trusted else {}),
        "select": {
            "keep": keep,
            "by": by,
            "rules": thresholds,
            "guard": guard,
            **({} if strata is None else {"strata": strata}),
            "seed": seed,
        },
    }
    if tests or check:
        options["evaluate"] = {
            **({"passes": _CHECK_PASSES} if check else {}),
            **({"tests": tests} if tests else {}),
            "seed": seed,
            **(evaluate_options or {}),
        }
    recipe = {stage: _plain(given) for stage, given in options.items()}
    fingerprints = text.fingerprint(known_text(work / _FOLDERS["tokenize"]))
    recipe["tokenize"] |= text.recipe
    recipe["tokenize"]["text"] = [row["sha256"] for row in fingerprints]
    grows = base is not None and Path(base).resolve() == work.resolve()
    if grows and work.is_dir():
        with Lock.of_folder(work):
            finish_setting_aside(work, _FOLDERS)
    earlier = None if base is None else EarlierWork.open(base, work, _FOLDERS)
    taken = None if train_anew or earlier is None else earlier
    if earlier is not None:
        earlier.check(recipe, train_anew)
        recipe["tokenize"]["base"] = earlier.corpus.manifest["tokenizer_sha256"]
        options["tokenize"] = earlier.tokenize_options(options["tokenize"])
    if taken is not None:
        recipe["train"]["base"] = taken.scores.manifest["recipe"]["checkpoints"]
    if work.exists() and not work.is_dir():
        raise OutputError(f"{work}: expected a folder, found a file; choose another name")
    work.mkdir(parents=True, exist_ok=True)
    with Lock.of_folder(work) as lock, connected(on):
        if grows and earlier is not None:
            earlier = earlier.set_aside(work, recipe, _FOLDERS)
            taken = None if taken is None else earlier
            # The tokenizer's file was moved with the rest.
            options["tokenize"] = earlier.tokenize_options(options["tokenize"])
        folder = _open_work(work, recipe, overwrite, lock)

        def where(stage: str) -> dict[str, Any]:
            return {"out": work / _FOLDERS[stage], "overwrite": overwrite}

        corpus = tokenize(
            src, tgt, tsv=tsv, columns=columns, on=on, **where("tokenize"), **options["tokenize"]
        )
        measures = None
        if "measure" in options:
            measures = measure(corpus, on=on, **where("measure"), **options["measure"])
            if thresholds is not None:
                _check_rules_leave_enough(measures, corpus, thresholds)
            if guard == "auto" or is_of(by, "fitted_noise"):
                left = len(corpus) if thresholds is None else measures.apply(thresholds)[0].sum()
                check_num_pairs(corpus, int(left))
        run: Run | None = None
        if taken is not None:
            run = copy_run(taken.run, **where("train"))
        elif not fast:
            run = train(corpus, **where("train"), **options["train"])
        # A second call of the same command finds its own folder finished, and takes nothing over.
        giving = None if taken is None or taken.path.resolve() == work.resolve() else taken
        known_scores = None if giving is None else giving.scores
        scores = (
            unscored(corpus)
            if run is None
            else score(
                corpus,
                run.checkpoints,
                **where("score"),
                **options["score"],
                base=known_scores,
                on=on,
            )
        )
        for name, good in (trusted or {}).items():
            assert run is not None
            add_trusted(
                scores,
                good,
                checkpoint=run.checkpoints[-1],
                out=work / _FOLDERS["trusted"] / name,
                name=name,
                seed=seed,
                device=options["score"].get("device", "auto"),
                base=None if giving is None else giving.trusted_scores(name),
                overwrite=overwrite,
            )
        if by_cluster:
            assert run is not None
            device = options["score"].get("device", "auto")
            add_clusters(scores, run.checkpoints[-1], device=device, on=on)
        selection = select(scores, measures=measures, **where("select"), **options["select"])
        evaluation = None
        if "evaluate" in options:
            num_noise = selection.manifest["dropped"].get("guard", 0)
            held_out = None
            if not tests:
                held_out = _held_out(corpus, measures, thresholds, scores, num_noise, seed)
            evaluation = evaluate(
                selection, held_out=held_out, on=on, **where("evaluate"), **options["evaluate"]
            )
        elif "evaluate" in folder.recipe:
            evaluation = _earlier_evaluation(work, selection)
        results: dict[str, Corpus | Measures | Run | ScoreTable | Selection | Evaluation] = {
            "tokenize": corpus,
            **({} if measures is None else {"measure": measures}),
            **({} if run is None else {"train": run, "score": scores}),
            "select": selection,
            **({} if evaluation is None else {"evaluate": evaluation}),
        }
        timings = {
            stage: result.manifest["elapsed_s"]
            for stage, result in results.items()
            if stage != "train" or taken is None  # that time was spent earlier
        }
        if by_cluster:
            timings["cluster"] = scores.manifest["made_by"][DEFAULT_STRATA]["elapsed_s"]
        made = {stage: digest(dict(result.manifest)) for stage, result in results.items()}
        texts = _text_paths(work, text, corpus.languages)
        report = work / "report.html"
        before = folder.manifest or {}
        if before.get("made") != made or not all(path.is_file() for path in (*texts, report)):
            if isinstance(text, RowFile) and text.keeps_rows:
                selection.write_rows(texts[0], overwrite=True)
            elif len(texts) == 1:
                selection.write_tsv(texts[0], overwrite=True)
            else:
                selection.write_text(*texts, overwrite=True)
            write_report(
                report,
                selection,
                scores,
                run,
                timings=timings,
                measures=measures,
                evaluation=evaluation,
                overwrite=True,
            )
            # Another run finds them damaged, and writes them again.
            names = [path.name for path in (*texts, report)]
            folder.finish(made=made, files=list_files(work, names))
        if grows:
            delete_set_aside(work)
        return Pruned(corpus, measures, run, scores, selection, evaluation, texts, report, timings)


def _check_rules_leave_enough(
    measures: Measures, corpus: Corpus, thresholds: Mapping[str, float | None]
) -> None:
    """Refuse a text of which the rules leave next to nothing.

    Raises:
        PycatError: with the hits of each rule, and three of the pairs that they drop.
    """
    kept, hits = measures.apply(thresholds)
    num_left, num_pairs = int(np.count_nonzero(kept)), len(kept)
    fewest = max(1, ceil(_MIN_SHARE_LEFT * num_pairs))
    if num_pairs >= _SMALL_TEXT:
        fewest = max(fewest, _MIN_PAIRS_LEFT)
    if num_left >= fewest:
        return
    dropped = np.flatnonzero(~kept)
    pairs = dropped[np.linspace(0, len(dropped) - 1, _NUM_EXAMPLES).astype(int)].tolist()
    examples = [
        f"  line {corpus.lines[pair] + 1:,} ({', '.join(measures.broken_by(pair, thresholds))}): "
        f"{_shortened(src)} -> {_shortened(tgt)}"
        for pair, (src, tgt) in zip(pairs, corpus.sentences(pairs), strict=True)
    ]
    raise PycatError(
        "\n".join(
            (
                f"{corpus.path}: the rules leave {num_left:,} of {num_pairs:,} pairs, expected at "
                f"least {fewest:,}; nothing was trained.",
                f"Pairs that each rule hits: {hits_in_words(hits)}. For example",
                *examples,
                wrong_column(corpus)
                + "See that the files or columns hold source and target, in that order, and their "
                "languages (--tokenize-languages); or loosen the rules (--rules FILE), or pass "
                "--rules none (rules='none')",
            )
        )
    )


def _held_out(
    corpus: Corpus,
    measures: Measures | None,
    thresholds: Mapping[str, float | None] | None,
    scores: ScoreTable,
    num_noise: int,
    seed: int,
) -> NDArray[np.int64]:
    """Ids of pairs to test on: a twentieth, but at most 1,000, of what the rules leave.

    The `num_noise` likeliest of those to be noise are left out first, as a selection does.
    """
    rows = np.arange(len(corpus))
    if measures is not None and thresholds is not None:
        rows = np.flatnonzero(measures.apply(thresholds)[0])
    if measures is not None and num_noise:
        noise = measures.noise_score(scores)[rows]
        rows = np.sort(rows[np.argsort(noise, kind="stable")[: max(1, len(rows) - num_noise)]])
    count = max(1, min(_MAX_HELD_OUT, len(rows) // _HELD_OUT_PART))
    drawn = np.random.default_rng((seed, 2)).choice(rows, count, replace=False)
    return np.sort(corpus.pair_ids[drawn])


def _shortened(text: str) -> str:
    """The beginning of a sentence in quotes, control characters escaped."""
    return repr(text if len(text) <= _EXAMPLE_CHARS else text[: _EXAMPLE_CHARS - 1] + "…")


def _earlier_evaluation(work: Path, selection: Selection) -> Evaluation | None:
    """The evaluation that an earlier call made of this very selection."""
    file = work / _FOLDERS["evaluate"] / "evaluation.json"
    if not file.is_file() or not load_manifest(file).get("complete"):
        return None
    evaluation = Evaluation.open(file.parent)
    made = evaluation.manifest
    # Evaluations of earlier versions name no selection; without held-out pairs it is that arm.
    of = [made["selection"]] if "selection" in made else made["recipe"]["arms"].get("selected", ())
    return evaluation if selection.kept_corpus().id in of else None


def _open_work(work: Path, recipe: dict[str, Any], overwrite: bool, lock: Lock) -> OutputFolder:
    """The work folder with this recipe recorded, and that of stages done before but not now.

    Raises:
        OutputError: options of a stage that was made before changed and `overwrite` is not
            given, or the folder holds something else.
    """
    before = recorded_recipe(work, "prune") or {}
    begun = [stage for stage in _STAGES if stage in before and (work / _FOLDERS[stage]).is_dir()]
    for first, stage in enumerate(begun):
        if stage not in recipe:
            continue
        earlier, asked = (_meaning(stage, options) for options in (before[stage], recipe[stage]))
        if earlier == asked:
            continue
        if overwrite:
            before = {}
            break
        changed = "; ".join(changes(earlier, asked))
        again = ", ".join(begun[first:])
        stay = ", ".join(begun[:first]) or "nothing"
        raise OutputError(
            f"{work}: {changed}. This invalidates {again} and the report ({stay} would stay); "
            "pass --overwrite (overwrite=True) to make them again, or choose another folder"
        )
    # What differs was just allowed: each stage replaces its own folder if its input changed.
    return OutputFolder(work, "prune", {**before, **recipe}, (), overwrite=True, lock=lock)


def _meaning(stage: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a stage without those that change no result, and what defaults stand for."""
    meant = {name: value for name, value in options.items() if name not in _OF_THE_MACHINE}
    if meant.get("device") == "auto":
        meant["device"] = choose_device("auto").type
    if stage == "evaluate":
        meant.setdefault("passes", DEFAULT_PASSES)
    return meant


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


def _text_paths(
    work: Path, text: ParallelText | RowFile | SeveralFiles, languages: tuple[str, str]
) -> tuple[Path, ...]:
    """`pruned.en` and `pruned.de`, or `pruned.tsv`, compressed as the input is; or rows."""
    if isinstance(text, RowFile):
        if not text.keeps_rows:
            return tuple(work / f"pruned.{language}" for language in languages)
        suffix = compression_suffix(text.path) if text.kind == "jsonl" else ""
        return (work / f"pruned.{text.kind}{suffix}",)
    if isinstance(text, SeveralFiles):
        return tuple(work / f"pruned.{language}" for language in languages)
    endings = ("tsv",) if text.is_tsv else languages
    compressed = map(compression_suffix, text.paths)
    return tuple(
        work / f"pruned.{ending}{suffix}"
        for ending, suffix in zip(endings, compressed, strict=True)
    )
