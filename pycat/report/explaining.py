"""Why a pair was kept or dropped: its text, its scores among all others', and the deciding step."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import numpy as np

from pycat.data.corpus import RULES_FILE, Corpus
from pycat.errors import OutputError, PycatError
from pycat.filters.noise import NOISE_SCORE, has_signals, noise_signals
from pycat.filters.rules import RuleTable, recorded_rules
from pycat.ranking.criteria import evaluate_criterion, possible
from pycat.ranking.ranks import perplexity
from pycat.report.examples import texts_of
from pycat.report.formatting import number
from pycat.runtime.output import digest
from pycat.scores.sampling import evenly, take
from pycat.scores.score_table import ScoreTable, as_table
from pycat.selection.recipe import Recipe, choose
from pycat.selection.selection import Selection, kept_by_rules

# Up to here every pair is ranked. Of more, so many: percentiles are then right to about 0.1.
_MAX_PAIRS = 250_000

# What is followed over the checkpoints, a mean over target tokens each.
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
        kept: whether it is in the selection.
        step: what decided: "rules", "guard", "drop CRITERION", "cap", "range", "cut"; "not known"
            where the selection cannot be made again.
        reason: in words, with the pair's score and the threshold.
    """

    kept: bool
    step: str
    reason: str


@dataclass(frozen=True)
class Explanation:
    """All that is known of a pair.

    Attributes:
        pair: its id.
        line: of the text, from 1; None where the corpus was not made from text.
        text: source and target; None where neither text nor tokenizer is there.
        text_problem: why the sentences come from tokens, or are missing; None for the text itself.
        num_src_tokens, num_tokens: EOS counted.
        steps: updates of the K checkpoints.
        trajectory: "ppl", and those of "p_target", "el2n", "margin" and "entropy" that the table
            has: K values, means over target tokens.
        criteria: every criterion that the table allows, and its own further columns of numbers.
        num_ranked: pairs that the percentiles were taken from: all, or every n-th of a large table.
        decision: of the selection; None without one.
        rules: names of the rules that the pair breaks among the table's pairs; None where they
            were not measured or cannot be read.
        default_rules: those are at default thresholds, since no selection, or one without rules,
            was given.
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
        """The same as JSON values; null for numbers that are not finite."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


def explain(
    scores: ScoreTable | str | PathLike[str],
    pair: int,
    *,
    selection: Selection | str | PathLike[str] | None = None,
) -> Explanation:
    """Gather what a score table, its corpus and a selection say of one pair.

    Reads the text once, the table by columns, and with a selection makes that choice again.

    Args:
        scores: an open ScoreTable, or the path of one.
        pair: its id.
        selection: made from that table, or the path of one.

    Raises:
        PycatError: the table has no such pair, or the selection is of another table.
        CorpusError: the corpus is gone or damaged.
    """
    table = as_table(scores)
    pair_ids = table.pair_ids
    row = int(np.searchsorted(pair_ids, pair))
    if row == len(pair_ids) or pair_ids[row] != pair:
        raise PycatError(
            f"pair {pair:,}: {table.path or 'the score table'} holds {len(table):,} pairs with ids "
            f"{pair_ids[0]:,} to {pair_ids[-1]:,}, and this is none of them"
        )
    corpus = table.corpus()
    chosen = (
        selection
        if selection is None or isinstance(selection, Selection)
        else Selection.open(selection)
    )
    decision = None if chosen is None else _decision(table, row, pair, chosen)
    thresholds = None if chosen is None else chosen.manifest["recipe"].get("rules")
    rows = np.union1d(evenly(len(table), _MAX_PAIRS), [row])
    sampled = take(table, rows)
    at = int(np.searchsorted(rows, row))
    num_tokens = int(sampled.num_tokens[at])
    text, problem = _text(corpus, pair)
    trajectory = {"ppl": perplexity(sampled.nll[at] / num_tokens).tolist()}
    for name in _TRAJECTORIES:
        if name in table.statistics:
            trajectory[name] = (sampled.column(name)[at] / num_tokens).tolist()
    return Explanation(
        pair=pair,
        line=int(corpus.lines[pair]) + 1 if corpus.has_text else None,
        text=text,
        text_problem=problem,
        num_src_tokens=int(sampled.num_src_tokens[at]),
        num_tokens=num_tokens,
        steps=table.steps,
        trajectory=trajectory,
        criteria={name: _standing(sampled, name, at) for name in _rankable(sampled)},
        num_ranked=len(rows),
        decision=decision,
        rules=_broken_rules(table.view_of(corpus), row, thresholds),
        default_rules=thresholds is None,
    )


def _rankable(table: ScoreTable) -> list[str]:
    """Criteria that the table allows, without chance, and columns of numbers that were added."""
    criteria = [name for name in possible(table) if name != "random"]
    stated = [f"{name}_{k}" for name in table.statistics for k in range(table.num_checkpoints)]
    known = {"pair", "num_src_tokens", "num_tokens", *stated, *criteria}
    added = [name for name in table.names if name not in known]
    return [*criteria, *(name for name in added if table.column(name).dtype.kind in "iuf")]


def _standing(table: ScoreTable, name: str, at: int) -> Standing:
    with np.errstate(over="ignore"):
        values = (
            table.column(name).astype(np.float64)
            if name in table.names
            else evaluate_criterion(table, name)
        )
    there = values[~np.isnan(values)]
    lower = np.count_nonzero(there < values[at]) / len(there) if len(there) else np.nan
    return Standing(
        float(values[at]), 100 * float(lower) if not np.isnan(values[at]) else float("nan")
    )


def _text(corpus: Corpus, pair: int) -> tuple[tuple[str, str] | None, str | None]:
    try:
        texts, problem = texts_of(corpus, np.array([pair]))
    except PycatError as error:
        return None, str(error)
    return texts[0], problem


def _broken_rules(
    corpus: Corpus, row: int, thresholds: Mapping[str, float | None] | None
) -> list[str] | None:
    if not (corpus.path / RULES_FILE).is_file():
        return None
    rules = None if thresholds is None else recorded_rules(thresholds)
    try:
        return RuleTable.open(corpus).broken_by(row, rules)
    except OutputError:  # the next selection with rules measures them again, or says what is wrong
        return None


def _most_suspect(table: ScoreTable, corpus: Corpus, row: int) -> str:
    """What made the guard suspect a pair most; nothing where that cannot be told any more."""
    if not has_signals(table):
        return ""
    try:
        if corpus.has_text:
            RuleTable.open(corpus)  # else all its text would be measured for one pair
        found = {name: float(signal[row]) for name, signal in noise_signals(table, corpus)}
    except OutputError:
        return ""
    first, second = sorted(found, key=lambda name: -found[name])[:2]
    return (
        f"; of pairs of like length {-np.expm1(-found[first]):.1%} are less suspect by {first}, "
        f"{-np.expm1(-found[second]):.1%} by {second}"
    )


def _decision(table: ScoreTable, row: int, pair: int, chosen: Selection) -> Decision:
    """Whether the pair was kept, and the step of the recipe that settled it."""
    check_made_from(chosen, table)
    recorded = chosen.manifest["recipe"]
    kept = bool(np.isin(pair, chosen.pair_ids))
    state = "kept" if kept else "dropped"
    recipe = Recipe.from_json(recorded)
    by = recorded["criterion"]
    try:
        recipe.check(table)
        corpus = chosen.corpus()
        view = table.view_of(corpus)
        by_rules, _ = kept_by_rules(view, recipe.rules)
        choice = choose(table, recipe, by_rules)
    except PycatError as error:
        return Decision(kept, "not known", f"{state}; it cannot be chosen again: {error}")
    if choice.recipe != {name: value for name, value in recorded.items() if name != "scores"}:
        return Decision(
            kept, "not known", f"{state}; a column that it was chosen by holds other values now"
        )
    left_out = int(choice.left_out[row])
    step = choice.steps[left_out - 1] if left_out else None
    if step == "rules":
        return Decision(kept, "rules", f"{state}: it breaks a rule")
    if step == "guard":
        value = number(table.column(NOISE_SCORE)[row])
        reason = f"the guard took it for noise; its {NOISE_SCORE} is {value}"
        return Decision(kept, "guard", f"{state}: {reason}{_most_suspect(table, view, row)}")
    if step == "drop":
        drops = list((recipe.drop or {}).items())
        drop, share = drops[left_out - 1 - choice.steps.index("drop")]
        value = evaluate_criterion(table, str(drop), recipe.seed)[row]
        reason = (
            f"among the {share:.1%} of the {recipe.unit} with the highest {drop}, which were left "
            f"out first; its {drop} is {number(value)}"
        )
        return Decision(kept, f"drop {drop}", f"{state}: {reason}")
    value = number(evaluate_criterion(table, by, recipe.seed)[row])
    if recipe.cap is not None and step == "cap":
        column, most = recipe.cap
        group = table.column(column)[row]
        reason = f"{most:,} of its group ({column} {group}) rank higher by {by}; it has {value}"
        return Decision(kept, "cap", f"{state}: {reason}")
    facts = chosen.manifest
    span = f"those kept have {number(facts['threshold'])} to {number(facts['highest'])}"
    if step == "range":
        return Decision(kept, "range", f"{state}: its {by} is {value}, {span}")
    within = {None: "", "score": " and was drawn at random in its step of the score"}.get(
        recipe.strata, f", ranked among the pairs of its {recipe.strata}"
    )
    if not kept and recipe.strata == "score":
        within = " and was not drawn in its step of the score"
    return Decision(kept, "cut", f"{state}: its {by} is {value}{within}; {span}")


def check_made_from(selection: Selection, table: ScoreTable) -> None:
    """Refuse a selection of another table.

    Raises:
        PycatError: with both names.
    """
    if selection.manifest["recipe"]["scores"] != digest(table.manifest["recipe"]):
        raise PycatError(
            f"{selection.path or 'selection'}: made from another score table than "
            f"{table.path or 'the one given'}; select from that table again"
        )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
