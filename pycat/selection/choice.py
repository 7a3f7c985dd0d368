"""The choice that a recipe makes: from scores to one bit a pair."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.filters.noise_share import NoiseShare, fitted_noise
from pycat.ranking.correlations import explained_by, sampled_column, sampled_rows
from pycat.ranking.coverage import coverage
from pycat.ranking.criteria import (
    Criterion,
    Scores,
    criterion_name,
    evaluate_criterion,
    is_known,
    is_sql,
    members_of,
)
from pycat.ranking.tie_keys import tie_keys
from pycat.ranking.top_k import Column, TieKeys, chunked, cut_within_budget
from pycat.scores.score_table import ScoreTable
from pycat.selection import strata
from pycat.selection.recipe import NUM_STRATA, Recipe


@dataclass(frozen=True)
class Choice:
    """The pairs chosen of a table.

    Attributes:
        kept: bool (N,).
        scores: by which the pairs were ranked, (N,).
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
    scores: Scores
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
    measure: Callable[[str], NDArray[Any]] | None = None,
    sql_scores: Mapping[str, Scores] | None = None,
) -> Choice:
    """Follow a recipe.

    Holds the scores, 8 bytes a pair, and 7 bytes a pair beside them; strata by score 8 more, for
    pair ids. A cap holds 24 bytes a pair before the scores are there, and with them some 90 for
    each pair of a group that is larger.

    Args:
        table: N pairs.
        recipe: what to keep; `Recipe.check` took it for this table.
        kept_by_rules: the pairs (N,) that the recipe's rules leave, at least one. Where they are
            fewer than asked for, all are kept.
        noise: gives the noise scores (N,), where the recipe needs them. A guard asks for them
            before the criterion's scores are in memory, not beside them.
        corpus: of those N pairs, whose tokens break ties; without it, lower rows come first.
        measure: gives the measures (N,) by name, where the recipe estimates the share of noise.
        sql_scores: where the recipe comes from a file, the recorded `Choice.sql_scores`: no SQL is
            run then.

    Raises:
        PycatError: the recipe cannot be followed on this table.
    """
    pairs = _Candidates(table, recipe, noise, corpus, measure, sql_scores)
    if kept_by_rules is not None:
        pairs.drop_by_rules(kept_by_rules)
    if recipe.guard:
        pairs.drop_noise()
    for i, (by, share) in enumerate((recipe.drop or {}).items()):
        pairs.drop_highest(pairs.scores(by, f"drop_{i}"), share)
    crowded = pairs.crowded()
    scores = pairs.scores(recipe.by, "by")
    if recipe.part == "bottom":
        np.negative(scores, out=scores)
    if recipe.cap is not None:
        pairs.drop_crowded(crowded, scores)
    pairs.stratify()
    if recipe.tails is not None:
        pairs.drop_tails(*recipe.tails)
    kept = pairs.keep(scores)
    if recipe.part == "bottom":
        np.negative(scores, out=scores)
    # Pairs that were drawn at random beside the ranking say nothing of its threshold.
    ranked = kept & ~pairs.drawn if recipe.mix and (kept & ~pairs.drawn).any() else kept
    facts = _facts(table, scores, kept, ranked, pairs.num_tokens)
    if recipe.mix:
        facts["num_random"] = int(np.count_nonzero(pairs.drawn))
        if recipe.quotas == "exact":
            facts["quotas"] = recipe.quotas
    pairs.dropped["criterion"] = len(kept) - facts["num_kept"] - sum(pairs.dropped.values())
    facts["dropped"] = pairs.dropped
    if pairs.noise_share is not None:
        facts["noise_share"] = asdict(pairs.noise_share)
    broke_ties = bool(pairs.ties) and corpus is not None and recipe.ties == "text"
    if broke_ties:
        facts["ties"] = pairs.ties
    first, last = pairs.budget
    if last > pairs.left_by_rules:
        facts["asked"] = last - first
    recorded = recipe.json(pairs.hashes, broke_ties=broke_ties)
    steps = tuple(pairs.steps)
    return Choice(kept, scores, steps, pairs.left_out(), recorded, facts, pairs.sql_scores)


class _Candidates:
    """The pairs of a table that no step of a recipe has left out yet.

    Sizes are in pairs, or in target tokens where the recipe counts those.

    Attributes:
        num_tokens: target tokens (N,).
        steps: what left pairs out, in order; as `Choice.steps`.
        dropped: pairs that each kind of step left out.
        hashes: SHA-256 of what the recipe's names do not tell.
        left_by_rules: size of what the rules leave.
        noise_share: the estimate, where the recipe asks for one.
        drawn: the pairs (N,) that `mix` drew at random; empty without it.
        ties: as `facts` of `Choice`.
        sql_scores: scores (N,) by criteria in SQL, by role.
    """

    def __init__(
        self,
        table: ScoreTable,
        recipe: Recipe,
        noise: Callable[[], Scores] | None,
        corpus: Corpus | None,
        measure: Callable[[str], NDArray[Any]] | None,
        sql_scores: Mapping[str, Scores] | None,
    ) -> None:
        self.sql_scores: dict[str, Scores] = {}
        self._recorded = sql_scores
        self.num_tokens = table.num_tokens
        self.steps: list[str] = []
        self.dropped: dict[str, int] = {}
        self.hashes: dict[str, str] = {}
        self._table, self._recipe, self._noise = table, recipe, noise
        self._weights = self.num_tokens if recipe.unit == "tokens" else None
        self._total = len(table) if self._weights is None else int(self.num_tokens.sum())
        # (N,): 0, or later a stratum, of the pairs that are left; -i where step i, from 1, left
        # the pair out.
        self._codes: strata.Codes = np.zeros(len(table), dtype=np.int16)
        self.left_by_rules = self._total
        self.noise_share: NoiseShare | None = None
        self.drawn: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self._num_strata = 1
        self._measure = measure
        self._fitted: Scores | None = None
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
        given = {"coverage": self._coverage}
        if self._noise is not None:
            given["noise"] = self._noise
        if self._measure is not None:
            given["fitted_noise"] = self._fitted_noise
        if is_sql(by) and self._recorded is not None:
            scores = recorded_scores(by, self._recorded, role, len(self._table)).copy()
        else:
            scores = evaluate_criterion(self._table, by, self._recipe.seed, given=given)
        if is_sql(by):
            self.sql_scores[role] = scores.copy()  # a bottom is ranked by changing the sign
        # Two functions may share a name, such as "<lambda>"; what they return tells them apart. So
        # do the values of a column, which "rarity" may be too.
        names = {criterion_name(member).removeprefix("-") for member in members_of(by)}
        if not is_known(by) or not names.isdisjoint(self._table.names):
            self.hashes[role] = sha256(scores.data).hexdigest()
        return scores

    def _fitted_noise(self) -> Scores:
        """How likely each pair that is left when this is first asked for is noise, (N,)."""
        if self._fitted is None:
            assert self._measure is not None
            left = np.flatnonzero(self._codes >= 0)
            corpus = self._table.view_of(self._table.corpus())
            self.noise_share, likely = fitted_noise(corpus, left, self._measure)
            self._fitted = np.full(len(self._codes), np.inf)
            self._fitted[left] = likely
        return self._fitted

    def _coverage(self) -> Scores:
        """Gains (N,) of a greedy choice of what is left: of all of it where the top is not kept."""
        recipe, left = self._recipe, self._codes >= 0
        is_top = recipe.part == "top" and recipe.bounds[0] == 0 and recipe.strata is None
        budget = min(self.budget[1], self._size(left)) if is_top else self._size(left)
        corpus = self._table.view_of(self._table.corpus())
        return coverage(corpus, left, budget, costs=self._weights)

    def drop_by_rules(self, kept: NDArray[np.bool_]) -> None:
        """Leave out what the rules drop."""
        self._leave_out(~kept, "rules")
        self.hashes["rules"] = sha256(kept.data).hexdigest()
        self.left_by_rules = self._left()

    def drop_noise(self) -> None:
        """Leave out the likeliest noise, by its estimated share or by one of what has to go.

        What is asked for stays.
        """
        assert self._noise is not None
        is_auto = self._recipe.guard == "auto"
        noise = self._fitted_noise() if is_auto else self._noise()
        self.hashes["guard"] = sha256(noise.data).hexdigest()
        last = self.budget[1]
        spare = max(0, self.left_by_rules - last - self._size_to_drop)
        if is_auto:
            assert self.noise_share is not None
            size = round(self.noise_share.share * self._left())
        else:
            size = round(float(self._recipe.guard) * (self._total - last))
        self._leave_out(self._highest(noise, min(size, spare), "guard"), "guard")

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
        if not len(rows):
            self._leave_out(rows, "cap")
            return
        values, max_pairs = scores[rows], self._recipe.cap[1]
        order = np.lexsort((rows, -values, ids))
        place, is_tied = _at_the_cap(ids[order], values[order], max_pairs)
        if is_tied.any():
            tied = order[is_tied]
            if self._tie_keys is not None:
                keys = np.zeros(len(rows), dtype=np.uint64)
                keys[tied] = self._tie_keys(rows[tied])
                order = np.lexsort((rows, keys, -values, ids))
            num_before = int(np.count_nonzero(place[is_tied] < max_pairs))
            self._count_ties("cap", len(tied), num_before)
        self._leave_out(rows[order[place >= max_pairs]], "cap")

    def stratify(self) -> None:
        """Make the codes of pairs that are left their strata, but for strata by score."""
        names = self._recipe.strata_names
        if names and names != ("score",):
            num_strata = self._recipe.num_strata or NUM_STRATA["length"]
            self._num_strata = strata.by_names(
                self._table, names, self.num_tokens, self._codes, num_strata
            )
        if any(name not in NUM_STRATA for name in names):
            self.hashes["strata"] = sha256(np.maximum(self._codes, -1).data).hexdigest()

    def drop_tails(self, hardest: float, easiest: float) -> None:
        """Leave out a share of each stratum: the highest last perplexities, and the lowest."""
        perplexity = evaluate_criterion(self._table, "ppl")
        sizes = strata.sizes(self._codes, self._num_strata, None)
        for share, sign in ((hardest, 1), (easiest, -1)):
            budgets = (share * sizes).astype(np.int64)
            cut = cut_within_budget(
                sign * perplexity, budgets, self._codes, tie_keys=self._tie_keys
            )
            self._count_ties("tails", cut.num_tied, cut.num_tied_selected)
            self._leave_out(cut.selected, "tails")

    def keep(self, scores: Scores) -> NDArray[np.bool_]:
        """The part of the ranking (N,) to keep of what is left."""
        self.steps.append("range")
        recipe, left = self._recipe, self._left()
        first, last = self.budget
        size = min(last, self.left_by_rules)
        if size > left:
            steps = ("rules", "guard", "drop", "cap", "tails")
            before = ", ".join(step for step in steps if getattr(recipe, step))
            raise PycatError(
                f"keep asks for {size:,} {recipe.unit}, but {left:,} are left after "
                f"{before}; lower keep to {math.floor(1e4 * left / self._total) / 1e4:.4f} or less"
            )
        if recipe.mix:
            kept = self._keep_and_draw(scores, size)
        elif recipe.strata is not None:
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

    def _keep_and_draw(self, scores: Scores, size: int) -> NDArray[np.bool_]:
        """The top of the ranking, and a share of the size drawn from the rest of what is left."""
        ranking = self._ranking_by_strata(scores)
        sizes = strata.sizes(self._codes, self._num_strata, self._weights)
        by_rank = size - round(self._recipe.mix * size)
        if self._recipe.quotas == "exact":
            quotas = self._quotas(sizes, size)
            # No part of a quota is larger than the quota, so both parts add up to the size.
            top = strata.proportional(quotas, by_rank)
        else:
            quotas = strata.proportional(sizes, size)
            top = self._quotas(sizes, by_rank)
        kept = self._cut(ranking, top, "criterion")
        del ranking
        # What is drawn makes up for what the ranking left of each stratum's share.
        spent = np.where(kept, self._codes, np.int16(-1))
        quotas = quotas - strata.sizes(spent, self._num_strata, self._weights)
        rest = np.where(kept, np.int16(-1), self._codes)
        drawn = strata.Drawn(self._table, self._recipe.seed)
        self.drawn = cut_within_budget(drawn, np.maximum(quotas, 0), rest, self._weights).selected
        return kept | self.drawn

    def _keep_of_strata(self, scores: Scores, budget: int) -> NDArray[np.bool_]:
        """The share of each stratum: its highest scores or, in strata by score, drawn at random."""
        ranking = self._ranking_by_strata(scores)
        sizes = strata.sizes(self._codes, self._num_strata, self._weights)
        return self._cut(ranking, self._quotas(sizes, budget), "criterion")

    def _ranking_by_strata(self, scores: Scores) -> Column:
        """What ranks the pairs within strata; makes the strata by score."""
        if self._recipe.strata != "score":
            return scores
        self._num_strata = self._recipe.num_strata or NUM_STRATA["score"]
        strata.by_score(scores, self._codes, self._num_strata)
        return strata.Drawn(self._table, self._recipe.seed)

    def _quotas(self, sizes: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
        """The budgets (G,) of strata of sizes (G,), which sum to the whole budget."""
        if self._recipe.strata == "score":
            return strata.coverage_centric(sizes, budget)
        return strata.proportional(sizes, budget)

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
        self._count_ties(step, cut.num_tied, cut.num_tied_selected)
        return cut.selected

    def _count_ties(self, step: str, num_pairs: int, num_before: int) -> None:
        """Count pairs whose order at a cut their scores did not decide."""
        if num_pairs:
            counts = self.ties.setdefault(step, {"num_pairs": 0, "num_before": 0})
            counts["num_pairs"] += num_pairs
            counts["num_before"] += num_before

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


def _at_the_cap(
    ids: NDArray[Any], values: Scores, max_pairs: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Place (n,) of each row in its group, and whether the cap goes through rows of its score.

    Args:
        ids: group of each row (n,), ascending.
        values: scores (n,), falling within each group.
        max_pairs: the cap.
    """
    first = np.searchsorted(ids, ids)
    place = np.arange(len(ids)) - first
    # The rows on both sides of the cap; beyond the last group's end any row will do.
    last_in = np.minimum(first + max_pairs - 1, len(ids) - 1)
    first_out = np.minimum(first + max_pairs, len(ids) - 1)
    is_full = (first + max_pairs < len(ids)) & (ids[first_out] == ids)
    is_split = is_full & (values[last_in] == values[first_out])
    return place, is_split & (values == values[last_in])


def _facts(
    table: ScoreTable,
    scores: Scores,
    kept: NDArray[np.bool_],
    ranked: NDArray[np.bool_],
    num_tokens: NDArray[np.int32],
) -> dict[str, Any]:
    """Counts of the pairs kept, and the lowest and highest score of those that a ranking kept."""
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
        lowest = min(lowest, np.where(ranked[some], scores[some], np.inf).min())
        highest = max(highest, np.where(ranked[some], scores[some], -np.inf).max())
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
