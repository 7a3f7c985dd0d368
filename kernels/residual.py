"""Elementwise work between the products of K stacked Transformers, each in one pass over memory.

    add_norm    x[k, t] += delta[k, t] + bias[k];  out[k, t] = (x - mean) / sqrt(var + eps)
    add_bias_   x[k, t] += bias[k], then max(x, 0) if asked

x of `add_norm` is the residual stream, in float32; rows of width D are normalised in float32.

Bytes per row of add_norm with 2-byte products: 6 D read, 6 D written. PyTorch's own operations
(two sums, a norm, a cast) move 32 D.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements of a program of four warps: 16 a thread.
_TILE = 2048


# Never compiled for special sizes of a batch: each would be a compilation in the midst of a run.
@triton.jit(do_not_specialize=["num_rows", "num_tokens"])
def _add_norm_kernel(
    x_ptr,  # (K, T, D)
    delta_ptr,  # (K, T, D)
    bias_ptr,  # (K, D)
    gain_ptr,  # (K, D)
    shift_ptr,  # (K, D)
    out_ptr,  # (K, T, D)
    num_rows,
    num_tokens,
    width,
    eps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_DELTA: tl.constexpr,
    AFFINE: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, BLOCK)
    inside = (rows[:, None] < num_rows) & (cols[None, :] < width)
    at = rows[:, None] * width + cols[None, :]
    of_checkpoint = (rows // num_tokens)[:, None] * width + cols[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    if HAS_DELTA:
        delta = tl.load(delta_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x += delta + tl.load(bias_ptr + of_checkpoint, mask=inside, other=0.0)
        tl.store(x_ptr + at, x, mask=inside)
    mean = tl.sum(x, 1) / width
    centred = tl.where(cols[None, :] < width, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / width
    y = centred * tl.rsqrt(variance + eps)[:, None]
    if AFFINE:
        gain = tl.load(gain_ptr + of_checkpoint, mask=inside, other=0.0)
        y = y * gain + tl.load(shift_ptr + of_checkpoint, mask=inside, other=0.0)
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_rows", "num_tokens"])
def _add_bias_kernel(
    x_ptr,  # (K, T, N), rows `stride_row` apart
    bias_ptr,  # (K, N)
    num_rows,
    num_tokens,
    width,
    stride_row,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    RELU: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (rows[:, None] < num_rows) & (cols[None, :] < width)
    at = rows[:, None] * stride_row + cols[None, :]
    of_checkpoint = (rows // num_tokens)[:, None] * width + cols[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(bias_ptr + of_checkpoint, mask=inside, other=0.0)
    if RELU:
        x = tl.where(x < 0, 0.0, x)  # a maximum would turn NaN into 0
    tl.store(x_ptr + at, x.to(x_ptr.dtype.element_ty), mask=inside)


def add_norm(
    x: Tensor,
    delta: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    dtype: torch.dtype,
    affine: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Add to the residual stream, in place, and return it normalised.

    Args:
        x: (K, T, D) float32, contiguous.
        delta: (K, T, D), contiguous, of any dtype; or None.
        bias: (K, 1, D) float32; None where `delta` is.
        eps: added to the variance.
        dtype: of the result.
        affine: gain and shift of the norm, (K, 1, D) float32 each; 1 and 0 unless given.

    Returns:
        (K, T, D).
    """
    num_checkpoints, num_tokens, width = x.shape
    assert x.dtype == torch.float32 and x.is_contiguous()
    assert delta is None or delta.is_contiguous()
    out = torch.empty_like(x, dtype=dtype)
    block = triton.next_power_of_2(width)
    rows = max(1, _TILE // block)
    num_rows = num_checkpoints * num_tokens
    gain, shift = (x, x) if affine is None else affine
    with torch.cuda.device_of(x):
        _add_norm_kernel[(triton.cdiv(num_rows, rows),)](
            x,
            x if delta is None else delta,
            x if bias is None else bias,
            gain,
            shift,
            out,
            num_rows,
            num_tokens,
            width,
            eps,
            ROWS=rows,
            BLOCK=block,
            HAS_DELTA=delta is not None,
            AFFINE=affine is not None,
            num_warps=4,
        )
    return out


def add_bias_(x: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
    """Add a bias (K, 1, N) float32 to x (K, T, N) in place, and clip at 0 if asked.

    x may be some columns of a contiguous tensor.
    """
    num_checkpoints, num_tokens, width = x.shape
    assert x.stride(2) == 1 and x.stride(0) == num_tokens * x.stride(1)
    block = min(triton.next_power_of_2(width), _TILE)
    rows = _TILE // block
    num_rows = num_checkpoints * num_tokens
    with torch.cuda.device_of(x):
        _add_bias_kernel[(triton.cdiv(num_rows, rows), triton.cdiv(width, block))](
            x,
            bias,
            num_rows,
            num_tokens,
            width,
            x.stride(1),
            ROWS=rows,
            BLOCK=block,
            RELU=relu,
            num_warps=4,
        )
    return x
