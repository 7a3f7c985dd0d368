r"""Parallel text on disk: two files of equal line count, or one of tab-separated pairs.

Lines end at `\\n` and nowhere else: a lone carriage return, NUL or U+2028 inside a line never
moves the alignment. Files named `.gz` or `.zst` are compressed, others plain.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, cast

import pyarrow as pa

from pycat.errors import OutputError, TextError
from pycat.runtime.hashing import hash_files
from pycat.runtime.output import naming, replacing

# A chunk grows by steps of lines until it reaches either bound. The ids of 1024 pairs, as lists,
# stay in the cache: tokenizing 4096 pairs at a time took 14.6 instead of 11.5 microseconds a pair.
_CHUNK_LINES = 1024
_CHUNK_BYTES = 1 << 19
_STEP_LINES = 128

_EMPTY = "{}: the file is empty; expected one sentence a line"
_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}


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
    """N lines of source and target: `(src, tgt)` files, or one `(tsv,)` file."""

    paths: tuple[Path, ...]

    @classmethod
    def of(
        cls,
        src: str | PathLike[str] | None,
        tgt: str | PathLike[str] | None,
        tsv: str | PathLike[str] | None,
    ) -> "ParallelText":
        """Make it of `src` and `tgt`, or of `tsv` alone; paths become absolute.

        Raises:
            TextError: not exactly one of the two forms, or a file is missing or empty.
        """
        given: tuple[str | PathLike[str], ...]
        if tsv is not None and src is None and tgt is None:
            given = (tsv,)
        elif tsv is None and src is not None and tgt is not None:
            given = (src, tgt)
        else:
            raise TextError("parallel text: expected src and tgt, or tsv alone; pass one of them")
        paths = tuple(Path(path).absolute() for path in given)
        for path in paths:
            if not path.is_file():
                found = "a folder" if path.is_dir() else "nothing"
                raise TextError(f"{path}: expected a text file, found {found}; check the path")
            if path.stat().st_size == 0:
                raise TextError(_EMPTY.format(path))
        return cls(paths)

    @property
    def is_tsv(self) -> bool:
        """Whether both sides are in one tab-separated file."""
        return len(self.paths) == 1

    def chunks(self, advance: Callable[[float], None] | None = None) -> Iterator[Chunk]:
        """Yield the lines in order, about a thousand at a time at most, line ends kept.

        Args:
            advance: called with the bytes that each chunk takes in the files on disk.

        Raises:
            TextError: the files have unequal line counts, or one cannot be decompressed.
        """
        with ExitStack() as stack:
            files = [stack.enter_context(opened(path)) for path in self.paths]
            sides = [_lines(file, path) for (file, _), path in zip(files, self.paths, strict=True)]
            first, read_bytes = 1, 0
            while True:
                columns, damage = _next_lines(sides)
                num_lines = min(map(len, columns))
                if advance is not None:
                    before, read_bytes = read_bytes, sum(disk.tell() for _, disk in files)
                    advance(read_bytes - before)
                if num_lines:
                    yield Chunk(first, tuple(column[:num_lines] for column in columns))
                first += num_lines
                if damage is not None:
                    raise damage
                if max(map(len, columns)) > num_lines:
                    counts = [
                        first - 1 + len(column) - num_lines + sum(1 for _ in side)
                        for column, side in zip(columns, sides, strict=True)
                    ]
                    raise TextError(
                        f"{self.paths[0]} has {counts[0]:,} lines but {self.paths[1]} has "
                        f"{counts[1]:,}; expected equally many, line i of one translating "
                        "line i of the other. Align the files again"
                    )
                if num_lines == 0:
                    return

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
        if not self.is_tsv:
            return _chomp(row[0]), _chomp(row[1])
        src, *rest = _chomp(row[0]).split(b"\t", 2)
        if not rest:
            raise TextError(
                f"{self.paths[0]}: line {number:,} has no tab; expected source, tab, target "
                "(further columns are kept but not read)"
            )
        return src, rest[0]

    def columns(self, chunk: Chunk) -> tuple[list[bytes], list[bytes]]:
        """Sources and targets of a chunk, as `sides` splits each line."""
        if not self.is_tsv:
            src, tgt = chunk.columns
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


def write_rows(rows: Iterable[tuple[bytes, ...]], outs: tuple[Path, ...]) -> None:
    """Write column i of `rows` to `outs[i]`, byte for byte; all files appear, or none.

    Raises:
        OutputError: two of `outs` are one file.
        OSError: a file cannot be written; it is named.
    """
    if len({out.resolve() for out in outs}) < len(outs):
        raise OutputError(f"{outs[0]}: both sides would be written to this file; name two files")
    with ExitStack() as renames, ExitStack() as streams:
        # The streams close, with every byte written, before the first file gets its name.
        temporaries = [renames.enter_context(replacing(out)) for out in outs]
        files = [
            streams.enter_context(created(*names)) for names in zip(outs, temporaries, strict=True)
        ]
        for row in rows:
            for file, line in zip(files, row, strict=True):
                file.write(line)


class _NamedOutput(io.RawIOBase):
    """A pyarrow output stream whose errors name the file; those of pyarrow do not."""

    def __init__(self, stream: Any, path: Path, temporary: Path) -> None:
        self._stream, self._names = stream, (path, temporary)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with naming(*self._names):
            return int(self._stream.write(data))

    def close(self) -> None:
        if not self.closed:
            super().close()
            with naming(*self._names):
                self._stream.close()


def created(path: Path, temporary: Path) -> io.BufferedWriter:
    """Create the file `temporary`, which will be called `path`, whose suffix tells compression."""
    with naming(path, temporary):
        stream = pa.output_stream(str(temporary), compression=_COMPRESSION.get(path.suffix))
    return io.BufferedWriter(_NamedOutput(stream, path, temporary), 1 << 20)


def _chomp(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, Any]]:
    """Open a file: its text, decompressed, and the file on disk, whose position is the progress."""
    try:
        disk = pa.OSFile(str(path))
    except OSError as error:
        raise TextError(f"{path}: cannot be opened ({error}); check the path") from None
    compression = _COMPRESSION.get(path.suffix)
    # pyarrow refuses truncated streams and reads every member of a concatenated one.
    stream = disk if compression is None else pa.CompressedInputStream(disk, compression)
    with disk, stream:
        yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), 1 << 20)), disk


def _lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    number = 0
    try:
        for line in file:
            number += 1
            yield line
    except OSError as error:
        raise TextError(
            f"{path}: reading failed after line {number:,} ({error}); the file is damaged or "
            "incomplete: fetch it again"
        ) from None
    if number == 0:
        raise TextError(_EMPTY.format(path))


def _next_lines(sides: list[Iterator[bytes]]) -> tuple[list[list[bytes]], TextError | None]:
    """Lines of the next chunk; at a damaged file the lines before, and the error to raise then."""
    columns: list[list[bytes]] = [[] for _ in sides]
    num_bytes, before, wanted = 0, 0, 0
    try:
        while wanted < _CHUNK_LINES and num_bytes < _CHUNK_BYTES:
            before, wanted = wanted, wanted + _STEP_LINES
            for column, lines in zip(columns, sides, strict=True):
                column.extend(islice(lines, _STEP_LINES))  # on an error, earlier lines stay in
                num_bytes += sum(map(len, islice(column, before, None)))
            if min(map(len, columns)) < wanted:
                break
    except TextError as damage:
        return columns, damage
    return columns, None
