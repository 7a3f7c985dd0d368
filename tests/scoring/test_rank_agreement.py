"""How two precisions rank the same pairs."""

import numpy as np
import pytest

from pycat.scoring.rank_agreement import rank_agreement, sample_rows


@pytest.mark.parametrize(
    ("num_pairs", "size"), [(1, 1), (200, 200), (5000, 200), (50_000, 1000), (10**8, 2000)]
)
def test_the_sample_is_spread_evenly(num_pairs: int, size: int) -> None:
    rows = sample_rows(num_pairs)
    assert len(rows) == size
    gaps = np.diff([*rows.tolist(), num_pairs])
    assert rows[0] == 0
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_agreement_of_a_case_worked_by_hand() -> None:
    num_tokens = np.array([1, 1, 1, 2], np.int32)
    exact = np.log([[2.0, 1.5], [8.0, 2.0], [6.0, 5.0], [9.0, 9.0]])
    # cat_var: 0.0625, 9, 0.25, 0. The last two change places: a quarter of Spearman's room.
    nll = np.log([[2.0, 1.5], [8.0, 2.0], [6.0, 6.0], [9.0, 1.0]])
    found = rank_agreement(nll, exact, num_tokens)
    assert found["num_pairs"] == 4
    # Ranks 2 4 3 1 and 2 4 1 3: the squared differences sum to 8, and 1 - 6 * 8 / (4 * 15) = 0.2.
    assert found["spearman"] == pytest.approx(0.2)
    difference = (abs(np.log(6) / np.log(5) - 1) + 1) / 8
    assert found["mean_relative_nll_difference"] == pytest.approx(difference)


def test_pairs_whose_perplexity_overflows_are_not_ranked() -> None:
    exact = np.array([[1.0, 2.0], [2.0, 4.0], [800.0, 900.0]])
    found = rank_agreement(exact, exact, np.ones(3, np.int32))
    assert (found["num_pairs"], found["spearman"]) == (2, 1.0)
    assert found["mean_relative_nll_difference"] == 0


def test_equal_pairs_have_no_correlation() -> None:
    exact = np.ones((3, 2))
    assert rank_agreement(exact, exact, np.ones(3, np.int32))["spearman"] is None
