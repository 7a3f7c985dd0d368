"""Top-k selection against sorting, and the memory that it takes."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pycat import _core
from pycat.ranking import top_k
from pycat.ranking.top_k import highest, top_k_within_budget


def by_sorting(
    scores: NDArray[np.float64],
    budgets: NDArray[np.int64],
    groups: NDArray[np.int64],
    weights: NDArray[np.int64] | None,
) -> list[bool]:
    taken = [False] * len(scores)
    for group, budget in enumerate(budgets.tolist()):
        rows = [row for row in range(len(scores)) if groups[row] == group]
        for row in sorted(rows, key=lambda row: (-scores[row], row)):
            budget -= 1 if weights is None else int(weights[row])
            if budget < 0:
                break
            taken[row] = True
    return taken


@pytest.mark.parametrize("kind", ["normal", "ties", "infinities and zeros", "one bit apart"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_prefix_is_that_of_the_sorted_ranking(
    kind: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_k, "_CHUNK_ROWS", 37)
    rng = np.random.default_rng(len(kind))
    for _ in range(40):
        count, num_groups = int(rng.integers(1, 200)), int(rng.integers(1, 5))
        scores = {
            "normal": rng.normal(size=count),
            "ties": rng.integers(-2, 3, count).astype(np.float64),
            "infinities and zeros": rng.choice([-np.inf, -0.0, 0.0, 5e-324, np.inf], count),
            "one bit apart": np.nextafter(-1.0, rng.choice([-2.0, 2.0], count)),
        }[kind]
        groups = rng.integers(-1, num_groups, count)
        weights = rng.integers(1, 9, count) if weighted else None
        budgets = rng.integers(0, 3 * count // num_groups + 2, num_groups)
        taken = top_k_within_budget(scores, budgets, groups, weights)
        assert taken.tolist() == by_sorting(scores, budgets, groups, weights)


def test_many_groups_and_many_rows() -> None:
    rng = np.random.default_rng(3)
    scores, groups = rng.lognormal(size=300_000), rng.integers(0, 3000, 300_000)
    taken = top_k_within_budget(scores, np.full(3000, 7), groups)
    order = np.lexsort((np.arange(300_000), -scores, groups))
    place = np.arange(300_000) - np.searchsorted(groups[order], groups[order])
    assert np.flatnonzero(taken).tolist() == sorted(order[place < 7].tolist())
    expected = np.sort(np.argsort(-scores, kind="stable")[:123_457])
    assert highest(scores, 123_457).tolist() == expected.tolist()


def test_a_cut_holds_a_byte_a_pair_and_a_few_chunks() -> None:
    held = []
    for count in (1_000_000, 4_000_000):
        scores, groups = np.random.default_rng(0).normal(size=count), np.zeros(count, np.int8)
        tracemalloc.start()
        top_k_within_budget(scores, np.array([count // 2]), groups)
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert held[1] - held[0] < 1.1 * 3_000_000
    assert held[0] < 1_000_000 + (24 << 20)


def ranked(**changed: Any) -> dict[str, Any]:
    """Arguments of `radix_histogram` that fit together, but for those given."""
    given = {
        "scores": np.zeros(3),
        "groups": np.zeros(3, np.int32),
        "costs": None,
        "prefixes": np.zeros(1, np.uint64),
        "prefix_bits": 0,
        "digit_bits": 2,
        "histogram": np.zeros(4, np.int64),
    }
    return given | changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"groups": np.ones(3, np.int32)},
            "groups holds a group that is out of range; expected below",
        ),
        ({"groups": np.zeros(2, np.int32)}, "groups has 2 elements, expected 3"),
        ({"costs": np.ones(4, np.int64)}, "costs has 4 elements, expected 3"),
        ({"histogram": np.zeros(5, np.int64)}, "histogram has 5 elements, expected 4"),
        ({"scores": np.zeros((3, 1))}, "scores has 2 dimensions, expected 1"),
        (
            {"digit_bits": 0},
            "found prefix_bits 0 and digit_bits 0, expected digit_bits 1 to 16 and",
        ),
        ({"prefix_bits": 63}, "found prefix_bits 63 and digit_bits 2, expected digit_bits 1 to 16"),
    ],
)
def test_the_extension_refuses_what_does_not_fit(changed: dict[str, Any], message: str) -> None:
    _core.radix_histogram(**ranked())
    with pytest.raises(ValueError, match=f"^{message}"):
        _core.radix_histogram(**ranked(**changed))


def test_the_extension_takes_from_groups_it_knows() -> None:
    rows = np.array([1.0, 2.0]), np.array([0, 1], np.int32), None
    limits = {
        "take_all": np.ones(1, bool),
        "budgets": np.zeros(1, np.int64),
        "selected": np.zeros(2, bool),
    }
    with pytest.raises(
        ValueError, match="groups holds a group that is out of range; expected below 1"
    ):
        _core.select_above(*rows, np.zeros(1, np.uint64), **limits)
    with pytest.raises(ValueError, match="selected has 1 elements, expected 2"):
        _core.select_above(
            *rows,
            np.zeros(2, np.uint64),
            take_all=np.ones(2, bool),
            budgets=np.zeros(2, np.int64),
            selected=np.zeros(1, bool),
        )
    with pytest.raises(TypeError):  # no array is converted, and so copied, unasked
        _core.radix_histogram(**ranked(scores=np.zeros(3, np.float32)))
