"""Test sets and trusted text beside a corpus: every kind of file that tokenizing takes."""

import bz2
import gzip
import lzma
import zipfile
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import toy_pairs, write_lines

import pycat
from pycat.cli import main as cli
from pycat.cli import options
from pycat.cli.run_file import _texts
from pycat.data.same_tokenizer import further_text, text_beside, tokenize_alike
from pycat.errors import PycatError, TextError
from pycat.scores.unscored import unscored

PAIRS = toy_pairs(30, seed=5)
EVALUATE: dict[str, Any] = {
    "curve": False,
    "passes": 1.0,
    "seeds": 1,
    "batch_tokens": 512,
    "num_workers": 1,
    "device": "cpu",
    "beam": 1,
}


def _table() -> pa.Table:
    return pa.Table.from_pylist(
        [{"id": i, "translation": {"en": en, "de": de}} for i, (en, de) in enumerate(PAIRS)]
    )


def _lines(*order: int) -> bytes:
    rows = [("a", *pair) for pair in PAIRS]
    return "".join("\t".join(row[i] for i in order) + "\n" for row in rows).encode()


def _jsonl(compress: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    lines = "".join(f'{{"de": "{de}", "en": "{en}"}}\n' for en, de in PAIRS).encode()
    return lambda path: void(path.write_bytes(compress(lines)))


def _tmx(path: Path) -> None:
    units = "".join(
        f'<tu><tuv xml:lang="en-GB"><seg>{en}</seg></tuv><tuv xml:lang="de"><seg>{de}</seg></tuv>'
        "</tu>"
        for en, de in PAIRS
    )
    path.write_text(f"<tmx><body>{units}</body></tmx>", "utf-8")


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for side, language in enumerate(("en", "de")):
            text = "".join(f"{pair[side]}\n" for pair in PAIRS)
            archive.writestr(f"Corpus.de-en.{language}", text)


def void(_: object) -> None:
    """For a lambda that is called for what it does."""


FILES: dict[str, Callable[[Path], None]] = {
    "a.tsv": lambda path: void(path.write_bytes(_lines(1, 2))),
    "a.tsv.gz": lambda path: void(path.write_bytes(gzip.compress(_lines(1, 2)))),
    "a.xz": lambda path: void(path.write_bytes(lzma.compress(_lines(1, 2)))),
    "a.bz2": lambda path: void(path.write_bytes(bz2.compress(_lines(1, 2)))),
    "a.tsv.zst": lambda path: void(
        path.write_bytes(pa.compress(_lines(1, 2), "zstd", asbytes=True))
    ),
    "a.parquet": lambda path: void(pq.write_table(_table(), path)),
    "a.jsonl": _jsonl(bytes),
    "a.jsonl.gz": _jsonl(gzip.compress),
    "a.tmx": _tmx,
    "a.zip": _zip,
}


@pytest.mark.parametrize("name", FILES)
def test_each_kind_gives_the_same_tokens(
    name: str, toy_corpus: pycat.Corpus, tmp_path: Path
) -> None:
    FILES[name](tmp_path / name)
    corpus = tokenize_alike(text_beside(tmp_path / name, toy_corpus), toy_corpus, tmp_path / "c")
    assert corpus.languages == ("en", "de")
    assert corpus.manifest["tokenizer_sha256"] == toy_corpus.manifest["tokenizer_sha256"]
    assert corpus.sentences(range(30)) == PAIRS


def test_columns_may_be_named(toy_corpus: pycat.Corpus, tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(_lines(2, 0, 1))
    text = text_beside((path, (3, 1)), toy_corpus)
    corpus = tokenize_alike(text, toy_corpus, tmp_path / "c")
    assert corpus.sentences(range(30)) == PAIRS
    names = {"x": [en for en, _ in PAIRS], "y": [de for _, de in PAIRS]}
    pq.write_table(pa.table(names), tmp_path / "a.parquet")
    text = text_beside((tmp_path / "a.parquet", ("x", "y")), toy_corpus)
    corpus = tokenize_alike(text, toy_corpus, tmp_path / "d")
    assert corpus.sentences(range(30)) == PAIRS
    # Those of the text beside it are known.
    assert further_text(tmp_path / "a.parquet", None, ["x", "y"]).recipe == {"columns": ["x", "y"]}
    with pytest.raises(TextError, match=r"a Parquet file with columns of text x, y; name those"):
        text_beside(tmp_path / "a.parquet", toy_corpus)
    with pytest.raises(TextError, match=r"none.tsv: expected a text file, found nothing"):
        text_beside(tmp_path / "none.tsv", toy_corpus)


def test_the_option_names_columns(tmp_path: Path) -> None:
    assert options.test_set("news=a.en,a.de") == ("news", ("a.en", "a.de"))
    assert options.test_set("x/news.tsv.gz") == ("news", "x/news.tsv.gz")
    assert options.test_set("news=a.tsv:2,3") == ("news", ("a.tsv", (2, 3)))
    assert options.test_set("a.parquet:translation.en,translation.de") == (
        "a",
        ("a.parquet", ("translation.en", "translation.de")),
    )
    odd = tmp_path / "a:b.en"
    odd.write_text("x\n")
    assert options.test_set(f"{odd},c.de") == ("a:b", (str(odd), "c.de"))
    with pytest.raises(ArgumentTypeError, match="expected two columns, counted from 1"):
        options.test_set("a.tsv:2,x")


def test_a_run_file_names_columns(tmp_path: Path) -> None:
    given = {"tests": {"news": ["a.parquet", ["en", "de"]], "talks": ["b.tsv", [2, 3]]}}
    assert _texts(tmp_path / "study.toml", "tests", given) == {
        "news": (tmp_path / "a.parquet", ("en", "de")),
        "talks": (tmp_path / "b.tsv", (2, 3)),
    }
    with pytest.raises(PycatError, match=r"\[tests\] news has columns \['en', 3\]; expected two"):
        _texts(tmp_path / "study.toml", "tests", {"tests": {"news": ["a.parquet", ["en", 3]]}})


def test_evaluate_and_trusted_take_rows(toy_corpus: pycat.Corpus, tmp_path: Path) -> None:
    FILES["a.parquet"](tmp_path / "a.parquet")
    FILES["a.jsonl.gz"](tmp_path / "b.jsonl.gz")
    plain = write_lines(tmp_path, PAIRS, "plain")
    selection = pycat.select(
        unscored(toy_corpus), by="length", rules="none", guard=0.0, out=tmp_path / "selection"
    )
    tests: dict[str, Any] = {
        "rows": tmp_path / "a.parquet",
        "lines": tmp_path / "b.jsonl.gz",
        "plain": plain,
    }
    found = pycat.evaluate(
        selection,
        tests=tests,
        out=tmp_path / "evaluation",
        arms=["selected"],
        translate=["selected"],
        **EVALUATE,
    )
    nll = [found.arms["selected"]["tests"][name]["nll"] for name in tests]
    assert nll[0] == nll[1] == nll[2]
    assert len({row["bleu"] for row in found.manifest["translations"]}) == 1
    # Other columns are another test set.
    with pytest.raises(PycatError, match="made with other options"):
        pycat.evaluate(
            selection,
            tests={**tests, "rows": (tmp_path / "a.parquet", ("translation.de", "translation.en"))},
            out=tmp_path / "evaluation",
            arms=["selected"],
            translate=["selected"],
            **EVALUATE,
        )


def test_units_of_tmx_without_a_language_are_counted(
    toy_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unit(*languages: str) -> str:
        variants = (f'<tuv xml:lang="{code}"><seg>word</seg></tuv>' for code in languages)
        return f"<tu>{''.join(variants)}</tu>"

    units = [unit("en", "de"), unit("en"), unit("en", "fr"), unit("de-AT"), unit("fr"), unit()]
    path = tmp_path / "a.tmx"
    path.write_text(f"<tmx><body>{''.join(units)}</body></tmx>", "utf-8")
    out = tmp_path / "corpus"
    words = ["tokenize", "--tsv", path, "--languages", "en,de", "--tokenizer", toy_tokenizer]
    assert cli.main([*map(str, words), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "1 pairs" in printed
    assert printed.endswith(
        f"{path}: left out 2 units without de, 1 units without en, 2 units without en and de\n"
    )
    corpus = pycat.open_corpus(out)
    counted = {"units without de": 2, "units without en": 1, "units without en and de": 2}
    assert corpus.left_out == counted
    # A moved file does not lose the counts.
    moved = path.rename(tmp_path / "b.tmx")
    again = pycat.tokenize(tsv=moved, languages=("en", "de"), tokenizer=toy_tokenizer, out=out)
    assert again.left_out == counted
    assert again.manifest["source"]["path"] == str(moved)
