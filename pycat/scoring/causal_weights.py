"""Weights of causal Hugging Face models as plain arrays, for the extension's forward pass.

GPT-2, and the family of Llama: Llama, Mistral, Qwen 2 and 3, Gemma 1, 2 and 3. What decides a
model's function is read from its modules where they hold it. A model with a part that is not known
here, by its class, a setting, or the name of a weight, is left to PyTorch.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pycat.scoring.adapter import Head
from pycat.scoring.transformer_weights import TransformerWeights, as_array, gated, linear, norm

# What the classes of transformers' activation modules compute.
ACTIVATIONS = {
    "ReLU": "relu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
}
GATED = {"silu": "gated_silu", "gelu_tanh": "gated_gelu_tanh"}

# Positions that the batch needs by which a model is verified before it is used.
MIN_POSITIONS = 16

# Models whose layers are those of Llama but for what their modules tell, and which of their layers
# see a window alone.
_LLAMA_LIKE = {
    "LlamaForCausalLM": "none",
    "MistralForCausalLM": "all",
    "Qwen2ForCausalLM": "by type",
    "Qwen3ForCausalLM": "by type",
    "GemmaForCausalLM": "none",
    "Gemma2ForCausalLM": "by type",
    "Gemma3ForCausalLM": "by type",
}
# Angles that depend on the position alone. Those of "dynamic" and "longrope" depend on the length
# of the text.
_ROTARY_TYPES = {"default", "linear", "llama3", "yarn"}
_LINEAR = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
_LAYER_NAMES = {
    *(f"{name}.{part}" for name in _LINEAR for part in ("weight", "bias")),
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    "pre_feedforward_layernorm.weight",
    "post_feedforward_layernorm.weight",
    "self_attn.q_norm.weight",
    "self_attn.k_norm.weight",
}
_GPT2_LAYERS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "ln_1", "ln_2")
_GPT2_NAMES = {f"{name}.{part}" for name in _GPT2_LAYERS for part in ("weight", "bias")}

Arrays = dict[str, NDArray[np.float32]]


def causal_weights(model: Any, head: Head, num_positions: int) -> TransformerWeights | None:
    """The weights of a causal model; None for a model that is not supported.

    Args:
        model: of `AutoModelForCausalLM`.
        head: its output layer.
        num_positions: max tokens of a sequence.
    """
    name = type(model).__name__
    if not getattr(model.config, "is_causal", True):
        return None
    if name == "GPT2LMHeadModel":
        return _gpt2(model, head)
    if name in _LLAMA_LIKE:
        return _llama_like(model, head, max(num_positions, MIN_POSITIONS))
    return None


def head_arrays(head: Head) -> Arrays:
    """The output layer's arrays."""
    arrays = {"head.weight": as_array(head.weight)}
    if head.bias is not None:
        arrays["head.bias"] = as_array(head.bias)
    return arrays


def _gpt2(model: Any, head: Head) -> TransformerWeights | None:
    config, stack = model.config, model.transformer
    activations = {ACTIVATIONS.get(type(layer.mlp.act).__name__) for layer in stack.h}
    if (
        None in activations
        or len(activations) > 1
        or any({name for name, _ in layer.named_parameters()} != _GPT2_NAMES for layer in stack.h)
        or config.scale_attn_by_inverse_layer_idx
        or config.hidden_size // config.num_attention_heads % 8
        or stack.h[0].mlp.c_fc.weight.shape[1] % 4
    ):
        return None
    arrays = head_arrays(head)
    arrays["target.tokens"] = as_array(stack.wte.weight)
    arrays["target.positions"] = as_array(stack.wpe.weight)
    for i, layer in enumerate(stack.h):
        name = f"decoder.{i}"
        arrays.update(_conv1d(f"{name}.self.query_key_value", layer.attn.c_attn))
        arrays.update(_conv1d(f"{name}.self.output", layer.attn.c_proj))
        arrays.update(norm(f"{name}.self.norm", layer.ln_1))
        arrays.update(_conv1d(f"{name}.ff1", layer.mlp.c_fc))
        arrays.update(_conv1d(f"{name}.ff2", layer.mlp.c_proj))
        arrays.update(norm(f"{name}.feed_forward.norm", layer.ln_2))
    arrays.update(norm("decoder.norm", stack.ln_f))
    return TransformerWeights(
        arrays,
        num_heads=config.num_attention_heads,
        norm_first=True,
        activation=str(activations.pop()),
        epsilon=config.layer_norm_epsilon,
        embedding_scale=1.0,
        head_scale=head.scale,
        prefix=(),
        attention_scale=0.0 if config.scale_attn_weights else 1.0,
        head_softcap=head.softcap or 0.0,
    )


def _conv1d(name: str, layer: Any) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield weight and bias of a layer whose weight is stored as (in, out)."""
    yield f"{name}.weight", as_array(layer.weight.T)
    yield f"{name}.bias", as_array(layer.bias)


def _llama_like(model: Any, head: Head, num_positions: int) -> TransformerWeights | None:
    config, stack = model.config, model.model
    layers = list(stack.layers[: config.num_hidden_layers])
    attentions = [layer.self_attn for layer in layers]
    is_gemma = type(model).__name__.startswith("Gemma")
    # What all layers must share.
    activations = {GATED.get(ACTIVATIONS.get(type(x.mlp.act_fn).__name__, "")) for x in layers}
    scales = {attention.scaling for attention in attentions}
    widths = {attention.head_dim for attention in attentions}
    softcaps = {getattr(attention, "attn_logit_softcapping", None) for attention in attentions}
    windows = _windows(model, len(layers))
    embedding_scale = _embedding_scale(stack.embed_tokens)
    if (
        any({name for name, _ in layer.named_parameters()} - _LAYER_NAMES for layer in layers)
        or any(type(x.get_submodule(name)) is not nn.Linear for x in layers for name in _LINEAR)
        or None in activations
        or max(map(len, (activations, scales, widths, softcaps))) > 1
        or windows is None
        or embedding_scale is None
        or (embedding_scale == 1.0) == is_gemma
        or hasattr(stack, "rotary_emb_local")  # as older transformers have it in Gemma 3
        or getattr(config, "use_bidirectional_attention", None)
    ):
        return None
    head_width, softcap = widths.pop(), softcaps.pop()
    if softcap is not None and type(model).__name__ != "Gemma2ForCausalLM":
        return None  # Gemma 3 has the setting, and does not follow it
    if head_width % 8 or config.hidden_size % 4 or layers[0].mlp.up_proj.weight.shape[0] % 4:
        return None
    arrays = head_arrays(head)
    arrays["target.tokens"] = as_array(stack.embed_tokens.weight)
    tables: dict[str | None, NDArray[np.float32] | None] = {}
    for i, layer in enumerate(layers):
        kind = getattr(layer.self_attn, "layer_type", None)
        if kind not in tables:
            tables[kind] = _rotary(stack.rotary_emb, kind, head_width, num_positions)
        if (table := tables[kind]) is None:
            return None
        arrays.update(_layer(f"decoder.{i}", layer, is_gemma))
        arrays[f"decoder.{i}.self.rotary"] = table
    arrays.update(_rms_norm("decoder.norm", stack.norm, is_gemma))
    return TransformerWeights(
        arrays,
        num_heads=len(attentions[0].q_proj.weight) // head_width,
        norm_first=True,
        activation=str(activations.pop()),
        epsilon=config.rms_norm_eps,
        embedding_scale=embedding_scale,
        head_scale=head.scale,
        prefix=(),
        rms_norm=True,
        head_width=head_width,
        num_kv_heads=len(attentions[0].k_proj.weight) // head_width,
        attention_scale=float(scales.pop()),
        attention_softcap=softcap or 0.0,
        head_softcap=head.softcap or 0.0,
        windows=windows,
        num_positions=num_positions,
    )


def _layer(name: str, layer: Any, is_gemma: bool) -> Iterator[tuple[str, NDArray[np.float32]]]:
    attention, mlp = layer.self_attn, layer.mlp
    yield from linear(
        f"{name}.self.query_key_value", attention.q_proj, attention.k_proj, attention.v_proj
    )
    yield from linear(f"{name}.self.output", attention.o_proj)
    yield from gated(f"{name}.ff1", mlp.gate_proj, mlp.up_proj)
    yield from linear(f"{name}.ff2", mlp.down_proj)
    norms = {"self.norm": layer.input_layernorm}
    if hasattr(layer, "pre_feedforward_layernorm"):
        norms["self.output_norm"] = layer.post_attention_layernorm
        norms["feed_forward.norm"] = layer.pre_feedforward_layernorm
        norms["feed_forward.output_norm"] = layer.post_feedforward_layernorm
    else:
        norms["feed_forward.norm"] = layer.post_attention_layernorm
    if hasattr(attention, "q_norm"):
        norms |= {"self.query_norm": attention.q_norm, "self.key_norm": attention.k_norm}
    for part, module in norms.items():
        yield from _rms_norm(f"{name}.{part}", module, is_gemma)


def _rms_norm(name: str, module: Any, is_gemma: bool) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield a norm's weight; that of Gemma is what is added to 1."""
    yield f"{name}.weight", as_array(1.0 + module.weight.float() if is_gemma else module.weight)


def _windows(model: Any, num_layers: int) -> tuple[int, ...] | None:
    """Tokens that a token of each layer sees, 0 for all; None for a mask that is not known."""
    which = _LLAMA_LIKE[type(model).__name__]
    window: Any = getattr(model.config, "sliding_window", None)
    if which == "none" or (which == "all" and window is None):
        return (0,) * num_layers
    if which == "all":
        return (int(window),) * num_layers
    types = list(model.config.layer_types[:num_layers])
    if not set(types) <= {"full_attention", "sliding_attention"}:
        return None
    if window is None and "sliding_attention" in types:
        return None
    return tuple(int(window) if kind == "sliding_attention" else 0 for kind in types)


def _embedding_scale(embedding: nn.Embedding) -> float | None:
    """The factor of token embeddings; None for a kind of embedding that is not known."""
    if type(embedding) is nn.Embedding:
        return 1.0
    scale = getattr(embedding, "embed_scale", None)
    return None if scale is None else float(scale)


@torch.inference_mode()
def _rotary(
    module: Any, layer_type: str | None, head_width: int, num_positions: int
) -> NDArray[np.float32] | None:
    """Cosines and sines (num_positions, head_width) of the angles of a layer's heads.

    None where they depend on more than the position.
    """
    by_type = isinstance(module.rope_type, dict)
    kind = module.rope_type.get(layer_type) if by_type else module.rope_type
    if kind not in _ROTARY_TYPES:
        return None
    like, places = torch.empty(1), torch.arange(num_positions)[None]
    cosines, sines = module(like, places, layer_type) if by_type else module(like, places)
    half = head_width // 2
    if cosines.shape != (1, num_positions, head_width):
        return None  # a part of the head alone is rotated
    if any(not torch.equal(table[..., :half], table[..., half:]) for table in (cosines, sines)):
        return None
    return as_array(torch.cat((cosines[0, :, :half], sines[0, :, :half]), dim=1))
