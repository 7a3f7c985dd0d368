"""Models of CTranslate2, Marian, OPUS-MT, fairseq and OpenNMT-py, by their files.

a folder with model.bin          CTranslate2, of whatever its converters read
a folder with decoder.yml        OPUS-MT
.npz                             Marian
.pt                              fairseq or OpenNMT-py
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pycat.data.corpus import Corpus
from pycat.data.hf_tokenizer import HuggingFaceTokenizer
from pycat.data.tokenizer import Tokenizer
from pycat.data.vocabularies import (
    VocabularyTokenizer,
    ct2_pieces,
    open_ct2_vocabularies,
    read_ct2_config,
    read_vocabularies,
)
from pycat.errors import CheckpointError, CorpusError, TokenizerError
from pycat.runtime.output import digest, file_sha256
from pycat.scoring.ct2_file import Ct2File, read_ct2_file
from pycat.scoring.ct2_weights import ct2_weights
from pycat.scoring.marian import opus_mt_model, opus_mt_vocabularies, read_marian
from pycat.scoring.torch_checkpoints import (
    convert_open_nmt,
    fairseq_weights,
    is_open_nmt,
    num_updates,
    read_checkpoint,
)
from pycat.scoring.weights_adapter import LoadedWeights, WeightsAdapter

# What each tool calls the file of a checkpoint, with its updates, or epochs where it counts those.
_STEP_NAMES = (
    r".*\.iter-?(\d+)\.npz",
    r".*_step_(\d+)\.pt",
    r"checkpoint_\d+_(\d+)\.pt",
    r"checkpoint(\d+)\.pt",
)


def is_model_file(path: Path) -> bool:
    """Whether the path is a model of one of these tools."""
    if path.is_dir():
        return is_converted(path) or (path / "decoder.yml").is_file()
    return path.suffix in (".npz", ".pt", ".pth")


def is_converted(path: Path) -> bool:
    """Whether the path is a folder that CTranslate2 converted."""
    return (path / "model.bin").is_file()


def numbered_files(folder: Path) -> list[Path]:
    """The checkpoints in a folder whose names tell their updates, of one tool, in their order."""
    for pattern in _STEP_NAMES:
        matches = ((path, re.fullmatch(pattern, path.name)) for path in folder.iterdir())
        found = [(int(match[1]), path) for path, match in matches if match]
        if found:
            return [path for _, path in sorted(found)]
    return []


def load_model_file(path: Path, corpus: Corpus, *, step: int) -> WeightsAdapter:
    """Load the model, in float32 on the CPU.

    Args:
        path: the file or folder.
        corpus: the corpus to score; its template has the special tokens around the targets.
        step: its updates, or what stands for them where the model does not tell.

    Raises:
        CheckpointError: a package is missing, the model is damaged or of a kind that is not
            supported, or its vocabulary is not that of the corpus.
    """
    if path.is_dir() and not is_converted(path):
        path = opus_mt_model(path)
    if is_converted(path):
        loaded = _load_ct2(path, path, corpus)
        identity = digest([file_sha256(path / name) for name in ("model.bin", "config.json")])
    elif path.suffix == ".npz":
        loaded = _ready(read_marian(path), {}, str(path), None, corpus)
        identity = file_sha256(path)
    else:
        checkpoint = read_checkpoint(path)
        identity, step = file_sha256(path), num_updates(checkpoint) or step
        if is_open_nmt(checkpoint):
            with tempfile.TemporaryDirectory(prefix="pycat-") as name:
                folder = Path(name) / "model"
                convert_open_nmt(path, folder)
                loaded = _load_ct2(folder, path, corpus)
        else:
            loaded = fairseq_weights(checkpoint, str(path))
    _check_finite(path, loaded)
    adapter = WeightsAdapter(loaded, name=str(path), step=step, sha256=identity)
    _check_sizes(adapter, corpus)
    return adapter


def model_tokenizer(
    path: Path, vocabs: Sequence[Path] = (), sentencepiece: Sequence[Path] = ()
) -> Tokenizer | VocabularyTokenizer | Path:
    """The tokenizer of a model, with which text is to be tokenized for it.

    Args:
        path: the model.
        vocabs: vocabularies of source and target, or one for both, for a model that holds none.
        sentencepiece: models that split text into pieces of a vocabulary; without any, text is
            split at blanks.

    Returns:
        It, or the folder with a Hugging Face tokenizer.

    Raises:
        TokenizerError, CheckpointError: the model holds no vocabulary and none is given, or a file
            cannot be read.
    """
    if is_converted(path):
        if vocabs:
            # Such a folder has its vocabularies; a model that splits text may be called one.
            sentencepiece = [*sentencepiece, *vocabs]
        if not sentencepiece and (path / "tokenizer_config.json").is_file():
            return path
        return open_ct2_vocabularies(path, sentencepiece)
    if vocabs:
        return read_vocabularies(vocabs, sentencepiece)
    if path.is_dir():
        listed, models = opus_mt_vocabularies(path)
        return read_vocabularies(listed, sentencepiece or models)
    if path.suffix != ".npz" and is_open_nmt(read_checkpoint(path)):
        with tempfile.TemporaryDirectory(prefix="pycat-") as name:
            folder = Path(name) / "model"
            convert_open_nmt(path, folder)
            return open_ct2_vocabularies(folder, sentencepiece)
    raise TokenizerError(
        f"{path}: holds no vocabulary; pass those of source and target (--vocabs), such as "
        "vocab.spm vocab.spm or dict.en.txt dict.de.txt"
    )


def _load_ct2(folder: Path, name: Path, corpus: Corpus) -> LoadedWeights:
    """Load a converted folder, called `name` in messages."""
    file = read_ct2_file(folder / "model.bin")
    config = read_ct2_config(folder, file.version, file.variables)
    pieces = ct2_pieces(folder)[1]
    _check_pieces(name, pieces, corpus)
    if not config["add_source_eos"] and "template" not in corpus.manifest and corpus.has_text:
        raise CheckpointError(
            f"{name}: its sources have no end-of-sentence token, but those of {corpus.path} do; "
            f"tokenize the text with the model's own vocabularies (--tokenizer {name})"
        )
    return _ready(file, config, str(name), pieces, corpus)


def _ready(
    file: Ct2File,
    config: dict[str, Any],
    name: str,
    pieces: Sequence[str] | None,
    corpus: Corpus,
) -> LoadedWeights:
    """The weights, with what the decoder reads before the first target token."""
    loaded = ct2_weights(file, config, name)
    start = config.get("decoder_start_token")
    prefix: list[int] = []
    if loaded.start_id is not None:
        prefix = [loaded.start_id]
    elif start is not None and pieces is not None:
        unknown = pieces.index(config["unk_token"]) if config["unk_token"] in pieces else 0
        prefix = [pieces.index(start) if start in pieces else unknown]
    prefix += corpus.template.tgt_before
    if not prefix:
        raise CheckpointError(
            f"{name}: config.json names no decoder_start_token, and the corpus puts no special "
            "token before its targets; tokenize the text with the model's Hugging Face tokenizer"
        )
    return replace(loaded, weights=replace(loaded.weights, prefix=tuple(prefix)))


def _check_finite(path: Path, loaded: LoadedWeights) -> None:
    import numpy as np

    for name, array in loaded.weights.arrays.items():
        if not np.isfinite(array).all():
            raise CheckpointError(
                f"{path}: {name} has weights that are not finite numbers; the file is damaged or "
                "the training diverged: leave this checkpoint out"
            )


def _check_sizes(adapter: WeightsAdapter, corpus: Corpus) -> None:
    """Refuse text that another vocabulary tokenized; ids without a tokenizer may be fewer."""
    if not corpus.has_text:
        return
    expected = (adapter.src_vocab_size, adapter.vocab_size)
    found = (corpus.src_vocab_size or corpus.vocab_size, corpus.vocab_size)
    if isinstance(corpus.tokenizer, HuggingFaceTokenizer):
        # Such a model may have rows to spare.
        fits = all(size <= bound for size, bound in zip(found, expected, strict=True))
    else:
        fits = found == expected
    if not fits:
        raise CheckpointError(
            f"{adapter.name}: has {expected[0]:,} source and {expected[1]:,} target pieces, but "
            f"{corpus.path} was tokenized with {found[0]:,} and {found[1]:,}; tokenize the text "
            "with the model's own vocabulary (--vocabs)"
        )


def _check_pieces(name: Path, pieces: Sequence[str], corpus: Corpus) -> None:
    """Refuse text that was tokenized with other pieces than those of the model's target."""
    try:
        tokenizer = corpus.tokenizer
    except (CorpusError, TokenizerError):
        return
    known = tokenizer.pieces(range(min(len(pieces), tokenizer.vocab_size)))
    other = [i for i, piece in enumerate(known) if piece != pieces[i]]
    # Tools call special pieces by names of their own: <blank> is <pad>.
    if len(other) > max(8, len(known) // 50):
        raise CheckpointError(
            f"{name}: target piece {other[0]} is {pieces[other[0]]!r}, but {known[other[0]]!r} in "
            f"the tokenizer of {corpus.path}; tokenize the text with the model's own vocabulary "
            f"(--tokenizer {name})"
        )
