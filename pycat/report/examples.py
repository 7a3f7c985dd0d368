"""Example pairs of a selection: from both ends of its ranking, at the threshold, and at random."""

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

MAX_CHARS = 400  # shown of a sentence
NUM_EXTREMES = 20
NUM_EXAMPLES = 10


def examples(
    corpus: Corpus, scores: ScoreTable, values: Scores, kept: NDArray[np.bool_]
) -> dict[str, Any]:
    """Choose example pairs and read their sentences.

    Args:
        corpus: view of the table's N pairs.
        scores: the table.
        values, kept: score of each pair (N,), and whether it was kept (N,).

    Returns:
        Lists of pairs as the page shows them. "highest" and "lowest" are the ends of the ranking
        and share no pair. "kept_threshold" and "dropped_threshold" are next to the threshold; the
        latter holds only pairs that score no higher than the lowest kept, and may be empty.
        "kept_random" and "dropped_random" are drawn from each group. The key "problem" holds the
        reason where sentences come from tokens and not from the text, or None.
    """
    half = len(values) // 2
    rng = np.random.default_rng(0)
    lowest = values.min(where=kept, initial=np.inf)
    everywhere = np.ones(len(values), dtype=bool)
    chosen = {
        "highest": _first(values, everywhere, min(NUM_EXTREMES, len(values) - half)),
        "lowest": _last(values, everywhere, min(NUM_EXTREMES, half)),
        "kept_threshold": _last(values, kept, NUM_EXAMPLES)[::-1],
        # Pairs above the threshold were dropped by other steps than the cut.
        "dropped_threshold": _first(values, ~kept & (values <= lowest), NUM_EXAMPLES),
        "kept_random": _drawn(values, kept, rng),
        "dropped_random": _drawn(values, ~kept, rng),
    }
    rows = np.unique(np.concatenate(list(chosen.values())))
    shown = take(scores, rows)
    texts, problem = texts_of(corpus, shown.pair_ids)
    lines = corpus.lines[rows] + 1
    num_src_tokens, num_tokens = shown.num_src_tokens, shown.num_tokens
    ppl = perplexity(shown.nll / num_tokens[:, None]) if shown.num_checkpoints else None
    pairs = {
        row: {
            "rank": _rank(values, row),
            "line": int(lines[i]),
            "kept": bool(kept[row]),
            "score": float(values[row]),
            "first": None if ppl is None else float(ppl[i, 0]),
            "last": None if ppl is None else float(ppl[i, -1]),
            "num_src_tokens": int(num_src_tokens[i]),
            "num_tokens": int(num_tokens[i]),
            "sides": [_cut(side) for side in texts[i]],
        }
        for i, row in enumerate(rows.tolist())
    }
    tables = {name: [pairs[row] for row in rows.tolist()] for name, rows in chosen.items()}
    return {**tables, "problem": problem}


def _first(values: Scores, among: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """The first `count` rows of the ranking of `among`: highest score first, then lowest row."""
    rows = np.flatnonzero(top_k_within_budget(values, np.array([count]), among.astype(np.int8) - 1))
    return rows[np.argsort(-values[rows], kind="stable")]


def _last(values: Scores, among: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """The last `count` rows of the ranking of `among`, from the last upwards."""
    return len(values) - 1 - _first(-values[::-1], among[::-1], count)


def _drawn(values: Scores, among: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """A few rows drawn from `among` at random, in the order of the ranking."""
    rows = np.flatnonzero(among)
    drawn = np.sort(rng.choice(rows, min(NUM_EXAMPLES, len(rows)), replace=False, shuffle=False))
    return drawn[np.argsort(-values[drawn], kind="stable")]


def _rank(values: Scores, row: int) -> int:
    """Rank of a row, from 1 for the highest score; of equal scores the lower row comes first."""
    higher = np.count_nonzero(values > values[row])
    return 1 + int(higher + np.count_nonzero(values[:row] == values[row]))


def texts_of(
    corpus: Corpus, pair_ids: NDArray[np.int64]
) -> tuple[list[tuple[str, str]], str | None]:
    """Source and target sentence of each pair, and the reason where they come from tokens.

    The reason is None where the sentences are the original text. Where that is gone or changed,
    the tokenizer decodes the corpus's tokens.

    Raises:
        CorpusError: there is neither text nor a tokenizer.
    """
    problem = "the corpus was not made from text"
    if corpus.has_text:
        try:
            return corpus.sentences(pair_ids.tolist()), None
        except TextError as error:
            problem = str(error)
    batch = corpus.read_arrays(pair_ids)
    src, tgt = (
        corpus.tokenizer.decode(
            [row.tolist() for row in np.split(tokens, cu_seqlens[1:-1])], source=is_source
        )
        for is_source, tokens, cu_seqlens in (
            (True, batch.src_tokens, batch.src_cu_seqlens),
            (False, batch.tgt_tokens, batch.tgt_cu_seqlens),
        )
    )
    return list(zip(src, tgt, strict=True)), problem


def _cut(text: str) -> tuple[str, int]:
    """The shown part of a text, with control characters made visible, and the text's length."""
    shown = text if len(text) <= MAX_CHARS else text[:MAX_CHARS].rstrip() + "…"
    return shown.translate({code: 0x2400 + code for code in range(32)}), len(text)
