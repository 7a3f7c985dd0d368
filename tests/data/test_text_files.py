"""Files are known by their first bytes; what is no text in UTF-8 is refused by its name."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers import toy_pairs, write_lines

import pycat
from pycat.data.parallel_text import ParallelText, write_rows
from pycat.data.text_files import is_compressed
from pycat.errors import OutputError, TextError

LINES = [f"line {i} — ü\n".encode() for i in range(5000)]
WHOLE = b"".join(LINES)
HALVES = WHOLE[:70_001], WHOLE[70_001:]


def by_arrow(codec: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(data)
        return bytes(sink.getvalue())

    return compress


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": by_arrow("zstd"),
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "lz4": by_arrow("lz4"),
}
NAMES = ["text", "text.gz", "text.GZ", "text.txt", "text.zst", "text.xz"]


def rows_of(path: Path) -> list[bytes]:
    return [row[0] for row in ParallelText.of(None, None, path).rows()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", COMPRESS)
def test_any_name_will_do(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(COMPRESS[kind](WHOLE))
    assert rows_of(path) == LINES


@pytest.mark.parametrize("name", NAMES)
def test_text_that_was_unpacked_may_keep_its_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for lines in (LINES, ["ä".encode() * 500 + b"\n"], [b"a\tb \x0b\r\n"]):
        path.write_bytes(b"".join(lines))
        assert rows_of(path) == lines
        assert not is_compressed(path)
    path.write_bytes(b"\x1f\x8c" + gzip.compress(WHOLE)[2:])
    if path.suffix.lower() == ".gz":
        with pytest.raises(TextError, match=r"reading failed after line 0 \(.*damaged"):
            rows_of(path)


@pytest.mark.parametrize("kind", COMPRESS)
def test_members_follow_one_another(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"".join(map(COMPRESS[kind], (*HALVES, b"", b"end\n"))))
    assert rows_of(path) == [*LINES, b"end\n"]


@pytest.mark.parametrize("kind", ["gzip", "xz", "bz2"])
@pytest.mark.parametrize("padding", [1, 512, 3_000_000])
def test_zeros_after_the_members_are_padding(kind: str, padding: int, tmp_path: Path) -> None:
    # As tapes and block devices leave them; xz pads by multiples of four, but none is refused.
    path = tmp_path / "text"
    first, second = map(COMPRESS[kind], HALVES)
    path.write_bytes(first + bytes(padding) + second + bytes(padding))
    assert rows_of(path) == LINES


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("damage", ["half", "changed"])
def test_damage_is_named(kind: str, damage: str, tmp_path: Path) -> None:
    if damage == "changed" and kind in ("zstd", "lz4"):
        pytest.skip("these frames have no checksum")
    data = bytearray(COMPRESS[kind](os.urandom(400_000).hex().encode() + b"\n"))
    if damage == "half":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 0xFF
    (tmp_path / "text").write_bytes(data)
    with pytest.raises(TextError, match=r"text: reading failed after line 0 \(.*damaged"):
        rows_of(tmp_path / "text")


@pytest.mark.parametrize("suffix", [".gz", ".GZ", ".zst", ".xz", ".bz2", ".lz4", ""])
def test_the_suffix_says_how_to_write(suffix: str, tmp_path: Path) -> None:
    outs = tmp_path / f"a{suffix}", tmp_path / "b"
    write_rows(((line, line) for line in LINES), outs)
    assert rows_of(outs[0]) == LINES
    assert (outs[0].read_bytes() == WHOLE) == (suffix == "")


@pytest.mark.parametrize("suffix", [".zip", ".7z", ".tar", ".tgz", ".Z", ".br", ".parquet", ".TMX"])
def test_archives_are_not_written(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"a{suffix}: {suffix.lower()} files are not written"):
        write_rows([(b"x\n",)], (tmp_path / f"a{suffix}",))
    assert list(tmp_path.iterdir()) == []


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a.en", "text\n")
    return made.getvalue()


def tarred() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        entry = tarfile.TarInfo("a.en")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"text\n"))
    return made.getvalue()


TEXT = "Ein Satz.\tA sentence.\n" * 20
REFUSED = {
    "zip": (zipped(), "a zip archive; unpack"),
    "tar": (tarred(), "a tar archive; unpack"),
    "tar.gz": (gzip.compress(tarred()), "a tar archive; unpack"),
    "zip in gzip": (gzip.compress(zipped()), "a zip archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive"),
    "rar": (b"Rar!\x1a\7\0", "a rar archive"),
    "compress": (b"\x1f\x9d\x90", "a file of compress"),
    "lzma": (lzma.compress(WHOLE, format=lzma.FORMAT_ALONE), "a file of LZMA; unpack"),
    "parquet": (b"PAR1\x15\4", "a Parquet file"),
    "utf-16": (TEXT.encode("utf-16"), "UTF-16; convert it: iconv -f UTF-16 "),
    "utf-16 big": (b"\xfe\xff" + TEXT.encode("utf-16-be"), "UTF-16; convert it: iconv"),
    "utf-16 bare": (TEXT.encode("utf-16-le"), "as in UTF-16; convert it: iconv -f UTF-16LE"),
    "utf-16 bare big": (TEXT.encode("utf-16-be"), "as in UTF-16; convert it: iconv -f UTF-16BE"),
    "utf-16 in gzip": (gzip.compress(TEXT.encode("utf-16")), "UTF-16"),
    "utf-32": (TEXT.encode("utf-32"), "UTF-32; convert"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_text_is_named(kind: str, tmp_path: Path) -> None:
    data, message = REFUSED[kind]
    (tmp_path / "text").write_bytes(data)
    with pytest.raises(TextError, match=f"text: expected text in UTF-8, found .*{message}"):
        rows_of(tmp_path / "text")


def test_latin_1_is_refused_with_its_line(toy_tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "a.en").write_bytes(b"one\ntwo\n")
    (tmp_path / "a.de").write_bytes("eins\nfünf\n".encode("latin-1"))
    with pytest.raises(TextError, match=r"a\.de: line 2, byte 2 is 0xfc, which is not .*iconv"):
        pycat.tokenize(
            *(tmp_path / "a.en", tmp_path / "a.de"), out=tmp_path / "c", tokenizer=toy_tokenizer
        )


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("marked", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("tsv", [False, True])
def test_a_byte_order_mark_is_no_part_of_the_text(
    ends: str, marked: tuple[bool, bool], tsv: bool, toy_tokenizer: Path, tmp_path: Path
) -> None:
    pairs = toy_pairs(40)
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    if tsv:
        sides = [["\t".join(pair) for pair in pairs]]
    paths = [tmp_path / f"text.{i}" for i in range(len(sides))]
    for path, lines, has_mark in zip(paths, sides, marked, strict=False):
        path.write_bytes(b"\xef\xbb\xbf" * has_mark + "".join(x + ends for x in lines).encode())
    given: dict[str, Any] = {"tsv": paths[0]} if tsv else {"src": paths[0], "tgt": paths[1]}
    options: dict[str, Any] = {"tokenizer": toy_tokenizer, "languages": ("en", "de")}
    corpus = pycat.tokenize(**given, out=tmp_path / "c", **options)
    plain = write_lines(tmp_path, pairs, "plain")
    expected = pycat.tokenize(*plain, out=tmp_path / "p", **options)
    assert [corpus[0][i].tolist() for i in (0, 1)] == [expected[0][i].tolist() for i in (0, 1)]
    assert corpus.sentences([0]) == [pairs[0]]


@pytest.mark.parametrize("kind", ["fifo", "substitution", "device"])
def test_what_is_read_once_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    if kind == "device":
        path, found = Path("/dev/zero"), "a device"
    elif kind == "fifo":
        path, found = tmp_path / "fifo", "a pipe"
        os.mkfifo(path)
    else:
        reader, writer = os.pipe()  # as a shell's <(zcat text.gz)
        threading.Thread(target=lambda: os.close(writer)).start()
        path, found = Path(f"/dev/fd/{reader}"), "a pipe"
    for given in ((None, None, path), (path, tmp_path / "x", None)):
        with pytest.raises(TextError, match=f"{path}: .*found {found}, which can be read once"):
            ParallelText.of(*given)


SCRIPTS = {
    "print": "cli.exit_status(lambda: print('größer 東京 ไทย'))",
    "write": "import sys; cli.exit_status(lambda: sys.stdout.write('größer 東京 ไทย'))",
    "error": "cli.main(['apply', '--selection', 'größer 東京 ไทย', '--text', 'a', 'b'])",
    "help": "cli.main(['score', '--help'])",
}


ASCII = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("given", ["command line", "run file"])
def test_names_that_the_locale_cannot_write_have_a_remedy(given: str, tmp_path: Path) -> None:
    (tmp_path / "größe.en").write_text("one\ntwo\n")
    words = ["prune", "--src", "größe.en", "--tgt", "größe.en", "--out", "work"]
    if given == "run file":
        run = '[text]\nsrc = "größe.en"\ntgt = "größe.en"\n[tests]\nx = ["größe.en", "größe.en"]\n'
        (tmp_path / "run.toml").write_text(run, "utf-8")
        words = ["evaluate", "--run", "run.toml", "--out", "work"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pycat", *words],
        env=ASCII,
        capture_output=True,
        cwd=tmp_path,
    )
    said = done.stderr.decode("utf-8")
    assert "Traceback" not in said
    assert "names of files are ascii in this locale, and UTF-8 is needed; set LC_ALL" in said


@pytest.mark.parametrize("verb", SCRIPTS)
def test_output_is_utf_8_in_any_locale(verb: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"from pycat.cli import main as cli\n{SCRIPTS[verb]}\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-P", script],
        env=ASCII,
        capture_output=True,
        cwd=tmp_path,
    )
    assert b"Traceback" not in done.stderr
    said = (done.stdout + done.stderr).decode("utf-8")
    assert ("größer 東京 ไทย" if verb != "help" else "checkpoints") in said
