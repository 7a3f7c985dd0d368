"""How stable a selection is: what it shares with those that would be made otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from pycat.errors import PycatError
from pycat.ranking.criteria import Criterion, criterion_name, evaluate_criterion, is_known
from pycat.ranking.top_k import top_k_within_budget
from pycat.scores.score_table import ScoreTable, as_table
from pycat.selection.selection import Selection


@dataclass(frozen=True)
class Stability:
    """Jaccard overlaps of the kept part with the same share kept otherwise, 0 to 1.

    Attributes:
        criteria: by other criteria on the same table, in the order given.
        tables: by the same criterion on other tables, in the order given.
        without_checkpoint: by the same criterion without one checkpoint, in their order; empty
            where fewer than two would be left, for a criterion at one checkpoint ("ppl@0"), or for
            what is not in `CRITERIA`.
        chance: what two random parts of that size share on average.
    """

    criteria: dict[str, float]
    tables: list[float]
    without_checkpoint: list[float]
    chance: float


def stability(
    scores: ScoreTable | str | PathLike[str],
    *,
    keep: float = 0.5,
    by: str | Criterion = "cat_var",
    criteria: Sequence[str | Criterion] = (),
    tables: Sequence[ScoreTable | str | PathLike[str]] = (),
    seed: int = 0,
) -> Stability:
    """Compare the top of a ranking with that of other rankings, before anyone trains on it.

    Args:
        scores: an open ScoreTable of N pairs, or the path of one.
        keep: fraction of the pairs, in (0, 1].
        by: the criterion.
        criteria: others to compare with.
        tables: of the same pairs under proxies of other seeds, sizes or training; or paths.
        seed: of "random".

    Raises:
        PycatError: a table has other pairs; or as `evaluate_criterion`.
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
    scores = evaluate_criterion(table, by, seed, checkpoints=checkpoints)
    return top_k_within_budget(scores, np.array([count]), np.zeros(len(table), np.int8))


def without_checkpoint(
    table: ScoreTable, by: str | Criterion, count: int, seed: int = 0
) -> list[float]:
    """What the `count` highest share with those of the same criterion less one checkpoint, each."""
    if not is_known(by) or "@" in criterion_name(by) or len(table.steps) < 3:
        return []
    all_of_them, ks = _top(table, by, count, seed), range(len(table.steps))
    return [
        shared(all_of_them, _top(table, by, count, seed, [k for k in ks if k != left_out]))
        for left_out in ks
    ]


def chance(count: int, num_pairs: int) -> float:
    """What two random parts of `count` pairs share on average."""
    return count / (2 * num_pairs - count)


def jaccard(a: Selection, b: Selection) -> float:
    """Pairs in both selections over pairs in either, 0 to 1.

    Raises:
        PycatError: they are selections of different corpora.
    """
    if a.manifest["corpus"] != b.manifest["corpus"]:
        raise PycatError(
            f"{a.path or 'selection'} and {b.path or 'selection'}: are of different corpora, whose "
            "pair ids mean different pairs; select from the same one"
        )
    both = len(np.intersect1d(a.pair_ids, b.pair_ids, assume_unique=True))
    return both / (len(a) + len(b) - both)


def shared(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Jaccard overlap of two parts of the same N pairs, 0 to 1; neither is empty."""
    return int((a & b).sum()) / int((a | b).sum())
