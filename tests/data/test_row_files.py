"""Parquet, JSON Lines, TMX and zips of OPUS: their text, and what is written of them."""

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import MakeScores, plain_select, toy_pairs

import pycat
from pycat.cli import main as cli
from pycat.data.row_files import RowFile, kind_of, open_text, write_kept
from pycat.errors import OutputError, PycatError, TextError

PAIRS = toy_pairs(6)
NAMES = ("translation.en", "translation.de")


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def rows_of(pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"id": i, "translation": {"en": en, "de": de}, "score": i / 8}
        for i, (en, de) in enumerate(pairs)
    ]


def write_json(path: Path, pairs: list[tuple[str, str]]) -> list[bytes]:
    """Lines whose blanks, order and escapes differ, so that only their bytes tell them apart."""
    lines = [
        json.dumps(row, ensure_ascii=i % 2 == 0, indent=None, separators=(",", ":" + " " * i))
        for i, row in enumerate(rows_of(pairs))
    ]
    path.write_text("\n".join(lines), "utf-8")
    return [line.encode() + b"\n" * (i + 1 < len(lines)) for i, line in enumerate(lines)]


def write_parquet(path: Path, pairs: list[tuple[str, str]]) -> pa.Table:
    table = pa.Table.from_pylist(rows_of(pairs)).replace_schema_metadata({"origin": "a test"})
    pq.write_table(table, path, row_group_size=2, compression="zstd")
    return table


def pairs_of(path: Path, columns: Any = NAMES) -> list[tuple[str, str]]:
    text = open_text(None, None, path, columns)
    assert isinstance(text, RowFile)
    return [(src.decode(), tgt.decode()) for src, tgt in text.pairs()]


def test_content_tells_the_kind(tmp_path: Path) -> None:
    json_line = b'{"a": "x", "b": "y"}\n'
    contents = {
        "parquet": b"PAR1 and more",
        "zip": b"PK\3\4 and more",
        "jsonl": json_line,
        "jsonl BOM": b"\xef\xbb\xbf" + json_line,
        "jsonl gzip": gzip.compress(b"\n" + json_line),
        "tmx": b'<?xml version="1.0"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx>',
        "tmx utf-16": '<?xml version="1.0"?><tmx version="1.4">'.encode("utf-16"),
        "tmx gzip": gzip.compress(b"<tmx version='1.4'>"),
        "text": b"{name} is here\tx\n",
        "text 2": b"{}\t{}\n",
        "text 3": b"[Music]\t[Musik]\n",
        "text 4": b"<?xml version='1.0'?>\t<x>\n",
        "text 5": b"PAR\tPAR\n",
        "text 6": b"{\n",
    }
    path = tmp_path / "any.tsv"
    for name, data in contents.items():
        path.write_bytes(data)
        kind = name.split()[0]
        assert kind_of(path) == (None if kind == "text" else kind), name


def test_rows_of_parquet_and_json_lines(tmp_path: Path) -> None:
    pairs = [*PAIRS, ("two\nlines", "zwei\r\nZeilen\n"), ("", "x")]
    expected = [*PAIRS, ("two lines", "zwei Zeilen"), ("", "x")]
    write_parquet(tmp_path / "a.parquet", pairs)
    write_json(tmp_path / "a.jsonl", pairs)
    packed = gzip.compress((tmp_path / "a.jsonl").read_bytes())
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    for name in ("a.parquet", "a.jsonl", "a.jsonl.gz"):
        assert pairs_of(tmp_path / name) == expected
        assert pairs_of(tmp_path / name, NAMES[::-1]) == [pair[::-1] for pair in expected]


def test_types_of_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "plain": ["a", "b"],
            "large": pa.array(["c", "d"], pa.large_string()),
            "codes": pa.array(["e", "e"]).dictionary_encode(),
            "a.b": ["f", "g"],
            "number": [1, 2],
            "list": [["x"], ["y"]],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert pairs_of(tmp_path / "t.parquet", ("plain", "large")) == [("a", "c"), ("b", "d")]
    assert pairs_of(tmp_path / "t.parquet", ("codes", "a.b")) == [("e", "f"), ("e", "g")]
    with pytest.raises(
        TextError, match=r"'number' of text; its columns of text are plain, large, "
    ):
        pairs_of(tmp_path / "t.parquet", ("plain", "number"))
    with pytest.raises(TextError, match=r"no column '1' of text"):
        pairs_of(tmp_path / "t.parquet", (1, 2))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            '{"a": "x", "b": "y"}\n{"a": "x"}\n',
            "line 2: has no column 'b' of text; its columns .* a",
        ),
        ('{"a": "x", "b": "y"}\n{"a": "x", "b": null}\n', "line 2: column 'b' holds None"),
        ('{"a": "x", "b": "y"}\n\n{"a": "x", "b": 1}\n', "line 3: column 'b' holds .* int"),
        ('{"a": "x", "b": "y"}\n["x", "y"]\n', "line 2: found a value of type list"),
        ('{"a": "x", "b": "y"}\nx\ty\n', "line 2 is no JSON"),
        ('{"a": "x", "b": "y"}\n{"a": "x", "b"', "line 2 is no JSON"),
        (
            '{"a": "x", "b": "y"}\n{"a": "\\ud800", "b": "y"}',
            "line 2: column 'a' holds half a char",
        ),
        ('{"a": "x", "b": "y"}\n' + "[" * 100_000, "line 2 is no JSON"),
        ('{"a": "x", "c": {"d": "y"}}\n', "no column 'b' of text; its columns of text are a, c.d"),
    ],
)
def test_a_line_without_text_is_named(lines: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(lines)
    with pytest.raises(TextError, match=f"x.jsonl: (.*){message}|x.jsonl: {message}"):
        pairs_of(tmp_path / "x.jsonl", ("a", "b"))


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": ["x", None], "b": ["y", "y"]}), path)
    with pytest.raises(TextError, match=r"x.parquet: row 2: column 'a' holds None"):
        pairs_of(path, ("a", "b"))
    bad = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"a": ["x", "x"], "b": pa.array([b"x", b"\xff"]).view("string")}), bad)
    with pytest.raises(TextError, match=r"bad.parquet: row 2 holds text that is not valid UTF-8"):
        pairs_of(bad, ("a", "b"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TextError, match=r"x.parquet: cannot be read as Parquet"):
        pairs_of(path, ("a", "b"))


def test_columns_have_to_be_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", PAIRS)
    with pytest.raises(
        TextError, match=r"a Parquet file with columns of text translation.en, tran"
    ):
        open_text(None, None, tmp_path / "a.parquet")
    with pytest.raises(TextError, match=r"expected two different ones"):
        pairs_of(tmp_path / "a.parquet", (NAMES[0], NAMES[0]))
    (tmp_path / "a.tsv").write_text("x\ty\n")
    with pytest.raises(TextError, match=r"columns are a, b, but .*a.tsv is lines of text"):
        open_text(None, None, tmp_path / "a.tsv", ("a", "b"))
    with pytest.raises(TextError, match=r"columns are a, b"):
        open_text(tmp_path / "a.tsv", tmp_path / "a.tsv", None, ("a", "b"))


def test_kept_rows_are_written_as_they_were(tmp_path: Path) -> None:
    kept = np.array([0, 1, 0, 0, 1, 1], dtype=bool)
    table = write_parquet(tmp_path / "a.parquet", PAIRS)
    write_kept(tmp_path / "a.parquet", kept, tmp_path / "b.parquet", overwrite=False)
    written = pq.read_table(tmp_path / "b.parquet")
    assert written.equals(table.take([1, 4, 5]), check_metadata=True)
    metadata = pq.read_metadata(tmp_path / "b.parquet")
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    lines = write_json(tmp_path / "a.jsonl", PAIRS)
    write_kept(tmp_path / "a.jsonl", kept, tmp_path / "b.jsonl", overwrite=False)
    assert (tmp_path / "b.jsonl").read_bytes() == lines[1] + lines[4] + lines[5]
    write_kept(tmp_path / "a.jsonl", kept, tmp_path / "b.jsonl.gz", overwrite=False)
    assert gzip.decompress((tmp_path / "b.jsonl.gz").read_bytes()) == lines[1] + lines[4] + lines[5]
    for name in ("a.parquet", "a.jsonl"):
        out = tmp_path / f"c.{name[2:]}"
        with pytest.raises(TextError, match=r"found 6 rows, but .* text of 5"):
            write_kept(tmp_path / name, kept[:5], out, overwrite=False)
        assert not out.exists()
    with pytest.raises(OutputError, match=r"the rows come from a Parquet file and are written"):
        write_kept(tmp_path / "a.parquet", kept, tmp_path / "c.tsv", overwrite=False)
    with pytest.raises(OutputError, match=r"the rows come from JSON Lines"):
        write_kept(tmp_path / "a.jsonl", kept, tmp_path / "c.parquet", overwrite=False)
    with pytest.raises(OutputError, match=r"b.parquet"):
        write_kept(tmp_path / "a.parquet", ~kept, tmp_path / "b.parquet", overwrite=False)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_from_the_command_line(
    kind: str, tmp_path: Path, toy_tokenizer: Path, make_scores: MakeScores,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path, out = tmp_path / f"a.{kind}", tmp_path / "corpus"
    if kind == "parquet":
        write_parquet(path, PAIRS)
    else:
        write_json(path, PAIRS)
    words = ["tokenize", "--tsv", path, "--out", out, "--tokenizer", toy_tokenizer]
    assert run(*words) == 1
    assert "columns of text translation.en, translation.de; name those" in capsys.readouterr().err
    assert run(*words, "--columns", ",".join(NAMES)) == 0
    stamp = (out / "src.bin").stat().st_mtime_ns
    moved = path.rename(tmp_path / f"moved.{kind}")
    words[2] = moved
    assert run(*words, "--columns", ",".join(NAMES)) == 0
    assert (out / "src.bin").stat().st_mtime_ns == stamp
    assert run(*words, "--columns", ",".join(NAMES[::-1])) == 1
    corpus = pycat.open_corpus(out)
    assert corpus.languages == ("en", "de") and corpus.sentences([5]) == PAIRS[5:]
    rising: Any = np.stack([np.ones(6), np.arange(1.0, 7)], axis=1) * corpus.num_tokens[:, None]
    table = make_scores(corpus, rising, out=tmp_path / "scores")
    selection = plain_select(table, keep=0.5)
    assert selection.lines.tolist() == [3, 4, 5]
    select = ["select", "--scores", tmp_path / "scores", "--by", "cat_var"]
    select += ["--rules", "none", "--guard", 0, "--text"]
    assert run(*select, tmp_path / f"kept.{kind}") == 0
    assert pairs_of(tmp_path / f"kept.{kind}") == PAIRS[3:]
    assert run(*select, tmp_path / "kept.en", tmp_path / "kept.de") == 0
    assert (tmp_path / "kept.de").read_text("utf-8").splitlines() == [de for _, de in PAIRS[3:]]
    selection.write_rows(tmp_path / f"other.{kind}", of=tmp_path / f"moved.{kind}")
    assert pairs_of(tmp_path / f"other.{kind}") == PAIRS[3:]
    with pytest.raises(OutputError, match=r"this is the text being pruned"):
        selection.write_rows(moved, overwrite=True)
    moved.write_bytes(moved.read_bytes() + b"\n ")
    with pytest.raises(TextError, match=r"changed since"):
        selection.write_rows(tmp_path / f"late.{kind}")


TMX = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en" segtype="sentence"><note>x</note></header><body>
<tu><tuv xml:lang="en"><seg>One &amp; two</seg></tuv><tuv xml:lang="de"><seg>Eins
und zwei</seg></tuv></tu>
<tu><prop>p</prop><tuv xml:lang="de-AT"><seg>Jänner</seg></tuv>
<tuv xml:lang="EN_us"><note>n</note><seg>Jan<hi>ua</hi>ry<ph x="1">&lt;br/&gt;</ph>
</seg></tuv></tu>
<tu><tuv xml:lang="fr"><seg>seul</seg></tuv><tuv xml:lang="en"><seg>alone</seg></tuv></tu>
<tu><tuv lang="de"><seg>D1</seg></tuv><tuv lang="de"><seg>D2</seg></tuv>
<tuv xml:lang="en-GB"><seg>E1</seg></tuv><tuv xml:lang="en"><seg>E2</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg/></tuv><tuv xml:lang="de"><seg>leer</seg></tuv></tu>
</body></tmx>
"""
TMX_PAIRS = [
    ("One & two", "Eins und zwei"),
    ("January", "Jänner"),
    ("E2", "D1"),
    ("", "leer"),
]


def test_units_of_tmx(tmp_path: Path) -> None:
    path = tmp_path / "a.tmx"
    for data in (TMX.encode(), gzip.compress(TMX.encode()), b"\xef\xbb\xbf" + TMX.encode(),
                 TMX.replace("UTF-8", "UTF-16").encode("utf-16")):  # fmt: skip
        path.write_bytes(data)
        assert pairs_of(path, ("en", "de")) == TMX_PAIRS
    assert pairs_of(path, ("fr", "en")) == [("seul", "alone")]
    with pytest.raises(TextError, match=r"no translation unit has both en and es; its languages "
                       "are en, de, de-AT, EN_us, fr, en-GB"):  # fmt: skip
        pairs_of(path, ("en", "es"))
    with pytest.raises(TextError, match=r"TMX with languages en, de, .*; name those"):
        open_text(None, None, path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"tmx14.dtd"',
            '"t.dtd" [<!ENTITY a "b">]',
            "line 2 declares the entity 'a', which is not",
        ),
        ('"tmx14.dtd"', '"t.dtd" [<!ENTITY a SYSTEM "/etc/passwd">]', "declares the entity 'a'"),
        ('"tmx14.dtd"', '"t.dtd" [<!ENTITY % a SYSTEM "x"> %a;]', "declares the entity 'a'"),
        ("One &amp;", "One &nbsp;", "line 4 has the entity 'nbsp', which is not known"),
        ("</body>", "", "no well-formed XML .*line 13"),
        ("</body></tmx>", "", "no well-formed XML"),
        ('"UTF-8"', '"Shift_JIS"', "no well-formed XML .*encoding"),
        ('"UTF-8"', '"no-such"', "no well-formed XML .*encoding"),
    ],
)
def test_bad_tmx_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.tmx").write_text(TMX.replace(old, new), "utf-8")
    with pytest.raises(TextError, match=f"a.tmx: .*{message}"):
        pairs_of(tmp_path / "a.tmx", ("en", "de"))


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_zip_of_opus(tmp_path: Path) -> None:
    files = {
        "README": b"text",
        "Books.de-en.de": "Über\tuns\r\nzwei\n\nvier".encode(),
        "Books.de-en.en": b"About\r us\ntwo\nthree\nfour\n",
        "Books.de-en.xml": b"<xml/>",
    }
    path = write_zip(tmp_path / "de-en.txt.zip", files)
    expected = [("About  us", "Über\tuns"), ("two", "zwei"), ("three", ""), ("four", "vier")]
    assert pairs_of(path, ("en", "de")) == expected
    with pytest.raises(TextError, match=r"a zip archive with languages de, en; name those"):
        open_text(None, None, path)
    with pytest.raises(TextError, match=r"no file of the language 'fr', .* holds README, Books"):
        pairs_of(path, ("en", "fr"))
    two = write_zip(tmp_path / "two.zip", {**files, "more.en": b"x\n"})
    with pytest.raises(TextError, match=r"2 files of the language 'en'"):
        pairs_of(two, ("en", "de"))
    short = write_zip(tmp_path / "short.zip", {"a.de": b"eins\n", "a.en": b"one\ntwo\n"})
    with pytest.raises(TextError, match=r"a.de ends after line 1, but a.en has more"):
        pairs_of(short, ("en", "de"))
    latin = write_zip(tmp_path / "latin.zip", {"a.de": b"\xdcber\n", "a.en": b"one\n"})
    with pytest.raises(TextError, match=r"latin.zip/a.de: line 1, byte 1 is 0xdc"):
        pairs_of(latin, ("en", "de"))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(TextError, match=r"the zip archive cannot be read"):
        pairs_of(path, ("en", "de"))


def test_text_of_tmx_and_zip(tmp_path: Path, toy_tokenizer: Path, make_scores: MakeScores) -> None:
    (tmp_path / "a.tmx.gz").write_bytes(gzip.compress(TMX.encode()))
    words = ["--languages", "en,de", "--tokenizer", toy_tokenizer]
    assert run("tokenize", "--tsv", tmp_path / "a.tmx.gz", "--out", tmp_path / "x", *words) == 0
    corpus = pycat.open_corpus(tmp_path / "x")
    assert corpus.languages == ("en", "de")
    assert corpus.sentences([0, 1, 2]) == TMX_PAIRS[:3]
    selection = plain_select(make_scores(corpus, np.ones((3, 2))), keep=1.0)
    with pytest.raises(PycatError, match=r"name two files"):
        selection.write_one(tmp_path / "kept.tmx")
    with pytest.raises(PycatError, match=r"not of Parquet or JSON Lines"):
        selection.write_rows(tmp_path / "kept.parquet")
    selection.write_text(tmp_path / "kept.en", tmp_path / "kept.de")
    assert (tmp_path / "kept.en").read_text() == "One & two\nJanuary\nE2\n"


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "tmx"])
def test_prune_writes_rows_or_text(kind: str, tmp_path: Path) -> None:
    pairs, path, work = toy_pairs(200), tmp_path / f"a.{kind}", tmp_path / "work"
    columns = ("en", "de") if kind == "tmx" else NAMES
    if kind == "parquet":
        write_parquet(path, pairs)
    elif kind == "jsonl":
        write_json(path, pairs)
    else:
        units = "".join(
            f'<tu><tuv lang="en"><seg>{en}</seg></tuv><tuv lang="de"><seg>{de}</seg></tuv></tu>'
            for en, de in pairs
        )
        path.write_text(f"<tmx><body>{units}</body></tmx>", "utf-8")
    options: dict[str, Any] = {
        "rules": "none",
        "guard": 0,
        "fast": True,
        "by": "length",
        "keep": 0.5,
    }
    pruned = pycat.prune(
        tsv=path, columns=columns, out=work, tokenize_options={"vocab_size": 340}, **options
    )
    kept = [pairs[line] for line in pruned.selection.lines.tolist()]
    if kind == "tmx":
        assert [file.name for file in pruned.texts] == ["pruned.en", "pruned.de"]
        assert pruned.texts[0].read_text("utf-8").splitlines() == [en for en, _ in kept]
    else:
        assert [file.name for file in pruned.texts] == [f"pruned.{kind}"]
        assert pairs_of(pruned.texts[0]) == kept
    # Again: nothing is made anew.
    stamp = pruned.texts[0].stat().st_mtime_ns
    pycat.prune(
        tsv=path, columns=columns, out=work, tokenize_options={"vocab_size": 340}, **options
    )
    assert pruned.texts[0].stat().st_mtime_ns == stamp
