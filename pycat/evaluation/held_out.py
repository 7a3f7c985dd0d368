"""Loss on held-out text under the models of all arms."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.proxy.checkpoint import read_infos
from pycat.proxy.run import Run
from pycat.scoring.adapter import ProxyAdapter
from pycat.scoring.engine import score

# Checkpoints scored together: all are in memory at once.
_MAX_TOGETHER = 16

# Pairs of a corpus that are read at once.
_CHUNK_PAIRS = 65_536


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
        # Adapters keep their order: the checkpoints of several runs are no one training.
        some = [
            ProxyAdapter(info, corpus.eos_id)
            for info in read_infos([checkpoints[i] for i in indices], corpus)
        ]
        table = score(corpus, some, stats="nll", device=device, dtype="float32")
        parts.append(table.nll.T)
    return np.concatenate(parts).reshape(len(runs), -1, len(corpus))


def num_known(held_out: Corpus, corpus: Corpus) -> tuple[int, int]:
    """Pairs of `held_out` whose source, and whose target, stands in `corpus` token for token."""
    wanted: tuple[Counter[bytes], ...] = (Counter(), Counter())
    for sequences in _sequences(held_out):
        for side, tokens in zip(wanted, sequences, strict=True):
            side[tokens] += 1
    counts = [0, 0]
    for sequences in _sequences(corpus):
        for i, tokens in enumerate(sequences):
            counts[i] += wanted[i].pop(tokens, 0)
    return counts[0], counts[1]


def _sequences(corpus: Corpus) -> Iterator[tuple[bytes, bytes]]:
    """Source and target of each pair as bytes."""
    for first in range(0, len(corpus), _CHUNK_PAIRS):
        pairs = corpus.read_arrays(corpus.pair_ids[first : first + _CHUNK_PAIRS])
        sides = []
        for tokens, ends in (
            (pairs.src_tokens, pairs.src_cu_seqlens),
            (pairs.tgt_tokens, pairs.tgt_cu_seqlens),
        ):
            text, places = tokens.tobytes(), (ends.astype(np.int64) * tokens.itemsize).tolist()
            sides.append([text[begin:end] for begin, end in pairwise(places)])
        yield from zip(*sides, strict=True)
