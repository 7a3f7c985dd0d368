"""Values of the Triton kernels against a float64 oracle: in Triton's interpreter, or on a GPU.

The interpreter must be chosen before Triton is imported, so without a GPU one test runs this module
once more in a process of its own; the others need that process or a GPU.
"""

import itertools
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tolerances import NLL_PER_TOKEN, assert_perplexities
from torch import Tensor

triton = pytest.importorskip("triton", reason="Triton is not installed")

import triton.language as tl  # noqa: E402
from pycat.kernels import cross_entropy as logits_module  # noqa: E402
from pycat.kernels import linear_cross_entropy as linear_module  # noqa: E402
from pycat.kernels.cross_entropy import cross_entropy  # noqa: E402
from pycat.kernels.linear_cross_entropy import _row_starts, linear_cross_entropy  # noqa: E402
from pycat.kernels.residual import add_bias_, add_norm  # noqa: E402
from pycat.kernels.smoothed_cross_entropy import loss_and_gradient_  # noqa: E402

INTERPRETED = bool(triton.knobs.runtime.interpret)
DEVICE = "cpu" if INTERPRETED else "cuda"
NAMES = ["nll", "p_target", "correct", "el2n", "margin", "entropy", "grad_norm_bound"]
IGNORE = -100

# NumPy, in which the interpreter computes, warns of the infinities that these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def runs(test: Callable[..., None]) -> Callable[..., None]:
    """For the interpreter and for a GPU."""
    skip = pytest.mark.skipif(
        not INTERPRETED and not torch.cuda.is_available(),
        reason="run by test_everything_in_the_interpreter, or on a GPU",
    )
    marked: Callable[..., None] = pytest.mark.gpu(skip(test))
    return marked


on_gpu = pytest.mark.skipif(
    INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device"
)


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_everything_in_the_interpreter() -> None:
    here = Path(__file__)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", here.name]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        command, cwd=here.parent, env=environment, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, tiles so small that few tokens and ids make many of them."""
    if INTERPRETED:
        tiles = {
            ("sm_90", 2): linear_module.Tile(32, 64, 16, 8, 4, 4),
            ("sm_90", 4): linear_module.Tile(16, 32, 16, 8, 3, 1),
        }
        monkeypatch.setattr(linear_module, "_TILES", tiles)


def oracle(
    z: Tensor, y: Tensor, ends: list[int], ignore: int = IGNORE, norms: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sums (7 or 6, K, B) and nll per token (K, T) in float64, from the definitions."""
    z = z.double()
    counted = y != ignore
    at = torch.where(counted, y, 0).expand(z.shape[:2])[..., None]
    hot = torch.zeros_like(z).scatter_(2, at, 1.0)
    log_p = z - z.logsumexp(2, keepdim=True)
    p = log_p.exp()
    nll = -log_p.gather(2, at)[..., 0]
    margin = z.gather(2, at)[..., 0] - z.masked_fill(hot.bool(), -torch.inf).amax(2)
    el2n = (p - hot).norm(dim=2)
    entropy = -torch.where(p == 0, 0.0, p * log_p).sum(2)
    stats = [nll, p.gather(2, at)[..., 0], (margin >= 0).double(), el2n, margin, entropy]
    if norms is not None:
        stats.append(el2n * norms)
    kept = torch.where(counted, torch.stack(stats), 0.0)
    parts = [kept[..., first:last].sum(2) for first, last in itertools.pairwise(ends)]
    return torch.stack(parts, 2), torch.where(counted, nll, 0.0)


def make(
    num_checkpoints: int,
    num_tokens: int,
    vocab_size: int,
    width: int,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random hidden, weight (logits of spread 2 or so), bias and targets on the device."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_checkpoints, num_tokens, width, generator=generator)
    weight = torch.randn(num_checkpoints, vocab_size, width, generator=generator)
    weight *= 2 / width**0.5
    bias = torch.randn(num_checkpoints, vocab_size, generator=generator)
    targets = torch.randint(vocab_size, (num_tokens,), generator=generator)
    return (
        hidden.to(DEVICE, dtype),
        weight.to(DEVICE, dtype),
        bias.to(DEVICE),
        targets.to(DEVICE),
    )


def exact_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    logits = hidden.double() @ weight.double().mT
    return logits if bias is None else logits + bias.double()[:, None]


def ends_of(*ends: int) -> Tensor:
    return torch.tensor(ends, dtype=torch.int32, device=DEVICE)


def score_logits(z: Tensor, y: Tensor, ends: Tensor, ignore: int = IGNORE) -> Any:
    return cross_entropy(z, y, ends, ignore, True, True)


def score_linear(
    hidden: Tensor,
    weight: Tensor,
    y: Tensor,
    ends: Tensor,
    bias: Tensor | None = None,
    ignore: int = IGNORE,
) -> Any:
    return linear_cross_entropy(hidden, weight, bias, y, ends, ignore, True, True)


def assert_right(raw: Any, expected: tuple[Tensor, Tensor], y: Tensor, ends: Tensor) -> None:
    """Sums are within the contract's error a token, and perplexities follow from them."""
    sums, counts, ppl_mean, ppl_var, per_token, _ = raw
    lengths = ends.diff().double()
    for name, found, right in zip(NAMES, sums, expected[0], strict=False):
        # The contract's error a token, and the rounding of large values.
        allowed = NLL_PER_TOKEN * lengths + 1e-6 * right.abs()
        worse = (found - right).abs() > allowed
        assert not bool((worse & (found != right)).any()), f"{name}: {found} is not {right}"
    assert torch.equal(per_token.isnan(), expected[1].isnan())
    torch.testing.assert_close(
        per_token.double(), expected[1], rtol=2e-7, atol=NLL_PER_TOKEN, equal_nan=True
    )
    assert_perplexities(ppl_mean, ppl_var, sums[0], counts)
    nll = expected[0][0]
    assert_perplexities(ppl_mean, ppl_var, nll, counts, NLL_PER_TOKEN * counts + 1e-6 * nll.abs())


def assert_same_bits(a: Any, b: Any) -> None:
    for left, right in zip(a, b, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("num_checkpoints", "num_tokens", "vocab_size", "width"),
    # One of everything; odd sizes; a multiple of 8 for the copy engine; several tiles of tokens and
    # splits of ids; eight checkpoints.
    [(1, 1, 1, 1), (1, 5, 37, 23), (2, 50, 150, 40), (2, 3, 1101, 72), (8, 9, 70, 16)],
)
def test_all_statistics(
    num_checkpoints: int, num_tokens: int, vocab_size: int, width: int, dtype: torch.dtype
) -> None:
    hidden, weight, bias, y = make(num_checkpoints, num_tokens, vocab_size, width, dtype)
    ends = ends_of(0, num_tokens // 3, num_tokens // 3, num_tokens)
    used_bias = bias if vocab_size % 2 else None
    z = exact_logits(hidden, weight, used_bias)
    norms = hidden.double().norm(dim=2)
    raw = score_linear(hidden, weight, y, ends, used_bias)
    assert_right(raw, oracle(z, y, ends.tolist(), norms=norms), y, ends)
    assert raw[5].item() == num_tokens
    rounded = z.to(dtype)
    raw = score_logits(rounded, y, ends)
    assert_right(raw, oracle(rounded, y, ends.tolist()), y, ends)
    assert raw[1].tolist() == ends.diff().tolist()


@runs
@pytest.mark.parametrize("vocab_size", [8192, 8200, 20001])
def test_logits_over_several_splits(vocab_size: int) -> None:
    z = torch.randn(2, 3, vocab_size, generator=torch.Generator().manual_seed(0)).to(DEVICE) * 3
    y, ends = torch.tensor([0, vocab_size - 1, 8191]).to(DEVICE), ends_of(0, 3)
    assert_right(score_logits(z, y, ends), oracle(z, y, [0, 3]), y, ends)


@runs
def test_nll_alone_has_the_same_bits() -> None:
    hidden, weight, bias, y = make(2, 20, 300, 24)
    ends = ends_of(0, 7, 20)
    for alone, all_stats in (
        (
            linear_cross_entropy(hidden, weight, bias, y, ends, IGNORE, False, False),
            linear_cross_entropy(hidden, weight, bias, y, ends, IGNORE, True, False),
        ),
        (
            cross_entropy(hidden @ weight.mT, y, ends, IGNORE, False, False),
            cross_entropy(hidden @ weight.mT, y, ends, IGNORE, True, False),
        ),
    ):
        assert alone[0].shape[0] == 1
        assert alone[4].shape == (0, 0)
        assert_same_bits((alone[0][0], *alone[1:]), (all_stats[0][0], *all_stats[1:]))


@runs
def test_empty_and_ignored_sequences() -> None:
    hidden, weight, _, y = make(2, 12, 50, 8)
    y[2:6], y[9] = IGNORE, IGNORE
    ends = ends_of(0, 0, 2, 6, 12, 12)
    expected = oracle(exact_logits(hidden, weight), y, ends.tolist())
    for raw in (
        score_linear(hidden, weight, y, ends),
        score_logits((hidden @ weight.mT), y, ends),
    ):
        assert_right(raw, expected, y, ends)
        assert raw[1].tolist() == [0, 2, 0, 5, 0]
        assert raw[0][0, 0].tolist()[::2] == [0.0, 0.0, 0.0]
        assert raw[2].isnan().tolist() == [True, False, True, False, True]
        assert raw[3].isnan().tolist() == [True, False, True, False, True]
        assert raw[4][:, 2:6].tolist() == [[0.0] * 4] * 2


@runs
def test_no_tokens_and_no_sequences() -> None:
    hidden, weight, _, y = make(2, 0, 50, 8)
    for ends, num_sequences in ((ends_of(0, 0), 1), (ends_of(0), 0)):
        for raw in (score_linear(hidden, weight, y, ends), score_logits(hidden, y, ends)):
            assert raw[0].shape[1:] == (2, num_sequences)
            assert raw[1].tolist() == [0] * num_sequences
            assert raw[5].item() == 0


@runs
def test_ignore_index_may_be_a_valid_id() -> None:
    hidden, weight, _, y = make(1, 10, 50, 8)
    y[3], y[4] = 7, 8
    ends = ends_of(0, 10)
    expected = oracle(exact_logits(hidden, weight), y, [0, 10], ignore=7)
    raw = score_linear(hidden, weight, y, ends, ignore=7)
    assert_right(raw, expected, y, ends)
    assert raw[1].item() == (y != 7).sum().item()


@runs
def test_logits_of_ten_thousand() -> None:
    z = torch.tensor([[[1e4, -1e4, 0.0, 9999.5], [-1e4, -1e4 - 1, -1e4 + 0.5, -1e4]]]).to(DEVICE)
    for target in range(4):
        y, ends = torch.tensor([target, target]).to(DEVICE), ends_of(0, 2)
        expected = oracle(z, y, [0, 2])
        for raw in (
            score_logits(z, y, ends),
            score_linear(torch.eye(2).to(DEVICE)[None], z.mT.contiguous(), y, ends),
        ):
            # NumPy rounds z log2(e) before it subtracts, at 1e4 by 5e-4; a GPU's fma does not.
            exact = 2e-3 if INTERPRETED else 2e-5
            torch.testing.assert_close(raw[0][0], expected[0][0], rtol=1e-7, atol=exact)
            torch.testing.assert_close(raw[0][4], expected[0][4], rtol=1e-7, atol=0)


@runs
def test_minus_infinity_has_no_share() -> None:
    _, _, _, y = make(2, 6, 600, 8)
    z = torch.randn(2, 6, 600, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    bias = torch.zeros(2, 600, device=DEVICE)
    bias[:, :256] = -torch.inf  # a whole tile
    bias[:, 300:310] = -torch.inf
    y[:] = torch.tensor([256, 299, 310, 400, 599, 305])  # the last target has no share itself
    ends = ends_of(0, 5, 6)
    expected = oracle(z + bias[:, None], y, [0, 5, 6])
    assert expected[0][0, :, 1].tolist() == [torch.inf] * 2
    basis = torch.eye(6, device=DEVICE).expand(2, -1, -1)
    for raw in (
        score_logits(z + bias[:, None], y, ends),
        score_linear(basis, z.mT, y, ends, bias),
    ):
        assert_right(raw, expected, y, ends)


@runs
def test_a_whole_split_of_minus_infinity() -> None:
    z = torch.full((1, 2, 17000), -torch.inf, device=DEVICE)
    z[0, 0, 16500:] = 1.0
    z[0, 1, :5] = 2.0
    y, ends = torch.tensor([16999, 0]).to(DEVICE), ends_of(0, 2)
    assert_right(score_logits(z, y, ends), oracle(z, y, [0, 2]), y, ends)


@runs
def test_a_row_of_minus_infinity_is_nan_and_plus_infinity_too() -> None:
    z = torch.randn(1, 4, 40, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    z[0, 1] = -torch.inf
    z[0, 2, 7] = torch.inf
    z[0, 3, 7] = torch.inf
    y, ends = torch.tensor([3, 4, 5, 7]).to(DEVICE), ends_of(0, 1, 2, 3, 4)
    sums = score_logits(z, y, ends)[0]
    assert sums[:, 0].isnan().tolist() == [[False, True, True, True]] * 6


@runs
def test_a_vocabulary_of_one() -> None:
    z, y, ends = torch.ones(1, 2, 1, device=DEVICE), torch.zeros(2).long().to(DEVICE), ends_of(0, 2)
    sums = score_logits(z, y, ends)[0][:, 0, 0].tolist()
    assert sums == [0.0, 2.0, 2.0, 0.0, torch.inf, 0.0]


@runs
def test_nan_stays_in_its_sequences() -> None:
    hidden, weight, _, y = make(2, 30, 80, 16)
    ends = ends_of(0, 10, 20, 30)
    clean = score_linear(hidden, weight, y, ends)
    clean_logits = score_logits(hidden @ weight.mT, y, ends)
    z = hidden @ weight.mT
    z[1, 14, 3] = torch.nan
    z[0, 12, y[12]] = torch.nan
    hidden = hidden.clone()
    hidden[:, 13, 2] = torch.nan
    for raw, right in (
        (score_linear(hidden, weight, y, ends), clean),
        (score_logits(z, y, ends), clean_logits),
    ):
        assert bool(raw[0][:, :, 1].isnan().all())
        assert bool(raw[2][1].isnan())
        assert_same_bits(
            (raw[0][:, :, ::2], raw[1], raw[2][::2], raw[3][::2]),
            (right[0][:, :, ::2], right[1], right[2][::2], right[3][::2]),
        )


@runs
@pytest.mark.parametrize("wrong", [-1, 80, 2**40 + 3])
def test_bad_targets_are_reported_and_never_read(wrong: int) -> None:
    hidden, weight, bias, y = make(2, 30, 80, 16)
    ends = ends_of(0, 10, 20, 30)
    z = hidden @ weight.mT
    clean = score_linear(hidden, weight, y, ends, bias), score_logits(z, y, ends)
    y = y.clone()
    y[13], y[17] = wrong, wrong
    for raw, right in zip(
        (score_linear(hidden, weight, y, ends, bias), score_logits(z, y, ends)), clean, strict=True
    ):
        assert raw[5].item() == 13
        assert bool(raw[0][:, :, 1].isnan().all())
        assert raw[2].isnan().tolist() == [False, True, False]
        assert raw[4].isnan().nonzero()[:, 1].tolist() == [13, 17, 13, 17]
        assert_same_bits(
            (raw[0][:, :, ::2], raw[1], raw[2][::2]), (right[0][:, :, ::2], right[1], right[2][::2])
        )


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_strides_and_alignment_do_not_matter(dtype: torch.dtype) -> None:
    hidden, weight, bias, y = make(2, 20, 96, 24, dtype)
    ends = ends_of(0, 8, 20)
    z = exact_logits(hidden, weight).to(dtype)
    linear, logits = score_linear(hidden, weight, y, ends, bias), score_logits(z, y, ends)

    def shifted(x: Tensor) -> Tensor:
        moved = torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)[1:].view(x.shape)
        return moved.copy_(x)

    def strided(x: Tensor) -> Tensor:
        wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype, device=x.device)
        wide[..., ::2] = x
        return wide[..., ::2]

    for view in (shifted, strided, lambda x: x.mT.contiguous().mT if x.ndim > 1 else x):
        changed = score_linear(view(hidden), view(weight), view(y), ends, view(bias))
        assert_same_bits(changed, linear)
        assert_same_bits(score_logits(view(z), view(y), ends), logits)
    int32 = score_linear(hidden, weight, y.int(), ends.long(), bias)
    assert_same_bits(int32, linear)


@runs
def test_every_output_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias, y = make(2, 36, 80, 16)
    y[3:9] = IGNORE
    ends = ends_of(0, 3, 9, 9, 36)
    z = hidden @ weight.mT
    right = score_linear(hidden, weight, y, ends, bias), score_logits(z, y, ends)
    empty: Callable[..., Tensor] = torch.empty

    def poisoned(*args: Any, **kwargs: Any) -> Tensor:
        tensor = empty(*args, **kwargs)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else -12345)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", poisoned)
        patch.setattr(torch, "empty_like", lambda x: poisoned(x.shape, dtype=x.dtype))
        if not INTERPRETED:
            patch.setattr(torch, "empty_like", lambda x: x.clone().fill_(torch.nan))
        found = score_linear(hidden, weight, y, ends, bias), score_logits(z, y, ends)
    assert_same_bits(found[0], right[0])
    assert_same_bits(found[1], right[1])


@runs
def test_a_certain_target_keeps_its_digits() -> None:
    z = torch.randn(1, 8, 300, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    y = torch.arange(8).to(DEVICE) * 40
    z[0, torch.arange(8), y] = torch.arange(8).to(DEVICE) * 10.0 + 5  # p from 0.35 to 1 - 1e-30
    ends = ends_of(*range(9))
    sums, _ = oracle(z, y, list(range(9)))
    exact = z.double()
    others = exact.masked_fill(exact == exact.amax(2, keepdim=True), -torch.inf)
    rest = (others - exact.amax(2, keepdim=True)).exp()
    nll = torch.log1p(rest.sum(2))
    el2n = (rest.square().sum(2) + rest.sum(2).square()).sqrt() / (1 + rest.sum(2))
    basis = torch.eye(8, device=DEVICE)[None]
    for raw in (score_logits(z, y, ends), score_linear(basis, z.mT, y, ends)):
        # The interpreter's error at logits of 75 is that of an unfused product.
        rtol = 2e-5 if INTERPRETED else 2e-6
        torch.testing.assert_close(raw[0][0], nll, rtol=rtol, atol=0)
        torch.testing.assert_close(raw[0][3], el2n, rtol=rtol, atol=0)
        torch.testing.assert_close(raw[0][1], sums[1], rtol=1e-6, atol=0)
        assert bool((raw[0][0] > 0).all())


@runs
def test_same_bits_again_and_in_any_batch() -> None:
    lengths = [3, 40, 1, 7, 33, 0, 15]
    hidden, weight, bias, y = make(2, sum(lengths), 131, 40, torch.float16)
    # NumPy's product rounds a row by its place in the tile; of eighths it rounds nothing.
    hidden, weight = (hidden * 8).round() / 8, (weight * 8).round() / 8
    starts = [sum(lengths[:b]) for b in range(len(lengths))]
    ends = ends_of(*starts, sum(lengths))
    z = exact_logits(hidden, weight).half()
    linear, logits = score_linear(hidden, weight, y, ends, bias), score_logits(z, y, ends)
    assert_same_bits(score_linear(hidden, weight, y, ends, bias), linear)
    assert_same_bits(score_logits(z, y, ends), logits)
    order = [6, 3, 0, 4, 1]
    rows = [t for b in order for t in range(starts[b], starts[b] + lengths[b])]
    packed = ends_of(*itertools.accumulate((lengths[b] for b in order), initial=0))
    for raw, right in (
        (score_linear(hidden[:, rows], weight, y[rows], packed, bias), linear),
        (score_logits(z[:, rows], y[rows], packed), logits),
    ):
        assert_same_bits(
            (raw[0], *raw[1:4], raw[4]),
            (right[0][:, :, order], *(x[order] for x in right[1:4]), right[4][:, rows]),
        )


@runs
def test_same_bits_for_any_number_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias, y = make(2, 40, 150, 24)
    ends = ends_of(0, 15, 40)
    right = score_linear(hidden, weight, y, ends, bias)
    for programs in (1, 7):
        monkeypatch.setattr(linear_module, "_num_programs", lambda _, n=programs: n)
        assert_same_bits(score_linear(hidden, weight, y, ends, bias), right)


@runs
def test_checkpoints_do_not_mix() -> None:
    hidden, weight, bias, y = make(3, 40, 300, 16)
    ends = ends_of(0, 15, 40)
    together = score_linear(hidden, weight, y, ends, bias)
    for k in range(3):
        alone = score_linear(hidden[k, None], weight[k, None], y, ends, bias[k, None])
        assert_same_bits((together[0][:, k], together[4][k]), (alone[0][:, 0], alone[4][0]))


@runs
def test_similar_checkpoints_keep_the_variance() -> None:
    hidden, weight, _, y = make(1, 50, 200, 16)
    close = weight * (1 + 1e-3 * torch.arange(4, device=DEVICE)[:, None, None])
    hidden, ends = hidden.expand(4, -1, -1), ends_of(0, 50)
    expected = oracle(exact_logits(hidden, close), y, [0, 50])
    assert_right(score_linear(hidden, close, y, ends), expected, y, ends)


@triton.jit
def _probe_kernel(out_ptr, k, num_rows, width):  # type: ignore[no-untyped-def]
    rows = num_rows - 4 + tl.arange(0, 4)
    k = tl.program_id(0) * 0 + k
    starts = _row_starts(k, rows, num_rows, width)
    tl.store(out_ptr + tl.arange(0, 4), starts)


@runs
def test_offsets_of_hidden_and_weight_pass_two_to_the_31() -> None:
    out = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    k, num_rows, width = 5, 1_000_003, 4096
    _probe_kernel[(1,)](out, k, num_rows, width)
    assert out.tolist() == [((k + 1) * num_rows - 4 + i) * width for i in range(4)]


@runs
@pytest.mark.skipif(not INTERPRETED, reason="reads unreserved memory of the host")
def test_offsets_of_logits_pass_two_to_the_31() -> None:
    # Three rows 2^30 apart in memory that is never backed, of which the kernel reads the starts.
    rows, vocab_size, block = 3, 2**30, 64
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, 2 * rows * vocab_size, flags=flags)
    logits = torch.frombuffer(memory, dtype=torch.float16)
    z = torch.randn(rows, block, generator=torch.Generator().manual_seed(0)).half()
    for row in range(rows):
        logits[row * vocab_size : row * vocab_size + block] = z[row]
    y = torch.tensor([3, 4, 5])
    partials, target_logit = torch.zeros(2, 1, 1, rows), torch.zeros(1, rows)
    logits_module._logits_kernel[(rows,)](
        *(logits, y, partials, target_logit, 1, rows, 1, vocab_size),
        BLOCK_V=block,
        ROW_MULTIPLE=8,
        ALL=False,
    )
    assert target_logit[0].tolist() == [z[t, y[t]].item() for t in range(rows)]
    expected = z.double().logsumexp(1)
    rest = partials[1, 0, 0].double() * 2 ** partials[0, 0, 0].double()
    found = (rest + target_logit[0].double().exp()).log()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_splits_cover_the_vocabulary_and_fit_the_mask() -> None:
    for num_tiles in range(1, 2000):
        tiles = linear_module._tiles_per_split(num_tiles)
        assert 1 <= tiles <= linear_module._MAX_TILES_PER_SPLIT
        assert all(tiles * tile.parts <= 32 for tile in linear_module._TILES.values())
        num_splits = triton.cdiv(num_tiles, tiles)
        assert num_splits >= min(num_tiles, linear_module._MIN_SPLITS)
        assert num_splits * tiles <= 1.15 * num_tiles


@runs
def test_a_width_of_zero_leaves_the_bias() -> None:
    hidden, weight, bias, y = make(2, 10, 50, 8)
    raw = score_linear(hidden[:, :, :0], weight[:, :, :0], y, ends_of(0, 10), bias)
    z, norms = bias[:, None].expand(2, 10, 50), torch.zeros(2, 10, device=DEVICE)
    assert_right(raw, oracle(z, y, [0, 10], norms=norms), y, ends_of(0, 10))


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    ("num_checkpoints", "num_tokens", "width"),
    # One row; rows of two checkpoints in one program; wider than a program's usual share.
    [(1, 1, 16), (3, 7, 40), (2, 9, 256), (2, 3, 2500)],
)
def test_add_norm(
    num_checkpoints: int, num_tokens: int, width: int, affine: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE)

    x, delta = (
        random(num_checkpoints, num_tokens, width),
        random(num_checkpoints, num_tokens, width),
    )
    bias, gain, shift = (random(num_checkpoints, 1, width) for _ in range(3))
    x += 30.0  # a mean that float32 must take off before squaring
    delta = delta.to(dtype)
    options: Any = {"eps": 1e-5, "dtype": dtype, "affine": (gain, shift) if affine else None}

    def exact(summed: Tensor) -> Tensor:
        normed = torch.nn.functional.layer_norm(summed.double(), (width,), eps=1e-5)
        return normed * gain + shift if affine else normed

    allowed = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    found = add_norm(x, None, None, **options)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact(x), rtol=allowed, atol=allowed)
    summed = x + (delta.float() + bias)
    found = add_norm(x, delta, bias, **options)
    assert torch.equal(x, summed)
    torch.testing.assert_close(found.double(), exact(summed), rtol=allowed, atol=allowed)


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("vocab_size", [1, 67, 5000])
def test_smoothed_loss_and_its_gradient(
    vocab_size: int, smoothing: float, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    z = (2 * torch.randn(5, vocab_size, generator=generator)).to(dtype)
    z[3] *= 30  # one row is nearly certain
    y = torch.randint(vocab_size, (5,), generator=generator)
    weights = torch.tensor([0.5, 0.0, 1.0, 0.25, 2.0])
    exact = z.double().requires_grad_()
    losses = torch.nn.functional.cross_entropy(
        exact, y, label_smoothing=smoothing, reduction="none"
    )
    (losses * weights).sum().backward()  # type: ignore[no-untyped-call]
    logits = z.to(DEVICE)
    found = loss_and_gradient_(logits, y.to(DEVICE), weights.to(DEVICE), smoothing)
    torch.testing.assert_close(found.cpu().double(), losses.detach(), rtol=2e-6, atol=2e-5)
    # In 16 bits the gradient is rounded once, where it is stored.
    allowed = {torch.float32: 2e-5, torch.float16: 2e-3}[dtype]
    assert exact.grad is not None
    torch.testing.assert_close(logits.cpu().double(), exact.grad, rtol=allowed, atol=allowed)
    assert not logits[1].any()


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("width", [5, 64, 2500])
def test_add_bias(width: int, relu: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(3, 7, 2 * width, generator=generator).to(DEVICE, dtype)
    whole[1, 2, 3] = torch.nan
    bias = torch.randn(3, 1, width, generator=generator).to(DEVICE)
    right = whole[..., width:].clone()
    summed = whole[..., :width].float() + bias
    expected = (summed.relu() if relu else summed).to(dtype)
    found = add_bias_(whole[..., :width], bias, relu=relu)
    # The interpreter cuts float32 off to bfloat16, where GPUs round.
    rtol = 2**-7 if INTERPRETED and dtype == torch.bfloat16 else 0.0
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0, equal_nan=True)
    assert found[1, 2, 3].isnan()
    assert torch.equal(whole[..., width:], right)


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("all_stats", [False, True])
@pytest.mark.parametrize(
    ("num_tokens", "vocab_size", "width"),
    [(1000, 8000, 256), (700, 32000, 512), (700, 32001, 512), (300, 9001, 500), (200, 5000, 77)],
)
def test_real_shapes_on_a_gpu(
    num_tokens: int, vocab_size: int, width: int, all_stats: bool, dtype: torch.dtype
) -> None:
    hidden, weight, bias, y = make(2, num_tokens, vocab_size, width, dtype)
    y[5] = IGNORE
    ends = ends_of(*range(0, num_tokens, 23), num_tokens)
    z = exact_logits(hidden, weight, bias)
    norms = hidden.double().norm(dim=2)
    sums, per_token = oracle(z, y, ends.tolist(), norms=norms)
    raw = linear_cross_entropy(hidden, weight, bias, y, ends, IGNORE, all_stats, True)
    assert_right(raw, (sums[: len(raw[0])], per_token), y, ends)
    again = linear_cross_entropy(hidden, weight, bias, y, ends, IGNORE, all_stats, True)
    assert_same_bits(raw, again)
    rounded = z.to(dtype)
    sums, per_token = oracle(rounded, y, ends.tolist())
    raw = cross_entropy(rounded, y, ends, IGNORE, all_stats, True)
    assert_right(raw, (sums[: len(raw[0])], per_token), y, ends)


@on_gpu
@pytest.mark.gpu
def test_more_than_two_to_the_31_logits_on_a_gpu() -> None:
    num_tokens, vocab_size = 68_000, 32_000
    z = torch.zeros(1, num_tokens, vocab_size, dtype=torch.bfloat16, device=DEVICE)
    y = torch.arange(num_tokens, device=DEVICE) % vocab_size
    z[0, torch.arange(num_tokens, device=DEVICE), y] = 8.0
    ends = ends_of(0, num_tokens - 1, num_tokens)
    raw = cross_entropy(z, y, ends, IGNORE, True, True)
    one = torch.tensor(vocab_size - 1).double().div(torch.tensor(8.0).double().exp()).log1p()
    torch.testing.assert_close(raw[4], one.float().expand(1, num_tokens).to(DEVICE))
