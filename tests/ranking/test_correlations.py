"""Rank correlations, plain and partial, against the inverse of the correlation matrix."""

import numpy as np
import pyarrow as pa
import pytest
from helpers import MakeScores

import pycat
from pycat.ranking.correlations import correlations, explained_by, sampled_column, sampled_rows
from pycat.ranking.criteria import evaluate_criterion
from pycat.ranking.ranks import spearman
from pycat.scores.score_table import ScoreTable


def test_partial_correlation_is_that_of_the_inverse_matrix() -> None:
    rng = np.random.default_rng(0)
    length = rng.integers(1, 60, 5000)
    rarity = 0.1 * length + rng.normal(size=5000)
    scores = rarity**3 + rng.normal(size=5000)
    found = explained_by(scores, {"length": length, "rarity": rarity})
    columns = (scores, length, rarity)
    matrix = np.array([[spearman(a, b) for b in columns] for a in columns])
    inverse = np.linalg.inv(matrix)
    for i, name in enumerate(("length", "rarity"), 1):
        assert found["spearman"][name] == pytest.approx(matrix[0, i], rel=1e-9)
        partial = -inverse[0, i] / np.sqrt(inverse[0, 0] * inverse[i, i])
        assert found["partial"][name] == pytest.approx(partial, rel=1e-6)
    assert found["r2"] == pytest.approx(1 - 1 / inverse[0, 0], rel=1e-9)
    assert abs(found["partial"]["length"]) < 0.1 < found["spearman"]["length"]


def test_what_is_not_defined_is_nan() -> None:
    scores, other = np.arange(10.0), np.array([3.0, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    same = explained_by(scores, {"length": scores, "rarity": other})
    assert same["spearman"]["length"] == pytest.approx(1)
    assert same["r2"] == pytest.approx(1)
    # Nothing of the score is left once its own ranks are taken out.
    assert np.isnan(same["partial"]["rarity"])
    constant = explained_by(np.ones(10), {"length": other})
    assert np.isnan(constant["spearman"]["length"])
    assert np.isnan(constant["r2"])


def test_criteria_against_each_other(toy_corpus: pycat.Corpus, make_scores: MakeScores) -> None:
    table = make_scores(toy_corpus, np.random.default_rng(0).uniform(1, 50, (300, 3)))
    criteria = ["cat_var", "-cat_var", "ppl", "length"]
    matrix = correlations([evaluate_criterion(table, by) for by in criteria])
    scores = [table.ppl.var(axis=1), -table.ppl.var(axis=1), table.ppl[:, 2], table.num_tokens]
    expected = [[spearman(a, b) for b in scores] for a in scores]
    np.testing.assert_allclose(matrix, expected, atol=1e-12)
    assert matrix[0, 1] == pytest.approx(-1)


def test_large_tables_are_sampled_evenly() -> None:
    assert sampled_rows(1_000_000) == slice(0, None, 1)
    assert sampled_rows(1_000_001) == slice(0, None, 2)
    count = 2_000_001  # several chunks, none of them a multiple of the step
    ones = pa.array(np.ones(count, np.int32))
    columns = {"pair": np.arange(count), "num_src_tokens": ones, "num_tokens": ones}
    table = ScoreTable.from_arrow(pa.table({**columns, "nll_0": ones.cast("double")}), {})
    assert sampled_rows(count).step == 3
    assert sampled_column(table, "pair").tolist() == list(range(0, count, 3))
