"""The loss that proxies are trained on: an output layer and smoothed cross-entropy, with gradients.

The gradients of hidden states and output layer are made in the forward pass, a block of logits at
a time: logits and their gradient share one block of memory, and are gone when the pass ends.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits of a block on the CPU: 2 MiB in float32 stay in the cache from pass to pass.
_CPU_BLOCK_LOGITS = 1 << 19
# On CUDA: 2 GiB in 16 bits.
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
        num_models, num_tokens, _ = hidden.shape
        block_logits = _CUDA_BLOCK_LOGITS if hidden.is_cuda else _CPU_BLOCK_LOGITS
        block_tokens = max(1, block_logits // (num_models * weight.shape[1]))
        token_losses = torch.empty_like(token_weights)
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros_like(weight, dtype=ctx.weight_type)
        for first in range(0, num_tokens, block_tokens):
            block = slice(first, first + block_tokens)
            logits = torch.bmm(hidden[:, block], weight.mT)  # (M, t, V)
            weights = token_weights[:, block]
            losses, gradient = _loss_and_gradient(logits, targets[:, block], weights, smoothing)
            token_losses[:, block] = losses
            torch.bmm(gradient, weight, out=hidden_grad[:, block])
            weight_grad += torch.bmm(gradient.mT, hidden[:, block])
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.mark_non_differentiable(token_losses)
        return (token_losses * token_weights).sum(dim=1), token_losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.saved_tensors
        scale = grads[0][:, None, None]
        inputs = (hidden_grad * scale).to(ctx.hidden_type), weight_grad * scale
        return *inputs, None, None, None, None


def _loss_and_gradient(
    logits: Tensor, targets: Tensor, weights: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Losses (M, t) and the weighted gradient (M, t, V), in the memory of the logits."""
    if logits.is_cuda:
        from pycat.kernels.smoothed_cross_entropy import loss_and_gradient_

        rows = logits.flatten(0, 1)
        losses = loss_and_gradient_(
            rows, targets.reshape(-1), weights.reshape(-1), smoothing
        ).view_as(targets)
        return losses, logits
    z = logits.to(weights.dtype)
    lse = torch.logsumexp(z, dim=2, keepdim=True)
    at_target = targets[:, :, None]
    target_logits = z.gather(2, at_target)
    floor = smoothing / z.shape[2]
    losses = lse - (1 - smoothing) * target_logits - floor * z.sum(dim=2, keepdim=True)
    gradient = z.sub_(lse).exp_().sub_(floor)
    gradient.scatter_add_(2, at_target, torch.full_like(target_logits, smoothing - 1))
    gradient *= weights[:, :, None]
    return losses[:, :, 0], gradient.to(logits.dtype)
