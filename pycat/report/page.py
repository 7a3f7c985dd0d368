"""One self-contained HTML page about a selection: what was kept, by what rule, and how it reads."""

import os
import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.evaluation.evaluation import Evaluation, EvaluationRow
from pycat.proxy.training import Run
from pycat.ranking.correlations import explained_by
from pycat.ranking.criteria import evaluate_criterion
from pycat.ranking.ranks import perplexity, spearman
from pycat.ranking.rarity import token_rarity
from pycat.report.audit import Agreement, DataMap, Part, agreement, by_domain, by_rule, data_map
from pycat.report.examples import MAX_CHARS, examples
from pycat.report.explaining import check_made_from
from pycat.report.formatting import duration, number, option, percent, series, signed
from pycat.report.histograms import (
    Histogram,
    Ranking,
    Tenth,
    by_tenths,
    histogram,
)
from pycat.runtime.output import replacing
from pycat.scores.sampling import evenly, take
from pycat.scores.score_table import ScoreTable
from pycat.selection.selection import Selection

# The page stays below a megabyte whatever the corpus: nothing on it grows with the pairs.
_NUM_LINES = 15
_NUM_POINTS = 800
# Charts are drawn from so many pairs at most.
_MAX_PAIRS = 100_000
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

_CAT_CAUTION = (
    "A pair also scores high when the proxy was very wrong about it at first, so copied lines, "
    "the wrong language and other noise can be kept: read the highest-scoring pairs below before "
    "you train on them."
)
# What keeping the highest of each criterion means, what to look out for, and where it comes from.
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
        "This is a baseline: it knows nothing about what the pairs say.",
        None,
    ),
    "random": (
        "The pairs are drawn at random.",
        "This is a baseline: kept and dropped should look alike everywhere on this page.",
        None,
    ),
}


def write_report(
    out: str | PathLike[str],
    selection: Selection,
    scores: ScoreTable,
    run: Run | None = None,
    *,
    timings: Mapping[str, float],
    evaluation: Evaluation | None = None,
) -> Path:
    """Write the HTML page of a selection, with example pairs and, given matplotlib, pictures.

    Of a large table memory holds each pair's score, and of 100,000 pairs, evenly drawn, all
    columns: those are what charts and correlations show. Pairs of a corpus that was not made from
    text are not shown.

    Args:
        out: the file to write; it appears complete or not at all.
        selection: of a criterion known by name.
        scores: the table the selection was made from.
        run: the proxy's training, where pycat did it.
        timings: seconds of each stage, in order.
        evaluation: BLEU and chrF of the arms, where they were trained.

    Returns:
        Path of the page. Apart from `timings`, equal input gives equal bytes.

    Raises:
        PycatError: the selection is of another table, or of a function without a known name.
        CorpusError: the corpus is gone or damaged.
    """
    page = Path(out)
    recipe = selection.manifest["recipe"]
    check_made_from(selection, scores)
    corpus = selection.corpus().subset(scores.pair_ids)
    seed = recipe["seed"] or 0
    with np.errstate(over="ignore"):
        all_values = evaluate_criterion(scores, recipe["criterion"], seed)
    all_kept = np.zeros(len(scores), dtype=bool)
    all_kept[np.searchsorted(scores.pair_ids, selection.pair_ids)] = True
    rows = evenly(len(scores), _MAX_PAIRS)
    some = take(scores, rows)
    values, kept = all_values[rows], all_kept[rows]
    num_tokens = some.num_tokens
    ranking = Ranking(values, kept, some.nll / num_tokens[:, None])
    rarity = (
        some.column("rarity")
        if "rarity" in some.names
        else token_rarity(corpus.subset(some.pair_ids))
    ).astype(np.float64)
    histograms = {
        "score": histogram(values, kept),
        "length": histogram(num_tokens.astype(np.float64), kept),
        "rarity": histogram(rarity, kept),
    }
    tenths = {"length": by_tenths(num_tokens, kept), "rarity": by_tenths(rarity, kept)}
    bands = {
        name: perplexity(np.quantile(ranking.surprise[rows], _QUANTILES, axis=0))
        for name, rows in ranking.groups.items()
        if len(rows)
    }
    mapped = data_map(some)
    agreeing = agreement(some, recipe["criterion"], values, rarity, kept, seed)
    meaning, caution, arxiv = _meaning(recipe)
    facts = selection.manifest
    html = _template().render(
        facts=facts,
        recipe=recipe,
        corpus=corpus,
        meaning=meaning,
        caution=caution,
        arxiv=arxiv,
        max_chars=MAX_CHARS,
        all_equal=bool(np.all(all_values == all_values[0])),
        num_drawn=len(rows),
        steps=scores.steps,
        properties=_properties(ranking, num_tokens, rarity),
        explained=explained_by(values, {"length": num_tokens, "rarity": rarity}),
        map=mapped,
        map_flags=_flag_counts(mapped, kept),
        domains=by_domain(some, kept),
        agreement=agreeing,
        rules=by_rule(corpus, selection.pair_ids),
        evaluation=_evaluation_table(evaluation),
        score_bins=_coarse(histograms["score"]),
        histograms=histograms,
        tenths=tenths,
        bands=bands,
        losses=run.losses if run is not None and list(run.steps) == scores.steps else None,
        pictures=_pictures(
            selection, scores.steps, ranking, histograms, tenths, bands, mapped, agreeing
        ),
        examples=examples(corpus, scores, all_values, all_kept) if corpus.has_text else None,
        names=[Path(row["path"]).name for row in corpus.manifest.get("text", ())]
        or [corpus.path.name],
        languages=_languages(corpus),
        recipes=_recipes(corpus, run, scores, selection, evaluation),
        hashes=_hashes(corpus, scores),
        versions=_versions(run, scores),
        timings=timings,
        outputs={
            name: os.path.relpath(path, page.parent)
            for name, path in (
                ("corpus", corpus.path),
                ("proxy", run.path if run else None),
                ("scores", scores.path),
                ("selection", selection.path),
                ("evaluation", evaluation.path if evaluation else None),
            )
            if path is not None
        },
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    with replacing(page) as temporary:
        temporary.write_text(html, "utf-8")
    return page


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": lambda value: f"{value:,}",
        "number": number,
        "percent": percent,
        "duration": duration,
        "option": option,
        "signed": signed,
        "series": series,
    }
    environment.globals["zip"] = zip
    return environment.from_string(
        Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8")
    )


def _meaning(recipe: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """What is kept, in a sentence; a caution, and the paper's number where there is one."""
    by, keep, part = recipe["criterion"], recipe["keep"], recipe.get("part", "top")
    strata = recipe.get("strata")
    if strata == "score":
        step = f"each of {recipe['num_strata']:,} equally wide steps of {by}"
        return f"About equally many pairs are kept of {step}, drawn at random.", "", None
    if isinstance(keep, list):
        ends = " to ".join(map(percent, keep))
        return f"The pairs from {ends} of the ranking by {by}, highest first, are kept.", "", None
    if part == "middle":
        return f"The pairs in the middle of the ranking by {by} are kept.", "", None
    if part == "bottom":
        return f"The pairs of lowest {by} are kept.", "", None
    meaning, caution, arxiv = _MEANINGS.get(by, (f"The pairs of highest {by} are kept.", "", None))
    if strata is not None:
        meaning += f" Pairs are ranked within strata by {strata}, of which each keeps its share."
    return meaning, caution, arxiv


def _properties(
    ranking: Ranking, num_tokens: NDArray[np.int32], rarity: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """What else the score follows: rank correlation, and medians of kept and of dropped."""
    columns: dict[str, NDArray[Any]] = {
        "first-checkpoint perplexity": ranking.surprise[:, 0],
        "target length, tokens": num_tokens,
        "word rarity, bits a token": rarity,
    }
    rows: list[dict[str, Any]] = []
    for name, column in columns.items():
        rho = spearman(ranking.values, column)
        medians = [
            float(np.median(column[group])) if len(group) else float("nan")
            for group in ranking.groups.values()
        ]
        rows.append({"name": name, "rho": rho, "words": _strength(rho), "medians": medians})
    # Ranks and medians in nats are those of perplexity, and stay finite where it does not.
    rows[0]["medians"] = perplexity(np.array(rows[0]["medians"])).tolist()
    return rows


def _strength(rho: float) -> str:
    if np.isnan(rho):
        return "not defined: all values are equal"
    words = ((0.9, "nearly the same order"), (0.7, "closely"), (0.4, "partly"), (0.2, "weakly"))
    strength = next((word for least, word in words if abs(rho) >= least), "hardly at all")
    return f"{strength}, reversed" if rho <= -0.2 else strength


def _evaluation_table(evaluation: Evaluation | None) -> dict[str, Any] | None:
    """The rows as arms by tests, with the difference from the random arm."""
    if evaluation is None:
        return None
    tests = list(dict.fromkeys(row.test for row in evaluation.rows))
    by_arm: dict[str, dict[str, EvaluationRow]] = {}
    for row in evaluation.rows:
        by_arm.setdefault(row.arm, {})[row.test] = row
    return {
        "tests": tests,
        "arms": by_arm,
        "random": by_arm.get("random", {}),
        "equal_updates": len({row.updates for row in evaluation.rows}) < 2,
        "signatures": (evaluation.bleu_signature, evaluation.chrf_signature),
    }


def _coarse(counts: Histogram) -> list[tuple[float, float, int, int]]:
    """At most a dozen rows of a histogram: from, to, kept, dropped."""
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


def _pictures(
    selection: Selection,
    steps: list[int],
    ranking: Ranking,
    histograms: Mapping[str, Histogram],
    tenths: Mapping[str, list[Tenth]],
    bands: Mapping[str, NDArray[np.float64]],
    mapped: DataMap,
    agreeing: Agreement,
) -> dict[str, str]:
    """SVG of each figure; none without matplotlib."""
    try:
        from pycat.report import charts
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        return {}
    lines = {
        name: perplexity(ranking.surprise[_spread(rows, _NUM_LINES)])
        for name, rows in ranking.groups.items()
    }
    points = evenly(len(ranking.values), _NUM_POINTS)
    facts = selection.manifest
    share = facts["num_kept"] / facts["num_pairs"]
    pictures = {
        "score": charts.score_picture(
            histograms["score"], facts["threshold"], facts["recipe"]["criterion"]
        ),
        "trajectories": charts.trajectory_picture(steps, bands, lines),
        "groups": charts.group_picture(histograms, tenths, share),
        "map": charts.map_picture(
            mapped.confidence[points],
            mapped.variability[points],
            ranking.kept[points],
            {name: flag[points] for name, flag in mapped.flags.items()},
        ),
        "correlations": charts.correlation_picture(agreeing.names, agreeing.correlations),
    }
    if agreeing.overlaps:
        pictures["overlaps"] = charts.overlap_picture(
            agreeing.overlaps,
            dict(zip(map("{:,}".format, steps), agreeing.without_checkpoint, strict=False)),
            agreeing.chance,
        )
    return pictures


def _flag_counts(mapped: DataMap, kept: NDArray[np.bool_]) -> list[Part]:
    """How many of the pairs of each flag were kept."""
    return [
        Part(name, int(np.count_nonzero(flag)), int(np.count_nonzero(flag & kept)))
        for name, flag in mapped.flags.items()
    ]


def _spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` of the rows, evenly spaced."""
    at = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64))
    return rows[at]


def _languages(corpus: Corpus) -> list[tuple[str, str | None]]:
    """Name of each side, and its `lang` attribute where the name can be one."""
    return [
        (name, tag if re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", tag) else None)
        for name, default in zip(corpus.languages, ("src", "tgt"), strict=True)
        for tag in ("" if name == default else name.replace("_", "-"),)
    ]


def _recipes(
    corpus: Corpus,
    run: Run | None,
    scores: ScoreTable,
    selection: Selection,
    evaluation: Evaluation | None,
) -> dict[str, dict[str, Any]]:
    """Options of every stage; input hashes are shown beside them, by `_hashes`."""
    manifests: Iterable[tuple[str, Mapping[str, Any]]] = (
        *((("tokenize", corpus.manifest),) if corpus.has_text else ()),
        *((("train", run.manifest),) if run is not None else ()),
        ("score", scores.manifest),
        ("select", selection.manifest),
        *((("evaluate", evaluation.manifest),) if evaluation is not None else ()),
    )
    hidden = ("text", "corpus", "checkpoints", "scores", "arms", "tests")
    recipes = {
        stage: {name: value for name, value in manifest["recipe"].items() if name not in hidden}
        for stage, manifest in manifests
    }
    if run is not None:
        recipes["train"]["parameters"] = run.manifest["parameters"]
    return recipes


def _hashes(corpus: Corpus, scores: ScoreTable) -> list[tuple[str, str]]:
    return [
        *((f"text {row['path']}", row["sha256"]) for row in corpus.manifest.get("text", ())),
        *(
            (("tokenizer", tokenizer),)
            if (tokenizer := corpus.manifest["tokenizer_sha256"])
            else ()
        ),
        ("corpus", scores.manifest["corpus"]),
        *(
            (f"checkpoint at update {step:,}", sha256)
            for step, sha256 in zip(
                scores.steps, scores.manifest["recipe"]["checkpoints"], strict=True
            )
        ),
    ]


def _versions(run: Run | None, scores: ScoreTable) -> dict[str, str]:
    versions = {
        "pycat": version("pycat-nmt"),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "PyTorch, scoring": scores.manifest["torch"],
    }
    if run is not None:
        versions["PyTorch, training"] = run.manifest["torch"]
    return versions
