"""Groups of duplicates, in one pass and by ranges of hashes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pycat._core import first_duplicates, join_duplicates
from pycat.filters import duplicates
from pycat.filters.duplicates import (
    Copies,
    HashRange,
    LoadCopies,
    copies_of,
    group_column,
    hash_ranges,
    joined,
    read_copies,
)


def groups(copies: Copies, num_rows: int) -> list[int]:
    of_rows: list[int] = np.concatenate(list(group_column(copies, num_rows))).tolist()
    return of_rows


def test_copies_by_hand() -> None:
    copies = copies_of(np.array([7, 3, 7, 3, 9, 7], np.uint64))
    assert copies.rows.tolist() == [2, 3, 5]
    assert copies.firsts.tolist() == [0, 1, 0]
    assert groups(copies, 6) == [0, 1, 0, 1, 4, 0]
    assert [column.tolist() for column in copies_of(np.array([], np.uint64))] == [[], []]


def test_rows_are_joined_through_rows_of_other_columns() -> None:
    # 0-3 by the first, 3-4 by the second, 4-5 by the first, 1-2 by the second; 6 is alone.
    one = copies_of(np.array([10, 11, 12, 10, 14, 14, 16], np.uint64))
    other = copies_of(np.array([0, 1, 1, 3, 3, 5, 6], np.uint64))
    assert groups(joined([one, other]), 7) == [0, 1, 1, 0, 0, 0, 6]
    nothing = copies_of(np.arange(7).astype(np.uint64))
    assert groups(joined([nothing, nothing]), 7) == list(range(7))


def test_joining_is_that_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 900, 1000).astype(np.uint64) for _ in range(4)]
    roots = np.arange(1000)
    for column in columns:
        join_duplicates(column, roots)
    assert len(set(roots.tolist())) > 1
    assert groups(joined([copies_of(column) for column in columns]), 1000) == roots.tolist()


def test_a_group_column_is_written_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "PART_PAIRS", 4)
    hashes = np.array([5, 5, 6, 6, 5, 7, 6, 7, 5], np.uint64)
    copies = copies_of(hashes)
    parts = [part.tolist() for part in group_column(copies, 9)]
    assert parts == [[0, 0, 2, 2], [0, 5, 2, 5], [0]]


def test_each_hash_lies_in_one_range() -> None:
    hashes = np.array([0, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63], np.uint64)
    found = [HashRange("x", index, 2).rows(hashes).tolist() for index in range(2)]
    assert found == [[0, 3, 4], [1, 2]]
    assert HashRange("x", 0, 1).rows(hashes).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("range_pairs", [1000, 90])
def test_ranges_find_what_one_pass_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, range_pairs: int
) -> None:
    monkeypatch.setattr(duplicates, "_RANGE_PAIRS", range_pairs)
    rng = np.random.default_rng(1)
    kinds = rng.integers(0, 1 << 63, 120).astype(np.uint64)
    hashes: NDArray[np.uint64] = kinds[rng.integers(0, 120, 500)]
    parts = []
    for first in range(0, 500, 200):
        parts.append((tmp_path / f"part-{first}.npz", first))
        np.savez(parts[-1][0], band_1=hashes[first : first + 200])
    work = LoadCopies(tuple(parts))(1)
    ranges = [each for each in hash_ranges(500) if each.column == "band_1"]
    assert len(ranges) == (1 if range_pairs == 1000 else 6)
    paths = []
    for each in ranges:
        paths.append(tmp_path / f"range-{each.number}.npz")
        arrays: dict[str, Any] = dict(work(each))
        np.savez(paths[-1], **arrays)
    assert groups(read_copies(paths), 500) == first_duplicates(hashes).tolist()
