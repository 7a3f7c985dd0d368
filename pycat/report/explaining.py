"""Explanation of one pair: its text, its rank by every criterion, and the step that decided."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import numpy as np

from pycat.data.corpus import Corpus
from pycat.errors import OutputError, PycatError
from pycat.filters.measures import Measures, all_finished, find_measures, no_measures
from pycat.filters.noise import corpus_signals, surprise_evidence
from pycat.filters.rules import recorded_rules
from pycat.ranking.criteria import Given, Scores, evaluate_criterion, is_of, is_sql, possible
from pycat.ranking.ranks import perplexity
from pycat.report.examples import texts_of
from pycat.report.formatting import number
from pycat.scores.sampling import evenly, take
from pycat.scores.score_table import ScoreTable, as_table
from pycat.scores.unscored import unscored
from pycat.selection.choice import Choice, recorded_scores
from pycat.selection.recipe import Recipe
from pycat.selection.replaying import check_made_from, choose_again
from pycat.selection.selecting import choose_measured
from pycat.selection.selection import Selection

# Percentiles are taken among at most so many pairs, evenly drawn. They are then right to about 0.1.
_MAX_PAIRS = 250_000

# Statistics shown at every checkpoint, each as a mean over target tokens.
_TRAJECTORIES = ("p_target", "el2n", "margin", "entropy")


@dataclass(frozen=True)
class Standing:
    """A pair's value by a criterion, and the percentage of pairs with a lower one."""

    value: float
    percentile: float


@dataclass(frozen=True)
class Decision:
    """What a selection did with a pair.

    Attributes:
        kept: the pair is in the selection.
        step: the step that decided: "rules", "guard", "drop CRITERION", "cap", "tails", "range" or
            "cut";
            "not known" where the selection cannot be made again.
        reason: the decision in words, with the pair's score and the threshold.
    """

    kept: bool
    step: str
    reason: str


@dataclass(frozen=True)
class Explanation:
    """A pair's text, statistics, ranks, and what a selection did with it.

    Attributes:
        pair: id of the pair.
        line: its line in the text, from 1; None where the corpus was not made from text.
        text: source and target sentence; None where neither text nor tokenizer can be read.
        text_problem: why the sentences come from tokens, or why there are none; None where they
            are the original text.
        num_src_tokens, num_tokens: source and target tokens, EOS counted.
        steps: the K checkpoints, in updates.
        trajectory: K values for each of "ppl" and, where the table holds them, "p_target", "el2n",
            "margin" and "entropy": means over target tokens.
        criteria: value and percentile by every criterion that the table allows, and by every
            column of numbers that was added to the table.
        num_ranked: number of pairs that the percentiles were taken among: all, or every n-th of a
            large table.
        decision: what the selection did; None where no selection was given.
        rules: names of the rules that the pair breaks; None where rules were not measured or
            cannot be read.
        default_rules: `rules` holds at the default thresholds, since the selection has no rules or
            none was given.
    """

    pair: int
    line: int | None
    text: tuple[str, str] | None
    text_problem: str | None
    num_src_tokens: int
    num_tokens: int
    steps: list[int]
    trajectory: dict[str, list[float]]
    criteria: dict[str, Standing]
    num_ranked: int
    decision: Decision | None
    rules: list[str] | None
    default_rules: bool

    def json(self) -> dict[str, Any]:
        """All attributes as JSON values; a number that is not finite becomes null."""
        values: dict[str, Any] = _finite(asdict(self))
        return values


def explain(
    scores: ScoreTable | Corpus | str | PathLike[str],
    pair: int,
    *,
    selection: Selection | str | PathLike[str] | None = None,
    measures: Measures | str | PathLike[str] | None = None,
) -> Explanation:
    """Gather what a score table, its corpus and a selection say about one pair.

    The text is read once and the table by columns. A selection is made again, to see which of its
    steps decided.

    Args:
        scores: an open ScoreTable, or its path; or an open Corpus, for a selection made from that.
        pair: id of the pair.
        selection: a Selection made from that table, or its path.
        measures: what `pycat.measure` measured of the corpus, or the path of its folder; by default
            looked for as in `select`.

    Returns:
        The explanation; `decision` is None without a selection, `rules` without measures.

    Raises:
        PycatError: the table holds no such pair, the selection was made from another table, or the
            measures given are of another corpus.
        CorpusError: the corpus is gone or damaged.
    """
    table = unscored(scores) if isinstance(scores, Corpus) else as_table(scores)
    pair_ids = table.pair_ids
    row = int(np.searchsorted(pair_ids, pair))
    if row == len(pair_ids) or pair_ids[row] != pair:
        raise PycatError(
            f"pair {pair:,}: {table.path or 'the score table'} has no pair of this id; expected "
            f"one of its {len(table):,} ids, which run from {pair_ids[0]:,} to {pair_ids[-1]:,}"
        )
    corpus = table.corpus()
    if selection is not None and not isinstance(selection, Selection):
        selection = Selection.open(selection)
    measured = readable_measures(table, corpus, measures)
    decision = None if selection is None else _decision(table, row, pair, selection, measured)
    thresholds = None if selection is None else selection.manifest["recipe"].get("rules")
    rows = np.union1d(evenly(len(table), _MAX_PAIRS), [row])
    sample = take(table, rows)
    sample_row = int(np.searchsorted(rows, row))
    text, problem = _text(corpus, pair)
    return Explanation(
        pair=pair,
        line=int(corpus.lines[pair]) + 1 if corpus.has_text else None,
        text=text,
        text_problem=problem,
        num_src_tokens=int(sample.num_src_tokens[sample_row]),
        num_tokens=int(sample.num_tokens[sample_row]),
        steps=table.steps,
        trajectory=_trajectory(sample, sample_row),
        criteria={name: _standing(sample, name, sample_row) for name in _rankable(sample)},
        num_ranked=len(rows),
        decision=decision,
        rules=_broken_rules(measured, table.view_of(corpus), row, thresholds),
        default_rules=thresholds is None,
    )


def _trajectory(table: ScoreTable, row: int) -> dict[str, list[float]]:
    """Perplexity and the table's further statistics of one pair, at each checkpoint."""
    if table.num_checkpoints == 0:
        return {}
    num_tokens = int(table.num_tokens[row])
    trajectory = {"ppl": perplexity(table.nll[row] / num_tokens).tolist()}
    for name in _TRAJECTORIES:
        if name in table.statistics:
            trajectory[name] = (table.column(name)[row] / num_tokens).tolist()
    return trajectory


def _rankable(table: ScoreTable) -> list[str]:
    """Criteria that the table allows, except "random", and added columns of numbers."""
    criteria = [name for name in possible(table) if name != "random"]
    recorded = [f"{name}_{k}" for name in table.statistics for k in range(table.num_checkpoints)]
    known = {"pair", "num_src_tokens", "num_tokens", *recorded, *criteria}
    added = [name for name in table.names if name not in known]
    return [*criteria, *(name for name in added if table.column(name).dtype.kind in "iuf")]


def _standing(table: ScoreTable, name: str, row: int) -> Standing:
    """The pair's value by a criterion, and its percentile among the values that are not NaN."""
    with np.errstate(over="ignore"):
        values = (
            table.column(name).astype(np.float64)
            if name in table.names
            else evaluate_criterion(table, name)
        )
    value = float(values[row])
    if np.isnan(value):
        return Standing(value, float("nan"))
    num_compared = np.count_nonzero(~np.isnan(values))
    num_lower = np.count_nonzero(values < value)
    return Standing(value, 100 * num_lower / num_compared)


def _text(corpus: Corpus, pair: int) -> tuple[tuple[str, str] | None, str | None]:
    """Both sentences, or None; and the reason where they are not the original text."""
    try:
        texts, problem = texts_of(corpus, np.array([pair]))
    except PycatError as error:
        return None, str(error)
    return texts[0], problem


def ranking_scores(
    selection: Selection, table: ScoreTable, corpus: Corpus, measures: Measures | None
) -> Scores:
    """The scores (N,) by which a selection of the table's pairs was ranked.

    Raises:
        PycatError: the criterion is a function without a known name, or SQL whose scores were not
            recorded, which is not run; or measures are gone.
    """
    recipe = selection.manifest["recipe"]
    by, seed = recipe["criterion"], recipe["seed"] or 0
    if is_sql(by):
        return recorded_scores(by, selection.sql_scores(), "by", len(table))
    # What a pair adds depends on the pairs before it, and what is noise on what the rules leave.
    if is_of(by, "coverage") or is_of(by, "fitted_noise"):
        choice, _ = choose_measured(
            table,
            corpus,
            Recipe.of_manifest(selection.manifest),
            measures,
            selection.sql_scores(),
        )
        return choice.scores
    if measures is None and is_of(by, "noise"):
        raise no_measures(table, corpus)
    with np.errstate(over="ignore"):
        return evaluate_criterion(table, by, seed, given=_noise_of(table, corpus, measures))


def _noise_of(table: ScoreTable, corpus: Corpus, measures: Measures | None) -> Given:
    """What `evaluate_criterion` is given for the criterion "noise"."""
    if measures is None:
        return {}
    return {"noise": lambda: measures.of(corpus).noise_score(table)}


def readable_measures(
    table: ScoreTable, corpus: Corpus, given: Measures | str | PathLike[str] | None
) -> Measures | None:
    """`find_measures`; None, too, where those that are found are unfinished or of an older pycat.

    Raises:
        OutputError: the measures given cannot be opened, or are of another corpus; or those that
            are found are damaged.
    """
    try:
        return find_measures(table, corpus, given)
    except OutputError:
        if given is not None or all_finished(table, corpus):
            raise
        return None


def _broken_rules(
    measures: Measures | None,
    corpus: Corpus,
    row: int,
    thresholds: Mapping[str, float | None] | None,
) -> list[str] | None:
    """Rules that the pair breaks at the given thresholds, or None where they were not measured."""
    if measures is None or not corpus.has_text:
        return None
    rules = None if thresholds is None else recorded_rules(thresholds)
    return measures.of(corpus).broken_by(row, rules)


def _strongest_signals(
    table: ScoreTable, corpus: Corpus, measures: Measures, row: int, pair: int
) -> str:
    """The two noise signals that rank the pair highest, in words.

    Those of the corpus rank it among all pairs of the corpus, surprise among those of the table.
    """
    signals = {
        name: float(ranked[pair])
        for name, ranked in corpus_signals(
            measures.of(corpus).column, *corpus.lengths, has_text=corpus.has_text
        )
    }
    if (ranked := surprise_evidence(table)) is not None:
        signals["surprise"] = float(ranked[row])
    first, second = sorted(signals, key=lambda name: -signals[name])[:2]
    # A signal is -ln of the share of pairs that are at least as suspect.
    return (
        f"; among pairs of similar length it is more suspect than {-np.expm1(-signals[first]):.1%} "
        f"by {first}, and than {-np.expm1(-signals[second]):.1%} by {second}"
    )


def _decision(
    table: ScoreTable, row: int, pair: int, selection: Selection, measures: Measures | None
) -> Decision:
    """What the selection did with the pair, and the step of its recipe that decided."""
    check_made_from(selection, table)
    recipe = Recipe.of_manifest(selection.manifest)
    kept = bool(np.isin(pair, selection.pair_ids))
    state = "kept" if kept else "dropped"
    try:
        corpus = selection.corpus()
        view = table.view_of(corpus)
        choice = choose_again(selection, table, view, measures)
    except PycatError as error:
        if isinstance(error, OutputError) and measures is not None:
            raise  # a damaged file
        return Decision(kept, "not known", f"{state}; the selection cannot be made again: {error}")
    left_out = int(choice.left_out[row])
    if left_out and choice.steps[left_out - 1] != "range":
        given = _noise_of(table, view, measures)
        step, reason = _left_out(table, row, recipe, choice, given)
        if step == "guard":
            assert measures is not None
            value = number(measures.of(view).noise_score(table)[row])
            signals = _strongest_signals(table, corpus, measures, row, pair)
            reason = f"{reason}; its noise score is {value}{signals}"
    else:
        score = float(choice.scores[row])
        step, reason = _at_the_cut(score, recipe, selection, kept, above=left_out > 0)
    return Decision(kept, step, f"{state}: {reason}")


def _left_out(
    table: ScoreTable,
    row: int,
    recipe: Recipe,
    choice: Choice,
    given: Given,
) -> tuple[str, str]:
    """Name and reason of the step before the cut that left the pair out."""
    left_out = int(choice.left_out[row])
    step = choice.steps[left_out - 1]
    if step == "rules":
        return step, "it breaks a rule"
    if step == "guard":
        return step, "the noise filter dropped it"
    if step == "drop":
        drops = list((recipe.drop or {}).items())
        place = left_out - 1 - choice.steps.index("drop")
        criterion, share = drops[place]
        value = "not known here"
        if is_sql(criterion):
            value = number(choice.sql_scores[f"drop_{place}"][row])
        elif not is_of(criterion, "fitted_noise"):
            value = number(evaluate_criterion(table, criterion, recipe.seed, given=given)[row])
        return f"drop {criterion}", (
            f"it is among the {share:.1%} of the {recipe.unit} with the highest {criterion}, "
            f"which were dropped before the cut; its {criterion} is {value}"
        )
    if step == "tails":
        return step, "its last perplexity is among the highest or the lowest of its stratum"
    assert step == "cap" and recipe.cap is not None
    column, max_pairs = recipe.cap
    group = table.column(column)[row]
    value = number(choice.scores[row])
    return step, (
        f"{max_pairs:,} pairs of its group ({column} {group}) rank higher by {recipe.by}; "
        f"its {recipe.by} is {value}"
    )


def _at_the_cut(
    score: float, recipe: Recipe, selection: Selection, kept: bool, above: bool
) -> tuple[str, str]:
    """Step and reason of a pair that was ranked: its score, and those of the kept pairs.

    `above` says that the pair stands above the range, or above the middle, that is kept.
    """
    by, value = recipe.by, number(score)
    low, high = (number(selection.manifest[name]) for name in ("threshold", "highest"))
    span = f"kept pairs have {low} to {high}"
    tied = selection.manifest.get("ties", {}).get("criterion")
    ends = selection.manifest["threshold"], selection.manifest["highest"]
    if tied is not None and recipe.strata is None and score in ends:
        span += (
            f"; {tied['num_pairs']:,} pairs at the cut have equal scores, and a hash of the text "
            f"put {tied['num_before']:,} of them before it"
        )
    if above:
        return "range", f"its {by} is {value}; {span}"
    if recipe.strata is None:
        ranked = ""
    elif recipe.strata == "score":
        ranked = f", and it was {'' if kept else 'not '}drawn at random in its stratum by score"
    else:
        ranked = f", and it was ranked among the pairs of its {recipe.strata}"
    return "cut", f"its {by} is {value}{ranked}; {span}"


def _finite(value: Any) -> Any:
    """The value with None for every number in it that is not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
