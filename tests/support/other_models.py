"""Random-weight models of Marian, fairseq and OpenNMT-py, and CTranslate2's scores of them."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

ctranslate2 = pytest.importorskip("ctranslate2", reason="needs ctranslate2 (pycat-nmt[ct2])")

WIDTH, FFN, HEADS = 16, 24, 2
VOCAB, SRC_VOCAB = 40, 52

Arrays = dict[str, NDArray[np.float32]]


def pieces(size: int) -> list[str]:
    """A vocabulary as Marian numbers it."""
    return ["</s>", "<unk>", *(f"p{i}" for i in range(2, size))]


def write_yaml(path: Path, words: Sequence[str]) -> Path:
    path.write_text("".join(f'"{word}": {i}\n' for i, word in enumerate(words)), "utf-8")
    return path


class _Random:
    """Arrays wide enough that a wrong position, scale or activation shows."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def matrix(self, rows: int, columns: int, scale: float = 0.4) -> NDArray[np.float32]:
        return (scale * self._rng.standard_normal((rows, columns))).astype(np.float32)

    def near_one(self, size: int) -> NDArray[np.float32]:
        return (1 + 0.2 * self._rng.standard_normal((1, size))).astype(np.float32)


def marian_config(**settings: object) -> dict[str, object]:
    """Options of a model in Marian's `special:model.yml`, underscores for dashes."""
    usual = {
        "type": "transformer",
        "enc_depth": 1,
        "dec_depth": 2,
        "dim_emb": WIDTH,
        "transformer_heads": HEADS,
        "transformer_dim_ffn": FFN,
        "transformer_ffn_depth": 2,
        "transformer_ffn_activation": "relu",
        "transformer_preprocess": "",
        "transformer_postprocess": "dan",
        "transformer_postprocess_emb": "d",
        "transformer_postprocess_top": "",
        "transformer_decoder_autoreg": "self-attention",
        "transformer_no_projection": False,
        "transformer_guided_alignment_layer": "last",
        "transformer_train_positions": False,
    }
    return {name.replace("_", "-"): value for name, value in {**usual, **settings}.items()}


def write_marian(
    path: Path,
    *,
    seed: int = 0,
    shared: bool = True,
    tied: bool = True,
    extra: Mapping[str, NDArray[np.float32]] | None = None,
    vocab: int = VOCAB,
    **settings: object,
) -> Path:
    """A model of random weights as Marian's `.npz`.

    Args:
        path: the file.
        seed: of the weights.
        shared: one embedding for both sides.
        tied: the output layer is the target's embedding.
        extra: more arrays.
        vocab: target pieces.
        settings: of `marian_config`.
    """
    config, random = marian_config(**settings), _Random(seed)
    arrays: Arrays = {}
    if shared:
        arrays["Wemb"] = random.matrix(vocab, WIDTH)
    else:
        arrays["encoder_Wemb"] = random.matrix(SRC_VOCAB, WIDTH)
        arrays["decoder_Wemb"] = random.matrix(vocab, WIDTH)
    if not tied:
        arrays["decoder_ff_logit_out_W"] = random.matrix(WIDTH, vocab)
    arrays["decoder_ff_logit_out_b"] = random.matrix(1, vocab)
    pre = config["transformer-preprocess"] == "n"
    if config["transformer-train-positions"]:
        arrays["Wpos"] = random.matrix(30, WIDTH)
    for side, depth in (("encoder", "enc-depth"), ("decoder", "dec-depth")):
        if pre:
            for kind, value in _norm(random).items():
                arrays[f"{side}_top_ln_{kind}"] = value
        if "n" in str(config["transformer-postprocess-emb"]):
            for kind, value in _norm(random).items():
                arrays[f"{side}_emb_ln_{kind}_pre"] = value
        for number in range(1, 1 + int(str(config[depth]))):
            layer = f"{side}_l{number}"
            for kind in ("self", "context") if side == "decoder" else ("self",):
                for letter in "qkvo":
                    arrays[f"{layer}_{kind}_W{letter}"] = random.matrix(WIDTH, WIDTH)
                    arrays[f"{layer}_{kind}_b{letter}"] = random.matrix(1, WIDTH, 0.2)
                arrays.update(_norms(random, f"{layer}_{kind}_Wo", pre))
            arrays[f"{layer}_ffn_W1"] = random.matrix(WIDTH, FFN)
            arrays[f"{layer}_ffn_b1"] = random.matrix(1, FFN, 0.2)
            arrays[f"{layer}_ffn_W2"] = random.matrix(FFN, WIDTH)
            arrays[f"{layer}_ffn_b2"] = random.matrix(1, WIDTH, 0.2)
            arrays.update(_norms(random, f"{layer}_ffn_ffn", pre))
    lines = "".join(f"{name}: {_yaml(value)}\n" for name, value in config.items())
    stored: dict[str, Any] = {**arrays, **(extra or {})}
    stored["special:model.yml"] = np.frombuffer(lines.encode() + b"\0", np.int8)
    np.savez(path, **stored)
    return path


def _yaml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _norm(random: _Random) -> Arrays:
    return {"scale": random.near_one(WIDTH), "bias": random.matrix(1, WIDTH, 0.2)}


def _norms(random: _Random, name: str, pre: bool) -> Arrays:
    suffix = "_pre" if pre else ""
    return {f"{name}_ln_{kind}{suffix}": value for kind, value in _norm(random).items()}


def convert_marian(
    path: Path, folder: Path, src: Sequence[str], tgt: Sequence[str], **how: Any
) -> Path:
    """CTranslate2's conversion, with the vocabularies by their names."""
    from ctranslate2.converters import MarianConverter

    names = [str(write_yaml(folder.with_suffix(f".{i}.yml"), v)) for i, v in enumerate((src, tgt))]
    MarianConverter(str(path), names).convert(str(folder), **how)
    return folder


def ct2_nll(
    folder: Path, src: Sequence[Sequence[str]], tgt: Sequence[Sequence[str]]
) -> list[NDArray[np.float64]]:
    """Nll of each target token, EOS last, by CTranslate2 in float32."""
    translator = ctranslate2.Translator(
        str(folder), device="cpu", compute_type="float32", inter_threads=1, intra_threads=1
    )
    scored = translator.score_batch([list(row) for row in src], [list(row) for row in tgt])
    return [-np.array(result.log_probs) for result in scored]


def write_fairseq(path: Path, *, seed: int = 0, **settings: Any) -> argparse.Namespace:
    """A Transformer of random weights as fairseq's `.pt`; returns its settings."""
    args = argparse.Namespace(
        **{
            "arch": "transformer",
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_attention_heads": HEADS,
            "decoder_attention_heads": HEADS,
            "encoder_normalize_before": False,
            "decoder_normalize_before": False,
            "activation_fn": "relu",
            "encoder_learned_pos": False,
            "layernorm_embedding": False,
            "no_scale_embedding": False,
            "share_all_embeddings": True,
            "max_source_positions": 50,
            "max_target_positions": 50,
            **settings,
        }
    )
    torch.save(
        {
            "args": args,
            "model": fairseq_state(args, seed),
            "optimizer_history": [{"num_updates": 100 + seed}],
            "extra_state": {},
        },
        path,
    )
    return args


def fairseq_state(args: argparse.Namespace, seed: int) -> dict[str, torch.Tensor]:
    """The state dict, with fairseq's names."""
    random = _Random(seed)
    state: dict[str, NDArray[np.float32]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        state[f"{name}.weight"] = random.matrix(rows, columns)
        state[f"{name}.bias"] = random.matrix(1, rows, 0.2)[0]

    def norm(name: str) -> None:
        state[f"{name}.weight"] = random.near_one(WIDTH)[0]
        state[f"{name}.bias"] = random.matrix(1, WIDTH, 0.2)[0]

    for side in ("encoder", "decoder"):
        rows = VOCAB if args.share_all_embeddings or side == "decoder" else SRC_VOCAB
        state[f"{side}.embed_tokens.weight"] = random.matrix(rows, WIDTH)
        if args.encoder_learned_pos:
            state[f"{side}.embed_positions.weight"] = random.matrix(52, WIDTH)
        else:
            state[f"{side}.embed_positions._float_tensor"] = np.zeros(1, np.float32)
        state[f"{side}.version"] = np.full(1, 3, np.float32)
        if args.layernorm_embedding:
            norm(f"{side}.layernorm_embedding")
        if args.encoder_normalize_before:
            norm(f"{side}.layer_norm")
        for number in range(getattr(args, f"{side}_layers")):
            layer = f"{side}.layers.{number}"
            for kind in ("self_attn", "encoder_attn") if side == "decoder" else ("self_attn",):
                for part in "qkv":
                    linear(f"{layer}.{kind}.{part}_proj", WIDTH, WIDTH)
                linear(f"{layer}.{kind}.out_proj", WIDTH, WIDTH)
                norm(f"{layer}.{kind}_layer_norm")
            linear(f"{layer}.fc1", FFN, WIDTH)
            linear(f"{layer}.fc2", WIDTH, FFN)
            norm(f"{layer}.final_layer_norm")
    if args.share_all_embeddings:
        state["encoder.embed_tokens.weight"] = state["decoder.embed_tokens.weight"]
        state["decoder.output_projection.weight"] = state["decoder.embed_tokens.weight"]
    else:
        state["decoder.output_projection.weight"] = random.matrix(VOCAB, WIDTH)
    return {name: torch.from_numpy(array.copy()) for name, array in state.items()}


def convert_fairseq(args: argparse.Namespace, seed: int, folder: Path) -> Path:
    """CTranslate2's conversion of `fairseq_state`, by the parts of its converter.

    The converter itself builds the model by fairseq, which is not installed; here plain objects
    with the same attributes stand in its place.
    """
    from ctranslate2.converters import fairseq as converter
    from ctranslate2.specs import TransformerSpec

    state = fairseq_state(args, seed)
    spec = TransformerSpec.from_config(
        (args.encoder_layers, args.decoder_layers),
        HEADS,
        pre_norm=args.encoder_normalize_before,
        activation=converter._SUPPORTED_ACTIVATIONS[args.activation_fn],
        layernorm_embedding=args.layernorm_embedding,
    )
    converter.set_transformer_encoder(spec.encoder, _stack(state, args, "encoder"))
    converter.set_transformer_decoder(spec.decoder, _stack(state, args, "decoder"))
    src = VOCAB if args.share_all_embeddings else SRC_VOCAB
    spec.register_source_vocabulary(fairseq_pieces(src))
    spec.register_target_vocabulary(fairseq_pieces(VOCAB))
    spec.config.decoder_start_token = spec.config.eos_token
    spec.config.add_source_eos = True
    spec.validate()
    spec.optimize()
    folder.mkdir()
    spec.save(str(folder))
    return folder


def fairseq_pieces(size: int) -> list[str]:
    return ["<s>", "<blank>", "</s>", "<unk>", *(f"p{i}" for i in range(4, size))]


def write_dictionary(path: Path, size: int) -> Path:
    path.write_text("".join(f"{piece} 7\n" for piece in fairseq_pieces(size)[4:]), "utf-8")
    return path


def _stack(state: Mapping[str, torch.Tensor], args: argparse.Namespace, side: str) -> Any:
    named = argparse.Namespace

    def part(name: str) -> Any:
        if f"{side}.{name}.weight" not in state:
            return None
        return named(weight=state[f"{side}.{name}.weight"], bias=state.get(f"{side}.{name}.bias"))

    def attention(name: str) -> Any:
        parts = ("q_proj", "k_proj", "v_proj", "out_proj")
        return named(**{each: part(f"{name}.{each}") for each in parts})

    layers = []
    for number in range(getattr(args, f"{side}_layers")):
        layer = f"layers.{number}"
        names = (
            "fc1",
            "fc2",
            "self_attn_layer_norm",
            "final_layer_norm",
            "encoder_attn_layer_norm",
        )
        layers.append(named(**{name: part(f"{layer}.{name}") for name in names}))
        layers[-1].self_attn = attention(f"{layer}.self_attn")
        layers[-1].encoder_attn = attention(f"{layer}.encoder_attn")
    positions = named(padding_idx=1, weights=torch.tensor(_sinusoids(52)))
    if args.encoder_learned_pos:
        positions = torch.nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
            state[f"{side}.embed_positions.weight"], padding_idx=1
        )
    return named(
        embed_tokens=part("embed_tokens"),
        embed_positions=positions,
        embed_scale=1.0 if args.no_scale_embedding else WIDTH**0.5,
        layers=layers,
        layer_norm=part("layer_norm"),
        layernorm_embedding=part("layernorm_embedding"),
        output_projection=part("output_projection"),
        project_in_dim=None,
        project_out_dim=None,
    )


def _sinusoids(rows: int) -> NDArray[np.float32]:
    """fairseq's table: row i is position i."""
    rates = np.exp(-np.log(10000.0) * np.arange(WIDTH // 2) / (WIDTH // 2 - 1))
    angles = np.arange(rows)[:, None] * rates
    return np.concatenate((np.sin(angles), np.cos(angles)), axis=1).astype(np.float32)


def write_open_nmt(path: Path, *, seed: int = 0, pos_ffn_activation_fn: str = "relu") -> Path:
    """A Transformer of random weights as OpenNMT-py's `.pt`, with its vocabulary."""
    random, state = _Random(seed), {}

    def linear(name: str, rows: int, columns: int) -> None:
        state[f"{name}.weight"] = random.matrix(rows, columns)
        state[f"{name}.bias"] = random.matrix(1, rows, 0.2)[0]

    def norm(name: str) -> None:
        state[f"{name}.weight"] = random.near_one(WIDTH)[0]
        state[f"{name}.bias"] = random.matrix(1, WIDTH, 0.2)[0]

    for side, rows in (("encoder", SRC_VOCAB), ("decoder", VOCAB)):
        embeddings = f"{side}.embeddings.make_embedding"
        state[f"{embeddings}.emb_luts.0.weight"] = random.matrix(rows, WIDTH)
        state[f"{embeddings}.pe.pe"] = _sinusoids(40)[:, None]
        norm(f"{side}.layer_norm")
        attentions = ("self_attn", "context_attn") if side == "decoder" else ("self_attn",)
        layer = f"{side}.{'transformer' if side == 'encoder' else 'transformer_layers'}.0"
        for kind in attentions:
            for part in ("linear_query", "linear_keys", "linear_values", "final_linear"):
                linear(f"{layer}.{kind}.{part}", WIDTH, WIDTH)
        for name in ("layer_norm",) if side == "encoder" else ("layer_norm_1", "layer_norm_2"):
            norm(f"{layer}.{name}")
        norm(f"{layer}.feed_forward.layer_norm")
        linear(f"{layer}.feed_forward.w_1", FFN, WIDTH)
        linear(f"{layer}.feed_forward.w_2", WIDTH, FFN)
    generator = {"weight": random.matrix(VOCAB, WIDTH), "bias": random.matrix(1, VOCAB)[0]}
    opt = argparse.Namespace(
        encoder_type="transformer",
        decoder_type="transformer",
        enc_layers=1,
        dec_layers=1,
        heads=HEADS,
        position_encoding=True,
        max_relative_positions=0,
        pos_ffn_activation_fn=pos_ffn_activation_fn,
        self_attn_type="scaled-dot",
    )
    words = ["<unk>", "<blank>", "<s>", "</s>"]
    vocab = {
        "src": [*words, *(f"p{i}" for i in range(4, SRC_VOCAB))],
        "tgt": [*words, *(f"p{i}" for i in range(4, VOCAB))],
    }
    torch.save(
        {
            "model": {name: torch.from_numpy(array.copy()) for name, array in state.items()},
            "generator": {name: torch.from_numpy(array) for name, array in generator.items()},
            "opt": opt,
            "vocab": vocab,
            "optim": {"training_step": 500 + seed},
        },
        path,
    )
    return path


def sentencepiece_model(path: Path, lines: list[str], vocab_size: int) -> Path:
    """A model as Marian trains them: `</s>` is 0 and `<unk>` 1."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(path.with_suffix("")),
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        bos_id=-1,
        eos_id=0,
        unk_id=1,
        minloglevel=2,
    )
    return path.with_suffix(".model").rename(path)
