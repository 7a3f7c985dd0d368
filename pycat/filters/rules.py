"""Rules that drop pairs for their text alone: their thresholds, and which values break them.

`rule_measures` reads a corpus's text and writes the columns that the rules compare;
`Measures.apply` says which pairs a set of thresholds drops, and how many each rule hits.
"""

import json
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.errors import PycatError

# docs/format.md says what each threshold means; None switches a rule off.
DEFAULT_RULES: dict[str, float | None] = {
    "duplicate": 1,
    "near_duplicate": 1,
    "target_copies": 5,
    "copied": 0.46,
    "src_language": 0.03,
    "tgt_language": 0.03,
    "src_foreign": 0.15,
    "tgt_foreign": 0.15,
    "length_z": 3.4,
    "letters": 0.5,
    "numbers": 0.3,
    "encoding": 0,
    "repeated": 0.25,
}

# The column that each rule compares. Of a group column, whose name ends with "_group", the number
# of earlier pairs of the same group is compared.
RULE_COLUMNS = {
    "duplicate": "pair_group",
    "near_duplicate": "near_group",
    "target_copies": "tgt_group",
    "copied": "copied",
    "src_language": "src_language",
    "tgt_language": "tgt_language",
    "src_foreign": "src_foreign",
    "tgt_foreign": "tgt_foreign",
    "length_z": "length_z",
    "letters": "letters",
    "numbers": "number_mismatch",
    "encoding": "num_damaged",
    "repeated": "repetition",
}

# Rules that drop the pairs below their threshold; `length_z` drops beyond it either way.
_LOWER_BOUNDS = ("src_language", "tgt_language", "letters")


def counts_group(rule: str) -> bool:
    """Whether a rule compares how many earlier pairs a pair's group has."""
    return RULE_COLUMNS[rule].endswith("_group")


def breaks(rule: str, values: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Whether each value (N,) breaks the rule: of its column, or the count of earlier pairs."""
    broken: NDArray[np.bool_]
    if counts_group(rule):
        broken = values >= threshold
    elif rule in _LOWER_BOUNDS:
        broken = values < threshold
    elif rule == "length_z":
        broken = np.abs(values) > threshold
    else:
        broken = values > threshold
    return broken


def hits_in_words(hits: Mapping[str, int]) -> str:
    """How many pairs each rule hits, without the rules that hit none."""
    return ", ".join(f"{rule} {count:,}" for rule, count in hits.items() if count) or "none"


def complete_rules(rules: Mapping[str, float | None] | None = None) -> dict[str, float | None]:
    """`DEFAULT_RULES` with these changes.

    Raises:
        PycatError: an unknown rule, or a threshold that is not a number.
    """
    given = dict(rules or {})
    if unknown := [name for name in given if name not in DEFAULT_RULES]:
        raise PycatError(
            f"rule {unknown[0]!r} is not known; expected one of {', '.join(DEFAULT_RULES)}"
        )
    for name, value in given.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and math.isfinite(value)):
            raise PycatError(
                f"rule {name} is {value!r}; expected a finite number, or null for no rule"
            )
    return {**DEFAULT_RULES, **given}


def recorded_rules(thresholds: Mapping[str, float | None]) -> dict[str, float | None]:
    """Thresholds that a selection recorded: a rule that it does not name is switched off."""
    return {**dict.fromkeys(DEFAULT_RULES), **thresholds}


def read_rules(
    given: str | PathLike[str] | Mapping[str, float | None] | None,
) -> dict[str, float | None] | None:
    """Thresholds that differ from `DEFAULT_RULES`; None for no rules at all.

    Args:
        given: "default", "none" or None, a JSON file of thresholds, or thresholds.

    Raises:
        PycatError: no such file, not JSON, or an unknown rule.
    """
    if given is None or given == "none":
        return None
    if given == "default":
        return {}
    rules: object = given
    if not isinstance(given, Mapping):
        try:
            rules = json.loads(Path(given).read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise PycatError(
                f"{given}: cannot be read as rules ({error}); expected default, none, or a JSON "
                'file such as {"copied": 0.7, "numbers": null}'
            ) from None
    if not isinstance(rules, Mapping):
        raise PycatError(f"{given}: expected a JSON object of rules, found {type(rules).__name__}")
    complete_rules(rules)
    return dict(rules)
