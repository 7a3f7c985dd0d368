"""Cross-entropy summed per sequence for K checkpoints, in plain PyTorch.

    nll[k, b]  = sum over tokens t of sequence b of  lse_j(z[k, t, j]) - z[k, t, y_t]
    z[k, t, :] = hidden[k, t, :] @ weight[k].T + bias[k]
    ppl[k, b]  = exp(nll[k, b] / num_tokens[b]),  ppl_mean and ppl_var over k (population variance)

K checkpoints, T tokens packed in B sequences, H wide, V vocabulary. This is the contract that fused
kernels are held to, and in float64 their oracle.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# So many logits are made at a time: bounds memory, and stays below what malloc reuses (32 MiB).
_BLOCK_LOGITS = 4_000_000


class SequenceStats(NamedTuple):
    """Per-sequence results.

    `nll` float64 (K, B) in nats; `num_tokens` int64 (B,); `ppl_mean`, `ppl_var` float64 (B,), NaN
    for an empty sequence.
    """

    nll: Tensor
    num_tokens: Tensor
    ppl_mean: Tensor
    ppl_var: Tensor


def cat_linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    dtype: torch.dtype = torch.float64,
) -> SequenceStats:
    """Statistics of `hidden @ weight.T + bias` against targets.

    Args:
        hidden: (K, T, H).
        weight: (K, V, H).
        targets: int64 (T,), ids in [0, V) or `ignore_index`.
        cu_seqlens: int32 (B + 1,), from 0 to T.
        bias: (K, V) or None.
        ignore_index: targets counted neither in nll nor in num_tokens.
        dtype: of the product and the log-sum-exp; sums over tokens are float64 always.

    Raises:
        ValueError: shapes disagree, or a target is out of range (with its position).
    """
    num_checkpoints, num_targets, width = hidden.shape
    if weight.shape[::2] != (num_checkpoints, width) or targets.shape != (num_targets,):
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and targets "
            f"{tuple(targets.shape)} disagree; expected (K, T, H), (K, V, H), (T,)"
        )
    nll = torch.zeros(num_checkpoints, num_targets, dtype=torch.float64, device=hidden.device)
    counted = _counted(targets, weight.shape[1], ignore_index)
    safe = torch.where(counted, targets, 0)[:, None]
    block = max(1, _BLOCK_LOGITS // weight.shape[1])
    for k in range(num_checkpoints):
        output = weight[k].to(dtype)
        for first in range(0, num_targets, block):
            rows = slice(first, first + block)
            logits = hidden[k, rows].to(dtype) @ output.T
            if bias is not None:
                logits = logits + bias[k].to(dtype)
            target_logits = logits.gather(1, safe[rows])[:, 0]
            nll[k, rows] = (torch.logsumexp(logits, 1) - target_logits).double()
    return _per_sequence(torch.where(counted, nll, 0.0), counted, cu_seqlens)


def cat_cross_entropy(
    logits: Tensor, targets: Tensor, cu_seqlens: Tensor, *, ignore_index: int = -100
) -> SequenceStats:
    """The same from logits (K, T, V), in float64.

    Raises:
        ValueError: shapes disagree, or a target is out of range (with its position).
    """
    if targets.shape != logits.shape[1:2]:
        raise ValueError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} disagree; expected "
            "(K, T, V), (T,)"
        )
    counted = _counted(targets, logits.shape[2], ignore_index)
    exact = logits.double()
    chosen = exact.gather(2, torch.where(counted, targets, 0).expand(len(logits), -1)[..., None])
    nll = torch.logsumexp(exact, 2) - chosen[..., 0]
    return _per_sequence(torch.where(counted, nll, 0.0), counted, cu_seqlens)


def _counted(targets: Tensor, vocab_size: int, ignore_index: int) -> Tensor:
    counted = targets != ignore_index
    wrong = counted & ((targets < 0) | (targets >= vocab_size))
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        raise ValueError(
            f"targets[{at}] is {int(targets[at])}; expected an id in [0, {vocab_size}) or "
            f"ignore_index ({ignore_index})"
        )
    return counted


def _per_sequence(nll: Tensor, counted: Tensor, cu_seqlens: Tensor) -> SequenceStats:
    lengths = cu_seqlens.diff().long()
    if int(cu_seqlens[0]) != 0 or int(cu_seqlens[-1]) != nll.shape[1] or bool((lengths < 0).any()):
        raise ValueError(
            f"cu_seqlens runs from {int(cu_seqlens[0])} to {int(cu_seqlens[-1])}; expected it to "
            f"rise from 0 to the {nll.shape[1]} targets"
        )
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=nll.device), lengths)
    sums = nll.new_zeros(len(nll), len(lengths)).index_add_(1, rows, nll)
    num_tokens = lengths.new_zeros(len(lengths)).index_add_(0, rows, counted.long())
    ppl = torch.exp(sums / num_tokens)
    return SequenceStats(sums, num_tokens, ppl.mean(0), ppl.var(0, correction=0))
