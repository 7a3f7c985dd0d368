"""Parallel text: lines end at \\n only, damage is named, and output is whole or absent."""

import errno
import gzip
import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from helpers import FileSizeLimit, SmallDisk

from pycat.data.parallel_text import ParallelText, decode, write_rows
from pycat.errors import OutputError, TextError

# Each is one line; what other readers take for line ends stands inside.
HOSTILE_LINES = [
    b"plain\n",
    b"carriage return and newline\r\n",
    b"a lone \r carriage return\n",
    b"NUL \0 inside\n",
    "U+2028 \u2028, U+2029 \u2029 and U+0085 \u0085 inside\n".encode(),
    b"form feed \f, vertical tab \v, \x1c, \x1d and \x1e\n",
    b"\n",
    b"\r\n",
    b" blanks \n",
    b"no newline at the end\r",
]


def compressed(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data)
    if suffix == ".zst":
        return bytes(pa.compress(data, codec="zstd", asbytes=True))
    return data


def decompressed(path: Path, num_bytes: int) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        return bytes(pa.decompress(data, num_bytes, codec="zstd", asbytes=True))
    return data


def text_of(path: Path, other: Path | None = None) -> ParallelText:
    return ParallelText.of(path, other, None) if other else ParallelText.of(None, None, path)


def rows_of(path: Path) -> list[bytes]:
    return [row[0] for row in text_of(path).rows()]


@pytest.mark.parametrize("counts", [(3, 4), (4, 3), (2, 1500), (1500, 2)])
def test_unequal_line_counts_are_refused_with_both_counts(
    tmp_path: Path, counts: tuple[int, int]
) -> None:
    src, tgt = tmp_path / "a.en", tmp_path / "a.de"
    src.write_bytes(b"x\n" * counts[0])
    tgt.write_bytes(b"y\n" * counts[1])
    with pytest.raises(TextError) as caught:
        list(text_of(src, tgt).rows())
    assert str(caught.value) == (
        f"{src} has {counts[0]:,} lines but {tgt} has {counts[1]:,}; expected equally many, line i "
        "of one translating line i of the other. Align the files again"
    )


def test_a_last_line_without_newline_counts_as_a_line(tmp_path: Path) -> None:
    src, tgt = tmp_path / "a.en", tmp_path / "a.de"
    src.write_bytes(b"one\ntwo")
    tgt.write_bytes(b"eins\nzwei\n")
    text = text_of(src, tgt)
    assert list(text.rows()) == [(b"one\n", b"eins\n"), (b"two", b"zwei\n")]
    assert list(text.pairs()) == [(b"one", b"eins"), (b"two", b"zwei")]


@pytest.mark.parametrize("place", ["src", "tgt", "tsv"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "expected a text file, found nothing; check the path"),
        ("folder", "expected a text file, found a folder; check the path"),
        ("empty", "the file is empty; expected one sentence a line"),
    ],
)
def test_a_path_that_is_no_text_is_refused(
    tmp_path: Path, place: str, name: str, message: str
) -> None:
    good, bad = tmp_path / "good", tmp_path / name
    good.write_bytes(b"x\ty\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    given = {"src": (bad, good, None), "tgt": (good, bad, None), "tsv": (None, None, bad)}
    with pytest.raises(TextError) as caught:
        ParallelText.of(*given[place])
    assert str(caught.value) == f"{bad}: {message}"


@pytest.mark.parametrize("given", ["", "src", "tgt", "src tsv", "tgt tsv", "src tgt tsv"])
def test_neither_two_files_nor_one_tsv_is_refused(tmp_path: Path, given: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"x\ty\n")
    src, tgt, tsv = (path if name in given.split() else None for name in ("src", "tgt", "tsv"))
    with pytest.raises(TextError) as caught:
        ParallelText.of(src, tgt, tsv)
    assert str(caught.value) == (
        "parallel text: expected src and tgt, or tsv alone; pass one of them"
    )


@pytest.mark.parametrize(
    ("line", "byte", "found"),
    [(b"\xff", 1, "ff"), ("Grüße ".encode() + b"\xe9t\xe9", 9, "e9"), (b"cut \xe2\x82", 5, "e2")],
)
def test_invalid_utf8_is_named_by_file_line_and_byte(line: bytes, byte: int, found: str) -> None:
    with pytest.raises(TextError) as caught:
        decode(line, Path("a.de"), 1_234_567)
    assert str(caught.value) == (
        f"a.de: line 1,234,567, byte {byte} is 0x{found}, which is not valid UTF-8; convert the "
        "file with iconv, or drop the line on both sides"
    )


@pytest.mark.parametrize("line", [b"no tab", b""])
def test_a_tsv_line_without_tab_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"one\teins\n" + line + b"\nthree\tdrei\n")
    with pytest.raises(TextError) as caught:
        list(text_of(path).pairs())
    assert str(caught.value) == (
        f"{path}: line 2 has no tab; expected source, tab, target (further columns are kept but "
        "not read)"
    )


def test_tsv_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"one\teins\ntwo\tzwei\t0.5\thttp\r\n\tleer\nempty\t\n\t\t\t")
    assert list(text_of(path).pairs()) == [
        (b"one", b"eins"),
        (b"two", b"zwei"),
        (b"", b"leer"),
        (b"empty", b""),
        (b"", b""),
    ]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines_end_at_newlines_only(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(compressed(b"".join(HOSTILE_LINES), suffix))
    assert rows_of(path) == HOSTILE_LINES


@pytest.mark.parametrize(
    ("line", "side"),
    [
        (b"a\n", b"a"),
        (b"a\r\n", b"a"),
        (b"a", b"a"),
        (b"a\r\r\n", b"a\r"),
        (b"\ra \n", b"\ra "),
        (b"\n", b""),
    ],
)
def test_sides_have_no_line_end_and_lose_nothing_else(
    tmp_path: Path, line: bytes, side: bytes
) -> None:
    path = tmp_path / "text"
    path.write_bytes(line)
    assert list(text_of(path, path).pairs()) == [(side, side)]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_every_member_of_a_concatenated_file_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(
        compressed(b"one\ntw", suffix) + compressed(b"", suffix) + compressed(b"o\nthree\n", suffix)
    )
    assert rows_of(path) == [b"one\n", b"two\n", b"three\n"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["half", "last byte", "header", "trailing", "plain"])
def test_damaged_compressed_files_are_refused(tmp_path: Path, suffix: str, damage: str) -> None:
    # Incompressible and several buffers long, so that the damage shows after many good lines.
    noise = random.Random(0).randbytes(1_500_000).hex().encode()
    lines = b"".join(noise[i : i + 99] + b"\n" for i in range(0, len(noise), 99))
    whole = compressed(lines, suffix)
    data = {
        "half": whole[: len(whole) // 2],
        "last byte": whole[:-1],
        "header": whole[:5],
        "trailing": whole + b"something else",
        "plain": b"this is not compressed\n",
    }[damage]
    path = tmp_path / f"text{suffix}"
    path.write_bytes(data)
    read = []
    with pytest.raises(TextError) as caught:
        for row in text_of(path).rows():
            read.append(row)
    message = str(caught.value)
    assert message.startswith(f"{path}: reading failed after line {len(read):,} (")
    assert message.endswith("); the file is damaged or incomplete: fetch it again")
    assert (len(read) > 0) == (damage in ("half", "last byte", "trailing"))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_of_nothing_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(compressed(b"", suffix))
    with pytest.raises(TextError) as caught:
        list(text_of(path).rows())
    assert str(caught.value) == f"{path}: the file is empty; expected one sentence a line"


def test_a_file_gone_since_it_was_named_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"x\ty\n")
    text = text_of(path)
    path.unlink()
    with pytest.raises(TextError) as caught:
        list(text.rows())
    assert str(caught.value).startswith(f"{path}: cannot be opened (")
    assert str(caught.value).endswith("); check the path")


def test_fingerprint_hashes_only_what_size_or_time_say_is_new(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"x\ty\n")
    text = text_of(path)
    (first,) = text.fingerprint()
    assert first == {
        "path": str(path),
        "file_bytes": 4,
        "mtime_ns": path.stat().st_mtime_ns,
        "sha256": hashlib.sha256(b"x\ty\n").hexdigest(),
    }
    path.write_bytes(b"X\tY\n")
    os.utime(path, ns=(0, first["mtime_ns"]))
    assert text.fingerprint([first]) == [
        first
    ]  # not noticed, by contract: size and time are the same
    os.utime(path, ns=(0, first["mtime_ns"] + 1))
    (second,) = text.fingerprint([first])
    assert second["sha256"] == hashlib.sha256(b"X\tY\n").hexdigest()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_written_rows_are_byte_for_byte(tmp_path: Path, suffix: str) -> None:
    outs = (tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
    write_rows(zip(HOSTILE_LINES, reversed(HOSTILE_LINES), strict=True), outs)
    whole = b"".join(HOSTILE_LINES)
    assert decompressed(outs[0], len(whole)) == whole
    assert decompressed(outs[1], len(whole)) == b"".join(reversed(HOSTILE_LINES))
    assert sorted(tmp_path.iterdir()) == sorted(outs)


def test_a_failure_midway_leaves_the_old_files(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"old\n")

    def rows() -> Iterator[tuple[bytes, bytes]]:
        yield b"x\n", b"y\n"
        raise TextError("broken off")

    for outs in ((old, new), (new, old)):
        with pytest.raises(TextError, match="broken off"):
            write_rows(rows(), outs)
        assert [path.name for path in tmp_path.iterdir()] == ["old"]
        assert old.read_bytes() == b"old\n"


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize(("name", "number"), [("folder", errno.EISDIR), ("none/out", errno.ENOENT)])
def test_if_one_file_cannot_be_made_neither_is(
    tmp_path: Path, bad: int, name: str, number: int
) -> None:
    (tmp_path / "folder").mkdir()
    outs = [tmp_path / "good", tmp_path / "good"]
    outs[bad] = tmp_path / name
    with pytest.raises(OSError) as caught:
        write_rows([(b"x\n", b"y\n")], (outs[0], outs[1]))
    assert (caught.value.errno, caught.value.filename) == (number, str(outs[bad]))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert list((tmp_path / "folder").iterdir()) == []


def test_both_sides_into_one_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    outs = (tmp_path / "out", tmp_path / "sub" / ".." / "out")
    with pytest.raises(OutputError) as caught:
        write_rows([(b"x\n", b"y\n")], outs)
    assert str(caught.value) == (
        f"{outs[0]}: both sides would be written to this file; name two files"
    )


# 2 MiB fail while rows are written; 9 KiB only when buffers and compressors are flushed at the end.
@pytest.mark.parametrize("num_rows", [1, 256])
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("full", [0, 1])
def test_a_full_disk_names_the_file_and_leaves_neither(
    tmp_path: Path, small_disk: SmallDisk, full: int, suffix: str, num_rows: int
) -> None:
    disk = small_disk(4096)
    filler = disk / "filler"
    filler.write_bytes(bytes(4092 << 10))
    outs = [tmp_path / "out.en", tmp_path / "out.de"]
    outs[full] = disk / f"out{suffix}"
    line = random.Random(0).randbytes(9215).replace(b"\n", b" ") + b"\n"
    rows = [(line, line)] * num_rows
    with pytest.raises(OSError) as caught:
        write_rows(rows, (outs[0], outs[1]))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(outs[full]))
    assert list(disk.iterdir()) == [filler]
    assert list(tmp_path.iterdir()) == [disk]
    filler.unlink()
    write_rows(rows, (outs[0], outs[1]))
    assert decompressed(outs[full], len(line) * num_rows) == line * num_rows


def test_a_file_too_large_is_named(tmp_path: Path, file_size_limit: FileSizeLimit) -> None:
    outs = (tmp_path / "long", tmp_path / "short")
    rows = [(b"x" * 9999 + b"\n", b"y\n")] * 10
    with file_size_limit(65_536), pytest.raises(OSError) as caught:
        write_rows(rows, outs)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(outs[0]))
    assert list(tmp_path.iterdir()) == []
