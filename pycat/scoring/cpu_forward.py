"""The extension's forward pass of encoder-decoder models on the CPU, without padding.

Each batch is read once and passes through all K checkpoints, from token ids to the sums of every
sentence. Each worker is one thread, which keeps its own memory. See docs/forward.md.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pycat import _core
from pycat.data.batches import Batch
from pycat.errors import PycatError
from pycat.kernels.stat_names import Stats
from pycat.runtime.workers import on_workers
from pycat.scoring.forward import BatchSums
from pycat.scoring.transformer_weights import TransformerWeights

_IGNORED = -100


class CpuForward:
    """K checkpoints, packed for this processor.

    Args:
        checkpoints: K, of one shape.
        dtype: of the operands of matrix products: "float32", "bfloat16" or "int8".
        stats: "nll" or "all".
        per_token: also nll of single tokens.
        num_workers: threads, each of which takes one batch at a time.

    Raises:
        PycatError: this processor has no instructions for `dtype`.
    """

    padded = False
    pinned = False
    # Activations of a layer stay in the cache: batches of 4,096 tokens take up to a tenth longer.
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
        """Yield the sums of packed batches, in their order."""
        return on_workers(self.score, batches, self._num_workers)

    def score(self, batch: Batch) -> BatchSums:
        """Sums of a packed batch."""
        src, src_ends, tgt, tgt_ends, pair_ids = (tensor.numpy() for tensor in batch)
        inputs, targets, ends = _decoder_tokens(tgt, tgt_ends, self._prefix)
        sums, tokens = [], []
        for model in self._models:
            model_sums, token_nll, _ = model.score(  # (S, B), (T,)
                src,
                src_ends,
                inputs,
                targets,
                ends,
                ignore_index=_IGNORED,
                all_stats=self._all_stats,
                per_token=self._per_token,
            )
            sums.append(model_sums)
            if self._per_token:
                tokens.append(token_nll[targets != _IGNORED].astype(np.float64))
        nll_per_token = np.stack(tokens) if tokens else None
        return BatchSums(pair_ids, np.stack(sums, axis=1), nll_per_token, tgt_ends)


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
        uncounted_token=-1 if weights.uncounted_token is None else weights.uncounted_token,
    )


def _decoder_tokens(
    tgt: NDArray[np.int64], ends: NDArray[np.int32], prefix: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Inputs (T',) and targets (T',) of the decoder, and the ends (B + 1,) of its sequences.

    Of each sequence, which has at least one token, the decoder reads the prefix and all tokens but
    the last. Positions that would predict a token of the prefix have the target `_IGNORED`.
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
