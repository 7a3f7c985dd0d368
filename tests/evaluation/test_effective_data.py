"""Effective data: the curve, its inversion, intervals and verdicts, by cases worked by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from pycat.errors import PycatError
from pycat.evaluation.effective_data import (
    EffectiveData,
    HeldOut,
    Worth,
    effective_data,
    fit_curve,
    gains_on,
    seed_noise,
)

# L(D) = 2 + (4 / D)^0.5 at 1, 4, 16 and 64 tokens: 2 + 2, 2 + 1, 2 + 1/2, 2 + 1/4.
SIZES = [1, 4, 16, 64]
LOSSES = [4.0, 3.0, 2.5, 2.25]


def models(num_tokens: int, losses: list[float], lengths: Sequence[int] = (1, 2, 3)) -> HeldOut:
    """A model for each loss, equal on all sentences of those lengths."""
    return HeldOut(num_tokens, np.outer(np.array(losses), np.array(lengths)))


def fractions(spread: float = 0.0) -> list[HeldOut]:
    """Fractions on the curve, two seeds each, that differ by 2 * spread."""
    return [
        models(size, [loss - spread, loss + spread])
        for size, loss in zip(SIZES, LOSSES, strict=True)
    ]


def judge(loss: float, spread: float = 0.0, **options: float) -> Worth:
    """The worth of an arm of two seeds around a loss, beside a random arm of 16 tokens."""
    result = compare({"arm": models(16, [loss - spread, loss + spread])}, spread, **options)
    return result.arms["arm"]


def compare(arms: dict[str, HeldOut], spread: float, **options: float) -> EffectiveData:
    random = models(16, [2.5 - spread, 2.5 + spread])
    return effective_data(arms, fractions(spread), random, [1, 2, 3], **options)  # type: ignore[arg-type]


def test_the_curve_is_recovered_from_its_points() -> None:
    curve = fit_curve(SIZES, LOSSES)
    assert curve.irreducible == pytest.approx(2, abs=1e-6)
    assert curve.scale == pytest.approx(4, rel=1e-5)
    assert curve.exponent == pytest.approx(0.5, rel=1e-6)
    np.testing.assert_allclose(curve.loss([1, 4, 100]), [4, 3, 2.2], rtol=1e-6)


def test_the_curve_is_inverted() -> None:
    curve = fit_curve(SIZES, LOSSES)
    # 2 + (4 / D)^0.5 = 2.75 at D = 4 / 0.75^2; the irreducible loss is never reached.
    tokens = curve.tokens([3, 2.75, 1.9])
    np.testing.assert_allclose(tokens, [4, 4 / 0.5625, np.inf], rtol=1e-5)


def test_several_curves_are_fitted_at_once() -> None:
    # The second is 1 + 8 / D: E = 1, B = 8, beta = 1.
    curves = fit_curve(SIZES, [LOSSES, [9.0, 3.0, 1.5, 1.125]])
    np.testing.assert_allclose(curves.irreducible, [2, 1], atol=1e-5)
    np.testing.assert_allclose(curves.scale, [4, 8], rtol=1e-5)
    np.testing.assert_allclose(curves.exponent, [0.5, 1], rtol=1e-5)


def test_the_irreducible_loss_is_not_negative() -> None:
    # A straight line in D falls faster towards the end than any such curve with E >= 0.
    curve = fit_curve([1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0])
    assert curve.irreducible == 0
    betas = np.exp(np.linspace(np.log(0.01), np.log(10), 20_001))
    x = np.array([1.0, 2, 3, 4]) ** -betas[:, None]
    y = np.array([4.0, 3, 2, 1])
    slope = x @ y / (x**2).sum(axis=1)
    best = ((y - slope[:, None] * x) ** 2).sum(axis=1).argmin()
    assert curve.exponent == pytest.approx(betas[best], rel=1e-3)


def test_weights_count_as_repeated_points() -> None:
    noisy = [4.1, 2.9, 2.6, 2.2]
    weighted = fit_curve(SIZES, noisy, [1, 3, 1, 2])
    repeated = fit_curve([1, 4, 4, 4, 16, 64, 64], [4.1, 2.9, 2.9, 2.9, 2.6, 2.2, 2.2])
    for name in ("irreducible", "scale", "exponent"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), rel=1e-6)


def test_a_rising_loss_gives_a_flat_curve() -> None:
    curve = fit_curve([1, 2, 4], [2.0, 2.5, 3.0])
    assert curve.scale == 0
    assert curve.irreducible == 2.5
    assert np.isnan(curve.tokens(2.6))


def test_seed_noise_is_pooled() -> None:
    # Deviations 0.1 twice and 0.2 twice, two degrees of freedom: sqrt(0.1 / 2). One seed: none.
    losses = [np.array([1.0, 1.2]), np.array([2.0, 2.4]), np.array([7.0])]
    assert seed_noise(losses) == pytest.approx(np.sqrt(0.05))
    assert np.isnan(seed_noise([np.array([1.0]), np.array([2.0])]))


def test_with_one_seed_each_the_intervals_hold_the_sentences_alone() -> None:
    hardness = np.array([[-0.5, 0.0, 0.5]])
    groups = [HeldOut(size, loss + hardness) for size, loss in ((1, 3.0), (4, 2.6), (16, 2.4))]
    found = effective_data({"arm": groups[1]}, groups, groups[0], [1, 1, 1])
    assert np.isnan(found.seed_noise)
    assert found.arms["arm"].gain_on_random.low == pytest.approx(0.4)
    assert found.arms["arm"].gain_on_random.high == pytest.approx(0.4)


def test_a_flat_curve_gives_no_share() -> None:
    groups = [models(1, [2.0, 2.0]), models(2, [2.5, 2.5]), models(4, [3.0, 3.0])]
    found = effective_data({"arm": models(2, [2.7, 2.7])}, groups, groups[1], [1, 2, 3])
    assert found.curve.scale == 0
    worth = found.arms["arm"]
    assert worth.than_random == "worse"
    assert worth.gain_on_full.value == pytest.approx(0.3)


def test_without_noise_the_interval_is_a_point() -> None:
    worth = judge(2.4)
    # 2 + (4 / D)^0.5 = 2.4 at D = 4 / 0.16 = 25 of 64 tokens.
    assert worth.loss == pytest.approx(2.4)
    share = worth.share
    assert [share.value, share.low, share.high] == pytest.approx([25 / 64] * 3, rel=1e-5)
    assert worth.gain_on_full.value == pytest.approx(2.25 - 2.4)
    assert worth.gain_on_random.high == pytest.approx(2.5 - 2.4)
    assert (worth.than_random, worth.matches_full) == ("better", False)


def test_nothing_is_extrapolated() -> None:
    better = judge(2.2)
    # The curve says 4 / 0.2^2 = 100 of 64 tokens; below the loss of all data that is not told.
    assert [better.share.value, better.share.low, better.share.high] == [np.inf] * 3
    assert better.gain_on_full.value == pytest.approx(0.05)
    assert better.matches_full
    worse = judge(4.5)
    assert [worse.share.value, worse.share.low, worse.share.high] == [0] * 3
    assert worse.than_random == "worse"


def test_the_whole_corpus_is_worth_itself() -> None:
    result = compare({"full": models(64, [2.25, 2.25])}, 0.0)
    assert result.arms["full"].share.value == pytest.approx(1, rel=1e-5)
    assert result.arms["full"].matches_full
    assert result.min_share == 1 / 64
    assert result.seed_noise == 0


def test_a_margin_decides_what_matches() -> None:
    assert judge(2.259).matches_full
    assert not judge(2.261).matches_full
    assert judge(2.261, margin=0.02).matches_full


def test_a_difference_within_the_noise_of_seeds_is_a_tie() -> None:
    # Each seed deviates by 0.1, scaled by sqrt(2); a gain of two means of two seeds has 0.14.
    assert judge(2.45, spread=0.1).than_random == "tie"
    assert judge(2.1, spread=0.1).than_random == "better"
    worth = judge(2.4, spread=0.1)
    assert worth.share.low < worth.share.value < worth.share.high
    assert not worth.matches_full


def test_intervals_have_the_width_of_the_noise() -> None:
    rng = np.random.default_rng(0)
    # One held-out sentence: the noise is that of 40 pooled seeds alone, 0.02 nats.
    groups = [
        HeldOut(size, (loss + 0.02 * rng.standard_normal(10))[:, None])
        for size, loss in zip(SIZES, LOSSES, strict=True)
    ]
    arm = HeldOut(16, np.full((1, 1), 2.4))
    result = effective_data({"arm": arm}, groups, groups[2], [1.0], num_resamples=4000)
    gain = result.arms["arm"].gain_on_random
    assert result.seed_noise == pytest.approx(0.02, rel=0.25)
    # Standard error of one seed against the mean of ten.
    expected = 2 * 1.96 * result.seed_noise * np.sqrt(1 + 1 / 10)
    assert gain.high - gain.low == pytest.approx(expected, rel=0.1)


def test_sentences_are_drawn_alike_for_all_models() -> None:
    # Losses differ between sentences but not between models: gains have no noise, losses do.
    lengths = np.array([1.0, 1, 1, 1, 1, 1])
    hardness: NDArray[np.float64] = np.array([-1.5, -1, 0, 0, 1, 1.5])
    groups = [
        HeldOut(size, np.tile(loss + hardness, (2, 1)))
        for size, loss in zip(SIZES, LOSSES, strict=True)
    ]
    arm = HeldOut(16, np.tile(2.4 + hardness, (2, 1)))
    worth = effective_data({"arm": arm}, groups, groups[2], lengths).arms["arm"]
    assert [worth.gain_on_random.low, worth.gain_on_random.high] == pytest.approx([0.1, 0.1])
    easier = HeldOut(16, np.tile([2.5 - 1.5, 2.5 - 1, 2.5, 2.5, 2.5, 2.5], (2, 1)))
    worth = effective_data({"arm": easier}, groups, groups[2], lengths).arms["arm"]
    assert worth.gain_on_random.low < worth.gain_on_random.value < worth.gain_on_random.high


def test_the_bootstrap_repeats_itself() -> None:
    first, again = (judge(2.4, spread=0.1) for _ in range(2))
    assert first == again
    assert judge(2.4, spread=0.1, seed=1).share != first.share


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (fractions()[:2], r"found sizes \[1, 4\] in target tokens; expected at least 3 different"),
        ([*fractions(), models(2, [3.0], [1, 2])],
         r"fraction 4: nll has shape \(1, 2\); expected \(seeds, 3\)"),
        ([*fractions(), models(2, [np.inf])],
         "fraction 4: nll of its seed in row 0 is not finite: the training diverged"),
    ],
)  # fmt: skip
def test_refused(groups: list[HeldOut], message: str) -> None:
    with pytest.raises(PycatError, match=message):
        effective_data({}, groups, models(16, [2.5, 2.5]), [1, 2, 3])


def test_gains_without_a_curve_are_those_with_one() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, 40)
    arms = {
        name: HeldOut(16, (lengths * rng.normal(loss, 0.2, 40))[None])
        for name, loss in (("random", 2.5), ("better", 2.3), ("alike", 2.5))
    }
    sizes = [
        models(size, [loss], lengths.tolist()) for size, loss in zip(SIZES, LOSSES, strict=True)
    ]
    worth = effective_data(arms, sizes, arms["random"], lengths).arms
    found = gains_on(arms["random"], arms, lengths)
    for name, (gain, verdict) in found.items():
        wanted = worth[name].gain_on_random
        assert (gain.value, gain.low, gain.high) == pytest.approx(
            (wanted.value, wanted.low, wanted.high), abs=1e-12
        )
        assert verdict == worth[name].than_random
    assert [verdict for _, verdict in found.values()] == ["tie", "better", "tie"]
