"""Cross-entropy from logits on the GPU: first pass, and the launcher of both.

    nll[k, t] = lse_j(z[k, t, j]) - z[k, t, y_t]

K checkpoints, T tokens, V ids. One program reads one row's split of at most 8192 logits once,
straight into registers: its maximum, then one exponential per logit, whose sums it writes. Bytes
moved per token and checkpoint: V itemsize, and 12 to 24 per split.
"""

import torch
import triton
import triton.language as tl
from pycat.kernels.sequence_stats import LOG2E, NUM_FIELDS, RawStats, sequence_stats
from torch import Tensor

_MAX_BLOCK_V = 8192  # 32 logits a thread at 8 warps: in registers, and loaded all at once
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_INDEX_DTYPES = (torch.int32, torch.int64)


@triton.jit(do_not_specialize=["num_checkpoints", "num_tokens", "num_splits"])
def _logits_kernel(
    logits_ptr,
    targets_ptr,
    partials_ptr,
    target_logit_ptr,
    num_checkpoints,
    num_tokens,
    num_splits,
    vocab_size,
    BLOCK_V: tl.constexpr,
    ROW_MULTIPLE: tl.constexpr,
    ALL: tl.constexpr,
):
    program = tl.program_id(0)
    split = program % num_splits
    row = (program // num_splits).to(tl.int64)  # k T + t
    t = row % num_tokens
    v0 = split * BLOCK_V
    cols = v0 + tl.arange(0, BLOCK_V)
    # The same number, visibly a multiple: of row starts and of the mask, so that loads are wide.
    vocab_size = vocab_size // ROW_MULTIPLE * ROW_MULTIPLE
    row_ptr = logits_ptr + row * vocab_size
    if v0 + BLOCK_V <= vocab_size:
        z = tl.load(row_ptr + cols).to(tl.float32)
    else:
        z = tl.load(row_ptr + cols, mask=cols < vocab_size, other=float("-inf")).to(tl.float32)
    y = tl.load(targets_ptr + t).to(tl.int64)
    if (y >= v0) & (y < v0 + BLOCK_V):
        if y < vocab_size:
            tl.store(target_logit_ptr + row, tl.load(row_ptr + y).to(tl.float32))
        z = tl.where(cols == y, float("-inf"), z)

    highest = tl.max(z, 0)
    reference = tl.floor(highest * LOG2E)
    shift = tl.where(reference == float("-inf"), 0.0, reference)
    exponents = tl.fma(z, tl.full([BLOCK_V], LOG2E, tl.float32), tl.zeros_like(z) - shift)
    e = tl.exp2(exponents)
    at = partials_ptr + (row // num_tokens * num_splits + split) * num_tokens + t
    field = tl.full([], 1, tl.int64) * num_checkpoints * num_splits * num_tokens
    tl.store(at, reference)
    if ALL:
        # 2^-200 is zero in float32; clamped, a zero times -inf does not make NaN.
        tl.store(at + 3 * field, tl.sum(e * tl.maximum(exponents, -200.0), 0))
        tl.store(at + 2 * field, tl.sum(e * e, 0))
        tl.store(at + 4 * field, highest)
    tl.store(at + field, tl.sum(e, 0))


def check_tokens(
    targets: Tensor, cu_seqlens: Tensor, num_tokens: int, device: torch.device
) -> None:
    """Raises ValueError or TypeError unless targets (T,) and cu_seqlens (B + 1,) fit the scores."""
    if targets.shape != (num_tokens,):
        raise ValueError(
            f"targets {tuple(targets.shape)}; expected ({num_tokens},) like the tokens"
        )
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 1:
        raise ValueError(f"cu_seqlens {tuple(cu_seqlens.shape)}; expected (B + 1,)")
    for name, tensor in (("targets", targets), ("cu_seqlens", cu_seqlens)):
        if tensor.dtype not in _INDEX_DTYPES:
            raise TypeError(f"{name} is {tensor.dtype}; expected int32 or int64")
        if tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}; expected {device} like the scores")


def check_scores(name: str, tensor: Tensor) -> None:
    """Raises TypeError or ValueError unless the kernels can read an operand (K, T or V, ...)."""
    if tensor.dtype not in _DTYPES:
        raise TypeError(f"{name} is {tensor.dtype}; expected float32, bfloat16 or float16")
    if tensor.ndim != 3 or tensor.shape[0] == 0 or tensor.shape[2] == 0:
        raise ValueError(f"{name} {tuple(tensor.shape)}; expected three dimensions, none empty")


def check_device(tensor: Tensor) -> None:
    """Raises ValueError for tensors that Triton cannot reach."""
    if tensor.device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(f"the Triton kernels need tensors on a GPU; these are on {tensor.device}")


def aligned(tensor: Tensor) -> Tensor:
    """The tensor or a copy of it, contiguous and at an address that is a multiple of 16."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    ignore_index: int,
    all_stats: bool,
    per_token: bool,
) -> RawStats:
    """Per-sequence statistics of logits; does not wait for the device.

    Args:
        logits: (K, T, V), float32, bfloat16 or float16; copied unless contiguous and aligned.
        targets: int32 or int64 (T,), ids in [0, V) or `ignore_index`.
        cu_seqlens: int32 or int64 (B + 1,), rising from 0 to T.
        ignore_index: targets that count nothing.
        all_stats: the six statistics instead of nll alone.
        per_token: also nll of every token.

    Returns:
        sums float64 (1 or 6, K, B): nll, p_target, correct, el2n, margin, entropy; num_tokens int64
        (B,); ppl_mean and ppl_var float64 (B,); nll_per_token float32 (K, T) or (0, 0); first_bad
        int64 (), the first position whose target is out of range, or T. A sequence with such a
        target is NaN.

    Raises:
        TypeError: a dtype is not supported.
        ValueError: shapes disagree, or devices differ.
    """
    check_scores("logits", logits)
    check_device(logits)
    num_checkpoints, num_tokens, vocab_size = logits.shape
    check_tokens(targets, cu_seqlens, num_tokens, logits.device)
    # Vectors only where every row starts aligned: the order of the sums then follows from V alone.
    vectors = vocab_size * logits.element_size() % 16 == 0
    logits = aligned(logits) if vectors else logits.contiguous()
    targets, cu_seqlens = targets.contiguous(), cu_seqlens.contiguous()
    block_v = min(triton.next_power_of_2(vocab_size), _MAX_BLOCK_V)
    num_splits = triton.cdiv(vocab_size, block_v)
    partials = torch.empty(
        NUM_FIELDS[all_stats],
        num_checkpoints,
        num_splits,
        num_tokens,
        dtype=torch.float32,
        device=logits.device,
    )
    target_logit = torch.empty(
        num_checkpoints, num_tokens, dtype=torch.float32, device=logits.device
    )
    if num_tokens > 0:
        with torch.cuda.device_of(logits):
            _logits_kernel[(num_checkpoints * num_tokens * num_splits,)](
                logits,
                targets,
                partials,
                target_logit,
                num_checkpoints,
                num_tokens,
                num_splits,
                vocab_size,
                BLOCK_V=block_v,
                ROW_MULTIPLE=16 // logits.element_size() if vectors else 1,
                ALL=all_stats,
                num_warps=max(1, min(block_v // 1024, 8)),
            )
    return sequence_stats(
        partials,
        target_logit,
        None,
        targets,
        cu_seqlens,
        vocab_size,
        ignore_index,
        all_stats,
        per_token,
    )
