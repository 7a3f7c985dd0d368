"""Groups of duplicate pairs: which earlier pair has the same hash, in one pass or by workers.

A pair's group is the lowest pair id in it. Of the hashes of sides and pairs that is the first pair
with the same one. Near duplicates are joined by two hashes of bands (MinHash): a pair is in a
group with all that share a band with one of its pairs.

Only pairs that are no first one are kept here, so that memory follows the number of duplicates.
Workers take a column and a range of hashes each, since equal hashes lie in one range.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pycat import _core
from pycat.runtime.part_files import Arrays, read_arrays
from pycat.scores.parts import PART_PAIRS

# The columns of hashes that each column of groups is made of.
HASHES = {
    "pair_group": ("pair_hash",),
    "src_group": ("src_hash",),
    "tgt_group": ("tgt_hash",),
    "near_group": ("band_0", "band_1"),
}
# Pairs whose hashes a worker holds at a time, of 38 bytes each.
_RANGE_PAIRS = 1 << 26

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]


class Copies(NamedTuple):
    """Rows that repeat an earlier one, int64 (M,) ascending, and the first row of each one's group.

    A row that is not among them is alone, or the first of its group.
    """

    rows: Rows
    firsts: Rows


class HashRange(NamedTuple):
    """A column whose hashes are cut into `num_ranges` ranges, and the number of one, from 0 on."""

    column: str
    number: int
    num_ranges: int

    def rows(self, hashes: Hashes) -> Rows:
        """The rows (M,), ascending, whose hashes lie in the range.

        The lower half of a hash decides: `_core.first_duplicates` spreads rows by the upper one.
        """
        if self.num_ranges == 1:
            return np.arange(len(hashes))
        lower = hashes & np.uint64(0xFFFFFFFF)
        return np.flatnonzero((lower * np.uint64(self.num_ranges)) >> np.uint64(32) == self.number)


def hash_ranges(num_rows: int) -> list[HashRange]:
    """What there is to work on apart, for so many rows."""
    count = -(-num_rows // _RANGE_PAIRS)
    columns = [column for columns in HASHES.values() for column in columns]
    return [HashRange(column, index, count) for column in columns for index in range(count)]


def copies_of(hashes: Hashes) -> Copies:
    """Find the rows of `hashes` (N,) whose hash an earlier row has too."""
    firsts = _core.first_duplicates(hashes)
    found = [np.empty(0, np.int64)]
    for begin in range(0, len(firsts), PART_PAIRS):
        part = firsts[begin : begin + PART_PAIRS]
        found.append(np.flatnonzero(part != np.arange(begin, begin + len(part))) + begin)
    rows = np.concatenate(found)
    return Copies(rows, firsts[rows])


def joined(columns: Sequence[Copies]) -> Copies:
    """Groups of rows that several columns connect, through whatever other rows."""
    nodes = np.unique(np.concatenate([rows for copies in columns for rows in copies]))
    roots = np.arange(len(nodes))
    for copies in columns:
        # Rows that this column does not connect have a hash of their own: their place.
        hashes = np.arange(len(nodes), dtype=np.uint64)
        hashes[np.searchsorted(nodes, copies.rows)] = np.searchsorted(nodes, copies.firsts)
        _core.join_duplicates(hashes, roots)
    later = np.flatnonzero(roots != np.arange(len(nodes)))
    return Copies(nodes[later], nodes[roots[later]])


def group_column(copies: Copies, num_rows: int) -> Iterator[Rows]:
    """Yield the group of each row, in order, 65,536 rows at a time."""
    for begin in range(0, num_rows, PART_PAIRS):
        end = min(begin + PART_PAIRS, num_rows)
        groups = np.arange(begin, end)
        own = slice(*np.searchsorted(copies.rows, (begin, end)))
        groups[copies.rows[own] - begin] = copies.firsts[own]
        yield groups


@dataclass(frozen=True)
class LoadCopies:
    """Loads, in a worker, what finds copies in a range of hashes.

    Attributes:
        parts: files with columns of hashes, and the row that each begins with.
    """

    parts: tuple[tuple[Path, int], ...]

    def __call__(self, num_threads: int) -> Callable[[HashRange], Arrays]:
        """What is done to a range; one thread does it."""
        return partial(_copies_in_range, self.parts)


def _copies_in_range(parts: Sequence[tuple[Path, int]], wanted: HashRange) -> Arrays:
    found_rows, found_hashes = [], []
    for path, first in parts:
        hashes = read_arrays(path, [wanted.column])[wanted.column]
        rows = wanted.rows(hashes)
        found_rows.append(rows + first)
        found_hashes.append(hashes[rows])
    rows = np.concatenate(found_rows)
    copies = copies_of(np.concatenate(found_hashes))
    return {"rows": rows[copies.rows], "firsts": rows[copies.firsts]}


def read_copies(paths: Sequence[Path]) -> Copies:
    """The copies of a column, out of the files of its ranges."""
    parts = [read_arrays(path) for path in paths]
    rows, firsts = (np.concatenate([part[name] for part in parts]) for name in Copies._fields)
    order = np.argsort(rows)
    return Copies(rows[order], firsts[order])
