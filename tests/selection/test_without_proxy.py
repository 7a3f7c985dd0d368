"""Selections of a corpus that no proxy scored, by the noise score and by what a corpus tells."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers import ToyText

import pycat
from pycat.errors import OutputError, PycatError
from pycat.ranking.criteria import evaluate_criterion, mean_of_ranks, noise, possible
from pycat.scores.score_table import ScoreTable
from pycat.scores.unscored import unscored
from pycat.selection.choice import choose
from pycat.selection.recipe import Recipe


def lengths_only(num_tokens: list[int]) -> ScoreTable:
    count = len(num_tokens)
    columns = {
        "pair": np.arange(count),
        "num_src_tokens": np.ones(count, np.int32),
        "num_tokens": np.array(num_tokens, np.int32),
    }
    return ScoreTable.from_arrow(pa.table(columns), {"steps": []})


def kept_by_noise(scores: list[float], **options: object) -> list[int]:
    recipe = Recipe(**{"by": "noise", **options})  # type: ignore[arg-type]
    choice = choose(lengths_only([1] * len(scores)), recipe, noise=lambda: np.array(scores))
    assert choice.recipe["hashes"]["by"]
    return [int(row) for row in np.flatnonzero(choice.kept)]


def test_the_lowest_noise_scores_are_kept_and_nan_comes_last() -> None:
    assert noise(np.array([0.25, np.nan, 0.0])).tolist() == [-0.25, -np.inf, 0.0]
    assert kept_by_noise([0.9, 0.1, 0.5, 0.1, 0.7], keep=0.6) == [1, 2, 3]
    assert kept_by_noise([0.9, np.nan, 0.5], keep=0.67) == [0, 2]
    assert kept_by_noise([0.9, 0.1, 0.5], keep=0.34, by="-noise") == [0]
    # The guard takes of the same scores, so it changes nothing.
    assert kept_by_noise([0.9, 0.1, 0.5, 0.1, 0.7], keep=0.6, guard=0.5) == [1, 2, 3]


def test_the_mean_of_ranks_by_hand() -> None:
    # Ranks 3, 1, 2 of 3; ranks 1.5, 1.5, 3 of 3.
    mean = mean_of_ranks([np.array([7.0, -1.0, 2.0]), np.array([5.0, 5.0, np.inf])])
    assert mean.tolist() == pytest.approx([(3 + 1.5) / 6, (1 + 1.5) / 6, (2 + 3) / 6])
    table = lengths_only([4, 9, 5])
    scores = np.array([0.0, 0.8, 0.4])
    # Noise ranks 3, 1, 2 (the lowest score first), lengths 1, 3, 2.
    both = evaluate_criterion(table, "noise+length", given={"noise": lambda: scores})
    assert both.tolist() == pytest.approx([4 / 6, 4 / 6, 4 / 6])
    both = evaluate_criterion(table, "-length+noise", given={"noise": lambda: scores})
    assert both.tolist() == pytest.approx([1.0, 1 / 3, 2 / 3])
    with pytest.raises(PycatError, match="criterion 'lengthy' is not known"):
        Recipe(by="length+lengthy").check(table)


def test_a_criterion_of_a_proxy_is_refused_where_none_scored() -> None:
    table = lengths_only([1, 2])
    assert possible(table) == ["length", "rarity", "random"]
    for by in ("cat_var", "-ppl@0", "noise+learnability"):
        with pytest.raises(PycatError, match="needs the scores of a proxy, and there are none"):
            Recipe(by=by).check(table)
    with pytest.raises(PycatError, match="needs measures"):
        evaluate_criterion(table, "noise")


def test_a_corpus_is_selected_from_without_scores(toy_text: ToyText, tmp_path: Path) -> None:
    corpus = pycat.tokenize(*toy_text(200), out=tmp_path / "corpus", vocab_size=340)
    with pytest.raises(OutputError, match="expected the measures"):
        pycat.select(corpus, rules="none", guard=0)
    measures = pycat.measure(corpus, out=tmp_path / "measures")
    kept = pycat.select(corpus, keep=0.25, rules="none", out=tmp_path / "kept")
    lowest = np.argsort(measures.noise_score(), kind="stable")[:50]
    assert kept.pair_ids.tolist() == sorted(lowest.tolist())
    assert kept.manifest["recipe"]["criterion"] == "noise"
    assert pycat.Selection.open(tmp_path / "kept").kept_corpus().id == kept.kept_corpus().id
    longest = pycat.select(corpus, keep=10 / 200, by="length", rules="none", guard=0)
    lengths = np.sort(corpus.num_tokens)[::-1]
    assert sorted(corpus.num_tokens[longest.pair_ids].tolist())[::-1] == lengths[:10].tolist()
    some = corpus.subset(np.arange(20, 60))
    assert len(pycat.select(some, keep=0.5, rules="none")) == 20
    assert unscored(some).pair_ids.tolist() == list(range(20, 60))
    # A table of scores ranks by the same noise score, and with rules keeps what they leave.
    left, _ = measures.apply()
    ruled = pycat.select(corpus, keep=0.25)
    assert left[ruled.pair_ids].all()
    assert ruled.manifest["dropped"]["rules"] == int((~left).sum())


def test_a_pair_is_explained_without_scores(toy_text: ToyText, tmp_path: Path) -> None:
    corpus = pycat.tokenize(*toy_text(100), out=tmp_path / "corpus", vocab_size=340)
    measures = pycat.measure(corpus, out=tmp_path / "measures")
    kept = pycat.select(corpus, keep=0.5, rules="none", guard=0.5, by="random", seed=2)
    noise = measures.noise_score()
    worst = int(np.argmax(noise))
    found = pycat.explain(corpus, worst, selection=kept)
    assert found.steps == []
    assert found.trajectory == {}
    assert found.decision is not None
    assert found.decision.step == "guard"
    best = int(kept.pair_ids[0])
    found = pycat.explain(corpus, best, selection=pycat.select(corpus, rules="none"))
    assert found.decision is not None
    assert found.decision.step == "cut"
    assert found.decision.reason.startswith("kept: its noise is \N{MINUS SIGN}0.")
