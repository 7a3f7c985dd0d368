"""Sentence pairs of a zip in the Moses format of OPUS: a file of lines for each language."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import IO

from pycat.data.parallel_text import decode
from pycat.data.spooled_text import listed, one_line
from pycat.errors import TextError

_MAX_LINE_BYTES = 1 << 24
_BOM = b"\xef\xbb\xbf"
# Endings of files that stand beside the text.
_NO_LANGUAGES = ("", "ids", "xml", "txt", "md", "info", "scores", "tsv")


def zip_languages(path: Path) -> list[str]:
    """Endings of the files in the archive that may be languages.

    Raises:
        TextError: the archive cannot be read.
    """
    with _opened(path) as archive:
        endings = [Path(name).suffix.removeprefix(".") for name in archive.namelist()]
    return [*dict.fromkeys(ending for ending in endings if ending.lower() not in _NO_LANGUAGES)]


def zip_pairs(path: Path, languages: tuple[str, str]) -> Iterator[tuple[bytes, bytes]]:
    """Yield line i of both files, without their line ends.

    Args:
        path: the archive.
        languages: endings of the names of source and target, such as "en" of `corpus.de-en.en`.

    Raises:
        TextError: there are not exactly two such files, their line counts differ, a line is not
            UTF-8, or the archive is damaged.
    """
    with _opened(path) as archive, ExitStack() as stack:
        names = [_member(archive, path, language) for language in languages]
        sides = [_lines(stack.enter_context(archive.open(name)), path / name) for name in names]
        for number, (src, tgt) in enumerate(zip_longest(*sides), start=1):
            if src is None or tgt is None:
                short, long = names if src is None else names[::-1]
                raise TextError(
                    f"{path}: {short} ends after line {number - 1:,}, but {long} has more; "
                    "expected equally many lines: fetch the file again"
                )
            yield src, tgt


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise TextError(
            f"{path}: the zip archive cannot be read ({error}); fetch it again, or unpack it "
            "(unzip)"
        ) from None


def _member(archive: zipfile.ZipFile, path: Path, language: str) -> str:
    names = [name for name in archive.namelist() if not name.endswith("/")]
    found = [name for name in names if name.endswith(f".{language}")]
    if len(found) != 1:
        many = f"{len(found)} files" if found else "no file"
        raise TextError(
            f"{path}: {many} of the language {language!r}, expected one whose name ends in "
            f".{language}; the archive holds {listed(names)}. Name source and target by the ends "
            "of their files (--columns en,de)"
        )
    return found[0]


def _lines(file: IO[bytes], path: Path) -> Iterator[bytes]:
    number = 0
    while line := file.readline(_MAX_LINE_BYTES):
        number += 1
        if len(line) == _MAX_LINE_BYTES:
            raise TextError(
                f"{path}: line {number:,} has {_MAX_LINE_BYTES:,} bytes or more; expected one "
                "sentence a line"
            )
        if number == 1:
            line = line.removeprefix(_BOM)
        yield one_line(decode(line, path, number)).encode()
