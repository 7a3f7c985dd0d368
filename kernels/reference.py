"""Cross-entropy statistics summed per sequence for K checkpoints, in plain PyTorch.

    z[k, t, :] = hidden[k, t, :] @ weight[k].T + bias[k],  p = softmax(z),  y = targets[t]
    nll[k, b]  = sum over tokens t of sequence b of  -log p_y
    ppl[k, b]  = exp(nll[k, b] / num_tokens[b]),  ppl_mean and ppl_var over k (population variance)

K checkpoints, T tokens packed in B sequences, H wide, V vocabulary. This is the contract that fused
kernels are held to, and in float64 their oracle.

The target is kept out of the sums: with c = softmax of the other logits and a = log((1-p_y)/p_y) =
logsumexp of the others - z_y, nothing cancels where p_y is near 1:

    nll = log(1 + e^a)    p_y = 1 / (1 + e^a)    EL2N = ||p - onehot(y)|| = (1-p_y) sqrt(1 + sum c²)
    entropy = p_y nll + (1-p_y) (log(1 + e^-a) - sum c log c)
"""

from typing import NamedTuple

import torch
from pycat.kernels.stat_names import STAT_NAMES, Stats
from torch import Tensor

# So many logits are made at a time: bounds memory, and stays below what malloc reuses (32 MiB).
_BLOCK_LOGITS = 4_000_000


class SequenceStats(NamedTuple):
    """Per-sequence results; every (K, B) is a float64 sum over the counted tokens of a sequence.

    `nll` in nats; `num_tokens` int64 (B,); `ppl_mean`, `ppl_var` float64 (B,), NaN for an empty
    sequence. Then, with stats="all": `p_target` = p_y; `correct` = 1 where margin >= 0;
    `el2n` = ||p - onehot(y)|| (Paul et al. 2021); `margin` = z_y minus the largest other logit, inf
    where there is none (Pleiss et al. 2020); `entropy` of p in nats; `grad_norm_bound` = EL2N *
    ||hidden||, the norm of the token's gradient by the output weight, None from logits.
    `nll_per_token` float32 (K, T), 0 at ignored tokens, on request.
    """

    nll: Tensor
    num_tokens: Tensor
    ppl_mean: Tensor
    ppl_var: Tensor
    p_target: Tensor | None = None
    correct: Tensor | None = None
    el2n: Tensor | None = None
    margin: Tensor | None = None
    entropy: Tensor | None = None
    grad_norm_bound: Tensor | None = None
    nll_per_token: Tensor | None = None


def cat_linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    stats: Stats = "nll",
    per_token: bool = False,
    check: bool = True,
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
        stats: "nll", or "all" for the other columns too.
        per_token: also return nll (K, T).
        check: refuse a target out of range; otherwise its sequence's results are NaN.
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
    counted, wrong = _counted(targets, weight.shape[1], ignore_index, check)
    values = _no_values(STAT_NAMES if stats == "all" else STAT_NAMES[:1], hidden)
    block = max(1, _BLOCK_LOGITS // weight.shape[1])
    for k in range(num_checkpoints):
        output = weight[k].to(dtype)
        for first in range(0, num_targets, block):
            rows = slice(first, first + block)
            states = hidden[k, rows].to(dtype)
            logits = states @ output.T
            if bias is not None:
                logits = logits + bias[k].to(dtype)
            found = _token_values(logits, targets[rows], counted[rows] & ~wrong[rows], stats)
            if stats == "all":
                found.append(found[STAT_NAMES.index("el2n")] * states.norm(dim=1))
            values[:, k, rows] = torch.stack(found).double()
    return _per_sequence(values, counted, wrong, cu_seqlens, per_token)


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
    """The same from logits (K, T, V), in float64, without `grad_norm_bound`.

    Raises:
        ValueError: shapes disagree, or a target is out of range (with its position).
    """
    if targets.shape != logits.shape[1:2]:
        raise ValueError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} disagree; expected "
            "(K, T, V), (T,)"
        )
    counted, wrong = _counted(targets, logits.shape[2], ignore_index, check)
    values = _no_values(STAT_NAMES[:-1] if stats == "all" else STAT_NAMES[:1], logits)
    for k, head in enumerate(logits):
        found = _token_values(head.double(), targets, counted & ~wrong, stats)
        values[:, k] = torch.stack(found)
    return _per_sequence(values, counted, wrong, cu_seqlens, per_token)


def _no_values(names: tuple[str, ...], like: Tensor) -> Tensor:
    return like.new_zeros(len(names), *like.shape[:2], dtype=torch.float64)


def _token_values(logits: Tensor, targets: Tensor, usable: Tensor, stats: Stats) -> list[Tensor]:
    """The statistics of each row of `logits` (T, V), 0 where not `usable`."""
    chosen = torch.where(usable, targets, 0)[:, None]
    target = logits.gather(1, chosen)[:, 0]
    others = logits.scatter(1, chosen, -torch.inf)
    rest = torch.logsumexp(others, 1)
    a = rest - target
    zero = a.new_zeros(())
    nll = torch.logaddexp(a, zero)
    values = [nll]
    if stats == "all":
        share = torch.where(rest[:, None] == -torch.inf, 0.0, torch.exp(others - rest[:, None]))
        p_target, p_rest = torch.sigmoid(-a), torch.sigmoid(a)
        margin = target - others.amax(1)
        el2n = p_rest * torch.sqrt(1 + share.square().sum(1))
        entropy = torch.where(p_target > 0, p_target * nll, 0.0) + torch.where(
            p_rest > 0, p_rest * (torch.logaddexp(-a, zero) + torch.special.entr(share).sum(1)), 0.0
        )
        values += [p_target, (margin >= 0).to(a.dtype), el2n, margin, entropy]
    # A logit of +inf leaves no distribution; logsumexp would call it certain.
    undefined = a.isnan() | (rest == torch.inf) | (target == torch.inf)
    return [torch.where(usable, torch.where(undefined, torch.nan, value), zero) for value in values]


def _counted(
    targets: Tensor, vocab_size: int, ignore_index: int, check: bool
) -> tuple[Tensor, Tensor]:
    counted = targets != ignore_index
    wrong = counted & ((targets < 0) | (targets >= vocab_size))
    if check and bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        raise ValueError(wrong_target(at, int(targets[at]), vocab_size, ignore_index))
    return counted, wrong


def wrong_target(at: int, value: int, vocab_size: int, ignore_index: int) -> str:
    """What is said of the first target out of range, by every implementation of the contract."""
    return (
        f"targets[{at}] is {value}; expected an id in [0, {vocab_size}) or "
        f"ignore_index ({ignore_index})"
    )


def _per_sequence(
    values: Tensor, counted: Tensor, wrong: Tensor, cu_seqlens: Tensor, per_token: bool
) -> SequenceStats:
    values[:, :, wrong] = torch.nan
    lengths = cu_seqlens.diff().long()
    num_targets = values.shape[2]
    if int(cu_seqlens[0]) != 0 or int(cu_seqlens[-1]) != num_targets or bool((lengths < 0).any()):
        raise ValueError(
            f"cu_seqlens runs from {int(cu_seqlens[0])} to {int(cu_seqlens[-1])}; expected it to "
            f"rise from 0 to the {num_targets} targets"
        )
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths)
    sums = values.new_zeros(*values.shape[:2], len(lengths)).index_add_(2, rows, values)
    num_tokens = lengths.new_zeros(len(lengths)).index_add_(0, rows, counted.long())
    ppl = torch.exp(sums[0] / num_tokens)
    columns = dict(zip(STAT_NAMES, sums, strict=False))
    return SequenceStats(
        num_tokens=num_tokens,
        ppl_mean=ppl.mean(0),
        ppl_var=ppl.var(0, correction=0),
        nll_per_token=values[0].float() if per_token else None,
        **columns,
    )
