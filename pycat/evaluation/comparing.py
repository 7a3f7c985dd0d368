"""What each arm of an evaluation reached on the test sets, as `evaluation.json` has it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.evaluation.arms import FRACTIONS, mean_num_pairs
from pycat.evaluation.effective_data import EffectiveData, HeldOut, Worth, effective_data, gains_on
from pycat.evaluation.held_out import held_out_nll
from pycat.proxy.run import Run


def results_of(
    views: Mapping[str, list[Corpus]],
    runs: Sequence[Run],
    held_out: Mapping[str, Corpus],
    budgets: Sequence[int],
    device: str,
    *,
    curve: bool,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What `evaluation.json` says of each arm, and of the curve of each test set.

    Args:
        views: the training data of each arm and seed.
        runs: the models, in the order of the arms and then of the seeds.
        held_out: the test sets.
        budgets: updates after which each model was saved.
        device: on which the test sets are scored.
        curve: whether the arms of the curve are among those of `views`.

    Raises:
        PycatError: a model's loss is not finite, since its training diverged; it is named.
    """
    seeds = len(next(iter(views.values())))
    results: dict[str, dict[str, Any]] = {}
    for name in views:
        pairs, target_tokens = mean_num_pairs(views, name)
        results[name] = {"pairs": pairs, "target_tokens": target_tokens, "seeds": seeds}
        results[name]["tests"] = {}
    curves: dict[str, Any] = {}
    for test, corpus in held_out.items():
        nll = held_out_nll(corpus, runs, device)  # (models, budgets, pairs)
        _refuse_diverged(test, nll, runs)
        sums = {name: nll[i * seeds : (i + 1) * seeds] for i, name in enumerate(views)}
        of_test, curves[test] = compare(corpus, sums, results, budgets, curve)
        for name, result in of_test.items():
            results[name]["tests"][test] = result
    return results, curves


def _refuse_diverged(test: str, nll: NDArray[np.float64], runs: Sequence[Run]) -> None:
    """Refuse a loss (models, budgets, pairs) that is not finite, and name the model and remedy."""
    for run, losses in zip(runs, nll, strict=True):
        if not np.isfinite(losses).all():
            rate = run.manifest["recipe"].get("learning_rate")
            raise PycatError(
                f"arm {run.path.parent.name}, {run.path.name}: its loss on {test} is not finite, "
                "expected a number: the training diverged. Train with a lower --learning-rate "
                f"(was {rate}), or with other seeds (--seed; fewer with --seeds)"
            )


def compare(
    test_corpus: Corpus,
    nll: Mapping[str, NDArray[np.float64]],
    found: Mapping[str, dict[str, Any]],
    budgets: Sequence[int],
    curve: bool,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any] | None]:
    """What each arm reached on one test set, and the curve of random text it is read off.

    Args:
        test_corpus: M held-out pairs.
        nll: for each arm float64 (S, budgets, M), sums in nats.
        found: `target_tokens` of each arm.
        budgets: updates of each.
        curve: whether the arms of the curve are among those of `nll`.
    """
    lengths = test_corpus.num_tokens.astype(np.float64)
    results: dict[str, dict[str, Any]] = {}
    for name, own in nll.items():
        losses = own.sum(axis=2) / lengths.sum()  # (S, budgets)
        results[name] = {
            "nll": round(float(losses[:, -1].mean()), 6),
            "nll_by_seed": [round(float(loss), 6) for loss in losses[:, -1]],
            "nll_by_updates": {
                str(updates): round(float(loss), 6)
                for updates, loss in zip(budgets, losses.mean(axis=0), strict=True)
            },
        }
    held_out = {
        name: HeldOut(int(found[name]["target_tokens"]), own[:, -1]) for name, own in nll.items()
    }
    if not curve:
        for reference in ("full", "random"):
            if reference not in held_out:
                continue
            for name, (gain, verdict) in gains_on(held_out[reference], held_out, lengths).items():
                interval = [round(value, 5) for value in asdict(gain).values()]
                results[name][f"gain_on_{reference}"] = interval
                if reference == "random":
                    results[name]["verdict"] = verdict
        return results, None
    # Of arms of one size the first: a random part of everything stands for everything no better.
    sizes: dict[int, HeldOut] = {}
    for name in ("full", *FRACTIONS, "random"):
        if name in held_out:
            sizes.setdefault(held_out[name].num_tokens, held_out[name])
    worth = effective_data(held_out, list(sizes.values()), held_out["random"], lengths)
    for name, own_worth in worth.arms.items():
        results[name] |= _worth(own_worth)
    return results, _curve(worth)


def mean_gain(arm: Mapping[str, Any], on: str) -> tuple[float, float, float]:
    """Nats gained on the arm "random" or "full" in the mean over tests, and a 95 % interval.

    With one seed an interval is over sentences, which are others in each test: the errors are taken
    as independent. With several it is over seeds too, and the same models stand behind all tests:
    the errors are taken as one and the same, which makes the interval rather too wide.

    Args:
        arm: `seeds` and `tests` of an arm, as in evaluation.json.
        on: the arm compared with.
    """
    gains = [test[f"gain_on_{on}"] for test in arm["tests"].values()]
    value = sum(gain[0] for gain in gains) / len(gains)
    halves = [(high - low) / 2 for _, low, high in gains]
    error = (sum(halves) if arm["seeds"] > 1 else math.hypot(*halves)) / len(gains)
    return value, value - error, value + error


def _worth(worth: Worth) -> dict[str, Any]:
    """What evaluation.json says of an arm; a share of 1 stands for all of the text or more."""
    share = worth.share
    return {
        "effective_data": [
            None if math.isnan(value) else round(min(value, 1.0), 4)
            for value in (share.value, share.low, share.high)
        ],
        "gain_on_full": [round(value, 5) for value in asdict(worth.gain_on_full).values()],
        "gain_on_random": [round(value, 5) for value in asdict(worth.gain_on_random).values()],
        "verdict": worth.than_random,
        "matches_full": worth.matches_full,
    }


def _curve(worth: EffectiveData) -> dict[str, Any]:
    noise = worth.seed_noise
    return {
        "irreducible": round(float(worth.curve.irreducible), 6),
        "scale": float(worth.curve.scale),
        "exponent": round(float(worth.curve.exponent), 6),
        "min_share": round(worth.min_share, 4),
        "seed_noise": None if math.isnan(noise) else round(noise, 6),
    }
