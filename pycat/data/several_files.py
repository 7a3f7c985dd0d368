"""Parallel text in several files a side, named by a pattern and read one after the other.

A corpus keeps such text in two plain files, as it keeps that of files of rows (`spooled_text`).
"""

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, cast

from pycat.data.parallel_text import FileFingerprint, ParallelText
from pycat.data.row_files import Columns, RowFile, open_text
from pycat.data.spooled_text import spool
from pycat.errors import TextError
from pycat.runtime.progress import progress

_ADVANCE_ROWS = 1000


@dataclass(frozen=True)
class SeveralFiles:
    """Texts that are one, in their order.

    Attributes:
        texts: at least two, all of two files or all tab-separated.
        pattern: what named the sources, or the tab-separated files.
    """

    texts: tuple[ParallelText, ...]
    pattern: str

    @property
    def recipe(self) -> dict[str, Any]:
        """What the recipe of a corpus says of this text beside its hashes."""
        return {"num_texts": len(self.texts), **self.texts[0].recipe}

    @property
    def languages(self) -> tuple[str, str]:
        """Names of source and target by the suffixes of the first files."""
        return self.texts[0].languages

    def fingerprint(self, known: Iterable[FileFingerprint] = ()) -> list[FileFingerprint]:
        """SHA-256 of each file, as `ParallelText.fingerprint`."""
        known = list(known)
        return list(chain.from_iterable(text.fingerprint(known) for text in self.texts))

    def record(self, known: Iterable[FileFingerprint] = ()) -> dict[str, Any]:
        """What the manifest of a corpus says of where its text comes from."""
        return {"kind": "files", "files": self.fingerprint(known)}

    def in_folder(self, folder: Path) -> ParallelText:
        """Write the text into the corpus folder.

        Raises:
            TextError: a file is damaged, or two that belong together have unequal line counts.
        """
        with progress("join files", None, "lines") as advance:

            def counted() -> Iterator[tuple[bytes, bytes]]:
                lines = chain.from_iterable(text.pairs() for text in self.texts)
                for number, pair in enumerate(lines, start=1):
                    if number % _ADVANCE_ROWS == 0:
                        advance(_ADVANCE_ROWS)
                    yield pair

            return spool(counted(), folder, self.pattern)


def open_texts(
    src: str | PathLike[str] | None,
    tgt: str | PathLike[str] | None,
    tsv: str | PathLike[str] | None,
    columns: Columns | None = None,
    languages: tuple[str, str] | None = None,
) -> ParallelText | RowFile | SeveralFiles:
    """Text as `open_text`, where names may be patterns such as "part-*.en.zst".

    Files are taken in the order of their names; file i of the sources belongs to file i of the
    targets.

    Raises:
        TextError: as `open_text`; or a pattern fits no file, or both fit unequally many.
    """
    given = {"src": src, "tgt": tgt, "tsv": tsv}
    found = {name: _fitting(str(path)) for name, path in given.items() if path is not None}
    sides = [paths for paths in found.values() if paths is not None]
    if not sides:
        return open_text(src, tgt, tsv, columns, languages)
    counts = {name: len(paths) for name, paths in found.items() if paths is not None}
    if set(found) not in ({"src", "tgt"}, {"tsv"}) or len(counts) < len(found):
        raise TextError(
            "patterns name files of src and of tgt, or of tsv alone; pass a pattern for each side"
        )
    if len(set(counts.values())) > 1:
        raise TextError(
            f"{src}: {counts['src']} files, but {tgt}: {counts['tgt']}; expected equally many, "
            "file i of one belonging to file i of the other"
        )
    texts = []
    for paths in zip(*sides, strict=True):
        named = dict(zip(found, paths, strict=True))
        text = open_text(named.get("src"), named.get("tgt"), named.get("tsv"), columns)
        if isinstance(text, RowFile):
            raise TextError(
                f"{text.path}: is no lines of text, and of other files one is read; name one file"
            )
        texts.append(text)
    if len(texts) == 1:
        return texts[0]
    return SeveralFiles(tuple(texts), str(cast("str | PathLike[str]", src or tsv)))


def _fitting(path: str) -> list[str] | None:
    """The files that a pattern fits, in the order of their names; None if it is no pattern."""
    if not glob.has_magic(path) or Path(path).exists():
        return None
    paths = sorted(glob.glob(path))  # noqa: PTH207 - it may be absolute
    if not paths:
        raise TextError(f"{path}: no file has such a name; check the pattern")
    return paths
