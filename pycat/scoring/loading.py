"""Checkpoints given by path, opened as adapters that can score a corpus together."""

import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from pycat.data.corpus import Corpus
from pycat.data.tokenizer import Tokenizer
from pycat.data.vocabularies import VocabularyTokenizer
from pycat.errors import CheckpointError, CorpusError
from pycat.proxy.checkpoint import read_infos
from pycat.proxy.run import Run
from pycat.scoring.adapter import Adapter, ProxyAdapter
from pycat.scoring.checkpoint_order import CheckpointOrder, in_training_order
from pycat.scoring.model_files import (
    is_model_file,
    load_model_file,
    model_tokenizer,
    numbered_files,
)

Checkpoint = str | PathLike[str] | Adapter


def load_adapters(
    checkpoints: Checkpoint | Sequence[Checkpoint], corpus: Corpus, *, min_checkpoints: int = 2
) -> list[Adapter]:
    """Load models that can score this corpus together, on the CPU.

    Args:
        checkpoints: files of `pycat train`, folders saved by transformers, models of other tools
            (`model_files`), which are put in the order of their updates (`checkpoint_order`); or
            the folder of a run that holds them; or adapters, in training order.
        corpus: the corpus to score.
        min_checkpoints: the fewest that are accepted.

    Raises:
        CheckpointError: there are too few, one is given twice or damaged, their shapes differ, or
            their tokenizer is not that of the corpus.
        CorpusError: the corpus has a token beyond their vocabulary.
    """
    given, listed = _expand(checkpoints)
    paths = [item for item in given if isinstance(item, Path)]
    for path in paths:
        if not path.exists():
            raise CheckpointError(
                f"{path}: no such file or folder; expected a checkpoint of 'pycat train', a folder "
                "saved by transformers, or the folder of a run"
            )
    if len(given) < min_checkpoints:
        why = ": how perplexity moves takes two points. Train with more --checkpoints"
        raise CheckpointError(
            f"found {len(given)} checkpoints, expected at least {min_checkpoints}"
            f"{why if min_checkpoints > 1 else ''}"
        )
    for i, item in enumerate(given):
        if any(_same(item, other) for other in given[:i]):
            name = item.name if isinstance(item, Adapter) else item
            raise CheckpointError(f"{name}: given twice; pass each checkpoint once")
    steps = list(range(1, len(given) + 1))
    if paths and len(paths) == len(given):
        order = in_training_order(paths, listed=listed, allow_equal_steps=min_checkpoints < 2)
        given, paths, steps = [*order.paths], [*order.paths], [*order.steps]
    proxies = [path for path in paths if not is_model_file(path) and not is_hugging_face(path)]
    infos = dict(zip(proxies, read_infos(proxies, corpus), strict=True))
    adapters: list[Adapter] = []
    for i, item in enumerate(given):
        if isinstance(item, Adapter):
            adapters.append(item)
        elif item in infos:
            adapters.append(ProxyAdapter(infos[item], corpus.eos_id))
        elif is_model_file(item):
            adapters.append(load_model_file(item, corpus, step=steps[i]))
        else:
            from pycat.scoring.huggingface import load_hugging_face

            adapters.append(load_hugging_face(item, corpus, step=steps[i]))
        _check_shape(adapters[-1], adapters[0])
    if len(paths) == len(given):
        _refuse_equal_weights(adapters)
    _check_vocabulary(adapters[0], corpus)
    return adapters


def absolute(checkpoints: Checkpoint | Sequence[Checkpoint]) -> list[Checkpoint]:
    """The same checkpoints as a process in another folder finds them."""
    if isinstance(checkpoints, (str, PathLike, Adapter)):
        checkpoints = [checkpoints]
    return [item if isinstance(item, Adapter) else Path(item).absolute() for item in checkpoints]


def is_hugging_face(path: Path) -> bool:
    """Whether the path is a folder in which transformers saved a model."""
    return (path / "config.json").is_file() or (path / "adapter_config.json").is_file()


def tokenizer_of(
    checkpoints: Sequence[str | PathLike[str]],
    vocabs: Sequence[Path] = (),
    sentencepiece: Sequence[Path] = (),
) -> Path | Tokenizer | VocabularyTokenizer | None:
    """The tokenizer of the first of these checkpoints that has one.

    Args:
        checkpoints: as for `score`.
        vocabs: vocabularies of source and target, or one for both, for models without any.
        sentencepiece: models that split the text into pieces of the vocabularies.

    Returns:
        A folder of transformers, a tokenizer, or None if no checkpoint has one.

    Raises:
        TokenizerError: a model of another tool holds no vocabulary, and none is given.
    """
    paths = [item for item in _expand(checkpoints)[0] if isinstance(item, Path)]
    for path in paths:
        if is_model_file(path):
            return model_tokenizer(path, vocabs, sentencepiece)
        if (path / "tokenizer_config.json").is_file():
            return path
    return None


def checkpoint_order(checkpoints: Sequence[str | PathLike[str]]) -> CheckpointOrder:
    """The order in which `score` takes these checkpoints.

    Raises:
        CheckpointError: a folder holds none, or the order cannot be told.
    """
    given, listed = _expand(checkpoints)
    paths = [item for item in given if isinstance(item, Path)]
    return in_training_order(paths, listed=listed, allow_equal_steps=True)


def _expand(
    checkpoints: Checkpoint | Sequence[Checkpoint],
) -> tuple[list[Path | Adapter], bool]:
    """The checkpoints, and whether they were listed, not found in a folder."""
    if isinstance(checkpoints, (str, PathLike, Adapter)):
        checkpoints = [checkpoints]
    given = [item if isinstance(item, Adapter) else Path(item) for item in checkpoints]
    if len(given) == 1 and isinstance(given[0], Path) and given[0].is_dir():
        return [*_inside(given[0])], False
    return given, True


def _inside(folder: Path) -> Sequence[Path]:
    """The checkpoints in a folder, or the folder itself if it is a checkpoint."""
    if is_model_file(folder):
        return [folder]
    saved = [path for path in sorted(folder.glob("checkpoint-*")) if is_hugging_face(path)]
    if not saved and not is_hugging_face(folder):
        saved = [path for path in sorted(folder.iterdir()) if is_hugging_face(path)]
    # A Trainer saves its last model beside its checkpoints, without an update count.
    if len(saved) > 1 or (saved and not is_hugging_face(folder)):
        return saved
    if is_hugging_face(folder):
        return [folder]
    if (folder / "proxy.json").is_file():
        return Run.open(folder).checkpoints
    if numbered := numbered_files(folder):
        return numbered
    raise CheckpointError(
        f"{folder}: holds no checkpoints; expected a folder made by 'pycat train' (proxy.json), "
        "folders saved by transformers, such as checkpoint-<updates>, or files such as "
        "model.iter1000.npz"
    )


def _same(one: Path | Adapter, other: Path | Adapter) -> bool:
    if isinstance(one, Path) and isinstance(other, Path):
        return one.exists() and other.exists() and one.samefile(other)
    return one is other


def _refuse_equal_weights(adapters: Sequence[Adapter]) -> None:
    """Refuse a checkpoint on the disk that is a copy of another, whatever its name."""
    # Small tensors first: those of two checkpoints of a run differ, and end the comparison.
    tensors = [
        sorted(adapter.module.state_dict().items(), key=lambda item: (item[1].numel(), item[0]))
        for adapter in adapters
    ]
    for i, adapter in enumerate(adapters):
        for j in range(i):
            if all(
                torch.equal(one, other)
                for (_, one), (_, other) in zip(tensors[i], tensors[j], strict=True)
            ):
                copies = sorted((adapter.name, adapters[j].name), key=_tells_no_number)
                raise CheckpointError(
                    f"{copies[1]}: has the weights of {copies[0]}; a checkpoint that counts twice "
                    "distorts how perplexity moves: list the others without it"
                )


def _tells_no_number(name: str) -> bool:
    return re.search(r"\d", Path(name).name) is None


def _check_shape(adapter: Adapter, first: Adapter) -> None:
    """Refuse a checkpoint of another architecture than the first."""
    found, expected = (
        {name: tuple(value.shape) for name, value in each.module.named_parameters()}
        for each in (adapter, first)
    )
    names = [*{**expected, **found}, "output layer"]
    found["output layer"] = tuple(adapter.head.weight.shape)
    expected["output layer"] = tuple(first.head.weight.shape)
    for name in names:
        if found.get(name) != expected.get(name):
            raise CheckpointError(
                f"{adapter.name}: {name} has shape {found.get(name, 'missing')}, but {first.name} "
                f"has {expected.get(name, 'none')}; expected checkpoints of one training run"
            )


def _check_vocabulary(adapter: Adapter, corpus: Corpus) -> None:
    """Refuse a corpus with a token beyond the model's vocabulary."""
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
