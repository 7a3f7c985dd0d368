"""A table of the pairs of a corpus that no model scored, for criteria that need no scores."""

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
            "recipe": {"corpus": corpus.id, "checkpoints": []},
            "corpus": corpus.manifest["id"],
            "corpus_path": str(corpus.path.resolve()),
            "corpus_options": corpus.options,
            "num_pairs": len(corpus),
            "steps": [],
        },
    )
