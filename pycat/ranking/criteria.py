"""Criteria: functions from a pair's statistics to one score. The highest score ranks first.

Each is a pure function of arrays, with N pairs in pair order and K checkpoints in training order.
Unless stated otherwise an argument (N, K) is a mean over a pair's target tokens, EOS counted: the
table's sum divided by `num_tokens`. Early and late checkpoints are the first and the last half, at
least one, without the middle one of an odd number.

`CRITERIA` holds the criteria that have names. Most are evaluated a chunk of the table at a time, so
that memory holds one float64 score a pair.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pycat.errors import PycatError
from pycat.ranking import sql
from pycat.ranking.coverage import coverage
from pycat.ranking.ranks import average_ranks
from pycat.ranking.rarity import token_rarity
from pycat.ranking.top_k import chunked
from pycat.scores.score_table import ScoreTable

Scores = NDArray[np.float64]
Criterion = Callable[[ScoreTable], Scores]
Given = Mapping[str, Callable[[], Scores]]

# So many rows of K = 5 checkpoints, and their intermediate results, fit into a core's L2 cache.
_BLOCK_ROWS = 8192

# Share of the pairs whose perplexity `cat_var_clipped` leaves as it is.
_CLIPPED_QUANTILE = 0.95


def cat_var(ppl: Scores) -> Scores:
    """Population variance of perplexity (N, K) over checkpoints: (N,).

    Source: CAT-VAR, Chimoto et al. 2024, arXiv:2405.19462.
    """
    variance: Scores = ppl.var(axis=1)
    return variance


def cat_diff(ppl: Scores) -> Scores:
    """Perplexity (N, K) at the first checkpoint minus that at the last: (N,).

    Source: CAT-DIFF, Chimoto et al. 2024, arXiv:2405.19462.
    """
    difference: Scores = ppl[:, 0] - ppl[:, -1]
    return difference


def cat_var_log(nll: Scores) -> Scores:
    """Population variance of nll (N, K), the logarithm of perplexity, over checkpoints: (N,).

    Depends less than CAT-VAR on the perplexity at the first checkpoint: halving it counts the same
    at any height.
    """
    return cat_var(nll)


def cat_var_rank(nll: Iterable[Scores]) -> Scores:
    """Population variance over checkpoints of a pair's rank among all pairs: (N,).

    The rank at a checkpoint is that of the pair's nll, which is that of its perplexity, divided by
    N: 1/N is the lowest, 1 the highest, and equal values share their average. The score measures
    how far a pair moves among the others; a fall that all pairs share does not count.

    Args:
        nll: K arrays (N,), read one at a time. Ranking an array takes up to 90 bytes a pair.
    """
    k, mean, squares = 0, np.zeros(1), np.zeros(1)
    for column in nll:  # without enumerate(), which would hold a column while the next is made
        k += 1
        share = average_ranks(column) / len(column)
        difference = share - mean  # Welford's update
        mean = mean + difference / k
        squares = squares + difference * (share - mean)
        del column, share, difference
    return squares / k


def cat_var_clipped(ppl: Scores, ceilings: NDArray[np.float64]) -> Scores:
    """Population variance over checkpoints of perplexity (N, K) clipped at `ceilings` (K,): (N,).

    The named criterion clips each checkpoint at the 95 % quantile of its perplexity. The highest
    perplexities of the first checkpoint, among which is noise, then differ no more.
    """
    return cat_var(np.minimum(ppl, ceilings))


def ppl(nll: Scores) -> Scores:
    """Perplexity exp(nll) at one checkpoint, of nll (N,): (N,)."""
    perplexity: Scores = np.exp(nll)
    return perplexity


def confidence(p_target: Scores) -> Scores:
    """Mean over checkpoints of the probability of the target token (N, K): (N,).

    Source: Swayamdipta et al. 2020 (Dataset Cartography, EMNLP), with tokens in place of labels.
    """
    mean: Scores = p_target.mean(axis=1)
    return mean


def variability(p_target: Scores) -> Scores:
    """Standard deviation over checkpoints of the probability of the target token (N, K): (N,).

    Source: as `confidence`. The mean over tokens is taken first.
    """
    deviation: Scores = p_target.std(axis=1)
    return deviation


def correctness(correct: Scores) -> Scores:
    """Share of tokens and checkpoints where the target is the most likely token: (N,).

    Source: as `confidence`. Argument `correct` (N, K).
    """
    mean: Scores = correct.mean(axis=1)
    return mean


def forgetting(correct: Scores) -> Scores:
    """Sum over consecutive checkpoints of max(0, fall of `correct` (N, K)): (N,).

    A lower bound of the forgetting events per token. Sums do not tell tokens apart: a token that is
    learned hides another that is forgotten at the same checkpoint.

    Source: forgetting events, Toneva et al. 2019 (ICLR), adapted to sums.
    """
    falls: Scores = np.maximum(0.0, correct[:, :-1] - correct[:, 1:]).sum(axis=1)
    return falls


def aum(margin: Scores) -> Scores:
    """Area under the margin: mean over checkpoints of the target's logit minus the best other's.

    Source: Pleiss et al. 2020 (NeurIPS). Argument `margin` (N, K); low values are suspect: "-aum".
    """
    mean: Scores = margin.mean(axis=1)
    return mean


def el2n(el2n: Scores) -> Scores:
    """Mean over checkpoints of the error norm ||p - onehot(y)|| (N, K), 0 to sqrt 2: (N,).

    Source: EL2N, Paul et al. 2021 (NeurIPS), who average early networks of several runs.
    """
    mean: Scores = el2n.mean(axis=1)
    return mean


def ign(grad_norm_bound: Scores) -> Scores:
    """Mean over early checkpoints of the output layer's gradient norm (N, K), bounded above: (N,).

    Per token the norm is exact, EL2N times that of the hidden state; its mean over tokens bounds
    the norm of a sentence's mean gradient.

    Source: GraNd, Paul et al. 2021 (NeurIPS); the last layer stands for all of them as in the
    importance sampling of Katharopoulos and Fleuret 2018 (ICML).
    """
    mean: Scores = _early(grad_norm_bound).mean(axis=1)
    return mean


def entropy(entropy: Scores) -> Scores:
    """Entropy (N,) of the predicted distribution at one checkpoint, in nats: unchanged.

    Source: uncertainty sampling, Lewis and Gale 1994 (SIGIR).
    """
    return entropy


def learnability(nll: Scores) -> Scores:
    """Mean of nll (N, K) over early minus mean over late checkpoints, in nats a token: (N,).

    Source: the learnability score of Mindermann et al. 2022 (RHO-LOSS, ICML), with late checkpoints
    in place of a model trained on held-out data.
    """
    fall: Scores = _early(nll).mean(axis=1) - _early(nll[:, ::-1]).mean(axis=1)
    return fall


def noise(noise_score: Scores) -> Scores:
    """Minus the noise score (N,) of `pycat.filters.noise`: the lowest comes first, and NaN last."""
    cleanness: Scores = np.where(np.isnan(noise_score), -np.inf, -noise_score)
    return cleanness


def length(num_tokens: NDArray[np.int32]) -> Scores:
    """Target tokens (N,), EOS counted: the baseline that keeps the longest."""
    return num_tokens.astype(np.float64)


def rarity(table: ScoreTable) -> Scores:
    """Mean over target tokens of -log2 of the token's share of all target tokens, in bits: (N,).

    Counts are over the pairs in the table, without EOS. A column `rarity` of the table is returned
    as it is; without one the corpus is read twice.

    Raises:
        CorpusError: the corpus is gone or damaged.
        PycatError: another corpus stands in its place.
    """
    if "rarity" in table.names:
        return table.column("rarity").astype(np.float64)
    return token_rarity(table.view_of(table.corpus())).astype(np.float64)


def random(pair_ids: NDArray[np.int64], seed: int) -> Scores:
    """A number in [0, 1) that depends on pair id and seed alone: (N,).

    Source: the output function of SplitMix64, Steele, Lea and Flood 2014 (OOPSLA).
    """
    stream = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    z = pair_ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + stream
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    uniform: Scores = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


class _Rule(NamedTuple):
    """How a named criterion is evaluated.

    Attributes:
        function: from its argument to scores (N,).
        statistic: the statistic of the table that it needs; "" where it needs no proxy.
        shape: its argument. "trajectory": means over tokens (N, K); "checkpoint": means at one
            checkpoint (N,); "perplexity": (N, K); "chunk": a chunk of the table, and the seed;
            "table": the whole table, and the checkpoints; "given": (N,), from outside the table.
    """

    function: Callable[..., Scores]
    statistic: str
    shape: str


CRITERIA: dict[str, _Rule] = {
    "cat_var": _Rule(cat_var, "nll", "perplexity"),
    "cat_diff": _Rule(cat_diff, "nll", "perplexity"),
    "cat_var_log": _Rule(cat_var_log, "nll", "trajectory"),
    "cat_var_rank": _Rule(lambda table, ks: cat_var_rank(_each(table, ks)), "nll", "table"),
    "cat_var_clipped": _Rule(lambda table, ks: _clipped(table, ks), "nll", "table"),
    "ppl": _Rule(ppl, "nll", "checkpoint"),
    "confidence": _Rule(confidence, "p_target", "trajectory"),
    "variability": _Rule(variability, "p_target", "trajectory"),
    "correctness": _Rule(correctness, "correct", "trajectory"),
    "forgetting": _Rule(forgetting, "correct", "trajectory"),
    "aum": _Rule(aum, "margin", "trajectory"),
    "el2n": _Rule(el2n, "el2n", "trajectory"),
    "ign": _Rule(ign, "grad_norm_bound", "trajectory"),
    "entropy": _Rule(entropy, "entropy", "checkpoint"),
    "learnability": _Rule(learnability, "nll", "trajectory"),
    "noise": _Rule(noise, "", "given"),
    "fitted_noise": _Rule(noise, "", "given"),
    "coverage": _Rule(lambda gains: gains, "", "given"),
    "length": _Rule(lambda chunk, seed: length(chunk.num_tokens), "", "chunk"),
    "rarity": _Rule(lambda table, ks: rarity(table), "", "table"),
    "random": _Rule(lambda chunk, seed: random(chunk.pair_ids, seed), "", "chunk"),
}

# Functions of one checkpoint, for "@k". Without "@k" EL2N is a mean over checkpoints.
_AT_CHECKPOINT: dict[str, Callable[[Scores], Scores]] = {
    "ppl": ppl,
    "entropy": entropy,
    "el2n": lambda values: values,
}
# Criteria of the difference between checkpoints, which is nothing where there is one.
_OF_MOVEMENT = (
    "cat_var",
    "cat_diff",
    "cat_var_log",
    "cat_var_rank",
    "cat_var_clipped",
    "variability",
    "forgetting",
    "learnability",
)
_SQL = "sql:"
# Shapes of the arguments that a table has by itself.
_OF_TABLES = ("trajectory", "checkpoint", "perplexity", "chunk", "table")


def evaluate_criterion(
    table: ScoreTable,
    by: str | Criterion,
    seed: int = 0,
    *,
    checkpoints: Sequence[int] | None = None,
    given: Given | None = None,
) -> Scores:
    """Scores (N,) of a criterion.

    Args:
        table: N pairs.
        by: a name in `CRITERIA`, of which "ppl", "entropy" and "el2n" may name a checkpoint
            ("ppl@0", "ppl@-1" for the last); a column of the table; "sql: " and an expression over
            its columns; each of these after a "-", which ranks the lowest first; several of these,
            but no expression, with "+" between them: the mean of their ranks, as `mean_of_ranks`;
            or a function from the whole table to (N,).
        seed: of "random".
        checkpoints: indices from 0, ascending, that criteria in `CRITERIA` are evaluated on; all
            unless given. Ignored by other criteria, and by one that names a checkpoint.
        given: functions for what a table does not tell: "noise" gives the noise scores (N,), which
            are `Measures.noise_score`, "fitted_noise" those of `pycat.filters.noise_share`, and
            "coverage" the gains (N,), by default of a choice of all
            pairs.

    Raises:
        PycatError: no such criterion, the table lacks what it needs, or a score is not a number.
    """
    check_criterion(by, table)
    if len(members := members_of(by)) > 1:
        return mean_of_ranks(
            evaluate_criterion(table, member, seed, checkpoints=checkpoints, given=given)
            for member in members
        )
    # A score that overflows is infinite, and ranks as such. NaN is refused below.
    with np.errstate(over="ignore", invalid="ignore"):
        scores = _evaluate(table, by, seed, checkpoints, given or {})
    name = criterion_name(by)
    if scores.shape != (len(table),):
        raise PycatError(
            f"criterion {name} returned shape {scores.shape}; expected ({len(table)},), one score "
            "a pair"
        )
    if not callable(by) and by.startswith("-"):
        np.negative(scores, out=scores)
    for rows in chunked(len(scores)):
        if np.isnan(scores[rows]).any():
            row = rows.start + int(np.isnan(scores[rows]).argmax())
            [pair] = table.rows(["pair"], row, row + 1)["pair"].to_pylist()
            raise PycatError(
                f"criterion {name} is not a number for pair {pair:,}; it cannot be ranked"
            )
    return scores


def mean_of_ranks(members: Iterable[Scores]) -> Scores:
    """Mean (N,) over several criteria of a pair's rank among all N pairs, divided by N.

    The highest score of each has rank 1, the lowest 1/N, and equal ones share their average.

    Args:
        members: scores (N,) each, read one at a time. Ranking them takes up to 90 bytes a pair.
    """
    count, total = 0, np.zeros(1)
    for scores in members:
        count += 1
        total = total + average_ranks(scores) / len(scores)
        del scores
    return total / count


def criterion_name(by: str | Criterion) -> str:
    """Name of a criterion in messages and recipes."""
    return by if isinstance(by, str) else getattr(by, "__name__", "function")


def is_sql(by: str | Criterion) -> bool:
    """Whether a criterion is an expression in SQL."""
    return not callable(by) and by.removeprefix("-").startswith(_SQL)


def members_of(by: str | Criterion) -> list[str | Criterion]:
    """The criteria whose ranks are averaged; a criterion that is not of several is its only one."""
    if callable(by) or is_sql(by):
        return [by]
    return [*by.split("+")]


def uses_seed(by: str | Criterion) -> bool:
    """Whether the seed changes the scores of a criterion."""
    return is_of(by, "random")


def is_of(by: str | Criterion, name: str) -> bool:
    """Whether a criterion is this one, either way round, or one of several is."""
    return any(
        not callable(member) and member.removeprefix("-") == name for member in members_of(by)
    )


def needs_proxy(by: str | Criterion) -> bool:
    """Whether a criterion in `CRITERIA`, or one of several, reads the scores of a proxy."""
    names = (_parsed(member)[0] for member in members_of(by) if not callable(member))
    return any(name in CRITERIA and CRITERIA[name].statistic != "" for name in names)


def possible(table: ScoreTable) -> list[str]:
    """Names in `CRITERIA` that the table alone tells."""
    return [
        name
        for name, rule in CRITERIA.items()
        if rule.shape in _OF_TABLES and (not rule.statistic or f"{rule.statistic}_0" in table.names)
    ]


def is_known(by: str | Criterion) -> bool:
    """Whether names in `CRITERIA` and the table's own statistics tell a criterion.

    They do not tell a function, an expression, an added column, or what measures say.
    """
    return all(
        not callable(member)
        and (name := _parsed(member)[0]) in CRITERIA
        and CRITERIA[name].shape in _OF_TABLES
        for member in members_of(by)
    )


def check_criterion(by: str | Criterion, table: ScoreTable | None = None) -> None:
    """Refuse an unknown criterion or, given a table, a criterion whose columns it lacks.

    Raises:
        PycatError: says what was expected.
    """
    if callable(by):
        return
    if is_sql(by):
        sql.check_expression(by.removeprefix("-").removeprefix(_SQL).strip())
        return
    if len(members := members_of(by)) > 1:
        for member in members:
            if is_sql(member):
                raise PycatError(
                    f"criterion {by!r}: {member!r} is an expression, and a mean of ranks takes "
                    "none; add its values to the table as a column (ScoreTable.add), and name that"
                )
            check_criterion(member, table)
        return
    name, checkpoint = _parsed(by)
    if checkpoint is None and table is not None and name not in CRITERIA and name in table.names:
        return
    if name not in CRITERIA:
        columns = () if table is None else [*table.names]
        raise PycatError(
            f"criterion {by!r} is not known; expected one of {', '.join(CRITERIA)}, a column of "
            f"the table{' (' + ', '.join(columns) + ')' if columns else ''}, or 'sql: …'"
        )
    if checkpoint is not None and name not in _AT_CHECKPOINT:
        raise PycatError(
            f"criterion {by!r}: only {', '.join(_AT_CHECKPOINT)} are had at one checkpoint; leave "
            f"out @{checkpoint}"
        )
    statistic = CRITERIA[name].statistic
    if table is None or not statistic:
        return
    num_checkpoints = _num_checkpoints(table)
    if num_checkpoints == 0:
        without = ", ".join(name for name, rule in CRITERIA.items() if not rule.statistic)
        raise PycatError(
            f"criterion {name} needs the scores of a proxy, and there are none; score the corpus, "
            f"or choose a criterion that needs none: {without}"
        )
    if num_checkpoints == 1 and name in _OF_MOVEMENT:
        raise PycatError(
            f"criterion {name} tells how scores move between checkpoints, and the table has one; "
            "rank by the lowest perplexity (--by=-ppl), or score with more checkpoints"
        )
    if checkpoint is not None and not -num_checkpoints <= checkpoint < num_checkpoints:
        raise PycatError(
            f"criterion {by!r}: the table has {num_checkpoints} checkpoints, expected 0 to "
            f"{num_checkpoints - 1} after the @, or -1 for the last"
        )
    if f"{statistic}_0" not in table.names:
        raise PycatError(
            f"{table.path or 'score table'}: criterion {name} needs the columns {statistic}_0 to "
            f"{statistic}_{num_checkpoints - 1}, which this table lacks; score again with "
            "--stats all (stats='all')"
        )


def _parsed(by: str) -> tuple[str, int | None]:
    """The name without its sign, and the checkpoint after an @."""
    name = by.removeprefix("-")
    at = re.fullmatch(r"(\w+)@(-?\d+)", name)
    return (at[1], int(at[2])) if at else (name, None)


def _evaluate(
    table: ScoreTable,
    by: str | Criterion,
    seed: int,
    checkpoints: Sequence[int] | None,
    given: Given,
) -> Scores:
    if callable(by):
        return np.array(by(table), dtype=np.float64)
    if (expression := by.removeprefix("-")).startswith(_SQL):
        return sql.evaluate(table, expression.removeprefix(_SQL).strip())
    name, at = _parsed(by)
    num_checkpoints = _num_checkpoints(table)
    ks = [*(range(num_checkpoints) if checkpoints is None else checkpoints)]
    rule = CRITERIA.get(name)
    if rule is None:
        return _of_chunks(table, lambda chunk: _column(chunk, name))
    function, statistic, shape = rule
    if shape == "table":
        return function(table, ks)
    if shape == "given":
        if name in given:
            return function(given[name]())
        if name != "coverage":
            raise PycatError(f"criterion {name} needs measures of the corpus; pass them")
        everything = np.ones(len(table), dtype=bool)
        return function(coverage(table.view_of(table.corpus()), everything, len(table)))
    if shape == "chunk":
        return _of_chunks(table, lambda chunk: function(chunk, seed))
    if shape == "checkpoint" or at is not None:
        k = ks[-1] if at is None else range(num_checkpoints)[at]
        at_one = _AT_CHECKPOINT[name]
        return _of_means(table, statistic, [k], lambda means: at_one(means[:, 0]))
    if shape == "perplexity":
        return _of_means(table, statistic, ks, lambda means: function(np.exp(means, out=means)))
    return _of_means(table, statistic, ks, function)


def _of_chunks(table: ScoreTable, function: Callable[[ScoreTable], NDArray[Any]]) -> Scores:
    """Concatenate `function` of each chunk: (N,)."""
    scores = np.empty(len(table))

    def fill(rows: slice, chunk: ScoreTable) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # a thread does not inherit it
            scores[rows] = function(chunk)

    for _ in table.on_chunks(fill):
        pass
    return scores


def _of_means(
    table: ScoreTable, statistic: str, ks: Sequence[int], function: Callable[[Scores], Scores]
) -> Scores:
    """Evaluate `function` on means over tokens (rows, K), which it may overwrite: (N,).

    It gets few rows at a time, in column-major order, so that its intermediate results stay in the
    cache: several times as fast as a whole chunk. It never gets a single row, because numpy would
    sum the checkpoints of one row in another order, and equal pairs must get equal scores.
    """
    names = [f"{statistic}_{k}" for k in ks]

    def of_chunk(chunk: ScoreTable) -> Scores:
        read = chunk.rows([*names, "num_tokens"], 0, len(chunk))
        *sums, num_tokens = (column.to_numpy() for column in read.columns)
        scores = np.empty(len(chunk))
        for first in range(0, len(chunk), _BLOCK_ROWS):
            rows = slice(first, min(first + _BLOCK_ROWS, len(chunk)))
            count = rows.stop - first
            means = np.empty((max(count, 2), len(ks)), order="F")
            tokens = num_tokens[rows].astype(np.float64)
            for k, column in enumerate(sums):
                np.divide(column[rows], tokens, out=means[:count, k])
            means[count:] = means[0]
            scores[rows] = function(means)[:count]
        return scores

    return _of_chunks(table, of_chunk)


def _column(chunk: ScoreTable, name: str) -> NDArray[Any]:
    column = chunk.column(name)
    if column.dtype.kind not in "biuf":
        raise PycatError(f"column {name} holds {column.dtype}, expected numbers to rank by")
    return column


def _early(values: Scores) -> Scores:
    return values[:, : max(1, values.shape[1] // 2)]


def _num_checkpoints(table: ScoreTable) -> int:
    return sum(re.fullmatch(r"nll_\d+", name) is not None for name in table.names)


def _each(table: ScoreTable, checkpoints: Sequence[int]) -> Iterator[Scores]:
    """Yield nll per token (N,), checkpoint by checkpoint."""
    for k in checkpoints:
        yield _of_means(table, "nll", [k], lambda means: means[:, 0])


def _clipped(table: ScoreTable, checkpoints: Sequence[int]) -> Scores:
    """`cat_var_clipped` with the quantiles as ceilings; holds one column at a time."""
    at = int(np.ceil(_CLIPPED_QUANTILE * len(table))) - 1
    ceilings = []
    for column in _each(table, checkpoints):
        column.partition(at)
        ceilings.append(np.exp(column[at]))
        del column
    clipped_at = np.array(ceilings)  # (K,)
    return _of_means(
        table, "nll", checkpoints, lambda means: cat_var_clipped(np.exp(means), clipped_at)
    )
