"""Stability of a selection: its overlap with those by other criteria, proxies and checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from pycat.errors import PycatError
from pycat.ranking.criteria import Criterion, criterion_name, evaluate_criterion, is_known
from pycat.ranking.top_k import top_k_within_budget
from pycat.scores.score_table import ScoreTable, as_table
from pycat.selection.recipe import PROXY_CRITERION
from pycat.selection.selection import Selection


@dataclass(frozen=True)
class Stability:
    """Jaccard overlaps, 0 to 1, of the kept pairs with as many that another ranking keeps.

    Attributes:
        criteria: overlap with each other criterion on the same table, in the order given.
        tables: overlap with the same criterion on each other table, in the order given.
        without_checkpoint: overlap with the same criterion without each checkpoint, in their order.
            Empty where fewer than two checkpoints would be left, for a criterion at one checkpoint
            ("ppl@0"), and for a criterion that is not in `CRITERIA`.
        chance: expected overlap of two random selections of that size.
    """

    criteria: dict[str, float]
    tables: list[float]
    without_checkpoint: list[float]
    chance: float


def stability(
    scores: ScoreTable | str | PathLike[str],
    *,
    keep: float = 0.5,
    by: str | Criterion = PROXY_CRITERION,
    criteria: Sequence[str | Criterion] = (),
    tables: Sequence[ScoreTable | str | PathLike[str]] = (),
    seed: int = 0,
) -> Stability:
    """Compare the top of a ranking with the top of other rankings.

    Neither rules nor noise filter are applied.

    Args:
        scores: an open ScoreTable of N pairs, or its path.
        keep: fraction of the pairs to keep, in (0, 1].
        by: the criterion.
        criteria: further criteria to compare with.
        tables: score tables of the same pairs under proxies of other seeds, sizes or training, or
            their paths.
        seed: seed of the criterion "random".

    Raises:
        PycatError: a table holds other pairs; or as `evaluate_criterion`.
    """
    table, *others = map(as_table, (scores, *tables))
    count = max(1, round(keep * len(table)))
    kept = _top(table, by, count, seed)
    for other in others:
        if other.manifest["recipe"]["corpus"] != table.manifest["recipe"]["corpus"]:
            raise PycatError(
                f"{other.path or 'score table'}: holds scores of other pairs than "
                f"{table.path or 'the first table'}; score the same corpus"
            )
    return Stability(
        criteria={
            criterion_name(other): shared(kept, _top(table, other, count, seed))
            for other in criteria
        },
        tables=[shared(kept, _top(other, by, count, seed)) for other in others],
        without_checkpoint=without_checkpoint(table, by, count, seed),
        chance=chance(count, len(table)),
    )


def _top(
    table: ScoreTable,
    by: str | Criterion,
    count: int,
    seed: int = 0,
    checkpoints: Sequence[int] | None = None,
) -> NDArray[np.bool_]:
    """The `count` highest pairs (N,) by a criterion."""
    scores = evaluate_criterion(table, by, seed, checkpoints=checkpoints)
    return top_k_within_budget(scores, np.array([count]), np.zeros(len(table), np.int8))


def without_checkpoint(
    table: ScoreTable, by: str | Criterion, count: int, seed: int = 0
) -> list[float]:
    """Overlap of the `count` highest pairs with those by the criterion without each checkpoint."""
    if not is_known(by) or "@" in criterion_name(by) or len(table.steps) < 3:
        return []
    all_of_them, ks = _top(table, by, count, seed), range(len(table.steps))
    return [
        shared(all_of_them, _top(table, by, count, seed, [k for k in ks if k != left_out]))
        for left_out in ks
    ]


def chance(count: int, num_pairs: int) -> float:
    """Expected Jaccard overlap of two random selections of `count` pairs."""
    return count / (2 * num_pairs - count)


def jaccard(a: Selection, b: Selection) -> float:
    """Number of pairs in both selections over that in either, 0 to 1.

    Raises:
        PycatError: the selections are of different corpora.
    """
    if a.manifest["corpus"] != b.manifest["corpus"]:
        raise PycatError(
            f"{a.path or 'selection'} and {b.path or 'selection'}: are of different corpora, whose "
            "pair ids mean different pairs; select from the same one"
        )
    both = len(np.intersect1d(a.pair_ids, b.pair_ids, assume_unique=True))
    return both / (len(a) + len(b) - both)


def shared(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Jaccard overlap, 0 to 1, of two masks (N,), neither of which is empty."""
    return int((a & b).sum()) / int((a | b).sum())
