"""Tokens of parallel text, chunk by chunk, and the files of a corpus that they become."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat._core import IndexedWriter
from pycat.data.corpus import SKIPPED_FILE
from pycat.data.parallel_text import Chunk, ParallelText, decode
from pycat.data.text_parts import TextPart, text_parts
from pycat.data.tokenizer import MAX_TRAINING_BYTES, Tokenizer
from pycat.data.vocabularies import AnyTokenizer
from pycat.errors import TextError
from pycat.runtime.output import OutputFolder, replacing
from pycat.runtime.part_files import Arrays, map_to_files, read_arrays
from pycat.runtime.progress import progress
from pycat.runtime.workers import on_workers

# Longer lines are skipped before the tokenizer reads them: no sentence is so long, but markup is.
MAX_LINE_BYTES = 65_536

# Tokens of parts that workers made; the corpus holds all of them in the end.
PART_FILES = "tokens-*.npz"


@dataclass(frozen=True)
class Limits:
    """Which pairs are kept: `max_tokens`, `crop` and `keep_empty` of `tokenize`."""

    max_tokens: int
    crop: bool
    keep_empty: bool


@dataclass(frozen=True)
class _Tokenized:
    """The tokens of a chunk of text.

    Attributes:
        num_lines: of the chunk.
        sides: tokens int32 (T,) and lengths int32 (n,) of source and target of the n pairs kept.
        skipped: line number, from 1, and reason of each line that is not kept.
    """

    num_lines: int
    sides: tuple[tuple[NDArray[np.int32], NDArray[np.int32]], ...]
    skipped: list[tuple[int, str]]

    @classmethod
    def joined(cls, chunks: "Sequence[_Tokenized]") -> "_Tokenized":
        """Several chunks as one."""

        def both(side: int, which: int) -> NDArray[np.int32]:
            return np.concatenate([chunk.sides[side][which] for chunk in chunks])

        return cls(
            sum(chunk.num_lines for chunk in chunks),
            tuple((both(side, 0), both(side, 1)) for side in range(2)),
            [row for chunk in chunks for row in chunk.skipped],
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, as a file of a part holds it."""
        (src, src_lengths), (tgt, tgt_lengths) = self.sides
        lines, reasons = zip(*self.skipped, strict=True) if self.skipped else ((), ())
        return {
            "num_lines": np.array(self.num_lines),
            "src": src,
            "src_lengths": src_lengths,
            "tgt": tgt,
            "tgt_lengths": tgt_lengths,
            "skipped": np.array(lines, np.int64),
            "reasons": np.array(reasons, np.str_),
        }

    @classmethod
    def of_arrays(cls, arrays: Arrays) -> "_Tokenized":
        """What `arrays` gave."""
        sides = (("src", "src_lengths"), ("tgt", "tgt_lengths"))
        skipped = zip(arrays["skipped"].tolist(), arrays["reasons"].tolist(), strict=True)
        return cls(
            int(arrays["num_lines"]),
            tuple((arrays[tokens], arrays[lengths]) for tokens, lengths in sides),
            list(skipped),
        )


def write_here(
    text: ParallelText,
    tokenizer: AnyTokenizer,
    folder: Path,
    limits: Limits,
    num_threads: int,
) -> Counter[str]:
    """Tokenize with threads of this process, and write as `_write_corpus`."""
    # Threads suffice: SentencePiece (0.2.3) releases the GIL while it segments, and holds it
    # while it makes lists of the ids. Processes would run that part in parallel too, but a
    # worker that imports pycat takes seconds and 200 MB for torch, and forking a process that
    # has threads is unsafe.
    with progress("tokenize", text.file_bytes / 1e6, "MB") as advance:
        tokenized = on_workers(
            partial(_tokenize_chunk, text, tokenizer, limits),
            text.chunks(lambda num_bytes: advance(num_bytes / 1e6)),
            num_threads,
        )
        return _write_corpus(tokenized, text, tokenizer, folder, limits)


def write_elsewhere(
    text: ParallelText,
    tokenizer: AnyTokenizer,
    folder: OutputFolder,
    limits: Limits,
    place: dict[str, Any],
) -> Counter[str]:
    """Let workers tokenize parts into files, and put them together as `_write_corpus`."""
    # A tokenizer that was trained anew may be another: its name is in those of the parts.
    stem = f"tokens-{tokenizer.sha256[:12]}"
    base = folder.path.absolute()
    with progress("tokenize", text.file_bytes / 1e6, "MB") as advance:
        paths = map_to_files(
            _LoadTokenizing(text, tokenizer, limits),
            ((base / f"{stem}-{part.index:05}.npz", part) for part in text_parts(text)),
            lambda part: advance(part.file_bytes / 1e6),
            resumes=folder.resumes,
            **place,
        )
    with progress("put parts together", len(paths), "parts") as advance:

        def tokenized() -> Iterator[_Tokenized]:
            for path in paths:
                yield _Tokenized.of_arrays(read_arrays(path))
                advance(1)

        return _write_corpus(tokenized(), text, tokenizer, folder.path, limits)


@dataclass(frozen=True)
class _LoadTokenizing:
    """Loads, in a worker, what tokenizes parts of a text."""

    text: ParallelText
    tokenizer: AnyTokenizer
    limits: Limits

    def __call__(self, num_threads: int) -> Callable[[TextPart], Arrays]:
        return partial(self._tokenize, num_threads)

    def _tokenize(self, num_threads: int, part: TextPart) -> Arrays:
        tokenize_chunk = partial(_tokenize_chunk, self.text, self.tokenizer, self.limits)
        chunks = list(on_workers(tokenize_chunk, part.chunks(), num_threads))
        return _Tokenized.joined(chunks).arrays()


def _write_corpus(
    tokenized: Iterable[_Tokenized],
    text: ParallelText,
    tokenizer: AnyTokenizer,
    folder: Path,
    limits: Limits,
) -> Counter[str]:
    """Write the index files and `skipped.tsv`; count "lines", "pairs" and each skip reason."""
    largest = max(tokenizer.vocab_size, tokenizer.src_vocab_size or 0)
    dtype = "uint16" if largest < 65_500 else "int32"
    counts: Counter[str] = Counter(lines=0, pairs=0)
    with (
        replacing(folder / SKIPPED_FILE) as skipped_path,
        skipped_path.open("w", encoding="utf-8") as skipped_file,
        IndexedWriter(str(folder / "src"), dtype=dtype) as src_writer,
        IndexedWriter(str(folder / "tgt"), dtype=dtype) as tgt_writer,
    ):
        skipped_file.write("line\treason\n")
        for chunk_tokens in tokenized:
            for writer, (tokens, lengths) in zip(
                (src_writer, tgt_writer), chunk_tokens.sides, strict=True
            ):
                if len(lengths):
                    writer.append(tokens, lengths)
            for line, reason in chunk_tokens.skipped:
                counts[reason] += 1
                skipped_file.write(f"{line}\t{reason}\n")
            counts["lines"] += chunk_tokens.num_lines
            counts["pairs"] += chunk_tokens.num_lines - len(chunk_tokens.skipped)
        if counts["pairs"] == 0:
            what = "text of" if text.monolingual else "a pair with text on both sides and"
            raise TextError(
                f"{text.paths[0]}: none of {counts['lines']:,} lines gives {what} at most "
                f"{limits.max_tokens} tokens; check the files, or raise "
                "max_tokens"
            )
    return counts


def _tokenize_chunk(
    text: ParallelText, tokenizer: AnyTokenizer, limits: Limits, chunk: Chunk
) -> _Tokenized:
    src_lines, tgt_lines, overlong = _sides(text, chunk, MAX_LINE_BYTES, limits.crop)
    rows = tokenizer.encode_pairs(src_lines, tgt_lines)
    max_tokens = limits.max_tokens
    if limits.crop:
        ends: tuple[int | None, int] = (tokenizer.eos_id, tokenizer.eos_id)
        if not isinstance(tokenizer, Tokenizer) and not tokenizer.template.src_tail:
            ends = None, tokenizer.eos_id
        rows = _cropped(rows[0], max_tokens, ends[0]), _cropped(rows[1], max_tokens, ends[1])
    src, tgt = (np.fromiter(map(len, side), np.int32, len(side)) for side in rows)
    blank_src, blank_tgt = (
        side < (1 if limits.keep_empty else shortest)
        for side, shortest in zip((src, tgt), tokenizer.shortest, strict=True)
    )
    kept = ~blank_src & ~blank_tgt & (src <= max_tokens) & (tgt <= max_tokens)
    skipped = []
    for row in np.flatnonzero(~kept).tolist():
        if row in overlong:
            reason = f"a side of more than {MAX_LINE_BYTES} bytes"
        elif blank_src[row] or blank_tgt[row]:
            reason = "empty source" if blank_src[row] else "empty target"
        else:
            reason = f"a side of more than {max_tokens} tokens"
        skipped.append((chunk.first + row, reason))
    sides = []
    for side, lengths in zip(rows, (src[kept], tgt[kept]), strict=True):
        tokens = chain.from_iterable(compress(side, kept.tolist()) if skipped else side)
        sides.append((np.fromiter(tokens, np.int32, int(lengths.sum())), lengths))
    return _Tokenized(len(chunk), tuple(sides), skipped)


def _sides(
    text: ParallelText, chunk: Chunk, max_line_bytes: int, crop: bool = False
) -> tuple[list[bytes], list[bytes], set[int]]:
    """Sources and targets of a chunk, both b"" in rows with an overlong line, and those rows.

    With `crop`, overlong lines are cut before a character instead.

    Raises:
        TextError: a line is not UTF-8 or has no tab; names the first such line.
    """
    try:
        src, tgt = text.columns(chunk)
        overlong: set[int] = set()
        if crop:
            src, tgt = ([_cut(line, max_line_bytes) for line in side] for side in (src, tgt))
        if max(map(len, chain(src, tgt))) > max_line_bytes:
            lengths = zip(map(len, src), map(len, tgt), strict=True)
            overlong = {row for row, pair in enumerate(lengths) if max(pair) > max_line_bytes}
            for row in overlong:
                src[row] = tgt[row] = b""
        for lines in (src, tgt):
            b"\n".join(lines).decode()  # only to check: SentencePiece takes bytes
    except (TextError, UnicodeDecodeError):
        # Read the chunk again line by line, to name the first bad line.
        for number, raw in enumerate(zip(*chunk.columns, strict=True), chunk.first):
            pair = text.sides(raw, number)
            if max(map(len, pair)) <= max_line_bytes:
                for line, path in zip(pair, (text.paths[0], text.paths[-1]), strict=True):
                    decode(line, path, number)
        raise
    return src, tgt, overlong


def _cut(line: bytes, max_bytes: int) -> bytes:
    """The first whole characters of a line of UTF-8 that fit."""
    if len(line) <= max_bytes:
        return line
    end = max_bytes
    while end > max_bytes - 4 and line[end] & 0xC0 == 0x80:
        end -= 1
    return line[:end]


def _cropped(rows: list[list[int]], max_tokens: int, eos_id: int | None) -> list[list[int]]:
    """Rows cut to `max_tokens`, the last of which is EOS if there is one."""
    tail = [] if eos_id is None else [eos_id]
    return [
        row if len(row) <= max_tokens else [*row[: max_tokens - len(tail)], *tail] for row in rows
    ]


def training_lines(text: ParallelText) -> Iterator[bytes]:
    """Yield source and target of each pair in turn, both empty where one is too long."""
    with progress("read text", text.file_bytes / 1e6, "MB") as advance:
        for chunk in text.chunks(lambda num_bytes: advance(num_bytes / 1e6)):
            src, tgt, _ = _sides(text, chunk, MAX_TRAINING_BYTES)
            yield from chain.from_iterable(zip(src, tgt, strict=True))
