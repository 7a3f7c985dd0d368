"""Strata: who is in which, and how a budget is split, worked by hand."""

import numpy as np
import pyarrow as pa
import pytest

from pycat.errors import PycatError
from pycat.scores.score_table import ScoreTable
from pycat.selection.strata import (
    by_column,
    by_length,
    by_score,
    coverage_centric,
    proportional,
    sizes,
)


def test_proportional_shares_are_exact() -> None:
    # 10 * (1, 2, 4) / 7 = 1.43, 2.86, 5.71: the remainders .86 and .71 are rounded up.
    assert proportional(np.array([1, 2, 4]), 10).tolist() == [1, 3, 6]
    # Equal remainders: the lower stratum.
    assert proportional(np.array([3, 3, 3]), 4).tolist() == [2, 1, 1]
    assert proportional(np.array([0, 5]), 5).tolist() == [0, 5]
    assert proportional(np.array([2**40, 2**40]), 2**40 + 1).tolist() == [2**39 + 1, 2**39]


def test_coverage_centric_gives_what_small_strata_leave_to_the_others() -> None:
    # 12 over 3: the stratum of 2 has fewer than 4, so the others share 10.
    assert coverage_centric(np.array([9, 2, 20]), 12).tolist() == [5, 2, 5]
    assert coverage_centric(np.array([9, 0, 20]), 29).tolist() == [9, 0, 20]
    assert coverage_centric(np.array([5, 5]), 3).tolist() == [1, 2]


def test_strata_by_score_have_equal_width() -> None:
    scores = np.array([0.0, 2.4, 2.5, 9.9, 10.0, np.inf, -np.inf, 99.0])
    codes = np.array([0, 0, 0, 0, 0, 0, 0, -1], dtype=np.int16)
    by_score(scores, codes, 4)
    assert codes.tolist() == [0, 0, 1, 3, 3, 3, 0, -1]
    codes[:] = 0
    by_score(np.full(8, 2.0), codes, 4)
    assert codes.tolist() == [0] * 8
    extreme = np.zeros(2, dtype=np.int16)
    by_score(np.array([-1.7e308, 1.7e308]), extreme, 4)
    assert extreme.tolist() == [0, 3]


def test_strata_by_length_hold_equal_numbers_and_no_length_twice() -> None:
    lengths = np.array([1, 1, 2, 3, 3, 3, 7, 9, 4], dtype=np.int32)
    codes = np.array([0, 0, 0, 0, 0, 0, 0, 0, -1], dtype=np.int16)
    by_length(lengths, codes, 4)
    # Of 8: lengths 1 from place 0, 2 from 2, 3 from 3, 7 from 6, 9 from 7; times 4, over 8.
    assert codes.tolist() == [0, 0, 1, 1, 1, 1, 3, 3, -1]
    assert sizes(codes, 4, None).tolist() == [2, 4, 0, 2]
    assert sizes(codes, 4, lengths).tolist() == [2, 11, 0, 16]


def table(column: pa.Array) -> ScoreTable:
    ones = pa.array([1] * len(column), pa.int32())
    columns = {"pair": pa.array(range(len(column)), pa.int64())}
    columns |= {"num_src_tokens": ones, "num_tokens": ones, "nll_0": ones.cast(pa.float64())}
    return ScoreTable.from_arrow(pa.table({**columns, "domain": column}), {"steps": [1]})


def test_strata_by_a_column_of_names_or_numbers() -> None:
    for values in (["web", "news", "web", "law"], [7, 3, 7, 9]):
        codes = np.array([0, 0, 0, -1], dtype=np.int16)
        assert by_column(table(pa.array(values)), "domain", codes) == 3
        assert codes.tolist() == [0, 1, 0, -1]
    codes = np.zeros(5, dtype=np.int16)
    assert by_column(table(pa.array([np.nan, 0.5, np.nan, 2.0, 0.5])), "domain", codes) == 3
    assert codes.tolist() == [0, 1, 0, 2, 1]


def test_too_many_values_and_unknown_columns_are_refused() -> None:
    scores = table(pa.array(range(40_000)))
    codes = np.zeros(40_000, dtype=np.int16)
    with pytest.raises(PycatError) as caught:
        by_column(scores, "domain", codes)
    assert str(caught.value) == (
        "strata: column domain has more than 32,767 values, expected a few, such as domains; "
        "choose another column"
    )
    with pytest.raises(PycatError) as caught:
        by_column(scores, "dmain", codes)
    assert str(caught.value) == (
        "score table: has no column 'dmain', expected one of pair, num_src_tokens, num_tokens, "
        "nll_0, domain; add it with ScoreTable.add"
    )
