"""What each option of a recipe keeps, by hand or against sorting, and what it refuses."""

from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from pycat.errors import PycatError
from pycat.filters.rules import DEFAULT_RULES
from pycat.ranking.criteria import random
from pycat.ranking.ranks import spearman
from pycat.scores.score_table import ScoreTable
from pycat.selection.choice import choose
from pycat.selection.recipe import Recipe


def table(score: Any, num_tokens: Any = None, **added: Any) -> ScoreTable:
    """Pairs from id 50, with a column `score`."""
    count = len(score)
    tokens = np.ones(count) if num_tokens is None else np.array(num_tokens)
    columns = {
        "pair": np.arange(50, 50 + count),
        "num_src_tokens": tokens.astype(np.int32),
        "num_tokens": tokens.astype(np.int32),
        "nll_0": np.ones(count),
        "nll_1": np.ones(count),
        "score": np.array(score, dtype=np.float64),
        **{name: np.array(values) for name, values in added.items()},
    }
    return ScoreTable.from_arrow(pa.table(columns), {"steps": [1, 2]})


def rows(given: ScoreTable, noise: Any = None, **options: Any) -> list[int]:
    scores = None if noise is None else lambda: np.array(noise, dtype=np.float64)
    kept = choose(given, Recipe(**{"by": "score", **options}), noise=scores).kept
    return [int(row) for row in np.flatnonzero(kept)]


SCORES = [3.0, 9.0, 3.0, 7.0, 1.0, 3.0, 8.0, 2.0, 0.0, 3.0]  # ranked: 1 6 3 0 2 5 9 7 4 8


def test_parts_of_the_ranking() -> None:
    given = table(SCORES)
    assert rows(given, keep=0.5) == [0, 1, 2, 3, 6]
    assert rows(given, keep=0.5, by="-score") == [0, 2, 4, 7, 8]
    assert rows(given, keep=0.5, part="bottom") == [0, 2, 4, 7, 8]
    assert rows(given, keep=0.4, part="middle") == [0, 2, 5, 9]
    assert rows(given, keep=0.5, part="middle") == [0, 2, 3, 5, 9]
    assert rows(given, keep=(0.2, 0.7)) == [0, 2, 3, 5, 9]
    assert rows(given, keep=(0.7, 1.0)) == [4, 7, 8]
    facts = choose(given, Recipe(by="score", keep=0.3, part="bottom")).facts
    assert (facts["threshold"], facts["highest"]) == (0.0, 2.0)


def test_ranges_that_meet_share_nothing_and_leave_nothing_out() -> None:
    rng = np.random.default_rng(0)
    given = table(rng.integers(0, 9, 500), rng.integers(1, 30, 500))
    for unit in ("pairs", "tokens"):
        ends = [0.0, 0.17, 0.5, 0.51, 0.9, 1.0]
        parts = [rows(given, keep=(a, b), unit=unit) for a, b in pairwise(ends)]
        assert sorted(chain.from_iterable(parts)) == list(range(500)), unit


def test_tokens_fit_exactly() -> None:
    # Ranked: tokens 4 3 5 1 2, 15 in all.
    given = table([5.0, 4.0, 3.0, 2.0, 1.0], [4, 3, 5, 1, 2])
    for keep, expected in (
        (7 / 15, [0, 1]),
        (11 / 15, [0, 1]),  # the third has 5 and would make 12; no later pair stands in for it
        (12 / 15, [0, 1, 2]),
        (1.0, [0, 1, 2, 3, 4]),
    ):
        assert rows(given, keep=keep, unit="tokens") == expected
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 60, 2000)
    given = table(rng.normal(size=2000), lengths)
    for part in ("top", "middle", "bottom"):
        facts = choose(given, Recipe(0.3, "score", part, "tokens")).facts
        budget = round(0.3 * lengths.sum())
        assert budget - 60 < facts["num_tokens_kept"] <= budget
    with pytest.raises(PycatError) as caught:
        choose(given, Recipe(1e-9, "score", unit="tokens"))
    assert str(caught.value) == (
        f"keep is 1e-09 of {lengths.sum():,} tokens: not one pair fits into that; raise it"
    )


def test_steps_count_the_whole_table() -> None:
    noisy = [9.0, 0, 8, 0, 0, 0, 7, 0, 0, 6]
    given = table(SCORES, noisy=noisy)
    # Out: 0 and 2, the noisiest fifth of ten. Then the five best of 1 6 3 5 9 7 4 8.
    assert rows(given, keep=0.5, drop={"noisy": 0.2}) == [1, 3, 5, 6, 9]
    # Then of what is left the two shortest by id, all being equal: 1 and 3.
    assert rows(given, keep=0.5, drop={"noisy": 0.2, "num_tokens": 0.2}) == [4, 5, 6, 7, 9]
    assert rows(given, keep=0.8, drop={"noisy": 0.2}) == [1, 3, 4, 5, 6, 7, 8, 9]
    recipe = choose(given, Recipe(0.5, "score", drop={"noisy": 0.2})).recipe
    assert recipe["drop"] == [["noisy", 0.2]]
    assert set(recipe["hashes"]) == {"by", "drop_0"}


def test_a_cap_keeps_the_best_of_a_group() -> None:
    group = [7, 7, 7, -1, -1, 2, 2, -1, 7, 2]
    given = table(SCORES, group=group)  # 7: 1 0 2 8; 2: 6 5 9
    assert rows(given, keep=0.5, cap=("group", 1)) == [1, 3, 4, 6, 7]
    assert rows(given, keep=0.7, cap=("group", 2)) == [0, 1, 3, 4, 5, 6, 7]
    assert rows(given, keep=0.3, cap=("group", 1), by="-score") == [4, 7, 8]
    # What was dropped takes no place in its group.
    first = [0.0] * 10
    first[1] = 1.0
    given.add("first", np.array(first))
    assert rows(given, keep=0.5, cap=("group", 1), drop={"first": 0.1}) == [0, 3, 4, 6, 7]
    with pytest.raises(PycatError) as caught:
        choose(given, Recipe(0.6, "score", cap=("group", 1)))
    assert str(caught.value) == (
        "keep asks for 6 pairs, but 5 are left after cap; lower keep to 0.5000 or less"
    )


def test_rules_then_guard_then_the_criterion() -> None:
    noise = np.array([0.9, 0.1, 0.8, 0.7, 0.95, 0.6, 0.2, 0.3, 0.5, 0.4])
    given = table(SCORES)
    by_rules = np.array([True] * 6 + [False] + [True] * 3)  # without row 6, of the second rank

    def chosen(**options: Any) -> tuple[list[int], dict[str, Any]]:
        recipe = Recipe(**{"by": "score", "rules": DEFAULT_RULES, **options})
        choice = choose(given, recipe, by_rules, lambda: noise)
        return [int(row) for row in np.flatnonzero(choice.kept)], choice.facts

    kept, facts = chosen(keep=0.4)
    assert kept == [0, 1, 2, 3]
    assert facts["dropped"] == {"rules": 1, "criterion": 5}
    # Half of the six that go: the three of the highest noise, among those that the rules left.
    kept, facts = chosen(keep=0.4, guard=0.5)
    assert kept == [1, 3, 5, 9]
    assert facts["dropped"] == {"rules": 1, "guard": 3, "criterion": 2}
    # The guard drops no more than leaves enough to keep and to drop by other steps.
    kept, facts = chosen(keep=0.7, guard=1.0, drop={"-score": 0.1})
    assert facts["dropped"] == {"rules": 1, "guard": 1, "drop": 1, "criterion": 0}
    assert kept == [0, 1, 2, 3, 5, 7, 9]
    assert chosen(keep=1.0, guard=1.0)[1]["dropped"] == {"rules": 1, "guard": 0, "criterion": 0}
    plain = choose(given, Recipe(0.4, "score"))
    assert plain.facts["dropped"] == {"criterion": 6}
    assert not plain.recipe.keys() & {"rules", "guard"}
    guarded = choose(given, Recipe(0.4, "score", guard=0.5), noise=lambda: noise)
    assert guarded.recipe["guard"] == 0.5
    assert guarded.recipe["hashes"].keys() == {"by", "guard"}


def test_where_rules_leave_fewer_all_of_those_are_kept() -> None:
    given = table(SCORES, num_tokens=[1, 1, 1, 1, 1, 1, 1, 1, 1, 11])
    recipe = Recipe(0.5, "score", rules=DEFAULT_RULES, guard=0.5)

    def noise() -> NDArray[np.float64]:
        return np.array(SCORES)

    choice = choose(given, recipe, np.arange(10) < 3, noise)
    assert np.flatnonzero(choice.kept).tolist() == [0, 1, 2]
    assert choice.facts["asked"] == 5
    assert choice.facts["dropped"] == {"rules": 7, "guard": 0, "criterion": 0}
    assert "asked" not in choose(given, recipe, np.arange(10) < 5, noise).facts
    tokens = choose(
        given, Recipe(0.5, "score", unit="tokens", rules=DEFAULT_RULES), np.arange(10) < 9
    )
    assert (tokens.facts["asked"], tokens.facts["num_tokens_kept"]) == (10, 9)
    crowded = Recipe(0.5, "score", rules=DEFAULT_RULES, drop={"score": 0.1})
    with pytest.raises(PycatError, match="asks for 5 pairs, but 4 are left after rules, drop;"):
        choose(given, crowded, np.arange(10) < 5)


def test_a_guard_counts_tokens_where_fractions_do() -> None:
    falling = np.arange(10.0)[::-1]
    given = table(falling, num_tokens=[1] * 9 + [11])
    # 10 of 20 tokens go, half of them by the guard; the last pair is longer than what is left.
    assert rows(given, falling, keep=0.5, unit="tokens", guard=0.5) == [5, 6, 7, 8]


def test_a_guard_is_a_fraction() -> None:
    with pytest.raises(PycatError, match=r"guard is 1.5; expected a fraction from 0 to 1 of what"):
        Recipe(guard=1.5).check()


def test_strata_by_a_column_keep_the_same_share_of_each() -> None:
    domain = np.array(["web"] * 60 + ["law"] * 30 + ["news"] * 10)
    scores = np.arange(100.0)[::-1] + 100 * (domain == "law")
    given = table(scores, domain=domain.tolist())
    assert rows(given, keep=0.3, strata="domain") == [*range(18), *range(60, 69), 90, 91, 92]
    # 0.25 of 60, 30, 10 is 15, 7.5, 2.5: equal remainders, the first stratum seen.
    assert len(rows(given, keep=0.25, strata="domain")) == 25


def test_strata_by_length_keep_the_lengths() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 80, 5000)
    given = table(lengths.astype(np.float64), lengths)
    plain = choose(given, Recipe(0.4, "score")).facts
    even = choose(given, Recipe(0.4, "score", strata="length")).facts
    assert plain["mean_tokens_kept"] > 1.5 * lengths.mean()
    assert abs(even["mean_tokens_kept"] / lengths.mean() - 1) < 0.1
    assert even["num_kept"] == 2000
    tokens = choose(given, Recipe(0.4, "score", unit="tokens", strata="length")).facts
    budget = round(0.4 * lengths.sum())
    assert budget - 10 * 80 < tokens["num_tokens_kept"] <= budget


def test_coverage_centric_draws_evenly_from_steps_of_the_score() -> None:
    scores = np.concatenate([np.linspace(0, 1, 900), np.linspace(9, 10, 90), np.full(10, 1e6)])
    given = table(scores)
    recipe = Recipe(0.1, "score", drop={"score": 0.01}, strata="score", num_strata=2, seed=3)
    kept = choose(given, recipe).kept
    # The ten of a million are out; what is left has width 10, and 900 and 90 pairs: 50 of each.
    assert (kept[:900].sum(), kept[900:990].sum(), kept[990:].sum()) == (50, 50, 0)
    drawn = random(given.column("pair"), 3)
    assert drawn[:900][kept[:900]].min() > drawn[:900][~kept[:900]].max()
    other = choose(given, Recipe(**{**vars(recipe), "seed": 4})).kept
    assert (other != kept).any()
    assert choose(given, recipe).recipe["seed"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"keep": (0.7, 0.2)},
            "keep is (0.7, 0.2); expected a fraction above 0 and at most 1, such as 0.5, or a "
            "range of the ranking, such as (0.2, 0.7)",
        ),
        ({"part": "best"}, "part is 'best'; expected one of top, middle, bottom"),
        ({"unit": "words"}, "unit is 'words'; expected one of pairs, tokens"),
        (
            {"keep": (0.1, 0.2), "part": "middle"},
            "part is 'middle' and keep is the range 0.1 to 0.2; pass one of them",
        ),
        (
            {"strata": "length", "part": "middle"},
            "strata keep the top of each stratum; leave out part, and pass one fraction as keep",
        ),
        ({"num_strata": 5}, "num_strata goes with strata 'score' or 'length'; leave it out"),
        (
            {"strata": "length", "num_strata": 0},
            "num_strata is 0; expected 1 to 10,000",
        ),
        (
            {"drop": {"length": 1.0}},
            "drop takes 1.0 by length; expected a fraction between 0 and 1, such as 0.2",
        ),
        (
            {"drop": {"length": 0.3, "ppl": 0.3}},
            "drop takes 0.6 and keep asks for 0.5 of the pairs, together more than all; fractions "
            "count the whole table: lower one of them",
        ),
        ({"by": "random", "seed": -1}, "seed is -1; expected a whole number from 0"),
        ({"cap": ("score", 0)}, "cap keeps 0 of a group; expected at least 1"),
        (
            {"cap": ("score", 1)},
            "cap: column score holds float64, expected whole numbers, one a group; a negative one "
            "says that the pair is in none",
        ),
        (
            {"strata": "dmain"},
            "score table: has no column 'dmain', expected one of pair, num_src_tokens, "
            "num_tokens, nll_0, nll_1, score; add it with ScoreTable.add",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused(options: dict[str, Any], message: str) -> None:
    given, recipe = table(SCORES), Recipe(**{"by": "score", **options})
    with pytest.raises(PycatError) as caught:
        recipe.check(given)
        choose(given, recipe)
    assert str(caught.value) == message


def test_what_length_and_rarity_explain_is_told() -> None:
    rng = np.random.default_rng(0)
    lengths: NDArray[Any] = rng.integers(1, 60, 400)
    rarity = rng.normal(size=400)
    scores = lengths + 10 * rarity
    facts = choose(table(scores, lengths, rarity=rarity), Recipe(0.25, "score")).facts
    best = np.argsort(-scores)[:100]
    assert facts["num_tokens_kept"] == lengths[best].sum()
    assert facts["mean_tokens_kept"] == lengths[best].mean()
    assert facts["mean_tokens_dropped"] == (lengths.sum() - lengths[best].sum()) / 300
    explained = facts["explained"]
    assert explained["num_pairs"] == 400
    for name, column in (("length", lengths), ("rarity", rarity)):
        assert explained["spearman"][name] == pytest.approx(spearman(scores, column), rel=1e-9)
    assert explained["r2"] > 0.9
    without = choose(table(np.ones(9)), Recipe(1.0, "score")).facts
    assert without["mean_tokens_dropped"] is None
    assert without["explained"] == {
        "num_pairs": 9,
        "spearman": {"length": None},
        "partial": {"length": None},
        "r2": None,
    }


def test_a_column_of_a_criterions_name_is_recorded_by_its_values() -> None:
    one, two = (choose(table(SCORES, rarity=x), Recipe(by="-rarity")) for x in (SCORES, range(10)))
    assert one.recipe["hashes"] != two.recipe["hashes"]
    assert "hashes" not in choose(table(SCORES), Recipe(by="-length")).recipe


def test_what_drop_rounds_up_is_not_asked_for() -> None:
    given = table(SCORES[:7])
    assert rows(given, keep=0.5, drop={"-score": 0.5}) == [1, 3, 6]  # four of seven go
    assert rows(given, keep=0.5, drop={"-score": 0.4}) == [1, 3, 5, 6]
    assert rows(given, keep=(0.1, 0.5), drop={"-score": 0.5}) == [3, 6]


def test_a_range_counts_the_whole_table_after_rules() -> None:
    given = table(SCORES)
    recipe = Recipe((0.2, 0.7), "score", rules=DEFAULT_RULES)
    choice = choose(given, recipe, np.arange(10) < 6)  # ranked: 1 3 0 2 5 4
    assert np.flatnonzero(choice.kept).tolist() == [0, 2, 4, 5]
    assert choice.facts["asked"] == 5
    with pytest.raises(PycatError) as caught:
        choose(given, recipe, np.arange(10) < 2)
    assert str(caught.value) == (
        "keep is (0.2, 0.7) of 10 pairs, a range that begins after 2, but the rules leave 2; "
        "loosen their thresholds, or lower the range"
    )


def test_the_share_to_lower_keep_to_is_floored() -> None:
    given = table(range(30_000), group=[0] * 9_998 + [-1] * 20_002)
    # 20,003 are 0.66677 of all; 0.6668 would ask for 20,004.
    with pytest.raises(PycatError, match=r"20,003 are left after cap; lower keep to 0\.6667 or"):
        rows(given, keep=0.9, cap=("group", 1))
    assert len(rows(given, keep=0.6667, cap=("group", 1))) == 20_001


def test_a_share_of_what_is_kept_is_drawn_at_random() -> None:
    given = table([*range(10)])
    choice = choose(given, Recipe(by="score", keep=0.5, mix=0.4, seed=3))
    # Three by score, 9, 8 and 7; two of the highest random numbers among the other seven.
    drawn = np.argsort(-random(given.pair_ids[:7], 3))[:2]
    assert np.flatnonzero(choice.kept).tolist() == sorted([7, 8, 9, *drawn.tolist()])
    assert choice.facts["num_random"] == 2
    assert choice.facts["threshold"] == 7
    assert choice.recipe["mix"] == 0.4
    assert choice.recipe["seed"] == 3
    again = choose(given, Recipe.of_manifest({"recipe": choice.recipe}))
    assert again.kept.tolist() == choice.kept.tolist()
    # What a drop left out is not drawn.
    for seed in range(5):
        dropped = Recipe(by="score", keep=0.5, mix=0.5, drop={"-score": 0.5}, seed=seed)
        assert np.flatnonzero(choose(given, dropped).kept).tolist() == [5, 6, 7, 8, 9]
    # Each stratum keeps its share: two of four, and one of two, of which one is drawn.
    domains = table([4, 3, 2, 1, 6, 5], domain=["a", "a", "a", "a", "b", "b"])
    kept = choose(domains, Recipe(by="score", keep=0.5, mix=1 / 3, strata="domain")).kept
    assert kept[:4].sum() == 2
    assert kept[4:].sum() == 1
    for wrong in ({"mix": 1.0}, {"mix": -0.1}, {"mix": 0.1, "part": "bottom"}):
        with pytest.raises(PycatError, match="mix"):
            Recipe(**wrong).check()


def test_strata_of_several_columns_are_their_combinations() -> None:
    given = table(
        [1, 2, 3, 4, 5, 6, 7, 8],
        domain=["a", "a", "b", "b", "a", "a", "b", "b"],
        source=["x", "x", "x", "x", "y", "y", "y", "y"],
    )
    assert rows(given, keep=0.5, strata="domain,source") == [1, 3, 5, 7]
    assert rows(given, keep=0.5, strata="domain") == [4, 5, 6, 7]
    by_length = table([1, 2, 3, 4], num_tokens=[1, 9, 1, 9], domain=["a", "a", "a", "a"])
    assert rows(by_length, keep=0.5, strata="domain,length", num_strata=2) == [2, 3]
    with pytest.raises(PycatError, match="strata by score stand alone"):
        Recipe(strata="score,domain").check()
    with pytest.raises(PycatError, match="no column 'nosuch'"):
        Recipe(strata="domain,nosuch").check(given)


def test_the_tails_of_each_stratum_are_left_out() -> None:
    nll = np.log(np.array([1.0, 2.0, 3.0, 4.0, 40.0, 30.0, 20.0, 10.0]))
    columns = {
        "pair": np.arange(8),
        "num_src_tokens": np.ones(8, np.int32),
        "num_tokens": np.ones(8, np.int32),
        "nll_0": nll,
        "domain": ["a"] * 4 + ["b"] * 4,
    }
    given = ScoreTable.from_arrow(pa.table(columns), {"steps": [1]})
    choice = choose(given, Recipe(by="ppl", keep=0.5, strata="domain", tails=(0.25, 0.25)))
    # Of each four the hardest and the easiest go.
    assert np.flatnonzero(choice.kept).tolist() == [1, 2, 5, 6]
    assert choice.facts["dropped"] == {"tails": 4, "criterion": 0}
    assert choice.recipe["tails"] == [0.25, 0.25]
    everywhere = choose(given, Recipe(by="-ppl", keep=0.5, tails=(0.25, 0.0)))
    assert np.flatnonzero(everywhere.kept).tolist() == [0, 1, 2, 3]
    for tails in ((0.6, 0.4), (-0.1, 0.0), (1.0, 0.0)):
        with pytest.raises(PycatError, match="tails are"):
            Recipe(tails=tails).check()
