"""Models of the user's own, and how checkpoints are found."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pycat
from pycat.data.batches import Batch
from pycat.errors import CheckpointError
from pycat.scoring.adapter import Head


class Bigrams(nn.Module):
    """Predicts a target token from the one before and from the mean of the source."""

    def __init__(self, vocab_size: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(vocab_size, 8)
        self.output = nn.Linear(8, vocab_size)

    def forward(self, source: Tensor, before: Tensor) -> Tensor:
        """Hidden states (T, 8) of T target tokens of a sentence."""
        return torch.tanh(self.embedding(before) + self.embedding(source).mean(0))


class BigramAdapter(pycat.Adapter):
    """Sentence by sentence, for clarity."""

    def hidden(self, batch: Batch) -> Tensor:
        states = []
        for row in range(len(batch.pair_ids)):
            source = batch.src_tokens[row, : batch.src_cu_seqlens.diff()[row]]
            target = batch.tgt_tokens[row, : batch.tgt_cu_seqlens.diff()[row]]
            states.append(self.module(source, torch.cat((target[-1:], target[:-1]))))
        return torch.cat(states)


def adapter(vocab_size: int, seed: int, softcap: float | None = None) -> BigramAdapter:
    module = Bigrams(vocab_size, seed)
    head = Head(module.output.weight, module.output.bias, scale=3.0, softcap=softcap)
    return BigramAdapter(module, head, name=f"bigrams {seed}", step=seed)


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_any_module_scores_through_the_protocol(
    toy_corpus: pycat.Corpus, tmp_path: Path, softcap: float | None
) -> None:
    some = toy_corpus.subset(np.arange(0, 300, 11))
    models = [adapter(340, seed, softcap) for seed in (1, 2)]
    table = pycat.score(some, models, out=tmp_path / "scores", device="cpu", batch_tokens=90)
    assert table.steps == [1, 2]
    for k, model in enumerate(models):
        module = model.module
        assert isinstance(module, Bigrams)
        for row, pair_id in enumerate(some.pair_ids):
            pair = toy_corpus.read(np.array([pair_id]))
            before = torch.cat((pair.tgt_tokens[-1:], pair.tgt_tokens[:-1]))
            states = module(pair.src_tokens, before).double()
            logits = 3.0 * states @ module.output.weight.double().T + module.output.bias.double()
            if softcap is not None:
                logits = softcap * torch.tanh(logits / softcap)
            exact = nn.functional.cross_entropy(logits, pair.tgt_tokens, reduction="sum").item()
            assert abs(table.nll[row, k] / exact - 1) < 1e-5
            # The other statistics, straight from their definitions.
            rows, shares = torch.arange(len(logits)), logits.softmax(1)
            of_target = shares[rows, pair.tgt_tokens]
            others = logits.clone()
            others[rows, pair.tgt_tokens] = -torch.inf
            margins = logits[rows, pair.tgt_tokens] - others.amax(1)
            el2n = (shares - nn.functional.one_hot(pair.tgt_tokens, 340)).norm(dim=1)
            expected = {
                "p_target": of_target,
                "correct": (margins >= 0).double(),
                "el2n": el2n,
                "margin": margins,
                "entropy": -(shares * shares.log()).sum(1),
                "grad_norm_bound": el2n * 3.0 * states.norm(dim=1),
            }
            for name, values in expected.items():
                found = table.column(f"{name}_{k}")[row]
                assert abs(found - values.sum().item()) < 1e-4 * values.abs().sum().item() + 1e-9
    # A finished table is taken for the same weights only.
    again = pycat.score(
        some, [adapter(340, seed, softcap) for seed in (1, 2)], out=tmp_path / "scores"
    )
    np.testing.assert_array_equal(again.nll, table.nll)
    with pytest.raises(pycat.OutputError, match="checkpoints was"):
        pycat.score(some, [adapter(340, seed, softcap) for seed in (1, 3)], out=tmp_path / "scores")


def test_adapters_that_do_not_belong_together_are_refused(toy_corpus: pycat.Corpus) -> None:
    first = adapter(340, 1)
    with pytest.raises(CheckpointError, match=r"bigrams 2: embedding.weight has shape \(350, 8\)"):
        pycat.score(toy_corpus, [first, adapter(350, 2)], device="cpu")
    with pytest.raises(CheckpointError, match="bigrams 1: given twice"):
        pycat.score(toy_corpus, [first, first], device="cpu")
    small = [adapter(200, seed) for seed in (1, 2)]
    with pytest.raises(pycat.CorpusError, match="is beyond the 200 that bigrams 1 knows"):
        pycat.score(toy_corpus, small, device="cpu")
