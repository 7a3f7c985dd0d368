"""CTranslate2 and the own beam search find the same targets."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pycat.data.tokenizing import tokenize
from pycat.evaluation.beam_search import beam_search, translate
from pycat.evaluation.ctranslate2_search import ctranslate2_search
from pycat.proxy.checkpoint import load_model, read_info
from pycat.proxy.training import train
from pycat.proxy.transformer import ModelConfig, Transformer

pytest.importorskip("ctranslate2")

EOS = 2
CPU = torch.device("cpu")
CONFIG = ModelConfig(vocab_size=40, d_model=16, num_heads=2, d_ff=32, num_layers=2)
SEPARATE = ModelConfig(**{**CONFIG.__dict__, "src_vocab_size": 30})


@pytest.mark.parametrize("config", [CONFIG, SEPARATE])
@pytest.mark.parametrize("beam", [1, 4])
def test_both_find_the_same_targets(config: ModelConfig, beam: int) -> None:
    torch.manual_seed(0)
    model = Transformer(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn_like(value))
    generator = torch.Generator().manual_seed(1)
    sources = [
        [*torch.randint(3, 30, (length,), generator=generator).tolist(), EOS]
        for length in (1, 3, 8, 20)
    ]
    search = ctranslate2_search(model, EOS, beam=beam, alpha=1.0, device=CPU)
    own = [beam_search(model, [source], EOS, beam, 1.0)[0] for source in sources]
    assert len({token for target in own for token in target}) > 1
    # One by one: the longest source of a batch bounds the targets of all.
    assert [search([source])[0] for source in sources] == own


def test_a_trained_model_translates_alike(
    tmp_path: Path, toy_text: Callable[..., tuple[Path, Path]]
) -> None:
    src, tgt = toy_text(60)
    corpus = tokenize(src, tgt, out=tmp_path / "corpus", vocab_size=320)
    run = train(
        corpus,
        out=tmp_path / "run",
        updates=120,
        batch_tokens=512,
        checkpoints=1,
        dropout=0.0,
        device="cpu",
        dtype="float32",
    )
    model = load_model(read_info(run.checkpoints[-1]), CPU)
    sentences = src.read_text("utf-8").splitlines()[:20]
    for beam, num_same in ((1, 21), (5, 16)):
        search = ctranslate2_search(model, corpus.eos_id, beam=beam, alpha=1.0, device=CPU)
        theirs = translate(model, corpus.tokenizer, [*sentences, ""], search=search)
        own = translate(model, corpus.tokenizer, [*sentences, ""], beam=beam)
        assert len(set(own)) > 5
        assert theirs[-1] == ""
        assert sum(one == other for one, other in zip(theirs, own, strict=True)) >= num_same
