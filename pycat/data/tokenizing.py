"""Tokenization of parallel text into a corpus folder, whose content `corpus` describes."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any

from pycat._core import BLOCK_BYTES, block_checksums
from pycat.data.corpus import (
    CHECKSUM_FILES,
    INDEX_FILES,
    SKIPPED_FILE,
    TOKENIZER_FILE,
    TOKENIZER_FOLDER,
    Corpus,
)
from pycat.data.hf_tokenizer import HuggingFaceTokenizer
from pycat.data.opening import open_corpus
from pycat.data.parallel_text import FileFingerprint, ParallelText
from pycat.data.row_files import KINDS, Columns, RowFile, kind_of
from pycat.data.several_files import SeveralFiles, open_texts
from pycat.data.spooled_text import (
    SPOOLED_FILES,
    DatasetText,
    spooled_dataset,
    spooled_fingerprints,
)
from pycat.data.tab_columns import check_first_columns
from pycat.data.token_writing import PART_FILES, Limits, training_lines, write_elsewhere, write_here
from pycat.data.tokenizer import (
    CHARACTER_COVERAGE,
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
from pycat.runtime.parts import is_here
from pycat.runtime.publishing import sync_tree

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
    PART_FILES,
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
    on: str = "local",
    num_workers: int | None = None,
) -> Corpus:
    r"""Tokenize parallel text into a corpus folder.

    Args:
        dataset: rows in place of files: a `datasets.Dataset` or `IterableDataset`, or any other
            iterable of mappings. `src` and `tgt` then name columns; "translation.en" is the key
            "en" inside of "translation". The text is kept in `out`, one sentence a line: line
            breaks inside of a sentence become blanks. Two paths given in order are `src`, `tgt`.
        src, tgt: UTF-8 files of equal line count; plain, or compressed by gzip, zstd, xz, bzip2 or
            LZ4, whatever they are called. Or patterns, such as "part-*.en.zst" and "part-*.de.zst":
            files of equal place in the order of names belong together, and `out` keeps the text.
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
        on, num_workers: where parts of 65,536 lines are tokenized, as in `score`: by threads of
            this process, by local worker processes, or on Ray. Workers read plain files
            themselves, which then lie where each of them finds them; what else there is, is sent
            to them. A tokenizer is trained where the call is made.

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
        text: ParallelText | RowFile | SeveralFiles | DatasetText
        if monolingual is not None:
            if any(value is not None for value in (dataset, src, tgt, tsv, columns)):
                raise TextError(
                    "monolingual names the one file of a text without a source; leave out the "
                    "others (src, tgt, tsv, columns)"
                )
            text = _one_side(monolingual)
        elif dataset is None:
            text = open_texts(src, tgt, tsv, columns, languages)
        else:
            names = _dataset_columns(src, tgt, tsv, columns)
            text = stack.enter_context(spooled_dataset(dataset, names, Path(out)))
        return _make_corpus(
            text,
            Path(out),
            given=given,
            training=training,
            limits=Limits(max_tokens, crop, keep_empty),
            languages=tuple(languages or text.languages),
            check_columns=columns is None,
            overwrite=overwrite,
            num_threads=num_threads or len(os.sched_getaffinity(0)),
            place=None if is_here(on, num_workers) else {"on": on, "num_workers": num_workers},
        )


def _make_corpus(
    text: ParallelText | RowFile | SeveralFiles | DatasetText,
    folder_path: Path,
    *,
    given: AnyTokenizer | None,
    training: dict[str, Any],
    limits: Limits,
    languages: tuple[str, ...],
    check_columns: bool,
    overwrite: bool,
    num_threads: int,
    place: dict[str, Any] | None,
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
    with OutputFolder(
        folder_path, "corpus", recipe, _OWNED, overwrite, working=(PART_FILES,)
    ) as folder:
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
            if isinstance(text, SeveralFiles) and text.texts[0].is_tsv and check_columns:
                check_first_columns(text.texts[0])
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
                training_lines(lines),
                folder_path / TOKENIZER_FILE,
                **{"character_coverage": CHARACTER_COVERAGE, **training},
            )
        try:
            if place is None:
                counts = write_here(lines, made, folder_path, limits, num_threads)
            else:
                counts = write_elsewhere(lines, made, folder, limits, place)
        except TextError:
            # Leave no tokenizer and no spooled text behind: they would protect the folder from a
            # call with other options.
            for name in (TOKENIZER_FILE, *SPOOLED_FILES):
                (folder_path / name).unlink(missing_ok=True)
            for path in folder_path.glob(PART_FILES):
                path.unlink()
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
    text: ParallelText | RowFile | SeveralFiles | DatasetText,
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
    return [*manifest["text"], *([source] if "path" in source else []), *source.get("files", [])]
