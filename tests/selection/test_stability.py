"""Overlaps of selections with those made otherwise."""

from pathlib import Path

import numpy as np
import pytest
from helpers import MakeScores, plain_select

import pycat
from pycat.errors import PycatError
from pycat.ranking.criteria import evaluate_criterion
from pycat.selection.stability import jaccard, stability


def test_overlaps_are_those_of_the_selections(
    toy_corpus: pycat.Corpus, make_scores: MakeScores
) -> None:
    rng = np.random.default_rng(0)
    one, two = (make_scores(toy_corpus, rng.uniform(1, 50, (300, 3))) for _ in range(2))
    found = stability(one, keep=0.3, by="cat_var", criteria=["length", "-ppl"], tables=[one, two])
    kept = plain_select(one, keep=0.3)
    others = [plain_select(one, keep=0.3, by=by) for by in ("length", "-ppl")]
    assert list(found.criteria) == ["length", "-ppl"]
    for overlap, other in zip(found.criteria.values(), others, strict=True):
        both = len({*kept.pair_ids.tolist()} & {*other.pair_ids.tolist()})
        assert overlap == both / (180 - both) == jaccard(kept, other)
    assert found.tables == [1.0, jaccard(kept, plain_select(two, keep=0.3))]
    for k, overlap in enumerate(found.without_checkpoint):
        fewer = make_scores(toy_corpus, np.delete(one.nll, k, axis=1))
        assert overlap == jaccard(kept, plain_select(fewer, keep=0.3))
    assert len(found.without_checkpoint) == 3
    assert found.chance == pytest.approx(0.3 / 1.7)


def test_tables_may_be_paths(
    toy_corpus: pycat.Corpus, make_scores: MakeScores, tmp_path: Path
) -> None:
    nll = np.random.default_rng(4).uniform(1, 50, (2, 300, 3))
    one, two = (make_scores(toy_corpus, nll[i], tmp_path / str(i)) for i in range(2))
    assert stability(tmp_path / "0", tables=[str(tmp_path / "1")]) == stability(one, tables=[two])


def test_no_checkpoint_can_be_left_out_of_two(
    toy_corpus: pycat.Corpus, make_scores: MakeScores
) -> None:
    table = make_scores(toy_corpus, np.random.default_rng(0).uniform(1, 50, (300, 2)))
    assert stability(table).without_checkpoint == []
    # A criterion of one checkpoint does not change where another is left out.
    three = make_scores(toy_corpus, np.random.default_rng(1).uniform(1, 50, (300, 3)))
    for by in ("ppl@0", "ppl@2", "-ppl@-3"):
        assert stability(three, by=by).without_checkpoint == []
    assert np.array_equal(
        evaluate_criterion(three, "ppl@1", checkpoints=[0, 2]), evaluate_criterion(three, "ppl@1")
    )
    # A criterion that is a function does not say which checkpoints it reads.
    three = make_scores(toy_corpus, np.ones((300, 3)))
    assert stability(three, by=lambda given: given.nll[:, 0]).without_checkpoint == []


def test_other_pairs_are_refused(toy_corpus: pycat.Corpus, make_scores: MakeScores) -> None:
    table = make_scores(toy_corpus, np.ones((300, 3)))
    fewer = toy_corpus.subset(np.arange(200))
    with pytest.raises(PycatError) as caught:
        stability(table, tables=[make_scores(fewer, np.ones((200, 3)))])
    assert str(caught.value) == (
        "score table: holds scores of other pairs than the first table; score the same corpus"
    )
    a = plain_select(table, keep=0.5)
    b = pycat.Selection(a.pair_ids, a.lines, {**a.manifest, "corpus": "0"}, a.corpus_path)
    with pytest.raises(PycatError) as caught:
        jaccard(a, b)
    assert str(caught.value) == (
        "selection and selection: are of different corpora, whose pair ids mean different pairs; "
        "select from the same one"
    )
