"""Causal models and T5 in the compiled forward pass, against transformers in float64."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_models import VOCAB, make_corpus, make_model, random_rows, transformers

from pycat import _core
from pycat.errors import PycatError
from pycat.scoring.cpu_forward import CpuForward, _num_shared_tokens, _Share
from pycat.scoring.loading import load_adapters
from pycat.scoring.transformer_weights import TransformerWeights

LONGEST = 90  # tokens of a side: several panels and blocks of queries

# Real shapes at a small width: head counts, widths and settings as the published models have them.
ROPE = {"rope_theta": 10_000.0}
CAUSAL: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"n_head": 3, "n_embd": 24}),
    "gpt2 unscaled, untied, relu": (
        "gpt2",
        {"scale_attn_weights": False, "tie_word_embeddings": False, "activation_function": "relu"},
    ),
    "llama": ("llama", {"num_attention_heads": 4, "hidden_size": 32, "num_key_value_heads": 2}),
    "llama, wide heads, biases": (
        "llama",
        {"head_dim": 24, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2},
    ),
    "llama 3.1": (
        "llama",
        {
            "rope_parameters": {
                **ROPE,
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "llama, yarn": (
        "llama",
        {
            "rope_parameters": {
                **ROPE,
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "llama, linear": (
        "llama",
        {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 2.0}},
    ),
    "mistral": ("mistral", {"sliding_window": 7}),
    "mistral without a window": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2 with windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 33, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {"head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": (
        "gemma2",
        {"sliding_window": 20, "query_pre_attn_scalar": 5, "attn_logit_softcapping": 4.0},
    ),
    "gemma2 without caps": (
        "gemma2",
        {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma3": ("gemma3", {"sliding_window": 12, "num_hidden_layers": 7}),
}
T5: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5 tied", {"num_decoder_layers": 3}),
    "t5 1.1": ("t5 untied", {"d_kv": 16, "num_heads": 3}),
    "mt5": ("mt5", {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}),
}
# Of 1 + nll of a token, of models of random weights. int8 has seven bits of the hidden states where
# bytes would saturate.
PRECISIONS = {"float32": 1e-5, "bfloat16": 5e-2, "int8": 0.15}
SEVEN_BITS = 0.3


def rows(count: int, eos_id: int, seed: int) -> list[list[int]]:
    """Sentences of 1 to LONGEST tokens, one of them as long as can be."""
    made = random_rows(count - 1, eos_id, seed=seed, most=LONGEST - 1)
    longest = random_rows(LONGEST, eos_id, seed=seed + 1, most=1)
    return [*made, [row[0] for row in longest[:-1]] + [eos_id]]


@torch.no_grad()
def exact_nll(model: Any, src: list[list[int]], tgt: list[list[int]]) -> NDArray[np.float64]:
    """Nll of each target token by the whole model in float64, one pair at a time."""
    model = model.double()
    tokens = []
    for source, target in zip(src, tgt, strict=True):
        labels = torch.tensor(target)
        if model.config.is_encoder_decoder:
            start = [model.config.decoder_start_token_id, *target[:-1]]
            logits = model(
                input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([start])
            ).logits[0]
        else:
            ids = torch.tensor([[*source, *target]])
            logits = model(input_ids=ids).logits[0, len(source) - 1 : -1]
        tokens.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none"))
    found: NDArray[np.float64] = torch.cat(tokens).numpy()
    return found


def opened(
    family: str, settings: dict[str, Any], folder: Path, src: Any, tgt: Any
) -> tuple[Any, Any, TransformerWeights | None]:
    """A model, its corpus, and its weights as the extension takes them."""
    eos_id = 1 if "t5" in family else 2
    long = {} if "t5" in family else {"max_position_embeddings": 2 * LONGEST}
    if family == "gpt2":
        long = {"n_positions": 2 * LONGEST}
    model = make_model(family, **{**long, **settings})
    model.save_pretrained(folder / "model")
    corpus = make_corpus(folder / "corpus", src, tgt, eos_id=eos_id)
    [adapter] = load_adapters(folder / "model", corpus, min_checkpoints=1)
    return model, corpus, adapter.transformer_weights(LONGEST)


def has_seven_bits() -> bool:
    """Whether int8 reads seven bits of the hidden states, for want of VNNI's products."""
    has_vnni = "avx512_vnni" in Path("/proc/cpuinfo").read_text("utf-8")
    return _core.cpu_isa() == "avx2" or (_core.cpu_isa() == "avx512" and not has_vnni)


@pytest.mark.parametrize("name", [*CAUSAL, *T5])
def test_each_token_equals_transformers(name: str, tmp_path: Path) -> None:
    family, settings = {**CAUSAL, **T5}[name]
    eos_id = 1 if "t5" in family else 2
    src, tgt = (rows(7, eos_id, seed) for seed in (1, 3))
    model, corpus, weights = opened(family, settings, tmp_path, src, tgt)
    assert weights is not None
    exact = exact_nll(model, src, tgt)
    batch = corpus.read(np.arange(len(src)))
    for dtype, tolerance in PRECISIONS.items():
        if dtype == "int8" and has_seven_bits():
            tolerance = SEVEN_BITS
        try:
            forward = CpuForward([weights], dtype, stats="all", per_token=True, num_workers=2)
        except PycatError:
            assert dtype != "float32"
            continue
        scored = forward.score(batch)
        assert scored.nll_per_token is not None
        found = scored.nll_per_token[0]
        worst = float(np.max(np.abs(found - exact) / (1 + exact)))
        print(f"{name}, {dtype}: {worst:.1e}")
        assert worst < tolerance
        ends = np.cumsum([0, *map(len, tgt)])
        np.testing.assert_allclose(scored.sums[0, 0], np.add.reduceat(found, ends[:-1]), rtol=1e-6)
        # One pair alone, in another lane, has the same bits.
        alone = forward.score(corpus.read(np.array([3]))).nll_per_token
        assert alone is not None
        np.testing.assert_array_equal(alone[0], found[ends[3] : ends[4]])


def prompted(seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Pairs of which all begin with 33 tokens, at most of the way in the prompt.

    One prompt ends before the shared tokens do, and one pair is these tokens and one more.
    """
    shared = random_rows(34, 2, seed=seed, most=1)
    prompt = [row[0] for row in shared[:-1]]
    src = [[*prompt, *row] for row in random_rows(5, 2, seed=seed + 1, most=30)]
    tgt = random_rows(5, 2, seed=seed + 2, most=40)
    return [*src, prompt[:20], prompt], [*tgt, [*prompt[20:], 4, 5, 2], [2]]


@pytest.mark.parametrize("name", ["gpt2", "mistral", "qwen3", "gemma2", "gemma3"])
def test_a_prompt_that_pairs_share_equals_transformers(name: str, tmp_path: Path) -> None:
    """Also bit for bit what each pair has by itself, in batches and shares of any size."""
    family, settings = CAUSAL[name]
    src, tgt = prompted(seed=5)
    model, corpus, weights = opened(family, settings, tmp_path, src, tgt)
    assert weights is not None
    exact, ends = exact_nll(model, src, tgt), np.cumsum([0, *map(len, tgt)])
    for dtype, tolerance in PRECISIONS.items():
        if dtype == "int8" and has_seven_bits():
            tolerance = SEVEN_BITS
        try:
            forward = CpuForward([weights], dtype, stats="all", per_token=True, num_workers=2)
        except PycatError:
            continue
        found = forward.score(corpus.read(np.arange(len(src)))).nll_per_token
        assert found is not None
        assert float(np.max(np.abs(found[0] - exact) / (1 + exact))) < tolerance
        for row in range(len(src)):
            alone = forward.score(corpus.read(np.array([row]))).nll_per_token
            assert alone is not None
            np.testing.assert_array_equal(alone[0], found[0][ends[row] : ends[row + 1]])


def test_a_prompt_is_shared_whatever_the_shares_of_a_batch(tmp_path: Path) -> None:
    """Hundreds of pairs behind a prompt, one that is all of it, and one that begins otherwise."""
    prompt = [5 + i % 50 for i in range(70)]
    src = [[*prompt, *row] for row in random_rows(120, 2, seed=3, most=9)]
    tgt = random_rows(120, 2, seed=4, most=30)
    src, tgt = [*src, prompt, [4, 9]], [*tgt, [2], [7, 2]]
    _, corpus, weights = opened("llama", {}, tmp_path, src, tgt)
    assert weights is not None
    one, two = (CpuForward([weights], "float32", num_workers=n) for n in (1, 2))
    for rows in (np.arange(121), np.arange(122)):
        batch = corpus.read(rows)
        found = one.score(batch).sums
        np.testing.assert_array_equal(found, two.score(batch).sums)
        alone = [one.score(corpus.read(rows[i : i + 1])).sums[0, 0, 0] for i in (0, 60, 119, 120)]
        np.testing.assert_array_equal(found[0, 0, [0, 60, 119, 120]], alone)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # The last token of the shortest sequence counts as its own.
        ([[7, 8, 9], [7, 8], [7, 8, 5, 6]], 1),
        ([[7, 8, 9], [7, 8, 4], [7, 8, 5, 6]], 2),
        ([[7, 8], [6, 8]], 0),
        ([[7], [7]], 0),
        ([[7, 8, 9]], 2),
    ],
)
def test_shares_know_how_much_their_sequences_share(rows: list[list[int]], expected: int) -> None:
    inputs = np.array([token for row in rows for token in row])
    ends = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    share = _Share(inputs[:0], np.zeros_like(ends), inputs, inputs, ends)
    assert _num_shared_tokens(share) == expected


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 2.0}}),
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"hidden_act": "relu"}),
        ("llama", {"head_dim": 12}),
        ("llama", {"intermediate_size": 30}),
        ("gpt2", {"activation_function": "quick_gelu"}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"n_head": 4}),
        ("gemma3", {"attn_logit_softcapping": 3.0}),
        ("gemma3", {"use_bidirectional_attention": True}),
        ("t5 tied", {"feed_forward_proj": "gated-relu"}),
        ("t5 tied", {"d_kv": 12}),
    ],
)
def test_what_is_not_known_is_left_to_pytorch(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    eos_id = 1 if "t5" in family else 2
    pairs = random_rows(3, eos_id, seed=1)
    assert opened(family, settings, tmp_path, pairs, pairs)[2] is None


@pytest.mark.parametrize("kind", ["MixtralForCausalLM", "BloomForCausalLM", "GPTNeoXForCausalLM"])
def test_other_architectures_are_left_to_pytorch(kind: str, tmp_path: Path) -> None:
    """Experts, ALiBi, heads of which a part is rotated."""
    made = getattr(transformers, kind)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    known = {**sizes, "vocab_size": VOCAB, "eos_token_id": 2, "intermediate_size": 32}
    extra = {"MixtralForCausalLM": {"num_key_value_heads": 1, "num_local_experts": 2}}
    config = made.config_class(**known, **extra.get(kind, {}))
    made(config).save_pretrained(tmp_path / "model")
    pairs = random_rows(3, 2, seed=1)
    corpus = make_corpus(tmp_path / "corpus", pairs, pairs, eos_id=2)
    [adapter] = load_adapters(tmp_path / "model", corpus, min_checkpoints=1)
    assert adapter.transformer_weights(LONGEST) is None


def causal_arrays(**changes: Any) -> dict[str, Any]:
    """Arrays of a causal model of width 8 with one layer, and what `_core.Transformer` is told."""
    sizes = {"self.query_key_value": (24, 8), "self.output": (8, 8), "ff1": (16, 8), "ff2": (8, 8)}
    arrays: dict[str, NDArray[np.float64]] = {
        f"decoder.0.{name}.weight": np.ones(size) for name, size in sizes.items()
    }
    arrays |= {f"decoder.0.{name}.norm.weight": np.ones(8) for name in ("self", "feed_forward")}
    arrays |= {"head.weight": np.ones((5, 8)), "target.tokens": np.ones((5, 8))}
    options: dict[str, Any] = {
        "dtype": "float32",
        "num_heads": 1,
        "norm_first": True,
        "activation": "gated_silu",
        "epsilon": 1e-5,
        "embedding_scale": 1.0,
        "head_scale": 1.0,
        "num_threads": 1,
        "rms_norm": True,
        "num_positions": 4,
    }
    float32 = {name: value.astype(np.float32) for name, value in arrays.items()}
    return {"weights": float32, **options, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": 3, "num_heads": 1}, "self.query_key_value.weight has another shape"),
        ({"windows": [3, 3]}, "2 windows for 1 layers"),
        ({"activation": "tanh"}, "gated_silu or gated_gelu_tanh"),
        ({"head_width": 4}, "has another shape"),
        ({"num_positions": 0}, "weights lack target.positions"),
        ({"rms_norm": False}, "weights lack decoder.0.self.norm.bias"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.Transformer(**causal_arrays(**changes))


def test_a_causal_model_has_no_source_and_bounded_positions() -> None:
    model = _core.Transformer(**causal_arrays())
    options: dict[str, Any] = {"ignore_index": -100, "all_stats": False, "per_token": True}

    def score(length: int, src: list[int]) -> Any:
        ids = np.arange(length, dtype=np.int64) % 5
        ends = np.array([0, length], dtype=np.int32)
        src_ends = np.array([0, len(src)], dtype=np.int32)
        return model.score(np.array(src, dtype=np.int64), src_ends, ids, ids, ends, **options)

    # All rows of the output layer are equal, so each of the 5 tokens has probability 1/5.
    np.testing.assert_allclose(score(4, [])[0], [[4 * np.log(5)]], rtol=1e-6)
    with pytest.raises(ValueError, match="a causal model reads no source"):
        score(4, [1])
    with pytest.raises(ValueError, match="has 5 tokens; the model has 4 positions"):
        score(5, [])
