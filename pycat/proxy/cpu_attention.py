"""Attention over packed sequences on the CPU, with its gradients: without padding, and in one call.

The compiled extension reads packed tokens where they stand, and keeps of each query the logarithm
of its sum of exponentials; the gradients compute the scores again.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from pycat import _core
from pycat.proxy.packed_attention import Attend, Side

_WIDTH_STEP = 16
_DTYPES = (torch.float32, torch.bfloat16)


def has_cpu_attention(device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether `cpu_attention` can be used: on the CPU, for heads of a multiple of 16."""
    return device.type == "cpu" and dtype in _DTYPES and head_width % _WIDTH_STEP == 0


def cpu_attention(queries: Side, keys: Side, *, is_causal: bool = False) -> Attend:
    """Prepare attention of sequence b of `queries` to sequence b of `keys`, for all layers.

    Sums are of float32. The result and the gradients have the type of the arguments, float32 or
    bfloat16, and do not depend on the number of threads.

    Args:
        queries, keys: B sequences each.
        is_causal: position t attends to positions up to t.
    """
    query_ends, key_ends = queries.cu_seqlens.numpy(), keys.cu_seqlens.numpy()

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out: Tensor = _PackedAttention.apply(  # type: ignore[no-untyped-call]
            queries, keys, values, query_ends, key_ends, is_causal
        )
        return out

    return attend


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        query_ends: NDArray[np.int32],
        key_ends: NDArray[np.int32],
        is_causal: bool,
    ) -> Tensor:
        out, ctx.log_sums = _core.packed_attention(
            _array(queries),
            _array(keys),
            _array(values),
            query_ends,
            key_ends,
            is_causal,
            torch.get_num_threads(),
        )
        made = _tensor(out, queries.dtype)
        ctx.save_for_backward(queries, keys, values, made)
        ctx.query_ends, ctx.key_ends, ctx.is_causal = query_ends, key_ends, is_causal
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, out = ctx.saved_tensors
        made = _core.packed_attention_backward(
            _array(queries),
            _array(keys),
            _array(values),
            ctx.query_ends,
            ctx.key_ends,
            ctx.is_causal,
            _array(out),
            ctx.log_sums,
            _array(grads[0].contiguous()),
            torch.get_num_threads(),
        )
        return *(_tensor(grad, queries.dtype) for grad in made), None, None, None


def _array(tensor: Tensor) -> NDArray[Any]:
    """The tensor's memory; NumPy has no bfloat16, so that its bits come as uint16."""
    tensor = tensor.detach()
    is_reduced = tensor.dtype == torch.bfloat16
    array: NDArray[Any] = (tensor.view(torch.uint16) if is_reduced else tensor).numpy()
    return array


def _tensor(array: NDArray[Any], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(array).view(dtype)
