"""The guard: signals by hand, ranks within lengths, and never more dropped than asked."""

import numpy as np
import pytest

from pycat.noise import guard, late_mean, noise_score, surprise


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
    left = guard([signal], num_tokens, np.ones(20_000, bool), keep=0.8)
    assert (~left).sum() == 2000
    assert abs(num_tokens[left].mean() / num_tokens.mean() - 1) < 0.02
    assert left[noisy].mean() < 0.1


def test_the_guard_leaves_what_is_to_be_kept() -> None:
    signal, num_tokens = np.arange(100.0), np.full(100, 7, np.int32)
    everything = np.ones(100, bool)
    # Of the 50 that go, half; with one stratum for each of five rows, the highest of each.
    assert guard([signal], num_tokens, everything, keep=0.5).sum() == 75
    assert guard([signal], num_tokens, everything, keep=0.5, share=0.2).sum() == 90
    assert guard([signal], num_tokens, everything, keep=1.0).all()
    by_rules = np.arange(100) < 60
    left = guard([signal], num_tokens, by_rules, keep=0.5)
    assert left.sum() == 50
    assert not left[60:].any()
    assert guard([signal], num_tokens, np.arange(100) < 30, keep=0.5).sum() == 30


def test_bad_fractions() -> None:
    signal, num_tokens = np.zeros(4), np.ones(4, np.int32)
    with pytest.raises(ValueError, match=r"keep is 0 and share 0\.5"):
        guard([signal], num_tokens, np.ones(4, bool), keep=0)
