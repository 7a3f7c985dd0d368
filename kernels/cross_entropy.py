"""Cross-entropy from logits on the GPU: first pass, and the launcher of both.

    nll[k, t] = lse_j(z[k, t, j]) - z[k, t, y_t]

K checkpoints, T tokens, V ids. One program reads one row's split of at most 8192 logits once,
straight into registers: its maximum, then one exponential per logit, whose sums it writes. Bytes
moved per token and checkpoint: V itemsize, and 12 to 24 per split.
"""

import torch
import triton
import triton.language as tl
from pycat.kernels.sequence_stats import LOG2E, RawStats, empty_partials, sequence_stats
from torch import Tensor

_MAX_BLOCK_V = 8192  # 32 logits a thread at 8 warps: in registers, and loaded all at once


@triton.jit(do_not_specialize=["num_checkpoints", "num_tokens", "num_splits"])
def _logits_kernel(
    logits_ptr,  # (K, T, V)
    targets_ptr,  # (T,)
    partials_ptr,  # (fields, K, splits, T)
    target_logit_ptr,  # (K, T)
    num_checkpoints,
    num_tokens,
    num_splits,
    vocab_size,
    BLOCK_V: tl.constexpr,
    ROW_MULTIPLE: tl.constexpr,
    ALL: tl.constexpr,
):
    # Offsets: of a row of logits, and of its split.
    program = tl.program_id(0)
    split = program % num_splits
    row = (program // num_splits).to(tl.int64)  # k T + t
    t = row % num_tokens
    v0 = split * BLOCK_V
    cols = v0 + tl.arange(0, BLOCK_V)
    # The same number, visibly a multiple: the compiler then knows that row starts and mask allow
    # wide loads.
    vocab_size = vocab_size // ROW_MULTIPLE * ROW_MULTIPLE
    row_ptr = logits_ptr + row * vocab_size

    # Logits (BLOCK_V,), the target's taken out.
    if v0 + BLOCK_V <= vocab_size:
        z = tl.load(row_ptr + cols).to(tl.float32)
    else:
        z = tl.load(row_ptr + cols, mask=cols < vocab_size, other=float("-inf")).to(tl.float32)
    y = tl.load(targets_ptr + t).to(tl.int64)
    if (y >= v0) & (y < v0 + BLOCK_V):
        if y < vocab_size:
            tl.store(target_logit_ptr + row, tl.load(row_ptr + y).to(tl.float32))
        z = tl.where(cols == y, float("-inf"), z)

    # Sums of exponentials, in base 2 against a whole reference.
    max_logit = tl.max(z, 0)
    reference = tl.floor(max_logit * LOG2E)
    shift = tl.where(reference == float("-inf"), 0.0, reference)
    exponents = tl.fma(z, tl.full([BLOCK_V], LOG2E, tl.float32), tl.zeros_like(z) - shift)
    e = tl.exp2(exponents)

    # Store.
    at = partials_ptr + (row // num_tokens * num_splits + split) * num_tokens + t
    field = tl.full([], 1, tl.int64) * num_checkpoints * num_splits * num_tokens
    tl.store(at, reference)
    if ALL:
        # 2^-200 is zero in float32; clamped, a zero times -inf does not make NaN.
        tl.store(at + 3 * field, tl.sum(e * tl.maximum(exponents, -200.0), 0))
        tl.store(at + 2 * field, tl.sum(e * e, 0))
        tl.store(at + 4 * field, max_logit)
    tl.store(at + field, tl.sum(e, 0))


def aligned(tensor: Tensor) -> Tensor:
    """The tensor or a copy: contiguous, and its address a multiple of 16."""
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

    The operands are those that `ops.cat_cross_entropy` has checked.

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
    """
    num_checkpoints, num_tokens, vocab_size = logits.shape
    # Vectors only where every row starts aligned: the order of the sums then follows from V alone.
    vectors = vocab_size * logits.element_size() % 16 == 0
    logits = aligned(logits) if vectors else logits.contiguous()
    targets, cu_seqlens = targets.contiguous(), cu_seqlens.contiguous()
    block_v = min(triton.next_power_of_2(vocab_size), _MAX_BLOCK_V)
    num_splits = triton.cdiv(vocab_size, block_v)
    partials, target_logit = empty_partials(
        num_checkpoints, num_splits, num_tokens, all_stats, logits.device
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
