"""Exact top-k selection by a radix histogram, without sorting.

A ranking goes from the highest score to the lowest; among equal scores, from the lowest key that
breaks ties to the highest, and then from the lower row to the higher. The cut is found as in a
radix sort, digit by digit from the leading bits of the scores: a few passes over them, a chunk at a
time, whatever their number. Keys are computed for the rows alone that are tied at the cut.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pycat import _core

_CHUNK_ROWS = 1 << 17
_MAX_BINS = 1 << 20
_NO_ROWS = np.zeros(0, dtype=np.int64)


class Column(Protocol):
    """Scores (N,) that are read a slice of rows at a time."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: slice, /) -> NDArray[np.float64]:
        """The scores of those rows."""


# Keys (n,) of rows int64 (n,) that break ties: the lowest ranks first.
TieKeys = Callable[[NDArray[np.int64]], NDArray[np.uint64]]


@dataclass(frozen=True)
class Cut:
    """What a ranking keeps.

    Attributes:
        selected: bool (N,), the selected rows.
        num_tied: rows whose score is that at the cut of their group, where the budget paid for a
            part of them and so not the scores decided; 0 where no tie was broken.
        num_tied_selected: how many of them are selected.
    """

    selected: NDArray[np.bool_]
    num_tied: int
    num_tied_selected: int


def top_k_within_budget(
    scores: Column,
    budgets: NDArray[np.int64],
    groups: NDArray[np.integer],
    weights: NDArray[np.integer] | None = None,
    tie_keys: TieKeys | None = None,
) -> NDArray[np.bool_]:
    """The selected rows (N,) of `cut_within_budget`."""
    return cut_within_budget(scores, budgets, groups, weights, tie_keys).selected


def cut_within_budget(
    scores: Column,
    budgets: NDArray[np.int64],
    groups: NDArray[np.integer],
    weights: NDArray[np.integer] | None = None,
    tie_keys: TieKeys | None = None,
) -> Cut:
    """Select of each group's ranking the longest prefix that its budget pays for.

    Args:
        scores: (N,), none NaN.
        budgets: (G,), one a group.
        groups: (N,) group of each row: 0 to G - 1, or below 0 for none.
        weights: (N,) cost of each row, positive; 1 unless given.
        tie_keys: breaks ties at the cut; without it, lower rows come first.

    Returns:
        The cut. Beside it memory holds a few chunks, whatever N, and some 50 bytes for each row
        that is tied at a cut.
    """
    num_groups = len(budgets)
    max_digit_bits = max(1, min(16, (_MAX_BINS // num_groups).bit_length() - 1))
    left = budgets.astype(np.int64)  # (G,) what the digits so far leave of each budget
    keys = np.zeros(num_groups, dtype=np.uint64)  # (G,) leading bits of the score at the cut
    whole = np.zeros(num_groups, dtype=bool)  # (G,) whether the budget pays for the whole group
    known_bits = 0
    while known_bits < 64:
        digit_bits = min(max_digit_bits, 64 - known_bits)
        last = (1 << digit_bits) - 1
        # Cost of the rows of each group that share `keys`, by their next digit.
        sums = np.zeros(num_groups << digit_bits, dtype=np.int64)
        for rows in chunked(len(scores)):
            ranked = _ranked(scores, groups, weights, rows)
            _core.radix_histogram(
                *ranked, keys, prefix_bits=known_bits, digit_bits=digit_bits, histogram=sums
            )
        falling = sums.reshape(num_groups, last + 1)[:, ::-1].cumsum(axis=1)  # (G, digits)
        if known_bits == 0:
            whole = falling[:, -1] <= left
        # The budget pays for the highest digits in full; the next digit holds the cut.
        num_paid = np.minimum((falling <= left[:, None]).sum(axis=1), last)
        left -= np.where(num_paid > 0, falling[np.arange(num_groups), num_paid - 1], 0)
        keys = (keys << np.uint64(digit_bits)) | (last - num_paid).astype(np.uint64)
        known_bits += digit_bits
    taken = np.empty(len(scores), dtype=bool)
    paid = left.copy()  # (G,) what the budgets have for the rows at the cut; `left` is used up
    at_cut = np.where(whole, np.nan, _scores_of(keys))  # (G,) NaN equals no score
    tied = []
    for rows in chunked(len(scores)):
        ranked = _ranked(scores, groups, weights, rows)
        _core.select_above(*ranked, keys, take_all=whole, budgets=left, selected=taken[rows])
        # Rows of no group have a negative one; they are left out below.
        own_cut = at_cut[0] if num_groups == 1 else at_cut[np.maximum(ranked[1], 0)]
        same = (ranked[0] == own_cut) & (ranked[1] >= 0)
        if same.any():
            tied.append(rows.start + np.flatnonzero(same))
    return _break_ties(taken, np.concatenate(tied or [_NO_ROWS]), paid, groups, weights, tie_keys)


def _break_ties(
    taken: NDArray[np.bool_],
    rows: NDArray[np.int64],
    budgets: NDArray[np.int64],
    groups: NDArray[np.integer],
    weights: NDArray[np.integer] | None,
    tie_keys: TieKeys | None,
) -> Cut:
    """Choose anew among tied rows (n,), which `taken` has by row, as far as budgets do not pay all.

    Changes `taken` in place.
    """
    group = groups[rows].astype(np.int64)
    num_tied = np.bincount(group, minlength=len(budgets))
    num_taken = np.bincount(group[taken[rows]], minlength=len(budgets))
    is_split = (budgets > 0) & (num_taken < num_tied) & (num_tied > 1)
    some = is_split[group]
    rows, group = rows[some], group[some]
    if tie_keys is not None and len(rows):
        order = np.lexsort((rows, tie_keys(rows), group))
        rows, group = rows[order], group[order]
        costs = np.ones(len(rows), np.int64) if weights is None else weights[rows].astype(np.int64)
        spent = np.cumsum(costs)
        before = spent[np.searchsorted(group, group)] - costs[np.searchsorted(group, group)]
        taken[rows] = spent - before <= budgets[group]
    return Cut(taken, len(rows), int(np.count_nonzero(taken[rows])))


def _scores_of(keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The scores that the extension's keys stand for."""
    sign = np.uint64(1 << 63)
    bits: NDArray[np.uint64] = np.where(keys & sign, keys ^ sign, ~keys)
    return bits.view(np.float64)


def highest(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Rows of the `count` highest scores, ascending; of equal scores the lower rows come first."""
    groups = np.zeros(len(scores), dtype=np.int8)
    return np.flatnonzero(top_k_within_budget(scores, np.array([count]), groups))


def chunked(num_rows: int) -> Iterator[slice]:
    """Slices that cover all rows; what is computed for one slice stays in the cache."""
    for first in range(0, num_rows, _CHUNK_ROWS):
        yield slice(first, min(first + _CHUNK_ROWS, num_rows))


def _ranked(
    scores: Column,
    groups: NDArray[np.integer],
    weights: NDArray[np.integer] | None,
    rows: slice,
) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.int64] | None]:
    """Scores, groups and costs of a slice of rows, in the types that the extension reads."""
    costs = None if weights is None else weights[rows].astype(np.int64)
    return np.ascontiguousarray(scores[rows]), groups[rows].astype(np.int32), costs
