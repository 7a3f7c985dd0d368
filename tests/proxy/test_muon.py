"""Muon against values by hand, torch's own, and itself one model at a time."""

import math
from pathlib import Path

import pytest
import torch

from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.proxy import training
from pycat.proxy.muon import Muon, hidden_matrices, orthogonal
from pycat.proxy.stacked_transformer import StackedTransformer
from pycat.proxy.training import train
from pycat.proxy.transformer import ModelConfig, Transformer


def iterated(singular_value: float) -> float:
    """What five iterations make of a singular value."""
    for _ in range(5):
        square = singular_value**2
        singular_value *= 3.4445 - 4.7750 * square + 2.0315 * square**2
    return singular_value


def updated(name: str, start: torch.Tensor, grads: list[torch.Tensor]) -> torch.Tensor:
    parameter = start.clone().requires_grad_()
    optimizer = Muon({name: parameter}, torch.tensor(0.1), start.dtype)
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()
    return parameter.detach()


def test_matrices_become_orthogonal() -> None:
    # Singular values 3 and 4, over their norm 5.
    found = orthogonal(torch.tensor([[[0.0, 3.0, 0.0], [4.0, 0.0, 0.0]]], dtype=torch.float64))
    expected = torch.tensor([[[0.0, iterated(0.6), 0.0], [iterated(0.8), 0.0, 0.0]]])
    torch.testing.assert_close(found, expected.double())
    assert 0.7 < iterated(0.6) < 1.2
    assert not orthogonal(torch.zeros(1, 2, 3)).any()


def test_two_steps_by_hand() -> None:
    # Both gradients have singular values 1 and 1; Nesterov momentum of the second step is
    # 0.05 G2 + 0.95 (0.95 * 0.05 G1 + 0.05 G2).
    identity = torch.eye(2, dtype=torch.float64)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    found = updated(
        "a.weight", torch.zeros(1, 2, 2, dtype=torch.float64), [identity[None], turn[None]]
    )
    first = iterated(math.sqrt(0.5)) * identity
    # a I + b turn is a multiple of a rotation: both of its singular values are equal.
    a, b = 0.95 * 0.95 * 0.05, 0.05 + 0.95 * 0.05
    second = iterated(math.sqrt(0.5)) * (a * identity + b * turn) / math.hypot(a, b)
    torch.testing.assert_close(found[0], -0.5 * (first + second))


def test_tall_matrices_move_further_and_keys_and_values_apart() -> None:
    tall = torch.tensor([[[1.0], [0.0], [0.0], [0.0]]], dtype=torch.float64)  # 4 x 1
    moved = updated("feed_forward.0.weight", torch.zeros_like(tall), [tall])
    torch.testing.assert_close(moved, -0.5 * math.sqrt(4) * iterated(1.0) * tall)
    # Of keys and values two matrices of 2 x 1 each: the small one moves as far as the large one.
    grads = torch.tensor([[[1.0], [0.0], [0.0], [1e-3]]], dtype=torch.float64)
    moved = updated("key_value.weight", torch.zeros_like(grads), [grads])
    torch.testing.assert_close(moved, -0.5 * math.sqrt(2) * iterated(1.0) * grads.ceil())


def test_stacked_matrices_move_as_each_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(3, 6, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    start = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    together = updated("a.weight", start, grads)
    for m in range(3):
        alone = updated("a.weight", start[m : m + 1], [grad[m : m + 1] for grad in grads])
        torch.testing.assert_close(together[m], alone[0])


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch is too old to have Muon")
@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_a_matrix_moves_as_by_torchs_own(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(shape, generator=generator) for _ in range(3)]
    own = torch.zeros(shape, requires_grad=True)
    theirs = torch.optim.Muon([own], lr=0.5, weight_decay=0.0, momentum=0.95)
    for grad in grads:
        own.grad = grad.clone()
        theirs.step()  # type: ignore[no-untyped-call]
    found = updated("a.weight", torch.zeros(1, *shape), [grad[None] for grad in grads])
    # Torch multiplies in bfloat16.
    torch.testing.assert_close(found[0], own.detach(), rtol=0, atol=0.03)


def test_embeddings_gains_and_biases_are_left_to_adam() -> None:
    config = ModelConfig(8, d_model=16, num_heads=1, d_ff=32, num_layers=1, src_vocab_size=9)
    stack = StackedTransformer([Transformer(config)], dropout=0.0)
    names = set(hidden_matrices(stack.parameters))
    attention = {
        f"{layer}_attention.{part}.weight"
        for layer in ("encoder.0.self", "decoder.0.self", "decoder.0.cross")
        for part in ("query", "key_value", "output")
    }
    feed_forward = {
        f"{s}.0.feed_forward.{i}.weight" for s in ("encoder", "decoder") for i in (0, 2)
    }
    assert names == attention | feed_forward


def test_muon_is_refused_on_cuda(
    tmp_path: Path, toy_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "choose_device", lambda _name: torch.device("cuda"))
    with pytest.raises(
        PycatError, match=r"optimizer is 'muon', .* expected adam on CUDA, or device"
    ):
        train(toy_corpus, out=tmp_path / "run", preset="mini", batch_tokens=128, optimizer="muon")
    assert not (tmp_path / "run").exists()
