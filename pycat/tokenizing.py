"""Parallel text to a tokenized corpus folder; `corpus` says what it holds."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from pycat._core import IndexedWriter
from pycat.corpus import INDEX_FILES, SKIPPED_FILE, TOKENIZER_FILE, Corpus, open_corpus
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
_OWNED = (*INDEX_FILES, "src.mcore.*", "tgt.mcore.*", TOKENIZER_FILE, SKIPPED_FILE)


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
        return open_corpus(folder_path)
    model_path = folder_path / TOKENIZER_FILE
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
    files = {name: file_sha256(folder_path / name) for name in INDEX_FILES}
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
    return open_corpus(folder_path)


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
        replacing(folder / SKIPPED_FILE) as skipped_path,
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
