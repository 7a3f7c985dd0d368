"""Dynamic pruning: each epoch trains on a part of the text, chosen by the losses of earlier ones.

A unit is a pair, or a span of at most 16 target tokens. The loss of a unit is the mean over its
tokens when it was last trained on, under dropout and smoothed labels, so it costs nothing. Of the N
units an epoch trains on a share d:

    loss        the d N units of the highest loss
    infobatch   all but (1 - d) N units, drawn from the N' of the lowest loss: those below the mean,
                or 2 (1 - d) N if they are fewer. Those of the N' that stay count 1 / (1 - r), with
                r = (1 - d) N / N' the share of them that goes: the expected gradient of an epoch is
                that of the whole (Qin et al. 2024, InfoBatch, arXiv 2303.04947, where r is given)
    random      d N units at random (Okanovic et al. 2024, RS2, arXiv 2305.18424)

By losses the first epoch trains on everything, and so does the last eighth of the updates, in which
otherwise what was left out would be forgotten (both as in InfoBatch). Units of the lowest loss are
left out in Xiao et al. 2024 (arXiv 2406.18373), where 70 % of speech trains as well as all of it.

Tokens of spans that are left out have weight 0 in the loss, and are read all the same: the spans
beside them need them. A pair of which no span is left is not read.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.data.batches import Batch
from pycat.data.corpus import Corpus
from pycat.proxy.packing import PackedBatches

DYNAMIC_BY = ("loss", "infobatch", "random")
DYNAMIC_UNITS = ("pairs", "spans")

# Tokens of the longest span.
_SPAN_TOKENS = 16

# The share of the updates that ends a run on everything.
_LAST_STRETCH = 1 / 8


class DynamicBatches(PackedBatches):
    """Packed batches of the pairs that dynamic pruning chooses for each epoch.

    Args:
        corpus, batch_tokens, batch_pairs, seed: as of `PackedBatches`.
        updates: of the whole run.
        share: d, in (0, 1).
        by: one of `DYNAMIC_BY`.
        unit: one of `DYNAMIC_UNITS`.
        position: `position` of earlier batches of the same arguments, to go on behind them.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_tokens: int,
        *,
        batch_pairs: int | None,
        seed: int,
        updates: int,
        share: float,
        by: str,
        unit: str,
        position: Mapping[str, Any] | None = None,
    ) -> None:
        self._share, self._by = share, by
        self._whole_from = updates - round(updates * _LAST_STRETCH)
        lengths = corpus.num_tokens.astype(np.int64)
        spans = -(-lengths // _SPAN_TOKENS) if unit == "spans" else np.ones_like(lengths)
        # The units of row i are first_units[i] to first_units[i + 1].
        self._first_units = np.concatenate(([0], np.cumsum(spans)))
        # NaN where a unit was not trained on yet.
        self._losses = np.full(int(self._first_units[-1]), np.nan, dtype=np.float32)
        self._step = 0
        self._losses_at_begin = self._losses.copy()
        self._weights = np.ones_like(self._losses)
        if position is not None:
            self._step = position["step"]
            self._losses = position["losses"].numpy().copy()
            self._losses_at_begin = position["losses_at_begin"].numpy().copy()
        super().__init__(
            corpus, batch_tokens, batch_pairs=batch_pairs, seed=seed, position=position
        )

    @property
    def position(self) -> dict[str, Any]:
        """Where the next batch stands, and what the choice of its epoch depends on."""
        import torch

        return {
            **super().position,
            "step": self._step,
            "losses": torch.from_numpy(self._losses.copy()),
            "losses_at_begin": torch.from_numpy(self._losses_at_begin),
        }

    def __next__(self) -> Batch:
        if self._step == self._whole_from and self._batch:
            self._end_epoch()  # the last stretch is one of its own
        batch = super().__next__()
        self._step += 1
        return batch

    def token_weights(self, batch: Batch) -> NDArray[np.float32]:
        """What each target token of the last batch counts: (T,)."""
        return self._weights[self._unit_of_tokens(batch)]

    def record(self, batch: Batch, losses: NDArray[np.float32]) -> None:
        """Note the losses (T,) of the last batch's target tokens, but of those of weight 0."""
        units = self._unit_of_tokens(batch)
        counted = self._weights[units] > 0
        units, losses = units[counted], losses[counted]
        firsts = np.flatnonzero(np.diff(units, prepend=-1))
        means = np.add.reduceat(losses.astype(np.float64), firsts) / np.diff(
            firsts, append=len(units)
        )
        self._losses[units[firsts]] = means

    def _unit_of_tokens(self, batch: Batch) -> NDArray[np.int64]:
        """The unit of each target token of the last batch: (T,)."""
        rows = self._rows
        lengths = batch.tgt_cu_seqlens.diff().numpy().astype(np.int64)
        firsts = self._first_units[rows]
        num_units = self._first_units[rows + 1] - firsts
        starts = np.repeat(batch.tgt_cu_seqlens.numpy()[:-1].astype(np.int64), lengths)
        places = np.arange(int(lengths.sum())) - starts
        # Spans of a target differ by one token at most.
        units: NDArray[np.int64] = np.repeat(firsts, lengths) + places * np.repeat(
            num_units, lengths
        ) // np.repeat(lengths, lengths)
        return units

    def _begin_epoch(self) -> None:
        if self._batch == 0:
            self._losses_at_begin = self._losses.copy()
        self._weights = self._choose()
        super()._begin_epoch()

    def _epoch_rows(self) -> NDArray[np.int64]:
        kept = np.logical_or.reduceat(self._weights > 0, self._first_units[:-1])
        rows: NDArray[np.int64] = np.flatnonzero(kept)
        return rows

    def _choose(self) -> NDArray[np.float32]:
        """The weight of each unit in this epoch, 0 for those that are left out."""
        losses = self._losses_at_begin
        # The step of an epoch's first batch decides; `_step` lies behind it where a run goes on.
        is_last = self._step - self._batch >= self._whole_from
        is_first = self._by != "random" and bool(np.isnan(losses).any())
        if is_last or is_first:
            return np.ones(len(losses), dtype=np.float32)
        rng = np.random.default_rng((self._seed, self._epoch, 1))
        return unit_weights(losses, self._share, self._by, rng)


def unit_weights(
    losses: NDArray[np.float32], share: float, by: str, rng: np.random.Generator
) -> NDArray[np.float32]:
    """What each of N units counts in an epoch, 0 for those left out: float32 (N,).

    Args:
        losses: (N,); without meaning for "random".
        share: of the units to train on.
        by: one of `DYNAMIC_BY`.
        rng: draws what is left to chance.
    """
    weights = np.ones(len(losses), dtype=np.float32)
    num_dropped = len(losses) - max(1, round(share * len(losses)))
    if num_dropped == 0:
        return weights
    if by == "random":
        weights[rng.permutation(len(losses))[:num_dropped]] = 0
        return weights
    ascending = np.argsort(losses, kind="stable")
    if by == "loss":
        weights[ascending[:num_dropped]] = 0
        return weights
    num_below = int(np.count_nonzero(losses < losses.mean(dtype=np.float64)))
    pool = ascending[: min(len(losses), max(num_below, 2 * num_dropped))]
    weights[pool] = 1 / (1 - num_dropped / len(pool))
    weights[rng.permutation(pool)[:num_dropped]] = 0
    return weights
