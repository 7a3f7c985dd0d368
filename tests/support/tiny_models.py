"""Random-weight models of each architecture, a few thousand weights each, and corpora for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pycat._core import IndexedWriter
from pycat.data.corpus import Corpus
from pycat.data.opening import open_corpus
from pycat.runtime.output import write_manifest

transformers = pytest.importorskip("transformers", reason="needs transformers (pycat-nmt[hf])")

VOCAB, POSITIONS = 67, 40

# Wide enough that logits differ by several units: a wrong head or position shows.
_STD = 0.3

_BART: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "bos_token_id": 0,
    "decoder_start_token_id": 2,
    "init_std": _STD,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "initializer_factor": 0.5,
}
_CAUSAL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "bos_token_id": 0,
    "initializer_range": _STD,
}

_MARIAN = {**_BART, "pad_token_id": 66, "decoder_start_token_id": 66, "eos_token_id": 0}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_positions": POSITIONS,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "initializer_range": _STD,
}
_GATED = {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}

# The class of transformers, and the settings of its configuration.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "marian": ("MarianMTModel", {**_MARIAN, "scale_embedding": True}),
    "t5 tied": ("T5ForConditionalGeneration", _T5),
    "t5 untied": ("T5ForConditionalGeneration", {**_T5, **_GATED}),
    "mt5": ("MT5ForConditionalGeneration", _T5),
    "bart": ("BartForConditionalGeneration", _BART),
    "mbart": ("MBartForConditionalGeneration", {**_BART, "scale_embedding": True}),
    "m2m-100": ("M2M100ForConditionalGeneration", {**_BART, "scale_embedding": True}),
    "gpt2": ("GPT2LMHeadModel", _GPT2),
    "llama": ("LlamaForCausalLM", _CAUSAL),
    "qwen2": ("Qwen2ForCausalLM", {**_CAUSAL, "tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", _CAUSAL),
    "qwen3": ("Qwen3ForCausalLM", {**_CAUSAL, "head_dim": 8}),
    "gemma": ("GemmaForCausalLM", {**_CAUSAL, "head_dim": 8}),
    "gemma3": ("Gemma3ForCausalLM", {**_CAUSAL, "head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", {**_CAUSAL, "head_dim": 8, "final_logit_softcapping": 3.0}),
}


def make_model(family: str, seed: int = 0, **settings: Any) -> Any:
    """A model of that family with weights of its own; biases and norms too are random."""
    name, usual = MODELS[family]
    kind = getattr(transformers, name)
    torch.manual_seed(seed)
    model = kind(kind.config_class(**{**usual, **settings})).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1:
                value.add_(0.1 * torch.randn_like(value))
            assert value.isfinite().all(), name
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.copy_(torch.randn_like(model.final_logits_bias))
    return model


def save_checkpoints(
    family: str, folder: Path, steps: Sequence[int] = (9, 10)
) -> list[tuple[Path, Any]]:
    """Folders as a Trainer leaves them, in the order of their steps, and the models in them."""
    saved = []
    for step in steps:
        model, path = make_model(family, seed=step), folder / f"checkpoint-{step}"
        model.save_pretrained(path)
        saved.append((path, model))
    return saved


def make_corpus(
    folder: Path,
    src: Sequence[Sequence[int]],
    tgt: Sequence[Sequence[int]],
    *,
    eos_id: int,
    vocab_size: int = VOCAB,
    **manifest: Any,
) -> Corpus:
    """A corpus of these ids, unchanged."""
    folder.mkdir()
    for name, rows in (("src", src), ("tgt", tgt)):
        with IndexedWriter(str(folder / name), dtype="uint16") as writer:
            lengths = np.array([len(row) for row in rows], dtype=np.int32)
            writer.append(np.concatenate([np.array(row, np.int32) for row in rows]), lengths)
    (folder / "skipped.tsv").write_text("line\treason\n")
    write_manifest(
        folder / "corpus.json",
        {
            "format": "pycat.corpus",
            "version": 1,
            "complete": True,
            "recipe": {},
            "id": folder.name,
            "languages": ["en", "de"],
            "num_lines": len(src),
            "num_pairs": len(src),
            "skipped": {},
            "vocab_size": vocab_size,
            "eos_id": eos_id,
            "tokenizer_sha256": None,
            "text": [],
            **manifest,
        },
    )
    return open_corpus(folder)


def random_rows(
    count: int, eos_id: int, *, seed: int, most: int = 9, special: Sequence[int] = (0, 1, 2, 66)
) -> list[list[int]]:
    """`count` rows of 1 to `most` ids that are not special, and EOS."""
    rng = np.random.default_rng(seed)
    plain = [token for token in range(VOCAB) if token not in (*special, eos_id)]
    return [
        [*(int(token) for token in rng.choice(plain, rng.integers(1, most + 1))), eos_id]
        for _ in range(count)
    ]


@torch.no_grad()
def own_nll(
    model: Any,
    src: Sequence[Sequence[int]],
    tgt: Sequence[Sequence[int]],
    before: Sequence[int] = (),
    after: Sequence[int] = (),
) -> NDArray[np.float64]:
    """Nll (N,) by the loss that the model itself computes, one pair at a time.

    An encoder-decoder model makes its decoder's input from the whole labels; what stands around
    the target is then masked. A causal model reads source and target, the source masked.
    """
    sums = []
    for source, target in zip(src, tgt, strict=True):
        if model.config.is_encoder_decoder:
            whole = torch.tensor([[*before, *target, *after]])
            tgt_in = _shift(model, whole)
            labels = whole.clone()
            labels[0, : len(before)] = -100
            labels[0, len(before) + len(target) :] = -100
            out = model(
                input_ids=torch.tensor([list(source)]),
                decoder_input_ids=tgt_in,
                labels=labels,
                use_cache=False,
            )
        else:
            ids = torch.tensor([[*source, *target]])
            labels = ids.clone()
            labels[0, : len(source)] = -100
            out = model(input_ids=ids, labels=labels)
        sums.append(float(out.loss) * len(target))
    return np.array(sums)


def _shift(model: Any, labels: torch.Tensor) -> torch.Tensor:
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        shifted: torch.Tensor = model.prepare_decoder_input_ids_from_labels(labels)
        return shifted
    config = model.config
    from transformers.models.m2m_100.modeling_m2m_100 import shift_tokens_right

    made: torch.Tensor = shift_tokens_right(
        labels, config.pad_token_id, config.decoder_start_token_id
    )
    return made
