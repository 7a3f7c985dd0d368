"""The fused kernels on the CPU, every instruction set, against the float64 reference."""

import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycat.kernels import ops, reference
from pycat.kernels.reference import SequenceStats
from tolerances import NLL_PER_TOKEN, assert_perplexities
from torch import Tensor

from pycat import _core
from pycat.errors import PycatError

ISAS = (
    "portable",
    "avx2",
    "avx_vnni",
    "avx512",
    "avx512_bf16",
    "neon",
    "neon_dot",
    "neon_bf16",
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Absolute, a token; p_target, correct and EL2N are of order 1, grad_norm_bound of ||hidden||.
TOLERANCE = {
    "nll": NLL_PER_TOKEN,
    "p_target": 1e-6,
    "correct": 0.0,
    "el2n": 1e-5,
    "margin": 3e-5,
    "entropy": 5e-5,
    "grad_norm_bound": 3e-5,
}


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name = str(request.param)
    if name not in _core.supported_cpu_isas():
        pytest.skip(f"this processor has no {name}")
    if (asked := os.environ.get("PYCAT_CPU_ISA", name)) != name:
        pytest.skip(f"PYCAT_CPU_ISA asks for {asked} alone")
    monkeypatch.setenv("PYCAT_CPU_ISA", name)
    return name


@pytest.fixture
def num_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def offsets(*lengths: int) -> Tensor:
    return torch.tensor((0, *lengths)).cumsum(0).int()


class Case:
    """Random hidden states, weight, bias and targets; logits spread about `scale`."""

    def __init__(
        self,
        lengths: tuple[int, ...] = (4, 1, 0, 30, 0, 42),
        *,
        k: int = 2,
        v: int = 1003,
        h: int = 67,
        dtype: torch.dtype = torch.float32,
        scale: float = 2.0,
    ) -> None:
        generator = torch.Generator().manual_seed(7)
        t = sum(lengths)
        self.hidden = torch.randn(k, t, h, generator=generator).to(dtype)
        self.weight = (torch.randn(k, v, h, generator=generator) * scale / h**0.5).to(dtype)
        self.bias = torch.randn(k, v, generator=generator).to(dtype)
        self.targets = torch.randint(v, (t,), generator=generator)
        self.cu_seqlens = offsets(*lengths)

    def logits(self) -> Tensor:
        product: Tensor = self.hidden.float() @ self.weight.float().mT
        return (product + self.bias.float()[:, None]).to(self.hidden.dtype)

    def linear(self, **options: object) -> SequenceStats:
        return self._call(ops.cat_linear_cross_entropy, options)

    def expected(self, **options: object) -> SequenceStats:
        return self._call(reference.cat_linear_cross_entropy, options)

    def _call(
        self, function: Callable[..., SequenceStats], options: dict[str, object]
    ) -> SequenceStats:
        options = {"bias": self.bias, "stats": "all", "per_token": True, **options}
        return function(self.hidden, self.weight, self.targets, self.cu_seqlens, **options)


def from_logits(
    logits: Tensor, targets: Tensor, cu_seqlens: Tensor, **options: object
) -> tuple[SequenceStats, SequenceStats]:
    """Statistics of the kernel, and of the reference."""
    options = {"stats": "all", "per_token": True, **options}
    return (
        ops.cat_cross_entropy(logits, targets, cu_seqlens, **options),  # type: ignore[arg-type]
        reference.cat_cross_entropy(logits, targets, cu_seqlens, **options),  # type: ignore[arg-type]
    )


def one_row(row: list[float], target: int, dtype: torch.dtype = torch.float32) -> SequenceStats:
    logits = torch.tensor([[row]], dtype=dtype)
    return ops.cat_cross_entropy(logits, torch.tensor([target]), offsets(1), stats="all")


def assert_stats(found: SequenceStats, expected: SequenceStats) -> None:
    """Every column is within TOLERANCE a token, and perplexities follow from nll."""
    assert torch.equal(found.num_tokens, expected.num_tokens)
    tokens = expected.num_tokens.clamp(min=1)
    for name, tolerance in TOLERANCE.items():
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        if a is None:
            continue
        assert a.dtype == torch.float64
        assert a.shape == b.shape
        same = (a == b) | (a.isnan() & b.isnan())  # equal infinities too
        error = torch.where(same, 0.0, (a - b).abs() / tokens)
        assert bool((error <= tolerance).all()), f"{name}: {error.max():.2e}"
    if found.nll_per_token is not None:
        assert expected.nll_per_token is not None
        torch.testing.assert_close(
            found.nll_per_token,
            expected.nll_per_token,
            rtol=1e-6,
            atol=NLL_PER_TOKEN,
            equal_nan=True,
        )
    error = TOLERANCE["nll"] * expected.num_tokens
    assert_perplexities(found.ppl_mean, found.ppl_var, found.nll, found.num_tokens)
    assert_perplexities(
        found.ppl_mean, found.ppl_var, expected.nll, expected.num_tokens, error=error
    )


def assert_identical(a: SequenceStats, b: SequenceStats) -> None:
    for name, x, y in zip(a._fields, a, b, strict=True):
        assert (x is None) == (y is None), name
        if x is not None and y is not None:
            assert np.array_equal(x.numpy(), y.numpy(), equal_nan=True), name


# Values


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("v,h", [(1003, 67), (1, 1), (11, 2), (128, 64), (13, 515), (2309, 8)])
def test_linear_equals_the_reference(isa: str, dtype: torch.dtype, v: int, h: int) -> None:
    case = Case(v=v, h=h, dtype=dtype)
    case.targets[[0, 20]] = -100
    assert_stats(case.linear(), case.expected())
    assert_stats(case.linear(bias=None), case.expected(bias=None))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("v", [1, 7, 127, 128, 129, 5003])
def test_logits_equal_the_reference(isa: str, dtype: torch.dtype, v: int) -> None:
    case = Case(v=v, h=8, dtype=dtype)
    case.targets[[0, 20]] = -100
    assert_stats(*from_logits(case.logits(), case.targets, case.cu_seqlens))


@pytest.mark.parametrize("k", [1, 8])
def test_any_number_of_checkpoints(k: int) -> None:
    case = Case(k=k, v=333)
    assert_stats(case.linear(), case.expected())
    assert_stats(*from_logits(case.logits(), case.targets, case.cu_seqlens))
    if k == 1:
        assert case.linear().ppl_var[0] == 0.0


def test_variance_of_perplexities_that_fall(isa: str) -> None:
    # Distributions from near uniform to near certain, as of checkpoints in training order.
    case = Case((25, 40), k=5, v=400, h=48)
    case.weight *= torch.linspace(0.2, 1.5, 5)[:, None, None]
    case.targets = (case.hidden.sum(0) @ case.weight.sum(0).T).topk(9, 1).indices[:, -1]
    assert_stats(case.linear(), case.expected())


def test_nll_alone_is_the_same_nll(isa: str) -> None:
    case = Case()
    few, every = case.linear(stats="nll", per_token=False), case.linear()
    assert torch.equal(few.nll, every.nll)
    assert few.p_target is few.grad_norm_bound is few.nll_per_token is None
    logits = ops.cat_cross_entropy(case.logits(), case.targets, case.cu_seqlens)
    assert logits.el2n is None


def test_outputs_are_new_and_wholly_written() -> None:
    case = Case()
    expected = case.linear()
    for _ in range(20):
        # malloc hands out what was freed last: the next call's results will lie in this garbage.
        garbage = [torch.full_like(x, -7) for x in expected if x is not None]
        del garbage
        assert_identical(case.linear(), expected)


def test_float32_bias_with_a_bfloat16_weight(isa: str) -> None:
    case = Case(dtype=torch.bfloat16)
    case.bias = torch.randn(2, 1003, generator=torch.Generator().manual_seed(1))
    assert_stats(case.linear(), case.expected())
    packed = ops.pack_weight(case.weight, case.bias)
    assert_identical(
        ops.cat_linear_cross_entropy(
            *(case.hidden, packed, case.targets, case.cu_seqlens), stats="all", per_token=True
        ),
        case.linear(),
    )


# Sequences


def test_one_token(isa: str) -> None:
    case = Case((1,), v=50, h=5)
    assert_stats(case.linear(), case.expected())


def test_no_tokens_and_no_sequences() -> None:
    for lengths, size in (((), 0), ((0, 0), 2)):
        case = Case(lengths)
        stats = case.linear()
        assert stats.nll.shape == (2, size)
        assert stats.nll.eq(0).all()
        assert stats.ppl_mean.isnan().all()
        assert ops.cat_cross_entropy(case.logits(), case.targets, case.cu_seqlens).nll.eq(0).all()


def test_all_ignored(isa: str) -> None:
    case = Case((3, 4))
    case.targets[:3] = -100
    stats = case.linear()
    assert stats.num_tokens.tolist() == [0, 4]
    assert stats.nll[:, 0].tolist() == [0.0, 0.0]
    assert stats.ppl_mean.isnan().tolist() == [True, False]
    assert stats.nll_per_token is not None
    assert stats.nll_per_token[:, :3].eq(0).all()
    case.targets[:] = -100
    assert case.linear().num_tokens.tolist() == [0, 0]
    assert_stats(case.linear(), case.expected())


def test_ignore_index_may_be_a_valid_id(isa: str) -> None:
    case = Case(v=5)
    stats = case.linear(ignore_index=3)
    assert stats.num_tokens.sum() < len(case.targets)
    assert_stats(stats, case.expected(ignore_index=3))
    assert_stats(
        *from_logits(case.logits(), case.targets, case.cu_seqlens, ignore_index=3),
    )


def test_more_tokens_than_one_range() -> None:
    # Ranges of tokens bound memory; a sequence may lie in two.
    t = (1 << 19) // 7 + 1000
    logits = torch.randn(1, t, 3, generator=torch.Generator().manual_seed(2))
    targets = torch.randint(3, (t,), generator=torch.Generator().manual_seed(3))
    assert_stats(*from_logits(logits, targets, offsets(10, t - 20, 10)))
    hidden, weight = logits, torch.eye(3)[None]
    args = (hidden, weight, targets, offsets(10, t - 20, 10))
    found = ops.cat_linear_cross_entropy(*args, stats="all")
    assert_stats(found, reference.cat_linear_cross_entropy(*args, stats="all"))


# Numerics


def test_large_logits_stay_exact(isa: str) -> None:
    logits = torch.tensor([[[1e4, -1e4, 9999.0, 0.0], [-1e4, -1e4, -1e4, -1e4]]])
    found, expected = from_logits(logits, torch.tensor([2, 0]), offsets(1, 1))
    assert_stats(found, expected)
    assert found.nll[0, 0].item() == pytest.approx(math.log(1 + math.e), abs=1e-6)
    hidden = torch.eye(2)[None]
    linear = ops.cat_linear_cross_entropy(
        hidden, logits.mT.contiguous(), torch.tensor([2, 0]), offsets(1, 1), stats="all"
    )
    torch.testing.assert_close(linear.nll, expected.nll, rtol=0, atol=NLL_PER_TOKEN)
    torch.testing.assert_close(linear.entropy, expected.entropy, rtol=0, atol=2e-5)


def test_rising_logits_move_the_reference(isa: str) -> None:
    # From -500 up to 500 and down again, in steps below and above the margin.
    for steps in (100, 2001):
        rise = torch.linspace(-500, 500, steps)
        row = torch.cat([rise, rise.flip(0) + 0.25])
        logits = torch.stack([row, row.flip(0), row.roll(steps // 3)])[None]
        targets = torch.tensor([steps, 5, steps - 1])
        found, expected = from_logits(logits, targets, offsets(1, 1, 1))
        assert_stats(found, expected)
        linear = ops.cat_linear_cross_entropy(
            torch.eye(3)[None], logits.mT.contiguous(), targets, offsets(1, 1, 1), stats="all"
        )
        torch.testing.assert_close(linear.nll, expected.nll, rtol=1e-6, atol=NLL_PER_TOKEN)


def test_a_long_tail_is_not_swallowed(isa: str) -> None:
    # One logit of 0 and 130,000 of -16.5: each is below half a unit in the last place of the sum,
    # and together they are 0.9 %. Without compensation nll would be off by 9e-3.
    v = 130_000
    logits = torch.full((1, 1, v), -16.5)
    logits[0, 0, 0] = 0.0
    found, expected = from_logits(logits, torch.tensor([v - 1]), offsets(1))
    assert_stats(found, expected)
    linear = ops.cat_linear_cross_entropy(
        *(torch.zeros(1, 1, 1), torch.ones(1, v, 1), torch.tensor([v - 1]), offsets(1)),
        bias=logits[0],
    )
    torch.testing.assert_close(linear.nll, expected.nll, rtol=0, atol=NLL_PER_TOKEN)


def test_minus_infinity_columns_and_a_whole_tile(isa: str) -> None:
    case = Case(v=700)
    bias = case.bias.float()
    bias[:, ::5] = -torch.inf
    bias[:, :300] = -torch.inf  # whole tiles, the first too
    case.bias = bias
    case.targets[:] = 301 + case.targets % 300 // 5 * 5
    assert_stats(case.linear(), case.expected())
    assert case.linear().nll.isfinite().all()
    assert_stats(*from_logits(case.logits(), case.targets, case.cu_seqlens))


def test_rows_without_a_distribution_are_nan(isa: str) -> None:
    inf = torch.inf
    assert one_row([-inf, -inf], 0).nll.isnan().all()
    assert one_row([inf, 0.0], 1).nll.isnan().all()
    assert one_row([inf, 0.0], 0).nll.isnan().all()
    assert one_row([math.nan, 0.0], 1).nll.isnan().all()
    assert one_row([math.nan, 0.0], 0).nll.isnan().all()
    assert all(x is None or x.isnan().all() for x in one_row([inf, 0.0], 1)[4:10])
    impossible = one_row([-inf, 0.0, 0.0], 0)
    assert impossible.nll.item() == inf
    assert impossible.p_target is not None
    assert impossible.p_target.item() == 0
    assert impossible.entropy is not None
    assert impossible.entropy.item() == pytest.approx(math.log(2), abs=1e-6)
    certain = one_row([-inf, 0.0, -inf], 1)
    assert certain.nll.item() == 0
    assert certain.margin is not None
    assert certain.margin.item() == inf


def test_nan_stays_in_its_sequence(isa: str) -> None:
    case = Case()
    clean = case.linear()
    case.hidden[0, 10, 3] = math.nan  # sequence 3, checkpoint 0
    spoilt = case.linear()
    assert spoilt.nll[0, 3].isnan()
    assert spoilt.ppl_var.isnan().nonzero()[:, 0].tolist() == [2, 3, 4]  # 2 and 4 are empty
    for a, b in zip(clean, spoilt, strict=True):
        if a is not None and a.shape == (2, 6):
            assert torch.equal(a[1], b[1])  # type: ignore[index]
            assert torch.equal(a[0, [0, 1, 2, 4, 5]], b[0, [0, 1, 2, 4, 5]])  # type: ignore[index]


@pytest.mark.parametrize("gap", [20.0, 60.0, 400.0])
def test_nothing_cancels_where_the_target_is_nearly_certain(isa: str, gap: float) -> None:
    v = 500
    row = [0.0] * v
    row[77] = gap
    stats = one_row(row, 77)
    rest = (v - 1) * math.exp(
        -gap
    )  # nll = log1p(rest), EL2N = rest sqrt(1 + 1 / (v - 1)) / (1 + rest)
    assert stats.el2n is not None
    assert stats.entropy is not None
    assert stats.nll.item() == pytest.approx(math.log1p(rest), rel=3e-6)
    assert stats.el2n.item() == pytest.approx(
        rest * math.sqrt(1 + 1 / (v - 1)) / (1 + rest), rel=3e-6
    )
    assert stats.entropy.item() == pytest.approx(rest * (1 + gap) / (1 + rest), rel=1e-2)


def test_nll_is_never_negative(isa: str) -> None:
    case = Case(v=50, scale=40.0)
    case.targets = (case.hidden.float() @ case.weight.float().mT)[0].argmax(1)
    stats = case.linear()
    assert stats.nll_per_token is not None
    assert stats.nll_per_token.ge(0).all()


# Targets out of range


@pytest.mark.parametrize("wrong", [-1, 1003, -(2**62), 2**62])
def test_target_out_of_range(isa: str, wrong: int) -> None:
    case = Case()
    clean = case.linear()
    case.targets[[9, 12]] = wrong
    with pytest.raises(
        ValueError, match=rf"targets\[9\] is {wrong}; expected an id in \[0, 1003\)"
    ):
        case.linear()
    logits = case.logits()
    with pytest.raises(ValueError, match=r"targets\[9\] is"):
        ops.cat_cross_entropy(logits, case.targets, case.cu_seqlens)
    unchecked = case.linear(check=False)
    assert unchecked.nll[:, 3].isnan().all()
    assert unchecked.nll_per_token is not None
    assert unchecked.nll_per_token.isnan().sum() == 4
    others = [0, 1, 2, 4, 5]
    assert torch.equal(unchecked.nll[:, others], clean.nll[:, others])
    assert_stats(unchecked, case.expected(check=False))
    assert_stats(*from_logits(logits, case.targets, case.cu_seqlens, check=False))


# Sameness


def test_bitwise_the_same_in_any_company(isa: str, num_threads: None) -> None:
    lengths = (40, 3, 77, 1, 90, 12)
    case = Case(lengths, v=901, h=40, dtype=torch.bfloat16)
    torch.set_num_threads(1)
    whole = case.linear()
    logits = case.logits()
    whole_logits = ops.cat_cross_entropy(logits, case.targets, case.cu_seqlens, stats="all")
    packed = ops.pack_weight(case.weight, case.bias)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        assert_identical(case.linear(), whole)
        again = ops.cat_linear_cross_entropy(
            *(case.hidden, packed, case.targets, case.cu_seqlens), stats="all", per_token=True
        )
        assert_identical(again, whole)
        again = ops.cat_cross_entropy(logits, case.targets, case.cu_seqlens, stats="all")
        assert_identical(again, whole_logits)
    # Each sequence alone, and all in another order.
    starts = case.cu_seqlens.tolist()
    rows = [torch.arange(a, b) for a, b in itertools.pairwise(starts)]
    for order in ([0], [3], [4], [5, 2, 0, 3, 1, 4]):
        take = torch.cat([rows[b] for b in order])
        cu_seqlens = offsets(*(lengths[b] for b in order))
        part = ops.cat_linear_cross_entropy(
            *(case.hidden[:, take], case.weight, case.targets[take], cu_seqlens),
            bias=case.bias,
            stats="all",
        )
        for a, b in zip(part[:10], whole[:10], strict=True):
            assert a is not None
            assert b is not None
            assert torch.equal(a, b[..., order])
        part = ops.cat_cross_entropy(logits[:, take], case.targets[take], cu_seqlens)
        assert torch.equal(part.nll, whole_logits.nll[:, order])


def test_ignored_neighbours_change_nothing(isa: str) -> None:
    case = Case((50, 50))
    whole = case.linear()
    case.targets[:49] = -100
    assert torch.equal(case.linear().nll[:, 1], whole.nll[:, 1])


# Inputs


def test_non_contiguous_and_misaligned_inputs() -> None:
    case = Case(v=100, h=16)
    expected = case.linear()

    def strided(x: Tensor) -> Tensor:
        return torch.stack([x, x], -1)[..., 0]

    def misaligned(x: Tensor) -> Tensor:
        flat = torch.zeros(x.numel() * x.element_size() + 1, dtype=torch.uint8)
        flat[1:] = x.contiguous().view(torch.uint8).reshape(-1)
        return torch.frombuffer(flat.numpy(), dtype=x.dtype, offset=1).view(x.shape)

    for change in (strided, misaligned):
        other = Case(v=100, h=16)
        for name in ("hidden", "weight", "bias", "targets", "cu_seqlens"):
            setattr(other, name, change(getattr(case, name)))
        assert_identical(other.linear(), expected)
        packed = ops.pack_weight(other.weight, other.bias)
        assert torch.equal(packed.tiles, ops.pack_weight(case.weight, case.bias).tiles)
    transposed = case.logits().mT.contiguous().mT
    assert not transposed.is_contiguous()
    assert_stats(*from_logits(transposed, case.targets, case.cu_seqlens))


def test_no_gradient_flows() -> None:
    case = Case(v=20)
    case.hidden.requires_grad_()
    case.weight.requires_grad_()
    assert not case.linear().nll.requires_grad


def test_wrong_inputs_are_named() -> None:
    case = Case(v=20, h=6)

    def refused(message: str, **changes: object) -> None:
        other = Case(v=20, h=6)
        options = {key: changes.pop(key) for key in ("stats", "bias") if key in changes}
        for name, value in changes.items():
            setattr(other, name, value)
        with pytest.raises(ValueError, match=message):
            other.linear(**options)

    refused("hidden is torch.float64; expected float32", hidden=case.hidden.double())
    refused("weight is torch.int64", weight=case.weight.long())
    refused("one for both", weight=case.weight.bfloat16())
    refused("disagree", weight=case.weight[:, :, :5])
    refused("disagree", hidden=case.hidden[:1])
    refused(r"expected \(K, T, H\)", hidden=case.hidden[0])
    refused(r"expected int64 \(T,\)", targets=case.targets.int())
    refused(r"expected int64 \(T,\)", targets=case.targets[:-1])
    refused(r"expected int32 \(B \+ 1,\)", cu_seqlens=case.cu_seqlens.long())
    refused("rise from 0 to the 77 targets", cu_seqlens=offsets(4, 70))
    refused("rise from 0 to the 77 targets", cu_seqlens=torch.tensor([0, 50, 40, 77]).int())
    refused("rise from 0 to the 77 targets", cu_seqlens=torch.tensor([1, 77]).int())
    refused("bias is", bias=case.bias[:, :-1])
    refused("bias is torch.float16", bias=case.bias.half())
    refused('expected "nll" or "all"', stats="some")
    refused("hidden is on cpu and weight on meta", weight=case.weight.to("meta"))
    refused("hidden is on cpu and targets on meta", targets=case.targets.to("meta"))
    with pytest.raises(ValueError, match="vocabulary V of 1 or more"):
        ops.cat_cross_entropy(torch.zeros(1, 77, 0), case.targets, case.cu_seqlens)
    with pytest.raises(ValueError, match="give the bias to pack_weight"):
        packed = ops.pack_weight(case.weight)
        ops.cat_linear_cross_entropy(
            *(case.hidden, packed, case.targets, case.cu_seqlens), bias=case.bias
        )


def test_extension_checks_its_own_arguments() -> None:
    targets, cu_seqlens = np.zeros(3, np.int64), np.array([0, 3], np.int32)

    def call(logits: np.ndarray, **changes: int) -> None:
        options = {"ignore_index": -100, "all_stats": False, "per_token": False, "num_threads": 1}
        _core.cross_entropy(logits, targets, cu_seqlens, **{**options, **changes})  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="logits is float64; expected float32"):
        call(np.zeros((1, 3, 5)))
    with pytest.raises(ValueError, match="sizes 1, 2, 5, expected any, 3, any"):
        call(np.zeros((1, 2, 5), np.float32))
    with pytest.raises(ValueError, match="not contiguous and aligned"):
        call(np.zeros((1, 3, 10), np.float32)[:, :, ::2])
    with pytest.raises(ValueError, match="at least one"):
        call(np.zeros((1, 3, 5), np.float32), num_threads=0)


# Instruction sets


def test_best_instruction_set_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYCAT_CPU_ISA", raising=False)
    assert _core.cpu_isa() == _core.supported_cpu_isas()[-1]
    supported = _core.supported_cpu_isas()
    assert supported == [isa for isa in ISAS if isa in supported]
    assert supported[0] == ISAS[0]


def test_forced_instruction_set_is_used(isa: str) -> None:
    assert _core.cpu_isa() == isa
    assert ops.pack_weight(torch.zeros(1, 2, 3)).isa == isa


@pytest.mark.parametrize("name", ["sse9", "AVX2"])
def test_unknown_instruction_set_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYCAT_CPU_ISA", name)
    with pytest.raises(ValueError, match=f'PYCAT_CPU_ISA is "{name}"; .* support portable'):
        Case().linear()


def test_weight_packed_for_another_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    if len(_core.supported_cpu_isas()) < 2:
        pytest.skip("only one instruction set")
    case = Case()
    monkeypatch.setenv("PYCAT_CPU_ISA", _core.supported_cpu_isas()[-1])
    packed = ops.pack_weight(case.weight)
    monkeypatch.setenv("PYCAT_CPU_ISA", "portable")
    with pytest.raises(ValueError, match="portable is in use now; pack it again"):
        ops.cat_linear_cross_entropy(case.hidden, packed, case.targets, case.cu_seqlens)


# Sizes: torch.empty reserves addresses only, and ignored tokens are never read, so that 4 GB of
# indices cost a few pages.


def test_token_times_vocabulary_beyond_int32() -> None:
    t, v = 67_200, 32_001
    assert t * v > 2**31
    logits = torch.empty(1, t, v, dtype=torch.bfloat16)
    targets = torch.full((t,), -100)
    for row in (0, 67_199):
        logits[0, row] = torch.linspace(-3, 3, v)
        targets[row] = v - 1 - row % 7
    found = ops.cat_cross_entropy(logits, targets, offsets(1, t - 2, 1))
    ends = [0, t - 1]
    expected = reference.cat_cross_entropy(logits[:, ends], targets[ends], offsets(1, 1))
    torch.testing.assert_close(found.nll[:, [0, 2]], expected.nll, rtol=0, atol=NLL_PER_TOKEN)


def test_tokens_times_width_beyond_int32() -> None:
    t, h = 2**21 + 1, 1025
    assert t * h > 2**31
    hidden = torch.empty(1, t, h, dtype=torch.bfloat16)
    hidden[0, -1] = torch.linspace(-1, 1, h)
    weight = torch.randn(1, 50, h, generator=torch.Generator().manual_seed(4)).bfloat16()
    targets = torch.full((t,), -100)
    targets[-1] = 49
    found = ops.cat_linear_cross_entropy(hidden, weight, targets, offsets(t))
    expected = reference.cat_linear_cross_entropy(hidden[:, -1:], weight, targets[-1:], offsets(1))
    torch.testing.assert_close(found.nll, expected.nll, rtol=0, atol=NLL_PER_TOKEN)


def test_checkpoints_times_vocabulary_times_width_beyond_int32() -> None:
    # Pages of zeros, read but never made: the weight's last rows alone are not zero.
    k, v, h = 2, 16_400, 65_600
    assert k * v * h > 2**31
    weight = torch.zeros(k, v, h, dtype=torch.bfloat16)
    weight[1, -5:] = torch.randn(5, h, generator=torch.Generator().manual_seed(5)).bfloat16()
    hidden = torch.full((k, 1, h), 0.01, dtype=torch.bfloat16)
    found = ops.cat_linear_cross_entropy(hidden, weight, torch.tensor([v - 2]), offsets(1))
    logits = hidden[1, 0].double() @ weight[1, -5:].double().T
    expected = torch.logsumexp(torch.cat([logits, torch.zeros(v - 5)]), 0) - logits[-2]
    assert found.nll[0].item() == pytest.approx(math.log(v), abs=NLL_PER_TOKEN)
    assert found.nll[1].item() == pytest.approx(expected.item(), abs=NLL_PER_TOKEN)


def _kilobytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise AssertionError(field)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_extra_memory_is_bounded(dtype: torch.dtype) -> None:
    # The logits alone would take 160 MB a checkpoint in float32.
    case = Case((4000,), k=2, v=10_000, h=64, dtype=dtype)
    case.linear()
    Path("/proc/self/clear_refs").write_text("5")  # restarts the peak
    before = _kilobytes("VmRSS")
    case.linear()
    assert _kilobytes("VmHWM") - before < 32 * 1024


# torch


def test_custom_ops_are_sound() -> None:
    case = Case((4, 30, 42), v=30, h=8)  # no empty sequence: the check holds NaN unequal to NaN
    packed = ops.pack_weight(case.weight, case.bias)
    options = (-100, True, True)
    torch.library.opcheck(
        torch.ops.pycat.cat_linear_cross_entropy.default,
        (case.hidden, case.weight, case.bias, case.targets, case.cu_seqlens, *options),
    )
    torch.library.opcheck(
        torch.ops.pycat.cat_cross_entropy.default,
        (case.logits(), case.targets, case.cu_seqlens, -100, False, False),
    )
    torch.library.opcheck(
        torch.ops.pycat.cat_packed_linear_cross_entropy.default,
        (case.hidden, packed.tiles, packed.isa, 30, case.targets, case.cu_seqlens, *options),
    )


def test_compile_sees_one_op() -> None:
    case = Case(v=30, h=8)

    def nll(hidden: Tensor) -> Tensor:
        stats = ops.cat_linear_cross_entropy(
            hidden * 2, case.weight, case.targets, case.cu_seqlens, check=False
        )
        return stats.nll + 1

    compiled = torch.compile(nll, backend="eager", fullgraph=True)
    assert torch.equal(compiled(case.hidden), nll(case.hidden))


@pytest.mark.parametrize("version", [None, "3.5.1"])
def test_a_missing_or_old_triton_is_named(
    monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    module = None if version is None else SimpleNamespace(__version__=version)
    monkeypatch.setitem(sys.modules, "triton", module)
    with pytest.raises(PycatError, match=rf"need Triton 3\.6 or newer, found {version or 'none'}"):
        ops.require_triton()


@pytest.mark.parametrize("boundaries", [[0, 50], [1, 77], [0, 50, 40, 77]])
def test_boundaries_on_a_device_are_looked_at(boundaries: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^cu_seqlens runs from .*expected it to rise from 0 to"):
        ops._check_rising(torch.tensor(boundaries, dtype=torch.int32), 77)
    ops._check_rising(torch.tensor([0, 50, 50, 77], dtype=torch.int32), 77)
