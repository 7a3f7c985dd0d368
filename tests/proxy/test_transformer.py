"""The proxy's forward pass: shapes, masks, and decoding step by step."""

import pytest
import torch

from pycat.proxy.transformer import PRESETS, Dropout, ModelConfig, Transformer

SMALL = ModelConfig(vocab_size=50, d_model=32, num_heads=4, d_ff=64, num_layers=2)


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(SMALL).eval()


def test_presets_have_the_published_sizes() -> None:
    base = Transformer(ModelConfig(vocab_size=32_000, **PRESETS["base"]))
    # A layer has 4 d² + 8 d² weights in the encoder and 8 d² + 8 d² in the decoder. One embedding.
    weights = 6 * (12 + 16) * 512**2 + 32_000 * 512
    assert sum(p.numel() for p in base.parameters() if p.dim() > 1) == weights
    assert PRESETS["tiny"]["d_model"] == 256
    assert PRESETS["tiny"]["num_layers"] == 3


def test_padding_changes_nothing(model: Transformer) -> None:
    src = torch.tensor([[5, 6, 7, 2]])
    tgt_in = torch.tensor([[2, 8, 9]])
    alone = model(src, torch.tensor([4]), tgt_in)
    padded_src = torch.tensor([[5, 6, 7, 2, 33, 34], [9, 8, 7, 6, 5, 2]])
    padded_tgt = torch.tensor([[2, 8, 9, 40, 41], [2, 3, 4, 5, 6]])
    padded = model(padded_src, torch.tensor([4, 6]), padded_tgt)
    torch.testing.assert_close(padded[:1, :3], alone, rtol=1e-4, atol=1e-5)


def test_no_position_sees_the_future(model: Transformer) -> None:
    src, lengths = torch.tensor([[5, 6, 2]]), torch.tensor([3])
    first = model(src, lengths, torch.tensor([[2, 8, 9, 10]]))
    second = model(src, lengths, torch.tensor([[2, 8, 30, 31]]))
    torch.testing.assert_close(first[:, :2], second[:, :2])
    assert not torch.allclose(first[:, 2:], second[:, 2:])


def test_source_and_target_order_matter(model: Transformer) -> None:
    lengths = torch.tensor([3])
    tgt_in = torch.tensor([[2, 8, 9]])
    forward = model(torch.tensor([[5, 6, 2]]), lengths, tgt_in)
    swapped = model(torch.tensor([[6, 5, 2]]), lengths, tgt_in)
    assert not torch.allclose(forward, swapped, atol=1e-3)


def test_steps_with_cache_equal_the_whole_prefix(model: Transformer) -> None:
    src = torch.tensor([[5, 6, 7, 2], [9, 2, 0, 0]])
    lengths = torch.tensor([4, 2])
    tgt_in = torch.tensor([[2, 8, 9, 10], [2, 11, 12, 13]])
    whole = model(src, lengths, tgt_in) @ model.output_weight.T
    state = model.start(src, lengths)
    steps = torch.stack([model.step(tgt_in[:, t], state) for t in range(4)], dim=1)
    torch.testing.assert_close(steps, whole, rtol=1e-4, atol=1e-5)


def test_reordered_state_follows_its_rows(model: Transformer) -> None:
    src = torch.tensor([[5, 6, 7, 2], [9, 2, 0, 0]])
    lengths = torch.tensor([4, 2])
    state = model.start(src, lengths)
    model.step(torch.tensor([2, 2]), state)
    state.reorder(torch.tensor([1, 1, 0]))
    logits = model.step(torch.tensor([20, 21, 22]), state)
    fresh = model.start(src[[1, 1, 0]], lengths[[1, 1, 0]])
    model.step(torch.tensor([2, 2, 2]), fresh)
    torch.testing.assert_close(logits, model.step(torch.tensor([20, 21, 22]), fresh))


def test_dropout_keeps_the_mean_and_drops_the_share() -> None:
    dropout = Dropout(0.25).train()
    torch.manual_seed(0)
    x = torch.ones(1000, 333, requires_grad=True)
    dropped = dropout(x)
    share = (dropped == 0).double().mean().item()
    # 333,000 draws: the share's standard deviation is 0.00075.
    assert share == pytest.approx(0.25, abs=0.004)
    assert dropped.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    dropped.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, dropped.detach())
    rows = (dropped == 0).double().mean(1)
    assert rows.std().item() == pytest.approx((0.25 * 0.75 / 333) ** 0.5, rel=0.1)
    assert dropout.eval()(x) is x
    half = dropout.train()(torch.ones(1000, 333, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert half.double().mean().item() == pytest.approx(1.0, abs=0.005)


def test_dropout_follows_the_seed() -> None:
    dropout = Dropout(0.1).train()
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(dropout(torch.ones(64, 64)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
