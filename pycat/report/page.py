"""Self-contained HTML page about a selection: its figures, example pairs and provenance."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.errors import OutputError
from pycat.evaluation.results import Evaluation
from pycat.filters.measures import Measures
from pycat.proxy.run import Run
from pycat.ranking.correlations import explained_by
from pycat.ranking.ranks import perplexity, spearman
from pycat.ranking.rarity import token_rarity
from pycat.report import provenance
from pycat.report.audit import Agreement, DataMap, Part, agreement, by_domain, by_rule, data_map
from pycat.report.evaluation_page import evaluation_variables
from pycat.report.examples import MAX_CHARS, examples
from pycat.report.explaining import ranking_scores, readable_measures
from pycat.report.formatting import percent
from pycat.report.histograms import (
    Histogram,
    Ranking,
    Tenth,
    by_tenths,
    histogram,
)
from pycat.report.template import template
from pycat.runtime.named_files import is_stream, writing
from pycat.scores.sampling import evenly, take
from pycat.scores.score_table import ScoreTable
from pycat.selection.replaying import check_made_from
from pycat.selection.selection import Selection

# Sizes of the charts. They keep the page below a megabyte for a corpus of any size.
_NUM_LINES = 15  # single pairs drawn over each group's perplexity
_NUM_POINTS = 800  # pairs on the data map
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of perplexity, in each group

# Charts and correlations are computed from at most so many pairs, evenly drawn.
_MAX_PAIRS = 100_000

# What stands at the beginning of each page, and of no other file.
_MARK = b'<meta name="generator" content="pycat">'
_HEAD_BYTES = 4096

_CAT_CAUTION = (
    "A pair also scores high when the proxy was very wrong about it at first. Copied lines, text "
    "in the wrong language and other noise can therefore be kept. Before you train, read the kept "
    "pairs among the highest scores below."
)
# By criterion: what keeping its highest pairs means, a caution, and the arXiv number of its source.
_MEANINGS: dict[str, tuple[str, str, str | None]] = {
    "cat_var": (
        "CAT-VAR keeps the pairs whose perplexity varies most over the checkpoints of a small "
        "proxy model.",
        _CAT_CAUTION,
        "2405.19462",
    ),
    "cat_diff": (
        "CAT-DIFF keeps the pairs whose perplexity falls most from the first checkpoint of a "
        "small proxy model to the last.",
        _CAT_CAUTION,
        "2405.19462",
    ),
    "length": (
        "The pairs with the most target tokens are kept.",
        "This is a baseline: it ignores what the pairs say.",
        None,
    ),
    "random": (
        "The pairs are drawn at random.",
        "This is a baseline: kept and dropped pairs should look alike everywhere on this page.",
        None,
    ),
}


@dataclass(frozen=True)
class _Figures:
    """Numbers behind the tables and charts, all of the same sample of N pairs.

    Attributes:
        ranking: scores, kept pairs, and mean nll at each of the K checkpoints.
        num_tokens, rarity: target tokens, and their mean rarity in bits, (N,).
        histograms: of "score", "length" and "rarity".
        tenths: of "length" and "rarity".
        bands: for "kept" and "dropped", where not empty, quantiles of perplexity (5, K).
        data_map: confidence and variability of each pair; None without checkpoints, as are `bands`.
        agreement: the selection compared with other criteria.
    """

    ranking: Ranking
    num_tokens: NDArray[np.int32]
    rarity: NDArray[np.float64]
    histograms: dict[str, Histogram]
    tenths: dict[str, list[Tenth]]
    bands: dict[str, NDArray[np.float64]]
    data_map: DataMap | None
    agreement: Agreement


def write_report(
    out: str | PathLike[str],
    selection: Selection,
    scores: ScoreTable,
    run: Run | None = None,
    *,
    timings: Mapping[str, float],
    measures: Measures | str | PathLike[str] | None = None,
    evaluation: Evaluation | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the HTML page of a selection, with example pairs and, given matplotlib, charts.

    Memory holds the score of each pair, and all columns of at most 100,000 pairs, evenly drawn.
    Charts and correlations are computed from those. A corpus that was not made from text has no
    example pairs.

    Args:
        out: the file to write; it appears complete or not at all, and replaces an older report.
        selection: the Selection to show; its criterion must be known by name.
        scores: the table that the selection was made from: `unscored` of the corpus where it was
            made from a corpus.
        run: the proxy's training, where pycat trained it.
        timings: seconds of each stage, in order.
        measures: what `pycat.measure` measured of the corpus, or the path of its folder, for the
            table of rules; by default looked for as in `select`.
        evaluation: of the selection, where there is one.
        overwrite: replace a file that is no report.

    Returns:
        Path of the page. Apart from `timings`, equal input gives equal bytes.

    Raises:
        PycatError: the selection is of another table, or of a function without a known name.
        OutputError: `out` is a file that is no report, and `overwrite` is not given.
        CorpusError: the corpus is gone or damaged.
    """
    page = Path(out)
    if not overwrite:
        refuse_other_file(page)
    check_made_from(selection, scores)
    corpus = selection.corpus().subset(scores.pair_ids)
    measured = readable_measures(scores, corpus, measures)
    recipe = selection.manifest["recipe"]
    values = ranking_scores(selection, scores, corpus, measured)
    kept = np.zeros(len(scores), dtype=bool)
    kept[np.searchsorted(scores.pair_ids, selection.pair_ids)] = True
    rows = evenly(len(scores), _MAX_PAIRS)
    sample = take(scores, rows)
    figures = _figures(sample, corpus, recipe, values[rows], kept[rows])
    html = template("page.html.jinja").render(
        **_headline(corpus, selection, scores, values, len(rows)),
        **_figure_tables(sample, figures),
        rules=by_rule(measured, kept),
        loud_rules={} if measured is None else measured.manifest["loud_rules"],
        num_measured=None if measured is None else measured.manifest["num_pairs"],
        evaluation=None if evaluation is None else evaluation_variables(evaluation),
        losses=run.losses if run is not None and list(run.steps) == scores.steps else None,
        pictures=_pictures(selection, scores.steps, figures),
        examples=examples(corpus, scores, values, kept) if corpus.has_text else None,
        recipes=provenance.recipes(corpus, run, scores, selection, evaluation),
        hashes=provenance.hashes(corpus, scores, selection),
        versions=provenance.versions(run, scores),
        timings=timings,
        outputs=provenance.outputs(page, corpus, measured, run, scores, selection, evaluation),
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    with writing([page], overwrite=True) as [file]:
        file.write(html.encode("utf-8", "backslashreplace"))  # names of files may be no text
    return page


def refuse_other_file(page: Path) -> None:
    """Refuse to replace a file that is not such a page.

    Raises:
        OutputError: there is one.
    """
    if is_stream(page) or not page.exists():
        return
    with page.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head and _MARK not in head:
        raise OutputError(
            f"{page}: this file exists and is no report of pycat; pass --overwrite "
            "(overwrite=True) to replace it, or choose another name"
        )


def _figures(
    sample: ScoreTable,
    corpus: Corpus,
    recipe: Mapping[str, Any],
    values: NDArray[np.float64],
    kept: NDArray[np.bool_],
) -> _Figures:
    """Compute every figure; `values` and `kept` (N,) are those of the sample's pairs."""
    num_tokens = sample.num_tokens
    rarity = (
        sample.column("rarity")
        if "rarity" in sample.names
        else token_rarity(corpus.subset(sample.pair_ids))
    ).astype(np.float64)
    ranking = Ranking(values, kept, sample.nll / num_tokens[:, None])
    return _Figures(
        ranking=ranking,
        num_tokens=num_tokens,
        rarity=rarity,
        histograms={
            "score": histogram(values, kept),
            "length": histogram(num_tokens.astype(np.float64), kept),
            "rarity": histogram(rarity, kept),
        },
        tenths={"length": by_tenths(num_tokens, kept), "rarity": by_tenths(rarity, kept)},
        bands={
            name: perplexity(np.quantile(ranking.surprise[rows], _QUANTILES, axis=0))
            for name, rows in ranking.groups.items()
            if len(rows) and sample.num_checkpoints
        },
        data_map=data_map(sample) if sample.num_checkpoints else None,
        agreement=agreement(sample, recipe["criterion"], values, rarity, kept, recipe["seed"] or 0),
    )


def _headline(
    corpus: Corpus,
    selection: Selection,
    scores: ScoreTable,
    values: NDArray[np.float64],
    num_sampled: int,
) -> dict[str, Any]:
    """Template variables of the head of the page, and of what every section refers to."""
    recipe = selection.manifest["recipe"]
    meaning, caution, arxiv = _meaning(recipe)
    texts = [Path(row["path"]).name for row in corpus.manifest.get("text", ())]
    return {
        "selection": selection.manifest,
        "recipe": recipe,
        "corpus": corpus,
        "names": texts or [corpus.path.name],
        "languages": _languages(corpus),
        "steps": scores.steps,
        "meaning": meaning,
        "caution": caution,
        "arxiv": arxiv,
        "all_equal": bool(np.all(values == values[0])),
        "num_sampled": num_sampled,
        "max_chars": MAX_CHARS,
    }


def _figure_tables(sample: ScoreTable, figures: _Figures) -> dict[str, Any]:
    """Template variables of the tables that state the figures in numbers."""
    kept = figures.ranking.kept
    columns: dict[str, NDArray[Any]] = {"length": figures.num_tokens, "rarity": figures.rarity}
    return {
        "properties": _properties(figures),
        "explained": explained_by(figures.ranking.values, columns),
        "histograms": figures.histograms,
        "score_bins": _coarse(figures.histograms["score"]),
        "tenths": figures.tenths,
        "bands": figures.bands,
        "map": figures.data_map,
        "map_flags": figures.data_map and _flag_counts(figures.data_map, kept),
        "domains": by_domain(sample, kept),
        "agreement": figures.agreement,
    }


def _meaning(recipe: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """What is kept, in a sentence; a caution; and the source's arXiv number, or None."""
    by, keep, part = recipe["criterion"], recipe["keep"], recipe.get("part", "top")
    strata = recipe.get("strata")
    if strata == "score":
        each = f"each of {recipe['num_strata']:,} strata of equal width in {by}"
        return f"About equally many pairs are drawn at random from {each}.", "", None
    if isinstance(keep, list):
        ends = " to ".join(map(percent, keep))
        return f"The pairs from {ends} of the ranking by {by}, highest first, are kept.", "", None
    if part == "middle":
        return f"The pairs in the middle of the ranking by {by} are kept.", "", None
    if part == "bottom":
        return f"The pairs with the lowest {by} are kept.", "", None
    meaning, caution, arxiv = _MEANINGS.get(
        by, (f"The pairs with the highest {by} are kept.", "", None)
    )
    if strata is not None:
        meaning += (
            f" Pairs are ranked within strata by {strata}; each stratum keeps the same share."
        )
    return meaning, caution, arxiv


def _properties(figures: _Figures) -> list[dict[str, Any]]:
    """For each property of a pair: rank correlation with the score, and medians of both groups."""
    ranking = figures.ranking
    has_proxy = ranking.surprise.shape[1] > 0
    columns: dict[str, NDArray[Any]] = {
        **({"first-checkpoint perplexity": ranking.surprise[:, 0]} if has_proxy else {}),
        "target length, tokens": figures.num_tokens,
        "word rarity, bits a token": figures.rarity,
    }
    rows: list[dict[str, Any]] = []
    for name, column in columns.items():
        rho = spearman(ranking.values, column)
        medians = [
            float(np.median(column[group])) if len(group) else float("nan")
            for group in ranking.groups.values()
        ]
        rows.append({"name": name, "rho": rho, "strength": _strength(rho), "medians": medians})
    # Ranks and medians of nll per token are those of perplexity, which may be infinite.
    if has_proxy:
        rows[0]["medians"] = perplexity(np.array(rows[0]["medians"])).tolist()
    return rows


def _strength(rho: float) -> str:
    """A rank correlation in words."""
    if np.isnan(rho):
        return "not defined: all values are equal"
    words = ((0.9, "very strong"), (0.7, "strong"), (0.4, "moderate"), (0.2, "weak"))
    strength = next((word for low, word in words if abs(rho) >= low), "negligible")
    return f"{strength}, negative" if rho <= -0.2 else strength


def _coarse(counts: Histogram) -> list[tuple[float, float, int, int]]:
    """The histogram in at most a dozen rows: from, to, kept, dropped."""
    step = -(-len(counts.kept) // 12)
    return [
        (
            float(counts.edges[first]),
            float(counts.edges[min(first + step, len(counts.kept))]),
            int(counts.kept[first : first + step].sum()),
            int(counts.dropped[first : first + step].sum()),
        )
        for first in range(0, len(counts.kept), step)
    ]


def _pictures(selection: Selection, steps: list[int], figures: _Figures) -> dict[str, str]:
    """The charts as SVG text; empty without matplotlib."""
    try:
        from pycat.report import charts
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        return {}
    manifest, ranking, others = selection.manifest, figures.ranking, figures.agreement
    lines = {
        name: perplexity(ranking.surprise[_spread(rows, _NUM_LINES)])
        for name, rows in ranking.groups.items()
    }
    points = evenly(len(ranking.values), _NUM_POINTS)
    pictures = {
        "score": charts.score_picture(
            figures.histograms["score"], manifest["threshold"], manifest["recipe"]["criterion"]
        ),
        "groups": charts.group_picture(
            figures.histograms, figures.tenths, manifest["num_kept"] / manifest["num_pairs"]
        ),
        "correlations": charts.correlation_picture(others.names, others.correlations),
    }
    if figures.data_map is not None:
        mapped = figures.data_map
        pictures["trajectories"] = charts.trajectory_picture(steps, figures.bands, lines)
        pictures["map"] = charts.map_picture(
            mapped.confidence[points],
            mapped.variability[points],
            ranking.kept[points],
            {name: flag[points] for name, flag in mapped.flags.items()},
        )
    if others.overlaps:
        updates = map("{:,}".format, steps)
        pictures["overlaps"] = charts.overlap_picture(
            others.overlaps,
            dict(zip(updates, others.without_checkpoint, strict=False)),
            others.chance,
        )
    return pictures


def _flag_counts(mapped: DataMap, kept: NDArray[np.bool_]) -> list[Part]:
    """The pairs that each flag of the data map marks, and how many of them were kept."""
    return [
        Part(name, int(np.count_nonzero(flag)), int(np.count_nonzero(flag & kept)))
        for name, flag in mapped.flags.items()
    ]


def _spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` of the rows, evenly spaced."""
    at = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64))
    return rows[at]


def _languages(corpus: Corpus) -> list[tuple[str, str | None]]:
    """Name of each side, and the same as an HTML language tag, or None where it cannot be one."""
    return [
        (name, tag if re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", tag) else None)
        for name, default in zip(corpus.languages, ("src", "tgt"), strict=True)
        for tag in ("" if name == default else name.replace("_", "-"),)
    ]
