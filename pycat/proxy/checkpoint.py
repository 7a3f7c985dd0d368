"""Checkpoints of the proxy, one self-describing safetensors file each."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pycat.data.corpus import Corpus
from pycat.errors import CheckpointError, OutputError
from pycat.proxy.run import check_in_run
from pycat.proxy.transformer import ModelConfig, Transformer
from pycat.runtime.output import file_sha256, replacing

# One metadata entry: safetensors writes several in a random order, but equal runs must make equal
# files.
_ENTRY, _FORMAT = "pycat", "pycat.checkpoint.1"


@dataclass(frozen=True)
class CheckpointInfo:
    """The header of a checkpoint file."""

    path: Path
    config: ModelConfig
    step: int
    tokenizer_sha256: str
    header: dict[str, Any]

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        return file_sha256(self.path)


def save_checkpoint(path: Path, model: Transformer, *, step: int, tokenizer_sha256: str) -> None:
    """Write float32 weights, shape, update count and tokenizer hash, completely or not at all.

    The header also holds the SHA-256 of itself and the weights, which `load_model` compares.
    """
    tensors = {name: value.float().contiguous() for name, value in model.state_dict().items()}
    header = {
        "format": _FORMAT,
        "config": model.config.to_json(),
        "step": step,
        "tokenizer_sha256": tokenizer_sha256,
    }
    header["sha256"] = _content_sha256(header, tensors)
    with replacing(path) as temporary:
        # Not by `save_file`: on a full disk it raises no OSError.
        temporary.write_bytes(save(tensors, {_ENTRY: json.dumps(header)}))


def read_info(path: str | PathLike[str]) -> CheckpointInfo:
    """Read the header of a checkpoint file.

    Raises:
        CheckpointError: missing, damaged, or not written by pycat.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; expected a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
        if not isinstance(header, dict):
            raise ValueError(f"its header is {header!r}, expected an object")
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); train again, or leave it out"
        ) from None
    if header.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: found format {header.get('format')!r}, expected {_FORMAT!r}; pass "
            "checkpoints written by 'pycat train'"
        )
    step, tokenizer = header.get("step"), header.get("tokenizer_sha256")
    if type(step) is not int or step < 0 or not isinstance(tokenizer, str):
        raise CheckpointError(
            f"{path}: its header has step {step!r} and tokenizer_sha256 {tokenizer!r}, expected a "
            "whole number and a string; the file is damaged: train again, or leave it out"
        )
    return CheckpointInfo(path, _config(path, header.get("config")), step, tokenizer, header)


def _config(path: Path, found: Any) -> ModelConfig:
    """The shape that a header describes.

    Raises:
        CheckpointError: it is none of a proxy.
    """
    names = {field.name for field in fields(ModelConfig)}
    if (
        isinstance(found, dict)
        and names - {"src_vocab_size"} <= found.keys() <= names
        and all(type(value) is int and 1 <= value < 2**31 for value in found.values())
        and found["d_model"] % found["num_heads"] == 0
    ):
        return ModelConfig(**found)
    raise CheckpointError(
        f"{path}: its header describes the shape {found!r}, expected whole numbers from 1 for "
        f"{', '.join(sorted(names))}, and a d_model that num_heads divides; the file is damaged: "
        "train again, or leave it out"
    )


def _content_sha256(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over a header, but for that hash itself, and the tensors."""
    plain = {name: value for name, value in header.items() if name != "sha256"}
    content = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        content.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        content.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def _check_weights(info: CheckpointInfo, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that are not those that were saved, are not finite, or are all zero.

    Raises:
        CheckpointError: names the file.
    """
    try:
        check_in_run(info.path)
    except OutputError as error:
        raise CheckpointError(str(error)) from None
    recorded = info.header.get("sha256")
    if recorded is not None and recorded != (found := _content_sha256(info.header, tensors)):
        raise CheckpointError(
            f"{info.path}: header and weights have SHA-256 {found[:12]}…, expected "
            f"{str(recorded)[:12]}…, which was recorded when they were saved; the file is damaged: "
            "train again, or leave it out"
        )
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise CheckpointError(
                f"{info.path}: {name} has a value that is not a finite number; the file is damaged "
                "or the training diverged: train again, or leave it out"
            )
        if value.dim() > 1 and not value.any():
            raise CheckpointError(
                f"{info.path}: {name} is all zero, which training never leaves behind; train "
                "again, or leave the checkpoint out"
            )


def load_model(info: CheckpointInfo, device: torch.device) -> Transformer:
    """Load the model of a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: its tensors do not fit the model that its header describes, are not those
            that were saved, are not finite, or one is all zero.
    """
    with safe_open(info.path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _check_weights(info, tensors)
    with torch.device("meta"):
        model = Transformer(info.config)
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{info.path}: tensors do not match the header's shape {info.config.to_json()} "
            f"({str(error).splitlines()[1].strip()}); the file is damaged: train again"
        ) from None
    return model.to(device).eval()


def read_infos(paths: Sequence[str | PathLike[str]], corpus: Corpus) -> list[CheckpointInfo]:
    """Read the headers of checkpoints that can score this corpus together, in the order given.

    Raises:
        CheckpointError: of different shapes, or of a tokenizer other than the corpus's.
    """
    infos = [read_info(path) for path in paths]
    for info in infos:
        if info.tokenizer_sha256 != corpus.manifest["tokenizer_sha256"]:
            raise CheckpointError(
                f"{info.path}: trained with tokenizer {info.tokenizer_sha256[:12]}…, but "
                f"{corpus.path} has {corpus.manifest['tokenizer_sha256'][:12]}…; tokenize the "
                "corpus with the checkpoint's tokenizer (--tokenizer)"
            )
        if info.config != infos[0].config:
            raise CheckpointError(
                f"{info.path}: shape {info.config.to_json()}, but {infos[0].path} has "
                f"{infos[0].config.to_json()}; expected checkpoints of one training run"
            )
    return infos
