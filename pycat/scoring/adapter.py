"""Adapters: the interface of scoring to a model, from a batch to hidden states and an output head.

`pycat.score` takes three kinds of models: the proxies of `pycat train`, folders that Hugging Face's
transformers saved (`huggingface`), and classes of the user's own derived from `Adapter`.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from pycat.data.batches import Batch, length_mask
from pycat.proxy.checkpoint import CheckpointInfo, load_model
from pycat.proxy.transformer import shift_right
from pycat.scoring.transformer_weights import TransformerWeights, proxy_weights


@dataclass(frozen=True)
class Head:
    """The output layer: logits = cap(scale * hidden @ weight.T + bias).

    Attributes:
        weight: (V, H).
        bias: (V,) or None.
        scale: factor of the products, before the bias is added.
        softcap: c of cap(z) = c * tanh(z / c); None for no cap.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (T, V) of hidden states (T, H)."""
        logits = nn.functional.linear(self.scale * hidden, self.weight, self.bias)
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def to(self, device: torch.device) -> "Head":
        """Copy the head to `device`."""
        bias = None if self.bias is None else self.bias.to(device)
        return replace(self, weight=self.weight.to(device), bias=bias)


class Adapter(ABC):
    """One checkpoint of a model. Derive from it to score with any `torch.nn.Module`.

    Attributes:
        module: the model, in evaluation mode.
        head: its output layer, over the same vocabulary as the corpus's ids.
        name: its name in messages: its path, for a checkpoint on the disk.
        step: number of updates it was trained for.
        sha256: identity of its weights.
        max_src_tokens, max_tgt_tokens: positions it has for tokens of a side; None if unbounded.
        max_tokens: positions for both sides together, for models that read them as one sequence.
    """

    def __init__(
        self,
        module: nn.Module,
        head: Head,
        *,
        name: str,
        step: int,
        sha256: str | None = None,
        max_src_tokens: int | None = None,
        max_tgt_tokens: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Unless `sha256` is given, it is computed from the module's parameters and buffers."""
        self.module, self.head = module.eval(), head
        self.name, self.step = name, step
        self.sha256 = _state_sha256(module) if sha256 is None else sha256
        self.max_src_tokens, self.max_tgt_tokens = max_src_tokens, max_tgt_tokens
        self.max_tokens = max_tokens

    @property
    def vocab_size(self) -> int:
        """V, the bound on target ids."""
        return len(self.head.weight)

    @property
    def src_vocab_size(self) -> int:
        """Bound on source ids."""
        return self.vocab_size

    @abstractmethod
    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states (T, H) that predict each target token of a padded batch.

        Row after row, without padding, as `length_mask(batch.tgt_tokens, batch.tgt_cu_seqlens)`
        selects them. Padding may be any id below the corpus's vocabulary size.
        """

    def transformer_weights(self, num_positions: int) -> TransformerWeights | None:
        """The model as arrays, if it is a Transformer that the extension's forward pass can run.

        On the CPU the extension scores such a model several times as fast as `hidden` does.

        Args:
            num_positions: max tokens of a sentence that is to be scored.
        """
        return None

    def to(self, device: torch.device) -> Self:
        """Move module and head to `device`."""
        self.module.to(device)
        self.head = self.head.to(device)
        return self


class ProxyAdapter(Adapter):
    """A checkpoint of `pycat train`.

    Attributes:
        model: the module.
        eos_id: the token that its decoder starts from.
    """

    def __init__(self, info: CheckpointInfo, eos_id: int) -> None:
        self.model = load_model(info, torch.device("cpu"))
        self.eos_id = eos_id
        super().__init__(
            self.model,
            Head(self.model.output_weight),
            name=str(info.path),
            step=info.step,
            sha256=info.sha256,
        )

    @property
    def src_vocab_size(self) -> int:
        """Bound on source ids: that of the source's own embedding, if it has one."""
        return self.model.config.src_vocab_size or self.vocab_size

    def transformer_weights(self, num_positions: int) -> TransformerWeights | None:
        """The proxy's weights; None for widths that the extension does not support."""
        config = self.model.config
        if config.d_model // config.num_heads % 8 or config.d_ff % 4:
            return None
        return proxy_weights(self.model, self.eos_id, num_positions)

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states (T, D)."""
        tgt_in = shift_right(batch.tgt_tokens, self.eos_id)
        states: Tensor = self.model(batch.src_tokens, batch.src_cu_seqlens.diff().long(), tgt_in)
        return states[length_mask(batch.tgt_tokens, batch.tgt_cu_seqlens)]


def _state_sha256(module: nn.Module) -> str:
    content = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        content.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return content.hexdigest()
