"""Equal scores at a cut are decided by the text of the pairs, not by their place in the file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import MakeScores, plain_select, toy_pairs, write_lines

import pycat
from pycat.cli.select import summary
from pycat.data.corpus import Corpus
from pycat.ranking.tie_keys import tie_keys
from pycat.ranking.top_k import cut_within_budget
from pycat.runtime.output import digest
from pycat.selection.choice import choose
from pycat.selection.recipe import Recipe
from pycat.selection.replaying import choose_again
from pycat.selection.selection import Selection

DOMAINS = [toy_pairs(300)[:150], toy_pairs(300)[150:]]


@pytest.fixture(scope="module")
def orders(
    tmp_path_factory: pytest.TempPathFactory, toy_tokenizer: Path
) -> list[tuple[Corpus, list[tuple[str, str]]]]:
    """Corpora of the same pairs: one domain first, the other first, and all shuffled."""
    rng = np.random.default_rng(0)
    whole = DOMAINS[0] + DOMAINS[1]
    folder = tmp_path_factory.mktemp("orders")
    made = []
    for i, pairs in enumerate(
        [whole, DOMAINS[1] + DOMAINS[0], [whole[at] for at in rng.permutation(len(whole))]]
    ):
        src, tgt = write_lines(folder, pairs, f"text{i}")
        corpus = pycat.tokenize(src, tgt, out=folder / f"corpus{i}", tokenizer=toy_tokenizer)
        assert len(corpus) == len(pairs)
        made.append((corpus, pairs))
    return made


RECIPES: dict[str, dict[str, Any]] = {
    "top": {},
    "bottom": {"part": "bottom"},
    "middle": {"part": "middle"},
    "range": {"keep": (0.2, 0.7)},
    "few values": {"by": "sql: num_tokens % 3"},
    "few values, bottom": {"by": "sql: num_tokens % 3", "part": "bottom"},
    "tokens": {"unit": "tokens"},
    "tokens of a range": {"unit": "tokens", "keep": (0.1, 0.6)},
    "strata by length": {"strata": "length"},
    "strata by a column": {"strata": "num_src_tokens", "unit": "tokens"},
    "drop": {"drop": {"sql: num_tokens % 2": 0.3}},
    "cap": {"cap": ("num_src_tokens", 5), "keep": 0.1},
    "all at once": {
        "by": "sql: num_tokens % 4",
        "drop": {"sql: num_src_tokens % 2": 0.2},
        "cap": ("num_tokens", 20),
        "strata": "length",
        "keep": 0.2,
        "unit": "tokens",
    },
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("seed", [0, 5])
def test_the_order_of_the_text_does_not_matter(
    orders: list[tuple[Corpus, list[tuple[str, str]]]],
    make_scores: MakeScores,
    name: str,
    seed: int,
) -> None:
    options = {"keep": 0.4, "by": "sql: 1", "seed": seed, **RECIPES[name]}
    kept = []
    for corpus, pairs in orders:
        table = make_scores(corpus, np.ones((len(corpus), 2)))
        selection = plain_select(table, **options)
        kept.append(sorted(pairs[pair] for pair in selection.pair_ids.tolist()))
    assert kept[0] == kept[1] == kept[2]
    of_first = sum(pair in set(DOMAINS[0]) for pair in kept[0])
    assert 0.2 < of_first / len(kept[0]) < 0.8  # neither domain wins by its place


def test_the_noise_filter_breaks_ties_by_text(
    orders: list[tuple[Corpus, list[tuple[str, str]]]], make_scores: MakeScores
) -> None:
    kept = []
    for corpus, pairs in orders:
        table = make_scores(corpus, np.ones((len(corpus), 2)))
        noise = np.ones(len(corpus))
        recipe = Recipe(keep=0.5, by="sql: 1", guard=0.5)
        choice = choose(table, recipe, noise=noise.copy, corpus=corpus)
        assert choice.facts["ties"] == {
            "guard": {"num_pairs": 300, "num_before": 75},
            "criterion": {"num_pairs": 225, "num_before": 150},
        }
        kept.append(sorted(pairs[row] for row in np.flatnonzero(choice.kept).tolist()))
    assert kept[0] == kept[1] == kept[2]


def test_opposite_ends_of_one_ranking_share_nothing(
    orders: list[tuple[Corpus, list[tuple[str, str]]]], make_scores: MakeScores
) -> None:
    corpus, _ = orders[0]
    table = make_scores(corpus, np.ones((len(corpus), 2)))
    for by in ("sql: 1", "sql: num_tokens % 3"):
        top, bottom = (
            plain_select(table, keep=0.3, by=by, part=part) for part in ("top", "bottom")
        )
        rest = plain_select(table, keep=(0.3, 1.0), by=by)
        last = plain_select(table, keep=(0.7, 1.0), by=by)
        assert not set(top.pair_ids) & set(bottom.pair_ids)
        assert set(top.pair_ids) | set(rest.pair_ids) == set(range(len(corpus)))
        assert bottom.pair_ids.tolist() == last.pair_ids.tolist()
        middle = plain_select(table, keep=0.4, by=by, part="middle")
        assert set(middle.pair_ids) == set(range(300)) - set(top.pair_ids) - set(bottom.pair_ids)


def test_ties_are_counted_printed_and_seeded(
    orders: list[tuple[Corpus, list[tuple[str, str]]]], make_scores: MakeScores, tmp_path: Path
) -> None:
    corpus, _ = orders[0]
    table = make_scores(corpus, np.ones((len(corpus), 2)))
    kept = plain_select(table, keep=0.5, by="sql: num_tokens % 3")
    remainder = corpus.num_tokens % 3
    above = int((remainder > kept.manifest["threshold"]).sum())
    tied = int((remainder == kept.manifest["threshold"]).sum())
    assert kept.manifest["ties"] == {"criterion": {"num_pairs": tied, "num_before": 150 - above}}
    assert (
        f"equal scores at the cut (criterion): {tied:,} pairs, of which {150 - above}"
        in summary(kept)
    )
    other = plain_select(table, keep=0.5, by="sql: num_tokens % 3", seed=1)
    assert other.pair_ids.tolist() != kept.pair_ids.tolist()
    assert (kept.manifest["recipe"]["seed"], other.manifest["recipe"]["seed"]) == (None, 1)
    # Nothing is said where all of the equal scores are kept, or where none are equal.
    for by, keep in (("sql: pair", 0.5), ("sql: pair < 30", 0.1), ("sql: 1", 1.0)):
        selection = plain_select(table, keep=keep, by=by, seed=3)
        assert "ties" not in selection.manifest and selection.manifest["recipe"]["seed"] is None
        assert "equal scores" not in summary(selection)


def test_ties_at_a_cap_and_at_tails_are_counted_and_seeded(
    orders: list[tuple[Corpus, list[tuple[str, str]]]], make_scores: MakeScores
) -> None:
    corpus, _ = orders[0]
    nll = np.ones((300, 2))
    nll[:, 1] = corpus.num_tokens  # the last perplexity is e for all
    table = make_scores(corpus, nll)
    # Groups of 6, 4 and 2 pairs. In the first the cap of 3 goes through three of score 5, of which
    # one stays; in the second through four, of which three stay; in the third it drops nothing.
    group, score = np.full(300, -1), np.arange(300.0)
    group[[0, 1, 2, 3, 4, 5]], score[[0, 1, 2, 3, 4, 5]] = 7, [9, 8, 5, 5, 5, 1]
    group[[10, 20, 30, 40]], score[[10, 20, 30, 40]] = 2, 6
    group[[50, 60]], score[[50, 60]] = 4, 6
    table.add("group", group)
    table.add("score", score)
    options: dict[str, Any] = {"by": "score", "cap": ("group", 3), "keep": 296 / 300}
    kept = plain_select(table, **options)
    assert kept.manifest["ties"] == {"cap": {"num_pairs": 7, "num_before": 4}}
    keys = tie_keys(corpus)(np.arange(300)).tolist()
    dropped = [*sorted([2, 3, 4], key=keys.__getitem__)[1:], 5]
    dropped.append(max([10, 20, 30, 40], key=keys.__getitem__))
    assert sorted({*range(300)} - {*kept.pair_ids.tolist()}) == sorted(dropped)
    assert (
        plain_select(table, **{**options, "cap": ("group", 4)}, seed=3).manifest["recipe"]["seed"]
        == 3
    )
    # A cap that scores alone decide breaks no tie: above the pairs of score 5, and below them.
    for max_pairs in (2, 5):
        table.add(f"group_{max_pairs}", np.where(group == 7, 7, -1))
        selection = plain_select(table, by="score", cap=(f"group_{max_pairs}", max_pairs), keep=0.9)
        assert "cap" not in selection.manifest.get("ties", {})
    tails = plain_select(table, by="score", tails=(0.1, 0.0), keep=0.9)
    assert tails.manifest["ties"] == {"tails": {"num_pairs": 300, "num_before": 30}}


@pytest.mark.parametrize(
    "options", [{"cap": ("group", 3)}, {"tails": (0.1, 0.1)}, {"cap": ("group", 3), "keep": 0.1}]
)
def test_a_cap_of_any_version_is_made_again_as_it_was(
    orders: list[tuple[Corpus, list[tuple[str, str]]]],
    make_scores: MakeScores,
    options: dict[str, Any],
) -> None:
    corpus, _ = orders[0]
    nll = np.ones((300, 2))
    nll[:, 1] = corpus.num_tokens
    table = make_scores(corpus, nll)
    table.add("group", np.arange(300) % 20)  # 15 pairs each, by lot: all scores are equal
    table.add("score", np.zeros(300))
    table.add("own", np.random.default_rng(0).permutation(300).astype(float))
    by = "score" if "cap" in options else "own"
    keep = 60 / 300 if "cap" in options else 0.8
    recipe = Recipe(**{"by": by, "keep": keep, **options})
    kept = {}
    for ties in ("row", "text"):
        choice = choose(table, replace(recipe, ties=ties), corpus=corpus)
        kept[ties] = choice.kept
        facts = {name: value for name, value in choice.facts.items() if name != "ties"}
        ids = np.flatnonzero(choice.kept)
        scores = digest(table.manifest["recipe"])
        manifest = {"recipe": {"scores": scores, **choice.recipe}, **facts}
        # Earlier versions did not count these ties.
        earlier = Selection(ids, ids, manifest, corpus.path)
        again = choose_again(earlier, table, corpus)
        assert again.kept.tolist() == choice.kept.tolist()
    assert kept["row"].tolist() != kept["text"].tolist()


def test_keys_are_those_of_the_tokens(orders: list[tuple[Corpus, list[tuple[str, str]]]]) -> None:
    (one, pairs), (other, turned), _ = orders
    keys = dict(zip(pairs, tie_keys(one)(np.arange(300)).tolist(), strict=True))
    assert dict(zip(turned, tie_keys(other)(np.arange(300)).tolist(), strict=True)) == keys
    assert len(set(keys.values())) == len(set(pairs))
    view = one.subset(np.arange(100, 200))
    rows = np.array([7, 3])
    assert tie_keys(view)(rows).tolist() == [keys[pairs[107]], keys[pairs[103]]]
    assert (tie_keys(view, reverse=True)(rows) == ~tie_keys(view)(rows)).all()
    assert (tie_keys(view, 2**70 + 1)(rows) != tie_keys(view)(rows)).all()


def test_no_cheaper_tied_row_takes_the_place_of_one_that_does_not_fit() -> None:
    # Keys rank the rows 2, 0, 1, 3; a budget of 6 pays for 2 and 0, and ends at row 1.
    scores, costs = np.zeros(4), np.array([3, 5, 2, 1])
    keys = np.array([20, 30, 10, 40], np.uint64)
    cut = cut_within_budget(
        scores, np.array([6]), np.zeros(4, np.int8), costs, lambda rows: keys[rows]
    )
    assert cut.selected.tolist() == [True, False, True, False]
    assert (cut.num_tied, cut.num_tied_selected) == (4, 2)
