"""Operations counted from shapes against those that torch counts as it runs."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pycat.data.batches import Batch
from pycat.proxy.transformer import ModelConfig, Transformer
from pycat.scoring.adapter import Adapter, Head, ProxyAdapter
from pycat.scoring.flops import model_flops, product_rate


@pytest.mark.parametrize("src_vocab_size", [None, 31])
def test_a_proxy_is_counted_from_its_shape(src_vocab_size: int | None) -> None:
    config = ModelConfig(
        vocab_size=50, d_model=16, num_heads=2, d_ff=24, num_layers=2, src_vocab_size=src_vocab_size
    )
    model = Transformer(config).eval()
    adapter = ProxyAdapter.__new__(ProxyAdapter)
    adapter.model = model
    src, tgt = np.array([7, 3, 1], np.int32), np.array([5, 2, 9], np.int32)
    expected = 0
    for num_src, num_tgt in zip(src.tolist(), tgt.tolist(), strict=True):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            tokens = torch.zeros(1, max(num_src, num_tgt), dtype=torch.int64)
            states = model(tokens[:, :num_src], torch.tensor([num_src]), tokens[:, :num_tgt])
            _ = states[0] @ model.output_weight.T
        linear = sum(
            flops
            for operator, flops in counter.get_flop_counts()["Global"].items()
            if operator in (torch.ops.aten.addmm, torch.ops.aten.mm)
        )
        # Queries x keys and weights x values, in each of two layers: encoder, decoder (half of
        # its square), decoder over the source.
        products = 2 * num_src**2 + num_tgt**2 + 2 * num_src * num_tgt
        expected += linear + 2 * 2 * 16 * products
    assert model_flops(adapter, src, tgt) == expected


class TwoSides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 4)
        self.encoder = nn.ModuleDict({"layer": nn.Linear(4, 5), "norm": nn.LayerNorm(5)})
        self.decoder = nn.ModuleDict({"layer": nn.Linear(5, 3)})
        self.both = nn.Linear(2, 2)
        self.output = nn.Linear(3, 100)


class TwoSidesAdapter(Adapter):
    def hidden(self, batch: Batch) -> Tensor:
        raise AssertionError("counting runs no model")


def test_other_modules_are_counted_by_their_weights() -> None:
    module = TwoSides()
    adapter = TwoSidesAdapter(module, Head(module.output.weight), name="two sides", step=1)
    found = model_flops(adapter, np.array([10, 20], np.int32), np.array([1, 2], np.int32))
    assert found == 2 * (30 * 20 + 3 * 15 + 33 * 4 + 3 * 300)


def test_the_rate_of_products_is_one_a_processor_can_have() -> None:
    assert 1e8 < product_rate(torch.device("cpu"), torch.float32) < 1e14
