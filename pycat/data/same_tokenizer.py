"""Further text beside a corpus, such as test sets: of any kind, and tokenized as the corpus was."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import cast

from pycat.data.corpus import TOKENIZER_FILE, TOKENIZER_FOLDER, Corpus
from pycat.data.hf_tokenizer import HuggingFaceTokenizer
from pycat.data.language_codes import language_of
from pycat.data.parallel_text import ParallelText
from pycat.data.row_files import Columns, RowFile, known_columns, open_text
from pycat.data.tokenizing import tokenize
from pycat.data.vocabularies import VocabularyTokenizer

# Two files, one of both sides, or one and its columns.
FurtherText = (
    str
    | PathLike[str]
    | tuple[str | PathLike[str], str | PathLike[str]]
    | tuple[str | PathLike[str], Columns]
)


def further_text(
    given: FurtherText,
    languages: Sequence[str] | None = None,
    columns: Sequence[str | int] | None = None,
) -> ParallelText | RowFile:
    """Files of any kind that `tokenize` takes.

    Args:
        given: files of source and target; or one file, as `tsv` of `tokenize`, alone or with its
            columns.
        languages: of source and target. Where no columns are given, those of TMX and zip; and of
            Parquet and JSON Lines the columns that are named for them, such as "translation.en".
        columns: of the text that this one stands beside, which are taken where a file of Parquet or
            JSON Lines has them.

    Raises:
        TextError: as `open_text`.
    """
    if not isinstance(given, tuple):
        tsv, own = given, None
    elif isinstance(given[1], (tuple, list)):
        tsv, own = given[0], cast(Columns, tuple(given[1]))
    else:
        return open_text(given[0], given[1], None)
    pair = None if languages is None else (languages[0], languages[1])
    if own is None:
        own = _columns_beside(Path(tsv), pair, columns)
    return open_text(None, None, tsv, own, pair)


def _columns_beside(
    path: Path, languages: tuple[str, str] | None, columns: Sequence[str | int] | None
) -> Columns | None:
    """Columns of a file of Parquet or JSON Lines that were not named, None where none tell."""
    known = known_columns(path)
    if columns is not None and all(column in known for column in columns):
        return str(columns[0]), str(columns[1])
    found = [
        [name for name in known if language_of(name.rpartition(".")[2]) == language_of(language)]
        for language in languages or ()
    ]
    if len(found) == 2 and all(len(names) == 1 for names in found):
        return found[0][0], found[1][0]
    return None


def text_beside(given: FurtherText, corpus: Corpus) -> ParallelText | RowFile:
    """`further_text` in the languages and columns of a corpus."""
    return further_text(given, corpus.languages, corpus.manifest.get("source", {}).get("columns"))


def tokenize_alike(
    text: ParallelText | RowFile, corpus: Corpus, out: Path, *, overwrite: bool = False
) -> Corpus:
    """Make a corpus of this text in the folder `out`, by the tokenizer of `corpus`.

    Raises:
        As `tokenize`; and CorpusError where `corpus` was opened without a tokenizer.
    """
    src: Path | None = None
    tgt: Path | None = None
    tsv: Path | None = None
    columns: Columns | None = None
    if isinstance(text, RowFile):
        tsv, columns = text.path, text.columns
    elif len(text.paths) == 2:
        src, tgt = text.paths
    else:
        tsv, columns = text.paths[0], None if text.places == (1, 2) else text.places
    if isinstance(corpus.tokenizer, HuggingFaceTokenizer):
        how = corpus.manifest["recipe"]["tokenizer"]
        more = {name: how[name] for name in ("src_lang", "tgt_lang", "prompt") if name in how}
        path = corpus.path / TOKENIZER_FOLDER
        return tokenize(
            src,
            tgt,
            tsv=tsv,
            columns=columns,
            out=out,
            tokenizer=path,
            overwrite=overwrite,
            **more,
        )
    made_by: Path | VocabularyTokenizer = corpus.path / corpus.options.get(
        "tokenizer", TOKENIZER_FILE
    )
    if isinstance(corpus.tokenizer, VocabularyTokenizer):
        made_by = corpus.tokenizer
    return tokenize(
        src,
        tgt,
        tsv=tsv,
        columns=columns,
        out=out,
        tokenizer=made_by,
        languages=corpus.languages,
        overwrite=overwrite,
    )
