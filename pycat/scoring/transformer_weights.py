"""Weights of Transformers as plain arrays, for the extension's forward pass."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pycat.proxy.transformer import DecoderLayer, EncoderLayer, Transformer, sinusoids


@dataclass(frozen=True)
class TransformerWeights:
    """One checkpoint of a model that `_core.Transformer` can run.

    Attributes:
        arrays: float32, by the names that `_core.Transformer` asks for: `source.tokens`,
            `encoder.0.self.query_key_value.weight` and so on. A causal model has no source, and
            its layers are those of a decoder.
        num_heads: of every attention.
        norm_first: whether norms precede the sublayers, or follow them.
        activation: "relu", "silu", "gelu", "gelu_tanh", "gated_silu" or "gated_gelu_tanh".
        epsilon: of every norm.
        embedding_scale: of token embeddings, before positions are added.
        head_scale: of the last hidden states.
        prefix: tokens that the decoder reads before the first target token; a causal model's
            prefix is the source.
        uncounted_token: the token that takes no position and gets none, wherever it stands; None if
            each token counts.
        rms_norm: whether norms take no mean off and have no bias.
        head_width: of each head; 0 for the model's width divided by the heads.
        num_kv_heads: heads of keys and values, each for as many heads of queries; 0 for all.
        attention_scale: of attention's scores; 0 for one over the root of `head_width`.
        attention_softcap, head_softcap: c of c * tanh(x / c), of scores and of logits; 0 for none.
        windows: of each decoder layer, how many last tokens a token sees, itself among them; 0 for
            all. Empty where no layer has one.
        num_positions: of a model without tables of positions that are added; otherwise 0.
    """

    arrays: dict[str, NDArray[np.float32]]
    num_heads: int
    norm_first: bool
    activation: str
    epsilon: float
    embedding_scale: float
    head_scale: float
    prefix: tuple[int, ...]
    uncounted_token: int | None = None
    rms_norm: bool = False
    head_width: int = 0
    num_kv_heads: int = 0
    attention_scale: float = 0.0
    attention_softcap: float = 0.0
    head_softcap: float = 0.0
    windows: tuple[int, ...] = ()
    num_positions: int = 0

    @property
    def is_causal(self) -> bool:
        """Whether source and target are one sequence of a decoder alone."""
        return "source.tokens" not in self.arrays


def proxy_weights(model: Transformer, eos_id: int, num_positions: int) -> TransformerWeights:
    """The weights of a proxy, for sequences of up to `num_positions` tokens."""
    config = model.config
    table = as_array(sinusoids(torch.arange(num_positions), config.d_model))
    target = as_array(model.embedding.weight)
    source = target if model.src_embedding is None else as_array(model.src_embedding.weight)
    arrays = {
        "source.tokens": source,
        "source.positions": table,
        "target.tokens": target,
        "target.positions": table,
        "head.weight": target,
    }
    for i, module in enumerate(model.encoder):
        arrays.update(_layer(f"encoder.{i}", cast(EncoderLayer, module)))
    for i, module in enumerate(model.decoder):
        layer = cast(DecoderLayer, module)
        arrays.update(_layer(f"decoder.{i}", layer))
        cross = layer.cross_attention
        arrays.update(linear(f"decoder.{i}.cross.query", cross.query))
        arrays.update(linear(f"decoder.{i}.cross.key_value", cross.key_value))
        arrays.update(linear(f"decoder.{i}.cross.output", cross.output))
        arrays.update(norm(f"decoder.{i}.cross.norm", cast(nn.LayerNorm, layer.norms[1])))
    arrays.update(norm("encoder.norm", model.encoder_norm))
    arrays.update(norm("decoder.norm", model.decoder_norm))
    return TransformerWeights(
        arrays,
        num_heads=config.num_heads,
        norm_first=True,
        activation="relu",
        epsilon=model.encoder_norm.eps,
        embedding_scale=math.sqrt(config.d_model),
        head_scale=1.0,
        prefix=(eos_id,),
    )


def _layer(
    name: str, layer: EncoderLayer | DecoderLayer
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    attention, norms = layer.self_attention, [cast(nn.LayerNorm, norm) for norm in layer.norms]
    up, _, down = layer.feed_forward
    yield from linear(f"{name}.self.query_key_value", attention.query, attention.key_value)
    yield from linear(f"{name}.self.output", attention.output)
    yield from norm(f"{name}.self.norm", norms[0])
    yield from linear(f"{name}.ff1", cast(nn.Linear, up))
    yield from linear(f"{name}.ff2", cast(nn.Linear, down))
    yield from norm(f"{name}.feed_forward.norm", norms[-1])


def linear(name: str, *layers: nn.Linear) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield weight and bias of linear layers of one input, concatenated by rows."""
    yield f"{name}.weight", as_array(*(layer.weight for layer in layers))
    if any(layer.bias is not None for layer in layers):
        biases = (
            layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
            for layer in layers
        )
        yield f"{name}.bias", as_array(*biases)


def norm(name: str, layer: nn.LayerNorm) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield weight and bias of a layer norm."""
    yield f"{name}.weight", as_array(layer.weight)
    yield f"{name}.bias", as_array(layer.bias)


def gated(name: str, gate: nn.Linear, up: nn.Linear) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield weight and bias of the two layers of a gated activation, their rows in turn."""
    yield f"{name}.weight", as_array(torch.stack((gate.weight, up.weight), dim=1).flatten(0, 1))
    if gate.bias is not None and up.bias is not None:
        yield f"{name}.bias", as_array(torch.stack((gate.bias, up.bias), dim=1).flatten())


def as_array(*tensors: Tensor) -> NDArray[np.float32]:
    """Concatenate tensors by rows as float32; a single tensor shares its memory where it can."""
    joined = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
    array: NDArray[np.float32] = joined.detach().float().contiguous().numpy()
    return array
