"""Weights of T5 and mT5 as plain arrays, for the extension's forward pass."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pycat.scoring.adapter import Head
from pycat.scoring.causal_weights import ACTIVATIONS, GATED, MIN_POSITIONS, head_arrays
from pycat.scoring.transformer_weights import TransformerWeights, as_array, gated, linear

_CLASSES = {"T5ForConditionalGeneration", "MT5ForConditionalGeneration"}
_ATTENTION_NAMES = {f"{name}.weight" for name in ("q", "k", "v", "o", "relative_attention_bias")}
_FEED_FORWARD_NAMES = {f"{name}.weight" for name in ("wi", "wi_0", "wi_1", "wo")}


def t5_weights(
    model: Any, head: Head, prefix: tuple[int, ...], num_positions: int
) -> TransformerWeights | None:
    """The weights of a T5 model; None for another model, or one that is not supported.

    Args:
        model: of `AutoModelForSeq2SeqLM`.
        head: its output layer.
        prefix: tokens that its decoder reads before the first target token.
        num_positions: max tokens of a sentence.
    """
    config = model.config
    if type(model).__name__ not in _CLASSES or config.d_kv % 8 or config.d_model % 4:
        return None
    stacks = {"encoder": model.encoder, "decoder": model.decoder}
    blocks = [block for stack in stacks.values() for block in stack.block]
    activations = {_activation(block.layer[-1].DenseReluDense) for block in blocks}
    if None in activations or len(activations) > 1 or config.d_ff % 4:
        return None
    if any(not _is_known(part) for block in blocks for part in block.layer):
        return None
    num_positions = max(num_positions + len(prefix) - 1, MIN_POSITIONS)
    arrays = head_arrays(head)
    for side, (name, stack) in zip(("source", "target"), stacks.items(), strict=True):
        arrays[f"{side}.tokens"] = as_array(stack.embed_tokens.weight)
        # The first layer's bias serves all layers.
        relative = _relative(stack.block[0].layer[0].SelfAttention, num_positions)
        for i, block in enumerate(stack.block):
            arrays.update(_layer(f"{name}.{i}", block))
            arrays[f"{name}.{i}.self.relative"] = relative
        arrays[f"{name}.norm.weight"] = as_array(stack.final_layer_norm.weight)
    return TransformerWeights(
        arrays,
        num_heads=config.num_heads,
        norm_first=True,
        activation=str(activations.pop()),
        epsilon=config.layer_norm_epsilon,
        embedding_scale=1.0,
        head_scale=head.scale,
        prefix=prefix,
        rms_norm=True,
        head_width=config.d_kv,
        attention_scale=1.0,
        head_softcap=head.softcap or 0.0,
        num_positions=num_positions,
    )


def _activation(dense: Any) -> str | None:
    """The activation of a feed-forward; None for one that the extension lacks."""
    activation = ACTIVATIONS.get(type(dense.act).__name__)
    if hasattr(dense, "wi_0"):
        return None if activation is None else GATED.get(activation)
    return activation


def _is_known(part: Any) -> bool:
    """Whether a sublayer has no weights beside those that are read."""
    if any("Linear" in type(x).__name__ and type(x) is not nn.Linear for x in part.modules()):
        return False  # quantized
    for name, module in part.named_children():
        names = {weight for weight, _ in module.named_parameters()}
        if name in ("SelfAttention", "EncDecAttention"):
            unknown = names - _ATTENTION_NAMES
        elif name == "DenseReluDense":
            unknown = names - _FEED_FORWARD_NAMES
        else:
            unknown = names - {"weight"}
        if unknown:
            return False
    return True


def _layer(name: str, block: Any) -> Iterator[tuple[str, NDArray[np.float32]]]:
    parts = [*block.layer]
    attention = parts[0].SelfAttention
    yield from linear(f"{name}.self.query_key_value", attention.q, attention.k, attention.v)
    yield from linear(f"{name}.self.output", attention.o)
    yield f"{name}.self.norm.weight", as_array(parts[0].layer_norm.weight)
    if len(parts) == 3:
        cross = parts[1].EncDecAttention
        yield from linear(f"{name}.cross.query", cross.q)
        yield from linear(f"{name}.cross.key_value", cross.k, cross.v)
        yield from linear(f"{name}.cross.output", cross.o)
        yield f"{name}.cross.norm.weight", as_array(parts[1].layer_norm.weight)
    dense = parts[-1].DenseReluDense
    if hasattr(dense, "wi_0"):
        yield from gated(f"{name}.ff1", dense.wi_0, dense.wi_1)
    else:
        yield from linear(f"{name}.ff1", dense.wi)
    yield from linear(f"{name}.ff2", dense.wo)
    yield f"{name}.feed_forward.norm.weight", as_array(parts[-1].layer_norm.weight)


@torch.inference_mode()
def _relative(attention: Any, num_positions: int) -> NDArray[np.float32]:
    """What each head adds to scores (heads, 2 P - 1), by the query's place minus the key's."""
    distances = torch.arange(1 - num_positions, num_positions)
    buckets = attention._relative_position_bucket(
        -distances,
        bidirectional=not attention.is_decoder,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return as_array(attention.relative_attention_bias(buckets).T)
