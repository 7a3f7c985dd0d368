"""What the tests allow, against the worst that perturbed values do."""

import itertools

import numpy as np
import pytest
import torch
from pycat.kernels.reference import cat_cross_entropy
from pycat.kernels.stat_names import STAT_NAMES
from tolerances import (
    NLL_PER_TOKEN,
    Array,
    assert_nll,
    assert_perplexities,
    assert_within,
    mean_error,
    nll_error,
    ppl_error,
    statistic_errors,
    variance_error,
)

NUM_CHECKPOINTS = 5


def trajectories(spread: float) -> tuple[Array, Array]:
    """Mean nll (K, N) about 3 nats, apart by `spread`, and how far each may be off."""
    rng = np.random.default_rng(0)
    mean_nll = rng.normal(3, 1, 40) + rng.normal(0, spread, (NUM_CHECKPOINTS, 40))
    return mean_nll, rng.uniform(0.5, 1.5, mean_nll.shape) * NLL_PER_TOKEN


def perturbed(mean_nll: Array, errors: Array) -> Array:
    """Each mean nll off by its error in either direction, all 2^K ways: (2^K, K, N)."""
    signs = np.array([*itertools.product((-1, 1), repeat=NUM_CHECKPOINTS)])
    return mean_nll + signs[:, :, None] * errors


@pytest.mark.parametrize("spread", [0.0, 1e-5, 1e-3, 1.0])
def test_no_perturbation_moves_a_perplexity_further_than_allowed(spread: float) -> None:
    mean_nll, errors = trajectories(spread)
    ppl, moved = np.exp(mean_nll), np.exp(perturbed(mean_nll, errors))
    ppl_errors = ppl_error(ppl, errors)
    for allowed, worst in (
        (ppl_errors, np.abs(moved - ppl).max(axis=0)),
        (mean_error(ppl_errors), np.abs(moved.mean(axis=1) - ppl.mean(axis=0)).max(axis=0)),
        (variance_error(ppl, ppl_errors), np.abs(moved.var(axis=1) - ppl.var(axis=0)).max(axis=0)),
    ):
        assert (worst <= allowed * (1 + 1e-9)).all()
        # Nor is more allowed than some perturbation does. Where the values lie closer than their
        # errors, the bound of the variance counts the shift of the mean as a spread.
        assert (worst >= (0.99 if spread >= 1e-3 else 0.5) * allowed).all()


def test_a_variance_worked_by_hand() -> None:
    # Values 1 and 3, off by 0.1 each: 0.9 and 3.1 have variance 1.21, as 2 (1 0.1) + 0.1² allows.
    assert variance_error([[1.0], [3.0]], [[0.1], [0.1]]) == pytest.approx([0.21])


def test_perplexities_are_held_to_the_error_of_their_nll() -> None:
    mean_nll, _ = trajectories(1.0)
    num_tokens = np.arange(1, 41)
    nll = mean_nll * num_tokens
    ppl = np.exp(mean_nll)
    assert_perplexities(ppl.mean(axis=0), ppl.var(axis=0), nll, num_tokens)
    # Each nll further from the mean by as much as allowed, and by a tenth more.
    away = np.sign(ppl - ppl.mean(axis=0))
    for share, allowed in ((0.99, True), (1.1, False)):
        moved = np.exp(mean_nll + share * NLL_PER_TOKEN * away)
        arguments = (ppl.mean(axis=0), moved.var(axis=0), nll, num_tokens, nll_error(num_tokens))
        if allowed:
            assert_perplexities(*arguments)
        else:
            with pytest.raises(AssertionError, match="ppl_var: found"):
                assert_perplexities(*arguments)
    with pytest.raises(AssertionError, match="ppl_mean: found"):
        assert_perplexities(ppl.mean(axis=0) * (1 + 1e-13), ppl.var(axis=0), nll, num_tokens)
    with pytest.raises(AssertionError, match="ppl_var: found"):
        assert_perplexities(ppl.mean(axis=0), ppl.var(axis=0) * (1 + 1e-13), nll, num_tokens)


def test_one_checkpoint_has_no_variance() -> None:
    ppl = np.array([20.0])
    assert_perplexities(ppl, np.zeros(1), np.log([[20.0]]), [1])
    with pytest.raises(AssertionError, match="ppl_var"):
        assert_perplexities(ppl, np.full(1, 1e-20), np.log([[20.0]]), [1])


def test_nll_is_held_to_its_tokens() -> None:
    exact, num_tokens = np.array([[3.0, 70.0]]), np.array([1, 20])
    assert_nll(exact + 0.99 * NLL_PER_TOKEN * num_tokens, exact, num_tokens)
    with pytest.raises(AssertionError, match=r"nll: found \[70.00044"):
        assert_nll(exact + 1.1 * NLL_PER_TOKEN * np.array([0, 20]), exact, num_tokens)
    assert_nll(exact + 1.9 * NLL_PER_TOKEN * num_tokens, exact, num_tokens, float32_sides=2)


@pytest.mark.parametrize(
    ("found", "expected"), [(1.0, np.inf), (np.inf, 1.0), (np.nan, 1.0), (1.0, np.nan)]
)
def test_no_error_excuses_what_is_not_finite(found: float, expected: float) -> None:
    assert_within([np.nan, np.inf, -np.inf], [np.nan, np.inf, -np.inf], 0.0)
    with pytest.raises(AssertionError, match="values: found"):
        assert_within(found, expected, np.inf)
    with pytest.raises(AssertionError, match=r"\(2,\) is not \(1,\)"):
        assert_within([1.0, 1.0], [1.0], 0.0)


def test_no_perturbed_log_probability_moves_a_statistic_further_than_allowed() -> None:
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(0, 4, (1, 60, 30)))
    logits[0, :20, 3] += 25  # all but certain
    targets = torch.tensor([*[3] * 20, *rng.integers(0, 30, 40)])
    ends = torch.arange(61).int()  # each token for itself
    exact = cat_cross_entropy(logits, targets, ends, stats="all")._asdict()
    sums = {name: exact[name] for name in STAT_NAMES[:-1]}
    errors = statistic_errors(sums, np.ones(60))
    worst = {name: np.zeros((1, 60)) for name in sums}
    hot = torch.nn.functional.one_hot(targets, 30).bool()
    shifts = [torch.tensor(rng.choice([-0.5, 0.5], logits.shape)) for _ in range(200)]
    shifts += [torch.where(hot, -sign, sign)[None] for sign in (-0.5, 0.5)]
    for shift in shifts:
        # A logit off by half of e moves no log p by more than e.
        moved = cat_cross_entropy(logits + shift * NLL_PER_TOKEN, targets, ends, stats="all")
        for name in sums:
            off = (getattr(moved, name) - sums[name]).abs().numpy()
            worst[name] = np.maximum(worst[name], off)
    for name in sums:
        if name != "correct":
            assert (worst[name] <= errors[name] * (1 + 1e-9)).all(), name
    # The bounds of nll and of p are reached where the target is unlikely or certain.
    for name, share in (("nll", 0.9), ("p_target", 0.9), ("el2n", 0.9), ("margin", 0.45)):
        assert (worst[name] / errors[name]).max() > share, name
