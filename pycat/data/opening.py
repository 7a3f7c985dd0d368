"""Opening corpora: folders of pycat's, and data that fairseq or Megatron binarised."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from pycat import _core
from pycat.data import fairseq, megatron
from pycat.data.corpus import REMEDY, Corpus
from pycat.errors import CorpusError, PycatError
from pycat.runtime.manifest import read_manifest

_PREFIX_OPTIONS = ("languages", "vocab_size", "eos_id", "pad_id", "tokenizer", "layout")


def open_corpus(
    path: str | PathLike[str] | tuple[str | PathLike[str], str | PathLike[str]],
    *,
    split: str | None = None,
    languages: tuple[str, str] | None = None,
    vocab_size: int | None = None,
    eos_id: int | None = None,
    pad_id: int | None = None,
    tokenizer: str | PathLike[str] | None = None,
    layout: str | None = None,
) -> Corpus:
    """Open a corpus folder, or data that fairseq or Megatron binarised.

    Opening takes no longer for a large corpus: a small index is verified here, a large one before
    the first pair is read. Data of other tools hold tokens only: pair ids count their sequences,
    and whatever needs text refuses them.

    Where fairseq's dictionaries of source and target differ, each side is checked against its own,
    and a proxy trained on the corpus has an embedding for each side. All other corpora share one
    vocabulary and one embedding.

    Args:
        path: a folder made by `tokenize`; a folder made by `fairseq-preprocess`; or the prefixes
            (files without `.idx` and `.bin`) of source and target.
        split: for fairseq's folder; "train" by default. Shards such as "train1" are splits.
        languages: source and target. For fairseq's folder the direction to open, either way round,
            needed only where there are several; for prefixes their names.
        vocab_size, eos_id: for prefixes: the bound on token ids of both sides, and the id that
            ends each sequence.
        pad_id: for prefixes: the id that pads batches; `eos_id` by default.
        tokenizer: for prefixes, instead of `vocab_size` and `eos_id`: the SentencePiece model they
            were made with.
        layout: for prefixes: "fairseq" or "megatron"; by default the size of the index tells.

    Raises:
        CorpusError: not a complete corpus folder, or a file of it is damaged.
        PycatError: an option does not belong to this kind of corpus, or is missing.
    """
    given: dict[str, Any] = {
        "split": split,
        "languages": None if languages is None else tuple(languages),
        "vocab_size": vocab_size,
        "eos_id": eos_id,
        "pad_id": pad_id,
        "tokenizer": None if tokenizer is None else Path(tokenizer),
        "layout": layout,
    }
    if languages is not None and len(set(languages)) != 2:
        raise PycatError(f"languages are {tuple(languages)}; expected two different names")
    if isinstance(path, tuple):
        src, tgt = map(Path, path)
        _refuse_options(f"{src}, {tgt}", "two prefixes", given, _PREFIX_OPTIONS)
        del given["split"]
        return Corpus(*megatron.open_prefixes(src, tgt, **given))
    folder = Path(path)
    if not (folder / "corpus.json").exists() and fairseq.is_data_bin(folder):
        _refuse_options(folder, "a folder of fairseq's", given, ("split", "languages"))
        split = "train" if split is None else split
        return Corpus(folder, *fairseq.open_data_bin(folder, split, given["languages"]))
    _refuse_options(folder, "a folder of pycat's", given, ())
    manifest = read_manifest(folder, "corpus", CorpusError)
    _check_manifest(folder, manifest)
    # Corpora from before there were block checksums open without.
    has_checksums = "block_bytes" in manifest
    vocab_sizes = manifest.get("src_vocab_size", manifest["vocab_size"]), manifest["vocab_size"]
    sides = (
        _core.IndexedFile(
            str(folder / side),
            vocab_size=vocab_size,
            checksums=folder / f"{side}.sums" if has_checksums else None,
        )
        for side, vocab_size in zip(("src", "tgt"), vocab_sizes, strict=True)
    )
    return Corpus(folder, manifest, *sides)


def _check_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse the manifest of a pycat that made blocks of another size, and impossible numbers."""
    path, block_bytes = folder / "corpus.json", manifest.get("block_bytes", _core.BLOCK_BYTES)
    if block_bytes != _core.BLOCK_BYTES:
        raise CorpusError(
            f"{path}: block_bytes is {block_bytes:,}, expected {_core.BLOCK_BYTES:,}; use the "
            "pycat that wrote it"
        )
    for name, low in (("vocab_size", 1), ("num_pairs", 1), ("num_lines", manifest["num_pairs"])):
        if manifest[name] < low:
            raise CorpusError(
                f"{path}: {name} is {manifest[name]:,}, expected at least {low:,}; {REMEDY}"
            )
    if manifest["eos_id"] >= manifest["vocab_size"]:
        raise CorpusError(
            f"{path}: eos_id is {manifest['eos_id']:,}, expected below vocab_size, "
            f"{manifest['vocab_size']:,}; {REMEDY}"
        )


def as_corpus(corpus: Corpus | str | PathLike[str]) -> Corpus:
    """The corpus itself, or opened by its path."""
    return corpus if isinstance(corpus, Corpus) else open_corpus(corpus)


def reopen_corpus(folder: Path, options: Mapping[str, Any]) -> Corpus:
    """Open a corpus again by its recorded folder and `Corpus.options`."""
    given = dict(options)
    if "tokenizer" in given:
        given["tokenizer"] = folder / given["tokenizer"]
    if "prefixes" not in given:
        return open_corpus(folder, **given)
    src, tgt = given.pop("prefixes")
    return open_corpus((folder / src, folder / tgt), **given)


def _refuse_options(
    path: object, kind: str, given: Mapping[str, Any], allowed: Sequence[str]
) -> None:
    """Refuse options that do not belong to this kind of corpus."""
    refused = [name for name, value in given.items() if value is not None and name not in allowed]
    if refused:
        raise PycatError(
            f"{path}: {', '.join(refused)} given to open {kind}, expected "
            f"{', '.join(allowed) or 'no options'}; leave the others out"
        )
