"""Columns of tab-separated text: which hold source and target, and which hold neither."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import toy_pairs, write_lines

import pycat
from pycat.cli import main as cli
from pycat.data.parallel_text import ParallelText
from pycat.data.tab_columns import kind_of
from pycat.errors import PycatError, TextError

PAIRS = toy_pairs(300)


def write_tsv(path: Path, rows: Sequence[tuple[str, ...]]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), "utf-8")
    return path


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


@pytest.mark.parametrize("columns", [(2, 3), (3, 2), (1, 4), (4, 1), (3, 5)])
def test_any_two_columns_are_source_and_target(columns: tuple[int, int], tmp_path: Path) -> None:
    rows = []
    for i, (src, tgt) in enumerate(PAIRS):
        row = [f"x{i}", "", "words", "more", "fields"]
        row[columns[0] - 1], row[columns[1] - 1] = src, tgt
        rows.append(tuple(row))
    path = write_tsv(tmp_path / "text.tsv", rows)
    text = ParallelText.of(None, None, path, columns)
    assert list(text.pairs()) == [(src.encode(), tgt.encode()) for src, tgt in PAIRS]
    [chunk] = text.chunks()
    assert list(zip(*text.columns(chunk), strict=True)) == list(text.pairs())


def test_every_verb_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"0.{i}", f"http://a.b/{i}", src, tgt, "x") for i, (src, tgt) in enumerate(PAIRS)]
    tsv = write_tsv(tmp_path / "text.tsv", rows)
    corpus, plain = tmp_path / "corpus", tmp_path / "plain"
    words = ["--vocab-size", 300, "--languages", "en,de"]
    assert run("tokenize", "--tsv", tsv, "--columns", "3,4", "--out", corpus, *words) == 0
    src, tgt = write_lines(tmp_path, PAIRS, "text")
    assert run("tokenize", "--src", src, "--tgt", tgt, "--out", plain, *words) == 0
    assert (corpus / "tgt.bin").read_bytes() == (plain / "tgt.bin").read_bytes()
    assert pycat.open_corpus(corpus).sentences([7]) == [PAIRS[7]]
    # Again: the same corpus; other columns: refused; and rules and text read the same columns.
    assert run("tokenize", "--tsv", tsv, "--columns", "3,4", "--out", corpus, *words) == 0
    assert run("tokenize", "--tsv", tsv, "--columns", "4,3", "--out", corpus, *words) == 1
    assert "columns was" in capsys.readouterr().err
    assert run("measure", "--corpus", corpus, "--out", tmp_path / "measures") == 0
    pruned = ["prune", "--tsv", tsv, "--columns", "3,4", "--out", tmp_path / "work", "--keep", 0.5]
    small = ["--tokenize-vocab-size", 300, "--tokenize-languages", "en,de", "--device", "cpu"]
    train = [
        "--train-preset",
        "mini",
        "--train-checkpoint-steps",
        "2,4",
        "--rules",
        "none",
        "--guard",
        0,
    ]
    assert run(*pruned, *small, *train) == 0
    kept = (tmp_path / "work" / "pruned.tsv").read_text().splitlines()
    assert len(kept) == 150 and set(kept) <= {"\t".join(row) for row in rows}


def test_score_reads_columns(tmp_path: Path, toy_corpus: pycat.Corpus) -> None:
    run_ = pycat.train(toy_corpus, out=tmp_path / "run", checkpoint_steps=[2, 4], preset="mini")
    tsv = write_tsv(tmp_path / "text.tsv", [("0.5", src, tgt) for src, tgt in PAIRS[:20]])
    src, tgt = write_lines(tmp_path, PAIRS[:20], "text")
    shared = [
        "score",
        "--format",
        "marian",
        "--checkpoints",
        run_.checkpoints[0],
        "--device",
        "cpu",
    ]
    shared += ["--tokenizer", toy_corpus.path / "tokenizer.model"]
    assert run(*shared, "--tsv", tsv, "--columns", "2,3", "--out", tmp_path / "a") == 0
    assert run(*shared, "--src", src, "--tgt", tgt, "--out", tmp_path / "b") == 0
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


WRONG: dict[str, tuple[list[Any], str, int, str]] = {
    "score first": (
        [(f"{0.9 - i / 1e3:.4f}", *pair) for i, pair in enumerate(PAIRS)],
        "numbers",
        1,
        "2,3",
    ),
    "address first": (
        [(f"https://a.b/{i}", *pair) for i, pair in enumerate(PAIRS)],
        "addresses",
        1,
        "2,3",
    ),
    "two addresses": (
        [(f"http://a/{i}", f"http://b/{i}", *pair, "0.7") for i, pair in enumerate(PAIRS)],
        "addresses",
        1,
        "3,4",
    ),
    "score between": (
        [(src, f"-{i}.5", tgt) for i, (src, tgt) in enumerate(PAIRS)],
        "numbers",
        2,
        "1,3",
    ),
    "line numbers": ([(str(i), *pair) for i, pair in enumerate(PAIRS)], "numbers", 1, "2,3"),
    "domain first": (
        [(("news", "law", "it")[i % 3], *pair) for i, pair in enumerate(PAIRS)],
        "labels",
        1,
        "2,3",
    ),
    "language between": ([(src, "de", tgt) for src, tgt in PAIRS], "labels", 2, "1,3"),
    "date first": (
        [(f"2024-{1 + i % 12:02}-{1 + i % 28:02}T10:00", *pair) for i, pair in enumerate(PAIRS)],
        "dates",
        1,
        "2,3",
    ),
    "scores with gaps": (
        [("" if i % 3 else "1e-5", *pair) for i, pair in enumerate(PAIRS)],
        "numbers",
        1,
        "2,3",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_column_without_sentences_is_refused(name: str, tmp_path: Path) -> None:
    rows, kind, column, advice = WRONG[name]
    tsv = write_tsv(tmp_path / "text.tsv", rows)
    message = f"column {column} holds {kind}, such as .*--columns {advice} "
    with pytest.raises(TextError, match=message):
        pycat.tokenize(tsv=tsv, out=tmp_path / "corpus", vocab_size=300)
    shutil.rmtree(tmp_path / "corpus", ignore_errors=True)
    first, second = map(int, advice.split(","))
    corpus = pycat.tokenize(
        tsv=tsv,
        columns=(first, second),
        out=tmp_path / "corpus",
        vocab_size=300,
    )
    assert corpus.sentences([5]) == [PAIRS[5]]


@pytest.mark.parametrize("address", ["source", "target"])
def test_two_columns_may_hold_none_either(address: str, tmp_path: Path) -> None:
    rows = [(src, f"www.a.de/{i}") for i, (src, _) in enumerate(PAIRS)]
    tsv = write_tsv(
        tmp_path / "t.tsv", rows if address == "target" else [row[::-1] for row in rows]
    )
    column = 1 if address == "source" else 2
    message = (
        f"column {column} holds addresses, such as 'www.a.de/0'.*give a file that has both, or"
    )
    with pytest.raises(TextError, match=message):
        pycat.tokenize(tsv=tsv, out=tmp_path / "corpus", vocab_size=300)
    shutil.rmtree(tmp_path / "corpus", ignore_errors=True)
    assert len(pycat.tokenize(tsv=tsv, out=tmp_path / "c", columns=(1, 2), vocab_size=300)) == 300


def test_two_columns_of_the_same_text_are_no_pairs(tmp_path: Path) -> None:
    rows = [(src, src if i % 20 else tgt, "x") for i, (src, tgt) in enumerate(PAIRS)]
    tsv = write_tsv(tmp_path / "t.tsv", rows)
    message = r"columns 1 and 2 hold the same text in 285 of the first 300 lines.*--columns SRC,TGT"
    with pytest.raises(TextError, match=message):
        pycat.tokenize(tsv=tsv, out=tmp_path / "corpus", vocab_size=300)
    assert len(pycat.tokenize(tsv=tsv, out=tmp_path / "c", columns=(1, 2), vocab_size=300)) == 300
    few = write_tsv(tmp_path / "few.tsv", rows[:99])
    tokenizer = tmp_path / "c" / "tokenizer.model"
    assert len(pycat.tokenize(tsv=few, out=tmp_path / "few", tokenizer=tokenizer)) == 99


def test_more_columns_after_the_sentences_are_fine(tmp_path: Path) -> None:
    tsv = write_tsv(tmp_path / "text.tsv", [(*pair, "0.5", "http://x") for pair in PAIRS])
    assert len(pycat.tokenize(tsv=tsv, out=tmp_path / "corpus", vocab_size=300)) == 300
    numbers = write_tsv(tmp_path / "n.tsv", [("1", "2", "3")] * 50)
    corpus = pycat.tokenize(
        tsv=numbers,
        columns=(1, 2),
        out=tmp_path / "n",
        tokenizer=tmp_path / "corpus/tokenizer.model",
    )
    assert len(corpus) == 50


def test_rules_name_the_wrong_column_before_anything_is_trained(tmp_path: Path) -> None:
    numbers = [(f"0.{i:03}", tgt) for i, (_, tgt) in enumerate(PAIRS)]
    with pytest.raises(PycatError) as caught:
        pycat.prune(
            *write_lines(tmp_path, numbers, "text"),
            out=tmp_path / "work",
            tokenize_options={"vocab_size": 300, "languages": ("en", "de")},
            rules={"letters": 0.9},
        )
    message = str(caught.value)
    assert "nothing was trained" in message and "Pairs that each rule hits: " in message
    assert "The source lines hold numbers, such as '0.000': most likely a wrong column" in message
    assert not (tmp_path / "work" / "proxy").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"columns": (2, 2)}, r"columns are \(2, 2\); expected two different"),
        ({"columns": (0, 1)}, r"columns are \(0, 1\); expected two different"),
        ({"columns": (1, 9)}, r"line 1 has 3 columns; expected at least 9"),
    ],
)
def test_columns_that_cannot_be_read(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    tsv = write_tsv(tmp_path / "text.tsv", [(*pair, "x") for pair in PAIRS])
    with pytest.raises(TextError, match=message):
        pycat.tokenize(tsv=tsv, out=tmp_path / "corpus", vocab_size=300, **given)
    src, tgt = write_lines(tmp_path, PAIRS, "text")
    with pytest.raises(TextError, match=r"columns are \(1, 2\); expected .* tab-separated"):
        pycat.tokenize(src, tgt, columns=(1, 2), out=tmp_path / "c")
    for columns in ("2", "2,x", "2,-3", "2,", "1,2,3", "a,b,c"):
        with pytest.raises(SystemExit):
            run("tokenize", "--tsv", tsv, "--columns", columns, "--out", tmp_path / "c")
    # Names belong to files of rows.
    assert run("tokenize", "--tsv", tsv, "--columns", "a,b", "--out", tmp_path / "c") == 1


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"0.93", "numbers"),
        (b"-12", "numbers"),
        (b"1e-7", "numbers"),
        (b"87 %", "numbers"),
        (b"1,234.5", "numbers"),
        (b"nan", "numbers"),
        (b"https://a.b/c?d=1", "addresses"),
        (b"www.a.de", "addresses"),
        (b"3 apples", None),
        (b"see https://a.b", None),
        (b"2024-05-01", "dates"),
        (b"2024-5-1 10:31:07.5", "dates"),
        (b"2024-05-01 was wet", None),
        (b"", None),
        ("三".encode(), None),
    ],
)
def test_kinds_of_values(value: bytes, kind: str | None) -> None:
    assert kind_of([value] * 5) == kind


def test_labels_are_words_that_many_lines_share() -> None:
    assert kind_of([b"news"] * 99 + [b"law"]) == "labels"
    assert kind_of([b"news"] * 98 + [b"law", b"it"]) is None  # three in a hundred lines
    assert kind_of([b"news"] * 99) is None
    assert kind_of([b"see it"] * 200) is None
