"""Noise: signals by hand, ranks within lengths, and columns that are measured once."""

from pathlib import Path

import numpy as np
import pytest

import pycat
from pycat.lexical import lexical_scores
from pycat.noise import late_mean, measure_noise, noise_score, surprise


def test_late_mean_and_surprise_by_hand() -> None:
    nll = np.array([[90.0, 8.0, 4.0], [90.0, 30.0, 10.0]])
    entropy = np.array([[50.0, 6.0, 2.0], [50.0, 10.0, 10.0]])
    num_tokens = np.array([2, 5], np.int32)
    assert late_mean(nll, num_tokens).tolist() == [3.0, 4.0]
    assert surprise(nll, entropy, num_tokens).tolist() == [1.0, 2.0]


def test_a_pair_is_as_suspect_as_its_worst_signal() -> None:
    one, other = np.arange(200.0), np.arange(200.0)[::-1]
    score = noise_score([one, other], np.repeat(np.arange(20), 10).astype(np.int32))
    assert score[:10].tolist() == [0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_long_pairs_are_not_noise_for_being_long() -> None:
    rng = np.random.default_rng(0)
    num_tokens = rng.integers(3, 60, 20_000).astype(np.int32)
    signal = num_tokens + rng.normal(size=20_000)
    noisy = rng.random(20_000) < 0.1
    signal[noisy] += 20
    left = noise_score([signal], num_tokens) < 0.9
    assert abs(num_tokens[left].mean() / num_tokens.mean() - 1) < 0.02
    assert left[noisy].mean() < 0.1


def scores_of(corpus: pycat.Corpus, out: Path) -> pycat.ScoreTable:
    run = pycat.train(corpus, out=out / "proxy", checkpoint_steps=[1, 2, 3], device="cpu")
    return pycat.score(corpus, run.checkpoints, out=out / "scores", device="cpu")


def test_columns_are_measured_once(
    toy_corpus: pycat.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = scores_of(toy_corpus, tmp_path)
    measure_noise(table, toy_corpus)
    assert table.names[-3:] == ("lexical_tgt", "lexical_src", "noise_score")
    lexical = lexical_scores(toy_corpus)
    np.testing.assert_array_equal(table.column("lexical_tgt"), lexical[0])
    np.testing.assert_array_equal(table.column("lexical_src"), lexical[1])
    num_tokens = table.num_tokens
    signals = (
        surprise(table.nll, table.column("entropy"), num_tokens),
        late_mean(table.column("el2n"), num_tokens),
        -np.minimum(lexical.tgt, lexical.src),
    )
    expected = noise_score([signal.astype(np.float32) for signal in signals], num_tokens)
    np.testing.assert_array_equal(table.column("noise_score"), expected)

    def fail(corpus: pycat.Corpus) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("pycat.noise.lexical_scores", fail)
    measure_noise(pycat.ScoreTable.open(tmp_path / "scores"), toy_corpus)


def test_a_run_cut_short_between_columns_goes_on(toy_corpus: pycat.Corpus, tmp_path: Path) -> None:
    table = scores_of(toy_corpus, tmp_path)
    table.add("lexical_tgt", lexical_scores(toy_corpus)[0])
    measure_noise(table, toy_corpus)
    assert {"lexical_src", "noise_score"} <= {*table.names}
