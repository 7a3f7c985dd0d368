"""Histograms and tenths against cases worked by hand."""

import numpy as np
import pytest

from pycat.report.histograms import (
    Ranking,
    by_tenths,
    histogram,
)


def test_ranking_puts_the_lower_row_first_among_equals() -> None:
    values = np.array([1.0, 3.0, 1.0, np.inf, 3.0])
    ranking = Ranking(values, np.array([False, True, False, True, False]), np.zeros((5, 2)))
    assert ranking.order.tolist() == [3, 1, 4, 0, 2]
    assert ranking.groups["kept"].tolist() == [3, 1]
    assert ranking.groups["dropped"].tolist() == [4, 0, 2]


def test_histogram_of_a_heavy_tail_is_logarithmic_and_counts_every_pair() -> None:
    values = np.exp(np.random.default_rng(0).normal(0, 3, 5000))
    values[:3] = 0.0, 1e-200, np.inf
    kept = values > 1
    counts = histogram(values, kept)
    assert counts.log
    assert counts.kept.sum() == kept.sum()
    assert counts.dropped.sum() == (~kept).sum()
    ratios = counts.edges[1:] / counts.edges[:-1]
    np.testing.assert_allclose(ratios, ratios[0])
    assert counts.dropped[0] >= 2
    assert counts.kept[-1] >= 1


def test_histogram_of_small_integers_has_a_bin_for_each() -> None:
    values = np.array([3.0, 3, 4, 6, 6, 6])
    counts = histogram(values, np.array([True, False, False, True, True, True]))
    assert not counts.log
    assert counts.edges.tolist() == [2.5, 3.5, 4.5, 5.5, 6.5]
    assert counts.kept.tolist() == [1, 0, 0, 3]
    assert counts.dropped.tolist() == [1, 1, 0, 0]


def test_logarithmic_bins_of_integers_hold_one_or_more_each() -> None:
    values = np.array([1.0, 1, 1, 1, 2, 3, 5, 100])
    counts = histogram(values, values != 2)
    assert counts.log
    assert counts.edges[:6].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert counts.edges[-1] == 100.5
    assert counts.kept[:5].tolist() == [4, 0, 1, 0, 1]
    assert counts.dropped[:5].tolist() == [0, 1, 0, 0, 0]
    assert counts.kept[-1] == 1
    assert counts.kept.sum() + counts.dropped.sum() == 8


@pytest.mark.parametrize("value", [0.0, 5.0, -1e-9, 1e17, np.inf])
def test_histogram_of_equal_values_is_one_bin(value: float) -> None:
    counts = histogram(np.full(4, value), np.array([True, True, False, False]))
    assert (counts.kept.sum(), counts.dropped.sum()) == (2, 2)
    assert np.all(np.diff(counts.edges) > 0)


def test_tenths_are_equal_parts() -> None:
    values = np.random.default_rng(0).permutation(200)
    tenths = by_tenths(values, values >= 150)
    assert [tenth.num_pairs for tenth in tenths] == [20] * 10
    assert [tenth.num_kept for tenth in tenths] == [0] * 7 + [10, 20, 20]
    assert (tenths[0].low, tenths[0].high, tenths[7].share) == (0, 19, 0.5)


def test_tenths_keep_equal_values_together() -> None:
    values = np.array([5] * 15 + [6] * 3 + [9] * 2)
    tenths = by_tenths(values, np.ones(20, dtype=bool))
    assert [(tenth.low, tenth.high, tenth.num_pairs) for tenth in tenths] == [
        (5, 5, 15),
        (6, 6, 3),
        (9, 9, 2),
    ]
