"""Beam search by CTranslate2, on the weights of a proxy.

It needs `pip install "pycat-nmt[translate]"`. Greedy search finds what the own one finds, up to
rounding. With more hypotheses, most targets are the same: CTranslate2 ends a search at `beam`
finished ones, even if a prefix that goes on scores higher. The longest source of a batch bounds the
targets of all.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pycat.evaluation.beam_search import Search
from pycat.proxy.transformer import Transformer, sinusoids

# Sources have at most 512 tokens (`translate`), and targets twice as many and ten.
_NUM_POSITIONS = 2048


def has_ctranslate2() -> bool:
    """Whether CTranslate2 is installed."""
    try:
        import ctranslate2  # noqa: F401
    except ImportError:
        return False
    return True


def ctranslate2_search(
    model: Transformer, eos_id: int, *, beam: int, alpha: float, device: torch.device
) -> Search:
    """A search like `beam_search` of this model, in float32.

    Args:
        model: its weights are copied.
        eos_id, beam, alpha: as for `beam_search`.
        device: "cpu" or "cuda".
    """
    import ctranslate2

    with tempfile.TemporaryDirectory(prefix="pycat-") as folder:
        save_for_ctranslate2(model, eos_id, Path(folder))
        translator = ctranslate2.Translator(
            folder,
            device=device.type,
            device_index=device.index or 0,
            compute_type="float32",
            intra_threads=torch.get_num_threads(),
        )

    def search(sources: Sequence[Sequence[int]]) -> list[list[int]]:
        found = translator.translate_batch(
            [[str(token) for token in source] for source in sources],
            beam_size=beam,
            length_penalty=alpha,
            max_input_length=0,
            min_decoding_length=0,
            max_decoding_length=2 * max(map(len, sources)) + 10,
        )
        return [[int(token) for token in result.hypotheses[0]] for result in found]

    return search


def save_for_ctranslate2(model: Transformer, eos_id: int, folder: Path) -> None:
    """Write the model as CTranslate2 reads it; the vocabulary's tokens are ids in decimal."""
    from ctranslate2.specs import TransformerSpec

    config = model.config
    spec = TransformerSpec.from_config(config.num_layers, config.num_heads)
    weights = {name: value.detach().float().cpu() for name, value in model.state_dict().items()}
    src_embedding = "embedding" if config.src_vocab_size is None else "src_embedding"
    spec.encoder.embeddings[0].weight = weights[f"{src_embedding}.weight"].numpy()
    spec.decoder.embeddings.weight = weights["embedding.weight"].numpy()
    spec.decoder.projection.weight = weights["embedding.weight"].numpy()
    positions = sinusoids(torch.arange(_NUM_POSITIONS), config.d_model).numpy()
    for side, name in ((spec.encoder, "encoder"), (spec.decoder, "decoder")):
        side.position_encodings.encodings = positions
        _set_norm(side.layer_norm, weights, f"{name}_norm")
        for i, layer in enumerate(side.layer):
            at = f"{name}.{i}"
            _set_self_attention(layer.self_attention, weights, f"{at}.self_attention")
            _set_norm(layer.self_attention.layer_norm, weights, f"{at}.norms.0")
            if name == "decoder":
                _set_cross_attention(layer.attention, weights, f"{at}.cross_attention")
                _set_norm(layer.attention.layer_norm, weights, f"{at}.norms.1")
            last = 2 if name == "decoder" else 1
            _set_norm(layer.ffn.layer_norm, weights, f"{at}.norms.{last}")
            _set_linear(layer.ffn.linear_0, weights, f"{at}.feed_forward.0")
            _set_linear(layer.ffn.linear_1, weights, f"{at}.feed_forward.2")

    src_size = config.vocab_size if config.src_vocab_size is None else config.src_vocab_size
    spec.register_source_vocabulary([str(token) for token in range(src_size)])
    spec.register_target_vocabulary([str(token) for token in range(config.vocab_size)])
    eos = str(eos_id)
    for role in ("bos_token", "eos_token", "unk_token", "decoder_start_token"):
        setattr(spec.config, role, eos)
    spec.config.layer_norm_epsilon = model.encoder_norm.eps
    spec.validate()
    spec.optimize()
    spec.save(str(folder))


def _set_self_attention(spec: Any, weights: dict[str, Tensor], name: str) -> None:
    """Queries, keys and values are one layer."""
    for part in ("weight", "bias"):
        joined = torch.cat((weights[f"{name}.query.{part}"], weights[f"{name}.key_value.{part}"]))
        setattr(spec.linear[0], part, joined.numpy())
    _set_linear(spec.linear[1], weights, f"{name}.output")


def _set_cross_attention(spec: Any, weights: dict[str, Tensor], name: str) -> None:
    for linear, part in zip(spec.linear, ("query", "key_value", "output"), strict=True):
        _set_linear(linear, weights, f"{name}.{part}")


def _set_linear(spec: Any, weights: dict[str, Tensor], name: str) -> None:
    spec.weight, spec.bias = (weights[f"{name}.{part}"].numpy() for part in ("weight", "bias"))


def _set_norm(spec: Any, weights: dict[str, Tensor], name: str) -> None:
    spec.gamma, spec.beta = (weights[f"{name}.{part}"].numpy() for part in ("weight", "bias"))
