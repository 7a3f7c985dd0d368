"""An encoder-decoder Transformer of `TransformerWeights` as a torch module.

It computes what the extension's forward pass does, on any device, with padding. The tests compare
the two.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pycat.scoring.transformer_weights import TransformerWeights

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "gelu_tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
}


class WeightsTransformer(nn.Module):
    """The model; each array is a parameter of its own name and shares the array's memory.

    Args:
        weights: with position tables, or they are passed to each call.
    """

    def __init__(self, weights: TransformerWeights) -> None:
        super().__init__()
        for name, array in weights.arrays.items():
            _register(self, name, torch.from_numpy(array))
        self._norm_first, self._num_heads = weights.norm_first, weights.num_heads
        self._activation = _ACTIVATIONS[weights.activation]
        self._epsilon, self._scale = weights.epsilon, weights.embedding_scale

    def forward(
        self, src: Tensor, src_mask: Tensor, tgt_in: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """Last hidden states (B, T, D), from which the head predicts.

        Args:
            src: ids (B, S), padded.
            src_mask: bool (B, S), which of them are tokens.
            tgt_in: ids (B, T) that the decoder reads.
            positions: table of both sides, for weights that have none.
        """
        memory = self._embed("source", src, positions)  # (B, S, D)
        keys = src_mask[:, None, None, :]  # of every head and query
        for layer in self._layers("encoder"):
            memory = self._attend(layer, "self", memory, memory, keys, causal=False)
            memory = self._feed_forward(layer, memory)
        memory = self._final_norm("encoder", memory)
        states = self._embed("target", tgt_in, positions)  # (B, T, D)
        for layer in self._layers("decoder"):
            states = self._attend(layer, "self", states, states, None, causal=True)
            states = self._attend(layer, "cross", states, memory, keys, causal=False)
            states = self._feed_forward(layer, states)
        return self._final_norm("decoder", states)

    def _layers(self, side: str) -> list[nn.Module]:
        stack = getattr(self, side, None)
        return [] if stack is None else [m for n, m in stack.named_children() if n.isdecimal()]

    def _embed(self, side: str, tokens: Tensor, positions: Tensor | None) -> Tensor:
        module = self.get_submodule(side)
        table = positions if positions is not None else module.get_parameter("positions")
        x = self._scale * nn.functional.embedding(tokens, module.get_parameter("tokens"))
        x = x + table[: tokens.shape[1]]
        return self._norm(module, "norm", x) if hasattr(module, "norm") else x

    def _attend(
        self,
        layer: nn.Module,
        kind: str,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None,
        *,
        causal: bool,
    ) -> Tensor:
        """Attention of one kind with its residual and norm: (B, T, D)."""
        part = layer.get_submodule(kind)
        read = self._norm(part, "norm", x) if self._norm_first else x
        if kind == "self":
            query, key, value = _linear(part, "query_key_value", read).chunk(3, dim=-1)
        else:
            query = _linear(part, "query", read)
            key, value = _linear(part, "key_value", memory).chunk(2, dim=-1)
        attended = nn.functional.scaled_dot_product_attention(
            self._heads(query),
            self._heads(key),
            self._heads(value),
            attn_mask=mask,
            is_causal=causal,
        )
        x = x + _linear(part, "output", attended.transpose(1, 2).flatten(2))
        return x if self._norm_first else self._norm(part, "norm", x)

    def _heads(self, x: Tensor) -> Tensor:
        heads = x.reshape(*x.shape[:2], self._num_heads, -1)
        return heads.transpose(1, 2)  # (B, heads, T, D / heads)

    def _feed_forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        part = layer.get_submodule("feed_forward")
        read = self._norm(part, "norm", x) if self._norm_first else x
        x = x + _linear(layer, "ff2", self._activation(_linear(layer, "ff1", read)))
        return x if self._norm_first else self._norm(part, "norm", x)

    def _final_norm(self, side: str, x: Tensor) -> Tensor:
        stack = getattr(self, side, None)
        if stack is None or not hasattr(stack, "norm"):
            return x
        return self._norm(stack, "norm", x)

    def _norm(self, module: nn.Module, name: str, x: Tensor) -> Tensor:
        norm = module.get_submodule(name)
        weight, bias = norm.get_parameter("weight"), norm.get_parameter("bias")
        return nn.functional.layer_norm(x, weight.shape, weight, bias, self._epsilon)


def _linear(module: nn.Module, name: str, x: Tensor) -> Tensor:
    layer = module.get_submodule(name)
    return nn.functional.linear(x, layer.get_parameter("weight"), getattr(layer, "bias", None))


def _register(root: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor at the dotted name, below modules that are made for it."""
    *path, last = name.split(".")
    module = root
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.register_parameter(last, nn.Parameter(value, requires_grad=False))
