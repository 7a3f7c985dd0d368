"""Weights of CTranslate2's encoder-decoder Transformers, as arrays for the forward passes."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.errors import CheckpointError
from pycat.scoring.ct2_file import Ct2File
from pycat.scoring.transformer_weights import TransformerWeights
from pycat.scoring.weights_adapter import LoadedWeights

# By the numbers of CTranslate2's `Activation`.
_ACTIVATIONS = ("relu", "gelu_tanh", "silu", "gelu", "gelu_sigmoid")

# x * sigmoid(1.702 x), which CTranslate2 takes for Marian's gelu.
_SIGMOID_SLOPE = 1.702

_REVISIONS = range(3, 8)

# Before revision 5 these were stored once for both stacks.
_SHARED = ("num_heads", "pre_norm", "activation")

# Variables that say nothing of a probability, or that are off in every model read here.
_IGNORED = {
    "alignment_layer",
    "alignment_heads",
    "embeddings_merge",
    "alibi_use_positive_positions",
    "scale_alibi",
}
_OFF = {"alibi", "multi_query_attention"}

# Kinds of models that begin with such a variable, by the first part of its name that tells.
_KINDS = {
    "relative_": "relative positions",
    "rotary_": "rotary positions",
    "linear_0_noact": "gated feed-forward layers",
    "embeddings_1": "features beside the source tokens",
    "project_in": "a projection of the embeddings",
    "q_norm": "norms of queries and keys",
    "num_heads_kv": "grouped keys and values",
    "head_dim": "heads of a width of their own",
    "final_logit_softcapping": "capped logits",
    "sliding_window": "a window of attention",
    "alibi": "ALiBi positions",
}


def ct2_weights(file: Ct2File, config: Mapping[str, Any], name: str) -> LoadedWeights:
    """Translate the variables of a `model.bin`.

    Args:
        file: of spec "TransformerSpec".
        config: of `config.json`.
        name: of the model in messages.

    Raises:
        CheckpointError: the model is of another kind, or has a part that pycat does not know.
    """
    if file.spec != "TransformerSpec":
        raise CheckpointError(
            f"{name}: holds a {file.spec}; expected an encoder-decoder Transformer "
            "(TransformerSpec). A causal model is scored from its Hugging Face folder"
        )
    if file.revision not in _REVISIONS:
        raise CheckpointError(
            f"{name}: TransformerSpec has revision {file.revision}, expected {_REVISIONS[0]} to "
            f"{_REVISIONS[-1]}; convert the model with CTranslate2 2.0 to 4"
        )
    found = dict(file.variables)
    for key in _SHARED:
        if key in found:
            found[f"encoder/{key}"] = found[f"decoder/{key}"] = found[key]
    source = _Variables(found, name)
    encoder, decoder = source.under("encoder"), source.under("decoder")
    width = source.floats("decoder/projection/weight").shape[1]
    shared = {}
    for key, default in (("num_heads", 8), ("pre_norm", 1), ("activation", 0)):
        values = [side.scalar(key, default) for side in (encoder, decoder)]
        if values[0] != values[1]:
            raise CheckpointError(
                f"{name}: {key} is {values[0]:g} in the encoder and {values[1]:g} in the decoder; "
                "pycat scores models in which they are the same"
            )
        shared[key] = int(values[0])
    if shared["activation"] >= len(_ACTIVATIONS):
        raise CheckpointError(
            f"{name}: activation {shared['activation']} of CTranslate2 is not known; expected one "
            f"of 0 to {len(_ACTIVATIONS) - 1} ({', '.join(_ACTIVATIONS)})"
        )
    activation = _ACTIVATIONS[shared["activation"]]
    arrays: dict[str, NDArray[np.float32]] = {}
    scales = []
    for side, stack in (("source", encoder), ("target", decoder)):
        first = "embeddings_0" if stack.has("embeddings_0/weight") else "embeddings"
        arrays[f"{side}.tokens"] = stack.floats(f"{first}/weight")
        scales.append(_embedding_scale(stack, first, width))
        if stack.has("position_encodings/encodings"):
            arrays[f"{side}.positions"] = stack.floats("position_encodings/encodings")
        if stack.has("layernorm_embedding/gamma"):
            arrays.update(_norm(f"{side}.norm", stack.under("layernorm_embedding")))
    if scales[0] != scales[1]:
        # One scale is applied to both sides, so the other factor goes into the target's rows.
        arrays["target.tokens"] = arrays["target.tokens"] * np.float32(scales[1] / scales[0])
    for side, stack in (("encoder", encoder), ("decoder", decoder)):
        number = 0
        while stack.has(f"layer_{number}/ffn/linear_0/weight"):
            arrays.update(_layer(f"{side}.{number}", stack.under(f"layer_{number}"), activation))
            number += 1
        if stack.has("layer_norm/gamma"):
            arrays.update(_norm(f"{side}.norm", stack.under("layer_norm")))
    arrays.update(_linear("head", decoder.under("projection")))
    start_id = None
    if decoder.scalar("start_from_zero_embedding", 0):
        start_id = len(arrays["target.tokens"])
        zero = np.zeros((1, width), np.float32)
        arrays["target.tokens"] = np.concatenate((arrays["target.tokens"], zero))
    head_scale = decoder.scalar("scale_outputs", 1.0)
    source.refuse_unread()
    epsilon = config.get("layer_norm_epsilon")
    weights = TransformerWeights(
        {key: np.ascontiguousarray(array, np.float32) for key, array in arrays.items()},
        num_heads=shared["num_heads"],
        norm_first=bool(shared["pre_norm"]),
        activation="silu" if activation == "gelu_sigmoid" else activation,
        epsilon=1e-5 if epsilon is None else float(epsilon),
        embedding_scale=scales[0],
        head_scale=head_scale,
        prefix=(),
    )
    tables = [len(arrays[key]) for key in arrays if key.endswith(".positions")]
    if len(tables) == 1:
        raise CheckpointError(f"{name}: only one side has a table of positions; convert it again")
    return LoadedWeights(weights, min(tables) if tables else None, start_id)


class _Variables:
    """The variables whose names begin with a scope; remembers which were read."""

    def __init__(
        self, found: Mapping[str, NDArray[Any]], name: str, scope: str = "", read: Any = None
    ) -> None:
        self._found, self._name, self._scope = found, name, scope
        self._read: set[str] = set() if read is None else read

    def under(self, scope: str) -> "_Variables":
        return _Variables(self._found, self._name, f"{self._scope}{scope}/", self._read)

    def has(self, key: str) -> bool:
        return self._scope + key in self._found

    @property
    def place(self) -> str:
        """The model and the scope, for messages."""
        return f"{self._name}: {self._scope.rstrip('/')}"

    def is_integer(self, key: str) -> bool:
        """Whether a variable is stored as an integer."""
        return self._found[self._scope + key].dtype.kind == "i"

    def floats(self, key: str) -> NDArray[np.float32]:
        """An array in float32; integers are divided by their scale, one a row or one for all."""
        key = self._scope + key
        if key not in self._found:
            raise CheckpointError(
                f"{self._name}: model.bin lacks {key}; expected the variables of a Transformer: "
                "convert the model again"
            )
        self._read.add(key)
        array = self._found[key]
        if array.dtype.kind != "i":
            return array.astype(np.float32)
        if f"{key}_scale" not in self._found:
            raise CheckpointError(
                f"{self._name}: {key} is in {array.dtype} without {key}_scale; convert it again"
            )
        self._read.add(f"{key}_scale")
        scale = self._found[f"{key}_scale"].astype(np.float32)
        return array.astype(np.float32) / (scale[:, None] if scale.ndim else scale)

    def scalar(self, key: str, default: float) -> float:
        key = self._scope + key
        self._read.add(key)
        return float(self._found[key]) if key in self._found else default

    def refuse_unread(self) -> None:
        """Refuse a model with variables that nothing read: its probabilities would be others."""
        for key in sorted(set(self._found) - self._read):
            last = key.rsplit("/", 1)[-1]
            if last in _IGNORED or (last in _OFF and not self._found[key].any()):
                continue
            if "/" not in key:  # settings of models before version 6 of the file
                continue
            kind = next((text for part, text in _KINDS.items() if f"/{part}" in f"/{key}"), None)
            raise CheckpointError(
                f"{self._name}: has {kind or 'a part that pycat does not know'} ({key}), which "
                "pycat does not score; score the model it was converted from"
            )


def _embedding_scale(stack: _Variables, first: str, width: int) -> float:
    """Factor of the embeddings: a flag (int8) for the root of the width, or the factor itself."""
    for key in ("scale_embeddings", f"{first}/multiply_by_sqrt_depth"):
        if stack.has(key):
            value = stack.scalar(key, 1.0)
            if not stack.is_integer(key):
                return value
            return math.sqrt(width) if value else 1.0
    return math.sqrt(width)


def _layer(name: str, layer: _Variables, activation: str) -> dict[str, NDArray[np.float32]]:
    own = layer.under("self_attention")
    arrays = {
        **_linear(f"{name}.self.query_key_value", own.under("linear_0")),
        **_linear(f"{name}.self.output", own.under("linear_1")),
        **_norm(f"{name}.self.norm", own.under("layer_norm")),
    }
    if layer.has("attention/linear_0/weight"):
        cross = layer.under("attention")
        arrays |= {
            **_linear(f"{name}.cross.query", cross.under("linear_0")),
            **_linear(f"{name}.cross.key_value", cross.under("linear_1")),
            **_linear(f"{name}.cross.output", cross.under("linear_2")),
            **_norm(f"{name}.cross.norm", cross.under("layer_norm")),
        }
    ffn = layer.under("ffn")
    up = _linear(f"{name}.ff1", ffn.under("linear_0"))
    down = _linear(f"{name}.ff2", ffn.under("linear_1"))
    if activation == "gelu_sigmoid":
        # x sigmoid(s x) = silu(s x) / s: s goes into the first product, 1 / s into the second.
        up = {key: array * np.float32(_SIGMOID_SLOPE) for key, array in up.items()}
        down[f"{name}.ff2.weight"] = down[f"{name}.ff2.weight"] / np.float32(_SIGMOID_SLOPE)
    return {**arrays, **up, **down, **_norm(f"{name}.feed_forward.norm", ffn.under("layer_norm"))}


def _linear(name: str, layer: _Variables) -> dict[str, NDArray[np.float32]]:
    arrays = {f"{name}.weight": layer.floats("weight")}
    if layer.has("bias"):
        arrays[f"{name}.bias"] = layer.floats("bias")
    return arrays


def _norm(name: str, layer: _Variables) -> dict[str, NDArray[np.float32]]:
    if layer.has("gamma") and not layer.has("beta"):
        raise CheckpointError(
            f"{layer.place}: has RMS norms, which pycat does not score; score the model it was "
            "converted from"
        )
    return {f"{name}.weight": layer.floats("gamma"), f"{name}.bias": layer.floats("beta")}
