"""The forward pass of encoder-decoder models on the CPU: the extension's, free of padding.

Each batch is read once and goes through all K checkpoints, from token ids to the sums of every
sentence; each worker is one thread with memory of its own that it keeps. See docs/forward.md.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pycat import _core
from pycat.data.batches import Batch
from pycat.errors import PycatError
from pycat.kernels.reference import Stats
from pycat.runtime.workers import on_workers
from pycat.scoring.forward import BatchSums
from pycat.scoring.transformer_weights import TransformerWeights

_IGNORED = -100


class CpuForward:
    """K checkpoints, packed for this processor.

    Args:
        checkpoints: of one shape.
        dtype: of products: "float32", "bfloat16" or "int8".
        stats: "nll" or "all".
        per_token: whether nll of single tokens is wanted too.
        num_workers: threads that take batches.

    Raises:
        PycatError: this processor has no instructions for `dtype`.
    """

    padded = False
    pinned = False
    # What goes through a layer stays near the processor: 4,096 tokens take up to a tenth longer.
    batch_tokens = 1024

    def __init__(
        self,
        checkpoints: Sequence[TransformerWeights],
        dtype: str,
        *,
        stats: Stats = "nll",
        per_token: bool = False,
        num_workers: int = 1,
    ) -> None:
        try:
            self._models = [_pack(weights, dtype) for weights in checkpoints]
        except ValueError as error:
            raise PycatError(f"dtype {dtype!r} on this CPU: {error}") from None
        self._prefix = np.array(checkpoints[0].prefix, dtype=np.int64)
        self._all_stats, self._per_token = stats == "all", per_token
        self._num_workers = num_workers

    def run(self, batches: Iterable[Batch]) -> Iterator[BatchSums]:
        """The sums of packed batches, in their order."""
        return on_workers(self.score, batches, self._num_workers)

    def score(self, batch: Batch) -> BatchSums:
        """The sums of a packed batch."""
        src, src_ends, tgt, tgt_ends, pair_ids = (tensor.numpy() for tensor in batch)
        inputs, targets, ends = _decoder_tokens(tgt, tgt_ends, self._prefix)
        sums, tokens = [], []
        for model in self._models:
            of_model, of_tokens, _ = model.score(
                src,
                src_ends,
                inputs,
                targets,
                ends,
                ignore_index=_IGNORED,
                all_stats=self._all_stats,
                per_token=self._per_token,
            )
            sums.append(of_model)
            if self._per_token:
                tokens.append(of_tokens[targets != _IGNORED].astype(np.float64))
        of_pairs = np.stack(sums, axis=1)
        return BatchSums(pair_ids, of_pairs, np.stack(tokens) if tokens else None, tgt_ends)


def _pack(weights: TransformerWeights, dtype: str) -> _core.Transformer:
    return _core.Transformer(
        weights.arrays,
        dtype=dtype,
        num_heads=weights.num_heads,
        norm_first=weights.norm_first,
        activation=weights.activation,
        epsilon=weights.epsilon,
        embedding_scale=weights.embedding_scale,
        head_scale=weights.head_scale,
    )


def _decoder_tokens(
    tgt: NDArray[np.int64], ends: NDArray[np.int32], prefix: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """What the decoder reads, what it is to predict there, and where sequences end.

    A sequence, which has a token, is read as the prefix and its tokens but the last; to predict the
    prefix's own tokens does not count.
    """
    num_before = len(prefix) - 1
    lengths = np.diff(ends)
    row = np.repeat(np.arange(len(lengths)), lengths)
    at = np.arange(len(tgt)) + num_before * (row + 1)
    ends = (ends + num_before * np.arange(len(ends))).astype(np.int32)
    targets = np.full(int(ends[-1]), _IGNORED, dtype=np.int64)
    targets[at] = tgt
    inputs = np.empty_like(targets)
    inputs[1:] = targets[:-1]
    starts = ends[:-1].astype(np.int64)
    for i, token in enumerate(prefix):
        inputs[starts + i] = token
    return inputs, targets, ends
