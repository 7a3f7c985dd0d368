"""The forward pass of K proxies at once, without padding.

Parameters of the K checkpoints are stacked [K, ...]; a linear layer is one batched product over
[K, T, D] of packed tokens. Each batch is read once. Before they are stacked, layers are simplified
in float64, which changes results by rounding alone:

    gain and shift of a norm    are folded into the linear layers that read it, except the last norm
    bias of the values          is folded into the bias of the output: weights of a head sum to 1
    bias of the keys            is dropped: it adds the same to all scores of a query

The elementwise work between two products is one pass over memory (`kernels/residual.py`);
`baddbmm` would write the bias to memory and read it again. The residual stream is float32; products
are in the dtype asked for.

Memory for T target and S source tokens: K T (4 D + s max(6 D, 2 D + F)) + K S s D bytes, with s
bytes an element and feed-forward layers F wide; the fused kernel adds a few bytes per token and
split of the vocabulary. No tensor is K x T x V.

CUDA graphs and torch.compile are not used: a graph would have to be recorded for the shape of every
batch, and the operations that a compiler would fuse are fused already.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pycat.kernels.ops import PackedWeight, pack_weight
from pycat.proxy.packed_attention import Attend, Side, attention, has_varlen
from pycat.proxy.transformer import (
    Attention,
    DecoderLayer,
    EncoderLayer,
    FeedForward,
    Transformer,
    sinusoids,
)


class _SelfAttention(NamedTuple):
    """Stacked weights (K, out, in), in the dtype of products, and biases (K, 1, out), float32.

    The same holds for the two classes below.
    """

    queries_keys_values: Tensor
    query_bias: Tensor
    output: Tensor
    output_bias: Tensor


class _CrossAttention(NamedTuple):
    queries: Tensor
    query_bias: Tensor
    keys_values: Tensor
    output: Tensor
    output_bias: Tensor


class _FeedForward(NamedTuple):
    inner: Tensor
    inner_bias: Tensor
    outer: Tensor
    outer_bias: Tensor


class StackedProxies:
    """K proxies of one shape on one device, as one model.

    Attributes:
        head: the output layers of all checkpoints, in the layout of the fused kernel.
    """

    head: PackedWeight

    @torch.inference_mode()
    def __init__(self, models: Sequence[Transformer], eos_id: int, dtype: torch.dtype) -> None:
        """Stack copies of the models' parameters, on the device of the models.

        Args:
            models: K >= 1, of one shape.
            eos_id: the token that the decoder starts from.
            dtype: of the operands of products: float32 or bfloat16; float64 as a reference.
        """
        first = models[0]
        self._num_checkpoints, self._eos_id, self._dtype = len(models), eos_id, dtype
        # The dtype of the residual stream and of sums.
        self._wide = torch.promote_types(dtype, torch.float32)
        self._num_heads = first.config.num_heads
        self._width = first.config.d_model
        self._eps = first.encoder_norm.eps
        self._device = first.output_weight.device

        layers = range(first.config.num_layers)
        self._encoder = [
            (
                _SelfAttention(*self._stack([_self_attention(m.encoder[i]) for m in models])),
                _FeedForward(*self._stack([_feed_forward(m.encoder[i]) for m in models])),
            )
            for i in layers
        ]
        self._decoder = [
            (
                _SelfAttention(*self._stack([_self_attention(m.decoder[i]) for m in models])),
                _CrossAttention(*self._stack([_cross_attention(m, i) for m in models])),
                _FeedForward(*self._stack([_feed_forward(m.decoder[i]) for m in models])),
            )
            for i in layers
        ]
        # Not folded into the head: the bound on the gradient needs the model's own hidden states.
        norms = [(model.decoder_norm.weight, model.decoder_norm.bias) for model in models]
        gain, shift = self._stack(norms)
        self._last_norm = gain, shift
        # Looked up in full precision, which costs no time; rounding would shift every token.
        self._embedding = torch.stack([model.embedding.weight for model in models]).to(self._wide)
        self._src_embedding = self._embedding
        if first.src_embedding is not None:
            tables = [cast(nn.Embedding, model.src_embedding).weight for model in models]
            self._src_embedding = torch.stack(tables).to(self._wide)
        if dtype != torch.float64:
            self.head = pack_weight(self._embedding.to(dtype))

    @torch.inference_mode()
    def hidden(self, src: Side, tgt: Side, *, varlen: bool | None = None) -> Tensor:
        """Hidden states (K, T, D) that predict each target token; does not wait for the device.

        Args:
            src, tgt: the two sides of B pairs, on the device of the models.
            varlen: whether to use `varlen_attn`; by default wherever `has_varlen` allows it.
        """
        if varlen is None:
            varlen = has_varlen(self._device, self._dtype, self._width // self._num_heads)

        def over(queries: Side, keys: Side, *, is_causal: bool = False) -> Attend:
            return attention(
                queries, keys, self._num_checkpoints, is_causal=is_causal, varlen=varlen
            )

        # Encoder: residual stream x (K, S, D).
        attend = over(src, src)
        x = self._embed(src.tokens, src, self._src_embedding)
        normed = self._add_norm(x)
        for to_itself, feed in self._encoder:
            normed = self._add_norm(x, *self._self_attend(normed, to_itself, attend))
            normed = self._add_norm(x, *self._feed(normed, feed))
        memory = normed

        # Decoder: residual stream x (K, T, D).
        attend, attend_source = over(tgt, tgt, is_causal=True), over(tgt, src)
        x = self._embed(self._shift_right(tgt), tgt, self._embedding)
        normed = self._add_norm(x)
        for i, (to_itself, to_source, feed) in enumerate(self._decoder):
            normed = self._add_norm(x, *self._self_attend(normed, to_itself, attend))
            normed = self._add_norm(
                x, *self._cross_attend(normed, memory, to_source, attend_source)
            )
            affine = self._last_norm if i + 1 == len(self._decoder) else None
            normed = self._add_norm(x, *self._feed(normed, feed), affine=affine)
        return normed

    def _stack(self, of_models: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
        """Weights (K, out, in) and biases (K, 1, out) of each model's (out, in) and (out,)."""
        return [
            torch.stack(part).to(self._dtype)
            if part[0].dim() == 2
            else torch.stack(part)[:, None].to(self._wide)
            for part in zip(*of_models, strict=True)
        ]

    def _shift_right(self, tgt: Side) -> Tensor:
        """Decoder input (T,): each packed target begins with EOS and loses its last token."""
        shifted = tgt.tokens.roll(1)
        return shifted.index_fill_(0, tgt.cu_seqlens[:-1].long(), self._eos_id)

    def _embed(self, tokens: Tensor, side: Side, table: Tensor) -> Tensor:
        """Embeddings (K, T, D) of tokens (T,) at the positions of `side`, by a table (K, V, D)."""
        num_checkpoints, vocab_size, width = table.shape
        firsts = vocab_size * torch.arange(num_checkpoints, device=tokens.device)
        x = F.embedding(firsts[:, None] + tokens, table.flatten(0, 1)) * math.sqrt(width)
        num_tokens = len(tokens)
        starts = torch.repeat_interleave(
            side.cu_seqlens[:-1], side.cu_seqlens.diff(), output_size=num_tokens
        )
        positions = torch.arange(num_tokens, device=tokens.device) - starts
        return x.add_(sinusoids(positions, width))

    def _self_attend(
        self, x: Tensor, weights: _SelfAttention, attend: Attend
    ) -> tuple[Tensor, Tensor]:
        products = _linear(x, weights.queries_keys_values)
        self._add_bias_(products[..., : self._width], weights.query_bias)
        heads = attend(*self._heads(products, 3))
        return _linear(heads.reshape(x.shape), weights.output), weights.output_bias

    def _cross_attend(
        self, x: Tensor, memory: Tensor, weights: _CrossAttention, attend: Attend
    ) -> tuple[Tensor, Tensor]:
        queries = self._add_bias_(_linear(x, weights.queries), weights.query_bias)
        keys_values = _linear(memory, weights.keys_values)
        heads = attend(*self._heads(queries, 1), *self._heads(keys_values, 2))
        return _linear(heads.reshape(x.shape), weights.output), weights.output_bias

    def _feed(self, x: Tensor, weights: _FeedForward) -> tuple[Tensor, Tensor]:
        inner = self._add_bias_(_linear(x, weights.inner), weights.inner_bias, relu=True)
        return _linear(inner, weights.outer), weights.outer_bias

    def _heads(self, products: Tensor, count: int) -> tuple[Tensor, ...]:
        """Views (K T, heads, width) of the `count` parts of products (K, T, count D)."""
        num_checkpoints, num_tokens, _ = products.shape
        shape = (num_checkpoints * num_tokens, count, self._num_heads, -1)
        return products.view(shape).unbind(1)

    def _add_norm(
        self,
        x: Tensor,
        delta: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        affine: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        if x.is_cuda:
            from pycat.kernels.residual import add_norm

            normed: Tensor = add_norm(
                x, delta, bias, eps=self._eps, dtype=self._dtype, affine=affine
            )
            return normed
        if delta is not None:
            x.add_(delta).add_(cast(Tensor, bias))
        normed = F.layer_norm(x, (self._width,), eps=self._eps)
        if affine is not None:
            normed = torch.addcmul(affine[1], normed, affine[0])
        return normed.to(self._dtype)

    def _add_bias_(self, x: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
        if x.is_cuda:
            from pycat.kernels.residual import add_bias_

            summed: Tensor = add_bias_(x, bias, relu=relu)
            return summed
        x += bias
        return x.relu_() if relu else x


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """(K, T, in) and (K, out, in) to (K, T, out)."""
    return torch.bmm(x, weight.mT)


def _self_attention(layer: nn.Module) -> tuple[Tensor, ...]:
    layer = cast(EncoderLayer | DecoderLayer, layer)
    parts = layer.self_attention
    queries, query_bias = _behind_norm(parts.query, layer.norms[0])
    keys_values, output_bias = _keys_values(parts, layer.norms[0])
    return torch.cat((queries, keys_values)), query_bias, parts.output.weight, output_bias


def _cross_attention(model: Transformer, i: int) -> tuple[Tensor, ...]:
    layer = cast(DecoderLayer, model.decoder[i])
    parts = layer.cross_attention
    queries, query_bias = _behind_norm(parts.query, layer.norms[1])
    keys_values, output_bias = _keys_values(parts, model.encoder_norm)
    return queries, query_bias, keys_values, parts.output.weight, output_bias


def _feed_forward(layer: nn.Module) -> tuple[Tensor, ...]:
    layer = cast(EncoderLayer | DecoderLayer, layer)
    parts: FeedForward = layer.feed_forward
    inner, outer = cast(nn.Linear, parts[0]), cast(nn.Linear, parts[2])
    return *_behind_norm(inner, layer.norms[-1]), outer.weight, outer.bias


def _behind_norm(linear: nn.Linear, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of a layer that reads the norm without its gain and shift."""
    norm = cast(nn.LayerNorm, norm)
    weight = linear.weight.double()
    return weight * norm.weight.double(), linear.bias.double() + weight @ norm.bias.double()


def _keys_values(parts: Attention, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight of keys and values, without bias, and the output's bias that includes it, float64."""
    weight, bias = _behind_norm(parts.key_value, norm)
    output = parts.output
    value_bias = bias[len(bias) // 2 :]
    return weight, output.bias.double() + output.weight.double() @ value_bias
