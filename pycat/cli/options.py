"""Dataclasses whose fields are the options of a verb.

Nothing here imports what the verbs run, so that help and errors of usage come at once.
"""

import argparse
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

_METAVARS = {int: "N", float: "X", Path: "FILE"}

_Kind = TypeVar("_Kind")

# A test set as `evaluate` takes it: source and reference file, or one file of both, maybe with its
# columns.
TestFiles = str | tuple[str, str] | tuple[str, tuple[int, int] | tuple[str, str]]

_WITH_COLUMNS = re.compile(r"([^,]+):([^,:/]+,[^,:/]+)")


class Parser(ArgumentParser):
    """A parser that fails where its help cannot be written; argparse takes no notice of that."""

    def print_help(self, file: Any = None) -> None:
        """Write the help to `file`, standard output by default.

        Raises:
            OSError: it takes no more.
        """
        (sys.stdout if file is None else file).write(self.format_help())


def option(text: str, default: Any = MISSING, **settings: Any) -> Any:
    """A field that is an option of its name.

    Args:
        text: the help, in whole sentences.
        default: value where the option is not given; without one, it is required.
        settings: arguments of `add_argument` that do not follow from the field's type;
            `positional=True`, for a word without a name that may be left out; `flag`, a name of
            the option that is not the field's; and `aliases`, further names of the option.
    """
    return field(default=default, metadata={"text": text, **settings})


def group(title: str | None = None, text: str | None = None, *, prefix: str = "") -> Any:
    """A field that is a dataclass of options.

    Args:
        title, text: heading of the group in the help, and what is written below it.
        prefix: begins the names of its options.
    """
    return field(metadata={"title": title, "text": text, "prefix": prefix})


def add_options(parser: Any, kind: Any, prefix: str = "", path: str = "") -> None:
    """Add an option for each field of the dataclass `kind` and of those nested in it.

    Args:
        parser: an `ArgumentParser`, or a group of one.
        kind: the dataclass.
        prefix: begins the options' names.
        path: field of the outermost dataclass that is a `kind`, such as "train_options.".
    """
    hints = get_type_hints(kind)
    for entry in fields(kind):
        hint, settings = hints[entry.name], dict(entry.metadata)
        if is_dataclass(hint):
            title, text = settings["title"], settings["text"]
            inner = parser if title is None else parser.add_argument_group(title, text)
            add_options(inner, hint, settings["prefix"], f"{path}{entry.name}.")
            continue
        text = settings.pop("text")
        if entry.default is not MISSING:
            settings["default"] = entry.default
            if entry.default is not None and entry.default is not False:
                is_tuple = isinstance(entry.default, tuple)
                shown = ",".join(entry.default) if is_tuple else entry.default
                text = f"{text.removesuffix('.')} (default: {shown})."
        if settings.pop("positional", False):
            # Its name is its place in the parsed values.
            nargs = {} if entry.default is MISSING else {"nargs": "?"}
            found = {**_settings(hint), **settings, **nargs}
            parser.add_argument(path + entry.name, help=text, **found)
            continue
        parser.add_argument(
            settings.pop("flag", f"--{prefix}{dashed(entry.name)}"),
            *settings.pop("aliases", ()),
            dest=path + entry.name,
            required=entry.default is MISSING,
            help=text,
            **{**_settings(hint), **settings},
        )


def read(kind: type[_Kind], parsed: Namespace, path: str = "") -> _Kind:
    """The dataclass `kind` of the parsed values of options that `add_options` added."""
    values: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        inner: Any = hint
        values[name] = (
            read(inner, parsed, f"{path}{name}.")
            if is_dataclass(hint)
            else getattr(parsed, path + name)
        )
    return kind(**values)


def dashed(name: str) -> str:
    """The name of an option, without its dashes in front."""
    return name.replace("_", "-")


def _settings(hint: Any) -> dict[str, Any]:
    """Arguments of `add_argument` that follow from the type of a field."""
    if get_origin(hint) in (Union, UnionType):  # a Literal or None is a Union
        [hint, *_] = (part for part in get_args(hint) if part is not NoneType)
    if hint is bool:
        return {"action": "store_true"}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if get_origin(hint) is list:
        return {"nargs": "+", **_settings(get_args(hint)[0])}
    metavar = _METAVARS.get(hint)
    return {"type": hint} if metavar is None else {"type": hint, "metavar": metavar}


# Options that several verbs have.


def out_option(text: str, default: Any = MISSING) -> Any:
    """`--out`, the folder that a verb makes."""
    return option(text, default, metavar="FOLDER")


def overwrite_option() -> Any:
    """`--overwrite`, of a folder."""
    return option("Replace what was made with other options, or is damaged.", False)


def device_option() -> Any:
    """`--device`."""
    return option('Compute on "cpu", "cuda", "cuda:1", … or "auto".', "auto", metavar="DEVICE")


def on_option() -> Any:
    """`--on`, of verbs that take time."""
    return option(
        "Work on this machine (local), on a Ray that is started here for this run (ray), or on the "
        "cluster at an address (ray://HOST:PORT) or of RAY_ADDRESS (auto); see docs/cluster.md.",
        "local",
        metavar="PLACE",
    )


def num_workers_option() -> Any:
    """`--num-workers`, that goes with `--on`."""
    return option(
        "Work in so many processes of this machine, or at most so many workers of Ray; without it, "
        "in this process alone, or in as many workers as Ray has room for.",
        None,
    )


def stage_option(what: str) -> Any:
    """`--stage`, of verbs that read tokens in a random order."""
    return option(
        f"Copy {what} into this folder first, once for all processes of this machine, and read "
        "the copy: a folder on the machine's own disk, where the originals lie far off.",
        None,
        metavar="FOLDER",
    )


def measures_option() -> Any:
    """`--measures`, which other verbs than `measure` read."""
    return option(
        "Read the measures in this folder, made by measure; without it, those in a folder named "
        "measures beside that of the scores or of the corpus.",
        None,
        metavar="FOLDER",
    )


def tests_option(default: Any = MISSING) -> Any:
    """`--test`, which may be given several times."""
    return option(
        "Measure on this held-out text: a source and a reference file, or one file of both, of any "
        "kind that --tsv takes, maybe with its columns. It may be given several times.",
        default,
        type=test_set,
        action=_AddTest,
        metavar="[NAME=]SRC,REF|FILE[:COLUMNS]",
    )


def trusted_option(default: Any = MISSING) -> Any:
    """`--trusted`, which may be given several times."""
    return option(
        "Rank pairs by how much tuning the proxy on this text, of 1,000 to 5,000 pairs that are "
        "known to be good, makes them likelier: a source and a target file, or one file as for "
        "--test. "
        "NAME is the column's, trusted without it. It may be given several times.",
        default,
        type=trusted_set,
        action=_AddTest,
        metavar="[NAME=]SRC,TGT|FILE[:COLUMNS]",
    )


def column_places(text: str) -> tuple[int, int] | tuple[str, str]:
    """`SRC,TGT`, two numbers or two names."""
    places = [place.strip() for place in text.split(",")]
    numbers = [place for place in places if place.lstrip("+-").isdecimal()]
    if (
        len(places) != 2
        or not all(places)
        or len(numbers) == 1
        or any(not place.isdecimal() for place in numbers)
    ):
        raise ArgumentTypeError(
            f"{text!r}: expected two columns, counted from 1, such as 2,3, or two names, such as "
            "translation.en,translation.de"
        )
    if numbers:
        return int(places[0]), int(places[1])
    return places[0], places[1]


def columns_option() -> Any:
    """`--columns`, of a TSV file or a file of rows."""
    return option(
        "Source and target are these columns of --tsv, counted from 1, such as 2,3; without it, "
        "the first two. Of Parquet and JSON Lines, their names, such as "
        "translation.en,translation.de; of TMX and zip, two languages, such as en,de.",
        None,
        type=column_places,
        metavar="SRC,TGT",
    )


@dataclass(frozen=True, kw_only=True)
class TextFiles:
    """The parallel text that a verb begins with."""

    src: Path | None = option(
        "Read source text from this file: UTF-8, one sentence a line; plain or compressed. A "
        "pattern in quotes, such as 'part-*.en.zst', names several, read in the order of their "
        "names.",
        None,
    )
    tgt: Path | None = option(
        "Read target text from this file, whose line i translates line i of --src.", None
    )
    tsv: Path | None = option(
        "Instead of both, read one file of source, tab, target; more columns are carried. Or, with "
        "--columns, one of Parquet or JSON Lines, TMX, or a zip of OPUS in the Moses format.",
        None,
    )
    columns: tuple[int, int] | tuple[str, str] | None = columns_option()


def vocabs_option() -> Any:
    """`--vocabs`, of models that hold no tokenizer."""
    return option(
        "Tokenize by these vocabularies of source and target, or by one for both: .spm, .yml, "
        ".json or .txt of a model of Marian, fairseq, OpenNMT-py or CTranslate2.",
        None,
        metavar="FILE",
    )


def sentencepiece_option() -> Any:
    """`--sentencepiece`, which splits text into pieces of `--vocabs`."""
    return option(
        "Split text into the pieces of those vocabularies by these SentencePiece models of source "
        "and target, or by one for both; without any, text is split at blanks.",
        None,
        metavar="FILE",
    )


# Parsers of values.


def test_set(text: str) -> tuple[str, TestFiles]:
    """`[NAME=]SOURCE,REFERENCE` or `[NAME=]FILE[:SRC,TGT]`: a name and the files."""
    name, equals, files = text.partition("=")
    files = files if equals else text
    paths = files.split(",")
    with_columns = _WITH_COLUMNS.fullmatch(files)
    if with_columns and not Path(paths[0]).exists():
        paths = [with_columns[1]]
    if len(paths) > 2 or not all(paths):
        raise ArgumentTypeError(
            f"{text!r}: expected [NAME=]SOURCE,REFERENCE, [NAME=]FILE or [NAME=]FILE:2,3 with its "
            "columns"
        )
    name = name if equals else Path(paths[0]).name.split(".")[0]
    if len(paths) == 2:
        return name, (paths[0], paths[1])
    return name, (paths[0], column_places(with_columns[2])) if with_columns else paths[0]


def trusted_set(text: str) -> tuple[str, TestFiles]:
    """`test_set`, named "trusted" where no name is given."""
    name, files = test_set(text)
    return name if "=" in text else "trusted", files


def languages(text: str) -> tuple[str, str]:
    """`SRC,TGT`."""
    names = text.split(",")
    if len(names) != 2 or not all(names):
        raise ArgumentTypeError(f"{text!r}: expected two names, such as en,de")
    return names[0], names[1]


def prompt(text: str) -> str:
    r"""A prompt, in which `\n` stands for a line end."""
    return text.replace("\\n", "\n")


def steps(text: str) -> list[int]:
    """Updates separated by commas."""
    try:
        return [int(step) for step in text.split(",")]
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r}: expected updates separated by commas, such as 100,200,400"
        ) from None


def fraction(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: expected a fraction, such as 0.5") from None


def fraction_or_auto(text: str) -> float | str:
    """A number, or "auto"."""
    return text if text == "auto" else fraction(text)


def fraction_or_range(text: str) -> float | tuple[float, float]:
    """A number, or two with a colon between them."""
    low, colon, high = text.partition(":")
    return (fraction(low), fraction(high)) if colon else fraction(low)


def two_fractions(text: str) -> tuple[float, float]:
    """`X:X`."""
    first, colon, second = text.partition(":")
    if not colon:
        raise ArgumentTypeError(f"{text!r}: expected two fractions, such as 0.1:0.05")
    return fraction(first), fraction(second)


def criterion_and_fraction(text: str) -> tuple[str, float]:
    """`CRITERION:X`; the criterion may have colons of its own."""
    criterion, colon, share = text.rpartition(":")
    if not colon or not criterion:
        raise ArgumentTypeError(f"{text!r}: expected a criterion and a fraction, such as el2n:0.2")
    return criterion, fraction(share)


def column_and_count(text: str) -> tuple[str, int]:
    """`COLUMN:N`."""
    column, _, count = text.rpartition(":")
    if not column or not count.isdecimal():
        raise ArgumentTypeError(
            f"{text!r}: expected a column and a number of pairs, such as duplicate_group:1"
        )
    return column, int(count)


def joined_criteria(words: Sequence[str]) -> list[str]:
    """Join `--by -ppl` to `--by=-ppl`: argparse takes a word that begins with "-" for an option."""
    joined: list[str] = []
    for word in words:
        negated = word.startswith("-") and word[1:2].isalpha() and word != "-h"
        if negated and joined and joined[-1] in ("--by", "--drop", "--then"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


class _AddTest(argparse.Action):
    """Gathers test sets by their names."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, _option: str | None = None
    ) -> None:
        name, files = values
        gathered: Mapping[str, TestFiles] = getattr(namespace, self.dest) or {}
        if name in gathered:
            parser.error(
                f"{_option}: two sets are named {name!r}; name them: {_option} NAME=SRC,REF"
            )
        setattr(namespace, self.dest, {**gathered, name: files})
