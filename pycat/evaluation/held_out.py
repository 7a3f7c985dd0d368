"""Loss on held-out text under the models of all arms."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import TOKENIZER_FILE, TOKENIZER_FOLDER, Corpus
from pycat.data.hf_tokenizer import HuggingFaceTokenizer
from pycat.data.parallel_text import ParallelText
from pycat.data.tokenizing import tokenize
from pycat.data.vocabularies import AnyTokenizer, VocabularyTokenizer
from pycat.proxy.run import Run
from pycat.scoring.engine import score

# Checkpoints scored together: all are in memory at once.
_MAX_TOGETHER = 16


def held_out_corpus(
    text: ParallelText, corpus: Corpus, tokenizer: AnyTokenizer, out: Path
) -> Corpus:
    """The held-out text in a folder of its own, tokenized by the tokenizer of `corpus`."""
    src, tgt, tsv = (*text.paths, None) if len(text.paths) == 2 else (None, None, text.paths[0])
    if isinstance(tokenizer, HuggingFaceTokenizer):
        how = corpus.manifest["recipe"]["tokenizer"]
        more = {name: how[name] for name in ("src_lang", "tgt_lang", "prompt") if name in how}
        path = corpus.path / TOKENIZER_FOLDER
        return tokenize(src, tgt, tsv=tsv, out=out, tokenizer=path, overwrite=True, **more)
    used: AnyTokenizer | Path = corpus.path / corpus.options.get("tokenizer", TOKENIZER_FILE)
    if isinstance(tokenizer, VocabularyTokenizer):
        used = tokenizer
    return tokenize(
        src, tgt, tsv=tsv, out=out, tokenizer=used, languages=corpus.languages, overwrite=True
    )


def held_out_nll(corpus: Corpus, runs: Sequence[Run], device: str) -> NDArray[np.float64]:
    """Sums of nll in nats of each held-out pair under each checkpoint of each run.

    Args:
        corpus: M held-out pairs.
        runs: R runs, of C checkpoints each, two or more.
        device: "cpu", "cuda" or "auto".

    Returns:
        float64 (R, C, M), computed in float32.
    """
    checkpoints = [checkpoint for run in runs for checkpoint in run.checkpoints]
    num_parts = -(-len(checkpoints) // _MAX_TOGETHER)
    parts = []
    for indices in np.array_split(np.arange(len(checkpoints)), num_parts):
        some = [checkpoints[i] for i in indices]
        table = score(corpus, some, stats="nll", device=device, dtype="float32")
        parts.append(table.nll.T)
    return np.concatenate(parts).reshape(len(runs), -1, len(corpus))
