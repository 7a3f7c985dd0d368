"""Arithmetic of a proxy."""

from typing import Any

from numpy.typing import NDArray

from pycat.proxy.transformer import ModelConfig


def proxy_products(config: ModelConfig, src: NDArray[Any], tgt: NDArray[Any]) -> int:
    """Multiply-adds of a proxy `Transformer` and its output layer, for pairs of lengths (N,)."""
    width, layers = config.d_model, config.num_layers
    linear = 4 * width * width + 2 * width * config.d_ff
    # A source token passes the encoder, and becomes keys and values of each decoder layer. A target
    # token passes the decoder, with queries and output of the attention to the source.
    tokens = src.sum() * layers * (linear + 2 * width * width)
    tokens += tgt.sum() * (layers * (linear + 2 * width * width) + width * config.vocab_size)
    # Attention: two products each, queries x keys and weights x values.
    squares = 2 * src @ src + tgt @ tgt + 2 * src @ tgt
    return int(tokens + layers * width * squares)
