"""Comparison of a selection with other criteria, and its share of domains, rules and flags."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pycat.errors import PycatError
from pycat.filters.measures import Measures
from pycat.ranking.correlations import correlations
from pycat.ranking.criteria import Scores, confidence, evaluate_criterion, possible, variability
from pycat.ranking.top_k import top_k_within_budget
from pycat.scores.score_table import ScoreTable
from pycat.selection.stability import chance, shared, without_checkpoint

_MAX_DOMAINS = 15

# Boolean columns whose pairs the data map marks.
_FLAGS = ("hard", "noisy")


@dataclass(frozen=True)
class DataMap:
    """Dataset cartography of N pairs: the probability of their target tokens over training.

    Attributes:
        confidence, variability: mean and standard deviation of that probability over the
            checkpoints, (N,).
        flags: the table's boolean columns "hard" and "noisy", (N,), where it has them.
        geometric: the probability of a pair is the geometric mean of its tokens',
            exp(-nll / num_tokens); otherwise it is their mean, from the column `p_target`.
    """

    confidence: Scores
    variability: Scores
    flags: dict[str, NDArray[np.bool_]]
    geometric: bool


@dataclass(frozen=True)
class Agreement:
    """Agreement of a selection with other criteria.

    Attributes:
        names: C criteria, that of the selection first.
        correlations: Spearman's rank correlation of each two, (C, C); NaN where not defined.
        overlaps: for each other criterion, the Jaccard overlap of the kept pairs with as many of
            its highest; empty where all pairs or none were kept.
        without_checkpoint: for each checkpoint in order, the Jaccard overlap of the criterion's
            highest pairs with its highest pairs when that checkpoint is left out; may be empty.
        chance: expected Jaccard overlap of two random selections of that size.
    """

    names: list[str]
    correlations: NDArray[np.float64]
    overlaps: dict[str, float]
    without_checkpoint: list[float]
    chance: float


@dataclass(frozen=True)
class Part:
    """A named part of the pairs, such as a domain, and how many of its pairs were kept."""

    name: str
    num_pairs: int
    num_kept: int

    @property
    def share(self) -> float:
        """Share of the pairs that was kept; NaN where there are none."""
        return self.num_kept / self.num_pairs if self.num_pairs else float("nan")


def data_map(table: ScoreTable) -> DataMap:
    """Place the pairs on a data map (Swayamdipta et al. 2020, arXiv:2009.10795)."""
    num_tokens = table.num_tokens[:, None]
    geometric = "p_target" not in table.statistics
    probability = (
        np.exp(-table.nll / num_tokens) if geometric else table.column("p_target") / num_tokens
    )
    flags = {name: table.column(name) for name in _FLAGS if name in table.names}
    return DataMap(
        confidence(probability),
        variability(probability),
        {name: column for name, column in flags.items() if column.dtype.kind == "b"},
        geometric,
    )


def agreement(
    table: ScoreTable, by: str, values: Scores, rarity: Scores, kept: NDArray[np.bool_], seed: int
) -> Agreement:
    """Compare a selection with the highest pairs of every other criterion that the table allows.

    Args:
        table: N pairs.
        by: the selection's criterion.
        values: scores by that criterion (N,).
        rarity: rarity of each pair (N,), which the table need not hold.
        kept: whether each pair was kept (N,).
        seed: seed of the selection.
    """
    scores = {by: values}
    for name in possible(table):
        if name == "rarity":
            scores.setdefault(name, rarity)
        elif name not in (by, "random"):
            # A criterion that is NaN for some pair, such as one of infinite perplexity, is skipped.
            try:
                scores[name] = evaluate_criterion(table, name, seed)
            except PycatError:
                continue
    count = int(np.count_nonzero(kept))
    compared = 0 < count < len(kept)
    groups = np.zeros(len(kept), dtype=np.int8)
    return Agreement(
        list(scores),
        correlations(list(scores.values())),
        {
            name: shared(kept, top_k_within_budget(other, np.array([count]), groups))
            for name, other in scores.items()
            if compared and name != by
        },
        without_checkpoint(table, by, count, seed) if compared else [],
        chance(count, len(kept)),
    )


def by_domain(table: ScoreTable, kept: NDArray[np.bool_]) -> list[Part]:
    """Pairs and kept pairs of each domain, the largest first; empty without a column `domain`."""
    if "domain" not in table.names:
        return []
    domains = table.column("domain").astype(str)
    names, at, sizes = np.unique(domains, return_inverse=True, return_counts=True)
    num_kept = np.bincount(at[kept], minlength=len(names))
    order = np.argsort(-sizes, kind="stable")
    parts = [
        Part(str(names[i]), int(sizes[i]), int(num_kept[i])) for i in order[:_MAX_DOMAINS].tolist()
    ]
    if len(others := order[_MAX_DOMAINS:]):
        parts.append(
            Part(f"{len(others):,} others", int(sizes[others].sum()), int(num_kept[others].sum()))
        )
    return parts


def by_rule(measures: Measures | None, kept: NDArray[np.bool_]) -> Sequence[Part] | None:
    """Pairs that break each rule, and how many of them were kept; None without columns of rules.

    Args:
        measures: of N pairs; None where they were not measured.
        kept: the selection (N,).
    """
    if measures is None or "pair_group" not in measures.names:
        return None
    return [
        Part(rule, int(np.count_nonzero(hit)), int(np.count_nonzero(hit & kept)))
        for rule, hit in measures.each_hit()
    ]
