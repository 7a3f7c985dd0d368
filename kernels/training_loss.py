"""The loss that proxies are trained on: an output layer and smoothed cross-entropy, with gradients.

The gradients of hidden states and output layer are made in the forward pass, a block of logits at
a time: logits and their gradient share one block of memory, and are gone when the pass ends.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pycat import _core

# Tokens of a block on the CPU. With 256, both passes are 4 to 12 % faster and need 2 to 4 MB more
# at V = 8,000. With 64 they are 11 to 25 % slower: each block adds to all of the weight's gradient.
_CPU_BLOCK_TOKENS = 128
# Elements of a product that is added to the weight's gradient, where their types differ.
_CPU_PRODUCT_SIZE = 1 << 17
# Logits of a block on CUDA: 2 GiB in 16 bits.
_CUDA_BLOCK_LOGITS = 1 << 30


def linear_smoothed_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    token_weights: Tensor,
    *,
    smoothing: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Weighted sums over tokens of the smoothed cross-entropy, one for each of M models.

    With logits z = hidden @ weight.T, target y and smoothing s, a token's loss in nats is
    lse(z) - (1 - s) z_y - (s / V) sum_j z_j (Szegedy et al. 2016, arXiv 1512.00567).

    Args:
        hidden: (M, T, D).
        weight: (M, V, D).
        targets: int64 (M, T), in [0, V).
        token_weights: float32 (M, T); a token of weight 0 adds nothing.
        smoothing: in [0, 1).
        dtype: of what matrix products read.

    Returns:
        The sums, float32 (M,), differentiable once in `hidden` and `weight`; and the losses of the
        tokens, not weighted, float32 (M, T), without gradient.
    """
    sums, losses = _LinearSmoothedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, token_weights, smoothing, dtype
    )
    return sums, losses


class _LinearSmoothedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        token_weights: Tensor,
        smoothing: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        ctx.hidden_type, ctx.weight_type = hidden.dtype, weight.dtype
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        token_losses = torch.empty_like(token_weights)
        # A copy of the hidden states has no other use: on the CPU the gradient takes its place.
        takes_place = ctx.hidden_type != dtype and not hidden.is_cuda
        hidden_grad = hidden if takes_place else torch.empty_like(hidden)
        weight_grad = torch.zeros_like(weight, dtype=ctx.weight_type)
        if hidden.is_cuda:
            arrays = (hidden, weight, targets, token_weights, token_losses)
            _on_cuda(*arrays, hidden_grad, weight_grad, smoothing)
        else:
            for m in range(len(hidden)):
                arrays = (hidden[m], weight[m], targets[m], token_weights[m], token_losses[m])
                _on_cpu(*arrays, hidden_grad[m], weight_grad[m], smoothing)
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.mark_non_differentiable(token_losses)
        return (token_losses * token_weights).sum(dim=1), token_losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.saved_tensors
        scale = grads[0]
        # A sum over the models has a scale of 1. Another array of the weight's shape would then be
        # most of the memory that both passes need. (On CUDA the comparison would be waited for.)
        if not scale.is_cuda and bool((scale == 1).all()):
            hidden_grad, weight_grad = hidden_grad.detach(), weight_grad.detach()
        else:
            hidden_grad = hidden_grad * scale[:, None, None]
            weight_grad = weight_grad * scale[:, None, None]
        return hidden_grad.to(ctx.hidden_type), weight_grad, None, None, None, None


def _on_cuda(
    hidden: Tensor,  # (M, T, D)
    weight: Tensor,  # (M, V, D)
    targets: Tensor,  # (M, T)
    token_weights: Tensor,  # (M, T)
    token_losses: Tensor,  # (M, T), written
    hidden_grad: Tensor,  # (M, T, D), written
    weight_grad: Tensor,  # (M, V, D), added to
    smoothing: float,
) -> None:
    from pycat.kernels.smoothed_cross_entropy import loss_and_gradient_

    num_models, num_tokens, _ = hidden.shape
    block_tokens = max(1, _CUDA_BLOCK_LOGITS // (num_models * weight.shape[1]))
    for first in range(0, num_tokens, block_tokens):
        block = slice(first, first + block_tokens)
        logits = torch.bmm(hidden[:, block], weight.mT)  # (M, t, V)
        block_targets = targets[:, block]
        token_losses[:, block] = loss_and_gradient_(
            logits.flatten(0, 1),
            block_targets.reshape(-1),
            token_weights[:, block].reshape(-1),
            smoothing,
        ).view_as(block_targets)
        torch.bmm(logits, weight, out=hidden_grad[:, block])
        weight_grad += torch.bmm(logits.mT, hidden[:, block])


def _on_cpu(
    hidden: Tensor,  # (T, D)
    weight: Tensor,  # (V, D)
    targets: Tensor,  # (T,)
    token_weights: Tensor,  # (T,)
    token_losses: Tensor,  # (T,), written
    hidden_grad: Tensor,  # (T, D), written; may be `hidden` itself
    weight_grad: Tensor,  # (V, D), added to
    smoothing: float,
) -> None:
    num_tokens, (vocab_size, width) = len(hidden), weight.shape
    block_tokens = min(num_tokens, _CPU_BLOCK_TOKENS)
    logits_of_block = hidden.new_empty(block_tokens, vocab_size)
    adds_in_place = weight_grad.dtype == hidden.dtype
    part_rows = vocab_size if adds_in_place else max(1, _CPU_PRODUCT_SIZE // width)
    product = torch.empty_like(weight[: 0 if adds_in_place else part_rows])
    for first in range(0, num_tokens, block_tokens):
        block = slice(first, min(first + block_tokens, num_tokens))
        logits = torch.mm(hidden[block], weight.mT, out=logits_of_block[: block.stop - first])
        token_losses[block] = loss_and_gradient_(
            logits, targets[block], token_weights[block], smoothing
        )
        if adds_in_place:
            weight_grad.addmm_(logits.mT, hidden[block])
        else:
            for row in range(0, vocab_size, part_rows):
                part = weight_grad[row : row + part_rows]
                columns = logits[:, row : row + part_rows]
                part += torch.mm(columns.mT, hidden[block], out=product[: len(part)])
        torch.mm(logits, weight, out=hidden_grad[block])


def loss_and_gradient_(
    logits: Tensor, targets: Tensor, token_weights: Tensor, smoothing: float
) -> Tensor:
    """Losses of tokens on the CPU; logits are replaced by the gradient of their weighted sum.

    Args:
        logits: (T, V), contiguous; float32 and bfloat16 go through the compiled extension.
        targets: int64 (T,), in [0, V).
        token_weights: (T,), float32, or float64 as the logits.
        smoothing: in [0, 1).

    Returns:
        (T,), in nats, of the type of `token_weights`.
    """
    if logits.dtype in (torch.float32, torch.bfloat16):
        is_reduced = logits.dtype == torch.bfloat16
        array = _core.smoothed_cross_entropy(
            (logits.view(torch.uint16) if is_reduced else logits).numpy(),
            targets.numpy(),
            token_weights.numpy(),
            smoothing,
            torch.get_num_threads(),
        )
        return torch.from_numpy(array)

    # Losses; logits become exp(z - max).
    at_target, weights = targets[:, None], token_weights[:, None]
    floor = smoothing / logits.shape[1]
    target_logits, total = logits.gather(1, at_target), logits.sum(dim=1, keepdim=True)
    highest = logits.amax(dim=1, keepdim=True)
    sum_exp = logits.sub_(highest).exp_().sum(dim=1, keepdim=True)
    lse = highest + sum_exp.log()
    losses: Tensor = (lse - (1 - smoothing) * target_logits - floor * total)[:, 0]

    # The weighted gradient, w (exp(z - lse) - s / V - (1 - s) [j = y]).
    logits.mul_(weights / sum_exp).sub_(floor * weights)
    logits.scatter_add_(1, at_target, (smoothing - 1) * weights)
    return losses
