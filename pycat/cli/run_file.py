"""Run files: a whole study, from text to evaluation, described in TOML.

Each table holds the options of a verb by their names on the command line, with or without dashes;
paths are relative to the file. Everything but `text` and `tests` may be left out.

    [text]
    tsv = "train.tsv.gz"

    [tests]
    news = ["news.en", "news.de"]       # or one file of both

    [tokenize]
    vocab_size = 8000

    [train]
    preset = "mini"

    [score]
    [trusted]
    talks = "talks.tsv"                 # a column to rank by, from text that is known to be good

    [select]
    keep = 0.5

    [arms.noise-random]                 # a selection of its own, to name in `arms`
    by = "random"

    [evaluate]
    arms = ["full", "random", "selected", "noise-random"]
    seeds = 3
"""

import tomllib
from argparse import ArgumentError, ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pycat
from pycat.cli.options import TextFiles, add_options, dashed, group, option, read
from pycat.cli.score import ScoreOptions
from pycat.cli.select import Select
from pycat.cli.stages import EvaluateOptions, TokenizeOptions, TrainOptions
from pycat.data.same_tokenizer import further_text
from pycat.data.several_files import open_texts
from pycat.errors import PycatError
from pycat.evaluation.arms import ARMS, FRACTIONS, is_built_in
from pycat.filters.rules import complete_rules, read_rules
from pycat.ranking.criteria import members_of
from pycat.scores.score_table import RESERVED_COLUMNS, check_column_name
from pycat.selection.recipe import (
    DEFAULT_STRATA,
    FAST_CRITERION,
    KNOWN_STRATA,
    Recipe,
    default_criterion,
)

if TYPE_CHECKING:
    from pycat.evaluation.results import Evaluation


@dataclass(frozen=True, kw_only=True)
class _EvaluateTable:
    """The table `evaluate`."""

    how: EvaluateOptions = group()
    seed: int = option("Begin the seeds of weights, batches and random arms with this number.", 0)


@dataclass(frozen=True, kw_only=True)
class _TrainTable:
    """The table `train`."""

    how: TrainOptions = group()
    seed: int = option("Seed weights, batch order and dropout with this number.", 0)


# The options of `select` that say where things lie are those of the study.
_NOT_IN_FILE = ("out", "overwrite", "scores", "corpus", "text", "measures", "export")
_PATHS = ("src", "tgt", "tsv", "tokenizer", "vocabs", "sentencepiece", "labels", "rules")
_TABLES = (
    "text",
    "tests",
    "tokenize",
    "train",
    "score",
    "trusted",
    "select",
    "arms",
    "evaluate",
)


def run_study(
    file: Path,
    out: Path,
    *,
    device: str,
    on: str = "local",
    stage: Path | None = None,
    overwrite: bool,
) -> "Evaluation":
    """Make all that the run file says, in folders inside of `out`; finished stages stay.

    Raises:
        PycatError: the file cannot be read, or a table or option in it is wrong. Or as each stage.
    """
    tables = _read(file)
    text = _options(file, "text", TextFiles, tables)
    tests = _texts(file, "tests", tables)
    if not tests:
        raise PycatError(f"{file}: no [tests]; expected one test set or more, NAME = [SRC, REF]")
    trusted = _texts(file, "trusted", tables)
    tokenize = _options(file, "tokenize", TokenizeOptions, tables)
    train = _options(file, "train", _TrainTable, tables)
    scoring = _options(file, "score", ScoreOptions, tables)
    select = _selecting(file, "select", tables.get("select", {}))
    more = {name: _selecting(file, f"arms.{name}", own) for name, own in _arms(file, tables)}
    evaluate = _options(file, "evaluate", _EvaluateTable, tables)
    for name in trusted:
        try:
            check_column_name(name, RESERVED_COLUMNS)
        except PycatError as error:
            raise PycatError(f"{file}: [trusted] {error}") from None
    recipes = [
        _recipe(file, table, own, trusted)
        for table, own in (
            ("select", select),
            *((f"arms.{name}", own) for name, own in more.items()),
        )
    ]
    arguments = evaluate.how.arguments()
    arguments["arms"] = _placed_arms(file, evaluate.how.arms, more, out)
    further = open_texts(text.src, text.tgt, text.tsv, text.columns, tokenize.languages)
    for given in (*tests.values(), *trusted.values()):
        further_text(given, tokenize.languages or further.languages, further.recipe.get("columns"))

    def place(name: str) -> dict[str, Any]:
        return {"out": out / name, "overwrite": overwrite}

    corpus = pycat.tokenize(**vars(text), **place("corpus"), **vars(tokenize), on=on)
    measures = None
    if any(recipe.rules is not None or recipe.needs_noise for recipe in recipes):
        measures = pycat.measure(corpus, **place("measures"), on=on, stage=stage)
    run = pycat.train(
        corpus,
        **place("proxy"),
        **vars(train.how),
        seed=train.seed,
        device=device,
        stage=stage,
    )
    scores = pycat.score(
        corpus,
        run.checkpoints,
        **place("scores"),
        **vars(scoring),
        device=device,
        on=on,
        stage=stage,
    )
    for name, good in trusted.items():
        pycat.add_trusted(
            scores,
            good,
            checkpoint=run.checkpoints[-1],
            name=name,
            seed=train.seed,
            device=device,
            **place(f"trusted/{name}"),
        )
    if any(DEFAULT_STRATA in recipe.strata_names for recipe in recipes):
        pycat.add_clusters(scores, run.checkpoints[-1], device=device, on=on)
    selection = pycat.select(scores, measures=measures, **place("selection"), **select)
    for name, own in more.items():
        pycat.select(scores, measures=measures, **place(f"arms/{name}"), **own)
    return pycat.evaluate(
        selection,
        tests=tests,
        **place("evaluation"),
        **arguments,
        seed=evaluate.seed,
        device=device,
        on=on,
        stage=stage,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PycatError(f"{file}: the run file cannot be read ({error})") from None
    for name, table in tables.items():
        if name not in _TABLES:
            raise PycatError(f"{file}: found {name!r}; expected tables of {', '.join(_TABLES)}")
        if not isinstance(table, dict):
            raise PycatError(f"{file}: {name} is {table!r}; expected a table [{name}]")
    return tables


def _recipe(file: Path, table: str, own: Mapping[str, Any], trusted: Mapping[str, Any]) -> Recipe:
    """The recipe that a table of the run file asks for, checked before anything is made."""
    try:
        changed = read_rules(own["rules"])
        rules = None if changed is None else complete_rules(changed)
        by, strata = own["by"], own["strata"]
        if by is None:
            by = default_criterion(True, rules is not None or bool(own["guard"]))
            if strata is None and own["part"] == "top" and not isinstance(own["keep"], tuple):
                strata = DEFAULT_STRATA
        recipe = Recipe(**{**own, "by": by, "rules": rules, "strata": strata})
        # Columns of trusted text are not there yet.
        known = [str(m) for m in members_of(by) if str(m).removeprefix("-") not in trusted]
        replace(recipe, by="+".join(known) or FAST_CRITERION).check()
        if unknown := {*recipe.strata_names} - {*KNOWN_STRATA, *trusted}:
            raise PycatError(
                f"strata by {', '.join(sorted(unknown))} are not known; expected "
                f"{', '.join((*KNOWN_STRATA, *trusted))}"
            )
    except PycatError as error:
        raise PycatError(f"{file}: [{table}] {error}") from None
    return recipe


def _placed_arms(file: Path, arms: Sequence[str], made: Mapping[str, Any], out: Path) -> list[str]:
    """Arms by name, or the folders of selections: those of the study, and others beside the file.

    Raises:
        PycatError: an arm is neither, or one of the study is not asked for.
    """
    placed = []
    for arm in arms:
        if arm in made:
            placed.append(str(out / "arms" / arm))
        elif is_built_in(arm):
            placed.append(arm)
        elif (file.parent / arm).is_dir():
            placed.append(str(file.parent / arm))
        else:
            raise PycatError(
                f"{file}: [evaluate] arms has {arm!r}; expected {', '.join((*ARMS, *FRACTIONS))}, "
                f"the name of a table [arms.{arm}], or the folder of a selection"
            )
    for name in made:
        if name not in arms:
            raise PycatError(
                f"{file}: [arms.{name}] is made for nothing; name it in arms of [evaluate]"
            )
    return placed


def _texts(file: Path, table: str, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Test sets or trusted texts, by name."""
    texts: dict[str, Any] = {}
    for name, files in tables.get(table, {}).items():
        paths = [files] if isinstance(files, str) else files
        columns = None
        if isinstance(paths, list) and len(paths) == 2 and isinstance(paths[1], list):
            paths, columns = paths[:1], _columns(file, f"[{table}] {name}", paths[1])
        if (
            not isinstance(paths, list)
            or len(paths) not in (1, 2)
            or not all(isinstance(path, str) for path in paths)
        ):
            raise PycatError(
                f"{file}: [{table}] {name} is {files!r}; expected a source and a reference file in "
                "brackets, or one file of both, or one and its columns as [FILE, [SRC, TGT]]"
            )
        placed = [file.parent / path for path in paths]
        texts[name] = placed[0] if len(placed) == 1 else (placed[0], placed[1])
        if columns is not None:
            texts[name] = (placed[0], columns)
    return texts


def _columns(file: Path, name: str, columns: list[Any]) -> tuple[Any, Any]:
    """Columns of the file of a test set: two numbers, or two names."""
    kinds = [type(column) for column in columns]
    if kinds not in ([int, int], [str, str]):
        raise PycatError(
            f"{file}: {name} has columns {columns!r}; expected two numbers or two names"
        )
    return columns[0], columns[1]


def _arms(file: Path, tables: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    arms = list(tables.get("arms", {}).items())
    for name, own in arms:
        if not isinstance(own, dict):
            raise PycatError(
                f"{file}: arms.{name} is {own!r}; expected a table [arms.{name}] of options of "
                "select"
            )
        if name != Path(name).name or name in (".", ".."):
            raise PycatError(f"{file}: arms.{name}: expected a name that a folder can have")
        if is_built_in(name):
            raise PycatError(
                f"{file}: [arms.{name}] has the name of an arm that evaluate draws itself; "
                f"expected none of {', '.join((*ARMS, *FRACTIONS))}; rename the table"
            )
    return arms


def _selecting(file: Path, name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `pycat.select`."""
    for option_name in table:
        if option_name in _NOT_IN_FILE:
            raise PycatError(f"{file}: [{name}] has no {option_name}; leave it out")
    # The scores are those that the study makes.
    given = {**table, "scores": "scores"}
    arguments: dict[str, Any] = _parse(file, name, Select, given).arguments()
    return arguments


def _options(file: Path, name: str, kind: Any, tables: Mapping[str, Any]) -> Any:
    """The dataclass `kind` of a table's options."""
    return _parse(file, name, kind, tables.get(name, {}))


def _parse(file: Path, name: str, kind: Any, table: Mapping[str, Any]) -> Any:
    parser = _Parser(prog=name, add_help=False, exit_on_error=False, allow_abbrev=False)
    add_options(parser, kind)
    words: list[str] = []
    for key, value in table.items():
        words += _words(file, name, parser, key, value)
    try:
        return read(kind, parser.parse_args(words))
    except (ArgumentError, PycatError) as error:
        message = str(error).removeprefix("argument ").replace("--", "", 1)
        raise PycatError(f"{file}: [{name}] {message}") from None


def _words(file: Path, name: str, parser: "_Parser", key: str, value: Any) -> list[str]:
    """An option and its value as words of a command line."""
    flag = f"--{dashed(key)}"
    action = parser.action_of(flag)
    if action is None:
        known = ", ".join(parser.flags())
        raise PycatError(f"{file}: [{name}] has no option {key!r}; expected some of {known}")
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise PycatError(f"{file}: [{name}] {key} is {value!r}; expected true or false")
        return [flag] if value else []
    if isinstance(value, (dict, bool)):
        raise PycatError(f"{file}: [{name}] {key} is {value!r}; expected {action.metavar or key}")
    values = value if isinstance(value, list) else [value]
    if key in _PATHS:
        # "default" and "none" are rules without a file.
        values = [
            path if path in ("default", "none") else str(file.parent / str(path)) for path in values
        ]
    texts = [str(one) for one in values]
    if not isinstance(value, list):
        return [f"{flag}={texts[0]}"]
    if action.nargs == "+":
        return [flag, *texts]
    if type(action).__name__ == "_AppendAction":
        return [f"{flag}={text}" for text in texts]
    return [f"{flag}={','.join(texts)}"]


class _Parser(ArgumentParser):
    """A parser whose errors are exceptions, and which knows its options."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of leaving the program."""
        raise PycatError(message)

    def action_of(self, flag: str) -> Any:
        """The action of an option; None if there is none."""
        return self._option_string_actions.get(flag)

    def flags(self) -> Sequence[str]:
        """The names of all options."""
        return sorted(
            flag.removeprefix("--").replace("-", "_") for flag in self._option_string_actions
        )
