"""Checkpoints of the proxy, one self-describing safetensors file each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pycat.data.corpus import Corpus
from pycat.errors import CheckpointError
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

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        return file_sha256(self.path)


def save_checkpoint(path: Path, model: Transformer, *, step: int, tokenizer_sha256: str) -> None:
    """Write float32 weights, shape, update count and tokenizer hash, completely or not at all."""
    tensors = {name: value.float().contiguous() for name, value in model.state_dict().items()}
    header = {
        "format": _FORMAT,
        "config": model.config.to_json(),
        "step": step,
        "tokenizer_sha256": tokenizer_sha256,
    }
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
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); train again, or leave it out"
        ) from None
    if header.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: found format {header.get('format')!r}, expected {_FORMAT!r}; pass "
            "checkpoints written by 'pycat train'"
        )
    return CheckpointInfo(
        path,
        ModelConfig(**header["config"]),
        header["step"],
        header["tokenizer_sha256"],
    )


def load_model(info: CheckpointInfo, device: torch.device) -> Transformer:
    """Load the model of a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: its tensors do not fit the model that its header describes.
    """
    with safe_open(info.path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
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
