"""A tokenized corpus, opened.

A corpus folder holds `corpus.json`, the tokenizer, `src` and `tgt` as MMIDIDX files (EOS ends every
sequence), and `skipped.tsv`: the lines that are not in the corpus, and why. Pair ids count the
pairs that are in it, from 0; `Corpus.lines` gives their line numbers. What other tools binarised
opens too: `fairseq` and `megatron` find its files and say what its ids mean.
"""

import copy
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from pycat import _core
from pycat.data import fairseq, megatron
from pycat.data.batches import Batch, BatchStream, from_capsules
from pycat.data.hf_tokenizer import HuggingFaceTokenizer, Template
from pycat.data.parallel_text import ParallelText
from pycat.data.tokenizer import Tokenizer
from pycat.errors import CorpusError, PycatError, TextError
from pycat.runtime.output import digest, file_sha256, read_manifest

TOKENIZER_FILE = "tokenizer.model"
TOKENIZER_FOLDER = "tokenizer"
SKIPPED_FILE = "skipped.tsv"
RULES_FILE = "rules.parquet"
INDEX_FILES = ("src.idx", "src.bin", "tgt.idx", "tgt.bin")

_PREFIX_OPTIONS = ("languages", "vocab_size", "eos_id", "pad_id", "tokenizer", "layout")


class Corpus:
    """A tokenized corpus of N pairs, memory-mapped; or a view of some of them.

    `len`, `corpus[i]` and `corpus[first:last]` count the pairs of the view. What is read is what
    was on the disk when the corpus was opened: files that change after that are an error.

    Attributes:
        path: the folder; of two prefixes, the one that holds both.
        languages: source and target.
        vocab_size: token ids lie below it.
        src_vocab_size: bound on the ids of the source, where its ids mean other pieces than those
            of the target; None where both share the vocabulary.
        eos_id: the token that ends every sequence.
        pad_id: fills padded batches up.
        options: what `open_corpus` needs beside `path` to open others' data again.
    """

    def __init__(
        self,
        path: Path,
        facts: dict[str, Any],
        src: _core.IndexedFile,
        tgt: _core.IndexedFile,
    ) -> None:
        """Corpora come from `open_corpus` and `tokenize`.

        Raises:
            CorpusError: the files hold unequal numbers of sequences.
        """
        self.path, self._facts = path, facts
        self.languages: tuple[str, str] = tuple(facts["languages"])
        self.vocab_size: int = facts["vocab_size"]
        self.src_vocab_size: int | None = facts.get("src_vocab_size")
        self.eos_id: int = facts["eos_id"]
        self.pad_id: int = facts.get("pad_id", self.eos_id)
        self.options: dict[str, Any] = facts.get("options", {})
        self._src, self._tgt = src, tgt
        self._view: NDArray[np.int64] | None = None
        if not len(src) == len(tgt) == facts["num_pairs"]:
            raise CorpusError(
                f"{path}: {src.prefix} holds {len(src):,} sequences and {tgt.prefix} {len(tgt):,}, "
                f"expected {facts['num_pairs']:,} of each; make the corpus again"
            )

    def __len__(self) -> int:
        return len(self._src) if self._view is None else len(self._view)

    def __repr__(self) -> str:
        return f"Corpus({str(self.path)!r}, {len(self):,} pairs, {'-'.join(self.languages)})"

    @overload
    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]: ...
    @overload
    def __getitem__(self, index: slice) -> "Corpus": ...
    def __getitem__(self, index: int | slice) -> "tuple[NDArray[Any], NDArray[Any]] | Corpus":
        """Source and target tokens of one pair, or a view of a range of pairs.

        The arrays are read-only views of the mapped files, in the type stored.
        """
        if isinstance(index, slice):
            rows = range(len(self))[index]
            if rows.step < 0:
                raise ValueError(f"the step is {rows.step}; expected at least 1: views ascend")
            return self.subset(
                np.arange(rows.start, rows.stop, rows.step)
                if self._view is None
                else self._view[index]
            )
        row = range(len(self))[index]
        pair = row if self._view is None else int(self._view[row])
        return self._src.sequence(pair), self._tgt.sequence(pair)

    @property
    def manifest(self) -> dict[str, Any]:
        """What `corpus.json` says; of others' data the facts that it would, with `id`.

        Others' data have no id and no checksums on record, so the first use reads all of it: each
        token is checked, as by `verify`, and the files are hashed.

        Raises:
            CorpusError: others' data hold a bad token, or a sequence that does not end with EOS.
        """
        if "id" not in self._facts:
            self.verify()
            files = [
                file_sha256(Path(file.prefix + suffix))
                for file in (self._src, self._tgt)
                for suffix in (".idx", ".bin")
            ]
            _ = self._src.lengths(), self._tgt.lengths()  # hashed is what was opened
            self._facts["id"] = digest([files, self._facts["tokenizer_sha256"]])
        return self._facts

    @cached_property
    def id(self) -> str:
        """SHA-256 over tokens, tokenizer and, in a view, pair ids; the same wherever it stands."""
        whole: str = self.manifest["id"]
        if self._view is None:
            return whole
        return hashlib.sha256(whole.encode() + self._view.tobytes()).hexdigest()

    @property
    def template(self) -> Template:
        """The special tokens around the sentences."""
        return Template.of(self._facts)

    @property
    def files(self) -> tuple[_core.IndexedFile, _core.IndexedFile, NDArray[np.int64] | None]:
        """The mapped files of source and target, and the ids of a view's pairs, None for all."""
        return self._src, self._tgt, self._view

    @cached_property
    def pair_ids(self) -> NDArray[np.int64]:
        """int64 (N,), ascending: all ids, or those of a `subset`."""
        return np.arange(len(self), dtype=np.int64) if self._view is None else self._view

    @cached_property
    def lengths(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Source and target tokens of each pair, EOS counted: int32 (N,) each, read-only.

        Of a whole corpus these are views of the mapped files, which numpy reads although they are
        not aligned in memory.
        """
        src, tgt = self._src.lengths(), self._tgt.lengths()
        return (src, tgt) if self._view is None else (src[self._view], tgt[self._view])

    @property
    def num_src_tokens(self) -> NDArray[np.int32]:
        """Source tokens of each pair, int32 (N,), EOS counted."""
        return self.lengths[0]

    @property
    def num_tokens(self) -> NDArray[np.int32]:
        """Target tokens of each pair, int32 (N,), EOS counted."""
        return self.lengths[1]

    @cached_property
    def tokenizer(self) -> Tokenizer | HuggingFaceTokenizer:
        """The corpus's own tokenizer.

        Raises:
            CorpusError: others' data, opened without one.
        """
        if self.options and "tokenizer" not in self.options:
            raise CorpusError(
                f"{self.path}: no tokenizer is known for these tokens, which text needs; make a "
                "corpus with 'pycat tokenize'"
            )
        if "template" in self._facts:
            how = {**self._facts["recipe"]["tokenizer"]}
            del how["sha256"]
            return HuggingFaceTokenizer(self.path / TOKENIZER_FOLDER, **how)
        return Tokenizer(self.path / self.options.get("tokenizer", TOKENIZER_FILE))

    def subset(self, pair_ids: NDArray[np.int64]) -> "Corpus":
        """A view of those pairs of this corpus; copies no tokens."""
        wanted = np.unique(np.asarray(pair_ids, dtype=np.int64))
        if len(wanted) == 0:
            raise CorpusError(f"{self.path}: the subset is empty; expected at least one pair")
        self._rows(wanted)
        view = copy.copy(self)
        for name in ("id", "pair_ids", "lengths", "_order"):
            view.__dict__.pop(name, None)
        view._view = self._view if len(wanted) == len(self) else wanted
        return view

    def batches(
        self,
        batch_tokens: int = 16_384,
        *,
        seed: int | None = None,
        epoch: int = 0,
        padded: bool = False,
        dtype: torch.dtype = torch.int64,
        rank: int = 0,
        world_size: int = 1,
        state: dict[str, Any] | None = None,
        num_threads: int = 1,
        pin_memory: bool = False,
    ) -> BatchStream:
        """One epoch of batches, every pair exactly once over all ranks.

        Pairs are sorted by target and source length, and cut so that neither side of a batch
        computes more than `batch_tokens` tokens; only a longer pair stands alone. Where the cuts
        lie depends on lengths, `batch_tokens`, `padded` and `world_size` alone.

        Args:
            batch_tokens: bound on the tokens of each side, padding counted where there is any.
            seed: shuffles pairs of equal lengths, then batches; None reads from short to long.
            epoch: each has an order of its own.
            padded: give rectangles instead of packed tokens.
            dtype: int64 or int32, of the tokens.
            rank, world_size: of `world_size` neighbouring batches, of like cost, each rank gets
                one.
            state: `BatchStream.state` of an earlier stream, to go on after its last batch.
            num_threads: that read ahead; with 0 each batch is read when it is asked for. The
                batches are the same.
            pin_memory: read into memory from which CUDA devices copy faster. Copy by `Batch.to`,
                which waits, or keep the batch until the copy is done: its memory is used again as
                soon as it is gone.

        Raises:
            CorpusError: the files are damaged or changed; `state` belongs to other batches.
            ValueError: `batch_tokens`, `rank` or `world_size` is out of range.
        """
        return BatchStream(
            self._src,
            self._tgt,
            self._plan(batch_tokens, padded=padded, world_size=world_size),
            seed=seed,
            epoch=epoch,
            rank=rank,
            state=state,
            pad_id=self.pad_id,
            dtype=dtype,
            num_threads=num_threads,
            pin_memory=pin_memory,
        )

    def num_batches(self, batch_tokens: int = 16_384, *, padded: bool = False) -> int:
        """Batches in an epoch."""
        return len(self._plan(batch_tokens, padded=padded, world_size=1))

    def _plan(self, batch_tokens: int, *, padded: bool, world_size: int) -> _core.BatchPlan:
        return _core.BatchPlan(
            self._order, batch_tokens=batch_tokens, padded=padded, world_size=world_size
        )

    @cached_property
    def _order(self) -> _core.PairOrder:
        scratch = self.path if os.access(self.path, os.W_OK) else Path(tempfile.gettempdir())
        return _core.PairOrder(self._src, self._tgt, self._view, scratch_folder=scratch)

    def read(self, pair_ids: NDArray[np.int64]) -> Batch:
        """Those pairs, packed, in that order."""
        return from_capsules(_core.read_batch(self._src, self._tgt, pair_ids))

    def verify(self) -> None:
        """Check every byte: the index, each token, the recorded checksums.

        Tokens must lie in the vocabulary, and each sequence end with EOS; but a source only where
        the model's own template does not end it otherwise.

        Raises:
            CorpusError: with the first file that is not as it was written.
        """
        ends = self.template.src_tail == 1
        self._src.verify(eos_id=self.eos_id if ends else None)
        self._tgt.verify(eos_id=self.eos_id)
        for name, recorded in self._facts.get("sha256", {}).items():
            found = file_sha256(self.path / name)
            if found != recorded:
                raise CorpusError(
                    f"{self.path / name}: SHA-256 is {found}, expected {recorded}, as recorded in "
                    "corpus.json; the file is damaged: run 'pycat tokenize' again"
                )

    def write_megatron_index(self) -> tuple[Path, Path]:
        """Write `src.mcore.idx` and `tgt.mcore.idx`, so that Megatron opens what lies here.

        Each stands beside a link `.mcore.bin` to the tokens, which are not copied, and appears
        complete or not at all.

        Returns:
            The two prefixes, to pass to megatron-core's `IndexedDataset`.

        Raises:
            CorpusError: this is a subset, or the files have Megatron's layout already.
            OutputError: a file stands where the link should.
        """
        if self._view is not None:
            raise CorpusError(
                f"{self.path}: this is a subset of {len(self):,} of {len(self._src):,} pairs, "
                "expected all of them: an index of Megatron's covers the whole token file"
            )
        return megatron.write_index(self._src), megatron.write_index(self._tgt)

    @property
    def has_text(self) -> bool:
        """Whether this corpus was made from text by pycat."""
        return "text" in self._facts

    @property
    def lines(self) -> NDArray[np.int64]:
        """Line number in the text, from 0, of each pair (N,)."""
        all_lines: NDArray[np.int64] = np.flatnonzero(self.kept_lines)
        return all_lines if self._view is None else all_lines[self._view]

    @property
    def kept_lines(self) -> NDArray[np.bool_]:
        """Whether each line of the text is in the corpus, of a view in the whole one."""
        self._require_text()
        kept = np.ones(self.manifest["num_lines"], dtype=bool)
        with (self.path / SKIPPED_FILE).open(encoding="utf-8") as file:
            next(file)
            for row in file:
                kept[int(row.split("\t", 1)[0]) - 1] = False
        if kept.sum() != self.manifest["num_pairs"]:
            raise CorpusError(
                f"{self.path / SKIPPED_FILE}: leaves {kept.sum():,} lines, expected "
                f"{self.manifest['num_pairs']:,}; it is damaged: run 'pycat tokenize' again"
            )
        return kept

    def text(self) -> ParallelText:
        """The parallel text this corpus was made from.

        Raises:
            CorpusError: it was not made from text by pycat.
            TextError: a file is gone, or is no longer the one that was tokenized.
        """
        self._require_text()
        known = self.manifest["text"]
        text = ParallelText(tuple(Path(row["path"]) for row in known))
        for path in text.paths:
            if not path.is_file():
                raise TextError(f"{path}: the text of {self.path} is gone; put it back")
        for old, new in zip(known, text.fingerprint(known), strict=True):
            if old["sha256"] != new["sha256"]:
                raise TextError(
                    f"{new['path']}: changed since {self.path} was made from it; put the old file "
                    "back, or run 'pycat tokenize' again"
                )
        return text

    def sentences(self, pair_ids: Sequence[int]) -> list[tuple[str, str]]:
        """Source and target text of those pairs, in that order; reads the text once."""
        lines = self.lines[self._rows(np.asarray(pair_ids, dtype=np.int64))].tolist()
        wanted = dict.fromkeys(lines, ("", ""))
        text = self.text()
        for number, row in enumerate(text.rows()):
            if number in wanted:
                src, tgt = text.sides(row, number + 1)
                wanted[number] = (src.decode("utf-8"), tgt.decode("utf-8"))
        return [wanted[line] for line in lines]

    def _require_text(self) -> None:
        if not self.has_text:
            raise CorpusError(
                f"{self.path}: holds tokens only, so the text of its pairs is not known; use their "
                "pair_ids, which count the sequences from 0, or make a corpus of the text with "
                "'pycat tokenize'"
            )

    def _rows(self, pair_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in this view those pairs are."""
        if self._view is None:
            rows = pair_ids
            unknown = pair_ids[(pair_ids < 0) | (pair_ids >= len(self))]
        else:
            rows = np.searchsorted(self._view, pair_ids)
            unknown = pair_ids[self._view[rows.clip(max=len(self) - 1)] != pair_ids]
        if len(unknown):
            first, last = (0, len(self) - 1) if self._view is None else self._view[[0, -1]]
            raise CorpusError(
                f"{self.path}: pair {unknown[0]:,} is not in this corpus of {len(self):,} pairs "
                f"with ids {first:,} to {last:,}; pass ids of its pair_ids"
            )
        return rows


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

    Reading is ready at once, whatever the size: a small index is verified here, a large one before
    the first pair is read. Others' data hold tokens only: what needs text refuses them, and pair
    ids count their sequences.

    Where fairseq's dictionaries of source and target differ, one id means two pieces. Each side is
    then checked against its own, and a proxy trained on it has an embedding for each; otherwise,
    as for all other corpora, both sides share one.

    Args:
        path: a folder made by `tokenize`; a folder made by `fairseq-preprocess`; or the prefixes
            (files without `.idx` and `.bin`) of source and target.
        split: of fairseq's folder; "train" by default. Shards such as "train1" are splits.
        languages: source and target. Of fairseq's folder those to open, either way round, needed
            only where there are several; of prefixes their names.
        vocab_size, eos_id: of prefixes: the bound on token ids of both sides, and the id that
            ends each sequence.
        pad_id: of prefixes: the id that fills padded batches up; `eos_id` by default.
        tokenizer: of prefixes, instead of both: the SentencePiece model they were made with.
        layout: of prefixes: "fairseq" or "megatron"; by default told by the size of the index.

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
    sides = (
        _core.IndexedFile(str(folder / side), vocab_size=manifest["vocab_size"])
        for side in ("src", "tgt")
    )
    return Corpus(folder, manifest, *sides)


def as_corpus(corpus: Corpus | str | PathLike[str]) -> Corpus:
    """The corpus itself, or opened by its path."""
    return corpus if isinstance(corpus, Corpus) else open_corpus(corpus)


def reopen_corpus(folder: Path, options: Mapping[str, Any]) -> Corpus:
    """Open what a folder recorded as a corpus's `path` and `options`."""
    left = dict(options)
    if "tokenizer" in left:
        left["tokenizer"] = folder / left["tokenizer"]
    if "prefixes" not in left:
        return open_corpus(folder, **left)
    src, tgt = left.pop("prefixes")
    return open_corpus((folder / src, folder / tgt), **left)


def _refuse_options(
    path: object, kind: str, given: Mapping[str, Any], fitting: Sequence[str]
) -> None:
    strangers = [name for name, value in given.items() if value is not None and name not in fitting]
    if strangers:
        raise PycatError(
            f"{path}: {', '.join(strangers)} given to open {kind}, expected "
            f"{', '.join(fitting) or 'no options'}; leave the others out"
        )
