"""Noise: signals by hand, evidence within lengths, and columns that are measured once."""

from pathlib import Path
from shutil import copytree
from typing import Literal
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest

import pycat
from pycat.errors import TextError
from pycat.filters.fluency import fluency
from pycat.filters.lexical import lexical_scores
from pycat.filters.noise import (
    evidence,
    late_mean,
    measure_noise,
    noise_score,
    noise_signals,
    of_either,
    surprise,
)
from pycat.filters.rule_measures import length_z, measure_rules, usual_lengths


def test_late_mean_and_surprise_by_hand() -> None:
    nll = np.array([[90.0, 8.0, 4.0], [90.0, 30.0, 10.0]])
    entropy = np.array([[50.0, 6.0, 2.0], [50.0, 10.0, 10.0]])
    num_tokens = np.array([2, 5], np.int32)
    assert late_mean(nll, num_tokens).tolist() == [3.0, 4.0]
    assert surprise(nll, entropy, num_tokens).tolist() == [1.0, 2.0]


def test_evidence_is_minus_log_of_the_rank_among_pairs_of_like_length() -> None:
    signal = np.arange(200.0) % 10
    signal[0] = 9.0  # equal to another one of its stratum: ranked by row
    found = evidence(signal, np.repeat(np.arange(20), 10).astype(np.int32))
    assert found.dtype == np.float32
    shares = [0.05, 0.95, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.15]
    np.testing.assert_allclose(found[:10], -np.log(shares), rtol=1e-6)
    np.testing.assert_allclose(found[10:20], -np.log(np.arange(9.5, 0, -1) / 10), rtol=1e-6)


def test_of_either_side_the_stronger_counts_for_less_than_alone() -> None:
    one, other = np.array([3.0, 0.1], np.float32), np.array([1.0, 0.2], np.float32)
    np.testing.assert_allclose(of_either(one, other), [3 - np.log(2), 0], rtol=1e-6)


def test_the_score_is_the_rank_of_the_sum_of_squares() -> None:
    one = np.array([3.0, 2.0, 0.1, 0.0], np.float32)
    other = np.array([0.0, 1.5, 0.1, 0.0], np.float32)
    assert noise_score(iter([("one", one), ("other", other)]), 4).tolist() == [0.75, 0.5, 0.25, 0.0]


def test_long_pairs_are_not_noise_for_being_long() -> None:
    rng = np.random.default_rng(0)
    num_tokens = rng.integers(3, 60, 20_000).astype(np.int32)
    signal = num_tokens + rng.normal(size=20_000)
    noisy = rng.random(20_000) < 0.1
    signal[noisy] += 20
    left = noise_score(iter([("signal", evidence(signal, num_tokens))]), 20_000) < 0.9
    assert abs(num_tokens[left].mean() / num_tokens.mean() - 1) < 0.02
    assert left[noisy].mean() < 0.1


def scores_of(
    corpus: pycat.Corpus, out: Path, stats: Literal["nll", "all"] = "all"
) -> pycat.ScoreTable:
    run = pycat.train(corpus, out=out / "proxy", checkpoint_steps=[1, 2, 3], device="cpu")
    return pycat.score(corpus, run.checkpoints, out=out / "scores", device="cpu", stats=stats)


@pytest.fixture
def corpus(toy_corpus: pycat.Corpus, tmp_path: Path) -> pycat.Corpus:
    """A copy of the corpus: what rules measure is written beside it."""
    copytree(toy_corpus.path, tmp_path / "corpus")
    return pycat.open_corpus(tmp_path / "corpus")


COLUMNS = (
    *("lexical_tgt", "lexical_src", "gap_tgt", "gap_src"),
    *("order_tgt", "order_src", "ending", "noise_score"),
)


@pytest.mark.parametrize("stats", ["all", "nll"])
def test_columns_are_measured_once(
    corpus: pycat.Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stats: Literal["nll", "all"],
) -> None:
    table = scores_of(corpus, tmp_path, stats)
    measure_noise(table, corpus)
    assert table.names[-8:] == COLUMNS
    lexical, order = lexical_scores(corpus), fluency(corpus)
    for name, values in zip(COLUMNS, (*lexical, *order), strict=False):
        np.testing.assert_array_equal(table.column(name), values)
    tgt, src = table.num_tokens, table.num_src_tokens
    signals = [
        of_either(evidence(-lexical.tgt, tgt), evidence(-lexical.src, src)),
        of_either(evidence(lexical.tgt_gap, tgt), evidence(lexical.src_gap, src)),
        of_either(evidence(-order.order_tgt, tgt), evidence(-order.order_src, src)),
        evidence(-order.ending, tgt),
        evidence(np.abs(length_z(src, tgt, *usual_lengths(src, tgt))), tgt),
    ]
    chars = measure_rules(corpus).columns
    signals.append(
        of_either(
            evidence((tgt - 1) / chars["tgt_chars"], chars["tgt_chars"]),
            evidence((src - 1) / chars["src_chars"], chars["src_chars"]),
        )
    )
    if stats == "all":
        of_model = surprise(table.nll, table.column("entropy"), tgt)
        signals.append(evidence(of_model.astype(np.float32), tgt))
    np.testing.assert_array_equal(
        table.column("noise_score"), noise_score((("", signal) for signal in signals), len(table))
    )

    def fail(_: pycat.Corpus) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("pycat.filters.noise.lexical_scores", fail)
    monkeypatch.setattr("pycat.filters.noise.fluency", fail)
    measure_noise(pycat.ScoreTable.open(tmp_path / "scores"), corpus)


def test_a_run_cut_short_between_columns_goes_on(corpus: pycat.Corpus, tmp_path: Path) -> None:
    table = scores_of(corpus, tmp_path)
    table.add("lexical_tgt", lexical_scores(corpus).tgt)
    table.add("ending", fluency(corpus).ending)
    measure_noise(table, corpus)
    assert {*COLUMNS} <= {*table.names}


def test_without_text_the_pieces_are_not_asked(
    corpus: pycat.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = scores_of(corpus, tmp_path)
    sides = (corpus.path / "src", corpus.path / "tgt")
    others = pycat.open_corpus(sides, vocab_size=corpus.vocab_size, eos_id=2)

    def fail(_: pycat.Corpus) -> None:
        raise AssertionError("rules need text")

    monkeypatch.setattr("pycat.filters.noise.measure_rules", fail)
    measure_noise(table, others)
    assert len(np.unique(table.column("noise_score"))) == len(table)


def test_text_that_is_gone_is_said_before_the_work(
    corpus: pycat.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = scores_of(corpus, tmp_path)
    gone = TextError("the text is gone")
    monkeypatch.setattr(type(corpus), "text", Mock(side_effect=gone))
    with pytest.raises(TextError, match="the text is gone"):
        measure_noise(table, corpus)
    assert not {*COLUMNS} & {*table.names}


def test_what_is_no_number_is_as_suspect_as_can_be(corpus: pycat.Corpus, tmp_path: Path) -> None:
    table = scores_of(corpus, tmp_path)
    measure_noise(table, corpus)
    whole = table.rows(table.names, 0, len(table))
    for name in ("nll_2", "entropy_2"):
        values = whole[name].to_numpy().copy()
        values[7] = np.inf
        whole = whole.set_column(whole.column_names.index(name), name, pa.array(values))
    spoilt = dict(noise_signals(pycat.ScoreTable.from_arrow(whole, table.manifest), corpus))
    like = np.array_split(np.argsort(table.num_tokens, kind="stable"), 20)
    [rows] = [rows for rows in like if 7 in rows]
    assert spoilt["surprise"][7] == spoilt["surprise"][rows].max()
