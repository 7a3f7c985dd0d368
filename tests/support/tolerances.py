"""Tolerances of derived quantities, as exact as the contract of what they are derived from.

The contract is that of nll: an implementation in float32 may be off by NLL_PER_TOKEN for each
counted token. What is derived from nll may then be off by what such an error makes of it, and by no
more. An error is absolute and not negative. Values of K checkpoints lie along the first axis.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

# Nats a counted token, in float32.
NLL_PER_TOKEN = 2e-5
# The relative error of a chain of sixteen roundings in float64. Deriving a perplexity, its mean and
# its variance over eight checkpoints takes fewer.
FLOAT64_ROUNDING = 16 * 2.0**-53

Array = NDArray[np.float64]


def nll_error(num_tokens: ArrayLike | Tensor) -> Array:
    """Error of an nll summed over so many tokens: n * NLL_PER_TOKEN."""
    return NLL_PER_TOKEN * _array(num_tokens)


def statistic_errors(
    sums: Mapping[str, ArrayLike | Tensor], num_tokens: ArrayLike
) -> dict[str, Array]:
    """Errors of the statistics summed over n tokens each, where every log p is off by e at most.

    e is NLL_PER_TOKEN: log p of any id is -nll of a target. Then p is off by the share exp(e) - 1,
    and so are 1 - p_y, summed over the other ids, and EL2N, the root of squares of such sums. A
    margin is the difference of two log p. A term p log p of the entropy is off by
    p (exp(e) - 1) |log p| + p exp(e) e. The bound of the gradient is EL2N times the norm of a
    hidden state, which may be off by as large a share. No token counted as correct may change.
    """
    n, share = _array(num_tokens), np.expm1(NLL_PER_TOKEN)
    errors = {
        "nll": nll_error(n),
        "p_target": share * _array(sums["p_target"]),
        "correct": np.zeros_like(n),
        "el2n": share * _array(sums["el2n"]),
        "margin": 2 * nll_error(n),
        "entropy": share * _array(sums["entropy"]) + (1 + share) * nll_error(n),
    }
    if "grad_norm_bound" in sums:
        errors["grad_norm_bound"] = np.expm1(2 * NLL_PER_TOKEN) * _array(sums["grad_norm_bound"])
    return errors


def ppl_error(ppl: ArrayLike | Tensor, mean_nll_error: ArrayLike | Tensor) -> Array:
    """Error of ppl = exp(mean nll), where the mean nll is off by e at most: ppl (exp(e) - 1)."""
    return _array(ppl) * np.expm1(_array(mean_nll_error))


def mean_error(errors: ArrayLike | Tensor) -> Array:
    """Error of the mean of K values, each off by e_k at most: their mean."""
    mean: Array = np.mean(_array(errors), axis=0)
    return mean


def variance_error(values: ArrayLike | Tensor, errors: ArrayLike | Tensor) -> Array:
    """Error of the population variance of K values v_k, each off by e_k at most.

    With c_k = v_k - mean(v) and shifts d_k, |d_k| <= e_k, the variance moves by

        mean((c + d - mean(d))²) - mean(c²) = 2 mean(c d) + var(d),

    since the c_k sum to 0. That is at most 2 mean(|c| e) + mean(e²).
    """
    values, errors = _array(values), _array(errors)
    distances = np.abs(values - values.mean(axis=0))
    allowed: Array = np.mean(2 * distances * errors + errors**2, axis=0)
    return allowed


def assert_within(
    found: ArrayLike | Tensor, expected: ArrayLike | Tensor, error: ArrayLike, name: str = "values"
) -> None:
    """Each value lies within `error` of the expected one, or is the same infinity or NaN."""
    found, expected = _array(found), _array(expected)
    assert found.shape == expected.shape, f"{name}: {found.shape} is not {expected.shape}"
    with np.errstate(invalid="ignore"):
        off = np.abs(found - expected)
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
        within = same | (np.isfinite(off) & (off <= error))
    allowed = np.broadcast_to(error, off.shape)
    assert within.all(), (
        f"{name}: found {found[~within]}, expected {expected[~within]} "
        f"within {allowed[~within]}; off by {off[~within]}"
    )


def assert_nll(
    found: ArrayLike | Tensor,
    expected: ArrayLike | Tensor,
    num_tokens: ArrayLike | Tensor,
    *,
    float32_sides: int = 1,
) -> None:
    """Summed nll as the contract allows. Where both sides are float32, either may be off."""
    assert_within(found, expected, float32_sides * nll_error(num_tokens), "nll")


def assert_perplexities(
    ppl_mean: ArrayLike | Tensor,
    ppl_var: ArrayLike | Tensor,
    nll: ArrayLike | Tensor,
    num_tokens: ArrayLike | Tensor,
    error: ArrayLike | Tensor = 0.0,
) -> None:
    """Mean and variance (B,) over K perplexities are those of nll (K, B), off by `error` at most.

    Without an error they follow from the same nll, and only roundings in float64 may differ.
    """
    with np.errstate(all="ignore"):
        mean_nll = _array(nll) / _array(num_tokens)
        ppl = np.exp(mean_nll)
        # Rounding a mean nll of x moves its perplexity by x times the rounding.
        roundings = FLOAT64_ROUNDING * (1 + np.abs(mean_nll))
        errors = ppl_error(ppl, _array(error) / _array(num_tokens) + roundings)
        allowed = variance_error(ppl, errors)
        variance = ppl.var(axis=0)
    assert_within(ppl_mean, ppl.mean(axis=0), mean_error(errors), "ppl_mean")
    assert_within(ppl_var, variance, allowed + FLOAT64_ROUNDING * variance, "ppl_var")


def _array(values: ArrayLike | Tensor) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
