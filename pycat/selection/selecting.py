"""The selection stage: which pairs of a score table are kept."""

import os
import time
from collections.abc import Iterator, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.data.tab_columns import wrong_column
from pycat.errors import PycatError
from pycat.filters.loud_rules import LOUD_SHARE
from pycat.filters.measures import WITHOUT_TEXT, Measures, find_measures, no_measures
from pycat.filters.rules import complete_rules, hits_in_words, read_rules, recorded_rules
from pycat.ranking.criteria import Criterion
from pycat.runtime.manifest import list_files
from pycat.runtime.output import OutputFolder, digest, replacing
from pycat.scores.parts import file_options, write_part
from pycat.scores.score_table import ScoreTable, as_table
from pycat.scores.unscored import unscored
from pycat.selection.choice import Choice, choose
from pycat.selection.recipe import DEFAULT_STRATA, Recipe, default_criterion
from pycat.selection.selection import KEPT_FILE, SQL_FILE, Selection


def select(
    scores: ScoreTable | Corpus | str | PathLike[str],
    *,
    keep: float | tuple[float, float] = 0.5,
    by: str | Criterion | None = None,
    rules: str | PathLike[str] | Mapping[str, float | None] | None = "default",
    guard: float | str = 0.5,
    measures: Measures | str | PathLike[str] | None = None,
    part: str = "top",
    unit: str = "pairs",
    drop: Mapping[str | Criterion, float] | None = None,
    strata: str | None = None,
    num_strata: int | None = None,
    cap: tuple[str, int] | None = None,
    tails: tuple[float, float] | None = None,
    mix: float = 0.0,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> Selection:
    """Rank the pairs by a criterion, and keep a part of the ranking.

    The default recipe is that of `prune`: it drops what the rules say of the text, then the
    likeliest noise, and keeps the highest `learnability+noise` of the rest, the same share of each
    cluster where the table has a column `cluster` (`pycat.add_clusters`). `by="cat_var",
    rules="none", guard=0` is the paper's plain method, which needs no measures.

    The ranking goes from the highest score to the lowest. Equal scores rank by a hash of the pair's
    tokens and the seed, so that the order of the text does not matter. Fractions count the whole
    table, whatever was dropped before.

    Args:
        scores: an open ScoreTable of N pairs, or the path of one. For a criterion that needs no
            proxy ("noise", "fitted_noise", "coverage", "length", "rarity", "random") an open Corpus
            does.
        keep: fraction to keep, in (0, 1], or the two ends of a range of the ranking: (0.2, 0.7)
            keeps half of all, after the first fifth. Where the rules leave less than 0.7, all that
            comes after 0.2 is kept.
        by: the criterion, as in `evaluate_criterion`: a name such as "cat_var"; "-ppl", which ranks
            the lowest first; a column of the table; "sql: …"; several with "+" between them, the
            mean of their ranks; or a function from the table to (N,). Unless given,
            "learnability+noise"; "learnability" without rules and guard, since nothing need then be
            measured; and "noise" of a corpus.
        rules: first of all, which pairs to leave out for their text alone: "default", "none", or
            thresholds that differ from `DEFAULT_RULES`, as a mapping or a JSON file. Others' data
            have no text and so no rules, which the manifest says. Where rules leave fewer pairs
            than `keep` asks for, all of those are kept.
        guard: then, the share of what has to go that goes for being the likeliest noise, by
            `Measures.noise_score`; 0 is none. "auto" estimates which share of the pairs that the
            rules leave is noise (`pycat.filters.noise_share`), and drops that share; the manifest
            has the estimate as `noise_share`.
        measures: what `pycat.measure` measured of the corpus, which rules and guard read; or the
            path of its folder. By default the folder `measures` beside that of the scores, or
            else beside that of the corpus, if it is of the same corpus.
        part: part of the ranking to keep: "top", "middle" or "bottom".
        unit: what fractions count. "pairs" keeps round(keep * N), at least one, and fewer only
            where `drop` was rounded up and no more are left. "tokens" keeps as many pairs, from the
            begin of the part, as fit into round(keep * target tokens): the next pair would be too
            long. With strata this holds for each stratum.
        drop: criteria, and the fraction of highest scores by each to leave out, one after the
            other, before the cut: {"-aum": 0.2}.
        strata: "length" or the name of a column with few values, such as a domain, or several of
            these with commas between them, which make a stratum of each combination: each stratum
            keeps its highest scores, the same share of all strata. "score": strata of equal width
            in score keep equal numbers of pairs, drawn at random, and `drop` leaves out the hardest
            (coverage-centric selection, Zheng et al. 2023, ICLR). Where neither strata nor a
            criterion is given, "cluster", if the table has such a column.
        num_strata: number of strata by score (50 by default) or by length (10).
        cap: name of a column of group ids, and how many pairs of a group may stay: the highest of
            those that `drop` left. Negative ids are in no group.
        tails: before the cut, the fractions of each stratum, or of all, to leave out for having
            the highest perplexity at the last checkpoint, and the lowest: (0.1, 0.05).
        mix: the share of what is kept that is drawn at random from all that is left before the
            cut; the ranking chooses the rest (Ayed and Hayou 2023, arXiv:2302.06960).
        seed: seed of the criterion "random", of what is drawn, and of the order of equal scores.
        out: the folder to make; without one, the selection stays in memory.
        overwrite: replace a selection made with other options.

    Returns:
        The selection.

    Raises:
        PycatError: an option is out of range, a criterion or rule is unknown, a criterion lacks
            columns, a score is not a number, or rules leave no pair, drop and cap fewer than asked
            for.
        OutputError: rules or guard need measures, and there are none of this corpus, which the
            message has the command for; or `out` holds something else, or a selection made with
            other options.
    """
    started = time.perf_counter()
    changed = read_rules(rules)
    thresholds = None if changed is None else complete_rules(changed)
    table = unscored(scores) if isinstance(scores, Corpus) else as_table(scores)
    if by is None:
        by_rules = thresholds is not None and table.corpus().has_text
        by = default_criterion(table.num_checkpoints > 0, by_rules or bool(guard))
        if strata is None and part == "top" and not isinstance(keep, tuple):
            strata = DEFAULT_STRATA if DEFAULT_STRATA in table.names else None
    recipe = Recipe(
        keep=keep,
        by=by,
        part=part,
        unit=unit,
        drop=drop,
        strata=strata,
        num_strata=num_strata,
        cap=cap,
        seed=seed,
        rules=thresholds,
        guard=guard,
        tails=tails,
        mix=mix,
    )
    recipe.check(table)
    corpus = table.corpus()
    choice, of_rules = choose_measured(table, table.view_of(corpus), recipe, measures)
    made_by = {"scores": digest(table.manifest["recipe"]), **choice.recipe}
    facts = {
        "corpus": corpus.manifest["id"],
        **choice.facts,
        **of_rules,
        "num_lines": corpus.manifest["num_lines"] if corpus.has_text else len(corpus),
        "corpus_options": corpus.options,
    }
    batches = _kept_pairs(table, choice.kept, corpus)
    if out is None:
        kept = pa.Table.from_batches(batches)
        pair_ids = kept["pair"].to_numpy()
        lines = kept["line"].to_numpy() - 1 if corpus.has_text else pair_ids
        manifest = {"recipe": made_by, **facts}
        return Selection(
            pair_ids, lines, manifest, corpus.path.resolve(), _sql_scores=choice.sql_scores
        )
    path = Path(out)
    owned = (KEPT_FILE, SQL_FILE)
    with OutputFolder(path, "selection", made_by, owned, overwrite, started) as folder:
        if folder.manifest is None:
            _write_kept(batches, path / KEPT_FILE)
            names = [KEPT_FILE]
            if choice.sql_scores:
                write_part(pa.table(choice.sql_scores), path / SQL_FILE)
                names.append(SQL_FILE)
            files = list_files(path, names)
            corpus_path = os.path.relpath(corpus.path.resolve(), path.resolve())
            folder.finish(**facts, files=files, corpus_path=corpus_path)
    return Selection.open(path)


def choose_measured(
    table: ScoreTable,
    corpus: Corpus,
    recipe: Recipe,
    measures: Measures | str | PathLike[str] | None = None,
    sql_scores: Mapping[str, NDArray[np.float64]] | None = None,
) -> tuple[Choice, dict[str, Any]]:
    """Follow a recipe by what was measured of the table's pairs, where a step needs that.

    Args:
        table: N pairs.
        corpus: of those N pairs.
        recipe: `Recipe.check` took it for this table.
        measures: as in `select`.
        sql_scores: as in `choose`.

    Returns:
        The choice, and what the manifest says of the rules: `rule_hits`, `loud_rules`, `without`.

    Raises:
        OutputError: measures are needed, and there are none of this corpus.
        PycatError: the recipe cannot be followed on this table.
    """
    rules, of_rules = recipe.rules, {}
    if rules is not None and not corpus.has_text:
        rules, of_rules = None, {"without": {"rules": WITHOUT_TEXT}}
    if (rules is not None or recipe.needs_noise) and corpus.is_monolingual:
        raise PycatError(
            f"{corpus.path}: is of monolingual text, and rules and guard compare two sides; pass "
            "--rules none --guard 0 (rules='none', guard=0)"
        )
    if rules is None and not recipe.needs_noise:
        return choose(table, recipe, corpus=corpus, sql_scores=sql_scores), of_rules
    measured = find_measures(table, corpus, measures)
    if measured is None:
        raise no_measures(table, corpus)
    kept_by_rules = None
    if rules is not None:
        kept_by_rules, of_rules = _apply_rules(measured, rules, corpus)
    noise = partial(measured.noise_score, table)
    choice = choose(
        table, recipe, kept_by_rules, noise, corpus, measured.column, sql_scores=sql_scores
    )
    return choice, of_rules


def _apply_rules(
    measures: Measures, thresholds: Mapping[str, float | None], corpus: Corpus
) -> tuple[NDArray[np.bool_], dict[str, Any]]:
    """The pairs (N,) that the rules leave, and what the manifest says of the rules."""
    kept, hits = measures.apply(recorded_rules(thresholds))
    if not kept.any():
        raise PycatError(
            f"the rules leave none of {len(kept):,} pairs (hits: {hits_in_words(hits)}); "
            f"{wrong_column(corpus)}loosen their thresholds, or pass --rules none (rules='none')"
        )
    without = {
        rule: why
        for rule, why in measures.manifest["without"].items()
        if thresholds.get(rule) is not None
    }
    examples = {rule: said["examples"] for rule, said in measures.manifest["loud_rules"].items()}
    loud = {
        rule: {"hits": count, "examples": examples.get(rule, [])}
        for rule, count in hits.items()
        if count > LOUD_SHARE * len(kept)
    }
    return kept, {
        "rule_hits": hits,
        **({"loud_rules": loud} if loud else {}),
        **({"without": without} if without else {}),
    }


def _write_kept(batches: Iterator[pa.RecordBatch], path: Path) -> None:
    """Write a file of kept pairs, a batch at a time."""
    first = next(batches)
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, first.schema, **file_options(first.schema)) as writer,
    ):
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)


def _kept_pairs(
    table: ScoreTable, kept: NDArray[np.bool_], corpus: Corpus
) -> Iterator[pa.RecordBatch]:
    """Ids of the kept pairs and, of a text, their lines from 1, a chunk of the table at a time."""
    lines = corpus.lines if corpus.has_text else None

    def kept_of(rows: slice, chunk: ScoreTable) -> pa.RecordBatch:
        pair_ids = chunk.pair_ids[kept[rows]]
        columns = {"pair": pair_ids}
        if lines is not None:
            columns["line"] = lines[pair_ids] + 1
        return pa.RecordBatch.from_pydict(columns)

    return table.on_chunks(kept_of)
