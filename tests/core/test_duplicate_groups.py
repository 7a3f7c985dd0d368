"""Equal hashes find each other, whatever their order."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pycat._core import copies_before, first_duplicates, join_duplicates


def joined(*hashes: NDArray[np.uint64]) -> list[int]:
    roots = np.arange(len(hashes[0]))
    for column in hashes:
        join_duplicates(column, roots)
    return roots.tolist()


def test_first_duplicates_are_the_lowest_rows() -> None:
    assert first_duplicates(np.array([7, 3, 7, 3, 9], np.uint64)).tolist() == [0, 1, 0, 1, 4]
    assert first_duplicates(np.array([], np.uint64)).tolist() == []


@pytest.mark.parametrize("shift", [0, 32, 60])
def test_first_duplicates_of_many_rows(shift: int) -> None:
    # The hash table is indexed by high bits: small numbers share all of them, others most.
    rng = np.random.default_rng(shift)
    hashes = rng.integers(0, 2000, 5000).astype(np.uint64) << np.uint64(shift)
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    assert first_duplicates(hashes).tolist() == first[group].tolist()


def test_rows_are_joined_by_hashes_of_every_kind() -> None:
    # 0-3 by the first, 3-4 by the second, 4-5 by the first, 1-2 by the second.
    one = np.array([10, 11, 12, 10, 14, 14], np.uint64)
    other = np.array([0, 1, 1, 3, 3, 5], np.uint64)
    assert joined(one, other) == [0, 1, 1, 0, 0, 0]


def test_long_chains_and_random_graphs() -> None:
    odd, even = np.arange(5000) // 2, (np.arange(5000) + 1) // 2
    assert joined(odd.astype(np.uint64), even.astype(np.uint64)) == [0] * 5000
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 300, 200).astype(np.uint64) for _ in range(3)]
    lowest = list(range(200))
    for column in columns:
        for row, hashed in enumerate(column.tolist()):
            low, high = sorted((lowest[row], lowest[column.tolist().index(hashed)]))
            lowest = [low if root == high else root for root in lowest]
    assert joined(*columns) == lowest


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 hashes of 2 rows; expected as many"):
        join_duplicates(np.zeros(3, np.uint64), np.arange(2))
    for roots in ([1, 1], [-1, 0]):
        with pytest.raises(
            ValueError, match=r"root -?1 of row 0 is not the row itself or one before it"
        ):
            join_duplicates(np.zeros(2, np.uint64), np.array(roots))


def test_copies_before_by_hand() -> None:
    assert copies_before(np.array([5, 2, 5, 5, 2])).tolist() == [0, 0, 1, 2, 1]
    assert copies_before(np.array([], np.int64)).tolist() == []
    with pytest.raises(ValueError, match="row 1 is of group -3; expected one below 3"):
        copies_before(np.array([2, -3]))
