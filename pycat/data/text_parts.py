"""Parts of parallel text: consecutive lines that a worker reads from plain files, or is given.

Where each part of a plain file begins is found by counting line ends, without reading a line. Text
of compressed files is read where the command runs, and sent to the workers.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from pycat.data.parallel_text import (
    MAX_LINE_BYTES,
    Chunk,
    ParallelText,
    line_too_long,
    unequal_counts,
)
from pycat.data.text_files import is_compressed, refuse_binary
from pycat.errors import TextError

# Lines of a part. How many workers there are does not change it.
PART_LINES = 65_536
# Lines that are handled at a time.
_CHUNK_LINES = 1024
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileRange:
    """Bytes of a plain file, which hold whole lines."""

    path: Path
    begin: int
    end: int

    def read(self) -> bytes:
        """The bytes.

        Raises:
            TextError: the file is gone, or shorter by now.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.begin)
                content = file.read(self.end - self.begin)
        except OSError as error:
            raise TextError(f"{self.path}: cannot be read ({error.strerror})") from None
        if len(content) < self.end - self.begin:
            raise _changed(self.path)
        return content


@dataclass(frozen=True)
class TextPart:
    """Consecutive lines of a text.

    Attributes:
        index: of the part.
        first: number of the first line, from 1.
        num_lines: of each file.
        sides: lines of source and target, or of the one file of both.
        file_bytes: of the files on disk that the part takes, which progress counts.
    """

    index: int
    first: int
    num_lines: int
    sides: tuple[bytes | FileRange, ...]
    file_bytes: int

    def chunks(self) -> Iterator[Chunk]:
        """Yield the lines in order, a thousand at a time, line ends kept.

        Raises:
            TextError: a file has changed.
        """
        columns = []
        for side in self.sides:
            content = side if isinstance(side, bytes) else side.read()
            columns.append(list(io.BytesIO(content)))  # splits at \n alone
            if len(columns[-1]) != self.num_lines and isinstance(side, FileRange):
                raise _changed(side.path)
        for begin in range(0, self.num_lines, _CHUNK_LINES):
            rows = slice(begin, begin + _CHUNK_LINES)
            yield Chunk(self.first + begin, tuple(column[rows] for column in columns))


def text_parts(text: ParallelText) -> Iterator[TextPart]:
    """Yield a text in parts of 65,536 lines.

    Raises:
        TextError: as `ParallelText.chunks`.
    """
    return _sent(text) if any(map(is_compressed, text.paths)) else _ranges(text)


def _sent(text: ParallelText) -> Iterator[TextPart]:
    columns: list[list[bytes]] = [[] for _ in text.paths]
    index, read_bytes = 0, 0

    def count(num_bytes: float) -> None:
        nonlocal read_bytes
        read_bytes += int(num_bytes)

    def part() -> TextPart:
        nonlocal index, read_bytes
        lines = [column[:PART_LINES] for column in columns]
        sides = tuple(b"".join(column) for column in lines)
        made = TextPart(index, index * PART_LINES + 1, len(lines[0]), sides, read_bytes)
        for column in columns:
            del column[:PART_LINES]
        index, read_bytes = index + 1, 0
        return made

    for chunk in text.chunks(count):
        for column, lines in zip(columns, chunk.columns, strict=True):
            column += lines
        while len(columns[0]) >= PART_LINES:
            yield part()
    if columns[0]:
        yield part()


def _ranges(text: ParallelText) -> Iterator[TextPart]:
    sides = [_cuts(path) for path in text.paths]
    first = 1
    for index, cuts in enumerate(zip_longest(*sides)):
        counts = [0 if cut is None else cut[1] for cut in cuts]
        if len(set(counts)) > 1:
            for i, side in enumerate(sides):
                counts[i] += first - 1 + sum(num_lines for _, num_lines in side)
            raise unequal_counts(text.paths, counts)
        ranges = tuple(cut[0] for cut in cuts if cut is not None)
        num_bytes = sum(each.end - each.begin for each in ranges)
        yield TextPart(index, first, counts[0], ranges, num_bytes)
        first += counts[0]


def _cuts(path: Path) -> Iterator[tuple[FileRange, int]]:
    """Yield where parts of a plain file lie, and how many lines they have."""
    begin = place = last_end = 0  # of the part, of the block, and behind the last line end
    num_lines = num_before = 0  # of the part, and of all parts before it
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            if place == 0:
                refuse_binary(path, block)
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + place + 1
            while num_lines + len(ends) >= PART_LINES:
                end = int(ends[PART_LINES - num_lines - 1])
                yield FileRange(path, begin, end), PART_LINES
                ends = ends[PART_LINES - num_lines :]
                begin = last_end = end
                num_lines, num_before = 0, num_before + PART_LINES
            num_lines += len(ends)
            place += len(block)
            last_end = int(ends[-1]) if len(ends) else last_end
            if place - last_end > MAX_LINE_BYTES:
                raise line_too_long(path, num_before + num_lines + 1)
    if place > begin:
        yield FileRange(path, begin, place), num_lines + (place > last_end)


def _changed(path: Path) -> TextError:
    return TextError(
        f"{path}: has changed since its lines were counted; leave the file alone while it is read"
    )
