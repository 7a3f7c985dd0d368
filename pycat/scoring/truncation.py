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
    """What a model's positions leave of each pair's tokens: int32 (N,) each."""

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
        if all(
            limit is None
            for adapter in adapters
            for limit in (adapter.max_src_tokens, adapter.max_tgt_tokens, adapter.max_tokens)
        ):
            return cls(src, tgt, 0)  # copies nothing, however large the corpus
        most_src, most_tgt, most = (
            min((n for n in limits if n is not None), default=None)
            for limits in (
                [adapter.max_src_tokens for adapter in adapters],
                [adapter.max_tgt_tokens for adapter in adapters],
                [adapter.max_tokens for adapter in adapters],
            )
        )
        kept_src = src if most_src is None else np.minimum(src, most_src)
        kept_tgt = tgt if most_tgt is None else np.minimum(tgt, most_tgt)
        if most is not None:
            kept_tgt = np.minimum(kept_tgt, most - kept_src)
        cut = (kept_src < src) | (kept_tgt < tgt)
        num_cut = int(cut.sum())
        limit = ", ".join(
            f"{n:,} {what}"
            for n, what in (
                (most_src, "source tokens"),
                (most_tgt, "target tokens"),
                (most, "tokens of both sides together"),
            )
            if n is not None
        )
        if num_cut and too_long == "refuse":
            longest = int(np.argmax(np.maximum(src - kept_src, tgt - kept_tgt)))
            raise CorpusError(
                f"{corpus.path}: {num_cut:,} of {len(corpus):,} pairs are longer than the "
                f"positions of {adapters[0].name} ({limit}), such as pair "
                f"{int(corpus.pair_ids[longest]):,} of {int(src[longest]):,} and "
                f"{int(tgt[longest]):,} tokens; pass --too-long truncate to score what fits of "
                "them, or tokenize with a lower --max-tokens to leave them out"
            )
        if (hopeless := kept_tgt < 1).any():
            raise CorpusError(
                f"{corpus.path}: the source of {int(hopeless.sum()):,} pairs, such as pair "
                f"{int(corpus.pair_ids[int(np.argmax(hopeless))]):,}, fills all positions of "
                f"{adapters[0].name} ({limit}) and leaves none for the target; tokenize with a "
                "lower --max-tokens"
            )
        return cls(kept_src.astype(np.int32), kept_tgt.astype(np.int32), num_cut)

    def rows(self, first: int, count: int) -> "KeptLengths":
        """Those of `count` pairs from `first` on."""
        src, tgt = self.src[first : first + count], self.tgt[first : first + count]
        return KeptLengths(src, tgt, self.num_cut)


def cut_padded(batch: Batch, src: Tensor, tgt: Tensor, src_tail: int) -> Batch:
    """A padded batch with so many tokens (B,) left of each side.

    The source keeps its last `src_tail` tokens, EOS among them, and loses those before; the target
    loses its end.
    """
    lengths = batch.src_cu_seqlens.diff()[:, None]
    columns = torch.arange(int(src.max()), device=src.device)
    gone = (columns >= src[:, None] - src_tail) * (lengths - src[:, None])
    at = (columns + gone).clamp(max=batch.src_tokens.shape[1] - 1)
    return batch._replace(
        src_tokens=batch.src_tokens.gather(1, at.long()),
        src_cu_seqlens=_boundaries(src),
        tgt_tokens=batch.tgt_tokens[:, : int(tgt.max())],
        tgt_cu_seqlens=_boundaries(tgt),
    )


def cut_packed(batch: Batch, src: Tensor, tgt: Tensor, src_tail: int) -> Batch:
    """As `cut_padded`, of a packed batch."""
    return Batch(
        batch.src_tokens[_stays(batch.src_cu_seqlens, src, src_tail)],
        _boundaries(src),
        batch.tgt_tokens[_stays(batch.tgt_cu_seqlens, tgt, 0)],
        _boundaries(tgt),
        batch.pair_ids,
    )


def _stays(cu_seqlens: Tensor, kept: Tensor, tail: int) -> Tensor:
    """Of the tokens (T,) of sequences, those in the first `kept - tail` and the last `tail`."""
    lengths = cu_seqlens.diff().long()
    at = torch.arange(int(cu_seqlens[-1])) - torch.repeat_interleave(
        cu_seqlens[:-1].long(), lengths
    )
    begin = torch.repeat_interleave(kept.long() - tail, lengths)
    end = torch.repeat_interleave(lengths - tail, lengths)
    return (at < begin) | (at >= end)


def _boundaries(lengths: Tensor) -> Tensor:
    return nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
