"""Checkpoints `.pt` of fairseq and OpenNMT-py.

fairseq's are read here: neither fairseq nor the packages that its settings are made of need to be
installed. Pickled objects of unknown classes become stand-ins that run no code. OpenNMT-py's go
through CTranslate2's converter.
"""

import argparse
import collections
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from pycat.errors import CheckpointError
from pycat.scoring.transformer_weights import TransformerWeights
from pycat.scoring.weights_adapter import LoadedWeights, computed_positions

# fairseq's ids: `<s>`, `<pad>`, `</s>`, `<unk>`.
_PAD, _EOS = 1, 2

_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "swish": "silu",
}

# Settings of fairseq that change probabilities, and the only value that is supported.
_EXPECTED = {
    "adaptive_softmax_cutoff": None,
    "cross_self_attention": False,
    "no_cross_attention": False,
    "lang_tok_replacing_bos_eos": False,
}


class _StandIn:
    """An object of a class that is not loaded; keeps its state."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})

    def __call__(self, *args: Any, **kwargs: Any) -> "_StandIn":
        return _StandIn()

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Loads tensors, containers and namespaces; stand-ins take the place of all other objects."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "argparse" and name == "Namespace":
            return argparse.Namespace
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils" and name in (
            "_rebuild_tensor_v2",
            "_rebuild_parameter",
            "_rebuild_tensor",
        ):
            return getattr(torch._utils, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return super().find_class(module, name)
        return _StandIn


def _load_pickle(file: BinaryIO, **settings: Any) -> Any:
    return _Unpickler(file, **settings).load()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a `.pt` file.

    Raises:
        CheckpointError: missing, damaged, or no checkpoint.
    """
    try:
        found = torch.load(
            path,
            map_location="cpu",
            pickle_module=SimpleNamespace(
                Unpickler=_Unpickler, load=_load_pickle, __name__="pickle"
            ),
            weights_only=False,
        )
    except (
        OSError,
        RuntimeError,
        ValueError,
        pickle.UnpicklingError,
        EOFError,
        TypeError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: not a readable checkpoint of PyTorch ({reason}); fetch it again"
        ) from None
    if not isinstance(found, dict) or not isinstance(found.get("model"), Mapping):
        raise CheckpointError(
            f"{path}: holds no 'model'; expected a checkpoint of fairseq or OpenNMT-py. A model of "
            "your own is scored through a pycat.Adapter"
        )
    return found


def is_open_nmt(checkpoint: Mapping[str, Any]) -> bool:
    """Whether OpenNMT-py saved the checkpoint."""
    return "generator" in checkpoint and "opt" in checkpoint


def num_updates(checkpoint: Mapping[str, Any]) -> int | None:
    """Updates that a checkpoint was trained for, if it tells."""
    history = checkpoint.get("optimizer_history")
    if history and isinstance(history[-1], dict) and "num_updates" in history[-1]:
        return int(history[-1]["num_updates"])
    optimizer = checkpoint.get("optim")
    if isinstance(optimizer, dict) and "training_step" in optimizer:
        return int(optimizer["training_step"])
    return None


def convert_open_nmt(path: Path, folder: Path) -> None:
    """Convert a checkpoint of OpenNMT-py into a folder of CTranslate2's.

    Raises:
        CheckpointError: ctranslate2 is missing, or cannot convert the model.
    """
    try:
        from ctranslate2.converters import OpenNMTPyConverter
    except ImportError:
        raise CheckpointError(
            f"{path}: a checkpoint of OpenNMT-py is read by ctranslate2, which is not installed; "
            "install it with: pip install 'pycat-nmt[ct2]'"
        ) from None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            OpenNMTPyConverter(str(path)).convert(str(folder), force=True)
    except (ValueError, KeyError, AttributeError, TypeError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: CTranslate2 cannot convert this checkpoint ({reason}); convert it with the "
            "ct2-opennmt-py-converter of its own time, and score that folder"
        ) from None


def fairseq_weights(checkpoint: Mapping[str, Any], name: str) -> LoadedWeights:
    """The weights of fairseq's Transformer.

    Args:
        checkpoint: of `read_checkpoint`.
        name: of the model in messages.

    Raises:
        CheckpointError: the model is of another kind, or has a part that pycat does not know.
    """
    settings = _settings(checkpoint, name)
    for key, expected in _EXPECTED.items():
        if (value := settings.get(key, expected)) != expected and value not in (None, ""):
            raise CheckpointError(
                f"{name}: was trained with {key} = {value}, which pycat does not score; use "
                "fairseq-generate --score-reference"
            )
    state = _State(checkpoint["model"], name)
    if not state.has("encoder.embed_tokens.weight"):
        raise CheckpointError(
            f"{name}: has no encoder.embed_tokens.weight; expected an encoder-decoder Transformer "
            f"of fairseq, found {settings.get('arch') or settings.get('_name') or 'another model'}"
        )
    before = [bool(settings.get(f"{s}_normalize_before", False)) for s in ("encoder", "decoder")]
    heads = [int(settings.get(f"{s}_attention_heads", 0)) for s in ("encoder", "decoder")]
    for what, both in (("normalize_before", before), ("attention_heads", heads)):
        if both[0] != both[1] or (what == "attention_heads" and not both[0]):
            raise CheckpointError(
                f"{name}: {what} is {both[0]} in the encoder and {both[1]} in the decoder; pycat "
                "scores models in which they are known and the same"
            )
    activation = str(settings.get("activation_fn") or "relu")
    if activation not in _ACTIVATIONS:
        raise CheckpointError(
            f"{name}: activation_fn is {activation}; expected one of {', '.join(_ACTIVATIONS)}"
        )
    arrays: dict[str, NDArray[np.float32]] = {}
    for side, stack in (("source", "encoder"), ("target", "decoder")):
        tokens = state.floats(f"{stack}.embed_tokens.weight")
        arrays[f"{side}.tokens"] = tokens
        arrays[f"{side}.positions"] = _positions(state, stack, settings, side, tokens.shape[1])
        if state.has(f"{stack}.layernorm_embedding.weight"):
            arrays.update(state.norm(f"{side}.norm", f"{stack}.layernorm_embedding"))
        number = 0
        while state.has(f"{stack}.layers.{number}.fc1.weight"):
            arrays.update(state.layer(f"{stack}.{number}", f"{stack}.layers.{number}"))
            number += 1
        if state.has(f"{stack}.layer_norm.weight"):
            arrays.update(state.norm(f"{stack}.norm", f"{stack}.layer_norm"))
    arrays.update(_head(state, settings))
    state.refuse_unread()
    width = arrays["head.weight"].shape[1]
    weights = TransformerWeights(
        arrays,
        num_heads=heads[0],
        norm_first=before[0],
        activation=_ACTIVATIONS[activation],
        epsilon=1e-5,
        embedding_scale=1.0 if settings.get("no_scale_embedding") else width**0.5,
        head_scale=1.0,
        prefix=(_EOS,),
    )
    return LoadedWeights(
        weights, min(len(arrays["source.positions"]), len(arrays["target.positions"]))
    )


def _settings(checkpoint: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The model's settings: `args`, or `cfg.model` of newer fairseq."""
    found = checkpoint.get("args")
    if found is None:
        cfg = _plain(checkpoint.get("cfg"))
        found = cfg.get("model") if isinstance(cfg, Mapping) else None
    found = _plain(found)
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"{name}: holds neither args nor cfg with the model's settings; expected a checkpoint "
            "that fairseq-train saved"
        )
    return found


def _plain(value: Any) -> Any:
    """A namespace, or a stand-in of omegaconf's containers, as a mapping."""
    if isinstance(value, argparse.Namespace):
        return vars(value)
    if isinstance(value, _StandIn):
        if "_content" in vars(value):
            return _plain(vars(value)["_content"])
        return _plain(vars(value).get("_val"))
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _positions(
    state: "_State", stack: str, settings: Mapping[str, Any], side: str, width: int
) -> NDArray[np.float32]:
    """Position embeddings from a sentence's first token on: learned, computed, or zero."""
    learned = f"{stack}.embed_positions.weight"
    if state.has(learned):
        return np.ascontiguousarray(state.floats(learned)[_PAD + 1 :])
    most = int(settings.get(f"max_{side}_positions") or 1024)
    if settings.get("no_token_positional_embeddings"):
        return np.zeros((most, width), np.float32)
    return computed_positions(most, width, first=_PAD + 1)


def _head(state: "_State", settings: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """The output layer, or the embedding that it is tied to."""
    for key in ("decoder.output_projection", "decoder.embed_out"):
        single = "" if key == "decoder.embed_out" and state.has(key) else ".weight"
        if state.has(key + single):
            arrays = {"head.weight": state.floats(key + single)}
            if state.has(f"{key}.bias"):
                arrays["head.bias"] = state.floats(f"{key}.bias")
            return arrays
    return {"head.weight": state.floats("decoder.embed_tokens.weight")}


class _State:
    """A state dict; remembers which entries were read."""

    def __init__(self, found: Mapping[str, Any], name: str) -> None:
        self._found, self._name = found, name
        self._read: set[str] = set()

    def has(self, key: str) -> bool:
        return isinstance(self._found.get(key), torch.Tensor)

    def floats(self, *keys: str) -> NDArray[np.float32]:
        """Tensors in float32, joined by rows."""
        for key in keys:
            if not self.has(key):
                raise CheckpointError(
                    f"{self._name}: lacks {key}; expected the weights of fairseq's Transformer"
                )
        self._read.update(keys)
        tensors = [self._found[key].detach().float() for key in keys]
        joined = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        array: NDArray[np.float32] = joined.contiguous().numpy()
        return array

    def layer(self, name: str, key: str) -> dict[str, NDArray[np.float32]]:
        arrays = {
            **self.joined(f"{name}.self.query_key_value", f"{key}.self_attn", "qkv"),
            **self.linear(f"{name}.self.output", f"{key}.self_attn.out_proj"),
        }
        norms = ["self_attn_layer_norm", "final_layer_norm"]
        if self.has(f"{key}.encoder_attn.out_proj.weight"):
            cross = f"{key}.encoder_attn"
            arrays |= self.joined(f"{name}.cross.query", cross, "q")
            arrays |= self.joined(f"{name}.cross.key_value", cross, "kv")
            arrays |= self.linear(f"{name}.cross.output", f"{cross}.out_proj")
            arrays |= self.norm(f"{name}.cross.norm", f"{key}.encoder_attn_layer_norm")
        if self.has(f"{key}.layer_norms.0.weight"):  # the encoder's, before 2019
            norms = ["layer_norms.0", "layer_norms.1"]
        arrays |= self.norm(f"{name}.self.norm", f"{key}.{norms[0]}")
        arrays |= self.norm(f"{name}.feed_forward.norm", f"{key}.{norms[1]}")
        arrays |= self.linear(f"{name}.ff1", f"{key}.fc1")
        arrays |= self.linear(f"{name}.ff2", f"{key}.fc2")
        return arrays

    def joined(self, name: str, key: str, parts: str) -> dict[str, NDArray[np.float32]]:
        """Projections of queries, keys or values as one linear layer."""
        arrays = {}
        for kind in ("weight", "bias"):
            if self.has(f"{key}.in_proj_{kind}"):  # all three in one, before 2019
                whole = self.floats(f"{key}.in_proj_{kind}")
                thirds = dict(zip("qkv", np.split(whole, 3), strict=True))
                arrays[f"{name}.{kind}"] = np.concatenate([thirds[part] for part in parts])
            elif kind == "weight" or self.has(f"{key}.{parts[0]}_proj.bias"):
                keys = [f"{key}.{part}_proj.{kind}" for part in parts]
                arrays[f"{name}.{kind}"] = self.floats(*keys)
        return arrays

    def linear(self, name: str, key: str) -> dict[str, NDArray[np.float32]]:
        arrays = {f"{name}.weight": self.floats(f"{key}.weight")}
        if self.has(f"{key}.bias"):
            arrays[f"{name}.bias"] = self.floats(f"{key}.bias")
        return arrays

    def norm(self, name: str, key: str) -> dict[str, NDArray[np.float32]]:
        return {f"{name}.{kind}": self.floats(f"{key}.{kind}") for kind in ("weight", "bias")}

    def refuse_unread(self) -> None:
        """Refuse weights that nothing read: the probabilities would be others."""
        for key in sorted(set(self._found) - self._read):
            if key.endswith((".version", "_float_tensor")):
                continue
            raise CheckpointError(
                f"{self._name}: has {key}, a part of the model that pycat does not know; use "
                "fairseq-generate --score-reference"
            )
