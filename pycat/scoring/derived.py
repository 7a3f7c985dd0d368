"""Columns of several tables: means over proxies, and correlation with the loss of a dev set."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pycat.data.same_tokenizer import FurtherText, text_beside, tokenize_alike
from pycat.errors import PycatError
from pycat.ranking.criteria import evaluate_criterion, mean_of_ranks
from pycat.scores.score_table import ScoreTable, as_table
from pycat.scoring.engine import score

Table = ScoreTable | str | PathLike[str]
Text = FurtherText


def add_average(scores: Table, others: Sequence[Table], by: str, *, name: str) -> str:
    """Add a column: the mean over several proxies of a pair's rank by a criterion.

    Rankings by one short-lived proxy overlap only in part with those by another; their mean is
    steadier. Ranks are shares, as in `mean_of_ranks`.

    Args:
        scores: the table to add to, or its path.
        others: tables of the same pairs under other proxies.
        by: the criterion, of each table.
        name: of the column.

    Returns:
        The column's name.

    Raises:
        PycatError: a table is of other pairs, the name is taken or not allowed; or as
            `evaluate_criterion`.
    """
    table, *more = map(as_table, (scores, *others))
    table.check_name(name)
    if not more:
        raise PycatError("average: found one table, expected two or more, of several proxies")
    for other in more:
        if other.manifest["recipe"]["corpus"] != table.manifest["recipe"]["corpus"]:
            raise PycatError(
                f"{other.path or 'score table'}: holds scores of other pairs than "
                f"{table.path or 'the first table'}; score the same corpus"
            )
    table.add(name, mean_of_ranks(evaluate_criterion(each, by) for each in (table, *more)))
    return name


def cld(nll: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation over checkpoints of a pair's changes of loss with those of a reference: (N,).

    Pearson's correlation of nll[:, k + 1] - nll[:, k] with the same of the reference; 0 where
    either does not vary. With K checkpoints it is of K - 1 points: take ten or more.

    Args:
        nll: mean nll of each pair (N, K), in nats a token.
        reference: that of a dev set (K,).

    Source: correlation of loss differences, 2025, arXiv:2508.20230.
    """
    steps, wanted = np.diff(nll, axis=1), np.diff(reference)
    steps = steps - steps.mean(axis=1, keepdims=True)
    wanted = wanted - wanted.mean()
    scale = np.sqrt((steps**2).sum(axis=1) * (wanted @ wanted))
    correlation: NDArray[np.float64] = np.divide(
        steps @ wanted, scale, out=np.zeros(len(nll)), where=scale > 1e-12
    )
    return correlation


def add_cld(
    scores: Table,
    dev: Text,
    *,
    checkpoints: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    name: str = "cld",
    device: str = "auto",
    overwrite: bool = False,
) -> str:
    """Add a column of `cld`: how far a pair is learned when a dev set is.

    Args:
        scores: a table of three checkpoints or more, or its path.
        dev: the dev set: two files, or one of both sides as a test set of `evaluate`.
        checkpoints: those that the table was scored with.
        out: the folder to make: `corpus` and `scores` of the dev set.
        name: of the column.
        device: "cpu", "cuda" or "auto".
        overwrite: replace what was made of another dev set.

    Returns:
        The column's name.

    Raises:
        PycatError: fewer than three checkpoints, or others than the table's; or the name is taken
            or not allowed.
        CheckpointError, CorpusError, TextError, OutputError: as `tokenize` and `score`.
    """
    table, folder = as_table(scores), Path(out)
    table.check_name(name)
    if table.num_checkpoints < 3:
        raise PycatError(
            f"{table.path or 'score table'}: holds {table.num_checkpoints} checkpoints, expected 3 "
            "or more: a correlation takes two changes of loss at least"
        )
    corpus = table.view_of(table.corpus())
    text = text_beside(dev, corpus)
    held_out = tokenize_alike(text, corpus, folder / "corpus", overwrite=overwrite)
    found = score(
        held_out,
        checkpoints,
        out=folder / "scores",
        stats="nll",
        device=device,
        overwrite=overwrite,
    )
    if found.manifest["recipe"]["checkpoints"] != table.manifest["recipe"]["checkpoints"]:
        raise PycatError(
            f"{table.path or 'score table'}: was scored with other checkpoints than those given; "
            "pass the same ones, in their order"
        )
    reference = found.nll.sum(axis=0) / found.num_tokens.sum()
    values = np.empty(len(table))
    for rows, chunk in table.chunks():
        values[rows] = cld(chunk.nll / chunk.num_tokens[:, None], reference)
    table.add(name, values)
    return name
