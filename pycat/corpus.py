"""A corpus folder, opened.

The folder holds `corpus.json`, the tokenizer, `src` and `tgt` as MMIDIDX files (EOS ends every
sequence), and `skipped.tsv`: the lines that are not in the corpus, and why. Pair ids count the
pairs that are in it, from 0; `Corpus.lines` gives their line numbers.
"""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pycat._core import IndexedFile
from pycat.errors import CorpusError, TextError
from pycat.output import (
    read_manifest,
)
from pycat.parallel_text import ParallelText
from pycat.tokenizer import Tokenizer

TOKENIZER_FILE = "tokenizer.model"
SKIPPED_FILE = "skipped.tsv"
INDEX_FILES = ("src.idx", "src.bin", "tgt.idx", "tgt.bin")


@dataclass(frozen=True)
class Batch:
    """B packed pairs.

    `src_tokens` int64 (S,), `src_cu_seqlens` int32 (B + 1,), likewise `tgt_*`; `pair_ids` int64
    (B,). Every sequence ends with EOS; there is no padding.
    """

    src_tokens: Tensor
    src_cu_seqlens: Tensor
    tgt_tokens: Tensor
    tgt_cu_seqlens: Tensor
    pair_ids: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def pad(tokens: Tensor, cu_seqlens: Tensor, fill: int) -> tuple[Tensor, Tensor]:
    """Packed sequences as rows (B, longest) padded on the right, and a mask of the real ones."""
    lengths = cu_seqlens.diff().long()
    mask = torch.arange(int(lengths.max()), device=tokens.device) < lengths[:, None]
    rows = tokens.new_full(mask.shape, fill)
    rows[mask] = tokens
    return rows, mask


class Corpus:
    """A tokenized corpus of N pairs, memory-mapped; or a view of some of them.

    Attributes:
        path: the folder.
        id: SHA-256 over tokens, tokenizer and, in a view, pair ids; the same wherever it stands.
        languages: source and target.
        pair_ids: int64 (N,), ascending: all ids, or those of a `subset`.
        num_src_tokens, num_tokens: int32 (N,), source and target tokens, EOS counted.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        """Open a corpus folder.

        Raises:
            CorpusError: not a complete corpus folder, or a file of it is damaged.
        """
        self.path = Path(path)
        self.manifest = read_manifest(self.path, "corpus", CorpusError)
        self.id: str = self.manifest["id"]
        self.languages: tuple[str, str] = tuple(self.manifest["languages"])
        self.vocab_size: int = self.manifest["vocab_size"]
        self.eos_id: int = self.manifest["eos_id"]
        self._src = IndexedFile(str(self.path / "src"), vocab_size=self.vocab_size)
        self._tgt = IndexedFile(str(self.path / "tgt"), vocab_size=self.vocab_size)
        if not len(self._src) == len(self._tgt) == self.manifest["num_pairs"]:
            raise CorpusError(
                f"{self.path}: src holds {len(self._src):,} sequences and tgt {len(self._tgt):,}, "
                f"expected {self.manifest['num_pairs']:,} of each; run 'pycat tokenize' again"
            )
        self.pair_ids = np.arange(len(self._src), dtype=np.int64)
        self.num_src_tokens = self._src.lengths()
        self.num_tokens = self._tgt.lengths()

    def __len__(self) -> int:
        return len(self.pair_ids)

    def __repr__(self) -> str:
        return f"Corpus({str(self.path)!r}, {len(self):,} pairs, {'-'.join(self.languages)})"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The corpus's own tokenizer."""
        return Tokenizer(self.path / TOKENIZER_FILE)

    def subset(self, pair_ids: NDArray[np.int64]) -> "Corpus":
        """A view of those pairs of this corpus; copies no tokens."""
        view = copy.copy(self)
        view.pair_ids = np.unique(pair_ids)
        if len(view) == 0:
            raise CorpusError(f"{self.path}: the subset is empty; expected at least one pair")
        rows = self._rows(view.pair_ids)
        if len(view) < len(self):
            whole: str = self.manifest["id"]
            view.id = hashlib.sha256(whole.encode() + view.pair_ids.tobytes()).hexdigest()
        view.num_src_tokens, view.num_tokens = self.num_src_tokens[rows], self.num_tokens[rows]
        return view

    def plan(
        self, batch_tokens: int, *, seed: int | None = None, epoch: int = 0
    ) -> list[NDArray[np.int64]]:
        """The pair ids of each batch of one epoch, every pair exactly once.

        Pairs are sorted by target and source length and cut so that neither padded side exceeds
        `batch_tokens` (a longer pair stands alone). The number of batches depends on lengths
        alone. With a seed, equal lengths and then whole batches are shuffled by (seed, epoch).
        """
        if batch_tokens < 1:
            raise CorpusError(f"batch_tokens is {batch_tokens}; expected at least 1")
        rng = np.random.default_rng((seed, epoch)) if seed is not None else None
        tie = self.pair_ids if rng is None else rng.random(len(self))
        order = np.lexsort((tie, self.num_src_tokens, self.num_tokens))
        batches, first, longest_src = [], 0, 0
        lengths = zip(
            self.num_src_tokens[order].tolist(), self.num_tokens[order].tolist(), strict=True
        )
        for at, (src, tgt) in enumerate(lengths):
            longest_src = max(longest_src, src)
            if at > first and (at + 1 - first) * max(longest_src, tgt) > batch_tokens:
                batches.append(self.pair_ids[order[first:at]])
                first, longest_src = at, src
        batches.append(self.pair_ids[order[first:]])
        if rng is not None:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches

    def read(self, pair_ids: NDArray[np.int64]) -> Batch:
        """Those pairs, packed, in that order."""
        src_tokens, src_cu_seqlens = self._src.gather(pair_ids)
        tgt_tokens, tgt_cu_seqlens = self._tgt.gather(pair_ids)
        return Batch(
            torch.from_numpy(src_tokens).long(),
            torch.from_numpy(src_cu_seqlens),
            torch.from_numpy(tgt_tokens).long(),
            torch.from_numpy(tgt_cu_seqlens),
            torch.from_numpy(pair_ids.copy()),
        )

    def batches(
        self, batch_tokens: int = 16_384, *, seed: int | None = None, epoch: int = 0
    ) -> Iterator[Batch]:
        """The batches of `plan`, read."""
        return (self.read(ids) for ids in self.plan(batch_tokens, seed=seed, epoch=epoch))

    @property
    def lines(self) -> NDArray[np.int64]:
        """Line number in the text, from 0, of each pair (N,)."""
        kept = np.ones(self.manifest["num_lines"], dtype=bool)
        with (self.path / SKIPPED_FILE).open(encoding="utf-8") as file:
            next(file)
            for row in file:
                kept[int(row.split("\t", 1)[0]) - 1] = False
        all_lines: NDArray[np.int64] = np.flatnonzero(kept)
        if len(all_lines) != self.manifest["num_pairs"]:
            raise CorpusError(
                f"{self.path / SKIPPED_FILE}: leaves {len(all_lines):,} lines, expected "
                f"{self.manifest['num_pairs']:,}; it is damaged: run 'pycat tokenize' again"
            )
        return all_lines[self.pair_ids]

    def text(self) -> ParallelText:
        """The parallel text this corpus was made from.

        Raises:
            TextError: a file is gone, or is no longer the one that was tokenized.
        """
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

    def _rows(self, pair_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = np.searchsorted(self.pair_ids, pair_ids)
        unknown = pair_ids[self.pair_ids[rows.clip(max=len(self) - 1)] != pair_ids]
        if len(unknown):
            raise CorpusError(
                f"{self.path}: pair {unknown[0]:,} is not in this corpus of {len(self):,} pairs "
                f"with ids {self.pair_ids[0]:,} to {self.pair_ids[-1]:,}; pass ids of its pair_ids"
            )
        return rows


def open_corpus(path: str | PathLike[str]) -> Corpus:
    """Open a corpus folder; see `Corpus`."""
    return Corpus(path)
