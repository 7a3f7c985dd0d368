"""What an evaluation cannot show, and whether pruning pays, in sentences."""

from collections.abc import Mapping
from typing import Any

from pycat.data.corpus import Corpus
from pycat.evaluation.arms import FRACTIONS
from pycat.evaluation.comparing import mean_gain
from pycat.evaluation.held_out import num_known

# Below so many passes over a half even a random one repeats too little to lose to the whole.
_FEW_PASSES = 8

# Share of the target tokens of `random` by which an arm may differ and still be judged by it.
_SAME_AMOUNT = 0.01


def known_sentences(held_out: Mapping[str, Corpus], corpus: Corpus) -> list[str]:
    """Which test sets hold sentences of the training text."""
    found = []
    for test, text in held_out.items():
        num_src, num_tgt = num_known(text, corpus)
        if num_src or num_tgt:
            found.append(
                f"{test}: of {len(text):,} pairs {num_src:,} have a source and {num_tgt:,} a "
                "target that the training text has too, so the loss favours arms that learn them "
                "by heart; leave them out of one of the two"
            )
    return found


def warnings_of(
    passes: float, seeds: int, arms: Mapping[str, Mapping[str, Any]], curves: Mapping[str, Any]
) -> list[str]:
    """What the experiment cannot show."""
    found = []
    if passes < _FEW_PASSES:
        found.append(
            f"{passes:g} passes over the selection are few: below {_FEW_PASSES} even a random part "
            "of clean text trains nearly as well as the whole"
        )
    if seeds < 2:
        found.append("one seed: intervals hold the noise of sentences alone, not that of training")
    for test, curve in curves.items():
        if curve is not None and not curve["scale"] > 0:
            found.append(
                f"{test}: the loss does not fall with more random text, so no share can be read "
                "off; train longer, or on more text"
            )
        quarter, full = (arms.get(name) for name in ("random-quarter", "full"))
        if quarter and full and quarter["tests"][test]["nll"] <= full["tests"][test]["nll"]:
            found.append(
                f"{test}: a random quarter trains as well as all of the text, so shares of random "
                "text say nothing; compare the losses, or train longer"
            )
        oracle = arms.get("oracle")
        if oracle is not None and oracle["tests"][test].get("verdict", "better") != "better":
            found.append(
                f"{test}: clean text at random is no better than text at random; this experiment "
                "cannot tell good pairs from bad ones"
            )
    return found


def skipped_pairs(tests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which test sets have pairs that nothing is measured on.

    Args:
        tests: of each `sentences` and `skipped`, as `evaluation.json` has them.
    """
    found = []
    for test, counts in tests.items():
        num_skipped = sum(counts["skipped"].values())
        if num_skipped:
            reasons = ", ".join(f"{reason} {n:,}" for reason, n in counts["skipped"].items() if n)
            found.append(
                f"{test}: {num_skipped:,} of {num_skipped + counts['sentences']:,} pairs are "
                f"skipped ({reasons}), so the loss is of the others; tests/{test}/skipped.tsv "
                "lists them"
            )
    return found


def other_amounts(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which arms have more or fewer target tokens than `random`, by which they are judged."""
    if "random" not in arms:
        return []
    expected = arms["random"]["target_tokens"]
    found = []
    for name, arm in arms.items():
        tokens = arm["target_tokens"]
        if name not in ("full", *FRACTIONS) and abs(tokens - expected) > _SAME_AMOUNT * expected:
            found.append(
                f"{name}: trains on {tokens:,} target tokens and random on {expected:,}, so the "
                "verdict mixes the quality of the pairs with their amount; choose as many, or "
                "compare what each is worth of random text with its size"
            )
    return found


def does_not_pay(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whether the selection is worse than a random part or than all, in the mean of the tests.

    Of a selection that may be better or worse than a random part, it says that.

    """
    if "selected" not in arms:
        return []
    selected = arms["selected"]
    found = []
    for other, text in (("random", "a random part of the text"), ("full", "all of the text")):
        gains = [test.get(f"gain_on_{other}") for test in selected["tests"].values()]
        if not gains or other not in arms or None in gains:
            continue
        gain, low, high = mean_gain(selected, other)
        gained = (
            f"it gains {gain:+.3f} nats [{low:+.3f}, {high:+.3f}] on that in the mean of the tests"
        )
        if high < 0:
            found.append(
                f"the selection is worse than {text}: {gained}, so pruning so much of this text "
                "does not pay at this budget; keep more, or all where it is clean"
            )
        elif other == "random" and low <= 0:
            found.append(
                f"the selection and {text} cannot be told apart at this budget: {gained}; more "
                "seeds or tests, or longer training, may tell them apart"
            )
    return found
