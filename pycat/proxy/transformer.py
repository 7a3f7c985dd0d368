"""The proxy model: a pre-norm encoder-decoder Transformer with tied embeddings.

Source and target share a vocabulary, one embedding matrix and, with it, the output layer. Only a
source with a vocabulary of its own has an embedding of its own. Sequences are padded on the right
and end with EOS; the decoder starts from EOS. No result depends on padded positions, so any id may
pad.
"""

import math
from dataclasses import asdict, dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRESETS: dict[str, dict[str, int]] = {
    "mini": {"d_model": 128, "num_heads": 4, "d_ff": 256, "num_layers": 4},
    "tiny": {"d_model": 256, "num_heads": 4, "d_ff": 1024, "num_layers": 3},
    "base": {"d_model": 512, "num_heads": 8, "d_ff": 2048, "num_layers": 6},
}


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a proxy.

    `num_layers` counts encoder layers; the decoder has as many. `src_vocab_size` is None where
    source and target share the vocabulary.
    """

    vocab_size: int
    d_model: int
    num_heads: int
    d_ff: int
    num_layers: int
    src_vocab_size: int | None = None

    def to_json(self) -> dict[str, int]:
        """The fields that are set, as a JSON object."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Dropout(nn.Module):
    """Dropout from one random byte an element, its probability rounded to 1/256.

    On the CPU `F.dropout` draws a number an element on one thread: several times as slow.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.threshold = round(256 * probability)

    def forward(self, x: Tensor) -> Tensor:
        """Zero or scale up each element in training mode; else return x itself."""
        if not self.training or self.threshold == 0:
            return x
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
        bytes_ = words.random_(-(2**63), None).view(torch.uint8)[: x.numel()].view(x.shape)
        return x * (bytes_ >= self.threshold) * (256 / (256 - self.threshold))


class Attention(nn.Module):
    """Multi-head attention of queries x over given keys and values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = nn.Linear(config.d_model, config.d_model)
        self.key_value = nn.Linear(config.d_model, 2 * config.d_model)
        self.output = nn.Linear(config.d_model, config.d_model)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, S, D / heads) of x (B, S, D)."""
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, is_causal: bool = False
    ) -> Tensor:
        """Attend from x (B, T, D) to keys and values (B, heads, S, D / heads): (B, T, D).

        `mask` is True where a key may be seen.
        """
        queries = self._split(self.query(x))  # (B, heads, T, D / heads)
        # On the CPU torch's bfloat16 attention is slower than its float32 one.
        slow = x.device.type == "cpu" and queries.dtype == torch.bfloat16
        with torch.autocast(
            x.device.type, enabled=not slow and torch.is_autocast_enabled(x.device.type)
        ):
            if slow:
                queries, keys, values = queries.float(), keys.float(), values.float()
            heads = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, is_causal=is_causal
            )
        out: Tensor = self.output(heads.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return x.view(batch, length, self.num_heads, -1).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Linear layer, ReLU, linear layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(
            nn.Linear(config.d_model, config.d_ff),
            nn.ReLU(),
            nn.Linear(config.d_ff, config.d_model),
        )


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each on a norm of x and added to x."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.norms = nn.ModuleList(nn.LayerNorm(config.d_model) for _ in range(2))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Encode x (B, S, D): (B, S, D); `mask` (B, 1, 1, S) is True at source tokens."""
        normed = self.norms[0](x)
        attended = self.self_attention(normed, *self.self_attention.keys_values(normed), mask)
        x = x + self.dropout(attended)
        out: Tensor = x + self.dropout(self.feed_forward(self.norms[1](x)))
        return out


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, feed-forward."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(config)
        self.cross_attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.norms = nn.ModuleList(nn.LayerNorm(config.d_model) for _ in range(3))
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: tuple[Tensor, Tensor],
        memory_mask: Tensor,
        cache: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Decode x (B, T, D): (B, T, D), and keys and values of the self-attention so far.

        Without a cache x is the whole prefix, and attention is causal. With a cache x is the next
        position alone, and attends to all cached positions.
        """
        normed = self.norms[0](x)
        keys, values = self.self_attention.keys_values(normed)
        if cache is not None:
            keys = torch.cat((cache[0], keys), dim=2)
            values = torch.cat((cache[1], values), dim=2)
        attended = self.self_attention(normed, keys, values, None, is_causal=cache is None)
        x = x + self.dropout(attended)
        x = x + self.dropout(self.cross_attention(self.norms[1](x), *memory, memory_mask))
        return x + self.dropout(self.feed_forward(self.norms[2](x))), (keys, values)


def sinusoids(positions: Tensor, d_model: int) -> Tensor:
    """Position embeddings of integer positions (T,): float32 (T, D). Vaswani et al. 2017."""
    rates = torch.exp(
        torch.arange(0, d_model, 2, device=positions.device) * (-math.log(10_000.0) / d_model)
    )
    angles = positions[:, None].float() * rates
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


@dataclass
class DecoderState:
    """State of decoding B rows between two steps.

    Attributes:
        memory: per layer, keys and values of the source (B, heads, S, D / heads).
        memory_mask: (B, 1, 1, S), True at source tokens, False at padding.
        cache: per layer, keys and values of the target so far (B, heads, T, D / heads).
        position: T.
    """

    memory: list[tuple[Tensor, Tensor]]
    memory_mask: Tensor
    cache: list[tuple[Tensor, Tensor] | None]
    position: int = 0

    def reorder(self, rows: Tensor, *, same_source: bool = False) -> None:
        """Keep `rows` (B',) in that order; `same_source` tells that the memory need not change."""
        self.cache = [pair and (pair[0][rows], pair[1][rows]) for pair in self.cache]
        if not same_source:
            self.memory = [(keys[rows], values[rows]) for keys, values in self.memory]
            self.memory_mask = self.memory_mask[rows]


class Transformer(nn.Module):
    """The proxy model: Vaswani et al. 2017, arXiv:1706.03762, with a norm before each sublayer."""

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.src_embedding = (
            None
            if config.src_vocab_size is None
            else nn.Embedding(config.src_vocab_size, config.d_model)
        )
        layers = range(config.num_layers)
        self.encoder = nn.ModuleList(EncoderLayer(config, dropout) for _ in layers)
        self.decoder = nn.ModuleList(DecoderLayer(config, dropout) for _ in layers)
        self.encoder_norm = nn.LayerNorm(config.d_model)
        self.decoder_norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(dropout)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        # Tied to the output layer: std D^-1/2 keeps the initial logits near unit scale.
        nn.init.normal_(self.embedding.weight, std=config.d_model**-0.5)
        if self.src_embedding is not None:
            nn.init.normal_(self.src_embedding.weight, std=config.d_model**-0.5)

    @property
    def output_weight(self) -> Tensor:
        """The output layer (V, D): logits are `hidden @ output_weight.T`."""
        return self.embedding.weight

    def forward(self, src: Tensor, src_lengths: Tensor, tgt_in: Tensor) -> Tensor:
        """Hidden states (B, T, D) that predict each next target token.

        Args:
            src: int64 (B, S), padded on the right.
            src_lengths: int64 (B,).
            tgt_in: int64 (B, T), the target shifted right behind EOS, padded on the right.
        """
        state = self.start(src, src_lengths)
        return self._decode(tgt_in, state)

    def start(self, src: Tensor, src_lengths: Tensor) -> DecoderState:
        """Encode the source (B, S) of lengths (B,): the state before the first target position."""
        x, mask = self.encode(src, src_lengths)
        attentions = (cast(DecoderLayer, layer).cross_attention for layer in self.decoder)
        memory = [attention.keys_values(x) for attention in attentions]
        return DecoderState(memory, mask, [None] * len(self.decoder))

    def encode(self, src: Tensor, src_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states (B, S, D) of the source, and a mask (B, 1, 1, S), True at tokens."""
        positions = torch.arange(src.shape[1], device=src.device)
        mask = (positions < src_lengths[:, None])[:, None, None, :]
        x = self.embed(src, 0, self.src_embedding or self.embedding)
        for layer in self.encoder:
            x = layer(x, mask)
        return self.encoder_norm(x), mask

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Logits (B, V) after one more token (B,); advances `state`."""
        hidden = self._decode(tokens[:, None], state)[:, 0]
        state.position += 1
        return F.linear(hidden, self.output_weight)

    def _decode(self, tokens: Tensor, state: DecoderState) -> Tensor:
        x = self.embed(tokens, state.position, self.embedding)
        for i, layer in enumerate(self.decoder):
            x, state.cache[i] = layer(x, state.memory[i], state.memory_mask, state.cache[i])
        hidden: Tensor = self.decoder_norm(x)
        return hidden

    def embed(self, tokens: Tensor, first_position: int, embedding: nn.Embedding) -> Tensor:
        """Embeddings (B, T, D) of tokens (B, T) and of their positions, from the first on."""
        d_model = self.config.d_model
        x = embedding(tokens) * math.sqrt(d_model)
        positions = torch.arange(first_position, first_position + tokens.shape[1], device=x.device)
        x = x + sinusoids(positions, d_model).to(x.dtype)
        dropped: Tensor = self.dropout(x)
        return dropped


def shift_right(tgt: Tensor, eos_id: int) -> Tensor:
    """Decoder input (B, T) of targets (B, T): EOS, then all columns but the last."""
    return torch.cat((tgt.new_full((len(tgt), 1), eos_id), tgt[:, :-1]), dim=1)
