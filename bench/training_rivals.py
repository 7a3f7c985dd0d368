"""Training loops of other programs, which `bench_training.py` compares pycat's trainer with.

JoeyNMT 2.3 runs beside present versions of what it needs where it is installed without asking for
the versions that it pins: `pip install --no-deps joeynmt tensorboard subword-nmt` and
`'importlib_metadata<8'`.
"""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from pycat.data.batches import Batch
from pycat.proxy.transformer import ModelConfig

DROPOUT = 0.1
SMOOTHING = 0.1


class MarianLoop:
    """A training loop as users write it: padded batches of like lengths, torch's loss, and Adam.

    Args:
        config: the shape of the model.
        dtype: of what products read.
        batches: packed ones, whose pairs are batched anew.
        batch_tokens: most tokens of either side of a batch, padding included.
        eos_id: the last token of each sequence.
    """

    name, package, pad_id = "marian", "transformers", 0

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        batches: Sequence[Batch],
        batch_tokens: int,
        eos_id: int,
    ) -> None:
        torch.manual_seed(0)
        self._eos_id, self._dtype = eos_id, dtype
        self._model = self._new_model(config).train()
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=1e-3, betas=(0.9, 0.98))
        self._batches = list(padded(batches, batch_tokens, self.pad_id))

    def run(self) -> None:
        """Train on everything once."""
        for src, tgt in self._batches:
            self._optimizer.zero_grad()
            self._loss(src, tgt).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimizer.step()

    def _new_model(self, config: ModelConfig) -> nn.Module:
        from transformers import MarianConfig, MarianMTModel

        layers = {
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in (
                ("layers", config.num_layers),
                ("attention_heads", config.num_heads),
                ("ffn_dim", config.d_ff),
            )
        }
        model: nn.Module = MarianMTModel(
            MarianConfig(
                vocab_size=config.vocab_size,
                d_model=config.d_model,
                max_position_embeddings=512,
                pad_token_id=self.pad_id,
                eos_token_id=self._eos_id,
                decoder_start_token_id=self._eos_id,
                activation_function="relu",
                dropout=DROPOUT,
                scale_embedding=True,
                **layers,
            )
        )
        return model

    def _loss(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Mean loss of a batch of sides (B, S) and (B, T)."""
        with self._autocast():
            logits = self._model(
                input_ids=src, attention_mask=src != self.pad_id, decoder_input_ids=self._shift(tgt)
            ).logits
        return nn.functional.cross_entropy(
            logits.float().flatten(0, 1),
            tgt.flatten(),
            ignore_index=self.pad_id,
            label_smoothing=SMOOTHING,
        )

    def _shift(self, tgt: Tensor) -> Tensor:
        """What the decoder reads: EOS, then all columns but the last."""
        return torch.cat((tgt.new_full((len(tgt), 1), self._eos_id), tgt[:, :-1]), dim=1)

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", self._dtype, enabled=self._dtype != torch.float32)


class JoeyLoop(MarianLoop):
    """The same loop with the model and the loss of JoeyNMT."""

    name, package, pad_id = "joey", "joeynmt", 1

    def _new_model(self, config: ModelConfig) -> nn.Module:
        from joeynmt.model import build_model
        from joeynmt.vocabulary import Vocabulary

        specials = ["<unk>", "<pad>", "<s>", "</s>"]
        kinds = ("unk", "pad", "bos", "eos")
        special_of: dict[str, Any] = {f"{k}_token": t for k, t in zip(kinds, specials, strict=True)}
        special_of |= {f"{kind}_id": i for i, kind in enumerate(kinds)}
        others = [str(i) for i in range(len(specials), config.vocab_size)]
        vocab = Vocabulary(others, SimpleNamespace(**special_of, sep_token=None, lang_tags=[]))
        side = {
            "type": "transformer",
            "num_layers": config.num_layers,
            "num_heads": config.num_heads,
            "embeddings": {"embedding_dim": config.d_model, "scale": True},
            "hidden_size": config.d_model,
            "ff_size": config.d_ff,
            "dropout": DROPOUT,
            "layer_norm": "pre",
        }
        tied = {"tied_embeddings": True, "tied_softmax": True, "initializer": "xavier_uniform"}
        model: Any = build_model({"encoder": side, "decoder": side, **tied}, vocab, vocab)
        model.loss_function = ("crossentropy", SMOOTHING)
        made: nn.Module = model
        return made

    def _loss(self, src: Tensor, tgt: Tensor) -> Tensor:
        mask = tgt != self.pad_id
        with self._autocast():
            total, *_ = self._model(
                return_type="loss",
                src=src,
                src_length=(src != self.pad_id).sum(dim=1),
                src_mask=(src != self.pad_id)[:, None],
                trg_input=self._shift(tgt),
                trg=tgt,
                trg_mask=mask[:, None],
            )
        loss: Tensor = total / mask.sum()
        return loss


LOOPS = (MarianLoop, JoeyLoop)


def installed_loops() -> list[type[MarianLoop]]:
    """The loops of those programs that are installed."""
    return [loop for loop in LOOPS if find_spec(loop.package) is not None]


def padded(batches: Sequence[Batch], batch_tokens: int, pad_id: int) -> Iterator[list[Tensor]]:
    """Both sides, (B, S) and (B, T), of batches of pairs of like lengths."""
    pairs = []
    for batch in batches:
        sides = [
            torch.tensor_split(tokens, ends[1:-1].long())
            for tokens, ends in (
                (batch.src_tokens, batch.src_cu_seqlens),
                (batch.tgt_tokens, batch.tgt_cu_seqlens),
            )
        ]
        pairs += list(zip(*sides, strict=True))
    pairs.sort(key=lambda pair: (len(pair[1]), len(pair[0])))
    first = 0
    for last in range(1, len(pairs) + 1):
        longest = max(len(side) for pair in pairs[first : last + 1] for side in pair)
        if last == len(pairs) or (last + 1 - first) * longest > batch_tokens:
            yield [
                nn.utils.rnn.pad_sequence([pair[side] for pair in pairs[first:last]], True, pad_id)
                for side in (0, 1)
            ]
            first = last
