"""The compiled loops of training: attention over packed sequences, and smoothed cross-entropy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pycat.kernels.training_loss import loss_and_gradient_
from torch import Tensor

from pycat import _core
from pycat.proxy.cpu_attention import cpu_attention, has_cpu_attention
from pycat.proxy.packed_attention import Side

# Of the largest value: sums of a few hundred float32; in bfloat16 also the rounding of what is read
# again, which a gradient holds as a difference.
ALLOWED = {torch.float32: 6e-6, torch.bfloat16: 2**-6}


def side(lengths: list[int]) -> Side:
    ends = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    return Side(torch.zeros(int(ends[-1]), dtype=torch.int64), ends, np.array(lengths))


def exact_attention(
    q: Tensor, k: Tensor, v: Tensor, queries: Side, keys: Side, is_causal: bool
) -> Tensor:
    """Sequence by sequence, in float64."""
    outs = []
    for b in range(len(queries.lengths)):
        rows = slice(*queries.cu_seqlens[b : b + 2].tolist())
        columns = slice(*keys.cu_seqlens[b : b + 2].tolist())
        scores = torch.einsum("qhw,khw->hqk", q[rows], k[columns]) / math.sqrt(q.shape[2])
        if is_causal:
            hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(hidden, -math.inf)
        outs.append(torch.einsum("hqk,khw->qhw", scores.softmax(dim=2), v[columns]))
    return torch.cat(outs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("query_lengths", "key_lengths", "is_causal"),
    [
        ([1, 17, 3, 16, 40], [1, 17, 3, 16, 40], True),
        ([1, 17, 3, 16, 40], [1, 17, 3, 16, 40], False),
        ([5, 1, 33, 8], [1, 47, 2, 16], False),
        ([130], [259], False),
        ([130], [130], True),
        ([3, 0, 4], [5, 1, 2], False),
        ([3, 2], [0, 4], False),
    ],
)
@pytest.mark.parametrize("width", [16, 32, 48])
def test_attention_and_its_gradients(
    query_lengths: list[int],
    key_lengths: list[int],
    is_causal: bool,
    width: int,
    dtype: torch.dtype,
) -> None:
    queries, keys = side(query_lengths), side(key_lengths)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(sum(query_lengths), 3, width, generator=generator).to(dtype)
    kv = torch.randn(sum(key_lengths), 2, 3, width, generator=generator).to(dtype)
    q.mul_(3)  # so that some keys get nearly everything
    out_grad = torch.randn(q.shape, generator=generator).to(dtype)
    found: list[Tensor] = []
    expected: list[Tensor] = []
    for made, kind in ((found, dtype), (expected, torch.float64)):
        leaves = [x.to(kind).requires_grad_() for x in (q, kv)]
        k, v = leaves[1].unbind(1)  # tokens stand apart
        if made is found:
            out = cpu_attention(queries, keys, is_causal=is_causal)(leaves[0], k, v)
        else:
            out = exact_attention(leaves[0], k, v, queries, keys, is_causal)
        assert out.dtype == kind
        made += [out.detach(), *torch.autograd.grad(out, leaves, out_grad.to(kind))]
    for name, own, exact in zip(("out", "q", "kv"), found, expected, strict=True):
        allowed = ALLOWED[dtype] * max(1.0, float(exact.abs().max()))
        error = float((own.double() - exact).abs().max())
        assert error <= allowed, (name, error, allowed)


def test_attention_is_the_same_on_any_number_of_threads() -> None:
    lengths = [7, 30, 1, 64, 12, 12]
    generator = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(sum(lengths), 2, 32, generator=generator).requires_grad_() for _ in range(3)
    )
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            out = cpu_attention(side(lengths), side(lengths), is_causal=True)(q, k, v)
            found.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
    finally:
        torch.set_num_threads(threads)
    for one, four in zip(*found, strict=True):
        assert torch.equal(one, four)


def test_which_heads_it_takes() -> None:
    cpu = torch.device("cpu")
    assert has_cpu_attention(cpu, torch.float32, 64)
    assert not has_cpu_attention(cpu, torch.float32, 24)
    assert not has_cpu_attention(cpu, torch.float64, 64)
    assert not has_cpu_attention(torch.device("meta"), torch.float32, 64)


def whole(*shape: int) -> Any:
    return np.zeros(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": whole(4, 2, 24), "keys": whole(4, 2, 24), "values": whole(4, 2, 24)}, "wide"),
        ({"keys": whole(4, 1, 16)}, "keys is not"),
        ({"values": whole(5, 2, 16)}, "differ in their sequences"),
        ({"values": whole(4, 2, 16).astype(np.float64)}, "values is not"),
        ({"query_ends": np.array([0, 3, 2, 4], dtype=np.int32)}, "query_ends does not rise"),
        ({"key_ends": np.array([0, 5], dtype=np.int32)}, "key_ends does not rise"),
        ({"key_ends": np.array([0, 1, 2, 3, 4], dtype=np.int32)}, "differ in their sequences"),
    ],
)
def test_attention_refuses(change: dict[str, Any], message: str) -> None:
    ends = np.array([0, 4], dtype=np.int32)
    arguments: dict[str, Any] = {
        "queries": whole(4, 2, 16),
        "keys": whole(4, 2, 16),
        "values": whole(4, 2, 16),
        "query_ends": ends,
        "key_ends": ends,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        _core.packed_attention(**arguments, causal=False, num_threads=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab_size", [1, 5, 16, 101, 8003])
def test_losses_and_their_gradients(vocab_size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    logits = (torch.randn(37, vocab_size, generator=generator) * 4).to(dtype)
    logits[3] -= 1000  # far from 0, and from what can be exponentiated
    logits[4] += 1000
    targets = torch.randint(vocab_size, (37,), generator=generator)
    weights = torch.rand(37, generator=generator)
    weights[5] = 0
    exact = logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        exact, targets, label_smoothing=0.1, reduction="none"
    )
    (gradient,) = torch.autograd.grad(expected, exact, weights.double())
    losses = loss_and_gradient_(logits, targets, weights, 0.1)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), expected.detach(), rtol=2e-6, atol=2e-4)
    allowed = 4e-7 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(logits.double(), gradient, rtol=2e-5, atol=allowed)
    assert not logits[5].any()


def test_losses_refuse_a_target_outside_the_vocabulary() -> None:
    with pytest.raises(ValueError, match="target 9 is outside the vocabulary of 9"):
        loss_and_gradient_(torch.zeros(1, 9), torch.tensor([9]), torch.ones(1), 0.1)
