"""Adapters of Hugging Face models against the loss that each model computes itself."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tiny_models import (
    MODELS,
    POSITIONS,
    VOCAB,
    make_corpus,
    make_model,
    own_nll,
    random_rows,
    save_checkpoints,
    transformers,
)
from torch.utils.flop_counter import FlopCounterMode

import pycat
from pycat.errors import CheckpointError, CorpusError
from pycat.scoring import huggingface
from pycat.scoring.cpu_forward import CpuForward
from pycat.scoring.flops import model_flops
from pycat.scoring.loading import load_adapters
from pycat.scoring.sums import batch_sums, make_forward
from pycat.scoring.torch_forward import TorchForward
from pycat.scoring.truncation import KeptLengths

TEMPLATES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "bart": ((0,), ()),  # <s> X </s>
    "m2m-100": ((64,), ()),  # language X </s>
    "mbart": ((), (64,)),  # X </s> language
}


def eos_of(family: str) -> int:
    return {"marian": 0, "t5 tied": 1, "t5 untied": 1, "mt5": 1}.get(family, 2)


def relative(table: pycat.ScoreTable, k: int, exact: NDArray[np.float64]) -> float:
    return float(np.max(np.abs(table.nll[:, k] / exact - 1)))


@pytest.mark.parametrize("family", MODELS)
def test_scores_equal_the_models_own_loss(family: str, tmp_path: Path) -> None:
    eos_id = eos_of(family)
    before, after = TEMPLATES.get(family, ((), ()))
    special = {0, 1, 2, 64, 66}
    src, tgt = (random_rows(24, eos_id, seed=seed, special=[*special]) for seed in (1, 2))
    template = {"tgt_before": before, "tgt_after": after, "src_tail": 1}
    corpus = make_corpus(tmp_path / "corpus", src, tgt, eos_id=eos_id, template=template)
    saved = save_checkpoints(family, tmp_path / "run")
    table = pycat.score(corpus, tmp_path / "run", device="cpu", batch_tokens=64)
    assert table.steps == [9, 10]
    assert table.num_tokens.tolist() == [len(row) for row in tgt]
    for k, (_, model) in enumerate(saved):
        worst = relative(table, k, own_nll(model, src, tgt, before, after))
        print(f"{family}: {worst:.1e}")
        assert worst < 1e-5
    alone = pycat.score(corpus, tmp_path / "run", device="cpu", batch_tokens=1)
    np.testing.assert_allclose(alone.nll, table.nll, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("marian", {"activation_function": "swish"}),
        ("marian", {"activation_function": "relu", "scale_embedding": False}),
        ("bart", {}),
        ("mbart", {}),
        ("m2m-100", {"d_model": 48, "encoder_ffn_dim": 40, "encoder_layers": 3}),
    ],
)
def test_the_extension_runs_the_bart_family(
    family: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extension's nll is PyTorch's; a probe compares hidden states before it is used."""
    eos_id = eos_of(family)
    src, tgt = (random_rows(9, eos_id, seed=seed, special=[0, 1, 2, 64, 66]) for seed in (1, 2))
    corpus = make_corpus(tmp_path / "corpus", src, tgt, eos_id=eos_id)
    model = make_model(family, **settings)
    model.save_pretrained(tmp_path / "model")
    [adapter] = load_adapters(tmp_path / "model", corpus, min_checkpoints=1)
    weights = adapter.transformer_weights(POSITIONS)
    assert weights is not None
    batch = corpus.read(np.arange(9))
    found = CpuForward([weights], "float32").score(batch).sums[0, 0]
    np.testing.assert_allclose(found, own_nll(model, src, tgt), rtol=1e-5)
    # A model whose hidden states differ in that probe is left to PyTorch.
    broken = replace(weights, embedding_scale=2 * weights.embedding_scale)
    monkeypatch.setattr(huggingface, "encoder_decoder_weights", lambda *_: broken)
    assert adapter.transformer_weights(POSITIONS) is None


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("bart", {"activation_function": "gelu_new"}),
        ("bart", {"encoder_attention_heads": 4}),
    ],
)
def test_others_are_left_to_pytorch(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    eos_id = eos_of(family)
    rows = random_rows(3, eos_id, seed=1)
    corpus = make_corpus(tmp_path / "corpus", rows, rows, eos_id=eos_id)
    make_model(family, **settings).save_pretrained(tmp_path / "model")
    [adapter] = load_adapters(tmp_path / "model", corpus, min_checkpoints=1)
    assert adapter.transformer_weights(POSITIONS) is None


@pytest.mark.parametrize("special", [0, 1, 2, 3, 66])
@pytest.mark.parametrize(
    "family", ["marian", "t5 tied", "bart", "mbart", "m2m-100", "gpt2", "llama"]
)
def test_special_tokens_in_a_sentence_score_as_transformers_reads_them(
    family: str, special: int, tmp_path: Path
) -> None:
    # Such as "<pad>", "</s>" or "<unk>" in the text. M2M-100 counts no position for padding.
    eos_id = eos_of(family)
    src, tgt = (random_rows(9, eos_id, seed=seed) for seed in (1, 2))
    for i, row in enumerate((*src[:6], *tgt[3:9])):
        row.insert(i % len(row), special)
        row.insert(0, special)
    corpus = make_corpus(tmp_path / "corpus", src, tgt, eos_id=eos_id)
    model = make_model(family)
    model.save_pretrained(tmp_path / "model")
    [adapter] = load_adapters(tmp_path / "model", corpus, min_checkpoints=1)
    exact = own_nll(model, src, tgt)
    if (family, special) == ("mbart", model.config.pad_token_id):
        # transformers looks for the language tag by the number of tokens that are not padding,
        # and so begins a sentence with padding in it with one of its words. All of ours agree.
        exact[3:] = np.nan
    lengths = KeptLengths.of(corpus, [adapter], "refuse")
    device = torch.device("cpu")
    ours = make_forward([adapter], lengths, device, torch.float32)
    theirs = TorchForward([adapter], device, torch.float32)
    for forward in (ours, theirs):
        found = np.empty(len(src))
        for rows, batch in batch_sums(corpus, [adapter], lengths, forward, 30, lambda _: None):
            found[rows] = batch.sums[0, 0]
        known = np.isfinite(exact)
        np.testing.assert_allclose(found[known], exact[known], rtol=1e-5)
        exact = found
    assert isinstance(ours, CpuForward)


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> tuple[pycat.Corpus, list[Path]]:
    """A corpus and three checkpoints."""
    folder = tmp_path_factory.mktemp("marian")
    src, tgt = (random_rows(12, 0, seed=seed) for seed in (1, 2))
    corpus = make_corpus(folder / "corpus", src, tgt, eos_id=0)
    saved = save_checkpoints("marian", folder / "run", steps=(9, 10, 100))
    return corpus, [path for path, _ in saved]


def test_folders_are_sorted_by_update_however_they_are_given(
    marian: tuple[pycat.Corpus, list[Path]], tmp_path: Path
) -> None:
    corpus, paths = marian
    whole = pycat.score(corpus, paths[0].parent, device="cpu")
    assert whole.steps == [9, 10, 100]
    # In the order of a shell's checkpoint-*: 10, 100, 9.
    for given in ([paths[1], paths[2], paths[0]], [paths[0].parent]):
        table = pycat.score(corpus, given, device="cpu", out=tmp_path / "scores")
        np.testing.assert_array_equal(table.nll, whole.nll)
    named = [tmp_path / name for name in ("early", "late")]
    for path, target in zip(named, paths[1:], strict=True):
        path.symlink_to(target)
    (tmp_path / "state").mkdir()
    table = pycat.score(corpus, named, device="cpu")
    assert table.steps == [1, 2]
    np.testing.assert_array_equal(table.nll, whole.nll[:, 1:])


def copied(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def edited(source: Path, target: Path, change: Any) -> Path:
    """A copy of a checkpoint with its tensors changed in place."""
    copied(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


def test_a_trainers_state_gives_the_step(
    marian: tuple[pycat.Corpus, list[Path]], tmp_path: Path
) -> None:
    corpus, paths = marian
    named = [copied(path, tmp_path / f"save{i}") for i, path in enumerate(paths[:2])]
    for path, step in zip(named, (70, 140), strict=True):
        (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    assert pycat.score(corpus, named, device="cpu").steps == [70, 140]


def test_half_precision_weights_are_scored_in_float32(tmp_path: Path) -> None:
    src, tgt = (random_rows(6, 2, seed=seed) for seed in (1, 2))
    corpus = make_corpus(tmp_path / "corpus", src, tgt, eos_id=2)
    for step in (1, 2):
        model = make_model("llama", seed=step).to(torch.bfloat16)
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
    table = pycat.score(corpus, tmp_path, device="cpu")
    model = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "checkpoint-2", dtype=torch.float32
    )
    assert relative(table, 1, own_nll(model, src, tgt)) < 1e-5


def test_bfloat16_scores_are_near(marian: tuple[pycat.Corpus, list[Path]]) -> None:
    corpus, paths = marian
    exact = pycat.score(corpus, paths, device="cpu")
    rough = pycat.score(corpus, paths, device="cpu", dtype="bfloat16")
    assert not np.array_equal(rough.nll, exact.nll)
    np.testing.assert_allclose(rough.nll, exact.nll, rtol=0.05)


def test_checkpoints_that_cannot_score_are_refused(
    marian: tuple[pycat.Corpus, list[Path]], tmp_path: Path
) -> None:
    corpus, paths = marian
    first = paths[0]

    def poison(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.encoder.layers.0.fc1.weight"][3, 3] = float("nan")

    def drop(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.decoder.layers.1.fc2.weight"]

    nan = edited(first, tmp_path / "nan", poison)
    part = edited(first, tmp_path / "part", drop)
    cut = copied(first, tmp_path / "cut")
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[:999])
    wider = transformers.MarianConfig.from_pretrained(first)
    wider.encoder_ffn_dim = 48
    transformers.MarianMTModel(wider).save_pretrained(tmp_path / "wider")
    peft = tmp_path / "peft"
    peft.mkdir()
    (peft / "adapter_config.json").write_text("{}")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    for second, message in (
        (nan, r"nan: model.encoder.layers.0.fc1.weight has weights that are not finite"),
        (part, r"part: the weights lack 1 tensors .* such as model.decoder.layers.1.fc2.weight"),
        (cut, "cut: transformers cannot load this model"),
        (tmp_path / "wider", r"wider: .*fc1.* has shape .*48.* but .*checkpoint-9 has .*32"),
        (peft, "peft: holds an adapter of another model"),
        (tmp_path / "none", "none: no such file or folder"),
        (first, "given twice"),
    ):
        with pytest.raises(CheckpointError, match=message):
            pycat.score(corpus, [first, second], device="cpu")
    with pytest.raises(CheckpointError, match="nothing: holds no checkpoints"):
        pycat.score(corpus, nothing, device="cpu")
    with pytest.raises(CheckpointError, match="found 1 checkpoints"):
        pycat.score(corpus, first, device="cpu")


def test_a_head_that_is_not_known_is_refused(
    marian: tuple[pycat.Corpus, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, paths = marian
    forward = transformers.MarianMTModel.forward

    def shifted(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        out.logits = out.logits + torch.arange(VOCAB)
        return out

    monkeypatch.setattr(transformers.MarianMTModel, "forward", shifted)
    message = "checkpoint-9: the output head of MarianMTModel is not known.*pycat.Adapter"
    with pytest.raises(CheckpointError, match=message):
        pycat.score(corpus, paths, device="cpu")
    monkeypatch.setattr(transformers.MarianMTModel, "get_output_embeddings", lambda self: None)
    with pytest.raises(CheckpointError, match="MarianMTModel has no linear output layer"):
        pycat.score(corpus, paths, device="cpu")


def test_tokens_beyond_the_vocabulary_are_refused(
    marian: tuple[pycat.Corpus, list[Path]], tmp_path: Path
) -> None:
    _, paths = marian
    src, tgt = (random_rows(5, 0, seed=seed) for seed in (1, 2))
    fits = make_corpus(tmp_path / "fits", src, tgt, eos_id=0, vocab_size=500)
    assert len(pycat.score(fits, paths, device="cpu")) == 5
    tgt[3][0] = 67
    corpus = make_corpus(tmp_path / "corpus", src, tgt, eos_id=0, vocab_size=500)
    message = r"corpus: token 67 of pair 3 is beyond the 67 that .*checkpoint-9 knows \(1 such"
    with pytest.raises(CorpusError, match=message):
        pycat.score(corpus, paths, device="cpu")


@pytest.mark.parametrize("family", MODELS)
def test_operations_are_those_that_torch_counts(family: str, tmp_path: Path) -> None:
    eos_id = eos_of(family)
    rows = [[5, 6, 7, 8, 9, eos_id]]
    template = {"tgt_before": (), "tgt_after": (), "src_tail": 1}
    corpus = make_corpus(tmp_path / "corpus", rows, rows, eos_id=eos_id, template=template)
    save_checkpoints(family, tmp_path / "run")
    adapter = load_adapters(tmp_path / "run", corpus)[0]
    [batch] = corpus.batches(64, padded=True)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        adapter.hidden(batch)
    counted = sum(
        flops
        for operator, flops in counter.get_flop_counts()["Global"].items()
        if operator in (torch.ops.aten.addmm, torch.ops.aten.mm)
    )
    layers = model_flops(adapter, *corpus.lengths) - 2 * adapter.head.weight.numel() * 6
    # A causal model does not read the last of the 12 tokens.
    is_causal = adapter.max_tokens is not None
    assert counted == (layers * 11 // 12 if is_causal else layers)


@pytest.mark.parametrize("family", ["marian", "bart", "llama"])
def test_pairs_longer_than_the_positions(family: str, tmp_path: Path) -> None:
    eos_id = eos_of(family)
    before = (0,) if family == "bart" else ()
    src, tgt = (random_rows(8, eos_id, seed=seed) for seed in (1, 2))
    long = random_rows(40, eos_id, seed=3, most=1)
    row = [row[0] for row in long]
    src[2], tgt[2] = [*row[:38], eos_id], [*row[:1], eos_id]  # together more than 40
    src[4], tgt[4] = [*row, *row[:20], eos_id] if family != "llama" else [*row[:30]], [*row, eos_id]
    template = {"tgt_before": before, "tgt_after": (), "src_tail": 1}
    corpus = make_corpus(tmp_path / "corpus", src, tgt, eos_id=eos_id, template=template)
    saved = save_checkpoints(family, tmp_path / "run")
    paths = [path for path, _ in saved]
    message = r"corpus: 1 of 8 pairs are longer than the positions of .* such as pair 4 of"
    with pytest.raises(CorpusError, match=message):
        pycat.score(corpus, paths, device="cpu")
    table = pycat.score(corpus, paths, device="cpu", too_long="truncate", batch_tokens=100)
    assert table.manifest["num_truncated"] == 1
    if family == "llama":
        tgt[4] = tgt[4][: POSITIONS + 1 - len(src[4])]
    else:
        src[4] = [*src[4][: POSITIONS - 1], eos_id]
        tgt[4] = tgt[4][: POSITIONS - len(before)]
    assert table.num_tokens.tolist() == [len(row) for row in tgt]
    assert table.num_src_tokens.tolist() == [len(row) for row in src]
    assert table.manifest["num_tokens"] == sum(map(len, tgt))
    assert relative(table, 0, own_nll(saved[0][1], src, tgt, before)) < 1e-5
    with pytest.raises(pycat.PycatError, match="too_long is 'cut'; expected one of refuse"):
        pycat.score(corpus, paths, device="cpu", too_long="cut")


def test_a_prompt_that_fills_all_positions_is_refused(tmp_path: Path) -> None:
    src, tgt = (random_rows(3, 2, seed=seed) for seed in (1, 2))
    src[1] = [5] * 50
    corpus = make_corpus(tmp_path / "corpus", src, tgt, eos_id=2)
    save_checkpoints("gpt2", tmp_path / "run")
    with pytest.raises(CorpusError, match="source of 1 pairs, such as pair 1, fills all positions"):
        pycat.score(corpus, tmp_path / "run", device="cpu", too_long="truncate")


def test_without_transformers_the_extra_is_named(
    marian: tuple[pycat.Corpus, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, paths = marian
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(CheckpointError, match=r"pip install 'pycat-nmt\[hf\]'"):
        pycat.score(corpus, paths, device="cpu")
