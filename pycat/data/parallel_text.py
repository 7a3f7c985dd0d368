r"""Parallel text on disk: two files of equal line count, or one of tab-separated pairs.

Monolingual text is one file of targets, whose sources are empty.

Lines end at `\\n` and nowhere else: a lone carriage return, NUL or U+2028 inside a line never
moves the alignment. Compressed files are known by their first bytes (`text_files`). A byte order
mark of UTF-8 before the first line is no part of its sentence.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

from pycat.data.text_files import (
    check_regular,
    compressing,
    compression_suffix,
    opened_text,
    refuse_binary,
)
from pycat.errors import OutputError, TextError
from pycat.runtime.hashing import hash_files
from pycat.runtime.named_files import writing

# Each file is read ahead until one of these bounds is reached, which bounds memory. The ids of 1024
# pairs, as lists, stay in the cache: tokenizing 4096 pairs at a time took 14.6 instead of 11.5
# microseconds a pair.
_CHUNK_LINES = 1024
_CHUNK_BYTES = 1 << 18
_BLOCK_BYTES = 1 << 17

# A small compressed file can hold lines that no memory holds.
MAX_LINE_BYTES = 1 << 24

_EMPTY = "{}: the file is empty; expected one sentence a line"
_BOM = b"\xef\xbb\xbf"


class FileFingerprint(TypedDict):
    """Identity of a file's content; an equal `mtime_ns` saves hashing it again."""

    path: str
    file_bytes: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class Chunk:
    """Consecutive raw lines, a column for each file; the first is line `first`, counted from 1."""

    first: int
    columns: tuple[list[bytes], ...]

    def __len__(self) -> int:
        return len(self.columns[0])


@dataclass(frozen=True)
class ParallelText:
    """N lines of source and target: `(src, tgt)` files, one `(tsv,)` file, or one `(tgt,)` file.

    Attributes:
        paths: the files.
        places: columns of source and target in a TSV file, from 1.
        monolingual: whether the one file is of targets, each a whole line.
    """

    paths: tuple[Path, ...]
    places: tuple[int, int] = (1, 2)
    monolingual: bool = False

    @classmethod
    def of(
        cls,
        src: str | PathLike[str] | None,
        tgt: str | PathLike[str] | None,
        tsv: str | PathLike[str] | None,
        columns: tuple[int, int] | None = None,
    ) -> "ParallelText":
        """Make it of `src` and `tgt`, or of `tsv` alone; paths become absolute.

        Args:
            src, tgt, tsv: the files.
            columns: of source and target in `tsv`, from 1; the first two by default.

        Raises:
            TextError: not exactly one of the two forms, a file is missing or empty, or columns are
                given for two files, or are not two different ones.
        """
        if columns is not None and (tsv is None or min(columns) < 1 or columns[0] == columns[1]):
            raise TextError(
                f"columns are {columns}; expected two different numbers from 1, of source and "
                "target in a tab-separated file (tsv)"
            )
        given: tuple[str | PathLike[str], ...]
        if tsv is not None and src is None and tgt is None:
            given = (tsv,)
        elif tsv is None and src is not None and tgt is not None:
            given = (src, tgt)
        else:
            raise TextError("parallel text: expected src and tgt, or tsv alone; pass one of them")
        return cls(_checked(given), columns or (1, 2))

    @classmethod
    def of_one_side(cls, path: str | PathLike[str]) -> "ParallelText":
        """Make parallel text of monolingual text, whose lines become the targets.

        Raises:
            TextError: the file is missing or empty.
        """
        return cls(_checked([path]), monolingual=True)

    @property
    def is_tsv(self) -> bool:
        """Whether both sides are in one tab-separated file."""
        return len(self.paths) == 1 and not self.monolingual

    @property
    def recipe(self) -> dict[str, Any]:
        """What the recipe of a corpus says of this text beside its hashes."""
        if self.monolingual:
            return {"monolingual": True}
        return {} if self.places == (1, 2) else {"columns": [*self.places]}

    @property
    def languages(self) -> tuple[str, str]:
        """Suffixes of the names: ("en", "de") of `a.en` and `a.de.gz`, else ("src", "tgt").

        The source of monolingual text is called "none".
        """
        if self.is_tsv:
            return "src", "tgt"
        suffixes = [
            Path(path.name.removesuffix(compression_suffix(path))).suffix for path in self.paths
        ]
        if self.monolingual:
            return "none", suffixes[0].removeprefix(".") or "tgt"
        src, tgt = (suffix.removeprefix(".") for suffix in suffixes)
        return (src, tgt) if src and tgt and src != tgt else ("src", "tgt")

    def chunks(self, advance: Callable[[float], None] | None = None) -> Iterator[Chunk]:
        """Yield the lines in order, about a thousand at a time at most, line ends kept.

        Args:
            advance: called with the bytes that each chunk takes in the files on disk.

        Raises:
            TextError: the files have unequal line counts, or one cannot be decompressed.
        """
        with ExitStack() as stack:
            files = [stack.enter_context(opened_text(path)) for path in self.paths]
            sides = [_Lines(file, path) for (file, _), path in zip(files, self.paths, strict=True)]
            first, read_bytes = 1, 0
            while True:
                for side in sides:
                    side.read_ahead()
                num_lines = min(min(len(side.lines) for side in sides), _CHUNK_LINES)
                if advance is not None:
                    before, read_bytes = read_bytes, sum(place() for _, place in files)
                    advance(read_bytes - before)
                if num_lines:
                    yield Chunk(first, tuple(side.take(num_lines) for side in sides))
                    first += num_lines
                    continue
                for side in sides:
                    if not side.lines and side.damage is not None:
                        raise side.damage
                if not any(side.lines for side in sides):
                    return
                counts = [first - 1 + side.count_rest() for side in sides]
                raise unequal_counts(self.paths, counts)

    def rows(self) -> Iterator[tuple[bytes, ...]]:
        """Yield the raw lines in order, line ends kept: `(src, tgt)`, or `(line,)` of a TSV file.

        Raises:
            TextError: as `chunks`.
        """
        for chunk in self.chunks():
            yield from zip(*chunk.columns, strict=True)

    @property
    def file_bytes(self) -> int:
        """Bytes of the files on disk, which a pass over the text reads."""
        return sum(path.stat().st_size for path in self.paths)

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        r"""Yield the two sides of each line, without line ends (`\\n` or `\\r\\n`).

        Raises:
            TextError: as `rows`, or a TSV line has no tab (with its number).
        """
        for number, row in enumerate(self.rows(), start=1):
            yield self.sides(row, number)

    def sides(self, row: tuple[bytes, ...], number: int) -> tuple[bytes, bytes]:
        """Split one row of `rows`, line `number` counted from 1, into source and target."""
        if number == 1:
            row = tuple(line.removeprefix(_BOM) for line in row)
        if self.monolingual:
            return b"", _chomp(row[0])
        if not self.is_tsv:
            return _chomp(row[0]), _chomp(row[1])
        last = max(self.places)
        found = _chomp(row[0]).split(b"\t", last)
        if len(found) < last:
            if len(found) == 1:
                raise TextError(
                    f"{self.paths[0]}: line {number:,} has no tab; expected source, tab, target "
                    "(further columns are kept but not read)"
                )
            raise TextError(
                f"{self.paths[0]}: line {number:,} has {len(found)} columns; expected at least "
                f"{last}, for source and target are columns {self.places[0]} and {self.places[1]} "
                "(--columns)"
            )
        return found[self.places[0] - 1], found[self.places[1] - 1]

    def columns(self, chunk: Chunk) -> tuple[list[bytes], list[bytes]]:
        """Sources and targets of a chunk, as `sides` splits each line."""
        if len(chunk.columns) == 2:
            src, tgt = chunk.columns
            if chunk.first == 1:
                src, tgt = ([column[0].removeprefix(_BOM), *column[1:]] for column in (src, tgt))
            return [_chomp(line) for line in src], [_chomp(line) for line in tgt]
        rows = zip(chunk.columns[0])
        pairs = [self.sides(row, number) for number, row in enumerate(rows, chunk.first)]
        return [src for src, _ in pairs], [tgt for _, tgt in pairs]

    def fingerprint(self, known: Iterable[FileFingerprint] = ()) -> list[FileFingerprint]:
        """SHA-256 of each file; a file of equal size and time in `known` is not read again."""
        before = {row["path"]: row for row in known}
        stats = {path: path.stat() for path in self.paths}
        fresh = [
            path
            for path, stat in stats.items()
            if (row := before.get(str(path))) is None
            or (row["file_bytes"], row["mtime_ns"]) != (stat.st_size, stat.st_mtime_ns)
        ]
        hashes = dict(zip(fresh, hash_files(fresh, "hash text"), strict=True))
        return [
            FileFingerprint(
                path=str(path),
                file_bytes=stats[path].st_size,
                mtime_ns=stats[path].st_mtime_ns,
                sha256=hashes[path],
            )
            if path in hashes
            else before[str(path)]
            for path in self.paths
        ]


def decode(line: bytes, path: Path, number: int) -> str:
    """Decode one line.

    Raises:
        TextError: not UTF-8; names file, line number (from 1) and byte.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{path}: line {number:,}, byte {error.start + 1:,} is 0x{line[error.start]:02x}, "
            "which is not valid UTF-8; convert the file with iconv, or drop the line on both sides"
        ) from None


def unequal_counts(paths: Sequence[Path], counts: Sequence[int]) -> TextError:
    """The error that two files have other numbers of lines."""
    return TextError(
        f"{paths[0]} has {counts[0]:,} lines but {paths[1]} has {counts[1]:,}; expected equally "
        "many, line i of one translating line i of the other. Align the files again"
    )


def line_too_long(path: Path, number: int) -> TextError:
    """The error that a line, counted from 1, is longer than any text has."""
    return TextError(
        f"{path}: line {number:,} is longer than {MAX_LINE_BYTES >> 20} MiB, expected one "
        "sentence a line; see that this is text with line ends, or drop the line on both sides"
    )


def write_rows(
    rows: Iterable[tuple[bytes, ...]], outs: tuple[Path, ...], *, overwrite: bool = False
) -> None:
    """Write column i of `rows` to `outs[i]`, byte for byte; all files appear, or none.

    Files that hold these rows already are left alone.

    Raises:
        OutputError: two of `outs` are one file; or one exists, holds something else, and is not to
            be overwritten.
        OSError: a file cannot be written; it is named.
    """
    if len({out.resolve() for out in outs}) < len(outs):
        raise OutputError(f"{outs[0]}: both sides would be written to this file; name two files")
    source = iter(rows)
    with writing(outs, overwrite=overwrite, same_is_done=True) as files, ExitStack() as stack:
        streams = [
            stack.enter_context(compressing(file, out))
            for file, out in zip(files, outs, strict=True)
        ]
        while batch := list(islice(source, _CHUNK_LINES)):
            for stream, lines in zip(streams, zip(*batch, strict=True), strict=True):
                stream.write(b"".join(lines))


def _checked(given: Iterable[str | PathLike[str]]) -> tuple[Path, ...]:
    """Absolute paths of files that hold something."""
    paths = tuple(Path(path).absolute() for path in given)
    for path in paths:
        check_regular(path)
        if path.stat().st_size == 0:
            raise TextError(_EMPTY.format(path))
    return paths


def _chomp(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


class _Lines:
    """The lines of a file, read ahead in blocks.

    Attributes:
        lines: those that are read and not taken, line ends kept.
        damage: why no more can be read, once that is so.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self.lines: list[bytes] = []
        self.damage: TextError | None = None
        self._num_bytes = 0  # of `lines`
        self._num_read = 0  # lines
        self._rest: list[bytes] = []  # blocks of a line that has not ended
        self._at_end = False

    def read_ahead(self) -> None:
        """Read until `lines` are enough for a chunk, or the file ends or is damaged."""
        while (
            len(self.lines) < _CHUNK_LINES
            and self._num_bytes < _CHUNK_BYTES
            and not self._at_end
            and self.damage is None
        ):
            try:
                self._read_block()
            except OSError as error:
                self.damage = TextError(
                    f"{self._path}: reading failed after line {self._num_read:,} ({error}); the "
                    "file is damaged or incomplete: fetch it again"
                )
            except TextError as error:
                self.damage = error

    def take(self, num_lines: int) -> list[bytes]:
        """Remove and return the next lines."""
        taken, self.lines = self.lines[:num_lines], self.lines[num_lines:]
        self._num_bytes -= sum(map(len, taken))
        return taken

    def count_rest(self) -> int:
        """Take all lines, and return how many they are."""
        num_lines = 0
        while self.lines:
            num_lines += len(self.take(len(self.lines)))
            self.read_ahead()
        if self.damage is not None:
            raise self.damage
        return num_lines

    def _read_block(self) -> None:
        block = self._file.read(_BLOCK_BYTES)
        if self._num_read == 0 and not self._rest:
            refuse_binary(self._path, block)
        end = block.rfind(b"\n") + 1
        if block and not end:
            self._rest.append(block)
            if sum(map(len, self._rest)) > MAX_LINE_BYTES:
                raise line_too_long(self._path, self._num_read + 1)
            return
        whole = b"".join((*self._rest, block[:end] if block else b""))
        self._rest = [block[end:]] if len(block) > end else []
        self._at_end = not block
        lines = list(io.BytesIO(whole))  # splits at \n alone
        self.lines += lines
        self._num_bytes += len(whole)
        self._num_read += len(lines)
        if self._at_end and self._num_read == 0:
            raise TextError(_EMPTY.format(self._path))
