"""Each way to select keeps as much as was asked for, and selections of earlier versions replay."""

import math
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pycat.scores.score_table import ScoreTable
from pycat.selection.choice import choose
from pycat.selection.recipe import Recipe
from pycat.selection.strata import coverage_centric, proportional

STRATA = (None, "score", "length", "domain", "domain,length")
LONGEST = 20


@pytest.fixture(scope="module")
def table() -> ScoreTable:
    """600 pairs with skewed scores, lengths and domains of unequal sizes."""
    rng = np.random.default_rng(4)
    tokens = rng.integers(1, LONGEST + 1, 600).astype(np.int32)
    columns = {
        "pair": np.arange(600),
        "num_src_tokens": tokens,
        "num_tokens": tokens,
        "nll_0": np.ones(600),
        "nll_1": np.ones(600),
        "score": rng.exponential(size=600),
        "domain": rng.geometric(0.3, 600),
    }
    return ScoreTable.from_arrow(pa.table(columns), {"steps": [1, 2]})


@pytest.mark.parametrize(("strata", "unit"), [*product(STRATA, ("pairs", "tokens"))])
def test_all_strata_keep_what_was_asked_for(
    table: ScoreTable, strata: str | None, unit: str
) -> None:
    total = 600 if unit == "pairs" else int(table.num_tokens.sum())
    for keep, mix in product((0.1, 0.5, 0.77), (0.0, 0.2, 0.5, 0.9)):
        choice = choose(table, Recipe(keep, "score", unit=unit, strata=strata, mix=mix))
        size = round(keep * total)
        if unit == "pairs":
            assert choice.facts["num_kept"] == size
            assert choice.facts.get("num_random", 0) == round(mix * size)
            continue
        # The next pair of a stratum would be too long for what is left of its quota.
        num_domains = len(np.unique(table.column("domain")))
        counts = {"score": 50, "length": 10, "domain": num_domains}
        num_strata = math.prod(counts[name] for name in (strata or "").split(",") if name)
        assert size - num_strata * (LONGEST - 1) <= choice.facts["num_tokens_kept"] <= size


def test_a_part_of_a_quota_is_never_larger_than_the_quota() -> None:
    sizes = np.array([6, 6, 2])
    # Hamilton's method may give a stratum less of a larger budget.
    assert proportional(sizes, 10).tolist() == [4, 4, 2]
    assert proportional(sizes, 11).tolist() == [5, 5, 1]
    assert coverage_centric(sizes, 10).tolist() == [4, 4, 2]
    for size in range(15):
        quotas = proportional(sizes, size)
        for part in range(size + 1):
            of_part = proportional(quotas, part)
            assert (of_part <= quotas).all()
            assert of_part.sum() == part


def replay(facts: dict[str, Any], recipe: dict[str, Any]) -> Recipe:
    return Recipe.of_manifest({"recipe": {"scores": "", **recipe}, **facts})


def test_a_mix_of_an_earlier_version_is_made_again_as_it_was(table: ScoreTable) -> None:
    recipe = Recipe(0.5, "score", strata="score", num_strata=10, mix=0.5)
    choice = choose(table, recipe)
    assert choice.facts["quotas"] == "exact"
    again = choose(table, replay(choice.facts, choice.recipe))
    assert again.kept.tolist() == choice.kept.tolist()
    # Earlier versions shared what the ranking keeps evenly and the whole in proportion.
    earlier = {name: value for name, value in choice.facts.items() if name != "quotas"}
    old = choose(table, replay(earlier, choice.recipe))
    scores = table.column("score")
    widths = 10 * (scores - scores.min()) / np.ptp(scores)
    sizes = np.bincount(np.minimum(widths, 9).astype(int), minlength=10)
    top = coverage_centric(sizes, 150)
    clipped = np.maximum(proportional(sizes, 300) - top, 0)
    assert (top + clipped).sum() > 300
    assert old.facts["num_kept"] == (top + clipped).sum()
    assert "quotas" not in old.facts
    assert old.recipe == choice.recipe
