"""Several files a side are one text, in the order of their names."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from helpers import toy_pairs, write_lines

from pycat.data.several_files import SeveralFiles, open_texts
from pycat.data.tokenizing import tokenize
from pycat.errors import OutputError, TextError


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Twelve pairs in a.2, a.10 and b; names are ordered as text: a.10 before a.2."""
    pairs = toy_pairs(12)
    for name, some in (("a.10", pairs[:5]), ("a.2", pairs[5:6]), ("b", pairs[6:])):
        for path in write_lines(tmp_path, some, name):
            if name == "b":
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
                path.unlink()
    return tmp_path


def test_they_make_the_corpus_of_one_file(parts: Path, toy_tokenizer: Path) -> None:
    one = tokenize(*write_lines(parts, toy_pairs(12), "whole"), out=parts / "one-corpus")
    whole = [path.rename(parts / f"{path.name}.x") for path in parts.glob("whole.*")]
    assert len(whole) == 2
    model = one.path / "tokenizer.model"
    several = tokenize(f"{parts}/[ab]*.en*", f"{parts}/[ab]*.de*", out=parts / "c", tokenizer=model)
    assert several.languages == ("en", "de")
    np.testing.assert_array_equal(several.lines, one.lines)
    assert several.id == one.id
    assert several.sentences([0, 5, 11]) == [toy_pairs(12)[i] for i in (0, 5, 11)]
    files = [Path(row["path"]).name for row in several.manifest["source"]["files"]]
    assert files == ["a.10.en", "a.10.de", "a.2.en", "a.2.de", "b.en.gz", "b.de.gz"]

    # The same files make the same corpus; changed or fewer ones do not.
    before = (several.path / "corpus.json").stat().st_mtime_ns
    tokenize(f"{parts}/[ab]*.en*", f"{parts}/[ab]*.de*", out=parts / "c", tokenizer=model)
    assert (several.path / "corpus.json").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="other options"):
        tokenize(f"{parts}/a*.en", f"{parts}/a*.de", out=parts / "c", tokenizer=model)


def test_tab_separated_files_too(tmp_path: Path, toy_tokenizer: Path) -> None:
    for i, (src, tgt) in enumerate(toy_pairs(3)):
        (tmp_path / f"{i}.tsv").write_text(f"{i}\t{src}\t{tgt}\n", "utf-8")
    corpus = tokenize(
        tsv=tmp_path / "?.tsv", columns=(2, 3), out=tmp_path / "c", tokenizer=toy_tokenizer
    )
    assert corpus.sentences([0, 1, 2]) == toy_pairs(3)
    with pytest.raises(TextError, match="--columns"):
        tokenize(tsv=tmp_path / "?.tsv", out=tmp_path / "d", tokenizer=toy_tokenizer)


def test_one_file_is_opened_as_itself(parts: Path) -> None:
    text = open_texts(f"{parts}/b.en*", f"{parts}/b.de*", None)
    assert not isinstance(text, SeveralFiles)
    odd = parts / "odd[1].en"  # a name that looks like a pattern
    odd.write_text("a\n")
    text = open_texts(odd, parts / "a.2.de", None)
    assert not isinstance(text, SeveralFiles)


def test_patterns_that_do_not_go_together_are_refused(parts: Path) -> None:
    with pytest.raises(TextError, match=r"x\*: no file has such a name; check the pattern"):
        open_texts(f"{parts}/x*", f"{parts}/a*.de", None)
    with pytest.raises(TextError, match=r"a\*\.en: 2 files, but .*\[ab\]\*\.de\*: 3; expected"):
        open_texts(f"{parts}/a*.en", f"{parts}/[ab]*.de*", None)
    with pytest.raises(TextError, match="a pattern for each side"):
        open_texts(f"{parts}/a*.en", parts / "a.2.de", None)
    with pytest.raises(TextError, match="a pattern for each side"):
        open_texts(f"{parts}/a*.en", None, None)
    (parts / "a.2.de").write_text("eins\nzwei\n")
    texts = open_texts(f"{parts}/a*.en", f"{parts}/a*.de", None)
    assert isinstance(texts, SeveralFiles)
    with pytest.raises(TextError, match=r"a\.2\.en has 1 lines but .*a\.2\.de has 2"):
        texts.in_folder(parts)
