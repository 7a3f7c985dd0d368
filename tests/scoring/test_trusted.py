"""Scores by trusted text: the difference that tuning makes, its column, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from helpers import ToyText

import pycat
from pycat.errors import CorpusError, PycatError
from pycat.proxy.tuning import tune
from pycat.scoring.trusted import add_trusted, trusted_gain

TRAIN = {"checkpoint_steps": [2, 4], "batch_tokens": 512, "preset": "mini", "device": "cpu"}
TUNE = {"updates": 9, "batch_tokens": 256, "device": "cpu"}


def test_the_gain_by_hand() -> None:
    before, after = np.array([10.0, 6.0]), np.array([7.0, 8.0])
    # 3 nats over 1 + 5 tokens; minus 2 over 15 + 5.
    assert trusted_gain(before, after, np.array([1, 15], np.int32)).tolist() == [0.5, -0.1]


def test_a_column_by_tuning_on_trusted_text(toy_text: ToyText, tmp_path: Path) -> None:
    corpus = pycat.tokenize(*toy_text(200), out=tmp_path / "corpus", vocab_size=340)
    run = pycat.train(corpus, out=tmp_path / "proxy", **TRAIN)  # type: ignore[arg-type]
    table = pycat.score(corpus, run.checkpoints, out=tmp_path / "scores", device="cpu")
    good = toy_text(60, seed=5, name="good")
    last = run.checkpoints[-1]
    out = tmp_path / "trusted"
    options = {"checkpoint": last, "out": out, **TUNE}
    assert add_trusted(table, good, **options) == "trusted"  # type: ignore[arg-type]
    tuned = pycat.Run.open(out / "tuned")
    assert tuned.steps == (9,)
    assert tuned.manifest["recipe"]["initial"]
    both = pycat.score(corpus, [last, *tuned.checkpoints], device="cpu", stats="nll")
    expected = (both.nll[:, 0] - both.nll[:, 1]) / (corpus.num_tokens + 5)
    table = pycat.ScoreTable.open(tmp_path / "scores")
    np.testing.assert_array_equal(table.column("trusted"), expected)
    np.testing.assert_array_equal(both.nll[:, 0], table.nll[:, -1])
    kept = pycat.select(table, by="trusted", keep=0.1, rules="none", guard=0)
    assert kept.pair_ids.tolist() == sorted(np.argsort(-expected, kind="stable")[:20].tolist())
    # The same call finds everything done; another checkpoint, or other text, is another column.
    assert add_trusted(table, good, **options) == "trusted"  # type: ignore[arg-type]
    with pytest.raises(PycatError, match=r"is not the last checkpoint that .* was scored with"):
        add_trusted(table, good, checkpoint=run.checkpoints[0], out=tmp_path / "other")
    other = toy_text(60, seed=6, name="other")
    elsewhere = {**options, "out": tmp_path / "other"}
    with pytest.raises(PycatError, match=r"column trusted: .* has it, of other trusted text"):
        add_trusted(table, other, **elsewhere)  # type: ignore[arg-type]
    assert not (tmp_path / "other" / "tuned").exists()  # before anything was tuned
    assert add_trusted(table, other, **elsewhere, overwrite=True) == "trusted"  # type: ignore[arg-type]
    replaced = pycat.ScoreTable.open(tmp_path / "scores")
    assert (replaced.column("trusted") != expected).any()
    assert replaced.manifest["columns"] == ["trusted"]
    replaced.verify()
    with pytest.raises(PycatError, match="column nll_0: the table has or keeps this name"):
        add_trusted(table, other, name="nll_0", **options)  # type: ignore[arg-type]


def test_only_an_added_column_is_removed(toy_text: ToyText, tmp_path: Path) -> None:
    corpus = pycat.tokenize(*toy_text(100), out=tmp_path / "corpus", vocab_size=340)
    run = pycat.train(corpus, out=tmp_path / "proxy", **TRAIN)  # type: ignore[arg-type]
    table = pycat.score(corpus, run.checkpoints, out=tmp_path / "scores", device="cpu")
    files = {path.name for path in (tmp_path / "scores").iterdir()}
    table.add("mine", np.arange(100))
    table.add("other", np.arange(100), {"by": "hand"})
    with pytest.raises(PycatError, match=r"column nll_0: .* none of this name that was added"):
        table.remove("nll_0")
    table.remove("other")
    opened = pycat.ScoreTable.open(tmp_path / "scores")
    assert "other" not in opened.names and "other" not in opened.manifest.get("made_by", {})
    assert opened.column("mine").tolist() == table.column("mine").tolist() == [*range(100)]
    table.remove("mine")
    pycat.ScoreTable.open(tmp_path / "scores").verify()
    assert {path.name for path in (tmp_path / "scores").iterdir()} == files


def test_tuning_moves_the_checkpoint_and_goes_on(toy_text: ToyText, tmp_path: Path) -> None:
    corpus = pycat.tokenize(*toy_text(200), out=tmp_path / "corpus", vocab_size=340)
    run = pycat.train(corpus, out=tmp_path / "proxy", **TRAIN)  # type: ignore[arg-type]
    some = corpus.subset(np.arange(40))
    tuned = tune(some, run.checkpoints[-1], out=tmp_path / "a", **TUNE)  # type: ignore[arg-type]
    again = tune(some, run.checkpoints[-1], out=tmp_path / "b", **TUNE)  # type: ignore[arg-type]
    assert tuned.checkpoints[0].read_bytes() == again.checkpoints[0].read_bytes()
    nll = pycat.score(some, [run.checkpoints[-1], *tuned.checkpoints], device="cpu").nll.sum(axis=0)
    assert nll[1] < nll[0]
    # By default three passes, but ten updates at least.
    assert tune(some, run.checkpoints[-1], out=tmp_path / "c", batch_tokens=256).steps[0] >= 10
    with pytest.raises(CorpusError, match="expected at least one batch of 90,000"):
        tune(some, run.checkpoints[-1], out=tmp_path / "d", batch_tokens=90_000)
    with pytest.raises(PycatError, match="updates is 0; expected at least 1"):
        tune(some, run.checkpoints[-1], out=tmp_path / "d", updates=0, batch_tokens=256)
