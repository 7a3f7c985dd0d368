"""Where a ranking is cut, exactly and without sorting it.

A ranking goes from the highest score to the lowest, among equals from the lower row to the higher.
The cut is found as a radix sort finds its buckets, from the leading bits of the scores to the last:
a few passes over them, a chunk at a time, whatever their number.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_CHUNK_ROWS = 1 << 17
_MAX_BINS = 1 << 20
_ONE, _SIGN = np.uint64(1), np.uint64(63)


class Column(Protocol):
    """Scores (N,) that can be had a slice of rows at a time."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: slice, /) -> NDArray[np.float64]:
        """The scores of those rows."""


def prefix(
    scores: Column,
    budgets: NDArray[np.int64],
    groups: NDArray[np.integer],
    weights: NDArray[np.integer] | None = None,
) -> NDArray[np.bool_]:
    """The longest prefix of each group's ranking that its budget pays for.

    Args:
        scores: (N,), none NaN.
        budgets: (G,) of each group.
        groups: (N,) of each row: 0 to G - 1, or below 0 for none.
        weights: (N,) what each row costs, positive; 1 unless given.

    Returns:
        bool (N,). Beside it memory holds a few chunks, whatever N.
    """
    num_groups = len(budgets)
    digit_bits = max(1, min(16, (_MAX_BINS // num_groups).bit_length() - 1))
    left = budgets.astype(np.float64)  # integers below 2 ** 53
    head = np.zeros(num_groups, dtype=np.uint64)
    whole = np.zeros(num_groups, dtype=bool)
    shift = 64
    while shift > 0:
        known, shift = shift, max(0, shift - digit_bits)
        num_digits = 1 << (known - shift)
        sums = np.zeros(num_groups * num_digits)
        for rows in chunked(len(scores)):
            keys, group, cost = _members(scores, groups, weights, rows)
            if known < 64:
                at = keys >> np.uint64(known) == head[group]
                keys, group, cost = keys[at], group[at], None if cost is None else cost[at]
            digit = (keys >> np.uint64(shift)).astype(np.int64) & (num_digits - 1)
            sums += np.bincount(group * num_digits + digit, cost, len(sums))
        falling = sums.reshape(num_groups, num_digits)[:, ::-1].cumsum(axis=1)
        if known == 64:
            whole = falling[:, -1] <= left
        # Digits that fit whole, from the highest; the one after them holds the cut.
        fitting = np.minimum((falling <= left[:, None]).sum(axis=1), num_digits - 1)
        left -= np.where(fitting > 0, falling[np.arange(num_groups), fitting - 1], 0)
        head = (head << np.uint64(known - shift)) | (num_digits - 1 - fitting).astype(np.uint64)
    return _taken(scores, groups, weights, head, left, whole)


def _taken(
    scores: Column,
    groups: NDArray[np.integer],
    weights: NDArray[np.integer] | None,
    key: NDArray[np.uint64],
    left: NDArray[np.float64],
    whole: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Rows above their group's key, and of those at it the first that `left` pays for."""
    taken = np.zeros(len(scores), dtype=bool)
    spent = np.zeros(len(key))
    for rows in chunked(len(scores)):
        keys, group, cost = _members(scores, groups, weights, rows)
        inside = (keys > key[group]) | whole[group]
        ties = np.flatnonzero((keys == key[group]) & ~whole[group])
        if len(ties):
            ties = ties[np.argsort(group[ties], kind="stable")]
            tied = group[ties]
            costs = np.ones(len(ties)) if cost is None else cost[ties]
            total = np.cumsum(costs)
            first = np.searchsorted(tied, tied)
            total += spent[tied] - (total - costs)[first]
            inside[ties] = total <= left[tied]
            spent += np.bincount(tied, costs, len(spent))
        taken[rows][groups[rows] >= 0] = inside
    return taken


def highest(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Rows of the `count` highest scores, ascending; among equals the lower row is in."""
    groups = np.zeros(len(scores), dtype=np.int8)
    return np.flatnonzero(prefix(scores, np.array([count]), groups))


def chunked(num_rows: int) -> Iterator[slice]:
    """The rows, so many at a time that what is computed of them stays in the cache."""
    for first in range(0, num_rows, _CHUNK_ROWS):
        yield slice(first, min(first + _CHUNK_ROWS, num_rows))


def _members(
    scores: Column,
    groups: NDArray[np.integer],
    weights: NDArray[np.integer] | None,
    rows: slice,
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.float64] | None]:
    """Keys, groups and costs of the rows that have a group."""
    there = groups[rows] >= 0
    cost = None if weights is None else weights[rows][there].astype(np.float64)
    return _keys(scores[rows][there]), groups[rows][there].astype(np.int64), cost


def _keys(scores: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Whole numbers in the same order as the scores: the bits of a float, negative ones turned."""
    bits = (scores + 0.0).view(np.uint64)  # -0.0 becomes 0.0, which it equals
    return np.where(bits >> _SIGN, ~bits, bits | (_ONE << _SIGN))
