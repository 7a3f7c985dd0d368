"""What a selection follows, and what other criteria would have chosen: figures of the report."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import RULES_FILE, Corpus
from pycat.errors import OutputError, PycatError
from pycat.filters.rules import RuleTable
from pycat.ranking.correlations import correlations
from pycat.ranking.criteria import Scores, confidence, evaluate_criterion, possible, variability
from pycat.ranking.top_k import top_k_within_budget
from pycat.scores.score_table import ScoreTable
from pycat.selection.stability import chance, shared, without_checkpoint

_MOST_DOMAINS = 15

# Columns of booleans that the data map marks.
_FLAGS = ("hard", "noisy")


@dataclass(frozen=True)
class DataMap:
    """N pairs by how probable their target tokens were, and how much that moved.

    Attributes:
        confidence, variability: mean and deviation over checkpoints of that probability, (N,).
        flags: columns of the table that say "hard" or "noisy", (N,) each.
        geometric: the probability is the geometric mean over tokens, exp(-nll / num_tokens), as
            the table holds no `p_target`.
    """

    confidence: Scores
    variability: Scores
    flags: dict[str, NDArray[np.bool_]]
    geometric: bool


@dataclass(frozen=True)
class Agreement:
    """How far other criteria would have chosen as this selection did.

    Attributes:
        names: C criteria, that of the selection first.
        correlations: Spearman's rank correlation of each two, (C, C); NaN where not defined.
        overlaps: Jaccard overlap of the kept pairs with as many of the highest by each of the
            others; empty where all pairs or none were kept.
        without_checkpoint: of the highest by the selection's own criterion with those that it
            gives without one checkpoint, in their order; may be empty.
        chance: what two random parts of that size share on average.
    """

    names: list[str]
    correlations: NDArray[np.float64]
    overlaps: dict[str, float]
    without_checkpoint: list[float]
    chance: float


@dataclass(frozen=True)
class Part:
    """Pairs that have something in common, and how many of them were kept."""

    name: str
    num_pairs: int
    num_kept: int

    @property
    def share(self) -> float:
        """Share kept; NaN of no pairs."""
        return self.num_kept / self.num_pairs if self.num_pairs else float("nan")


def data_map(table: ScoreTable) -> DataMap:
    """Dataset cartography (Swayamdipta et al. 2020, EMNLP) of the pairs."""
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
    """Compare a selection with what the table's other criteria rank highest.

    Args:
        table: N pairs.
        by: the selection's criterion.
        values: its scores (N,).
        rarity: of each pair (N,), read from the corpus already.
        kept: the selection (N,).
        seed: of the selection.
    """
    scores = {by: values}
    for name in possible(table):
        if name == "rarity":
            scores.setdefault(name, rarity)
        elif name not in (by, "random"):
            # What is not a number for some pair, of infinite perplexity, ranks nothing.
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
    """Kept pairs of each value of the column `domain`, if there is one: the largest ones first."""
    if "domain" not in table.names:
        return []
    domains = table.column("domain").astype(str)
    names, at, sizes = np.unique(domains, return_inverse=True, return_counts=True)
    num_kept = np.bincount(at[kept], minlength=len(names))
    order = np.argsort(-sizes, kind="stable")
    parts = [
        Part(str(names[i]), int(sizes[i]), int(num_kept[i])) for i in order[:_MOST_DOMAINS].tolist()
    ]
    if len(rest := order[_MOST_DOMAINS:]):
        parts.append(
            Part(f"{len(rest):,} others", int(sizes[rest].sum()), int(num_kept[rest].sum()))
        )
    return parts


def by_rule(corpus: Corpus, kept_ids: NDArray[np.int64]) -> Sequence[Part] | None:
    """Pairs of the corpus that break each rule; None if not measured, or damaged."""
    if not (corpus.path / RULES_FILE).is_file():
        return None
    kept = np.zeros(len(corpus), dtype=bool)
    kept[np.searchsorted(corpus.pair_ids, kept_ids)] = True
    try:
        return [
            Part(rule, int(np.count_nonzero(hit)), int(np.count_nonzero(hit & kept)))
            for rule, hit in RuleTable.open(corpus).each_hit()
        ]
    except OutputError:  # the next selection with rules measures them again, or says what is wrong
        return None
