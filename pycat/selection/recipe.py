"""The recipe of a selection, and the choice that it makes: from scores to one bit a pair."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.ranking.correlations import explained_by, sampled_column, sampled_rows
from pycat.ranking.criteria import (
    Criterion,
    Scores,
    check_criterion,
    criterion_name,
    evaluate_criterion,
    is_known,
    is_sql,
    uses_seed,
)
from pycat.ranking.tie_keys import tie_keys
from pycat.ranking.top_k import Column, TieKeys, chunked, cut_within_budget
from pycat.scores.score_table import ScoreTable
from pycat.selection import strata

PARTS = ("top", "middle", "bottom")
UNITS = ("pairs", "tokens")

_NUM_STRATA = {"score": 50, "length": 10}


@dataclass(frozen=True)
class Recipe:
    """How pairs are chosen: the arguments of `select`, `rules` with all thresholds or None.

    Attributes:
        ties: what ranks equal scores: "text", a hash of the pair's tokens and the seed; or "row",
            the lower row first, as selections of earlier versions have it.
    """

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
    ties: str = "text"

    @property
    def bounds(self) -> tuple[float, float]:
        """Where the part of the ranking to keep begins and ends, as fractions."""
        return self.keep if isinstance(self.keep, tuple) else (0.0, self.keep)

    def check(self, table: ScoreTable | None = None) -> None:
        """Refuse what cannot be followed, before any work.

        Raises:
            PycatError: with what was expected.
        """
        low, high = self.bounds
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
    def of_manifest(cls, manifest: Mapping[str, Any]) -> "Recipe":
        """What a selection's manifest records, to choose again.

        Raises:
            PycatError: it records no recipe.
        """
        try:
            return cls._recorded(manifest)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise PycatError(
                f"the recipe of the selection cannot be read ({type(error).__name__}: {error}); "
                "run 'pycat select' again"
            ) from None

    @classmethod
    def _recorded(cls, manifest: Mapping[str, Any]) -> "Recipe":
        recipe = manifest["recipe"]
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
            ties="text" if "ties" in manifest else "row",
        )

    def json(self, hashes: Mapping[str, str], *, broke_ties: bool = False) -> dict[str, Any]:
        """The recipe as a manifest holds it; options that change nothing are left out."""
        criteria = (self.by, *(self.drop or {}))
        seeded = self.strata == "score" or any(map(uses_seed, criteria))
        # The default seed is not recorded for ties alone, so that older selections still match.
        seeded = seeded or (broke_ties and self.seed != 0)
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
        sql_scores: scores (N,) by each criterion in SQL, by its role: "by", "drop_0" and so on.
        facts: counts, of what was dropped too, the lowest and highest score kept, what explains
            the ranking, and `ties`: of each step whose cut went through pairs of equal scores, how
            many they were and how many of them rank before the cut.
    """

    kept: NDArray[np.bool_]
    steps: tuple[str, ...]
    left_out: NDArray[np.int16]
    recipe: dict[str, Any]
    facts: dict[str, Any]
    sql_scores: dict[str, Scores]


def choose(
    table: ScoreTable,
    recipe: Recipe,
    kept_by_rules: NDArray[np.bool_] | None = None,
    noise: Callable[[], Scores] | None = None,
    corpus: Corpus | None = None,
    sql_scores: Mapping[str, Scores] | None = None,
) -> Choice:
    """Follow a recipe.

    Holds the scores, 8 bytes a pair, and 7 bytes a pair beside them; strata by score 8 more, for
    pair ids. A cap holds 24 bytes a pair before the scores are there, and with them some 60 for
    each pair of a group that is larger.

    Args:
        table: N pairs.
        recipe: what to keep; `Recipe.check` took it for this table.
        kept_by_rules: the pairs (N,) that the recipe's rules leave, at least one. Where they are
            fewer than asked for, all are kept.
        noise: gives the noise scores (N,), where the recipe has a guard. It is called once, so that
            they are in memory before the criterion's scores, not beside them.
        corpus: of those N pairs, whose tokens break ties; without it, lower rows come first.
        sql_scores: where the recipe comes from a file, the recorded `Choice.sql_scores`: no SQL is
            run then.

    Raises:
        PycatError: the recipe cannot be followed on this table.
    """
    pairs = _Candidates(table, recipe, corpus, sql_scores)
    if kept_by_rules is not None:
        pairs.drop_by_rules(kept_by_rules)
    if recipe.guard:
        assert noise is not None
        pairs.drop_noise(noise())
    for i, (by, share) in enumerate((recipe.drop or {}).items()):
        pairs.drop_highest(pairs.scores(by, f"drop_{i}"), share)
    crowded = pairs.crowded()
    scores = pairs.scores(recipe.by, "by")
    if recipe.part == "bottom":
        np.negative(scores, out=scores)
    if recipe.cap is not None:
        pairs.drop_crowded(crowded, scores)
    kept = pairs.keep(scores)
    if recipe.part == "bottom":
        np.negative(scores, out=scores)
    facts = _facts(table, scores, kept, pairs.num_tokens)
    pairs.dropped["criterion"] = len(kept) - facts["num_kept"] - sum(pairs.dropped.values())
    facts["dropped"] = pairs.dropped
    broke_ties = bool(pairs.ties) and corpus is not None and recipe.ties == "text"
    if broke_ties:
        facts["ties"] = pairs.ties
    first, last = pairs.budget
    if last > pairs.left_by_rules:
        facts["asked"] = last - first
    recorded = recipe.json(pairs.hashes, broke_ties=broke_ties)
    return Choice(kept, tuple(pairs.steps), pairs.left_out(), recorded, facts, pairs.sql_scores)


class _Candidates:
    """The pairs of a table that no step of a recipe has left out yet.

    Sizes are in pairs, or in target tokens where the recipe counts those.

    Attributes:
        num_tokens: target tokens (N,).
        steps: what left pairs out, in order; as `Choice.steps`.
        dropped: pairs that each kind of step left out.
        hashes: SHA-256 of what the recipe's names do not tell.
        left_by_rules: size of what the rules leave.
        ties: as `facts` of `Choice`.
        sql_scores: scores (N,) by criteria in SQL, by role.
    """

    def __init__(
        self,
        table: ScoreTable,
        recipe: Recipe,
        corpus: Corpus | None,
        sql_scores: Mapping[str, Scores] | None,
    ) -> None:
        self.sql_scores: dict[str, Scores] = {}
        self._recorded = sql_scores
        self.num_tokens = table.num_tokens
        self.steps: list[str] = []
        self.dropped: dict[str, int] = {}
        self.hashes: dict[str, str] = {}
        self._table, self._recipe = table, recipe
        self._weights = self.num_tokens if recipe.unit == "tokens" else None
        self._total = len(table) if self._weights is None else int(self.num_tokens.sum())
        # (N,): 0, or later a stratum, of the pairs that are left; -i where step i, from 1, left
        # the pair out.
        self._codes: strata.Codes = np.zeros(len(table), dtype=np.int16)
        self.left_by_rules = self._total
        self.ties: dict[str, dict[str, int]] = {}
        self._tie_keys: TieKeys | None = None
        if recipe.ties == "text" and corpus is not None:
            # The bottom is the end of the ranking that the top begins.
            self._tie_keys = tie_keys(corpus, recipe.seed, reverse=recipe.part == "bottom")

    @property
    def budget(self) -> tuple[int, int]:
        """Where the part of the ranking to keep begins and ends, as sizes."""
        low, high = self._recipe.bounds
        # Two halves of seven would both be rounded up.
        last = min(round(high * self._total), self._total - self._size_to_drop)
        by_tokens = self._weights is not None
        return round(low * self._total), last if by_tokens else max(1, last)

    @property
    def _size_to_drop(self) -> int:
        """Size of what the recipe's `drop` leaves out."""
        return sum(round(share * self._total) for share in (self._recipe.drop or {}).values())

    def left_out(self) -> NDArray[np.int16]:
        """Which of the steps left each pair out (N,); uses the codes up."""
        return np.negative(np.minimum(self._codes, 0, out=self._codes), out=self._codes)

    def scores(self, by: str | Criterion, role: str) -> Scores:
        """Scores (N,) of a criterion; hashed under `role` where its name does not tell them."""
        if is_sql(by) and self._recorded is not None:
            scores = recorded_scores(by, self._recorded, role, len(self._table)).copy()
        else:
            scores = evaluate_criterion(self._table, by, self._recipe.seed)
        if is_sql(by):
            self.sql_scores[role] = scores.copy()  # a bottom is ranked by changing the sign
        # Two functions may share a name, such as "<lambda>"; what they return tells them apart. So
        # do the values of a column, which "rarity" may be too.
        if not is_known(by) or criterion_name(by).removeprefix("-") in self._table.names:
            self.hashes[role] = sha256(scores.data).hexdigest()
        return scores

    def drop_by_rules(self, kept: NDArray[np.bool_]) -> None:
        """Leave out what the rules drop."""
        self._leave_out(~kept, "rules")
        self.hashes["rules"] = sha256(kept.data).hexdigest()
        self.left_by_rules = self._left()

    def drop_noise(self, noise: Scores) -> None:
        """Leave out the likeliest noise: a share of what has to go, but what is asked for stays."""
        self.hashes["guard"] = sha256(noise.data).hexdigest()
        last = self.budget[1]
        spare = self.left_by_rules - last - self._size_to_drop
        size = max(0, min(round(self._recipe.guard * (self._total - last)), spare))
        self._leave_out(self._highest(noise, size, "guard"), "guard")

    def drop_highest(self, scores: Scores, share: float) -> None:
        """Leave out the highest scores: a share of the whole table."""
        size = round(share * self._total)
        self._leave_out(self._highest(scores, size, "drop"), "drop")

    def crowded(self) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Rows that are left in groups of more pairs than the cap, and their group ids."""
        if self._recipe.cap is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        name, max_pairs = self._recipe.cap
        ids = self._table.column(name)
        if ids.dtype.kind not in "iu":
            raise PycatError(
                f"cap: column {name} holds {ids.dtype}, expected whole numbers, one a group; a "
                "negative one says that the pair is in none"
            )
        self.hashes["cap"] = sha256(np.ascontiguousarray(ids).data).hexdigest()
        ordered = np.sort(ids)
        crowded = np.unique(ordered[max_pairs:][ordered[max_pairs:] == ordered[:-max_pairs]])
        del ordered
        crowded = crowded[crowded >= 0]
        inside = np.zeros(len(ids), dtype=bool)
        for part in chunked(len(ids)):
            inside[part] = np.isin(ids[part], crowded) & (self._codes[part] >= 0)
        rows = np.flatnonzero(inside)
        return rows, ids[rows]

    def drop_crowded(self, crowded: tuple[NDArray[np.int64], NDArray[Any]], scores: Scores) -> None:
        """Leave out the rows of crowded groups that are not among their group's best."""
        assert self._recipe.cap is not None
        rows, ids = crowded
        values = scores[rows]
        keys = np.zeros(len(rows), dtype=np.uint64)
        if self._tie_keys is not None and len(rows):
            order = np.lexsort((values, ids))
            next_equal = (np.diff(values[order]) == 0) & (np.diff(ids[order]) == 0)
            tied = order[np.append(next_equal, False) | np.append(False, next_equal)]
            keys[tied] = self._tie_keys(rows[tied])
        order = np.lexsort((rows, keys, -values, ids))
        ids = ids[order]
        place = np.arange(len(ids)) - np.searchsorted(ids, ids)
        self._leave_out(rows[order[place >= self._recipe.cap[1]]], "cap")

    def keep(self, scores: Scores) -> NDArray[np.bool_]:
        """The part of the ranking (N,) to keep of what is left."""
        self.steps.append("range")
        recipe, left = self._recipe, self._left()
        first, last = self.budget
        size = min(last, self.left_by_rules)
        if size > left:
            steps = ("rules", "guard", "drop", "cap")
            before = ", ".join(step for step in steps if getattr(recipe, step))
            raise PycatError(
                f"keep asks for {size:,} {recipe.unit}, but {left:,} are left after "
                f"{before}; lower keep to {math.floor(1e4 * left / self._total) / 1e4:.4f} or less"
            )
        if recipe.strata is not None:
            kept = self._keep_of_strata(scores, size)
        else:
            above = (left - size) // 2 if recipe.part == "middle" else first
            if above:
                rows = self._highest(scores, above, "range")
                self._codes[rows] = -len(self.steps)
                if recipe.part != "middle":
                    # So ranges that meet share no pair and leave none out, in tokens too.
                    size -= self._size(rows)
            kept = self._highest(scores, size, "criterion")
        if not kept.any():
            of_all = f"keep is {recipe.keep} of {self._total:,} {recipe.unit}"
            if first >= self.left_by_rules:
                raise PycatError(
                    f"{of_all}, a range that begins after {first:,}, but the rules leave "
                    f"{self.left_by_rules:,}; loosen their thresholds, or lower the range"
                )
            raise PycatError(f"{of_all}: not one pair fits into that; raise it")
        return kept

    def _keep_of_strata(self, scores: Scores, budget: int) -> NDArray[np.bool_]:
        """The share of each stratum: its highest scores or, in strata by score, drawn at random."""
        recipe, codes = self._recipe, self._codes
        assert recipe.strata is not None
        num_strata = recipe.num_strata or _NUM_STRATA.get(recipe.strata, 0)
        if recipe.strata == "score":
            strata.by_score(scores, codes, num_strata)
        elif recipe.strata == "length":
            strata.by_length(self.num_tokens, codes, num_strata)
        else:
            num_strata = strata.by_column(self._table, recipe.strata, codes)
            self.hashes["strata"] = sha256(np.maximum(codes, -1).data).hexdigest()
        sizes = strata.sizes(codes, num_strata, self._weights)
        if recipe.strata == "score":
            quotas = strata.coverage_centric(sizes, budget)
            drawn = strata.Drawn(self._table, recipe.seed)
            return self._cut(drawn, quotas, "criterion")
        return self._cut(scores, strata.proportional(sizes, budget), "criterion")

    def _leave_out(self, rows: NDArray[np.bool_] | NDArray[np.int64], step: str) -> None:
        self.steps.append(step)
        self._codes[rows] = -len(self.steps)
        num_left = int(np.count_nonzero(self._codes >= 0))
        counted = len(self._codes) - num_left - sum(self.dropped.values())
        self.dropped[step] = self.dropped.get(step, 0) + counted

    def _highest(self, scores: Scores, size: int, step: str) -> NDArray[np.bool_]:
        """The highest scores (N,) of what is left, as many as fit into the size."""
        return self._cut(scores, np.array([size]), step)

    def _cut(self, scores: Column, budgets: NDArray[np.int64], step: str) -> NDArray[np.bool_]:
        """The highest scores (N,) of each stratum that is left; counts ties under `step`."""
        cut = cut_within_budget(scores, budgets, self._codes, self._weights, self._tie_keys)
        if cut.num_tied:
            counts = self.ties.setdefault(step, {"num_pairs": 0, "num_before": 0})
            counts["num_pairs"] += cut.num_tied
            counts["num_before"] += cut.num_tied_selected
        return cut.selected

    def _left(self) -> int:
        """Size of what is left."""
        return self._size(self._codes >= 0)

    def _size(self, rows: NDArray[np.bool_]) -> int:
        return _size(rows, self._weights)


def recorded_scores(
    by: str | Criterion, recorded: Mapping[str, Scores], role: str, num_pairs: int
) -> Scores:
    """The scores (N,) that a selection recorded of a criterion in SQL.

    Raises:
        PycatError: it recorded none: SQL out of a file is never run.
    """
    scores = recorded.get(role)
    if scores is None or len(scores) != num_pairs:
        raise PycatError(
            f"criterion {criterion_name(by)!r} is SQL that a file holds, which is not run, and its "
            "scores were not recorded; run 'pycat select' again"
        )
    return scores


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
