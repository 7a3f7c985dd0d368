"""Beam search against an exhaustive search and a slow one without cache or batch."""

import itertools
import math

import pytest
import torch

from pycat.evaluation.beam_search import beam_search
from pycat.proxy.transformer import ModelConfig, Transformer

EOS = 2


def _model(vocab_size: int, seed: int = 0) -> Transformer:
    """A model with random weights, large enough that the next token depends on the prefix."""
    torch.manual_seed(seed)
    config = ModelConfig(vocab_size=vocab_size, d_model=16, num_heads=2, d_ff=32, num_layers=1)
    model = Transformer(config).eval()
    for parameter in model.decoder.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.7)
    return model


def _log_probs(model: Transformer, source: list[int], prefix: list[int]) -> torch.Tensor:
    """Log probabilities of the next token (V,), with the whole prefix computed at once."""
    hidden = model(
        torch.tensor([source]), torch.tensor([len(source)]), torch.tensor([[EOS, *prefix]])
    )
    return torch.log_softmax(hidden[0, -1] @ model.output_weight.T, -1)


@torch.inference_mode()
def _slow_beam_search(model: Transformer, source: list[int], beam: int, alpha: float) -> list[int]:
    """Beam search for one source, by lists and without a cache."""
    alive: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for length in range(1, 2 * len(source) + 11):
        candidates = [
            (score + log_prob, [*prefix, token])
            for score, prefix in alive
            for token, log_prob in enumerate(_log_probs(model, source, prefix).tolist())
        ]
        candidates.sort(key=lambda scored: -scored[0])
        for score, ids in candidates[:beam]:
            if ids[-1] == EOS:
                finished.append((score / length**alpha, ids[:-1]))
        alive = [scored for scored in candidates if scored[1][-1] != EOS][:beam]
        best = max(finished, default=(-math.inf, []))
        if len(finished) >= beam and alive[0][0] / length**alpha <= best[0]:
            break
    else:
        finished += [(score / length**alpha, ids) for score, ids in alive]
    return max(finished, key=lambda scored: scored[0])[1]


@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_batched_cached_search_equals_the_slow_one(beam: int, alpha: float) -> None:
    model = _model(12, seed=10 if beam == 2 else 0)
    sources = [[5, 6, EOS], [7, EOS], [3, 4, 5, 6, 7, 8, EOS], [9, 9, 9, EOS]]
    targets = beam_search(model, sources, EOS, beam, alpha)
    assert targets == [_slow_beam_search(model, source, beam, alpha) for source in sources]
    assert len(set(map(len, targets))) > 1


@torch.inference_mode()
def test_a_wide_beam_finds_the_best_of_all_sequences() -> None:
    # With 4 tokens and a beam of 4³, no prefix up to length 3 is pruned.
    model = _model(4, seed=4)
    source = [3, 1, EOS]
    [target] = beam_search(model, [source], EOS, 64, 0.0)

    def log_prob(ids: tuple[int, ...]) -> float:
        return sum(
            _log_probs(model, source, list(ids[:i]))[token].item() for i, token in enumerate(ids)
        )

    words = [token for token in range(4) if token != EOS]
    every = [(*prefix, EOS) for n in range(4) for prefix in itertools.product(words, repeat=n)]
    best = max(every, key=log_prob)
    assert 1 <= len(target) <= 3
    assert tuple(target) == best[:-1]


def test_a_source_alone_translates_as_in_a_batch() -> None:
    model = _model(30)
    sources = [[5, 6, EOS], [7, 8, 9, 10, 11, 12, EOS], [4, EOS]]
    together = beam_search(model, sources, EOS, 3, 1.0)
    assert together == [beam_search(model, [source], EOS, 3, 1.0)[0] for source in sources]


def test_length_penalty_prefers_longer_output() -> None:
    model = _model(12, seed=0)
    sources = [[i, i + 1, EOS] for i in range(3, 10)]
    short, long = (
        sum(map(len, beam_search(model, sources, EOS, 5, alpha))) for alpha in (0.0, 2.0)
    )
    assert long > short
