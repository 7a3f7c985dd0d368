"""Second pass on the GPU: partial sums of every token to statistics of every sequence.

The first pass (cross_entropy.py, linear_cross_entropy.py) leaves, for each checkpoint k, split s of
the vocabulary and token t, sums over the ids j of that split except the target y. With
c = float32(log2 e) and t_j = c z_j - reference:

    field 0  reference  floor(c max_j z_j), a whole number so that rescaling by it is exact
    field 1  sum_exp    sum_j 2^t_j
    field 2  sum_exp_sq sum_j 4^t_j
    field 3  sum_exp_z  sum_j 2^t_j t_j
    field 4  max_logit  max_j z_j

as float32 (fields, K, splits, T), fields 2 to 4 only for stats="all", and the target's own logit as
float32 (K, T). Here one program per sequence folds the splits in their order, forms the statistics
of each token and sums them in float64, and takes mean and variance over K. Nothing that it computes
depends on where in the batch the sequence stands.

Bytes read per token and checkpoint: 8 splits + 12 (20 splits + 16 for "all").
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950216293335)  # log2(e) rounded to float32; both passes use this number
_NATS = tl.constexpr(0.6931471805599453)  # ln 2
# Splits share the rounding of LOG2E, so it acts as a temperature of 1 + 1.3e-8: divide it out.
_PER_LOG2E_NATS = tl.constexpr(1 / (1.4426950216293335 * 0.6931471805599453))

_BLOCK_TOKENS = 32  # a typical sentence; longer ones loop
_MAX_BLOCK_SPLITS = 4  # with one warp: nothing spilled, and no barriers between warps

RawStats = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@triton.jit
def _power_of_two(exponent):
    """2^exponent in float64, exactly, for whole numbers up to 0; at most 2^-1022 for lower ones."""
    clamped = tl.maximum(tl.where(exponent == exponent, exponent, 0.0), -1022.0)
    return ((clamped.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def _reciprocal(x):
    """1 / x in float64 for x in the range of float32, within an ulp or two: Newton, twice.

    CUDA's own division is a call, for which the compiler spills registers.
    """
    guess = (1.0 / x.to(tl.float32)).to(tl.float64)
    guess = guess * (2.0 - x * guess)
    return guess * (2.0 - x * guess)


@triton.jit
def _log1p(x):
    """log(1 + x) in float64 without cancellation: the rounding of 1 + x is put back."""
    u = 1.0 + x
    return tl.log(u) + (x - (u - 1.0)) * (1.0 / u.to(tl.float32)).to(tl.float64)


@triton.jit
def _fold_splits(
    partials_ptr,  # (splits, T), the first field of one checkpoint
    ts,  # (BLOCK_TOKENS,)
    good,  # (BLOCK_TOKENS,)
    num_tokens,
    num_splits,
    field,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    ALL: tl.constexpr,
):
    """Reference and float64 sums (BLOCK_TOKENS,) of tokens of one checkpoint over all splits."""
    reference = tl.full([BLOCK_TOKENS], float("-inf"), tl.float32)
    for s0 in tl.range(0, num_splits, BLOCK_SPLITS):
        splits = s0 + tl.arange(0, BLOCK_SPLITS)
        at = splits[:, None].to(tl.int64) * num_tokens + ts[None, :]
        mask = (splits[:, None] < num_splits) & good[None, :]
        part = tl.load(partials_ptr + at, mask=mask, other=float("-inf"))
        reference = tl.maximum(reference, tl.max(part, 0))
    reference = tl.where(reference == float("-inf"), 0.0, reference)
    sum_exp = tl.zeros([BLOCK_TOKENS], tl.float64)
    sum_exp_sq = tl.zeros([BLOCK_TOKENS], tl.float64)
    sum_exp_z = tl.zeros([BLOCK_TOKENS], tl.float64)
    max_logit = tl.full([BLOCK_TOKENS], float("-inf"), tl.float32)
    for s0 in tl.range(0, num_splits, BLOCK_SPLITS):
        splits = s0 + tl.arange(0, BLOCK_SPLITS)
        at = splits[:, None].to(tl.int64) * num_tokens + ts[None, :]
        mask = (splits[:, None] < num_splits) & good[None, :]
        part = tl.load(partials_ptr + at, mask=mask, other=float("-inf"))
        shift = tl.maximum(part - reference[None, :], -2000.0)
        scale = _power_of_two(shift)
        part_sum_exp = tl.load(partials_ptr + field + at, mask=mask, other=0.0).to(tl.float64)
        sum_exp += tl.sum(part_sum_exp * scale, 0)
        if ALL:
            part_sum_exp_sq = tl.load(partials_ptr + 2 * field + at, mask=mask, other=0.0)
            sum_exp_sq += tl.sum(part_sum_exp_sq.to(tl.float64) * scale * scale, 0)
            part_sum_exp_z = tl.load(partials_ptr + 3 * field + at, mask=mask, other=0.0)
            moved = part_sum_exp_z.to(tl.float64) + shift.to(tl.float64) * part_sum_exp
            sum_exp_z += tl.sum(moved * scale, 0)
            part_max_logit = tl.load(partials_ptr + 4 * field + at, mask=mask, other=float("-inf"))
            max_logit = tl.maximum(max_logit, tl.max(part_max_logit, 0))
    return reference.to(tl.float64), sum_exp, sum_exp_sq, sum_exp_z, max_logit


@triton.jit
def _count_targets(
    targets_ptr,  # (T,)
    start,
    end,
    num_tokens,
    vocab_size,
    ignore_index,
    BLOCK_TOKENS: tl.constexpr,
):
    """Number of counted targets of a sequence, and its first one out of range, or T."""
    count = tl.zeros([BLOCK_TOKENS], tl.int64)
    first = tl.full([BLOCK_TOKENS], 0, tl.int64) + num_tokens
    for t0 in tl.range(start, end, BLOCK_TOKENS):
        ts = t0 + tl.arange(0, BLOCK_TOKENS)
        y = tl.load(targets_ptr + ts, mask=ts < end, other=0).to(tl.int64)
        counted = (ts < end) & (y != ignore_index)
        count += counted.to(tl.int64)
        wrong = counted & ((y < 0) | (y >= vocab_size))
        first = tl.minimum(first, tl.where(wrong, ts, num_tokens).to(tl.int64))
    return tl.sum(count, 0), tl.min(first, 0)


@triton.jit
def _token_stats(
    z_y,  # (BLOCK_TOKENS,) float64, like all that follow but max_logit
    reference,
    sum_exp,
    sum_exp_sq,
    sum_exp_z,
    max_logit,
    ALL: tl.constexpr,
):
    """nll, p_target, correct, EL2N, margin and entropy of tokens; without ALL the first alone."""
    # Relative to the larger of reference and target, so that nothing overflows.
    d = z_y * LOG2E - reference
    up = tl.where(d > 0, d, 0.0)
    low = tl.where(d < 0, d, 0.0)
    down = tl.exp2(-up)
    e_y = tl.exp2(low)
    e_others = sum_exp * down
    s = e_others + e_y
    inverse = _reciprocal(s)
    # The others over e_y; infinite, and not used, where e_y is 0.
    ratio = e_others * tl.exp2(-low)
    log_ratio = _log1p(ratio)
    log_s = tl.where(low < 0, tl.log(s), log_ratio)
    dominant = (e_y > 0) & (ratio < 1)
    nll = tl.where(dominant, log_ratio, log_s - low * _NATS) * _PER_LOG2E_NATS
    nll = tl.where(z_y < float("inf"), nll, float("nan"))
    if ALL:
        p = e_y * inverse
        margin = z_y - max_logit.to(tl.float64)
        correct = tl.where(margin >= 0, 1.0, 0.0).to(tl.float64)
        el2n = tl.sqrt(sum_exp_sq * down * down + e_others * e_others) * inverse
        weight = down * (sum_exp_z - up * sum_exp) + tl.where(e_y > 0, e_y * low, 0.0)
        entropy = log_s - _NATS * weight * inverse
    else:
        p, correct, el2n, margin, entropy = nll, nll, nll, nll, nll
    return nll, p, correct, el2n, margin, entropy


@triton.jit
def _where_defined(value, nll, good):
    """The value of good tokens, NaN where their nll is; 0 of others."""
    return tl.where(good, tl.where(nll == nll, value, float("nan")), 0.0)


# Never compiled for special sizes of a batch: the order of the sums would follow from them.
@triton.jit(
    do_not_specialize=[
        "num_checkpoints",
        "num_tokens",
        "num_splits",
        "num_sequences",
        "vocab_size",
        "ignore_index",
    ]
)
def _sequence_kernel(
    partials_ptr,  # (fields, K, splits, T)
    target_logit_ptr,  # (K, T)
    norm_ptr,  # (K, T)
    targets_ptr,  # (T,)
    cu_seqlens_ptr,  # (B + 1,)
    sums_ptr,  # (stats, K, B)
    counts_ptr,  # (B,)
    ppl_mean_ptr,  # (B,)
    ppl_var_ptr,  # (B,)
    nll_per_token_ptr,  # (K, T)
    first_bad_ptr,  # (B,)
    num_checkpoints,
    num_tokens,
    num_splits,
    num_sequences,
    vocab_size,
    ignore_index,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    ALL: tl.constexpr,
    HAS_NORM: tl.constexpr,
    PER_TOKEN: tl.constexpr,
):
    # Tokens of the sequence. Clamped: a wrong cu_seqlens must not lead out of bounds.
    b = tl.program_id(0)
    nan = float("nan")
    start = tl.maximum(tl.load(cu_seqlens_ptr + b).to(tl.int32), 0)
    end = tl.minimum(tl.load(cu_seqlens_ptr + b + 1).to(tl.int32), num_tokens)
    num_counted, first_bad = _count_targets(
        targets_ptr, start, end, num_tokens, vocab_size, ignore_index, BLOCK_TOKENS
    )
    tl.store(counts_ptr + b, num_counted)
    tl.store(first_bad_ptr + b, first_bad)
    refused = first_bad < num_tokens
    per_counted = _reciprocal(tl.maximum(num_counted, 1).to(tl.float64))

    # Strides: of a checkpoint and a field of the partials, and of a statistic of the sums.
    head = tl.full([], 0, tl.int64) + num_splits * tl.full([], 1, tl.int64) * num_tokens
    field = num_checkpoints * head
    stat = num_checkpoints * tl.full([], 1, tl.int64) * num_sequences
    ppl_sum = tl.full([], 0.0, tl.float64)
    ppl_mean = tl.full([], 0.0, tl.float64)
    ppl_deviation = tl.full([], 0.0, tl.float64)
    for k in tl.range(0, num_checkpoints):
        nll_sum = tl.zeros([BLOCK_TOKENS], tl.float64)
        p_sum = tl.zeros([BLOCK_TOKENS], tl.float64)
        correct_sum = tl.zeros([BLOCK_TOKENS], tl.float64)
        el2n_sum = tl.zeros([BLOCK_TOKENS], tl.float64)
        margin_sum = tl.zeros([BLOCK_TOKENS], tl.float64)
        entropy_sum = tl.zeros([BLOCK_TOKENS], tl.float64)
        bound_sum = tl.zeros([BLOCK_TOKENS], tl.float64)
        for t0 in tl.range(start, end, BLOCK_TOKENS):
            # Partials of a block of tokens.
            ts = t0 + tl.arange(0, BLOCK_TOKENS)
            inside = ts < end
            y = tl.load(targets_ptr + ts, mask=inside, other=0).to(tl.int64)
            counted = inside & (y != ignore_index)
            good = counted & (y >= 0) & (y < vocab_size)
            reference, sum_exp, sum_exp_sq, sum_exp_z, max_logit = _fold_splits(
                partials_ptr + k * head,
                ts,
                good,
                num_tokens,
                num_splits,
                field,
                BLOCK_SPLITS,
                BLOCK_TOKENS,
                ALL,
            )
            token = k * tl.full([], 1, tl.int64) * num_tokens + ts
            z_y = tl.load(target_logit_ptr + token, mask=good, other=0.0).to(tl.float64)

            # Statistics of the tokens, added to the sequence's.
            nll, p, correct, el2n, margin, entropy = _token_stats(
                z_y, reference, sum_exp, sum_exp_sq, sum_exp_z, max_logit, ALL
            )
            nll_sum += tl.where(good, nll, 0.0)
            if PER_TOKEN:
                shown = tl.where(good, nll, tl.where(counted, nan, 0.0))
                tl.store(nll_per_token_ptr + token, shown.to(tl.float32), mask=inside)
            if ALL:
                p_sum += _where_defined(p, nll, good)
                correct_sum += _where_defined(correct, nll, good)
                el2n_sum += _where_defined(el2n, nll, good)
                margin_sum += _where_defined(margin, nll, good)
                entropy_sum += _where_defined(entropy, nll, good)
                if HAS_NORM:
                    norm = tl.load(norm_ptr + token, mask=good, other=0.0).to(tl.float64)
                    bound_sum += _where_defined(el2n * norm, nll, good)

        # Sums of the sequence.
        out = sums_ptr + k * tl.full([], 1, tl.int64) * num_sequences + b
        nll = tl.where(refused, nan, tl.sum(nll_sum, 0))
        tl.store(out, nll)
        if ALL:
            tl.store(out + stat, tl.where(refused, nan, tl.sum(p_sum, 0)))
            tl.store(out + 2 * stat, tl.where(refused, nan, tl.sum(correct_sum, 0)))
            tl.store(out + 3 * stat, tl.where(refused, nan, tl.sum(el2n_sum, 0)))
            tl.store(out + 4 * stat, tl.where(refused, nan, tl.sum(margin_sum, 0)))
            tl.store(out + 5 * stat, tl.where(refused, nan, tl.sum(entropy_sum, 0)))
            if HAS_NORM:
                tl.store(out + 6 * stat, tl.where(refused, nan, tl.sum(bound_sum, 0)))

        # Perplexity. Welford: the variance of nearly equal perplexities keeps its digits.
        ppl = tl.where(num_counted > 0, tl.exp(nll * per_counted), nan)
        ppl_sum += ppl
        change = ppl - ppl_mean
        ppl_mean += change * _reciprocal(tl.full([], 1, tl.float64) + k)
        ppl_deviation += change * (ppl - ppl_mean)
    per_checkpoint = _reciprocal(tl.full([], 0, tl.float64) + num_checkpoints)
    tl.store(ppl_mean_ptr + b, ppl_sum * per_checkpoint)
    tl.store(ppl_var_ptr + b, ppl_deviation * per_checkpoint)


def empty_partials(
    num_checkpoints: int, num_splits: int, num_tokens: int, all_stats: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Memory for the first pass: float32 (fields, K, splits, T), and (K, T) for target logits."""
    shape = (num_checkpoints, num_splits, num_tokens)
    return (
        torch.empty(5 if all_stats else 2, *shape, dtype=torch.float32, device=device),
        torch.empty(num_checkpoints, num_tokens, dtype=torch.float32, device=device),
    )


def sequence_stats(
    partials: Tensor,
    target_logit: Tensor,
    norms: Tensor | None,
    targets: Tensor,
    cu_seqlens: Tensor,
    vocab_size: int,
    ignore_index: int,
    all_stats: bool,
    per_token: bool,
) -> RawStats:
    """Fold the first pass's partials into what `cross_entropy` and its linear form return.

    Args:
        partials: float32 (fields, K, splits, T), as the module describes them.
        target_logit: float32 (K, T).
        norms: float32 (K, T), Euclidean norms of the hidden states; None leaves out the bound on
            the gradient norm.
        targets: integer (T,).
        cu_seqlens: integer (B + 1,).
        vocab_size: V.
        ignore_index: targets that count nothing.
        all_stats: the seven statistics (six without `norms`) instead of nll alone.
        per_token: also nll of every token.
    """
    _, num_checkpoints, num_splits, num_tokens = partials.shape
    num_sequences = len(cu_seqlens) - 1
    device = partials.device
    num_stats = (6 if norms is None else 7) if all_stats else 1
    sums = torch.empty(
        num_stats, num_checkpoints, num_sequences, dtype=torch.float64, device=device
    )
    counts = torch.empty(num_sequences, dtype=torch.int64, device=device)
    ppl_mean = torch.empty(num_sequences, dtype=torch.float64, device=device)
    ppl_var = torch.empty(num_sequences, dtype=torch.float64, device=device)
    shape = (num_checkpoints, num_tokens) if per_token else (0, 0)
    nll_per_token = torch.empty(shape, dtype=torch.float32, device=device)
    first_bad = torch.empty(num_sequences, dtype=torch.int64, device=device)
    if num_sequences == 0:
        none = torch.full((), num_tokens, dtype=torch.int64, device=device)
        return sums, counts, ppl_mean, ppl_var, nll_per_token, none
    with torch.cuda.device_of(partials):
        _sequence_kernel[(num_sequences,)](
            partials,
            target_logit,
            target_logit if norms is None else norms,
            targets,
            cu_seqlens,
            sums,
            counts,
            ppl_mean,
            ppl_var,
            nll_per_token,
            first_bad,
            num_checkpoints,
            num_tokens,
            num_splits,
            num_sequences,
            vocab_size,
            ignore_index,
            BLOCK_SPLITS=min(triton.next_power_of_2(num_splits), _MAX_BLOCK_SPLITS),
            BLOCK_TOKENS=_BLOCK_TOKENS,
            ALL=all_stats,
            HAS_NORM=norms is not None,
            PER_TOKEN=per_token,
            num_warps=1,
        )
    return sums, counts, ppl_mean, ppl_var, nll_per_token, first_bad.amin()
