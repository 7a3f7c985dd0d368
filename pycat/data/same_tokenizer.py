"""Further text, tokenized as a corpus was."""

from pathlib import Path

from pycat.data.corpus import TOKENIZER_FILE, TOKENIZER_FOLDER, Corpus
from pycat.data.hf_tokenizer import HuggingFaceTokenizer
from pycat.data.parallel_text import ParallelText
from pycat.data.tokenizing import tokenize
from pycat.data.vocabularies import VocabularyTokenizer


def tokenize_alike(
    text: ParallelText, corpus: Corpus, out: Path, *, overwrite: bool = False
) -> Corpus:
    """Make a corpus of this text in the folder `out`, by the tokenizer of `corpus`.

    Raises:
        As `tokenize`; and CorpusError where `corpus` was opened without a tokenizer.
    """
    src, tgt, tsv = (*text.paths, None) if len(text.paths) == 2 else (None, None, text.paths[0])
    if isinstance(corpus.tokenizer, HuggingFaceTokenizer):
        how = corpus.manifest["recipe"]["tokenizer"]
        more = {name: how[name] for name in ("src_lang", "tgt_lang", "prompt") if name in how}
        path = corpus.path / TOKENIZER_FOLDER
        return tokenize(src, tgt, tsv=tsv, out=out, tokenizer=path, overwrite=overwrite, **more)
    made_by: Path | VocabularyTokenizer = corpus.path / corpus.options.get(
        "tokenizer", TOKENIZER_FILE
    )
    if isinstance(corpus.tokenizer, VocabularyTokenizer):
        made_by = corpus.tokenizer
    return tokenize(
        src,
        tgt,
        tsv=tsv,
        out=out,
        tokenizer=made_by,
        languages=corpus.languages,
        overwrite=overwrite,
    )
