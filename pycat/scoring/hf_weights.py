"""Weights of Hugging Face models as plain arrays, for the extension's forward pass.

The family of BART is supported: Marian, BART, mBART, and M2M-100 with NLLB. Its models differ in
the place of their norms and in how they count positions; all other parts have the same names.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.scoring.adapter import Head
from pycat.scoring.transformer_weights import TransformerWeights, as_array, linear, norm

_NORM_FIRST = {"marian": False, "bart": False, "mbart": True, "m2m_100": True}
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu", "silu": "silu"}


def encoder_decoder_weights(
    model: Any, head: Head, prefix: tuple[int, ...]
) -> TransformerWeights | None:
    """The weights of an encoder-decoder model; None for a model outside the family.

    Args:
        model: of `AutoModelForSeq2SeqLM`.
        head: its output layer.
        prefix: tokens that its decoder reads before the first target token.
    """
    config = model.config
    activation = _ACTIVATIONS.get(str(getattr(config, "activation_function", None)))
    if config.model_type not in _NORM_FIRST or activation is None or head.softcap is not None:
        return None
    encoder, decoder = model.get_encoder(), model.get_decoder()
    heads = {config.encoder_attention_heads, config.decoder_attention_heads}
    # PyTorch runs what the extension does not support: encoder and decoder heads of different
    # numbers, or such widths.
    if len(heads) > 1 or config.d_model // max(heads) % 8:
        return None
    if config.encoder_ffn_dim % 4 or config.decoder_ffn_dim % 4:
        return None
    arrays: dict[str, NDArray[np.float32]] = {"head.weight": as_array(head.weight)}
    if head.bias is not None:
        arrays["head.bias"] = as_array(head.bias)
    for side, stack in (("source", encoder), ("target", decoder)):
        arrays[f"{side}.tokens"] = as_array(stack.embed_tokens.weight)
        arrays[f"{side}.positions"] = _positions(stack.embed_positions)
        if len(arrays[f"{side}.positions"]) < config.max_position_embeddings:
            return None  # a table of positions that grows with the sentence
        if hasattr(stack, "layernorm_embedding"):
            arrays.update(norm(f"{side}.norm", stack.layernorm_embedding))
    for name, stack in (("encoder", encoder), ("decoder", decoder)):
        for i, layer in enumerate(stack.layers):
            arrays.update(_layer(f"{name}.{i}", layer))
        if hasattr(stack, "layer_norm"):
            arrays.update(norm(f"{name}.norm", stack.layer_norm))
    scaled = encoder if hasattr(encoder, "embed_scale") else encoder.embed_tokens
    return TransformerWeights(
        arrays,
        num_heads=heads.pop(),
        norm_first=_NORM_FIRST[config.model_type],
        activation=activation,
        epsilon=encoder.layers[0].final_layer_norm.eps,
        embedding_scale=float(scaled.embed_scale),
        head_scale=head.scale,
        prefix=prefix,
        # A `<pad>` in a sentence: M2M-100 counts positions by the tokens that are not padding.
        uncounted_token=config.pad_token_id if config.model_type == "m2m_100" else None,
    )


def _layer(name: str, layer: Any) -> Iterator[tuple[str, NDArray[np.float32]]]:
    attention = layer.self_attn
    yield from linear(
        f"{name}.self.query_key_value", attention.q_proj, attention.k_proj, attention.v_proj
    )
    yield from linear(f"{name}.self.output", attention.out_proj)
    yield from norm(f"{name}.self.norm", layer.self_attn_layer_norm)
    if hasattr(layer, "encoder_attn"):
        cross = layer.encoder_attn
        yield from linear(f"{name}.cross.query", cross.q_proj)
        yield from linear(f"{name}.cross.key_value", cross.k_proj, cross.v_proj)
        yield from linear(f"{name}.cross.output", cross.out_proj)
        yield from norm(f"{name}.cross.norm", layer.encoder_attn_layer_norm)
    yield from linear(f"{name}.ff1", layer.fc1)
    yield from linear(f"{name}.ff2", layer.fc2)
    yield from norm(f"{name}.feed_forward.norm", layer.final_layer_norm)


def _positions(module: Any) -> NDArray[np.float32]:
    """Position embeddings (positions, D), from a sentence's first token on."""
    if hasattr(module, "weights"):  # M2M-100: computed; the row of padding precedes the first
        return as_array(module.weights)[module.padding_idx + 1 :]
    return as_array(module.weight)[getattr(module, "offset", 0) :]
