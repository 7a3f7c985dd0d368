"""Which pairs a recipe keeps: from the scores of a table to one bit a pair."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.errors import PycatError
from pycat.filters.noise import NOISE_SCORE
from pycat.ranking.correlations import explained_by, sampled_column, sampled_rows
from pycat.ranking.criteria import (
    Criterion,
    Scores,
    check_criterion,
    criterion_name,
    evaluate_criterion,
    is_known,
    uses_seed,
)
from pycat.ranking.top_k import chunked, top_k_within_budget
from pycat.scores.score_table import ScoreTable
from pycat.selection import strata

PARTS = ("top", "middle", "bottom")
UNITS = ("pairs", "tokens")

_NUM_STRATA = {"score": 50, "length": 10}


@dataclass(frozen=True)
class Recipe:
    """How pairs are chosen; the arguments of `select`, `rules` with all thresholds or None."""

    keep: float | tuple[float, float] = 0.5
    by: str | Criterion = "cat_var"
    part: str = "top"
    unit: str = "pairs"
    drop: Mapping[str | Criterion, float] | None = None
    strata: str | None = None
    num_strata: int | None = None
    cap: tuple[str, int] | None = None
    seed: int = 0
    rules: Mapping[str, float | None] | None = None
    guard: float = 0.0

    def check(self, table: ScoreTable | None = None) -> None:
        """Refuse what cannot be followed, before any work.

        Raises:
            PycatError: with what was expected.
        """
        low, high = self.keep if isinstance(self.keep, tuple) else (0.0, self.keep)
        if not 0 <= low < high <= 1:
            raise PycatError(
                f"keep is {self.keep}; expected a fraction above 0 and at most 1, such as 0.5, or "
                "a range of the ranking, such as (0.2, 0.7)"
            )
        for name, value, known in (("part", self.part, PARTS), ("unit", self.unit, UNITS)):
            if value not in known:
                raise PycatError(f"{name} is {value!r}; expected one of {', '.join(known)}")
        if self.part != "top" and isinstance(self.keep, tuple):
            raise PycatError(
                f"part is {self.part!r} and keep is the range {low} to {high}; pass one of them"
            )
        if self.strata is not None and (self.part != "top" or isinstance(self.keep, tuple)):
            raise PycatError(
                "strata keep the top of each stratum; leave out part, and pass one fraction as keep"
            )
        if self.num_strata is not None:
            if self.strata not in _NUM_STRATA:
                raise PycatError("num_strata goes with strata 'score' or 'length'; leave it out")
            if not 1 <= self.num_strata <= 10_000:
                raise PycatError(f"num_strata is {self.num_strata}; expected 1 to 10,000")
        if self.seed < 0:
            raise PycatError(f"seed is {self.seed}; expected a whole number from 0")
        check_criterion(self.by, table)
        for by, share in (self.drop or {}).items():
            check_criterion(by, table)
            if not 0 < share < 1:
                raise PycatError(
                    f"drop takes {share} by {criterion_name(by)}; expected a fraction between 0 "
                    "and 1, such as 0.2"
                )
        if not 0 <= self.guard <= 1:
            raise PycatError(
                f"guard is {self.guard}; expected a fraction from 0 to 1 of what has to go"
            )
        dropped = math.fsum((self.drop or {}).values())
        if dropped + high > 1 + 1e-9:
            raise PycatError(
                f"drop takes {dropped:g} and keep asks for {high:g} of the {self.unit}, together "
                "more than all; fractions count the whole table: lower one of them"
            )
        if self.cap is not None:
            if self.cap[1] < 1:
                raise PycatError(f"cap keeps {self.cap[1]} of a group; expected at least 1")
            if table is not None:
                strata.check_column(table, self.cap[0])
        if table is not None and self.strata is not None and self.strata not in _NUM_STRATA:
            strata.check_column(table, self.strata)

    @classmethod
    def from_json(cls, recipe: Mapping[str, Any]) -> "Recipe":
        """What a selection's manifest records, to choose again."""
        keep, cap = recipe["keep"], recipe.get("cap")
        return cls(
            keep=(keep[0], keep[1]) if isinstance(keep, list) else keep,
            by=recipe["criterion"],
            part=recipe.get("part", "top"),
            unit=recipe.get("unit", "pairs"),
            drop=dict(recipe.get("drop", ())),
            strata=recipe.get("strata"),
            num_strata=recipe.get("num_strata"),
            cap=None if cap is None else (cap[0], cap[1]),
            seed=recipe["seed"] or 0,
            rules=recipe.get("rules"),
            guard=recipe.get("guard", 0.0),
        )

    def json(self, hashes: Mapping[str, str]) -> dict[str, Any]:
        """The recipe as a manifest holds it; options that change nothing are left out."""
        criteria = (self.by, *(self.drop or {}))
        seeded = self.strata == "score" or any(map(uses_seed, criteria))
        recipe: dict[str, Any] = {
            "criterion": criterion_name(self.by),
            "keep": list(self.keep) if isinstance(self.keep, tuple) else self.keep,
            "seed": self.seed if seeded else None,
        }
        if self.part != "top":
            recipe["part"] = self.part
        if self.unit != "pairs":
            recipe["unit"] = self.unit
        if self.rules is not None:
            recipe["rules"] = dict(self.rules)
        if self.guard:
            recipe["guard"] = self.guard
        if self.drop:
            recipe["drop"] = [[criterion_name(by), share] for by, share in self.drop.items()]
        if self.strata is not None:
            recipe["strata"] = self.strata
            if self.strata in _NUM_STRATA:
                recipe["num_strata"] = self.num_strata or _NUM_STRATA[self.strata]
        if self.cap is not None:
            recipe["cap"] = [*self.cap]
        if hashes:
            recipe["hashes"] = dict(hashes)
        return recipe


@dataclass(frozen=True)
class Choice:
    """The pairs chosen of a table.

    Attributes:
        kept: bool (N,).
        steps: what left pairs out before the cut, in order: "rules", "guard", a "drop" for each,
            "cap", and "range" for what stands above a range or a middle.
        left_out: int16 (N,), which of the steps left a pair out, from 1; 0 for the others.
        recipe: as `Recipe.json` says it, with the hashes of what names alone do not tell.
        facts: counts, of what was dropped too, the lowest and highest score kept, and what
            explains the ranking.
    """

    kept: NDArray[np.bool_]
    steps: tuple[str, ...]
    left_out: NDArray[np.int16]
    recipe: dict[str, Any]
    facts: dict[str, Any]


def choose(table: ScoreTable, recipe: Recipe, by_rules: NDArray[np.bool_] | None = None) -> Choice:
    """Follow a recipe.

    Args:
        table: N pairs; with the column `noise_score` where the recipe has a guard.
        recipe: what to keep; `Recipe.check` took it for this table.
        by_rules: the pairs (N,) that its rules leave. Where they are fewer than asked for, all are
            kept.

    Holds the scores, 8 bytes a pair, and 7 bytes a pair beside them; strata by score 8 more, for
    pair ids. A cap holds 24 bytes a pair before the scores are there, and with them some 60 for
    each pair of a group that is larger.

    Raises:
        PycatError: the recipe cannot be followed on this table.
    """
    num_tokens = table.num_tokens
    weights = num_tokens if recipe.unit == "tokens" else None
    total = len(table) if weights is None else int(num_tokens.sum())
    codes = np.zeros(len(table), dtype=np.int16)
    hashes: dict[str, str] = {}

    def scores_of(by: str | Criterion, role: str) -> Scores:
        scores = evaluate_criterion(table, by, recipe.seed)
        # Two functions may share a name, such as "<lambda>"; what they return tells them apart. So
        # do the values of a column, which "rarity" may be too.
        if not is_known(by) or criterion_name(by).removeprefix("-") in table.names:
            hashes[role] = sha256(scores.data).hexdigest()
        return scores

    steps: list[str] = []
    dropped: dict[str, int] = {}

    def leave_out(rows: NDArray[np.bool_] | NDArray[np.int64], step: str) -> None:
        steps.append(step)
        codes[rows] = -len(steps)
        counted = len(codes) - int(np.count_nonzero(codes >= 0)) - sum(dropped.values())
        dropped[step] = dropped.get(step, 0) + counted

    if by_rules is not None:
        leave_out(~by_rules, "rules")
        hashes["rules"] = sha256(by_rules.data).hexdigest()
    most = _size(codes >= 0, weights)
    if most == 0:
        raise PycatError(
            f"the rules leave none of {len(table):,} pairs; loosen their thresholds, or pass "
            "--rules none (rules='none')"
        )
    if recipe.guard:
        noise = evaluate_criterion(table, NOISE_SCORE)
        hashes["guard"] = sha256(noise.data).hexdigest()
        leave_out(
            top_k_within_budget(noise, np.array([_guarded(recipe, total, most)]), codes, weights),
            "guard",
        )
        del noise
    for i, (by, share) in enumerate((recipe.drop or {}).items()):
        sizes = np.array([round(share * total)])
        leave_out(top_k_within_budget(scores_of(by, f"drop_{i}"), sizes, codes, weights), "drop")
    crowded = _crowded(table, recipe.cap, codes, hashes)
    scores = scores_of(recipe.by, "by")
    if recipe.part == "bottom":
        np.negative(scores, out=scores)
    if recipe.cap is not None:
        leave_out(_beyond(crowded, scores, recipe.cap[1]), "cap")
    steps.append("range")
    first, last = _asked(recipe, total)
    kept = _window(table, scores, codes, num_tokens, recipe, total, most, -len(steps), hashes)
    if not kept.any() and first >= most:
        raise PycatError(
            f"keep is {recipe.keep} of {total:,} {recipe.unit}, a range that begins after "
            f"{first:,}, but the rules leave {most:,}; loosen their thresholds, or lower the range"
        )
    if not kept.any():
        raise PycatError(
            f"keep is {recipe.keep} of {total:,} {recipe.unit}: not one pair fits into that; raise "
            "it"
        )
    if recipe.part == "bottom":
        np.negative(scores, out=scores)
    facts = _facts(table, scores, kept, num_tokens)
    dropped["criterion"] = len(kept) - facts["num_kept"] - sum(dropped.values())
    facts["dropped"] = dropped
    if last > most:
        facts["asked"] = last - first
    left_out = np.negative(np.minimum(codes, 0, out=codes), out=codes)
    return Choice(kept, tuple(steps), left_out, recipe.json(hashes), facts)


def _asked(recipe: Recipe, total: int) -> tuple[int, int]:
    """Where the part of the ranking to keep begins and ends, in pairs or tokens."""
    low, high = recipe.keep if isinstance(recipe.keep, tuple) else (0.0, recipe.keep)
    # Two halves of seven would both be rounded up.
    last = min(round(high * total), total - _dropped(recipe, total))
    return round(low * total), last if recipe.unit == "tokens" else max(1, last)


def _dropped(recipe: Recipe, total: int) -> int:
    """What `drop` leaves out, in pairs or tokens."""
    return sum(round(share * total) for share in (recipe.drop or {}).values())


def _guarded(recipe: Recipe, total: int, most: int) -> int:
    """How much the guard drops: its share of what has to go, but what is asked for stays."""
    last = _asked(recipe, total)[1]
    spare = most - last - _dropped(recipe, total)
    return max(0, min(round(recipe.guard * (total - last)), spare))


def _window(
    table: ScoreTable,
    scores: Scores,
    codes: strata.Codes,
    num_tokens: NDArray[np.int32],
    recipe: Recipe,
    total: int,
    most: int,
    above_code: int,
    hashes: dict[str, str],
) -> NDArray[np.bool_]:
    """The part of the ranking of codes >= 0 that is kept; those codes are used up."""
    weights = num_tokens if recipe.unit == "tokens" else None
    left = _size(codes >= 0, weights)
    first, last = _asked(recipe, total)
    last = min(last, most)
    if last > left:
        steps = ("rules", "guard", "drop", "cap")
        before = ", ".join(step for step in steps if getattr(recipe, step))
        raise PycatError(
            f"keep asks for {last:,} {recipe.unit}, but {left:,} are left after "
            f"{before}; lower keep to {math.floor(1e4 * left / total) / 1e4:.4f} or less"
        )
    if recipe.strata is not None:
        return _of_strata(table, scores, codes, num_tokens, recipe, last, hashes)
    size = last
    if recipe.part == "middle":
        first = (left - size) // 2
    if first:
        above = top_k_within_budget(scores, np.array([first]), codes, weights)
        codes[above] = above_code
        if recipe.part != "middle":
            # So ranges that meet share no pair and leave none out, in tokens too.
            size -= _size(above, weights)
    return top_k_within_budget(scores, np.array([size]), codes, weights)


def _of_strata(
    table: ScoreTable,
    scores: Scores,
    codes: strata.Codes,
    num_tokens: NDArray[np.int32],
    recipe: Recipe,
    budget: int,
    hashes: dict[str, str],
) -> NDArray[np.bool_]:
    """Of each stratum its share: the highest scores or, in strata by score, drawn at random."""
    assert recipe.strata is not None
    num_strata = recipe.num_strata or _NUM_STRATA.get(recipe.strata, 0)
    if recipe.strata == "score":
        strata.by_score(scores, codes, num_strata)
    elif recipe.strata == "length":
        strata.by_length(num_tokens, codes, num_strata)
    else:
        num_strata = strata.by_column(table, recipe.strata, codes)
        hashes["strata"] = sha256(np.maximum(codes, -1).data).hexdigest()
    weights = num_tokens if recipe.unit == "tokens" else None
    sizes = strata.sizes(codes, num_strata, weights)
    if recipe.strata == "score":
        quotas = strata.coverage_centric(sizes, budget)
        return top_k_within_budget(strata.Drawn(table, recipe.seed), quotas, codes, weights)
    return top_k_within_budget(scores, strata.proportional(sizes, budget), codes, weights)


def _crowded(
    table: ScoreTable, cap: tuple[str, int] | None, codes: strata.Codes, hashes: dict[str, str]
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Rows in groups of more pairs than the cap, and their group ids."""
    if cap is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    name, most = cap
    ids = table.column(name)
    if ids.dtype.kind not in "iu":
        raise PycatError(
            f"cap: column {name} holds {ids.dtype}, expected whole numbers, one a group; a "
            "negative one says that the pair is in none"
        )
    hashes["cap"] = sha256(np.ascontiguousarray(ids).data).hexdigest()
    ordered = np.sort(ids)
    crowded = np.unique(ordered[most:][ordered[most:] == ordered[:-most]])
    del ordered
    crowded = crowded[crowded >= 0]
    there = np.zeros(len(ids), dtype=bool)
    for part in chunked(len(ids)):
        there[part] = np.isin(ids[part], crowded) & (codes[part] >= 0)
    rows = np.flatnonzero(there)
    return rows, ids[rows]


def _beyond(
    crowded: tuple[NDArray[np.int64], NDArray[Any]], scores: Scores, most: int
) -> NDArray[np.int64]:
    """Of the rows in crowded groups those that are not among their group's best `most`."""
    rows, ids = crowded
    order = np.lexsort((rows, -scores[rows], ids))
    ids = ids[order]
    place = np.arange(len(ids)) - np.searchsorted(ids, ids)
    return rows[order[place >= most]]


def _facts(
    table: ScoreTable, scores: Scores, kept: NDArray[np.bool_], num_tokens: NDArray[np.int32]
) -> dict[str, Any]:
    num_kept = int(np.count_nonzero(kept))
    tokens, tokens_kept = int(num_tokens.sum()), _size(kept, num_tokens)
    rows = sampled_rows(len(table))
    properties = {"length": num_tokens[rows]}
    if "rarity" in table.names:
        properties["rarity"] = sampled_column(table, "rarity")
    explained = explained_by(scores[rows], properties)
    dropped = len(table) - num_kept
    lowest, highest = np.inf, -np.inf
    for some in chunked(len(scores)):
        lowest = min(lowest, np.where(kept[some], scores[some], np.inf).min())
        highest = max(highest, np.where(kept[some], scores[some], -np.inf).max())
    return {
        "num_pairs": len(table),
        "num_kept": num_kept,
        "num_tokens": tokens,
        "num_tokens_kept": tokens_kept,
        "threshold": float(lowest),
        "highest": float(highest),
        "mean_tokens_kept": tokens_kept / num_kept,
        "mean_tokens_dropped": (tokens - tokens_kept) / dropped if dropped else None,
        "explained": {"num_pairs": len(range(len(table))[rows]), **_without_nan(explained)},
    }


def _size(rows: NDArray[np.bool_], weights: NDArray[np.int32] | None) -> int:
    """Pairs, or what they weigh."""
    if weights is None:
        return int(np.count_nonzero(rows))
    return sum(int((weights[some] * rows[some]).sum()) for some in chunked(len(rows)))


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if math.isnan(value) else value
