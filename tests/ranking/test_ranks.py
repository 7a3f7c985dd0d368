"""Rank correlation and perplexity against cases worked by hand."""

import math

import numpy as np
import pytest

from pycat.ranking.ranks import perplexity, spearman


def test_spearman_by_hand() -> None:
    # Ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6 (1 + 1 + 1 + 1) / (5 * 24) = 0.8.
    assert spearman(np.array([1, 2, 3, 4, 5]), np.array([20, 10, 40, 30, 50])) == pytest.approx(0.8)
    # Ties share ranks: 1.5 1.5 3 against 1 2 3; centred (-.5 -.5 1) and (-1 0 1).
    expected = 1.5 / math.sqrt(1.5 * 2)
    assert spearman(np.array([7.0, 7.0, 9.0]), np.array([1, 2, 3])) == pytest.approx(expected)
    assert spearman(np.arange(9), -np.exp(np.arange(9.0))) == pytest.approx(-1)


def test_spearman_of_infinite_and_of_equal_values() -> None:
    assert spearman(np.array([1.0, np.inf, 2.0]), np.array([1, 3, 2])) == pytest.approx(1)
    assert math.isnan(spearman(np.ones(4), np.arange(4)))


def test_perplexity_may_be_infinite() -> None:
    assert perplexity(np.array([0.0, math.log(3), 800.0])).tolist() == pytest.approx(
        [1, 3, math.inf]
    )
