"""M models trained as one: each learns what it would learn alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycat.kernels import training_loss
from pycat.kernels.training_loss import linear_smoothed_cross_entropy
from torch import Tensor

from pycat.data.batches import Batch
from pycat.proxy.stacked_step import Capacity, StackedStep, _mean_weights, _sides
from pycat.proxy.stacked_transformer import StackedTransformer
from pycat.proxy.transformer import ModelConfig, Transformer, shift_right

EOS = 2
CONFIG = ModelConfig(vocab_size=50, d_model=32, num_heads=2, d_ff=32, num_layers=2)
SEPARATE = ModelConfig(**{**CONFIG.__dict__, "src_vocab_size": 40})
CAPACITY = Capacity(64, 64, 8, 16)


def make_models(count: int, config: ModelConfig = CONFIG) -> list[Transformer]:
    torch.manual_seed(0)
    return [Transformer(config) for _ in range(count)]


def make_batch(lengths: Sequence[tuple[int, int]], seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def side(sizes: list[int]) -> tuple[Tensor, Tensor]:
        rows = [torch.randint(3, 40, (size,), generator=generator) for size in sizes]
        for row in rows:
            row[-1] = EOS
        ends = torch.tensor([0, *np.cumsum(sizes)], dtype=torch.int32)
        return torch.cat(rows), ends

    src, tgt = (side([pair[i] for pair in lengths]) for i in (0, 1))
    return Batch(*src, *tgt, torch.arange(len(lengths)))


BATCHES = [make_batch([(5, 3), (1, 9), (7, 7)], 1), make_batch([(4, 12), (3, 1)], 2)]
BATCHES += [make_batch([(9, 2)], 3)]


@pytest.mark.parametrize("config", [CONFIG, SEPARATE])
def test_hidden_states_are_those_of_the_model(config: ModelConfig) -> None:
    models = make_models(3, config)
    stack = StackedTransformer(models, dropout=0.0)
    means = [_mean_weights(len(batch.tgt_tokens), None) for batch in BATCHES]
    src, tgt, weights, attentions = _sides(BATCHES, means, torch.device("cpu"), torch.float32, 16)
    hidden = stack.hidden(src, tgt, EOS, attentions)
    for m, (model, batch) in enumerate(zip(models, BATCHES, strict=True)):
        rows = [
            torch.nn.utils.rnn.pad_sequence(
                list(torch.tensor_split(tokens, ends[1:-1].long())), batch_first=True
            )
            for tokens, ends in (
                (batch.src_tokens, batch.src_cu_seqlens),
                (batch.tgt_tokens, batch.tgt_cu_seqlens),
            )
        ]
        lengths = batch.tgt_cu_seqlens.diff()
        expected = model(rows[0], batch.src_cu_seqlens.diff(), shift_right(rows[1], EOS))
        real = torch.arange(rows[1].shape[1]) < lengths[:, None]
        found = hidden[m, : len(batch.tgt_tokens)]
        torch.testing.assert_close(found, expected[real], rtol=1e-4, atol=1e-5)
        assert weights[m].sum() == pytest.approx(1)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check that parameters are equal. The keys' biases are left out: no output depends on them."""
    for name, value in found.items():
        part = slice(len(value) // 2, None) if name.endswith("key_value.bias") else slice(None)
        torch.testing.assert_close(value[part], expected[name][part], rtol=1e-3, atol=2e-4)


def train(models: list[Transformer], batches: Sequence[Sequence[Batch]]) -> Any:
    stack = StackedTransformer(models, dropout=0.0)
    step = StackedStep(
        stack, eos_id=EOS, label_smoothing=0.1, dtype=torch.float32, capacity=CAPACITY
    )
    for update in batches:
        step.update(update, 1e-2)
    return stack, step


def test_stacked_models_learn_as_each_alone() -> None:
    models = make_models(3)
    rounds = [BATCHES, BATCHES[::-1], BATCHES]
    stack, step = train(models, rounds)
    for m in range(3):
        alone, own = train([models[m]], [[update[m]] for update in rounds])
        torch.testing.assert_close(step.loss_sums[m], own.loss_sums[0], rtol=1e-5, atol=0)
        assert_same(stack.state_dict(m), alone.state_dict(0))


def test_one_update_is_that_of_torchs_own_loss() -> None:
    (model,) = make_models(1)
    stack, step = train([model], [[BATCHES[0]]])
    batch = BATCHES[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.98), eps=1e-9)
    losses = []
    for i in range(len(batch.pair_ids)):
        src = batch.src_tokens[batch.src_cu_seqlens[i] : batch.src_cu_seqlens[i + 1]][None]
        tgt = batch.tgt_tokens[batch.tgt_cu_seqlens[i] : batch.tgt_cu_seqlens[i + 1]][None]
        hidden = model(src, torch.tensor([src.shape[1]]), shift_right(tgt, EOS))
        logits = F.linear(hidden[0], model.output_weight)
        losses.append(F.cross_entropy(logits, tgt[0], label_smoothing=0.1, reduction="sum"))
    loss = torch.stack(losses).sum() / len(batch.tgt_tokens)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(step.loss_sums[0].float(), loss.detach(), rtol=1e-5, atol=0)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    assert_same(stack.state_dict(0), model.state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
@pytest.mark.parametrize("config", [CONFIG, SEPARATE])
def test_a_gpu_learns_as_the_cpu(config: ModelConfig) -> None:
    rounds = [BATCHES, BATCHES[::-1], BATCHES, BATCHES[::-1]]
    _, exact = train(make_models(3, config), rounds)
    models = [model.cuda() for model in make_models(3, config)]
    for dtype, allowed in ((torch.float32, 1e-4), (torch.bfloat16, 1e-2)):
        stack = StackedTransformer(models, dropout=0.0)
        step = StackedStep(stack, eos_id=EOS, label_smoothing=0.1, dtype=dtype, capacity=CAPACITY)
        for update in rounds:
            step.update(update, 1e-2)
        torch.testing.assert_close(step.loss_sums.cpu(), exact.loss_sums, rtol=allowed, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_of_a_gpu_and_its_gradients(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 37, 16, generator=generator).to(dtype)
    weight = torch.randn(2, 3001, 16, generator=generator).to(dtype)
    targets = torch.randint(3001, (2, 37), generator=generator)
    weights = torch.rand(2, 37, generator=generator) * (targets % 3 > 0)
    found = []
    for device, kind in (("cpu", torch.float64), ("cuda", dtype)):
        h, w = (x.to(device, kind).requires_grad_() for x in (hidden, weight))
        loss, _ = linear_smoothed_cross_entropy(
            h,
            w,
            targets.to(device),
            weights.to(device, torch.float64 if device == "cpu" else torch.float32),
            smoothing=0.1,
            dtype=kind,
        )
        loss.sum().backward()  # type: ignore[no-untyped-call]
        found.append([loss.detach(), h.grad, w.grad])
    allowed = {torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]
    for exact, rough in zip(*found, strict=True):
        assert exact is not None and rough is not None
        error = (rough.cpu().double() - exact.double()).norm() / exact.double().norm()
        assert error < allowed


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_of_the_loss(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_loss, "_CPU_BLOCK_TOKENS", 4)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((2, 9, 5), (2, 11, 5))
    )
    targets = torch.randint(11, (2, 9), generator=generator)
    weights = torch.rand(2, 9, generator=generator, dtype=torch.float64)
    weights[1, 7:] = 0

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_smoothed_cross_entropy(
            hidden, weight, targets, weights, smoothing=smoothing, dtype=torch.float64
        )[0]

    exact = F.cross_entropy(
        torch.bmm(hidden, weight.mT).mT, targets, label_smoothing=smoothing, reduction="none"
    )
    torch.testing.assert_close(loss(hidden, weight), (exact * weights).sum(dim=1))
    _, token_losses = linear_smoothed_cross_entropy(
        hidden, weight, targets, weights, smoothing=smoothing, dtype=torch.float64
    )
    torch.testing.assert_close(token_losses, exact)
    assert torch.autograd.gradcheck(loss, (hidden, weight))


def test_a_second_backward_pass() -> None:
    hidden, weight = torch.randn(1, 3, 5).requires_grad_(), torch.randn(1, 4, 5).requires_grad_()
    targets, weights = torch.tensor([[0, 3, 1]]), torch.ones(1, 3)
    sums, _ = linear_smoothed_cross_entropy(
        hidden, weight, targets, weights, smoothing=0.1, dtype=torch.float32
    )
    first, second = (
        torch.autograd.grad(scale * sums.sum(), (hidden, weight), retain_graph=True)
        for scale in (1.0, -3.0)
    )
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(-3 * one, other)
    # With a scale of 1 the gradients are those that the forward pass made.
    first[1].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        sums.sum().backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_in_each_dtype_and_its_gradients(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loss, "_CPU_BLOCK_TOKENS", 5)
    monkeypatch.setattr(training_loss, "_CPU_PRODUCT_SIZE", 16 * 100)  # 100 rows of the weight
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 37, 16, generator=generator).to(dtype)
    weight = torch.randn(2, 301, 16, generator=generator).to(dtype)
    hidden[0, 3] *= 1e3  # one logit far above all others
    targets = torch.randint(301, (2, 37), generator=generator)
    weights = torch.rand(2, 37, generator=generator)
    found = []
    for kind, of_weights in ((torch.float64, torch.float64), (dtype, torch.float32)):
        h, w = hidden.to(kind).requires_grad_(), weight.to(of_weights).requires_grad_()
        loss, token_losses = linear_smoothed_cross_entropy(
            h, w, targets, weights.to(of_weights), smoothing=0.1, dtype=kind
        )
        loss.sum().backward()  # type: ignore[no-untyped-call]
        found.append([loss.detach(), token_losses, h.grad, w.grad])
    allowed = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for exact, rough in zip(*found, strict=True):
        assert exact is not None
        assert rough is not None
        assert (rough.double() - exact).norm() / exact.norm() < allowed
