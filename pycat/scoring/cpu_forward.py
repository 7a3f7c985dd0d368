"""The extension's forward pass of Transformers on the CPU, without padding.

Each batch is read once and passes through all K checkpoints, from token ids to the sums of every
sentence. A worker is one thread, which keeps its own memory and takes a share of a batch through
one checkpoint at a time. No result depends on how batches are shared. See docs/forward.md.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from typing import NamedTuple

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

# Activations of a layer stay in the cache: shares of 4,096 tokens take up to a tenth longer.
_SHARE_TOKENS = 1024
# Each share computes the prefix that all sequences of a batch have. A share has up to eight times
# as many tokens of its own, if those are no more than this.
_MAX_SHARE_TOKENS = 4096
# The more pairs a batch has, the fewer times their prefix is computed.
_CAUSAL_BATCH_TOKENS = 16_384
# Where the last batches are cut finer, no share has fewer tokens: its last panel is half empty on
# average, and an eighth of this.
_MIN_SHARE_TOKENS = 128
# Shares for each worker of a batch at the end, under all checkpoints together.
_LAST_SHARES = 4


class _Share(NamedTuple):
    """Consecutive pairs of a batch, as the extension reads them: tokens and where sequences end."""

    src: NDArray[np.int64]
    src_ends: NDArray[np.int32]
    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    ends: NDArray[np.int32]

    def cut(self, num_shares: int, num_shared: int) -> list["_Share"]:
        """Up to `num_shares` shares of about as many tokens, without the first ones that all share.

        Each sequence has more than `num_shared` tokens.
        """
        tokens = self.src_ends.astype(np.int64) + self.ends
        tokens -= num_shared * np.arange(len(tokens))
        cuts = np.searchsorted(tokens, tokens[-1] * np.arange(num_shares + 1) // num_shares)
        return [
            _Share(
                self.src[self.src_ends[a] : self.src_ends[b]],
                self.src_ends[a : b + 1] - self.src_ends[a],
                self.inputs[self.ends[a] : self.ends[b]],
                self.targets[self.ends[a] : self.ends[b]],
                self.ends[a : b + 1] - self.ends[a],
            )
            for a, b in pairwise(cuts)
            if a < b
        ]


class _Results(NamedTuple):
    """Sums (S, b) of a share's pairs under one checkpoint, and nll (t,) of its tokens if asked."""

    sums: NDArray[np.float64]
    token_nll: NDArray[np.float64] | None


class CpuForward:
    """K checkpoints, packed for this processor.

    Args:
        checkpoints: K, of one shape.
        dtype: of the operands of matrix products: "float32", "bfloat16" or "int8".
        stats: "nll" or "all".
        per_token: also nll of single tokens.
        num_workers: threads.

    Raises:
        PycatError: this processor has no instructions for `dtype`.
    """

    padded = False
    pinned = False
    batch_tokens = _SHARE_TOKENS

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
            self._models = [_pack(weights, dtype, num_workers) for weights in checkpoints]
        except ValueError as error:
            raise PycatError(f"dtype {dtype!r} on this CPU: {error}") from None
        self._prefix = np.array(checkpoints[0].prefix, dtype=np.int64)
        self._is_causal = checkpoints[0].is_causal
        self._all_stats, self._per_token = stats == "all", per_token
        self._num_workers = num_workers
        if self._is_causal:
            self.batch_tokens = _CAUSAL_BATCH_TOKENS

    def run(self, batches: Iterable[Batch]) -> Iterator[BatchSums]:
        """Yield the sums of packed batches, in their order."""
        begun: deque[tuple[Batch, int]] = deque()  # batches, and how many shares each has

        def tasks() -> Iterator[tuple[_core.Transformer, _Share]]:
            for batch, shares in self._shared(batches):
                begun.append((batch, len(shares)))
                for model in self._models:
                    for share in shares:
                        yield model, share

        with closing(on_workers(self._score_share, tasks(), self._num_workers)) as results:
            for first in results:
                batch, num_shares = begun.popleft()
                rest = (next(results) for _ in range(num_shares * len(self._models) - 1))
                yield self._joined(batch, [first, *rest], num_shares)

    def score(self, batch: Batch) -> BatchSums:
        """Sums of a packed batch."""
        return next(self.run([batch]))

    def _shared(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, list[_Share]]]:
        """Yield each batch with its shares.

        The last batches are cut finer, so that all workers finish at about the same time.
        """
        ahead: deque[Batch] = deque()
        for batch in batches:
            ahead.append(batch)
            if len(ahead) > self._num_workers:
                batch = ahead.popleft()
                yield batch, self._cut(batch, 1)
        at_the_end = -(-_LAST_SHARES * self._num_workers // len(self._models))
        for batch in ahead:
            yield batch, self._cut(batch, at_the_end if self._num_workers > 1 else 1)

    def _cut(self, batch: Batch, min_shares: int) -> list[_Share]:
        """The shares of a batch: at least `min_shares`, unless they would be too small."""
        if self._is_causal:
            whole = _joined_sides(batch)
            num_shared = _num_shared_tokens(whole)
            num_tokens = len(whole.inputs) - num_shared * len(batch.pair_ids)
        else:
            whole, num_shared = _two_sides(batch, self._prefix), 0
            num_tokens = max(len(batch.src_tokens), len(batch.tgt_tokens))
        most = min(max(_SHARE_TOKENS, 8 * num_shared), _MAX_SHARE_TOKENS)
        finer = min(min_shares, num_tokens // max(_MIN_SHARE_TOKENS, num_shared))
        return whole.cut(max(-(-num_tokens // most), finer), num_shared)

    def _score_share(self, task: tuple[_core.Transformer, _Share]) -> _Results:
        model, share = task
        sums, token_nll, _ = model.score(
            *share,
            ignore_index=_IGNORED,
            all_stats=self._all_stats,
            per_token=self._per_token,
        )
        if not self._per_token:
            return _Results(sums, None)
        return _Results(sums, token_nll[share.targets != _IGNORED].astype(np.float64))

    def _joined(self, batch: Batch, results: list[_Results], num_shares: int) -> BatchSums:
        """The sums of a batch from those of its shares, checkpoint after checkpoint."""
        by_model = [results[i : i + num_shares] for i in range(0, len(results), num_shares)]
        sums = np.stack(
            [np.concatenate([share.sums for share in shares], axis=1) for shares in by_model],
            axis=1,
        )
        nll_per_token = None
        if self._per_token:
            nll_per_token = np.stack(
                [
                    np.concatenate(
                        [share.token_nll for share in shares if share.token_nll is not None]
                    )
                    for shares in by_model
                ]
            )
        return BatchSums(batch.pair_ids.numpy(), sums, nll_per_token, batch.tgt_cu_seqlens.numpy())


def _two_sides(batch: Batch, prefix: NDArray[np.int64]) -> _Share:
    """A packed batch as a model with an encoder reads it."""
    src, src_ends, tgt, tgt_ends, _ = (tensor.numpy() for tensor in batch)
    return _Share(src, src_ends, *_decoder_tokens(tgt, tgt_ends, prefix))


def _joined_sides(batch: Batch) -> _Share:
    """A packed batch as a causal model reads it, to which a pair is one sequence.

    The model does not read a pair's last token. Places before the last source token predict no
    target.
    """
    src, src_ends, tgt, tgt_ends, _ = (tensor.numpy() for tensor in batch)
    src_lengths, tgt_lengths = np.diff(src_ends), np.diff(tgt_ends)
    ends = (src_ends + tgt_ends - np.arange(len(src_ends))).astype(np.int32)
    # Source tokens of a pair begin where it does, and target tokens one place before the place
    # that reads them: the place that predicts them.
    starts = ends[:-1].astype(np.int64)
    src_at = np.arange(len(src)) + np.repeat(starts - src_ends[:-1], src_lengths)
    tgt_at = np.arange(len(tgt)) + np.repeat(starts + src_lengths - 1 - tgt_ends[:-1], tgt_lengths)
    targets = np.full(int(ends[-1]), _IGNORED, dtype=np.int64)
    targets[tgt_at] = tgt
    inputs = np.empty_like(targets)
    inputs[1:] = targets[:-1]
    inputs[src_at] = src
    return _Share(src[:0], np.zeros_like(ends), inputs, targets, ends)


def _num_shared_tokens(share: _Share) -> int:
    """Tokens that all sequences begin with, but for the last of the shortest one."""
    starts = share.ends[:-1].astype(np.int64)
    most = int(np.diff(share.ends).min()) - 1
    first = share.inputs[starts[:, None] + np.arange(most)]  # (B, most)
    differs = (first != first[:1]).any(axis=0)
    return int(differs.argmax()) if differs.any() else most


def _pack(weights: TransformerWeights, dtype: str, num_threads: int) -> _core.Transformer:
    return _core.Transformer(
        weights.arrays,
        dtype=dtype,
        num_heads=weights.num_heads,
        norm_first=weights.norm_first,
        activation=weights.activation,
        epsilon=weights.epsilon,
        embedding_scale=weights.embedding_scale,
        head_scale=weights.head_scale,
        num_threads=num_threads,
        uncounted_token=-1 if weights.uncounted_token is None else weights.uncounted_token,
        num_kv_heads=weights.num_kv_heads,
        head_width=weights.head_width,
        attention_scale=weights.attention_scale,
        attention_softcap=weights.attention_softcap,
        head_softcap=weights.head_softcap,
        rms_norm=weights.rms_norm,
        num_positions=weights.num_positions,
        windows=weights.windows,
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
