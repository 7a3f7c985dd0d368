"""Tokenized corpora, memory-mapped.

A corpus folder holds `corpus.json`, the tokenizer, `src` and `tgt` as MMIDIDX files (EOS ends every
sequence), and `skipped.tsv`, which lists the lines that are not in the corpus, with reasons. Pair
ids count the pairs of the corpus from 0; `Corpus.lines` gives their line numbers. Data that fairseq
or Megatron binarised opens too: the modules `fairseq` and `megatron` find its files and vocabulary.
"""

import copy
import hashlib
import os
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from pycat import _core
from pycat.data import megatron
from pycat.data.hf_tokenizer import HuggingFaceTokenizer, Template
from pycat.data.packed_pairs import PackedPairs
from pycat.data.parallel_text import FileFingerprint, ParallelText
from pycat.data.row_files import RowFile
from pycat.data.tokenizer import Tokenizer
from pycat.data.vocabularies import VOCABULARIES_FILE, AnyTokenizer, VocabularyTokenizer
from pycat.errors import CorpusError, TextError
from pycat.runtime.manifest import check_file, problem_with
from pycat.runtime.output import digest, file_sha256

if TYPE_CHECKING:
    import torch

    from pycat.data.batches import Batch, BatchStream

TOKENIZER_FILE = "tokenizer.model"
TOKENIZER_FOLDER = "tokenizer"
SKIPPED_FILE = "skipped.tsv"
INDEX_FILES = ("src.idx", "src.bin", "tgt.idx", "tgt.bin")
CHECKSUM_FILES = ("src.sums", "tgt.sums")

# What a damaged corpus needs.
REMEDY = "run 'pycat tokenize' again with --overwrite"


class Corpus:
    """A tokenized corpus of N pairs, memory-mapped; or a view of some of them.

    `len`, `corpus[i]` and `corpus[first:last]` count the pairs of the view. A file that changes
    after the corpus was opened is an error.

    Attributes:
        path: the folder; of two prefixes, the folder that holds both.
        languages: source and target.
        vocab_size: token ids lie below it.
        src_vocab_size: bound on source ids where source and target have vocabularies of their own;
            None where they share one.
        eos_id: the token that ends every sequence.
        pad_id: the token that pads batches.
        options: arguments of `open_corpus`, beside `path`, that open data of other tools again.
        stage: the folder in which the tokens are read from a copy; None where they are read here.
    """

    def __init__(
        self,
        path: Path,
        manifest: dict[str, Any],
        src: _core.IndexedFile,
        tgt: _core.IndexedFile,
    ) -> None:
        """Corpora come from `open_corpus` and `tokenize`.

        Raises:
            CorpusError: the files hold unequal numbers of sequences.
        """
        self.path, self._manifest = path, manifest
        self.languages: tuple[str, str] = tuple(manifest["languages"])
        self.vocab_size: int = manifest["vocab_size"]
        self.src_vocab_size: int | None = manifest.get("src_vocab_size")
        self.eos_id: int = manifest["eos_id"]
        self.pad_id: int = manifest.get("pad_id", self.eos_id)
        self.options: dict[str, Any] = manifest.get("options", {})
        self.stage: Path | None = None
        self._src, self._tgt = src, tgt
        self._view: NDArray[np.int64] | None = None
        if not len(src) == len(tgt) == manifest["num_pairs"]:
            raise CorpusError(
                f"{path}: {src.prefix} holds {len(src):,} sequences and {tgt.prefix} {len(tgt):,}, "
                f"expected {manifest['num_pairs']:,} of each; make the corpus again"
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
            if len(rows) == 0:
                raise self._is_empty()
            # Ascending and of this corpus, so neither sorted nor looked for.
            return self._viewing(
                np.arange(rows.start, rows.stop, rows.step)
                if self._view is None
                else self._view[index]
            )
        row = range(len(self))[index]
        pair = row if self._view is None else int(self._view[row])
        return self._src.sequence(pair), self._tgt.sequence(pair)

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of `corpus.json`; for data of other tools the same entries, with `id`.

        Data of other tools have no id and no checksums on record, so the first use reads all of it:
        each token is checked, as by `verify`, and the files are hashed.

        Raises:
            CorpusError: data of another tool hold a bad token, or a sequence that lacks EOS.
        """
        if "id" not in self._manifest:
            self.verify()
            files = [
                file_sha256(Path(file.prefix + suffix))
                for file in (self._src, self._tgt)
                for suffix in (".idx", ".bin")
            ]
            _ = self._src.lengths(), self._tgt.lengths()  # refuses files changed since opening
            self._manifest["id"] = digest([files, self._manifest["tokenizer_sha256"]])
        return self._manifest

    @cached_property
    def id(self) -> str:
        """SHA-256 over tokens, tokenizer and, in a view, pair ids; the path does not change it."""
        whole: str = self.manifest["id"]
        if self._view is None:
            return whole
        return hashlib.sha256(whole.encode() + self._view.tobytes()).hexdigest()

    @property
    def template(self) -> Template:
        """The special tokens around the sentences."""
        return Template.of(self._manifest)

    @property
    def files(self) -> tuple[_core.IndexedFile, _core.IndexedFile, NDArray[np.int64] | None]:
        """Mapped files of source and target, and pair ids of a view (None for all pairs)."""
        return self._src, self._tgt, self._view

    @cached_property
    def pair_ids(self) -> NDArray[np.int64]:
        """int64 (N,), ascending: all ids, or those of a `subset`."""
        return np.arange(len(self), dtype=np.int64) if self._view is None else self._view

    @cached_property
    def lengths(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Source and target tokens of each pair, EOS counted: int32 (N,) each, read-only.

        For a whole corpus these are views of the mapped files, which numpy reads although they
        are not aligned.
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
    def tokenizer(self) -> AnyTokenizer:
        """The corpus's own tokenizer.

        Raises:
            CorpusError: data of another tool, opened without a tokenizer.
        """
        if self.options and "tokenizer" not in self.options:
            raise CorpusError(
                f"{self.path}: no tokenizer is known for these tokens, which text needs; make a "
                "corpus with 'pycat tokenize'"
            )
        found: AnyTokenizer
        folder = self.path / TOKENIZER_FOLDER
        if (folder / VOCABULARIES_FILE).is_file():
            found = VocabularyTokenizer.open(folder)
        elif "template" in self._manifest:
            how = {**self._manifest["recipe"]["tokenizer"]}
            del how["sha256"]
            found = HuggingFaceTokenizer(folder, **how)
        else:
            found = Tokenizer(self.path / self.options.get("tokenizer", TOKENIZER_FILE))
        if found.sha256 != self._manifest["tokenizer_sha256"]:
            raise CorpusError(
                f"{found.path}: this tokenizer has SHA-256 {found.sha256[:12]}…, expected "
                f"{self._manifest['tokenizer_sha256'][:12]}…, that of the tokens; put the "
                f"tokenizer back, or {REMEDY}"
            )
        return found

    def subset(self, pair_ids: NDArray[np.int64]) -> "Corpus":
        """A view of the pairs with those ids, ascending; copies no tokens."""
        wanted = np.unique(np.asarray(pair_ids, dtype=np.int64))
        if len(wanted) == 0:
            raise self._is_empty()
        self._rows(wanted)
        return self._viewing(wanted)

    def _is_empty(self) -> CorpusError:
        return CorpusError(f"{self.path}: the subset is empty; expected at least one pair")

    def _viewing(self, wanted: NDArray[np.int64]) -> "Corpus":
        """A view of pairs of this corpus, by distinct ascending ids."""
        view = copy.copy(self)
        for name in ("id", "pair_ids", "lengths", "_order"):
            view.__dict__.pop(name, None)
        view._view = self._view if len(wanted) == len(self) else wanted
        return view

    def with_files(self, src: _core.IndexedFile, tgt: _core.IndexedFile, stage: Path) -> "Corpus":
        """The same corpus, whose tokens are read from files of the same content in `stage`."""
        moved = copy.copy(self)
        for name in ("lengths", "_order"):
            moved.__dict__.pop(name, None)
        moved._src, moved._tgt, moved.stage = src, tgt, stage
        return moved

    def batches(
        self,
        batch_tokens: int = 16_384,
        *,
        seed: int | None = None,
        epoch: int = 0,
        padded: bool = False,
        dtype: "torch.dtype | None" = None,
        rank: int = 0,
        world_size: int = 1,
        state: dict[str, Any] | None = None,
        num_threads: int = 1,
        pin_memory: bool = False,
    ) -> "BatchStream":
        """One epoch of batches, every pair exactly once over all ranks.

        Pairs are sorted by target and source length, then cut into batches so that neither side
        computes more than `batch_tokens` tokens; a longer pair is a batch of its own. The cuts
        depend on lengths, `batch_tokens`, `padded` and `world_size` alone.

        Args:
            batch_tokens: max tokens of each side, padding included where there is any.
            seed: shuffles pairs of equal lengths, then batches; None reads from short to long.
            epoch: each epoch has its own order.
            padded: pad the batches instead of packing them.
            dtype: of the tokens, torch.int64 (the default) or torch.int32.
            rank, world_size: each rank gets one of `world_size` consecutive batches, which cost
                about the same.
            state: `BatchStream.state` of an earlier stream, to resume after its last batch.
            num_threads: threads that read ahead; with 0 each batch is read on request. The
                batches are the same.
            pin_memory: read into pinned memory, from which CUDA devices copy faster. Copy by
                `Batch.to`, which waits, or keep the batch until the copy is complete: the memory of
                a batch without references is reused.

        Raises:
            CorpusError: the files are damaged or changed; `state` belongs to other batches.
            ValueError: `batch_tokens`, `rank` or `world_size` is out of range.
        """
        # Torch takes seconds to import, and much that opens a corpus reads no batch.
        from pycat.data.batches import BatchStream

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

    def read(self, pair_ids: NDArray[np.int64]) -> "Batch":
        """Those pairs, packed, in that order."""
        from pycat.data.batches import from_capsules

        return from_capsules(_core.read_batch(self._src, self._tgt, pair_ids))

    def read_arrays(self, pair_ids: NDArray[np.int64]) -> PackedPairs:
        """Those pairs, packed, in that order, as numpy arrays."""
        return PackedPairs.of(_core.read_batch(self._src, self._tgt, pair_ids))

    def verify(self) -> None:
        """Check every byte: the index, each token, the recorded checksums.

        Tokens must lie in the vocabulary, and each sequence must end with EOS, except sources
        that the model's template ends with other tokens.

        Raises:
            CorpusError: names the first file that is not as it was written.
        """
        src_ends_with_eos = self.template.src_tail == 1
        self._src.verify(eos_id=self.eos_id if src_ends_with_eos else None)
        self._tgt.verify(eos_id=self.eos_id)
        for name, recorded in self._manifest.get("sha256", {}).items():
            if name not in self._manifest.get("files", {}):
                found = file_sha256(self.path / name)
                if found != recorded:
                    raise CorpusError(
                        f"{self.path / name}: SHA-256 is {found}, expected {recorded}, as recorded "
                        f"in corpus.json; the file is damaged: {REMEDY}"
                    )
        for name, listed in self._manifest.get("files", {}).items():
            if problem := problem_with(self.path, name, listed, full=True):
                raise CorpusError(f"{self.path / name}: {problem}; {REMEDY}")

    def write_megatron_index(self) -> tuple[Path, Path]:
        """Write `src.mcore.idx` and `tgt.mcore.idx`, with which Megatron opens this corpus.

        Beside each is a link `.mcore.bin` to the tokens, which are not copied. Each index appears
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
        return "text" in self._manifest

    @property
    def left_out(self) -> dict[str, int]:
        """What of the file that the text was read from gave no line: counts by reason."""
        found: dict[str, int] = self._manifest.get("source", {}).get("left_out", {})
        return found

    @property
    def is_monolingual(self) -> bool:
        """Whether the text has one side, the target: each source is what a text begins with."""
        return bool(self._manifest.get("recipe", {}).get("monolingual", False))

    @property
    def lines(self) -> NDArray[np.int64]:
        """Line number in the text, from 0, of each pair (N,)."""
        all_lines: NDArray[np.int64] = np.flatnonzero(self.kept_lines)
        return all_lines if self._view is None else all_lines[self._view]

    @property
    def kept_lines(self) -> NDArray[np.bool_]:
        """Whether each line of the text is in the whole corpus, bool (lines,)."""
        self._require_text()
        self._check_file(SKIPPED_FILE)
        path, num_lines = self.path / SKIPPED_FILE, self.manifest["num_lines"]
        kept = np.ones(num_lines, dtype=bool)
        try:
            with path.open("rb") as file:
                next(file, None)  # the header
                for row in file:
                    line = int(row.partition(b"\t")[0])
                    if not 1 <= line <= num_lines:
                        raise ValueError(f"line {line} of a text of {num_lines:,}")
                    kept[line - 1] = False
        except (OSError, ValueError) as error:
            raise CorpusError(f"{path}: cannot be read ({error}); {REMEDY}") from None
        if kept.sum() != self.manifest["num_pairs"]:
            raise CorpusError(
                f"{path}: leaves {kept.sum():,} lines, expected "
                f"{self.manifest['num_pairs']:,}; it is damaged: {REMEDY}"
            )
        return kept

    def _check_file(self, name: str) -> None:
        """Refuse a file of the folder that is not the one that its manifest lists."""
        check_file(self.path, self._manifest, name, REMEDY, CorpusError)

    def text(self) -> ParallelText:
        """The parallel text this corpus was made from.

        Raises:
            CorpusError: it was not made from text by pycat.
            TextError: a file is gone, or is no longer the one that was tokenized.
        """
        self._require_text()
        # Spooled text lies in this folder by its name.
        known: list[FileFingerprint] = [
            cast(FileFingerprint, {**row, "path": str(self.path / row["path"])})
            for row in self.manifest["text"]
        ]
        spooled = "source" in self.manifest
        places = (1, 2) if spooled else self.manifest["recipe"].get("columns", (1, 2))
        paths = tuple(Path(row["path"]) for row in known)
        text = ParallelText(paths, (places[0], places[1]), self.is_monolingual)
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

    def row_file(self) -> RowFile | None:
        """The file of rows that the text was read from; None for text, and rows of a dataset.

        Raises:
            CorpusError: the corpus was not made from text by pycat.
            TextError: the file is gone, or changed.
        """
        self._require_text()
        source = self.manifest.get("source", {})
        if "path" not in source:
            return None
        file = RowFile(Path(source["path"]), source["kind"], tuple(source["columns"]))
        if not file.path.is_file():
            raise TextError(f"{file.path}: what {self.path} was made from is gone; put it back")
        if file.fingerprint([source])[0]["sha256"] != source["sha256"]:
            raise TextError(
                f"{file.path}: changed since {self.path} was made from it; put the old file back, "
                "or run 'pycat tokenize' again"
            )
        return file

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
        """Rows of this view that hold those pairs."""
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
