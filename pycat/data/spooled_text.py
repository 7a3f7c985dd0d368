"""Sentence pairs that are no lines of text, spooled once to two plain files of a corpus folder.

Rules, reports and selections read the text of a corpus again, which a stream cannot be, and what
lies in a database or an archive only slowly. Line i of both files is row i of what was read.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pycat.data.language_codes import is_known_code
from pycat.data.parallel_text import FileFingerprint, ParallelText, write_rows
from pycat.errors import TextError

# Names of the files in a corpus folder.
SPOOLED_FILES = ("text.src", "text.tgt")

_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_MAX_NAMES = 20


def spool(pairs: Iterable[tuple[bytes, bytes]], folder: Path, source: object) -> ParallelText:
    """Write pairs of lines without line ends to the two files of `folder`.

    Args:
        pairs: the lines.
        folder: an existing folder.
        source: what the pairs come from, which an error names.

    Raises:
        TextError: there is no pair.
    """
    paths = (folder / SPOOLED_FILES[0], folder / SPOOLED_FILES[1])
    write_rows(((src + b"\n", tgt + b"\n") for src, tgt in pairs), paths, overwrite=True)
    if paths[0].stat().st_size == 0:
        for path in paths:
            path.unlink()
        raise TextError(f"{source}: holds no rows; expected one sentence pair a row")
    return ParallelText(paths)


def spooled_fingerprints(text: ParallelText) -> list[FileFingerprint]:
    """Fingerprints of spooled files, which a corpus folder takes along: their paths are names."""
    return [
        FileFingerprint(
            path=Path(row["path"]).name,
            file_bytes=row["file_bytes"],
            mtime_ns=row["mtime_ns"],
            sha256=row["sha256"],
        )
        for row in text.fingerprint()
    ]


@dataclass(frozen=True)
class DatasetText:
    """Rows of a dataset in memory or on the way, spooled beside the corpus folder.

    Attributes:
        text: the spooled files, which move into the corpus folder.
        columns: names of source and target.
    """

    text: ParallelText
    columns: tuple[str, str]

    @property
    def recipe(self) -> dict[str, Any]:
        """What the recipe of a corpus says of this text beside its hash."""
        return {"rows": [*self.columns]}

    @property
    def languages(self) -> tuple[str, str]:
        """Names of source and target by their columns."""
        return column_languages(self.columns)

    def fingerprint(self, known: Iterable[FileFingerprint] = ()) -> list[FileFingerprint]:
        """Identity of the rows: that of the spooled files."""
        return self.text.fingerprint(known)

    def record(self, known: Iterable[FileFingerprint] = ()) -> dict[str, Any]:
        """What the manifest of a corpus says of where its text comes from."""
        return {"kind": "dataset", "columns": [*self.columns]}

    def in_folder(self, folder: Path) -> ParallelText:
        """Move the spooled files into the corpus folder."""
        paths = tuple(path.replace(folder / path.name) for path in self.text.paths)
        return ParallelText(paths)


@contextmanager
def spooled_dataset(
    dataset: Iterable[Mapping[str, Any]], columns: tuple[str, str], beside: Path
) -> Iterator[DatasetText]:
    """Spool a dataset into a temporary folder beside `beside`, on the same disk.

    Only then its identity is known, and whether the folder holds a corpus of it already.

    Raises:
        TextError: as `row_pairs`, or there is no row.
    """
    if isinstance(dataset, Mapping):
        raise TextError(
            f"dataset: found a mapping of {listed(map(str, dataset))}; expected rows: pass one "
            "split of it, such as dataset['train']"
        )
    beside.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(
        prefix=f".{beside.name}.", suffix=".tmp", dir=beside.parent
    ) as temporary:
        rows = row_pairs(enumerate(dataset), columns, "dataset[{}]".format)
        yield DatasetText(spool(rows, Path(temporary), "dataset"), columns)


def row_pairs(
    rows: Iterable[tuple[int, Any]], columns: tuple[str, str], place: Callable[[int], str]
) -> Iterator[tuple[bytes, bytes]]:
    """Source and target line of each row, in UTF-8.

    Line breaks inside a sentence become blanks; at its end they vanish.

    Args:
        rows: a number and a mapping of columns each.
        columns: names of source and target: a key of the row, or keys of mappings inside it with
            dots between them.
        place: names a row by its number, for errors.

    Raises:
        TextError: a row is no mapping, lacks a column, or holds no text there; names the row.
    """
    for number, row in rows:
        if not isinstance(row, Mapping):
            raise TextError(
                f"{place(number)}: found {_kind(row)}, expected a mapping of column names to "
                "values; of a table pass its rows, such as those of datasets.Dataset.from_pandas, "
                "Table.to_pylist() or DataFrame.to_dict('records')"
            )
        src, tgt = (_line(row, column, number, place) for column in columns)
        yield src, tgt


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column: `row["a.b"]`, or else `row["a"]["b"]`; None inside a None.

    Raises:
        KeyError: there is none.
    """
    if column in row:
        return row[column]
    for dot in (place for place, letter in enumerate(column) if letter == "."):
        outer, inner = column[:dot], column[dot + 1 :]
        if outer not in row:
            continue
        if row[outer] is None:
            return None
        if isinstance(row[outer], Mapping):
            try:
                return value_at(row[outer], inner)
            except KeyError:
                continue
    raise KeyError(column)


def text_columns(row: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of the columns of a row that hold text, those inside mappings with dots."""
    names = []
    for name, value in row.items():
        if isinstance(value, Mapping):
            names += text_columns(value, f"{prefix}{name}.")
        elif isinstance(value, str):
            names.append(f"{prefix}{name}")
    return names


def no_column(place: str, column: str, known: Iterable[str]) -> TextError:
    """The error of a column that does not exist, which names those that do."""
    return TextError(
        f"{place}: has no column {column!r} of text; its columns of text are {listed(known)}. "
        "Name those of source and target (--columns SRC,TGT)"
    )


def column_languages(columns: tuple[str, str]) -> tuple[str, str]:
    """The last parts of two columns' names if these are codes of languages, else src and tgt."""
    src, tgt = (column.rpartition(".")[2] for column in columns)
    return (
        (src, tgt) if src != tgt and is_known_code(src) and is_known_code(tgt) else ("src", "tgt")
    )


def one_line(text: str) -> str:
    """A sentence without line breaks: inside they become blanks, at the end they vanish."""
    return _LINE_BREAK.sub(" ", text.rstrip("\r\n")) if "\n" in text or "\r" in text else text


def _line(row: Mapping[str, Any], column: str, number: int, place: Callable[[int], str]) -> bytes:
    try:
        value = value_at(row, column)
    except KeyError:
        raise no_column(place(number), column, text_columns(row)) from None
    if not isinstance(value, str):
        raise TextError(
            f"{place(number)}: column {column!r} holds {_kind(value)}, expected text; leave such "
            "rows out, or turn their values into text"
        )
    try:
        return one_line(value).encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"{place(number)}: column {column!r} holds half a character, {value[error.start]!r}, "
            "which UTF-8 has no bytes for; mend the text, or leave the row out"
        ) from None


def _kind(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def listed(names: Iterable[str]) -> str:
    """Names with commas between them, at most twenty."""
    known = [*names]
    more = f" and {len(known) - _MAX_NAMES:,} more" if len(known) > _MAX_NAMES else ""
    return ", ".join(known[:_MAX_NAMES]) + more if known else "none"
