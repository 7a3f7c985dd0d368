"""Tokenization of parallel text into a corpus folder, whose content `corpus` describes."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, compress
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat._core import BLOCK_BYTES, IndexedWriter, block_checksums
from pycat.data.corpus import (
    CHECKSUM_FILES,
    INDEX_FILES,
    SKIPPED_FILE,
    TOKENIZER_FILE,
    TOKENIZER_FOLDER,
    Corpus,
    open_corpus,
)
from pycat.data.hf_tokenizer import HuggingFaceTokenizer
from pycat.data.parallel_text import Chunk, FileFingerprint, ParallelText, decode
from pycat.data.row_files import KINDS, Columns, RowFile, kind_of, open_text
from pycat.data.spooled_text import (
    SPOOLED_FILES,
    DatasetText,
    spooled_dataset,
    spooled_fingerprints,
)
from pycat.data.tab_columns import check_first_columns
from pycat.data.tokenizer import (
    CHARACTER_COVERAGE,
    MAX_TRAINING_BYTES,
    Tokenizer,
    train_tokenizer,
)
from pycat.data.vocabularies import (
    AnyTokenizer,
    VocabularyTokenizer,
    open_ct2_vocabularies,
    read_vocabularies,
)
from pycat.errors import CorpusError, PycatError, TextError
from pycat.runtime.manifest import list_files, read_manifest
from pycat.runtime.numbers import check_number
from pycat.runtime.output import OutputFolder, digest, replacing, write_manifest
from pycat.runtime.progress import progress
from pycat.runtime.publishing import sync_tree
from pycat.runtime.workers import on_workers

# Longer lines are skipped before the tokenizer reads them: no sentence is so long, but markup is.
MAX_LINE_BYTES = 65_536

_OWNED = (
    *INDEX_FILES,
    *CHECKSUM_FILES,
    "src.mcore.*",
    "tgt.mcore.*",
    TOKENIZER_FILE,
    f"{TOKENIZER_FOLDER}/*",
    SKIPPED_FILE,
    *SPOOLED_FILES,
    "rules.parquet",  # which an earlier pycat put here
)


def tokenize(
    dataset: Iterable[Mapping[str, Any]] | str | PathLike[str] | None = None,
    src: str | PathLike[str] | None = None,
    tgt: str | PathLike[str] | None = None,
    *,
    tsv: str | PathLike[str] | None = None,
    columns: Columns | None = None,
    monolingual: str | PathLike[str] | None = None,
    out: str | PathLike[str],
    tokenizer: str | PathLike[str] | AnyTokenizer | None = None,
    vocabs: Sequence[str | PathLike[str]] | None = None,
    sentencepiece: Sequence[str | PathLike[str]] | None = None,
    vocab_size: int = 8000,
    model_type: str = "unigram",
    character_coverage: float = CHARACTER_COVERAGE,
    max_tokens: int = 512,
    crop: bool = False,
    keep_empty: bool = False,
    languages: tuple[str, str] | None = None,
    src_lang: str | None = None,
    tgt_lang: str | None = None,
    prompt: str | None = None,
    overwrite: bool = False,
    num_threads: int | None = None,
) -> Corpus:
    r"""Tokenize parallel text into a corpus folder.

    Args:
        dataset: rows in place of files: a `datasets.Dataset` or `IterableDataset`, or any other
            iterable of mappings. `src` and `tgt` then name columns; "translation.en" is the key
            "en" inside of "translation". The text is kept in `out`, one sentence a line: line
            breaks inside of a sentence become blanks. Two paths given in order are `src`, `tgt`.
        src, tgt: UTF-8 files of equal line count; plain, or compressed by gzip, zstd, xz, bzip2 or
            LZ4, whatever they are called.
        tsv: instead of both, one file of source, tab, target; further columns are not read. Or a
            file of Parquet, JSON Lines or TMX, or a zip in the Moses format of OPUS, which its
            content tells.
        columns: columns of source and target in `tsv`, from 1, if they are not the first two. A
            file of three columns or more whose first holds numbers or addresses is refused without.
            Of Parquet and JSON Lines, their names, such as ("translation.en", "translation.de");
            of TMX and zip, the languages, which may also be given as `languages`.
        monolingual: instead of all these, one file of lines that are the targets, for a causal
            model of Hugging Face, whose folder is the `tokenizer`; the source is the token that a
            text begins with.
        out: the folder to make. A folder of the same input is opened as it is.
        tokenizer: a SentencePiece `.model`, or a folder with the tokenizer of a Hugging Face model,
            such as one of its checkpoints, or a folder that CTranslate2 converted, or a tokenizer
            that is loaded; unless given, one is trained on this text.
        vocabs: instead, the vocabularies of source and target of a model of Marian, fairseq or
            OpenNMT-py, or one for both: `.spm`, `.yml`, `.json` or `.txt` (`data.vocabularies`).
        sentencepiece: SentencePiece models that split the text into pieces of those vocabularies,
            one for both sides or one a side; without any, text is split at blanks.
        vocab_size: pieces of both languages together, when training ("unigram" may yield fewer).
        model_type: "unigram" or "bpe", when training.
        character_coverage: share of the text whose characters are pieces of their own, when
            training; rarer ones are read as bytes. Lower it for text of very many characters.
        max_tokens: pairs with a longer side, EOS counted, are skipped, as are lines beyond
            65,536 bytes.
        crop: cut a longer side to its first tokens and EOS, instead of skipping the pair.
        keep_empty: keep pairs with an empty side, which is EOS alone, instead of skipping them.
        languages: names of source and target; by default the file names' suffixes, or the last
            parts of the columns' names where they are codes of languages.
        src_lang, tgt_lang: codes that a Hugging Face tokenizer puts into its sequences, such as
            "eng_Latn".
        prompt: for Hugging Face models, text around the source, with `{src}` for the source: all
            that precedes the target for a causal model, such as "Translate English to German:
            {src}\n"; what the encoder reads for T5 and its like, such as "translate English to
            German: {src}".
        overwrite: replace a corpus made with other options.
        num_threads: threads that tokenize, None for one a core that this process may use; the
            corpus is the same for any number.

    Returns:
        The corpus. Pairs with an empty or overlong side are left out, counted in
        `manifest["skipped"]` and listed in `skipped.tsv`.

    Raises:
        TextError: a file is missing, empty, damaged or not UTF-8, or line counts differ; a row
            lacks a column or holds no text there.
        TokenizerError: the tokenizer cannot be loaded or trained.
        OutputError: `out` holds something else, or a corpus made with other options.
    """
    if isinstance(dataset, (str, PathLike)):
        # Two files given in order are source and target.
        if src is not None and tgt is not None:
            raise TextError(
                f"{dataset}: found a path, and src and tgt too; expected two files, or rows and "
                "the names of their columns (of a file of rows: tsv=…, columns=(src, tgt))"
            )
        dataset, src, tgt = None, dataset, src if tgt is None else tgt
    if num_threads is not None and num_threads < 1:
        raise PycatError(f"num_threads is {num_threads}; expected at least 1, or None for all")
    check_number("vocab_size", vocab_size, low=1)
    check_number("max_tokens", max_tokens, low=2)
    has_one_side = monolingual is not None
    given = _given_tokenizer(
        tokenizer, vocabs or (), sentencepiece or (), src_lang, tgt_lang, prompt, has_one_side
    )
    if (crop or keep_empty) and isinstance(given, HuggingFaceTokenizer):
        raise PycatError(
            "crop and keep_empty go with vocabularies and SentencePiece models, not with the "
            "tokenizer of a Hugging Face model; leave them out"
        )
    training: dict[str, Any] = {"vocab_size": vocab_size, "model_type": model_type}
    if character_coverage != CHARACTER_COVERAGE:
        training["character_coverage"] = character_coverage
    with ExitStack() as stack:
        text: ParallelText | RowFile | DatasetText
        if monolingual is not None:
            if any(value is not None for value in (dataset, src, tgt, tsv, columns)):
                raise TextError(
                    "monolingual names the one file of a text without a source; leave out the "
                    "others (src, tgt, tsv, columns)"
                )
            text = _one_side(monolingual)
        elif dataset is None:
            text = open_text(src, tgt, tsv, columns, languages)
        else:
            names = _dataset_columns(src, tgt, tsv, columns)
            text = stack.enter_context(spooled_dataset(dataset, names, Path(out)))
        return _make_corpus(
            text,
            Path(out),
            given=given,
            training=training,
            limits=_Limits(max_tokens, crop, keep_empty),
            languages=tuple(languages or text.languages),
            check_columns=columns is None,
            overwrite=overwrite,
            num_threads=num_threads or len(os.sched_getaffinity(0)),
        )


def _make_corpus(
    text: ParallelText | RowFile | DatasetText,
    folder_path: Path,
    *,
    given: AnyTokenizer | None,
    training: dict[str, Any],
    limits: "_Limits",
    languages: tuple[str, ...],
    check_columns: bool,
    overwrite: bool,
    num_threads: int,
) -> Corpus:
    """Make the folder of a corpus, or open it if it is of this text and these options."""
    if len(set(languages)) != 2 or not all(re.fullmatch(r"[\w@-]+", name) for name in languages):
        raise PycatError(
            f"languages are {languages}; expected two different names of letters, digits, -, _ and "
            "@"
        )
    # Read the model before touching the folder: overwriting may delete the very file.
    model = given.path.read_bytes() if isinstance(given, Tokenizer) else None

    # Resume: a folder of the same text and options is opened as it is.
    fingerprints = text.fingerprint(known_text(folder_path))
    recipe = {
        "text": [row["sha256"] for row in fingerprints],
        "languages": languages,
        "tokenizer": _tokenizer_recipe(given) if given else training,
        "max_tokens": limits.max_tokens,
        **text.recipe,
        **({"crop": True} if limits.crop else {}),
        **({"keep_empty": True} if limits.keep_empty else {}),
    }
    with OutputFolder(folder_path, "corpus", recipe, _OWNED, overwrite) as folder:
        if folder.manifest is not None:
            _record_new_paths(folder, text, fingerprints)
            return open_corpus(folder_path)

        origin: dict[str, Any] = {"text": fingerprints}
        if isinstance(text, ParallelText):
            if text.is_tsv and check_columns:
                check_first_columns(text)
            lines = text
        else:
            left_out: Counter[str] = Counter()
            if isinstance(text, RowFile):
                lines = text.in_folder(folder_path, left_out)
            else:
                lines = text.in_folder(folder_path)
            source = text.record(fingerprints)
            if left_out:
                source["left_out"] = dict(sorted(left_out.items()))
            origin = {"text": spooled_fingerprints(lines), "source": source}

        # Put the tokenizer into the folder, then the tokens.
        made: AnyTokenizer
        if isinstance(given, (HuggingFaceTokenizer, VocabularyTokenizer)):
            made = given
            _save_tokenizer(given, folder_path / TOKENIZER_FOLDER)
        elif model is not None:
            with replacing(folder_path / TOKENIZER_FILE) as temporary:
                temporary.write_bytes(model)
            made = Tokenizer(folder_path / TOKENIZER_FILE)
        else:
            made = train_tokenizer(
                _training_lines(lines),
                folder_path / TOKENIZER_FILE,
                **{"character_coverage": CHARACTER_COVERAGE, **training},
            )
        try:
            counts = _write_corpus(lines, made, folder_path, limits, num_threads)
        except TextError:
            # Leave no tokenizer and no spooled text behind: they would protect the folder from a
            # call with other options.
            for name in (TOKENIZER_FILE, *SPOOLED_FILES):
                (folder_path / name).unlink(missing_ok=True)
            shutil.rmtree(folder_path / TOKENIZER_FOLDER, ignore_errors=True)
            raise
        _finish(folder, made, counts, languages=languages, origin=origin)
    return open_corpus(folder_path)


def _one_side(path: str | PathLike[str]) -> ParallelText:
    """Monolingual text.

    Raises:
        TextError: the file is missing, empty, or one of rows.
    """
    text = ParallelText.of_one_side(path)
    if (kind := kind_of(text.paths[0])) is not None:
        raise TextError(
            f"{text.paths[0]}: is {KINDS[kind]}; expected monolingual text, one sentence a line"
        )
    return text


def _record_new_paths(
    folder: OutputFolder,
    text: ParallelText | RowFile | DatasetText,
    fingerprints: list[FileFingerprint],
) -> None:
    """Note in a finished folder where the files of its text lie now."""
    manifest = folder.manifest or {}
    if isinstance(text, RowFile) and manifest["source"]["path"] != str(text.path):
        source = {**manifest["source"], **text.record(fingerprints)}
        write_manifest(folder.path / "corpus.json", {**manifest, "source": source})
    if isinstance(text, ParallelText) and [row["path"] for row in manifest["text"]] != [
        *map(str, text.paths)
    ]:
        write_manifest(folder.path / "corpus.json", {**manifest, "text": fingerprints})


def _dataset_columns(src: object, tgt: object, tsv: object, columns: object) -> tuple[str, str]:
    """Names of the columns of a dataset.

    Raises:
        TextError: they are not two different names.
    """
    names = (src, tgt)
    if tsv is not None or columns is not None or src == tgt:
        names = (None, None)
    if not (isinstance(names[0], str) and isinstance(names[1], str)):
        raise TextError(
            f"src is {src!r} and tgt {tgt!r}; expected the names of two columns of the dataset, "
            "such as src='translation.en', tgt='translation.de', and neither tsv nor columns"
        )
    return names[0], names[1]


def _save_tokenizer(tokenizer: HuggingFaceTokenizer | VocabularyTokenizer, folder: Path) -> None:
    """Write a copy into a folder, durably; a link in its place is not followed."""
    if folder.is_symlink():
        folder.unlink()
    tokenizer.save(folder)
    sync_tree(folder)


def _finish(
    folder: OutputFolder,
    tokenizer: AnyTokenizer,
    counts: Counter[str],
    *,
    languages: tuple[str, ...],
    origin: dict[str, Any],
) -> None:
    """Hash the index files, and write the manifest that completes the folder."""
    for side, name in zip(("src", "tgt"), CHECKSUM_FILES, strict=True):
        with replacing(folder.path / name) as temporary:
            block_checksums(folder.path / f"{side}.bin").tofile(temporary)
    made = [path.relative_to(folder.path) for path in (folder.path / TOKENIZER_FOLDER).glob("*")]
    if isinstance(tokenizer, Tokenizer):
        made = [Path(TOKENIZER_FILE)]
    spooled = [name for name in SPOOLED_FILES if (folder.path / name).is_file()]
    listed = list_files(
        folder.path, [*INDEX_FILES, *CHECKSUM_FILES, SKIPPED_FILE, *spooled, *map(str, made)]
    )
    files = {name: listed[name]["sha256"] for name in INDEX_FILES}
    template = (
        {} if isinstance(tokenizer, Tokenizer) else {"template": tokenizer.template.to_json()}
    )
    num_lines, num_pairs = counts.pop("lines"), counts.pop("pairs")
    folder.finish(
        # The special tokens around the targets are part of the identity: they decide scores too.
        id=digest([files, tokenizer.sha256, *template.values()]),
        **template,
        languages=languages,
        num_lines=num_lines,
        num_pairs=num_pairs,
        skipped=dict(sorted(counts.items())),
        vocab_size=tokenizer.vocab_size,
        **(
            {} if tokenizer.src_vocab_size is None else {"src_vocab_size": tokenizer.src_vocab_size}
        ),
        eos_id=tokenizer.eos_id,
        tokenizer_sha256=tokenizer.sha256,
        **origin,
        sha256=files,
        block_bytes=BLOCK_BYTES,
        files=listed,
    )


def _given_tokenizer(
    given: str | PathLike[str] | AnyTokenizer | None,
    vocabs: Sequence[str | PathLike[str]],
    sentencepiece: Sequence[str | PathLike[str]],
    src_lang: str | None,
    tgt_lang: str | None,
    prompt: str | None,
    monolingual: bool,
) -> AnyTokenizer | None:
    models = [Path(path) for path in sentencepiece]
    path = Path(given) if isinstance(given, (str, PathLike)) else None
    is_converted = path is not None and (path / "model.bin").is_file()
    if vocabs and given is not None:
        raise PycatError("vocabs and tokenizer exclude each other; pass one of them")
    if models and not vocabs and not is_converted:
        raise PycatError(
            "sentencepiece goes with vocabs, or with a folder that CTranslate2 converted as the "
            "tokenizer; a SentencePiece model with ids of its own is a tokenizer itself"
        )
    if path is not None and _is_hugging_face(path, is_converted and bool(models)):
        return HuggingFaceTokenizer(
            path, src_lang=src_lang, tgt_lang=tgt_lang, prompt=prompt, monolingual=monolingual
        )
    if monolingual and not (
        isinstance(given, HuggingFaceTokenizer) and "monolingual" in given.options
    ):
        raise PycatError(
            "monolingual text is for a causal model of Hugging Face; pass the folder that holds "
            "its tokenizer (tokenizer, --tokenizer)"
        )
    if (src_lang, tgt_lang, prompt) != (None, None, None):
        raise PycatError(
            "src_lang, tgt_lang and prompt go with the tokenizer of a Hugging Face model; pass its "
            "folder (tokenizer, --tokenizer), or leave them out"
        )
    if vocabs:
        return read_vocabularies([Path(vocabulary) for vocabulary in vocabs], models)
    if path is None:
        assert not isinstance(given, (str, PathLike))
        return given
    return open_ct2_vocabularies(path, models) if is_converted else Tokenizer(path)


def _is_hugging_face(path: Path, has_models: bool) -> bool:
    """Whether the tokenizer of a path is that of a Hugging Face model.

    A folder that CTranslate2 converted may hold one; models that split text take its place.
    """
    if not (path / "model.bin").is_file():
        return path.is_dir()
    return not has_models and (path / "tokenizer_config.json").is_file()


def _tokenizer_recipe(given: AnyTokenizer) -> str | dict[str, Any]:
    if isinstance(given, Tokenizer):
        return given.sha256
    return {"sha256": given.sha256, **given.options}


def known_text(folder: Path) -> list[Any]:
    """Fingerprints of the text that a corpus folder was made from, [] if there is none."""
    try:
        manifest = read_manifest(folder, "corpus", CorpusError)
    except CorpusError:
        return []
    source = manifest.get("source", {})
    return [*manifest["text"], *([source] if "path" in source else [])]


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


def _training_lines(text: ParallelText) -> Iterator[bytes]:
    """Yield source and target of each pair in turn, both empty where one is too long."""
    with progress("read text", text.file_bytes / 1e6, "MB") as advance:
        for chunk in text.chunks(lambda num_bytes: advance(num_bytes / 1e6)):
            src, tgt, _ = _sides(text, chunk, MAX_TRAINING_BYTES)
            yield from chain.from_iterable(zip(src, tgt, strict=True))


@dataclass(frozen=True)
class _Limits:
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


def _tokenize_chunk(
    text: ParallelText,
    chunk: Chunk,
    tokenizer: AnyTokenizer,
    limits: "_Limits",
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


def _write_corpus(
    text: ParallelText,
    tokenizer: AnyTokenizer,
    folder: Path,
    limits: "_Limits",
    num_threads: int,
) -> Counter[str]:
    """Write the index files and `skipped.tsv`; count "lines", "pairs" and each skip reason."""
    largest = max(tokenizer.vocab_size, tokenizer.src_vocab_size or 0)
    dtype = "uint16" if largest < 65_500 else "int32"
    counts: Counter[str] = Counter(lines=0, pairs=0)
    with (
        progress("tokenize", text.file_bytes / 1e6, "MB") as advance,
        replacing(folder / SKIPPED_FILE) as skipped_path,
        skipped_path.open("w", encoding="utf-8") as skipped_file,
        IndexedWriter(str(folder / "src"), dtype=dtype) as src_writer,
        IndexedWriter(str(folder / "tgt"), dtype=dtype) as tgt_writer,
    ):
        skipped_file.write("line\treason\n")
        # Threads suffice: SentencePiece (0.2.3) releases the GIL while it segments, and holds it
        # while it makes lists of the ids. Processes would run that part in parallel too, but a
        # worker that imports pycat takes seconds and 200 MB for torch, and forking a process that
        # has threads is unsafe.
        for chunk_tokens in on_workers(
            lambda chunk: _tokenize_chunk(text, chunk, tokenizer, limits),
            text.chunks(lambda num_bytes: advance(num_bytes / 1e6)),
            num_threads,
        ):
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
