"""Datasets in and out: rows of any iterable become text that can be read again, and come back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import MakeScores, plain_select, toy_pairs

import pycat
from pycat.data.spooled_text import column_languages, one_line, value_at
from pycat.errors import PycatError, TextError

COLUMNS: dict[str, Any] = {"src": "translation.en", "tgt": "translation.de"}


def rows_of(pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"id": i, "translation": {"en": en, "de": de}} for i, (en, de) in enumerate(pairs)]


def nll_of(corpus: pycat.Corpus) -> np.ndarray[Any, Any]:
    """The later a pair, the higher its CAT-VAR."""
    num_tokens = corpus.num_tokens.astype(float)
    return np.stack([num_tokens, num_tokens * (1 + np.arange(len(corpus)) / len(corpus))], axis=1)


def test_rows_become_a_corpus(tmp_path: Path, toy_tokenizer: Path) -> None:
    pairs = [
        ("one\ntwo", "eins\r\nzwei"),
        ("three", "drei\r"),
        ("", "leer"),
        ("four\u2028five\n", "vier\tfünf"),
        ("last", "letzte"),
    ]
    out = tmp_path / "new" / "corpus"
    corpus = pycat.tokenize(rows_of(pairs), **COLUMNS, out=out, tokenizer=toy_tokenizer)
    assert corpus.languages == ("en", "de")
    assert corpus.lines.tolist() == [0, 1, 3, 4]
    assert (out / "text.src").read_text("utf-8") == "one two\nthree\n\nfour\u2028five\nlast\n"
    assert (out / "text.tgt").read_bytes().decode() == "eins zwei\ndrei\nleer\nvier\tfünf\nletzte\n"
    assert corpus.manifest["source"] == {
        "kind": "dataset",
        "columns": ["translation.en", "translation.de"],
    }
    # The folder takes its text along, and nothing lies beside it.
    moved = out.rename(tmp_path / "moved")
    assert pycat.open_corpus(moved).sentences([1, 0]) == [
        ("three", "drei"),
        ("one two", "eins zwei"),
    ]
    assert [entry.name for entry in out.parent.iterdir()] == []


def test_the_same_rows_are_tokenized_once(tmp_path: Path, toy_tokenizer: Path) -> None:
    rows, out = rows_of(toy_pairs(20)), tmp_path / "corpus"

    def tokenize(given: Any, **options: Any) -> pycat.Corpus:
        made = {**COLUMNS, "tokenizer": toy_tokenizer, **options}
        return pycat.tokenize(given, out=out, **made)

    first = tokenize(rows)
    stamp = (out / "src.bin").stat().st_mtime_ns
    assert tokenize(row for row in rows).id == first.id
    assert (out / "src.bin").stat().st_mtime_ns == stamp
    with pytest.raises(PycatError, match="text was"):
        tokenize(rows[1:])
    with pytest.raises(PycatError, match="rows was"):
        tokenize(rows, src="translation.de", tgt="translation.en", languages=("en", "de"))
    assert pycat.open_corpus(out).sentences([0]) == toy_pairs(20)[:1]
    assert len(tokenize(rows[1:], overwrite=True)) == 19
    assert pycat.open_corpus(out).sentences([0]) == toy_pairs(20)[1:2]
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"translation": {"en": "x"}}, r"dataset\[2\]: has no column 'translation.de' of text; "
         r"its columns of text are translation.en\. Name"),
        ({"translation": None}, r"dataset\[2\]: column 'translation.en' holds None, expected text"),
        ({"translation": {"en": "x", "de": None}}, "'translation.de' holds None"),
        ({"translation": {"en": "x", "de": 7}}, "'translation.de' holds a value of type int"),
        ({"translation": {"en": b"x", "de": "x"}}, "'translation.en' holds a value of type bytes"),
        ({"translation": {"en": ["x"], "de": "x"}}, "'translation.en' holds a value of type list"),
        ({"translation": {"en": float("nan"), "de": "x"}}, "a value of type float"),
        ({"translation": {"en": "x\ud800", "de": "x"}}, r"holds half a character, '\\ud800'"),
        ("x", r"dataset\[2\]: found a value of type str, expected a mapping"),
        (("x", "y"), r"dataset\[2\]: found a value of type tuple, expected a mapping"),
    ],
)  # fmt: skip
def test_a_row_without_text_is_named(
    row: Any, message: str, tmp_path: Path, toy_tokenizer: Path
) -> None:
    rows = [*rows_of([("one", "eins"), ("two", "zwei")]), row]
    with pytest.raises(TextError, match=message):
        pycat.tokenize(rows, **COLUMNS, out=tmp_path / "corpus", tokenizer=toy_tokenizer)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ([], COLUMNS, "dataset: holds no rows"),
        ({"train": [], "test": []}, COLUMNS, "a mapping of train, test; expected rows: pass one"),
        (
            [{}],
            {"src": "a", "tgt": "a"},
            "src is 'a' and tgt 'a'; expected the names of two columns",
        ),
        ([{}], {"src": "a"}, "tgt None; expected the names of two columns"),
        ([{}], {**COLUMNS, "columns": (1, 2)}, "neither tsv nor columns"),
        ("a.parquet", COLUMNS, "a.parquet: found a path, and src and tgt too; expected two files"),
    ],
)
def test_what_is_no_dataset_is_refused(
    dataset: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TextError, match=message):
        pycat.tokenize(dataset, **options, out=tmp_path / "corpus")


def test_columns_by_key_and_by_keys_inside() -> None:
    row = {"a.b": 1, "a": {"b": 2, "c.d": 3}, "a.e": {"f": 4}, "g": None}
    expected = {"a.b": 1, "a.c.d": 3, "a.e.f": 4, "g.h": None, "a": row["a"]}
    assert {column: value_at(row, column) for column in expected} == expected
    for column in ("b", "a.x", "a.b.c", "a.", ".a"):
        with pytest.raises(KeyError):
            value_at(row, column)


def test_languages_of_columns() -> None:
    assert column_languages(("translation.en", "translation.pt_BR")) == ("en", "pt_BR")
    assert column_languages(("source", "target")) == ("src", "tgt")
    assert column_languages(("a.en", "b.en")) == ("src", "tgt")


def test_line_breaks() -> None:
    given = ["a\nb", "a\r\nb", "a\rb", "a\n\nb", "\na", "a\n", "a\r\n", "a \u2028\x0b b"]
    assert [*map(one_line, given)] == [
        "a b", "a b", "a b", "a  b", " a", "a", "a", "a \u2028\x0b b"
    ]  # fmt: skip


@pytest.fixture
def selection(tmp_path: Path, toy_tokenizer: Path, make_scores: MakeScores) -> pycat.Selection:
    """Of rows 0 to 5, of which row 1 has no source: the highest two, rows 4 and 5."""
    pairs = toy_pairs(6)
    pairs[1] = ("", "x")
    corpus = pycat.tokenize(
        rows_of(pairs), **COLUMNS, out=tmp_path / "corpus", tokenizer=toy_tokenizer
    )
    return plain_select(make_scores(corpus, nll_of(corpus)), keep=0.4)


def test_filter_keeps_rows_of_lists_and_streams(selection: pycat.Selection) -> None:
    assert selection.lines.tolist() == [4, 5]
    rows = [{"n": n} for n in range(6)]
    assert selection.filter(rows) == [{"n": 4}, {"n": 5}]
    assert selection.filter(tuple("abcdef")) == ["e", "f"]
    found = selection.filter(iter(rows))
    assert isinstance(found, Iterator) and list(found) == [{"n": 4}, {"n": 5}]
    for wrong, message in ((rows[:5], "found 5 rows"), ([*rows, {}], "found 7 rows")):
        with pytest.raises(
            TextError, match=f"{message}, but the pairs were selected from text of 6"
        ):
            selection.filter(wrong)
    with pytest.raises(TextError, match="found 5 rows"):
        list(selection.filter(iter(rows[:5])))
    with pytest.raises(TextError, match="found more than 6 rows"):
        list(selection.filter(iter([*rows, {}])))
    with pytest.raises(PycatError, match="one split"):
        selection.filter({"train": rows})


def test_datasets_of_hugging_face(
    tmp_path: Path, toy_tokenizer: Path, selection: pycat.Selection
) -> None:
    datasets = pytest.importorskip("datasets")
    pairs = toy_pairs(30)
    dataset = datasets.Dataset.from_list(rows_of(pairs))
    options: dict[str, Any] = {**COLUMNS, "tokenizer": toy_tokenizer}
    expected = pycat.tokenize(rows_of(pairs), out=tmp_path / "list", **options)
    flat = dataset.flatten()  # whose columns are called translation.en and translation.de
    for name, given in (
        ("map", dataset),
        ("stream", dataset.to_iterable_dataset()),
        ("flat", flat),
    ):
        corpus = pycat.tokenize(given, out=tmp_path / name, **options)
        assert corpus.id == expected.id and corpus.sentences([29]) == pairs[29:]
    with pytest.raises(TextError, match="one split"):
        pycat.tokenize(datasets.DatasetDict(train=dataset), out=tmp_path / "x", **options)

    numbers = datasets.Dataset.from_dict({"n": range(6)})
    kept = selection.filter(numbers)
    assert isinstance(kept, datasets.Dataset) and kept["n"][:] == [4, 5]
    assert list(selection.filter(numbers.to_iterable_dataset())) == [{"n": 4}, {"n": 5}]
    with pytest.raises(TextError, match="found 5 rows"):
        selection.filter(numbers.select(range(5)))


def test_text_of_a_dataset_is_written_and_measured(
    selection: pycat.Selection, tmp_path: Path
) -> None:
    selection.write_text(tmp_path / "o.en", tmp_path / "o.de")
    pairs = toy_pairs(6)
    assert (tmp_path / "o.en").read_text("utf-8").splitlines() == [src for src, _ in pairs[4:]]
    assert (tmp_path / "o.de").read_text("utf-8").splitlines() == [tgt for _, tgt in pairs[4:]]
    with pytest.raises(PycatError, match="name two files"):
        selection.write_tsv(tmp_path / "o.tsv")
    measures = pycat.measure(selection.corpus(), out=tmp_path / "measures")
    assert len(measures) == 5
    # Text that was changed is no longer read.
    manifest = json.loads((tmp_path / "corpus" / "corpus.json").read_text())
    assert [row["path"] for row in manifest["text"]] == ["text.src", "text.tgt"]
    (tmp_path / "corpus" / "text.src").write_text("x\n" * 6)
    with pytest.raises(TextError, match="changed since"):
        selection.write_text(tmp_path / "p.en", tmp_path / "p.de")
