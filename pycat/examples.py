"""Pairs to read, chosen by their place in the ranking."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.corpus import Corpus
from pycat.distributions import Ranking, perplexity
from pycat.errors import TextError
from pycat.score_table import ScoreTable

MAX_CHARS = 400
NUM_EXTREMES = 20
NUM_EXAMPLES = 10


def examples(corpus: Corpus, scores: ScoreTable, ranking: Ranking) -> dict[str, Any]:
    """Pairs from both ends of the ranking, around its threshold and at random.

    Returns:
        Lists of pairs ready to show: "highest" and "lowest", which never share one, and of each
        group "kept_threshold", "kept_random", "dropped_threshold", "dropped_random"; besides,
        "problem": why the sentences come from tokens and not from the text, or None.
    """
    order, groups = ranking.order, ranking.groups
    half = len(order) // 2
    rng = np.random.default_rng(0)
    chosen = {
        "highest": order[: min(NUM_EXTREMES, len(order) - half)],
        "lowest": order[::-1][: min(NUM_EXTREMES, half)],
        "kept_threshold": groups["kept"][-NUM_EXAMPLES:],
        "dropped_threshold": groups["dropped"][:NUM_EXAMPLES],
        "kept_random": _some(groups["kept"], rng),
        "dropped_random": _some(groups["dropped"], rng),
    }
    rows = np.unique(np.concatenate(list(chosen.values())))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(1, len(order) + 1)
    texts, problem = _texts(corpus, scores.pair_ids[rows])
    lines = corpus.lines[rows] + 1
    ppl = perplexity(ranking.surprise[rows])
    num_src_tokens, num_tokens = scores.num_src_tokens[rows], scores.num_tokens[rows]
    pairs = {
        row: {
            "rank": int(ranks[row]),
            "line": int(lines[i]),
            "kept": bool(ranking.kept[row]),
            "score": float(ranking.values[row]),
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


def _some(rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    return rows[np.sort(rng.permutation(len(rows))[:NUM_EXAMPLES])]


def _texts(corpus: Corpus, pair_ids: NDArray[np.int64]) -> tuple[list[tuple[str, str]], str | None]:
    """Both sides of those pairs; from the tokens, with the reason, where the text is not there."""
    try:
        return corpus.sentences(pair_ids.tolist()), None
    except TextError as error:
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
        return list(zip(src, tgt, strict=True)), str(error)


def _cut(text: str) -> tuple[str, int]:
    """What is shown of a text, control characters made visible, and how long all of it is."""
    shown = text if len(text) <= MAX_CHARS else text[:MAX_CHARS].rstrip() + "…"
    return shown.translate({code: 0x2400 + code for code in range(32)}), len(text)
