"""Label-smoothed cross-entropy of logits, and its gradient in their place, in Triton.

With logits z (V), target y, smoothing s and the row's weight w:

    loss = lse(z) - (1 - s) z_y - (s / V) sum_j z_j
    dz_j = w (exp(z_j - lse) - s / V - (1 - s) [j = y])

R rows (tokens of all models), V logits a row. Each row is read twice, the second time mostly out
of the L2 cache, and written once: 3 R V bytes an element's size at most.
"""

import triton
import triton.language as tl
from torch import Tensor, empty, float32

_BLOCK_V = 2048


@triton.jit
def _loss_and_gradient_kernel(
    logits_ptr,  # (R, V), replaced by the gradient
    targets_ptr,  # (R,) int64
    weights_ptr,  # (R,) float32
    losses_ptr,  # (R,) float32
    stride_row,
    vocab_size,
    smoothing,
    BLOCK_V: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * stride_row
    target = tl.load(targets_ptr + row)
    weight = tl.load(weights_ptr + row)

    # Log-sum-exp with a running maximum, and the plain sum that smoothing needs.
    highest = -float("inf")
    sum_exp = 0.0
    total = 0.0
    for first in range(0, vocab_size, BLOCK_V):
        columns = first + tl.arange(0, BLOCK_V)
        inside = columns < vocab_size
        z = tl.load(row_ptr + columns, mask=inside, other=-float("inf")).to(tl.float32)
        new_highest = tl.maximum(highest, tl.max(z, axis=0))
        sum_exp = sum_exp * tl.exp(highest - new_highest) + tl.sum(tl.exp(z - new_highest), axis=0)
        total += tl.sum(tl.where(inside, z, 0.0), axis=0)
        highest = new_highest
    lse = highest + tl.log(sum_exp)
    target_logit = tl.load(row_ptr + target).to(tl.float32)
    floor = smoothing / vocab_size
    tl.store(losses_ptr + row, lse - (1 - smoothing) * target_logit - floor * total)

    for first in range(0, vocab_size, BLOCK_V):
        columns = first + tl.arange(0, BLOCK_V)
        inside = columns < vocab_size
        z = tl.load(row_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        gradient = tl.exp(z - lse) - floor
        gradient = tl.where(columns == target, gradient - (1 - smoothing), gradient)
        # A token of weight 0 adds nothing, whatever its logits are.
        gradient = tl.where(weight == 0.0, 0.0, gradient * weight)
        tl.store(row_ptr + columns, gradient.to(logits_ptr.dtype.element_ty), mask=inside)


def loss_and_gradient_(
    logits: Tensor, targets: Tensor, weights: Tensor, smoothing: float
) -> Tensor:
    """Losses of rows, not weighted: float32 (R,). The logits become the weighted gradient.

    Args:
        logits: (R, V) on a CUDA device, rows contiguous.
        targets: int64 (R,), in [0, V).
        weights: float32 (R,).
        smoothing: share of the target's probability that is spread over the vocabulary.
    """
    num_rows, vocab_size = logits.shape
    losses = empty(num_rows, dtype=float32, device=logits.device)
    _loss_and_gradient_kernel[(num_rows,)](
        logits,
        targets,
        weights,
        losses,
        logits.stride(0),
        vocab_size,
        smoothing,
        BLOCK_V=_BLOCK_V,
        num_warps=8,
    )
    return losses
