"""Random proxies, in the forms that other scorers read, and a corpus for them.

The same weights as a `pycat.proxy.transformer.Transformer`, as a CTranslate2 model and as an
`M2M100ForConditionalGeneration` of Hugging Face: they must agree, and are timed against each other.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pycat import _core, open_corpus
from pycat.data.corpus import Corpus
from pycat.proxy.transformer import Attention, DecoderLayer, ModelConfig, Transformer

EOS_ID, PAD_ID, FIRST_ID = 2, 1, 4  # the ids below FIRST_ID are no words
MAX_POSITIONS = 1024


def translation_lengths(num_pairs: int, *, seed: int = 0) -> NDArray[np.int32]:
    """Tokens of both sides (2, N): log-normal and correlated as in translations, 26 on average."""
    rng = np.random.default_rng(seed)
    sigma, correlation = 0.6, 0.9
    mu = np.log(26) - sigma**2 / 2  # the mean of exp(normal) is exp(mu + sigma²/2)
    normal = rng.standard_normal((2, num_pairs))
    normal[1] = correlation * normal[0] + np.sqrt(1 - correlation**2) * normal[1]
    lengths: NDArray[np.int32] = np.exp(mu + sigma * normal).round().clip(1, 120).astype(np.int32)
    return lengths


def write_corpus(
    folder: Path,
    lengths: NDArray[np.int32],
    vocab_size: int,
    *,
    seed: int = 0,
    src: NDArray[np.int32] | None = None,
) -> Corpus:
    """So many tokens (2, N) on both sides, words as frequent as Zipf says, then EOS.

    Sources may be given: (N, tokens).
    """
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    shares = word_frequencies(vocab_size)
    for side, row in zip(("src", "tgt"), lengths, strict=True):
        tokens = rng.choice(vocab_size, row.sum(), p=shares).astype(np.int32)
        tokens[row.cumsum() - 1] = EOS_ID
        if side == "src" and src is not None:
            tokens, row = src.ravel(), np.full(len(src), src.shape[1], dtype=np.int32)
        with _core.IndexedWriter(str(folder / side), dtype="uint16") as writer:
            writer.append(tokens, row)
    return reopen(folder, vocab_size)


def reopen(folder: Path, vocab_size: int) -> Corpus:
    """The corpus that `write_corpus` wrote."""
    return open_corpus((folder / "src", folder / "tgt"), vocab_size=vocab_size, eos_id=EOS_ID)


def word_frequencies(vocab_size: int) -> NDArray[np.float64]:
    """Zipf's: float64 (V,), which sum to 1; no word has an id below FIRST_ID."""
    shares = 1 / np.arange(1 - FIRST_ID, vocab_size - FIRST_ID + 1, dtype=np.float64).clip(1)
    shares[:FIRST_ID] = 0
    shares /= shares.sum()
    return shares


@torch.no_grad()
def random_proxy(config: ModelConfig, seed: int, learned: float) -> Transformer:
    """A proxy that knows words by their frequency, and believes in its random weights besides.

    So its loss is neither that of a guess nor far beyond it. `learned` from 0 to 1 is how much of
    the frequencies it knows: later checkpoints know more, and perplexities move as in a training.
    """
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    for name, value in model.named_parameters():
        if value.dim() == 1:
            value.add_(0.1 * torch.randn_like(value))
        # Else the embedding of the last token, to which the layers add, would be most of what the
        # output layer sees, and each token would predict itself.
        elif name.endswith(("output.weight", "feed_forward.2.weight")):
            value.mul_(3.0)
    frequencies = torch.from_numpy(word_frequencies(config.vocab_size)).clamp_min(1e-6).log()
    # One column of the embedding holds them, and the bias of the last norm reads it.
    model.embedding.weight[:, 0] = (frequencies - frequencies.mean()) / math.sqrt(config.d_model)
    model.decoder_norm.bias[0] = learned * math.sqrt(config.d_model)
    return model


def positions(d_model: int, count: int = MAX_POSITIONS) -> Tensor:
    """What a proxy adds to its embeddings: float32 (count, D)."""
    rates = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10_000.0) / d_model))
    angles = torch.arange(count, dtype=torch.float32)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def save_ctranslate2(model: Transformer, folder: Path) -> None:
    """Write it as a CTranslate2 model whose tokens are the ids in decimal digits.

    It adds EOS to both sides: sentences are given without, as `words` are.
    """
    from ctranslate2.specs import TransformerSpec  # not on a machine that scores on CUDA alone

    config = model.config
    spec = TransformerSpec.from_config(config.num_layers, config.num_heads, pre_norm=True)
    for side, ours, norm in (
        (spec.encoder, model.encoder, model.encoder_norm),
        (spec.decoder, model.decoder, model.decoder_norm),
    ):
        side.position_encodings.encodings = positions(config.d_model).numpy()
        _set_norm(side.layer_norm, norm)
        layer: Any
        for to, layer in zip(side.layer, ours, strict=True):
            attention = layer.self_attention
            _set_norm(to.self_attention.layer_norm, layer.norms[0])
            _set_linear(to.self_attention.linear[0], attention.query, attention.key_value)
            _set_linear(to.self_attention.linear[1], attention.output)
            if isinstance(layer, DecoderLayer):
                attention = layer.cross_attention
                _set_norm(to.attention.layer_norm, layer.norms[1])
                _set_linear(to.attention.linear[0], attention.query)
                _set_linear(to.attention.linear[1], attention.key_value)
                _set_linear(to.attention.linear[2], attention.output)
            _set_norm(to.ffn.layer_norm, layer.norms[-1])
            _set_linear(to.ffn.linear_0, layer.feed_forward[0])
            _set_linear(to.ffn.linear_1, layer.feed_forward[2])
    weight = model.embedding.weight.detach().numpy()
    spec.encoder.embeddings[0].weight = weight
    spec.decoder.embeddings.weight = weight
    spec.decoder.projection.weight = weight
    words = [str(i) for i in range(config.vocab_size)]
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    spec.config.unk_token = spec.config.bos_token = words[0]
    spec.config.eos_token = spec.config.decoder_start_token = words[EOS_ID]
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = model.decoder_norm.eps
    spec.validate()
    spec.optimize()
    folder.mkdir()
    spec.save(str(folder))


def _set_norm(spec: Any, norm: nn.Module) -> None:
    assert isinstance(norm, nn.LayerNorm)
    spec.gamma, spec.beta = norm.weight.detach().numpy(), norm.bias.detach().numpy()


def _set_linear(spec: Any, *layers: nn.Linear) -> None:
    """One layer, or several that read the same input, in one product."""
    spec.weight = torch.cat([layer.weight for layer in layers]).detach().numpy()
    spec.bias = torch.cat([layer.bias for layer in layers]).detach().numpy()


def words(corpus: Corpus) -> tuple[list[list[str]], list[list[str]]]:
    """Both sides of a corpus as CTranslate2 reads them: ids in digits, EOS left out."""
    pairs = [corpus[row] for row in range(len(corpus))]
    src, tgt = ([list(map(str, pair[side][:-1].tolist())) for pair in pairs] for side in (0, 1))
    return src, tgt


@torch.no_grad()
def to_hugging_face(model: Transformer) -> Any:
    """The same as a model of transformers that pads with PAD_ID, positions not counted there."""
    import transformers  # takes seconds, and one process of the bench needs it

    config = model.config
    theirs = transformers.M2M100ForConditionalGeneration(
        transformers.M2M100Config(
            vocab_size=config.vocab_size,
            d_model=config.d_model,
            encoder_layers=config.num_layers,
            decoder_layers=config.num_layers,
            encoder_attention_heads=config.num_heads,
            decoder_attention_heads=config.num_heads,
            encoder_ffn_dim=config.d_ff,
            decoder_ffn_dim=config.d_ff,
            activation_function="relu",
            scale_embedding=True,
            max_position_embeddings=MAX_POSITIONS,
            pad_token_id=PAD_ID,
            eos_token_id=EOS_ID,
            bos_token_id=0,
            decoder_start_token_id=EOS_ID,
        )
    ).eval()
    theirs.model.shared.weight.copy_(model.embedding.weight)
    for side, ours, norm in (
        (theirs.model.encoder, model.encoder, model.encoder_norm),
        (theirs.model.decoder, model.decoder, model.decoder_norm),
    ):
        # The first position counted is PAD_ID + 1.
        table = side.embed_positions.weights
        table[PAD_ID + 1 :] = positions(config.d_model, len(table) - PAD_ID - 1)
        side.layer_norm.load_state_dict(norm.state_dict())
        layer: Any
        for to, layer in zip(side.layers, ours, strict=True):
            norms = [to.self_attn_layer_norm, to.final_layer_norm]
            _copy_attention(to.self_attn, layer.self_attention)
            if isinstance(layer, DecoderLayer):
                norms.insert(1, to.encoder_attn_layer_norm)
                _copy_attention(to.encoder_attn, layer.cross_attention)
            for their_norm, our_norm in zip(norms, layer.norms, strict=True):
                their_norm.load_state_dict(our_norm.state_dict())
            to.fc1.load_state_dict(layer.feed_forward[0].state_dict())
            to.fc2.load_state_dict(layer.feed_forward[2].state_dict())
    return theirs


def _copy_attention(to: Any, attention: Attention) -> None:
    to.q_proj.load_state_dict(attention.query.state_dict())
    to.out_proj.load_state_dict(attention.output.state_dict())
    both = attention.key_value
    for i, part in enumerate((to.k_proj, to.v_proj)):
        part.weight.copy_(both.weight.chunk(2)[i])
        part.bias.copy_(both.bias.chunk(2)[i])
