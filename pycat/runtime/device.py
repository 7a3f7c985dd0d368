"""The device that computes, and the precision of its matrix products."""

import ctypes
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import torch

from pycat.errors import PycatError

DTYPES = ("auto", "float32", "bfloat16")
# Training and translating do not run in int8.
SCORING_DTYPES = (*DTYPES, "int8")

# glibc's mallopt: https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def choose_device(device: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        PycatError: this machine lacks the named device; none is substituted.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise PycatError(
            f"device {device!r} cannot be used here ({reason}); pass 'cpu', or 'auto'"
        ) from None
    if chosen.type == "cpu":
        _keep_freed_memory()
    return chosen


def choose_dtype(dtype: str, device: torch.device, allowed: Sequence[str] = DTYPES) -> torch.dtype:
    """The dtype of matrix products; "auto" is bfloat16 where the device multiplies in it.

    Raises:
        PycatError: `dtype` is none of those `allowed`.
    """
    if dtype not in allowed:
        raise PycatError(f"dtype is {dtype!r}; expected one of {', '.join(allowed)}")
    if dtype == "auto":
        has_bfloat16 = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            else _cpu_bfloat16()
        )
        return torch.bfloat16 if has_bfloat16 else torch.float32
    chosen: torch.dtype = getattr(torch, dtype)
    return chosen


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Matrix products in `dtype` inside the block; parameters stay float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


# A forked process has none of the threads of libgomp's team, and would wait for them for ever.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@cache
def _cpu_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return " avx512_bf16" in flags or " amx_bf16" in flags


@cache
def _keep_freed_memory() -> None:
    """Let glibc reuse freed blocks of up to 32 MiB, which is its limit, for the next batch.

    By default glibc maps and unmaps each large tensor, and page faults take a large share of the
    time of a batch.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 512 << 20)
        mallopt(_M_TOP_PAD, 64 << 20)
