"""M proxies of one shape trained as one model.

Every parameter is stacked, float32 [M, ...], and every model reads batches of its own, so that M
small models fill a device that one of them leaves idle. A linear layer is one batched product over
[M, T, D] of packed tokens. Model m computes what it would compute alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pycat.proxy.transformer import Dropout, ModelConfig, Transformer, sinusoids

# Queries (M Tq, heads, width), keys and values (M Tk, heads, width) to the shape of the queries.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Attentions(NamedTuple):
    """The three attentions of a batch, over packed sequences of all models."""

    source: Attend
    target: Attend  # causal
    cross: Attend  # queries of the target, keys of the source


class PackedSide(NamedTuple):
    """One side of M batches: sequence after sequence, a row a model, filled up at the end.

    Attributes:
        tokens: int64 (M, T).
        positions: int64 (M, T), of each token in its sequence, from 0.
    """

    tokens: Tensor
    positions: Tensor


class StackedTransformer:
    """The parameters of M models, and their forward pass.

    Args:
        models: M >= 1, of one shape, on one device.
        dropout: probability; masks differ from model to model.

    Attributes:
        parameters: by the name that `Transformer` has for it, float32 (M, *shape), leaves.
    """

    def __init__(self, models: Sequence[Transformer], dropout: float) -> None:
        self.config: ModelConfig = models[0].config
        self.num_models = len(models)
        self.dropout = dropout
        self._cpu_dropout = Dropout(dropout)
        self.eps = models[0].encoder_norm.eps
        states = [model.state_dict() for model in models]
        self.parameters = {
            name: torch.stack([state[name] for state in states]).float().requires_grad_()
            for name in states[0]
        }

    def state_dict(self, m: int) -> dict[str, Tensor]:
        """The parameters of model m, as its `Transformer` names them."""
        return {name: value.detach()[m] for name, value in self.parameters.items()}

    def model(self, m: int) -> Transformer:
        """Model m by itself; it shares the memory of its parameters."""
        with torch.device("meta"):
            model = Transformer(self.config)
        model.load_state_dict(self.state_dict(m), assign=True)
        return model

    @property
    def output_weight(self) -> Tensor:
        """The output layers (M, V, D), tied to the target's embeddings."""
        return self.parameters["embedding.weight"]

    def hidden(
        self, src: PackedSide, tgt: PackedSide, eos_id: int, attentions: Attentions
    ) -> Tensor:
        """Hidden states (M, T, D) that predict each target token."""
        layers = range(self.config.num_layers)
        table = "embedding.weight" if self.config.src_vocab_size is None else "src_embedding.weight"
        x = self._embed(src.tokens, src.positions, table)  # (M, S, D)
        for i in layers:
            name = f"encoder.{i}"
            x = self._self_attend(x, name, attentions.source)
            x = self._feed_forward(x, name, 1)
        memory = self._norm(x, "encoder_norm")

        # The decoder reads each sequence one token late, behind EOS.
        shifted = torch.where(tgt.positions == 0, eos_id, tgt.tokens.roll(1, dims=1))
        x = self._embed(shifted, tgt.positions, "embedding.weight")  # (M, T, D)
        for i in layers:
            name = f"decoder.{i}"
            x = self._self_attend(x, name, attentions.target)
            x = self._cross_attend(x, memory, name, attentions.cross)
            x = self._feed_forward(x, name, 2)
        return self._norm(x, "decoder_norm")

    def _embed(self, tokens: Tensor, positions: Tensor, table: str) -> Tensor:
        weight = self.parameters[table]  # (M, V, D)
        num_models, vocab_size, width = weight.shape
        firsts = vocab_size * torch.arange(num_models, device=tokens.device)[:, None]
        rows = (firsts + tokens).flatten()
        # The backward pass of index_select adds rows in place; that of an embedding sorts them.
        x = weight.flatten(0, 1).index_select(0, rows).view(*tokens.shape, width)
        x = x * math.sqrt(width) + sinusoids(positions.flatten(), width).view(*tokens.shape, width)
        return self._drop(x)

    def _self_attend(self, x: Tensor, layer: str, attend: Attend) -> Tensor:
        name = f"{layer}.self_attention"
        normed = self._norm(x, f"{layer}.norms.0")
        queries = self._heads(self._linear(normed, f"{name}.query"))
        keys, values = self._keys_values(normed, name)
        heads = attend(queries, keys, values).reshape(x.shape)
        return x + self._drop(self._linear(heads, f"{name}.output"))

    def _cross_attend(self, x: Tensor, memory: Tensor, layer: str, attend: Attend) -> Tensor:
        name = f"{layer}.cross_attention"
        queries = self._heads(self._linear(self._norm(x, f"{layer}.norms.1"), f"{name}.query"))
        keys, values = self._keys_values(memory, name)
        heads = attend(queries, keys, values).reshape(x.shape)
        return x + self._drop(self._linear(heads, f"{name}.output"))

    def _feed_forward(self, x: Tensor, layer: str, norm: int) -> Tensor:
        name = f"{layer}.feed_forward"
        inner = self._linear(self._norm(x, f"{layer}.norms.{norm}"), f"{name}.0").relu()
        return x + self._drop(self._linear(inner, f"{name}.2"))

    def _keys_values(self, x: Tensor, attention: str) -> tuple[Tensor, Tensor]:
        keys, values = self._linear(x, f"{attention}.key_value").chunk(2, dim=-1)
        return self._heads(keys), self._heads(values)

    def _heads(self, x: Tensor) -> Tensor:
        """(M, T, D) to (M T, heads, D / heads)."""
        return x.reshape(-1, self.config.num_heads, x.shape[2] // self.config.num_heads)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        """(M, T, in) to (M, T, out)."""
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        if self.num_models == 1:
            return F.linear(x[0], weight[0], bias[0])[None]
        return torch.baddbmm(bias[:, None], x, weight.mT)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        gain, shift = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        if self.num_models == 1:
            return F.layer_norm(x, x.shape[2:], gain[0], shift[0], self.eps)
        normed = F.layer_norm(x, x.shape[2:], eps=self.eps)
        return torch.addcmul(shift[:, None], normed, gain[:, None])

    def _drop(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return F.dropout(x, self.dropout)
        dropped: Tensor = self._cpu_dropout(x)
        return dropped
