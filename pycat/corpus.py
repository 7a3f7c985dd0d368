"""Parallel text to a tokenized corpus folder, and that folder opened.

The folder holds `corpus.json`, the tokenizer, `src` and `tgt` as MMIDIDX files (EOS ends every
sequence), and `skipped.tsv`: the lines that are not in the corpus, and why. Pair ids count the
pairs that are in it, from 0; `Corpus.lines` gives their line numbers.
"""

import copy
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pycat._core import IndexedFile, IndexedWriter
from pycat.errors import CorpusError, PycatError, TextError
from pycat.output import (
    OutputFolder,
    digest,
    file_sha256,
    read_manifest,
    replacing,
    write_json,
)
from pycat.parallel_text import ParallelText, decode
from pycat.progress import progress
from pycat.tokenizer import Tokenizer, train_tokenizer

# A line longer than this is skipped unread by the tokenizer: no sentence is, and markup dumps are.
MAX_LINE_BYTES = 65_536

_CHUNK_PAIRS = 8192
_TOKENIZER_FILE = "tokenizer.model"
_SKIPPED_FILE = "skipped.tsv"
_INDEX_FILES = ("src.idx", "src.bin", "tgt.idx", "tgt.bin")
_OWNED = (*_INDEX_FILES, _TOKENIZER_FILE, _SKIPPED_FILE)


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
        return Tokenizer(self.path / _TOKENIZER_FILE)

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
        with (self.path / _SKIPPED_FILE).open(encoding="utf-8") as file:
            next(file)
            for row in file:
                kept[int(row.split("\t", 1)[0]) - 1] = False
        all_lines: NDArray[np.int64] = np.flatnonzero(kept)
        if len(all_lines) != self.manifest["num_pairs"]:
            raise CorpusError(
                f"{self.path / _SKIPPED_FILE}: leaves {len(all_lines):,} lines, expected "
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


def tokenize(
    src: str | PathLike[str] | None = None,
    tgt: str | PathLike[str] | None = None,
    *,
    tsv: str | PathLike[str] | None = None,
    out: str | PathLike[str],
    tokenizer: str | PathLike[str] | None = None,
    vocab_size: int = 8000,
    model_type: str = "unigram",
    max_tokens: int = 512,
    languages: tuple[str, str] | None = None,
    overwrite: bool = False,
) -> Corpus:
    """Tokenize parallel text into a corpus folder.

    Args:
        src, tgt: UTF-8 files of equal line count; plain, `.gz` or `.zst`.
        tsv: instead of both, one file of source, tab, target; further columns are not read.
        out: the folder to make. One made before from the same input is opened as it is.
        tokenizer: a SentencePiece `.model`; without one, it is trained on this text.
        vocab_size: pieces of both languages together, when training ("unigram" may yield fewer).
        model_type: "unigram" or "bpe", when training.
        max_tokens: pairs with a longer side, EOS counted, are skipped, as are lines beyond
            65,536 bytes.
        languages: names of source and target; by default the file names' suffixes.
        overwrite: replace a corpus made with other options.

    Returns:
        The corpus. Pairs with an empty or overlong side are left out, counted in
        `manifest["skipped"]` and listed in `skipped.tsv`.

    Raises:
        TextError: a file is missing, empty, damaged or not UTF-8, or line counts differ.
        TokenizerError: the tokenizer cannot be loaded or trained.
        OutputError: `out` holds something else, or a corpus made with other options.
    """
    text = ParallelText.of(src, tgt, tsv)
    names = tuple(languages or _languages(text))
    if len(set(names)) != 2 or not all(re.fullmatch(r"[\w-]+", name) for name in names):
        raise PycatError(
            f"languages are {names}; expected two different names of letters, digits, - and _"
        )
    folder_path = Path(out)
    given = None if tokenizer is None else Tokenizer(tokenizer)
    # Read before the folder is touched: overwriting may delete the very file.
    model = None if given is None else given.path.read_bytes()
    prints = text.fingerprint(known_text(folder_path))
    folder = OutputFolder(
        folder_path,
        "corpus",
        {
            "text": [row["sha256"] for row in prints],
            "languages": names,
            "tokenizer": given.sha256
            if given
            else {"vocab_size": vocab_size, "model_type": model_type},
            "max_tokens": max_tokens,
        },
        _OWNED,
        overwrite,
    )
    if folder.manifest is not None:
        if [row["path"] for row in folder.manifest["text"]] != list(map(str, text.paths)):
            write_json(folder_path / "corpus.json", {**folder.manifest, "text": prints})
        return Corpus(folder_path)
    model_path = folder_path / _TOKENIZER_FILE
    if model is None:
        pieces = train_tokenizer(
            _all_lines(text), model_path, vocab_size=vocab_size, model_type=model_type
        )
    else:
        with replacing(model_path) as temporary:
            temporary.write_bytes(model)
        pieces = Tokenizer(model_path)
    try:
        counts = _write_corpus(text, pieces, folder_path, max_tokens)
    except TextError:
        model_path.unlink()  # or the next call, with text or options mended, would be refused
        raise
    files = {name: file_sha256(folder_path / name) for name in _INDEX_FILES}
    folder.finish(
        id=digest([files, pieces.sha256]),
        languages=names,
        num_lines=counts.pop("lines"),
        num_pairs=counts.pop("pairs"),
        skipped=dict(sorted(counts.items())),
        vocab_size=pieces.vocab_size,
        eos_id=pieces.eos_id,
        tokenizer_sha256=pieces.sha256,
        text=prints,
        sha256=files,
    )
    return Corpus(folder_path)


def _languages(text: ParallelText) -> tuple[str, str]:
    """`a.en` and `a.de.gz` give ("en", "de"); anything less clear ("src", "tgt")."""
    if text.is_tsv:
        return "src", "tgt"
    suffixes = [
        path.with_suffix("").suffix if path.suffix in (".gz", ".zst") else path.suffix
        for path in text.paths
    ]
    src, tgt = (suffix.removeprefix(".") for suffix in suffixes)
    return (src, tgt) if src and tgt and src != tgt else ("src", "tgt")


def known_text(folder: Path) -> list[Any]:
    """Fingerprints of the text a corpus folder was made from, [] if there is none."""
    try:
        known: list[Any] = read_manifest(folder, "corpus", CorpusError)["text"]
    except CorpusError:
        return []
    return known


def _decoded(text: ParallelText) -> Iterator[tuple[str, str] | None]:
    """Both sides of each line as text, or None for a line of more than `MAX_LINE_BYTES`."""
    src_path, tgt_path = text.paths[0], text.paths[-1]
    for number, (src, tgt) in enumerate(text.pairs(), start=1):
        if max(len(src), len(tgt)) > MAX_LINE_BYTES:
            yield None
        else:
            yield decode(src, src_path, number), decode(tgt, tgt_path, number)


def _all_lines(text: ParallelText) -> Iterator[str]:
    with progress("train tokenizer", text.count_lines(), "pairs") as advance:
        for pair in _decoded(text):
            advance(1)
            if pair is not None:
                yield from pair


def _write_corpus(
    text: ParallelText, tokenizer: Tokenizer, folder: Path, max_tokens: int
) -> Counter[str]:
    """Write the index files and `skipped.tsv`; counts "lines", "pairs" and each skip reason."""
    dtype = "uint16" if tokenizer.vocab_size < 65_500 else "int32"
    counts: Counter[str] = Counter()
    with (
        progress("tokenize", text.count_lines(), "pairs") as advance,
        replacing(folder / _SKIPPED_FILE) as skipped_path,
        skipped_path.open("w", encoding="utf-8") as skipped,
        IndexedWriter(str(folder / "src"), dtype=dtype) as src_writer,
        IndexedWriter(str(folder / "tgt"), dtype=dtype) as tgt_writer,
    ):
        skipped.write("line\treason\n")
        for chunk in _chunks(_decoded(text)):
            kept = _tokenize_chunk(chunk, tokenizer, max_tokens, counts, skipped)
            for writer, rows in ((src_writer, kept[0]), (tgt_writer, kept[1])):
                if rows:
                    lengths = np.fromiter(map(len, rows), np.int32, len(rows))
                    tokens = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
                    writer.append(tokens, lengths)
            advance(len(chunk))
        if counts["pairs"] == 0:
            raise TextError(
                f"{text.paths[0]}: none of {counts['lines']:,} lines gives a pair with text on "
                f"both sides and at most {max_tokens} tokens; check the files, or raise max_tokens"
            )
    return counts


def _tokenize_chunk(
    chunk: list[tuple[str, str] | None],
    tokenizer: Tokenizer,
    max_tokens: int,
    counts: Counter[str],
    skipped: TextIO,
) -> tuple[list[list[int]], list[list[int]]]:
    present = [pair for pair in chunk if pair is not None]
    threads = os.cpu_count() or 1
    src_rows = iter(tokenizer.encode([src for src, _ in present], num_threads=threads))
    tgt_rows = iter(tokenizer.encode([tgt for _, tgt in present], num_threads=threads))
    kept: tuple[list[list[int]], list[list[int]]] = ([], [])
    for pair in chunk:
        counts["lines"] += 1
        if pair is None:
            reason = f"a side of more than {MAX_LINE_BYTES} bytes"
        else:
            src, tgt = next(src_rows), next(tgt_rows)
            if len(src) == 1 or len(tgt) == 1:
                reason = "empty source" if len(src) == 1 else "empty target"
            elif len(src) > max_tokens or len(tgt) > max_tokens:
                reason = f"a side of more than {max_tokens} tokens"
            else:
                counts["pairs"] += 1
                kept[0].append(src)
                kept[1].append(tgt)
                continue
        counts[reason] += 1
        skipped.write(f"{counts['lines']}\t{reason}\n")
    return kept


def _chunks(rows: Iterable[tuple[str, str] | None]) -> Iterator[list[tuple[str, str] | None]]:
    chunk = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK_PAIRS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
