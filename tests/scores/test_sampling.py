"""Rows taken out of a table."""

from pathlib import Path

import numpy as np
import pytest
from helpers import MakeScores

import pycat
from pycat.scores.sampling import evenly, take


@pytest.mark.parametrize(
    ("num_rows", "most", "rows"),
    [(5, 9, [0, 1, 2, 3, 4]), (5, 5, [0, 1, 2, 3, 4]), (7, 3, [0, 3, 6]), (8, 3, [0, 3, 6])],
)
def test_evenly(num_rows: int, most: int, rows: list[int]) -> None:
    assert evenly(num_rows, most).tolist() == rows


def test_take_reads_those_rows_of_all_columns(
    toy_corpus: pycat.Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    nll = np.random.default_rng(0).uniform(1, 9, (300, 2))
    table = make_scores(toy_corpus, nll, tmp_path / "scores")
    words = np.array([f"w{i}" for i in range(300)])
    table.add("word", words)
    rows = np.array([0, 7, 8, 299])
    few = take(table, rows)
    assert few.pair_ids.tolist() == rows.tolist()
    assert few.nll.tolist() == nll[rows].tolist()
    assert few.column("word").tolist() == words[rows].tolist()
    assert few.names == table.names
    assert few.corpus_path == table.corpus_path
    assert few.steps == table.steps
