"""The adapter of encoder-decoder models that are given as arrays: CTranslate2, Marian, fairseq."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pycat.data.batches import Batch, length_mask
from pycat.scoring.adapter import Adapter, Head
from pycat.scoring.transformer_weights import TransformerWeights
from pycat.scoring.weights_module import WeightsTransformer

# What the extension's forward pass computes; the others run in PyTorch.
_COMPILED_ACTIVATIONS = ("relu", "silu", "gelu")


@dataclass(frozen=True)
class LoadedWeights:
    """Weights, and how many positions they have.

    Attributes:
        weights: the model. Without position tables where `num_positions` is None.
        num_positions: rows of the shorter position table; None where positions are computed for
            any length.
        start_id: the row of `target.tokens` that is zero, if the decoder starts from zero in place
            of a token.
    """

    weights: TransformerWeights
    num_positions: int | None
    start_id: int | None = None

    @property
    def prefix(self) -> tuple[int, ...]:
        """What the decoder reads before the first target token."""
        return self.weights.prefix

    def for_length(self, num_positions: int) -> TransformerWeights:
        """The weights for sequences of up to `num_positions` tokens."""
        if self.num_positions is not None:
            return self.weights
        arrays = self.weights.arrays
        table = computed_positions(num_positions, arrays["head.weight"].shape[1])
        tables = {"source.positions": table, "target.positions": table}
        return replace(self.weights, arrays={**arrays, **tables})


class WeightsAdapter(Adapter):
    """A model of `LoadedWeights`."""

    def __init__(self, loaded: LoadedWeights, *, name: str, step: int, sha256: str) -> None:
        self._loaded = loaded
        module = WeightsTransformer(loaded.weights)
        weight = module.get_parameter("head.weight")
        bias = None
        if "head.bias" in loaded.weights.arrays:
            bias = module.get_parameter("head.bias")
        most = loaded.num_positions
        super().__init__(
            module,
            Head(weight, bias, scale=loaded.weights.head_scale),
            name=name,
            step=step,
            sha256=sha256,
            max_src_tokens=most,
            max_tgt_tokens=None if most is None else most - len(loaded.prefix) + 1,
        )

    @property
    def src_vocab_size(self) -> int:
        """Bound on source ids."""
        return len(self._loaded.weights.arrays["source.tokens"])

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states (T, D)."""
        tgt = batch.tgt_tokens  # (B, longest)
        before = tgt.new_tensor(self._loaded.prefix).expand(len(tgt), -1)
        tgt_in = torch.cat((before, tgt[:, :-1]), dim=1)
        positions = None
        if self._loaded.num_positions is None:
            longest = max(batch.src_tokens.shape[1], tgt_in.shape[1])
            table = computed_positions(longest, self.head.weight.shape[1])
            positions = torch.from_numpy(table).to(tgt.device)
        src_mask = length_mask(batch.src_tokens, batch.src_cu_seqlens)
        states: Tensor = self.module(batch.src_tokens, src_mask, tgt_in, positions)
        return states[:, len(before[0]) - 1 :][length_mask(tgt, batch.tgt_cu_seqlens)]

    def transformer_weights(self, num_positions: int) -> TransformerWeights | None:
        """The weights; None for activations and widths that the extension does not support."""
        weights = self._loaded.weights
        width = weights.arrays["head.weight"].shape[1]
        if weights.activation not in _COMPILED_ACTIVATIONS or width // weights.num_heads % 8:
            return None
        if any(len(array) % 4 for name, array in weights.arrays.items() if ".ff1." in name):
            return None
        return self._loaded.for_length(num_positions + len(weights.prefix) - 1)


def computed_positions(num_positions: int, width: int, first: int = 1) -> NDArray[np.float32]:
    """Positions (num_positions, D) from `first` on: sines of all rates, then their cosines.

    CTranslate2 computes them for models without a table, and fairseq from 2 on.
    """
    half = width // 2
    rates = np.exp(np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1)))
    angles = np.arange(first, first + num_positions, dtype=np.float32)[:, None] * rates
    table = np.concatenate((np.sin(angles), np.cos(angles)), axis=1)
    return np.pad(table, ((0, 0), (0, width % 2)))
