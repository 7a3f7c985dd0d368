"""A table of the pairs of a corpus that no model scored, for criteria that need no scores."""

from typing import Any

import pyarrow as pa

from pycat.data.corpus import Corpus
from pycat.scores.score_table import ScoreTable


def unscored(corpus: Corpus) -> ScoreTable:
    """A table in memory of N pairs, their lengths and no checkpoint: 16 bytes a pair.

    Args:
        corpus: an open Corpus, or a view of some of its pairs.
    """
    num_src_tokens, num_tokens = corpus.lengths
    columns = {
        "pair": corpus.pair_ids,
        "num_src_tokens": num_src_tokens,
        "num_tokens": num_tokens,
    }
    return ScoreTable.from_arrow(
        pa.table(columns),
        {
            "recipe": unscored_recipe(corpus),
            "corpus": corpus.manifest["id"],
            "corpus_path": str(corpus.path.resolve()),
            "corpus_options": corpus.options,
            "num_pairs": len(corpus),
            "steps": [],
        },
    )


def unscored_recipe(corpus: Corpus) -> dict[str, Any]:
    """The recipe of that table, by which a selection made of it is told."""
    return {"corpus": corpus.id, "checkpoints": []}
