"""Pairs to read, chosen by their place in the ranking."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.errors import TextError
from pycat.ranking.criteria import Scores
from pycat.ranking.ranks import perplexity
from pycat.ranking.top_k import top_k_within_budget
from pycat.scores.sampling import take
from pycat.scores.score_table import ScoreTable

MAX_CHARS = 400
NUM_EXTREMES = 20
NUM_EXAMPLES = 10


def examples(
    corpus: Corpus, scores: ScoreTable, values: Scores, kept: NDArray[np.bool_]
) -> dict[str, Any]:
    """Pairs from both ends of the ranking, around its threshold and at random.

    Args:
        corpus: of the table's N pairs.
        scores: the table.
        values, kept: the score of each pair (N,), and whether it was kept.

    Returns:
        Lists of pairs ready to show: "highest" and "lowest", which never share one, and of each
        group "kept_threshold", "kept_random", "dropped_threshold" (none above the lowest score
        kept; may be empty), "dropped_random"; besides, "problem": why the sentences come from
        tokens and not from the text, or None.
    """
    half = len(values) // 2
    rng = np.random.default_rng(0)
    lowest = values.min(where=kept, initial=np.inf)
    everywhere = np.ones(len(values), dtype=bool)
    chosen = {
        "highest": _first(values, everywhere, min(NUM_EXTREMES, len(values) - half)),
        "lowest": _last(values, everywhere, min(NUM_EXTREMES, half)),
        "kept_threshold": _last(values, kept, NUM_EXAMPLES)[::-1],
        # Not those that other steps than the cut left out above it.
        "dropped_threshold": _first(values, ~kept & (values <= lowest), NUM_EXAMPLES),
        "kept_random": _some(values, kept, rng),
        "dropped_random": _some(values, ~kept, rng),
    }
    rows = np.unique(np.concatenate(list(chosen.values())))
    few = take(scores, rows)
    texts, problem = texts_of(corpus, few.pair_ids)
    lines = corpus.lines[rows] + 1
    num_src_tokens, num_tokens = few.num_src_tokens, few.num_tokens
    ppl = perplexity(few.nll / num_tokens[:, None])
    pairs = {
        row: {
            "rank": _rank(values, row),
            "line": int(lines[i]),
            "kept": bool(kept[row]),
            "score": float(values[row]),
            "first": float(ppl[i, 0]),
            "last": float(ppl[i, -1]),
            "num_src_tokens": int(num_src_tokens[i]),
            "num_tokens": int(num_tokens[i]),
            "sides": [_cut(side) for side in texts[i]],
        }
        for i, row in enumerate(rows.tolist())
    }
    tables = {name: [pairs[row] for row in some.tolist()] for name, some in chosen.items()}
    return {**tables, "problem": problem}


def _first(values: Scores, among: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Of the rows `among` the `count` first of the ranking: highest, then lowest row, first."""
    rows = np.flatnonzero(top_k_within_budget(values, np.array([count]), among.astype(np.int8) - 1))
    return rows[np.argsort(-values[rows], kind="stable")]


def _last(values: Scores, among: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """The `count` last of the ranking, the very last first."""
    return len(values) - 1 - _first(-values[::-1], among[::-1], count)


def _some(values: Scores, among: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    rows = np.flatnonzero(among)
    drawn = np.sort(rng.choice(rows, min(NUM_EXAMPLES, len(rows)), replace=False, shuffle=False))
    return drawn[np.argsort(-values[drawn], kind="stable")]


def _rank(values: Scores, row: int) -> int:
    """From 1, the highest; among equals the lower row comes first."""
    higher = np.count_nonzero(values > values[row])
    return 1 + int(higher + np.count_nonzero(values[:row] == values[row]))


def texts_of(
    corpus: Corpus, pair_ids: NDArray[np.int64]
) -> tuple[list[tuple[str, str]], str | None]:
    """Both sides of those pairs; from the tokens, with the reason, where the text is not there.

    Raises:
        CorpusError: there is no tokenizer either.
    """
    problem = "the corpus was not made from text"
    if corpus.has_text:
        try:
            return corpus.sentences(pair_ids.tolist()), None
        except TextError as error:
            problem = str(error)
    batch = corpus.read(pair_ids)
    src, tgt = (
        corpus.tokenizer.decode(
            [row.tolist() for row in np.split(tokens.numpy(), cu_seqlens.numpy()[1:-1])]
        )
        for tokens, cu_seqlens in (
            (batch.src_tokens, batch.src_cu_seqlens),
            (batch.tgt_tokens, batch.tgt_cu_seqlens),
        )
    )
    return list(zip(src, tgt, strict=True)), problem


def _cut(text: str) -> tuple[str, int]:
    """What is shown of a text, control characters made visible, and how long all of it is."""
    shown = text if len(text) <= MAX_CHARS else text[:MAX_CHARS].rstrip() + "…"
    return shown.translate({code: 0x2400 + code for code in range(32)}), len(text)
