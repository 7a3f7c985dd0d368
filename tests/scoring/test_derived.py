"""Columns derived from several tables, by hand and against the tables."""

from pathlib import Path

import numpy as np
import pytest
from helpers import MakeScores, ToyText

import pycat
from pycat.errors import PycatError
from pycat.scoring.derived import add_average, add_cld, cld


def test_the_correlation_of_loss_steps_by_hand() -> None:
    reference = np.array([5.0, 3.0, 2.0, 1.5])  # steps -2, -1, -0.5
    nll = np.array(
        [
            [8.0, 4.0, 2.0, 1.0],  # steps -4, -2, -1: twice the reference's
            [1.0, 3.0, 4.0, 4.5],  # its opposite
            [7.0, 6.0, 5.0, 4.0],  # even steps: no correlation
            [5.0, 5.0, 4.0, 4.0],  # steps 0, -1, 0
        ]
    )
    # Deviations of the reference's steps: -5/6, 1/6, 4/6; of the last pair's: 1/3, -2/3, 1/3.
    last = (-5 / 18 - 2 / 18 + 4 / 18) / np.sqrt(42 / 36 * 6 / 9)
    assert cld(nll, reference).tolist() == pytest.approx([1, -1, 0, last])


def test_the_mean_over_proxies(
    toy_corpus: pycat.Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    some = toy_corpus.subset(np.arange(30))
    one, two = (rng.uniform(1, 9, (30, 2)) for _ in range(2))
    first = make_scores(some, one, tmp_path / "one")
    second = make_scores(some, two, tmp_path / "two")
    name = add_average(tmp_path / "one", [second], "nll_1", name="both")
    column = pycat.ScoreTable.open(tmp_path / "one").column(name)
    ranks = [values[:, 1].argsort().argsort() + 1 for values in (one, two)]
    assert column.tolist() == pytest.approx(((ranks[0] + ranks[1]) / 60).tolist())
    with pytest.raises(PycatError, match="found one table, expected two or more"):
        add_average(first, [], "nll_1", name="more")
    other = make_scores(toy_corpus.subset(np.arange(31)), rng.uniform(1, 9, (31, 2)))
    with pytest.raises(PycatError, match="holds scores of other pairs"):
        add_average(first, [other], "nll_1", name="more")


def test_a_column_of_correlations(toy_text: ToyText, tmp_path: Path) -> None:
    corpus = pycat.tokenize(*toy_text(100), out=tmp_path / "corpus", vocab_size=340)
    run = pycat.train(
        corpus,
        out=tmp_path / "proxy",
        checkpoint_steps=[1, 2, 4],
        batch_tokens=256,
        preset="mini",
        device="cpu",
    )
    table = pycat.score(corpus, run.checkpoints, out=tmp_path / "scores", device="cpu")
    dev = toy_text(20, seed=3, name="dev")
    options = {"out": tmp_path / "dev", "device": "cpu"}
    add_cld(table, dev, checkpoints=run.checkpoints, **options)  # type: ignore[arg-type]
    found = pycat.ScoreTable.open(tmp_path / "dev" / "scores")
    reference = found.nll.sum(axis=0) / found.num_tokens.sum()
    table = pycat.ScoreTable.open(tmp_path / "scores")
    expected = cld(table.nll / table.num_tokens[:, None], reference)
    np.testing.assert_allclose(table.column("cld"), expected, rtol=1e-12)
    with pytest.raises(PycatError, match="was scored with other checkpoints"):
        add_cld(
            table,
            dev,
            checkpoints=run.checkpoints[1:],
            out=tmp_path / "other",
            name="other",
            device="cpu",
        )
    two = pycat.score(corpus, run.checkpoints[1:], device="cpu")
    with pytest.raises(PycatError, match="holds 2 checkpoints, expected 3"):
        add_cld(two, dev, checkpoints=run.checkpoints[1:], **options)  # type: ignore[arg-type]
