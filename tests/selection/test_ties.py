"""Equal scores at a cut are decided by the text of the pairs, not by their place in the file."""

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
from pycat.selection.choice import choose
from pycat.selection.recipe import Recipe

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
