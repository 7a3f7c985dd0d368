"""A selection made again from what its manifest records, to see what became of each pair."""

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np

from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.filters.measures import Measures
from pycat.runtime.output import digest
from pycat.scores.score_table import ScoreTable
from pycat.selection.choice import Choice
from pycat.selection.recipe import Recipe
from pycat.selection.selecting import choose_measured
from pycat.selection.selection import Selection


def choose_again(
    selection: Selection,
    table: ScoreTable,
    corpus: Corpus,
    measures: Measures | str | PathLike[str] | None = None,
) -> Choice:
    """Follow the recipe of a selection's manifest, and check that the same pairs come out.

    SQL of the manifest is not run: the scores that were recorded of it are read.

    Args:
        selection: made from the table.
        table: N pairs.
        corpus: of those N pairs.
        measures: as in `select`.

    Raises:
        PycatError: the selection is of another table, its recipe cannot be followed, or other pairs
            come out.
        OutputError: measures are needed, and there are none of this corpus.
    """
    check_made_from(selection, table)
    recipe = Recipe.of_manifest(selection.manifest)
    recipe.check(table)
    recipes = [recipe]
    if recipe.ties == "row" and (recipe.cap is not None or recipe.tails is not None):
        # Selections of earlier versions do not tell whether cap or tails broke ties by text.
        recipes.append(replace(recipe, ties="text"))
    problems = []
    for each in recipes:
        choice, _ = choose_measured(table, corpus, each, measures, selection.sql_scores())
        if not (problem := _difference(selection, table, choice)):
            return choice
        problems.append(problem)
    name = selection.path or "selection"
    raise PycatError(f"{name}: {problems[0]}; run 'pycat select' again with --overwrite")


def _difference(selection: Selection, table: ScoreTable, choice: Choice) -> str:
    """How a choice differs from what a selection records, in words; "" where it does not."""
    recorded = {**selection.manifest["recipe"]}
    del recorded["scores"]
    if choice.recipe != recorded:
        return (
            "a column that the selection used holds other values now "
            f"({', '.join(_changed(recorded, choice.recipe))}), expected those of its recipe"
        )
    pair_ids = table.pair_ids[choice.kept]
    if np.array_equal(pair_ids, selection.pair_ids):
        return ""
    missing = len(np.setdiff1d(selection.pair_ids, pair_ids, assume_unique=True))
    return (
        f"its recipe keeps {len(pair_ids):,} pairs now, without {missing:,} of those in the "
        f"selection; expected its {len(selection):,} pairs"
    )


def _changed(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Names of what differs between two recipes, where these are hashes the names of their roles.

    A role is "by", "drop_0" and so on.
    """
    a, b = ({**recipe, **recipe.get("hashes", {}), "hashes": None} for recipe in (recorded, found))
    return [name for name in {**a, **b} if a.get(name) != b.get(name)]


def check_made_from(selection: Selection, table: ScoreTable) -> None:
    """Refuse a selection that was made from another table.

    Raises:
        PycatError: the message names both.
    """
    if selection.manifest["recipe"]["scores"] != digest(table.manifest["recipe"]):
        raise PycatError(
            f"{selection.path or 'selection'}: made from another score table than "
            f"{table.path or 'the one given'}; select from that table again"
        )
