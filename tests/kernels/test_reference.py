"""The contract of the kernels, against cases worked by hand and PyTorch's own loss."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycat.kernels.reference import cat_cross_entropy, cat_linear_cross_entropy
from tolerances import FLOAT64_ROUNDING, assert_within, mean_error, ppl_error, variance_error


def _random_case(
    num_checkpoints: int = 3, vocab_size: int = 37, lengths: tuple[int, ...] = (4, 1, 6)
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    num_tokens = sum(lengths)
    hidden = torch.randn(num_checkpoints, num_tokens, 8, generator=generator)
    weight = torch.randn(num_checkpoints, vocab_size, 8, generator=generator)
    targets = torch.randint(vocab_size, (num_tokens,), generator=generator)
    cu_seqlens = torch.tensor((0, *lengths)).cumsum(0).int()
    return hidden, weight, targets, cu_seqlens


def test_two_token_case_worked_by_hand() -> None:
    # V=2, logits (0, ln 3): p = (1/4, 3/4). Targets 1 then 0: nll = -ln 3/4 - ln 1/4 = ln(16/3).
    # The second checkpoint is uniform: nll = 2 ln 2. ppl = exp(nll / 2) = (4 / sqrt 3, 2).
    logits = torch.tensor([[[0.0, math.log(3)]] * 2, [[5.0, 5.0]] * 2], dtype=torch.float64)
    stats = cat_cross_entropy(logits, torch.tensor([1, 0]), torch.tensor([0, 2]).int())
    first, second = 4 / math.sqrt(3), 2.0
    nll = [[math.log(16 / 3)], [2 * math.log(2)]]
    assert_within(stats.nll, nll, FLOAT64_ROUNDING)
    assert stats.num_tokens.tolist() == [2]
    ppl = np.array([[first], [second]])
    errors = ppl_error(ppl, FLOAT64_ROUNDING)
    assert_within(stats.ppl_mean, [(first + second) / 2], mean_error(errors))
    assert_within(stats.ppl_var, [((first - second) / 2) ** 2], variance_error(ppl, errors))


def test_equals_torch_cross_entropy_per_sequence() -> None:
    hidden, weight, targets, cu_seqlens = _random_case()
    stats = cat_linear_cross_entropy(hidden, weight, targets, cu_seqlens)
    for k in range(3):
        logits = hidden[k].double() @ weight[k].double().T
        losses = F.cross_entropy(logits, targets, reduction="none")
        expected = torch.stack([part.sum() for part in torch.split(losses, [4, 1, 6])])
        torch.testing.assert_close(stats.nll[k], expected, rtol=1e-12, atol=0)


def test_logits_and_linear_forms_agree_with_bias() -> None:
    hidden, weight, targets, cu_seqlens = _random_case()
    bias = torch.randn(3, 37, generator=torch.Generator().manual_seed(1))
    logits = hidden.double() @ weight.double().mT + bias.double()[:, None]
    linear = cat_linear_cross_entropy(hidden, weight, targets, cu_seqlens, bias=bias)
    torch.testing.assert_close(linear, cat_cross_entropy(logits, targets, cu_seqlens))


def test_ignored_targets_and_empty_sequences_count_nothing() -> None:
    hidden, weight, targets, _ = _random_case()
    cu_seqlens = torch.tensor([0, 4, 4, 11]).int()
    targets[1] = -100
    stats = cat_linear_cross_entropy(hidden, weight, targets, cu_seqlens)
    assert stats.num_tokens.tolist() == [3, 0, 7]
    assert stats.nll[:, 1].tolist() == [0.0] * 3
    assert stats.ppl_mean.isnan().tolist() == [False, True, False]
    kept = [0, 2, 3]
    alone = cat_linear_cross_entropy(
        hidden[:, kept], weight, targets[kept], torch.tensor([0, 3]).int()
    )
    torch.testing.assert_close(stats.nll[:, 0], alone.nll[:, 0])


def test_large_logits_stay_finite() -> None:
    logits = torch.tensor([[[1e4, -1e4, 0.0]]])
    stats = cat_cross_entropy(logits, torch.tensor([1]), torch.tensor([0, 1]).int())
    assert stats.nll.item() == pytest.approx(2e4)


def test_more_tokens_than_one_block() -> None:
    hidden, weight, targets, _ = _random_case(1, 2001, (5000,))
    ends = torch.tensor([0, 2500, 5000]).int()
    whole = cat_linear_cross_entropy(hidden, weight, targets, ends)
    half = cat_linear_cross_entropy(hidden[:, 2500:], weight, targets[2500:], ends[:2])
    torch.testing.assert_close(whole.nll[:, 1:], half.nll)


@pytest.mark.parametrize("wrong", [-1, 37])
def test_target_out_of_range_is_named(wrong: int) -> None:
    hidden, weight, targets, cu_seqlens = _random_case()
    targets[5] = wrong
    with pytest.raises(ValueError, match=rf"targets\[5\] is {wrong}; expected an id in \[0, 37\)"):
        cat_linear_cross_entropy(hidden, weight, targets, cu_seqlens)


def test_shapes_that_disagree_are_named() -> None:
    hidden, weight, targets, cu_seqlens = _random_case()
    with pytest.raises(ValueError, match="disagree"):
        cat_linear_cross_entropy(hidden, weight[:, :, :7], targets, cu_seqlens)
    with pytest.raises(ValueError, match="rise from 0 to the 11 targets"):
        cat_linear_cross_entropy(hidden, weight, targets, cu_seqlens[:-1])
