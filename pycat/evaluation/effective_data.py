"""Effective data: how much randomly drawn data a selection is worth, by held-out loss.

Models trained on random fractions of a corpus give a curve of held-out loss over training data,

    L(D) = E + (B / D)^beta        nats a target token; D target tokens

with the irreducible loss E >= 0 (the form of Hoffmann et al. 2022, arXiv:2203.15556, at one model
size). A selection's loss, inverted through the curve, is the amount of random data that trains an
equally good model. Nothing is read off the curve outside of the fractions it was fitted to.

All arms are trained for the same number of updates and scored on the same held-out sentences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pycat.errors import PycatError

Floats = NDArray[np.float64]

# The search for beta: a grid of its logarithm, then finer grids, each around the best point so far.
_BETA_RANGE = (0.01, 10.0)
_NUM_BETAS = 64
_ZOOM_BETAS = 11
_NUM_ZOOMS = 12
_TINY = 1e-300

_MIN_FRACTIONS = 3


@dataclass(frozen=True)
class LossCurve:
    """L(D) = E + (B / D)^beta: one curve, with attributes of shape (), or R of them, (R,).

    Attributes:
        irreducible: E, nats a token.
        scale: B, target tokens; 0 for a flat curve.
        exponent: beta.
    """

    irreducible: Floats
    scale: Floats
    exponent: Floats

    def loss(self, tokens: ArrayLike) -> Floats:
        """Loss after training on so many target tokens, in nats a token."""
        loss: Floats = self.irreducible + (self.scale / np.asarray(tokens)) ** self.exponent
        return loss

    def tokens(self, loss: ArrayLike) -> Floats:
        """Target tokens of random data that give this loss.

        Infinite at or below the irreducible loss; NaN where the curve is flat.
        """
        excess = np.maximum(np.asarray(loss) - self.irreducible, 0)
        with np.errstate(divide="ignore", invalid="ignore"):  # a flat curve has 0 / 0
            tokens: Floats = self.scale / excess ** (1 / self.exponent)
        return np.where(self.scale > 0, tokens, np.nan)


@dataclass(frozen=True)
class HeldOut:
    """Held-out nll of S models, trained on one arm with different seeds.

    In a random arm each seed also draws its own pairs.

    Attributes:
        num_tokens: target tokens of the arm's training data.
        nll: sum over the target tokens of each of M held-out sentences, in nats, (S, M).
    """

    num_tokens: int
    nll: Floats


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Worth:
    """What an arm is worth beside random data and the whole corpus.

    Attributes:
        loss: held-out loss, nats a token, mean over the arm's seeds.
        share: effective data as a share of the whole corpus, in target tokens. Infinite says more
            than all of it: the loss is below that of the whole corpus. 0 says less than the
            smallest fraction: the loss is above that fraction's. NaN says nothing: the curve is
            flat, since the loss does not fall with the size of the fractions.
        gain_on_full: loss of the whole corpus less that of the arm, nats a token.
        gain_on_random: loss of the random arm less that of the arm, nats a token.
        than_random: "better" or "worse" where the interval of that gain excludes 0, else "tie".
        matches_full: the loss is at most `margin` above that of the whole corpus, at the far end
            of the interval.
    """

    loss: float
    share: Interval
    gain_on_full: Interval
    gain_on_random: Interval
    than_random: str
    matches_full: bool


@dataclass(frozen=True)
class EffectiveData:
    """Worth of each arm, the curve it was read from, and the noise of the seeds.

    Attributes:
        curve: fitted to the random fractions.
        seed_noise: standard deviation of the loss between seeds of an arm, nats a token; NaN where
            every arm has one seed.
        min_share: the smallest fraction's share of the whole corpus, in target tokens.
        arms: the worth of each arm.
    """

    curve: LossCurve
    seed_noise: float
    min_share: float
    arms: dict[str, Worth]

    def text(self, arm: str) -> str:
        """The arm's effective data in words, such as "61.2% (57.3% to 65.4%)"."""
        worth = self.arms[arm]
        value, low, high = (
            self._percent(share) for share in (worth.share.value, worth.share.low, worth.share.high)
        )
        if np.isinf(worth.share.value):
            gain = worth.gain_on_full
            return (
                f"{value}, {gain.value:.3f} ({gain.low:.3f} to {gain.high:.3f}) nats a token "
                "below the loss of all data"
            )
        return f"{value} ({low} to {high})"

    def _percent(self, share: float) -> str:
        if np.isinf(share):
            return "> 100%"
        return f"< {100 * self.min_share:.1f}%" if share == 0 else f"{100 * share:.1f}%"


def effective_data(
    arms: Mapping[str, HeldOut],
    fractions: Sequence[HeldOut],
    random: HeldOut,
    num_tokens: ArrayLike,
    *,
    margin: float = 0.01,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> EffectiveData:
    """Compare arms with random fractions of their corpus, by one test set.

    Intervals come from a bootstrap of sentences and seeds together. Each resample draws the M
    sentences with replacement, the same for all models. It then draws the noise of every model
    from the deviations of all models from their arm's mean, pooled, since an arm has few seeds;
    each deviation is scaled by sqrt(S / (S - 1)). Where every arm has one seed, that noise is not
    known and left out. The curve is fitted anew to each resample.

    Args:
        arms: held-out nll of each arm to judge, by name.
        fractions: random fractions of the corpus, one for each of at least three sizes; the
            largest is the whole corpus.
        random: a random arm of the size of those in `arms`; it may be one of the fractions.
        num_tokens: target tokens of each held-out sentence, EOS counted, (M,).
        margin: nats a token above the loss of the whole corpus that still match it.
        level: confidence level of the intervals.
        num_resamples: resamples of the bootstrap.
        seed: seed of the bootstrap.

    Returns:
        The worth of each arm, with the curve and the noise between seeds.

    Raises:
        PycatError: shapes do not agree, a model diverged, or there are fewer than three sizes.
    """
    lengths = np.asarray(num_tokens, dtype=np.float64)
    _check(arms, fractions, random, lengths)
    # Each group of models once: the random arm may be one of the fractions.
    groups = list({id(group): group for group in (*fractions, random, *arms.values())}.values())
    place = {id(group): i for i, group in enumerate(groups)}
    noise = seed_noise([_losses(group, lengths) for group in groups])
    measured = np.array([[_losses(group, lengths).mean() for group in groups]])
    resampled = _resample(groups, lengths, num_resamples, np.random.default_rng(seed))

    num_fractions = len(fractions)
    sizes = np.array([fraction.num_tokens for fraction in fractions], dtype=np.float64)
    num_seeds = np.array([len(fraction.nll) for fraction in fractions])
    curve = fit_curve(sizes, measured[0, :num_fractions], num_seeds)
    curves = fit_curve(sizes, resampled[:, :num_fractions], num_seeds)

    def worth(arm: int) -> Worth:
        """Worth of the group at that index, measured and in every resample."""
        shares = _shares(curves, resampled, arm, sizes)
        gains = {
            name: _interval(
                float(measured[0, other] - measured[0, arm]),
                resampled[:, other] - resampled[:, arm],
                level,
            )
            for name, other in (("full", int(sizes.argmax())), ("random", place[id(random)]))
        }
        return Worth(
            loss=float(measured[0, arm]),
            share=_interval(float(_shares(curve, measured, arm, sizes)[0]), shares, level),
            gain_on_full=gains["full"],
            gain_on_random=gains["random"],
            than_random=_verdict(gains["random"]),
            matches_full=gains["full"].low >= -margin,
        )

    return EffectiveData(
        curve=curve,
        seed_noise=noise,
        min_share=float(sizes.min() / sizes.max()),
        arms={name: worth(place[id(arm)]) for name, arm in arms.items()},
    )


def gains_on(
    reference: HeldOut,
    arms: Mapping[str, HeldOut],
    num_tokens: ArrayLike,
    *,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[Interval, str]]:
    """Loss of a reference less that of each arm, in nats a token, and the verdict on it.

    Intervals are those of `effective_data`, which also needs random fractions.

    Args:
        reference: held-out nll of the models to compare with.
        arms: that of each arm, by name.
        num_tokens: target tokens of each held-out sentence, EOS counted, (M,).
        level, num_resamples, seed: of the bootstrap.

    Raises:
        PycatError: shapes do not agree, or a model diverged.
    """
    lengths = np.asarray(num_tokens, dtype=np.float64)
    _check_nll({"reference": reference, **{f"arm {n}": arm for n, arm in arms.items()}}, lengths)
    groups = [reference, *arms.values()]
    measured = [float(_losses(group, lengths).mean()) for group in groups]
    resampled = _resample(groups, lengths, num_resamples, np.random.default_rng(seed))
    found = {}
    for i, name in enumerate(arms, start=1):
        differences = resampled[:, 0] - resampled[:, i]
        gain = _interval(measured[0] - measured[i], differences, level)
        found[name] = gain, _verdict(gain)
    return found


def fit_curve(num_tokens: ArrayLike, losses: ArrayLike, weights: ArrayLike = 1.0) -> LossCurve:
    """Fit L(D) = E + (B / D)^beta by weighted least squares, with E >= 0 and beta in 0.01 to 10.

    For a given beta, E and B^beta follow in closed form; beta is searched on a grid of its
    logarithm, refined around the best point.

    Args:
        num_tokens: D of each of P points, positive, (P,).
        losses: loss at each point, (P,), or at the points of each of R curves, (R, P).
        weights: weight of each point, such as its number of seeds, (P,).

    Returns:
        One curve, or R of them. B is 0 where the loss does not fall with D: the curve is then
        flat at the mean.
    """
    points = np.asarray(num_tokens, dtype=np.float64)
    all_losses = np.atleast_2d(np.asarray(losses, dtype=np.float64))  # (R, P)
    shares = np.broadcast_to(np.asarray(weights, dtype=np.float64), points.shape)
    shares = shares / shares.sum()
    unit = points.max()  # D in this unit is at most 1, so that D^-beta stays in range
    step = np.log(_BETA_RANGE[1] / _BETA_RANGE[0]) / (_NUM_BETAS - 1)
    offsets = np.log(_BETA_RANGE[0]) + step * np.arange(_NUM_BETAS)
    log_beta = np.zeros(len(all_losses))
    for _ in range(_NUM_ZOOMS + 1):
        candidates = log_beta[:, None] + offsets  # (R, candidates)
        candidates = np.clip(candidates, *np.log(_BETA_RANGE))
        errors = _least_squares(points / unit, all_losses, shares, np.exp(candidates))[2]
        log_beta = np.take_along_axis(candidates, errors.argmin(axis=1)[:, None], axis=1)[:, 0]
        offsets = np.linspace(-step, step, _ZOOM_BETAS)
        step = 2 * step / (_ZOOM_BETAS - 1)
    beta = np.exp(log_beta)
    irreducible, slope, _ = _least_squares(points / unit, all_losses, shares, beta[:, None])
    scale = unit * slope[:, 0] ** (1 / beta)
    shape = np.shape(losses)[:-1]  # () or (R,)
    return LossCurve(irreducible.reshape(shape), scale.reshape(shape), beta.reshape(shape))


def _least_squares(
    points: Floats, losses: Floats, weights: Floats, beta: Floats
) -> tuple[Floats, Floats, Floats]:
    """E >= 0, slope >= 0 and weighted mean square error of L = E + slope * D^-beta.

    Args:
        points: D, (P,).
        losses: (R, P).
        weights: of the points, summing to 1, (P,).
        beta: G candidates for each of R curves, (R, G).

    Returns:
        Each (R, G).
    """
    x = points ** -beta[:, :, None]  # (R, G, P)
    y = losses[:, None, :]  # (R, 1, P)
    mean_x, mean_y = x @ weights, y @ weights
    centred = x - mean_x[:, :, None]
    slope = np.maximum((centred * y) @ weights / np.maximum(centred**2 @ weights, _TINY), 0)
    irreducible = mean_y - slope * mean_x
    # Where E would be negative, the best line through the origin takes its place.
    through_origin = np.maximum((x * y) @ weights / (x**2 @ weights), 0)
    slope = np.where(irreducible < 0, through_origin, slope)
    irreducible = np.maximum(irreducible, 0)
    residuals = y - irreducible[:, :, None] - slope[:, :, None] * x
    return irreducible, slope, residuals**2 @ weights


def seed_noise(losses: Sequence[Floats]) -> float:
    """Standard deviation between seeds, pooled over arms, in the unit of the losses.

    Args:
        losses: of the seeds of each arm, (S,); arms of one seed say nothing and are left out.

    Returns:
        sqrt(sum over arms of squared deviations from the arm's mean / sum over arms of S - 1); NaN
        where no arm has two seeds.
    """
    freedom = sum(len(arm) - 1 for arm in losses)
    if freedom == 0:
        return float("nan")
    squares = sum(float(((arm - arm.mean()) ** 2).sum()) for arm in losses)
    return float(np.sqrt(squares / freedom))


def _losses(group: HeldOut, lengths: Floats) -> Floats:
    """Loss of each seed, nats a token, (S,)."""
    losses: Floats = group.nll.sum(axis=1) / lengths.sum()
    return losses


def _resample(
    groups: Sequence[HeldOut], lengths: Floats, num_resamples: int, rng: np.random.Generator
) -> Floats:
    """Mean loss of each group, with sentences and the noise of seeds drawn anew, (R, groups)."""
    num_seeds = np.array([len(group.nll) for group in groups])
    first_seeds = np.cumsum(num_seeds) - num_seeds
    nll = np.concatenate([group.nll for group in groups])  # (seeds of all groups, M)
    # Scaled, deviations from the mean of S seeds have the variance of the noise itself.
    scales = np.repeat(np.sqrt(num_seeds / np.maximum(num_seeds - 1, 1)), num_seeds)
    pooled = np.flatnonzero(np.repeat(num_seeds > 1, num_seeds))
    resampled = np.empty((num_resamples, len(groups)))
    for row in range(num_resamples):
        # The same sentences for all models.
        counts = rng.multinomial(len(lengths), np.full(len(lengths), 1 / len(lengths)))
        losses = nll @ counts / (lengths @ counts)
        means = np.add.reduceat(losses, first_seeds) / num_seeds
        # The noise of each seed, from the deviations of all of them.
        deviations = scales * (losses - np.repeat(means, num_seeds))
        noise = deviations[rng.choice(pooled, len(losses))] if len(pooled) else 0 * losses
        resampled[row] = means + np.add.reduceat(noise, first_seeds) / num_seeds
    return resampled


def _shares(curves: LossCurve, losses: Floats, arm: int, sizes: Floats) -> Floats:
    """Effective data of a group as a share of the whole corpus, for losses (R, groups), (R,).

    Infinite below the loss of the whole corpus, 0 above that of the smallest fraction, NaN between
    them where the curve is flat.
    """
    loss = losses[:, arm]
    full, smallest = losses[:, sizes.argmax()], losses[:, sizes.argmin()]
    shares = np.clip(curves.tokens(loss) / sizes.max(), sizes.min() / sizes.max(), 1)
    shares = np.where(loss > smallest, 0.0, shares)
    return np.where(loss < full, np.inf, shares)


def _interval(value: float, resampled: Floats, level: float) -> Interval:
    """Percentile interval of resampled values (R,).

    A share that is NaN counts as 0 for the low end and as infinite for the high one.
    """
    tail = (1 - level) / 2
    undefined = np.isnan(resampled)
    low = np.quantile(np.where(undefined, 0, resampled), tail, method="lower")
    high = np.quantile(np.where(undefined, np.inf, resampled), 1 - tail, method="higher")
    return Interval(value, float(low), float(high))


def _verdict(gain: Interval) -> str:
    """Whether a gain's interval lies above 0, below it, or around it."""
    if gain.low > 0:
        return "better"
    return "worse" if gain.high < 0 else "tie"


def _check(
    arms: Mapping[str, HeldOut], fractions: Sequence[HeldOut], random: HeldOut, lengths: Floats
) -> None:
    """Refuse shapes that do not agree, and fractions that no curve can be fitted to."""
    groups = {f"fraction {i}": fraction for i, fraction in enumerate(fractions)}
    groups |= {"random arm": random, **{f"arm {name}": arm for name, arm in arms.items()}}
    _check_nll(groups, lengths)
    sizes = sorted(fraction.num_tokens for fraction in fractions)
    if len(sizes) < _MIN_FRACTIONS or sizes[0] < 1 or len({*sizes}) < len(sizes):
        raise PycatError(
            f"random fractions: found sizes {sizes} in target tokens; expected at least "
            f"{_MIN_FRACTIONS} different positive sizes, since the curve has as many parameters"
        )


def _check_nll(groups: Mapping[str, HeldOut], lengths: Floats) -> None:
    """Refuse nll of another shape, or of a model that diverged."""
    for name, group in groups.items():
        if group.nll.ndim != 2 or len(group.nll) == 0 or group.nll.shape[1:] != lengths.shape:
            raise PycatError(
                f"{name}: nll has shape {group.nll.shape}; expected (seeds, {lengths.size}), a "
                "row for each seed and a column for each held-out sentence"
            )
        finite = np.isfinite(group.nll).all(axis=1)
        if not finite.all():
            raise PycatError(
                f"{name}: nll of its seed in row {int(finite.argmin())} is not finite: the "
                "training diverged; train with a lower learning rate, or with another seed"
            )
