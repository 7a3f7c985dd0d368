"""Models of any kind as scoring sees them: a batch in, hidden states and an output head out.

`pycat.score` knows three kinds: the proxies of `pycat train`, the folders that Hugging Face's
transformers save (`hf_models`), and a class of the user's own derived from `Adapter`.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pycat.data.batches import Batch, length_mask
from pycat.data.corpus import Corpus
from pycat.errors import CheckpointError, CorpusError
from pycat.proxy.checkpoint import CheckpointInfo, load_model, read_infos
from pycat.proxy.training import Run, shift_right
from pycat.scoring.transformer_weights import TransformerWeights, proxy_weights


@dataclass(frozen=True)
class Head:
    """The output layer: logits = cap(scale * hidden @ weight.T + bias).

    Attributes:
        weight: (V, H).
        bias: (V,) or None.
        scale: of the products, before the bias.
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
        """The same head on `device`."""
        bias = None if self.bias is None else self.bias.to(device)
        return replace(self, weight=self.weight.to(device), bias=bias)


class Adapter(ABC):
    """One checkpoint of a model. Derive from it to score with any `torch.nn.Module`.

    Attributes:
        module: the model, in evaluation mode.
        head: its output layer, over the same vocabulary as the corpus's ids.
        name: what messages call it: its path, for a checkpoint that is on the disk.
        step: updates it was trained for.
        sha256: identity of its weights.
        max_src_tokens, max_tgt_tokens: most tokens of a side that it has positions for, or None.
        max_tokens: the same of both sides together, for models that read them as one.
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
        """Without `sha256`, it is computed from the module's parameters and buffers."""
        self.module, self.head = module.eval(), head
        self.name, self.step = name, step
        self.sha256 = _state_sha256(module) if sha256 is None else sha256
        self.max_src_tokens, self.max_tgt_tokens = max_src_tokens, max_tgt_tokens
        self.max_tokens = max_tokens

    @property
    def vocab_size(self) -> int:
        """V: ids of targets lie below it."""
        return len(self.head.weight)

    @property
    def src_vocab_size(self) -> int:
        """Ids of sources lie below it."""
        return self.vocab_size

    @abstractmethod
    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states (T, H) that predict each target token of a padded batch.

        Row after row, a sentence's tokens in order, padding left out: those of
        `batch.tgt_tokens[length_mask(batch.tgt_tokens, batch.tgt_cu_seqlens)]`. What pads a row
        may be any id below the corpus's vocabulary size.
        """

    def transformer_weights(self, num_positions: int) -> TransformerWeights | None:
        """The model as arrays, where it is a Transformer that the extension's forward pass knows.

        Such a model is scored by that on the CPU, several times as fast as by `hidden`.
        `num_positions`: the most tokens of a sentence that is to be scored.
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
        eos_id: what its decoder starts from.
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
        """Of the source's own embedding, where it has one."""
        return self.model.config.src_vocab_size or self.vocab_size

    def transformer_weights(self, num_positions: int) -> TransformerWeights | None:
        """The proxy's weights; None for widths that the extension cannot do."""
        config = self.model.config
        if config.d_model // config.num_heads % 8 or config.d_ff % 4:
            return None
        return proxy_weights(self.model, self.eos_id, num_positions)

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states (T, D)."""
        tgt_in = shift_right(batch.tgt_tokens, self.eos_id)
        states: Tensor = self.model(batch.src_tokens, batch.src_cu_seqlens.diff().long(), tgt_in)
        return states[length_mask(batch.tgt_tokens, batch.tgt_cu_seqlens)]


Checkpoint = str | PathLike[str] | Adapter


def load_adapters(
    checkpoints: Checkpoint | Sequence[Checkpoint], corpus: Corpus, *, at_least: int = 2
) -> list[Adapter]:
    """Models that can score this corpus together, on the CPU.

    Args:
        checkpoints: in training order: files of `pycat train`, folders saved by transformers,
            adapters; or the folder of a run that holds the checkpoints. Folders named
            `checkpoint-<updates>` are put in the order of their updates.
        corpus: what they are to score.
        at_least: how many it takes.

    Raises:
        CheckpointError: too few, one given twice, damaged, of different shapes, or of another
            tokenizer or vocabulary than the corpus.
    """
    given = _expand(checkpoints)
    paths = [item for item in given if isinstance(item, Path)]
    if len(given) < at_least:
        why = ": how perplexity moves takes two points. Train with more --checkpoints"
        raise CheckpointError(
            f"found {len(given)} checkpoints, expected at least {at_least}"
            f"{why if at_least > 1 else ''}"
        )
    for i, item in enumerate(given):
        if any(_same(item, other) for other in given[:i]):
            name = item.name if isinstance(item, Adapter) else item
            raise CheckpointError(f"{name}: given twice; pass each checkpoint once")
    proxies = [path for path in paths if not is_hugging_face(path)]
    infos = dict(zip(proxies, read_infos(proxies, corpus), strict=True))
    adapters: list[Adapter] = []
    for i, item in enumerate(given):
        if isinstance(item, Adapter):
            adapters.append(item)
        elif item in infos:
            adapters.append(ProxyAdapter(infos[item], corpus.eos_id))
        else:
            from pycat.scoring.huggingface import load_hugging_face

            adapters.append(load_hugging_face(item, corpus, position=i + 1))
        _check_shape(adapters[-1], adapters[0])
    _check_vocabulary(adapters[0], corpus)
    return adapters


def is_hugging_face(path: Path) -> bool:
    """Whether this is a folder that transformers saved a model in."""
    return (path / "config.json").is_file() or (path / "adapter_config.json").is_file()


def own_tokenizer(checkpoints: Sequence[str | PathLike[str]]) -> Path | None:
    """The first of these folders, or of the checkpoints in them, that holds a tokenizer."""
    folders = [item for item in _expand(checkpoints) if isinstance(item, Path)]
    return next((path for path in folders if (path / "tokenizer_config.json").is_file()), None)


def _expand(checkpoints: Checkpoint | Sequence[Checkpoint]) -> list[Path | Adapter]:
    if isinstance(checkpoints, (str, PathLike, Adapter)):
        checkpoints = [checkpoints]
    given = [item if isinstance(item, Adapter) else Path(item) for item in checkpoints]
    if len(given) == 1 and isinstance(given[0], Path) and given[0].is_dir():
        given = [*_inside(given[0])]
    steps = {item: _folder_step(item) for item in given if isinstance(item, Path)}
    if len(steps) == len(given) and None not in steps.values():
        # A shell sorts checkpoint-1000 before checkpoint-200.
        given.sort(key=lambda item: steps[item] or 0)  # type: ignore[index]
    return given


def _inside(folder: Path) -> Sequence[Path]:
    """The checkpoints that a folder holds, or the folder itself if it is one."""
    saved = [path for path in folder.glob("checkpoint-*") if is_hugging_face(path)]
    # A Trainer leaves its last model beside its checkpoints; that one has no update count.
    if len(saved) > 1 or (saved and not is_hugging_face(folder)):
        return saved
    if is_hugging_face(folder):
        return [folder]
    if (folder / "proxy.json").is_file():
        return Run.open(folder).checkpoints
    raise CheckpointError(
        f"{folder}: holds no checkpoints; expected a folder made by 'pycat train' (proxy.json), or "
        "folders checkpoint-<updates> saved by transformers"
    )


def _folder_step(path: Path) -> int | None:
    match = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return int(match[1]) if match and path.is_dir() else None


def _same(one: Path | Adapter, other: Path | Adapter) -> bool:
    if isinstance(one, Path) and isinstance(other, Path):
        return one.exists() and other.exists() and one.samefile(other)
    return one is other


def _check_shape(adapter: Adapter, first: Adapter) -> None:
    """All checkpoints are of one architecture: else their scores do not belong together."""
    mine = {name: tuple(value.shape) for name, value in adapter.module.named_parameters()}
    expected = {name: tuple(value.shape) for name, value in first.module.named_parameters()}
    if mine == expected and adapter.head.weight.shape == first.head.weight.shape:
        return
    names = [name for name in {**expected, **mine} if mine.get(name) != expected.get(name)]
    name = names[0] if names else "output layer"
    found, wanted = (
        (mine.get(name, "missing"), expected.get(name, "none"))
        if names
        else (tuple(adapter.head.weight.shape), tuple(first.head.weight.shape))
    )
    raise CheckpointError(
        f"{adapter.name}: {name} has shape {found}, but {first.name} has {wanted}; expected "
        "checkpoints of one training run"
    )


def _check_vocabulary(adapter: Adapter, corpus: Corpus) -> None:
    """No token of the corpus is beyond the model's vocabulary."""
    bounds = adapter.src_vocab_size, adapter.vocab_size
    src_vocab_size = corpus.src_vocab_size or corpus.vocab_size
    if src_vocab_size <= bounds[0] and corpus.vocab_size <= bounds[1]:
        return
    num_sides, example = 0, (0, 0, 0)
    with corpus.batches() as stream:
        for batch in stream:
            sides = batch[:2], batch[2:4]
            for (tokens, cu_seqlens), bound in zip(sides, bounds, strict=True):
                beyond = (tokens >= bound).nonzero()[:, 0]
                if len(beyond) == 0:
                    continue
                rows = torch.searchsorted(cu_seqlens, beyond.int(), right=True) - 1
                num_sides += len(np.unique(rows.numpy()))
                example = (int(batch.pair_ids[rows[0]]), int(tokens[beyond[0]]), bound)
    if num_sides:
        raise CorpusError(
            f"{corpus.path}: token {example[1]:,} of pair {example[0]:,} is beyond the "
            f"{example[2]:,} that {adapter.name} knows ({num_sides:,} such sides in all); "
            "tokenize the corpus with the model's own tokenizer"
        )


@dataclass(frozen=True)
class KeptLengths:
    """What a model's positions leave of each pair's tokens: int32 (N,) each."""

    src: NDArray[np.int32]
    tgt: NDArray[np.int32]
    num_cut: int

    @classmethod
    def of(cls, corpus: Corpus, adapters: Sequence[Adapter], too_long: str) -> "KeptLengths":
        """The lengths to score.

        Raises:
            CorpusError: pairs are longer than the positions, and `too_long` is "refuse"; or a
                source leaves no position for its target.
        """
        src, tgt = corpus.lengths
        if all(
            limit is None
            for adapter in adapters
            for limit in (adapter.max_src_tokens, adapter.max_tgt_tokens, adapter.max_tokens)
        ):
            return cls(src, tgt, 0)  # copies nothing, however large the corpus
        most_src, most_tgt, most = (
            min((n for n in limits if n is not None), default=None)
            for limits in (
                [adapter.max_src_tokens for adapter in adapters],
                [adapter.max_tgt_tokens for adapter in adapters],
                [adapter.max_tokens for adapter in adapters],
            )
        )
        kept_src = src if most_src is None else np.minimum(src, most_src)
        kept_tgt = tgt if most_tgt is None else np.minimum(tgt, most_tgt)
        if most is not None:
            kept_tgt = np.minimum(kept_tgt, most - kept_src)
        cut = (kept_src < src) | (kept_tgt < tgt)
        num_cut = int(cut.sum())
        limit = ", ".join(
            f"{n:,} {what}"
            for n, what in (
                (most_src, "source tokens"),
                (most_tgt, "target tokens"),
                (most, "tokens of both sides together"),
            )
            if n is not None
        )
        if num_cut and too_long == "refuse":
            longest = int(np.argmax(np.maximum(src - kept_src, tgt - kept_tgt)))
            raise CorpusError(
                f"{corpus.path}: {num_cut:,} of {len(corpus):,} pairs are longer than the "
                f"positions of {adapters[0].name} ({limit}), such as pair "
                f"{int(corpus.pair_ids[longest]):,} of {int(src[longest]):,} and "
                f"{int(tgt[longest]):,} tokens; pass --too-long truncate to score what fits of "
                "them, or tokenize with a lower --max-tokens to leave them out"
            )
        if (hopeless := kept_tgt < 1).any():
            raise CorpusError(
                f"{corpus.path}: the source of {int(hopeless.sum()):,} pairs, such as pair "
                f"{int(corpus.pair_ids[int(np.argmax(hopeless))]):,}, fills all positions of "
                f"{adapters[0].name} ({limit}) and leaves none for the target; tokenize with a "
                "lower --max-tokens"
            )
        return cls(kept_src.astype(np.int32), kept_tgt.astype(np.int32), num_cut)

    def rows(self, first: int, count: int) -> "KeptLengths":
        """Those of `count` pairs from `first` on."""
        src, tgt = self.src[first : first + count], self.tgt[first : first + count]
        return KeptLengths(src, tgt, self.num_cut)


def cut_padded(batch: Batch, src: Tensor, tgt: Tensor, src_tail: int) -> Batch:
    """A padded batch with so many tokens (B,) left of each side.

    The source keeps its last `src_tail` tokens, EOS among them, and loses those before; the target
    loses its end.
    """
    lengths = batch.src_cu_seqlens.diff()[:, None]
    columns = torch.arange(int(src.max()), device=src.device)
    gone = (columns >= src[:, None] - src_tail) * (lengths - src[:, None])
    at = (columns + gone).clamp(max=batch.src_tokens.shape[1] - 1)
    return batch._replace(
        src_tokens=batch.src_tokens.gather(1, at.long()),
        src_cu_seqlens=_boundaries(src),
        tgt_tokens=batch.tgt_tokens[:, : int(tgt.max())],
        tgt_cu_seqlens=_boundaries(tgt),
    )


def cut_packed(batch: Batch, src: Tensor, tgt: Tensor, src_tail: int) -> Batch:
    """As `cut_padded`, of a packed batch."""
    return Batch(
        batch.src_tokens[_stays(batch.src_cu_seqlens, src, src_tail)],
        _boundaries(src),
        batch.tgt_tokens[_stays(batch.tgt_cu_seqlens, tgt, 0)],
        _boundaries(tgt),
        batch.pair_ids,
    )


def _stays(cu_seqlens: Tensor, kept: Tensor, tail: int) -> Tensor:
    """Of the tokens (T,) of sequences, those in the first `kept - tail` and the last `tail`."""
    lengths = cu_seqlens.diff().long()
    at = torch.arange(int(cu_seqlens[-1])) - torch.repeat_interleave(
        cu_seqlens[:-1].long(), lengths
    )
    begin = torch.repeat_interleave(kept.long() - tail, lengths)
    end = torch.repeat_interleave(lengths - tail, lengths)
    return (at < begin) | (at >= end)


def _boundaries(lengths: Tensor) -> Tensor:
    return nn.functional.pad(lengths.cumsum(0), (1, 0)).int()


def _state_sha256(module: nn.Module) -> str:
    content = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        content.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return content.hexdigest()
