"""`state.pt`: all that an interrupted training run needs to go on, with its SHA-256."""

import hashlib
import io
import math
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pycat.errors import OutputError
from pycat.runtime.output import replacing

# What the file begins with, before the SHA-256 of what torch saved, a line end, and that.
_MAGIC = b"pycat.state.1 "
_HASH_BYTES = 64

_KINDS: dict[str, type] = {
    "model": dict,
    "optimizer": dict,
    "step": int,
    "losses": list,
    "loss_sum": float,
    "loss_steps": int,
    "num_tokens": int,
    "model_flops": int,
    "position": dict,
}


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state, completely or not at all."""
    # Not straight to the file: torch's errors on a full disk are not OSErrors.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    sha256 = hashlib.sha256(buffer.getbuffer()).hexdigest()
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_MAGIC + sha256.encode() + b"\n")
        file.write(buffer.getbuffer())


def read_state(path: Path) -> dict[str, Any]:
    """Read a state; its tensors are on the CPU.

    Raises:
        OutputError: the file cannot be read, is not the one that was written, or holds something
            else than a state.
    """
    try:
        content = path.read_bytes()
        if content.startswith(_MAGIC):
            begin = len(_MAGIC) + _HASH_BYTES + 1
            recorded, content = content[len(_MAGIC) : begin - 1], content[begin:]
            if hashlib.sha256(content).hexdigest().encode() != recorded:
                raise ValueError("its SHA-256 is not the one it was saved with")
        # Else it is of a pycat from before there were hashes.
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
        _check(state)
    except (EOFError, pickle.UnpicklingError):
        # Torch advises to run code out of the file.
        raise unusable(path, ValueError("it cannot be read as tensors and numbers")) from None
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise unusable(path, error) from None
    return state


def unusable(path: Path, error: Exception) -> OutputError:
    """The error that a state cannot be used."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return OutputError(f"{path}: cannot be read ({reason}); delete it, and training starts again")


def check_shapes(state: dict[str, Any], parameters: dict[str, Tensor]) -> None:
    """Refuse a state of another model.

    Args:
        state: as `read_state` returns it.
        parameters: of M models of a kind, stacked: (M, ...).

    Raises:
        ValueError: a tensor is missing or has another shape.
    """
    for name, parameter in parameters.items():
        own = {"weights": state["model"].get(name), **state["optimizer"].get(name, {})}
        for key, value in own.items():
            # Adam's count is a scalar.
            if value is None or (key != "step" and value.shape != parameter.shape[1:]):
                found = "missing" if value is None else tuple(value.shape)
                raise ValueError(f"{key} of {name}: {found}, expected {tuple(parameter.shape[1:])}")


def _check(state: Any) -> None:
    """Refuse, by ValueError, what is no state."""
    if not isinstance(state, dict):
        raise ValueError(f"it holds {type(state).__name__}, expected dict")
    for name, kind in _KINDS.items():
        if name not in state:
            raise ValueError(f"it has no {name}")
        if not isinstance(state[name], kind):
            found = type(state[name]).__name__
            raise ValueError(f"its {name} is {found}, expected {kind.__name__}")
    if not all(isinstance(loss, float) and math.isfinite(loss) for loss in state["losses"]):
        raise ValueError("its losses are not finite numbers")
    if state["step"] < 1:
        raise ValueError(f"it is of update {state['step']}, expected 1 or later")
    tensors = [*state["model"].values()]
    for own in state["optimizer"].values():
        if not isinstance(own, dict):
            raise ValueError("its optimizer holds what is no state of a parameter")
        tensors += own.values()
    if not all(isinstance(value, Tensor) and value.isfinite().all() for value in tensors):
        raise ValueError("it holds what is no tensor of finite numbers")
