"""Cross-entropy statistics summed per sequence for K checkpoints, on the tensors' own device.

    cat_cross_entropy         logits in
    cat_linear_cross_entropy  hidden states times weight in: logits never reach memory

`reference.py` defines what they compute; docs/kernels.md says how. The extension runs them on the
CPU, Triton on CUDA. Both are custom ops of torch (namespace "pycat"), so torch.compile sees them.
No gradient flows through them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pycat.kernels.reference import SequenceStats, wrong_target
from pycat.kernels.stat_names import STAT_NAMES, Stats
from torch import Tensor

from pycat import _core
from pycat.errors import PycatError

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)

# sums (S, K, B), num_tokens, ppl_mean, ppl_var, nll per token (K, T) or (0, 0), first bad target.
_Raw = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class PackedWeight:
    """A weight (K, V, H) and its bias in the layout that the kernel of this device reads.

    Made by `pack_weight`. `tiles` is laid out for the instruction set `isa`; on CUDA it is the
    weight itself, and `isa` is empty.
    """

    tiles: Tensor
    bias: Tensor | None
    isa: str
    vocab_size: int
    width: int
    dtype: torch.dtype


def pack_weight(weight: Tensor, bias: Tensor | None = None) -> PackedWeight:
    """Pack a weight (K, V, H) once for many calls; on the CPU that takes a copy of it.

    Results are bitwise those of the weight itself.

    Raises:
        ValueError: sizes, dtypes or devices are not what `cat_linear_cross_entropy` takes.
    """
    _check_floats("weight", weight, ("K", "V", "H"))
    vocab_size, width = weight.shape[1:]
    if bias is not None:
        _check_bias(bias, weight.shape[0], vocab_size, weight.dtype)
        _check_device("weight", weight, bias=bias)
    if weight.device.type != "cpu":
        whole = weight.detach().contiguous()
        return PackedWeight(whole, bias, "", vocab_size, width, weight.dtype)
    tiles = _core.pack_weight(_floats(weight), None if bias is None else _floats(bias))
    # torch names no operation on uint32, but any on int32.
    packed = torch.from_numpy(tiles.view(np.int32))
    return PackedWeight(packed, None, _core.cpu_isa(), vocab_size, width, weight.dtype)


def cat_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    *,
    ignore_index: int = -100,
    stats: Stats = "nll",
    per_token: bool = False,
    check: bool = True,
) -> SequenceStats:
    """Per-sequence statistics of targets under logits.

    Args:
        logits: (K, T, V) float32, bfloat16 or float16; K checkpoints, T tokens, V vocabulary.
        targets: int64 (T,), ids in [0, V) or `ignore_index`.
        cu_seqlens: int32 (B + 1,), rising from 0 to T.
        ignore_index: targets counted neither in nll nor in num_tokens.
        stats: "nll", or "all" for the other columns too, except grad_norm_bound.
        per_token: also return nll_per_token (K, T).
        check: refuse a target out of range, and on CUDA cu_seqlens that do not rise, which waits
            for the device; without it the target's sequence is NaN and no other is changed.

    Returns:
        SequenceStats. float32 inside a token, float64 over tokens; bitwise repeatable, and the same
        whatever else is in the batch and however many threads there are.

    Raises:
        ValueError: sizes, dtypes or devices disagree, cu_seqlens does not rise from 0 to T, or a
            target is out of range (with its position).
    """
    _check_floats("logits", logits, ("K", "T", "V"))
    _check_targets("logits", logits, targets, cu_seqlens)
    raw: _Raw = torch.ops.pycat.cat_cross_entropy(
        logits.detach(), targets, cu_seqlens, ignore_index, _is_all(stats), per_token
    )
    return _stats(raw, targets, cu_seqlens, logits.shape[2], ignore_index, per_token, check)


def cat_linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor | PackedWeight,
    targets: Tensor,
    cu_seqlens: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    stats: Stats = "nll",
    per_token: bool = False,
    check: bool = True,
) -> SequenceStats:
    """Per-sequence statistics of targets under the logits `hidden @ weight.T + bias`.

    Args:
        hidden: (K, T, H) float32, bfloat16 or float16.
        weight: (K, V, H) of the same dtype, or what `pack_weight` made of it.
        targets: int64 (T,), ids in [0, V) or `ignore_index`.
        cu_seqlens: int32 (B + 1,), rising from 0 to T.
        bias: (K, V) of the dtype of `weight` or float32, or None; with a packed weight, its own.
        ignore_index, per_token, check: as for `cat_cross_entropy`.
        stats: "nll", or "all" for all columns.

    Returns:
        As `cat_cross_entropy`. Extra memory on the CPU: less than 32 MB on up to 64 threads, and a
        copy of each input that is not contiguous.

    Raises:
        ValueError: as `cat_cross_entropy`, or the weight was packed for another processor.
    """
    packed = weight if isinstance(weight, PackedWeight) else None
    if packed is not None:
        if bias is not None:
            raise ValueError("a packed weight holds its bias; give the bias to pack_weight instead")
        shape, dtype = (packed.tiles.shape[0], packed.vocab_size, packed.width), packed.dtype
        tensors = {"weight": packed.tiles}
    else:
        assert isinstance(weight, Tensor)
        _check_floats("weight", weight, ("K", "V", "H"))
        shape, dtype = (weight.shape[0], weight.shape[1], weight.shape[2]), weight.dtype
        tensors = {"weight": weight}
    _check_floats("hidden", hidden, ("K", "T", "H"))
    if (hidden.shape[0], hidden.shape[2]) != (shape[0], shape[2]):
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {shape} disagree; expected (K, T, H) and "
            "(K, V, H)"
        )
    if hidden.dtype != dtype:
        raise ValueError(f"hidden is {hidden.dtype} and weight {dtype}; expected one for both")
    if bias is not None:
        _check_bias(bias, shape[0], shape[1], dtype)
        tensors["bias"] = bias
    _check_device("hidden", hidden, **tensors)
    _check_targets("hidden", hidden, targets, cu_seqlens)
    options = (ignore_index, _is_all(stats), per_token)
    raw: _Raw
    if packed is not None and packed.isa:
        raw = torch.ops.pycat.cat_packed_linear_cross_entropy(
            *(hidden.detach(), packed.tiles, packed.isa, shape[1], targets, cu_seqlens, *options)
        )
    else:
        plain = packed.tiles if packed is not None else tensors["weight"].detach()
        bias = packed.bias if packed is not None else bias
        bias = None if bias is None else bias.detach()
        raw = torch.ops.pycat.cat_linear_cross_entropy(
            hidden.detach(), plain, bias, targets, cu_seqlens, *options
        )
    return _stats(raw, targets, cu_seqlens, shape[1], ignore_index, per_token, check)


def _is_all(stats: Literal["nll", "all"]) -> bool:
    if stats not in ("nll", "all"):
        raise ValueError(f'stats is {stats!r}; expected "nll" or "all"')
    return stats == "all"


def _check_floats(name: str, tensor: Tensor, axes: tuple[str, ...]) -> None:
    if tensor.dtype not in _FLOATS:
        raise ValueError(
            f"{name} is {tensor.dtype}; expected float32, bfloat16 or float16: convert it first"
        )
    # T alone may be 0: an empty batch has a result.
    if tensor.dim() != 3 or 0 in (tensor.shape[0], *(() if "T" in axes else (tensor.shape[1],))):
        raise ValueError(f"{name} is {tuple(tensor.shape)}; expected ({', '.join(axes)})")
    if axes[2] == "V" and tensor.shape[2] == 0:
        raise ValueError(f"{name} is {tuple(tensor.shape)}; expected a vocabulary V of 1 or more")


def _check_bias(bias: Tensor, num_checkpoints: int, vocab_size: int, dtype: torch.dtype) -> None:
    if bias.shape != (num_checkpoints, vocab_size):
        raise ValueError(
            f"bias is {tuple(bias.shape)}; expected (K, V), here {(num_checkpoints, vocab_size)}"
        )
    if bias.dtype not in (dtype, torch.float32):
        raise ValueError(f"bias is {bias.dtype}; expected {dtype}, as the weight, or float32")


def _check_device(name: str, tensor: Tensor, **others: Tensor) -> None:
    for other_name, other in others.items():
        if other.device != tensor.device:
            raise ValueError(
                f"{name} is on {tensor.device} and {other_name} on {other.device}; move both to "
                "one device"
            )


def _check_targets(name: str, tensor: Tensor, targets: Tensor, cu_seqlens: Tensor) -> None:
    _check_device(name, tensor, targets=targets, cu_seqlens=cu_seqlens)
    if targets.dtype != torch.int64 or targets.shape != tensor.shape[1:2]:
        raise ValueError(
            f"targets is {targets.dtype} {tuple(targets.shape)}; expected int64 (T,), here "
            f"({tensor.shape[1]},)"
        )
    if cu_seqlens.dtype != torch.int32 or cu_seqlens.dim() != 1 or len(cu_seqlens) == 0:
        raise ValueError(
            f"cu_seqlens is {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}; expected int32 (B + 1,)"
        )


def _check_rising(cu_seqlens: Tensor, num_targets: int) -> None:
    first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
    if first != 0 or last != num_targets or int(cu_seqlens.diff().min()) < 0:
        raise ValueError(
            f"cu_seqlens runs from {first} to {last}; expected it to rise from 0 to the "
            f"{num_targets} targets"
        )


def _stats(
    raw: _Raw,
    targets: Tensor,
    cu_seqlens: Tensor,
    vocab_size: int,
    ignore_index: int,
    per_token: bool,
    check: bool,
) -> SequenceStats:
    sums, num_tokens, ppl_mean, ppl_var, nll_per_token, first_bad = raw
    if check and cu_seqlens.device.type != "cpu":  # the extension checks them itself
        _check_rising(cu_seqlens, len(targets))
    if check and (at := int(first_bad)) < len(targets):
        raise ValueError(wrong_target(at, int(targets[at]), vocab_size, ignore_index))
    columns = dict(zip(STAT_NAMES, sums, strict=False))
    return SequenceStats(
        num_tokens=num_tokens,
        ppl_mean=ppl_mean,
        ppl_var=ppl_var,
        nll_per_token=nll_per_token if per_token else None,
        **columns,
    )


def _whole(tensor: Tensor) -> Tensor:
    """The tensor or a copy: contiguous, and each element at a multiple of its size."""
    tensor = tensor.detach().contiguous()
    return tensor if tensor.data_ptr() % tensor.element_size() == 0 else tensor.clone()


def _floats(
    tensor: Tensor,
) -> NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint16]:
    whole = _whole(tensor)
    # numpy has no bfloat16: the extension takes the bits.
    return (whole.view(torch.uint16) if whole.dtype == torch.bfloat16 else whole).numpy()


def require_triton() -> None:
    """Refuse CUDA without a Triton that has what the kernels use; the CPU needs none."""
    try:
        import triton
    except ImportError:
        found = "none"
    else:
        found = triton.__version__
        if tuple(map(int, found.split(".")[:2])) >= (3, 6):
            return
    raise PycatError(
        f"the fused kernels on CUDA need Triton 3.6 or newer, found {found}; pip install "
        "'triton>=3.6', with a torch that goes with it"
    )


# The arguments of every op end with targets, cu_seqlens, ignore_index, all_stats, per_token. torch
# reads its schema off the CPU implementation, so that the others need not spell it out.


@torch.library.custom_op("pycat::cat_cross_entropy", mutates_args=(), device_types="cpu")
def _logits_op(
    logits: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    ignore_index: int,
    all_stats: bool,
    per_token: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    options = (ignore_index, all_stats, per_token)
    return _on_cpu(_core.cross_entropy, (_floats(logits),), targets, cu_seqlens, *options)


@_logits_op.register_kernel("cuda")
def _(*operands_and_options: Any) -> _Raw:
    require_triton()
    from pycat.kernels import cross_entropy

    return cross_entropy.cross_entropy(*operands_and_options)


@torch.library.custom_op("pycat::cat_linear_cross_entropy", mutates_args=(), device_types="cpu")
def _linear_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    cu_seqlens: Tensor,
    ignore_index: int,
    all_stats: bool,
    per_token: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    operands = (_floats(hidden), _floats(weight), None if bias is None else _floats(bias))
    options = (ignore_index, all_stats, per_token)
    return _on_cpu(_core.linear_cross_entropy, operands, targets, cu_seqlens, *options)


@_linear_op.register_kernel("cuda")
def _(*operands_and_options: Any) -> _Raw:
    require_triton()
    from pycat.kernels import linear_cross_entropy

    return linear_cross_entropy.linear_cross_entropy(*operands_and_options)


@torch.library.custom_op(
    "pycat::cat_packed_linear_cross_entropy", mutates_args=(), device_types="cpu"
)
def _packed_op(
    hidden: Tensor,
    tiles: Tensor,
    isa: str,
    vocab_size: int,
    targets: Tensor,
    cu_seqlens: Tensor,
    ignore_index: int,
    all_stats: bool,
    per_token: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    operands = (_floats(hidden), tiles.numpy().view(np.uint32), isa, vocab_size)
    options = (ignore_index, all_stats, per_token)
    return _on_cpu(_core.packed_linear_cross_entropy, operands, targets, cu_seqlens, *options)


def _on_cpu(
    function: Callable[..., "_core._Results"],
    operands: tuple[Any, ...],
    targets: Tensor,
    cu_seqlens: Tensor,
    ignore_index: int,
    all_stats: bool,
    per_token: bool,
) -> _Raw:
    """Results of a function of the extension."""
    sums, num_tokens, ppl_mean, ppl_var, nll_per_token, first_bad = function(
        *operands,
        _whole(targets).numpy(),
        _whole(cu_seqlens).numpy(),
        ignore_index=ignore_index,
        all_stats=all_stats,
        per_token=per_token,
        num_threads=torch.get_num_threads(),
    )
    return (
        torch.from_numpy(sums),
        torch.from_numpy(num_tokens),
        torch.from_numpy(ppl_mean),
        torch.from_numpy(ppl_var),
        torch.from_numpy(nll_per_token),
        torch.tensor(first_bad),
    )


def _fake(num_stats: int, scores: Tensor, *operands_and_options: Any) -> _Raw:
    """Results without values, of `num_stats` sums or with all_stats=False of one."""
    targets, cu_seqlens, _, all_stats, per_token = operands_and_options[-5:]
    num_checkpoints, num_sequences = scores.shape[0], cu_seqlens.shape[0] - 1

    def new(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=targets.device)

    return (
        new(num_stats if all_stats else 1, num_checkpoints, num_sequences),
        new(num_sequences, dtype=torch.int64),
        new(num_sequences),
        new(num_sequences),
        new(*((num_checkpoints, targets.shape[0]) if per_token else (0, 0)), dtype=torch.float32),
        new(dtype=torch.int64),
    )


_logits_op.register_fake(partial(_fake, len(STAT_NAMES) - 1))
_linear_op.register_fake(partial(_fake, len(STAT_NAMES)))
_packed_op.register_fake(partial(_fake, len(STAT_NAMES)))
