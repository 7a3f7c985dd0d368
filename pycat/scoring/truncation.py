"""Truncation of pairs that are longer than a model has positions for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pycat.data.batches import Batch
from pycat.data.corpus import Corpus
from pycat.errors import CorpusError
from pycat.scoring.adapter import Adapter


@dataclass(frozen=True)
class KeptLengths:
    """Tokens of each pair that a model's positions leave: int32 (N,) each side.

    Attributes:
        src, tgt: tokens kept of source and target.
        num_cut: number of pairs that lose tokens.
    """

    src: NDArray[np.int32]
    tgt: NDArray[np.int32]
    num_cut: int

    @classmethod
    def of(cls, corpus: Corpus, adapters: Sequence[Adapter], too_long: str) -> "KeptLengths":
        """The lengths to score.

        Raises:
            CorpusError: pairs are longer than the positions, and `too_long` is "refuse"; or a
                source leaves no position for its target.
        """
        src, tgt = corpus.lengths
        max_src, max_tgt, max_tokens = (
            min((limit for limit in limits if limit is not None), default=None)
            for limits in (
                [adapter.max_src_tokens for adapter in adapters],
                [adapter.max_tgt_tokens for adapter in adapters],
                [adapter.max_tokens for adapter in adapters],
            )
        )
        if (max_src, max_tgt, max_tokens) == (None, None, None):
            return cls(src, tgt, 0)  # copies nothing, however large the corpus
        kept_src = src if max_src is None else np.minimum(src, max_src)
        kept_tgt = tgt if max_tgt is None else np.minimum(tgt, max_tgt)
        if max_tokens is not None:
            kept_tgt = np.minimum(kept_tgt, max_tokens - kept_src)
        num_cut = int(((kept_src < src) | (kept_tgt < tgt)).sum())
        limits = ", ".join(
            f"{limit:,} {what}"
            for limit, what in (
                (max_src, "source tokens"),
                (max_tgt, "target tokens"),
                (max_tokens, "tokens of both sides together"),
            )
            if limit is not None
        )
        if num_cut and too_long == "refuse":
            row = int(np.argmax(np.maximum(src - kept_src, tgt - kept_tgt)))
            raise CorpusError(
                f"{corpus.path}: {num_cut:,} of {len(corpus):,} pairs are longer than the "
                f"positions of {adapters[0].name} ({limits}), such as pair "
                f"{int(corpus.pair_ids[row]):,} of {int(src[row]):,} and "
                f"{int(tgt[row]):,} tokens; pass --too-long truncate to score what fits of "
                "them, or tokenize with a lower --max-tokens to leave them out"
            )
        if (no_target := kept_tgt < 1).any():
            raise CorpusError(
                f"{corpus.path}: the source of {int(no_target.sum()):,} pairs, such as pair "
                f"{int(corpus.pair_ids[int(np.argmax(no_target))]):,}, fills all positions of "
                f"{adapters[0].name} ({limits}) and leaves none for the target; tokenize with a "
                "lower --max-tokens"
            )
        return cls(kept_src.astype(np.int32), kept_tgt.astype(np.int32), num_cut)

    def rows(self, first: int, count: int) -> "KeptLengths":
        """Lengths of `count` pairs from row `first` on."""
        src, tgt = self.src[first : first + count], self.tgt[first : first + count]
        return KeptLengths(src, tgt, self.num_cut)

    def take(self, rows: NDArray[np.int64]) -> "KeptLengths":
        """Lengths of those rows (n,)."""
        return KeptLengths(self.src[rows], self.tgt[rows], self.num_cut)


def cut_padded(batch: Batch, src: Tensor, tgt: Tensor, src_tail: int) -> Batch:
    """Cut a padded batch of B pairs to `src` and `tgt` tokens (B,) a side.

    The source keeps its last `src_tail` tokens, EOS among them, and loses the tokens before them;
    the target loses its end.
    """
    lengths = batch.src_cu_seqlens.diff()[:, None]
    columns = torch.arange(int(src.max()), device=src.device)
    skipped = (columns >= src[:, None] - src_tail) * (lengths - src[:, None])
    at = (columns + skipped).clamp(max=batch.src_tokens.shape[1] - 1)
    return batch._replace(
        src_tokens=batch.src_tokens.gather(1, at.long()),
        src_cu_seqlens=_boundaries(src),
        tgt_tokens=batch.tgt_tokens[:, : int(tgt.max())],
        tgt_cu_seqlens=_boundaries(tgt),
    )


def cut_packed(batch: Batch, src: Tensor, tgt: Tensor, src_tail: int) -> Batch:
    """Cut a packed batch as `cut_padded` cuts a padded one."""
    return Batch(
        batch.src_tokens[_kept_mask(batch.src_cu_seqlens, src, src_tail)],
        _boundaries(src),
        batch.tgt_tokens[_kept_mask(batch.tgt_cu_seqlens, tgt, 0)],
        _boundaries(tgt),
        batch.pair_ids,
    )


def _kept_mask(cu_seqlens: Tensor, kept: Tensor, tail: int) -> Tensor:
    """Mask (T,) of packed tokens: the first `kept - tail` and the last `tail` of each sequence."""
    lengths = cu_seqlens.diff().long()
    at = torch.arange(int(cu_seqlens[-1])) - torch.repeat_interleave(
        cu_seqlens[:-1].long(), lengths
    )
    begin = torch.repeat_interleave(kept.long() - tail, lengths)
    end = torch.repeat_interleave(lengths - tail, lengths)
    return (at < begin) | (at >= end)


def _boundaries(lengths: Tensor) -> Tensor:
    return nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
