"""The corpus reader and writer: bytes, order, and every kind of damage refused."""

import errno
import os
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pycat._core import IndexedFile, IndexedWriter
from pycat.errors import CorpusError

SEQUENCES = [[4, 5, 2], [6, 2], [2], [7, 8, 9, 10, 2]]

# SEQUENCES as uint16, byte by byte.
GOLDEN_BIN = bytes.fromhex("0400 0500 0200 0600 0200 0200 0700 0800 0900 0a00 0200")
GOLDEN_IDX = bytes.fromhex(
    "4d4d4944494458 0000"  # MMIDIDX and two zeros
    "0100000000000000"  # version 1
    "08"  # uint16
    "0400000000000000"  # four sequences
    "03000000 02000000 01000000 05000000"  # lengths in tokens
    "0000000000000000 0600000000000000 0a00000000000000 0c00000000000000"  # pointers in bytes
)
VERSION_AT, TYPE_AT, COUNT_AT, LENGTHS_AT, POINTERS_AT = 9, 17, 18, 26, 42


def int32(values: list[int]) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


def ids(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def write(prefix: Path, sequences: list[list[int]], dtype: str) -> None:
    with IndexedWriter(str(prefix), dtype=dtype) as writer:
        tokens = [token for sequence in sequences for token in sequence]
        writer.append(int32(tokens), int32([len(sequence) for sequence in sequences]))


def write_bytes(prefix: Path, idx: bytes, bin_: bytes) -> str:
    Path(f"{prefix}.idx").write_bytes(idx)
    Path(f"{prefix}.bin").write_bytes(bin_)
    return str(prefix)


def patched(offset: int, replacement: bytes) -> bytes:
    return GOLDEN_IDX[:offset] + replacement + GOLDEN_IDX[offset + len(replacement) :]


@pytest.fixture
def golden(tmp_path: Path) -> str:
    return write_bytes(tmp_path / "golden", GOLDEN_IDX, GOLDEN_BIN)


# Reading


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_round_trip(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    max_token = min(np.iinfo(dtype).max, 2**31 - 1)
    lengths = rng.integers(1, 200, size=3000, dtype=np.int32)
    tokens = rng.integers(0, max_token, size=lengths.sum(), dtype=np.int32, endpoint=True)
    cuts = np.concatenate([[0], lengths.cumsum()])
    prefix = tmp_path / "corpus"
    with IndexedWriter(str(prefix), dtype=dtype) as writer:
        for begin in range(0, 3000, 700):  # the last part is shorter
            end = min(begin + 700, 3000)
            writer.append(tokens[cuts[begin] : cuts[end]], lengths[begin:end])

    file = IndexedFile(str(prefix))
    assert len(file) == 3000
    assert file.num_tokens == tokens.size
    assert file.dtype == dtype
    assert file.prefix == str(prefix)
    np.testing.assert_array_equal(file.lengths(), lengths)
    assert file.lengths().dtype == np.int32
    np.testing.assert_array_equal(np.fromfile(f"{prefix}.bin", dtype), tokens)

    order = rng.permutation(3000)
    packed, cu_seqlens = file.gather(order)
    expected = [tokens[cuts[i] : cuts[i + 1]] for i in order]
    np.testing.assert_array_equal(packed, np.concatenate(expected))
    np.testing.assert_array_equal(cu_seqlens, np.concatenate([[0], lengths[order].cumsum()]))
    assert packed.dtype == cu_seqlens.dtype == np.int32


def test_writes_golden_bytes(tmp_path: Path) -> None:
    prefix = tmp_path / "corpus"
    write(prefix, SEQUENCES, "uint16")
    assert Path(f"{prefix}.bin").read_bytes() == GOLDEN_BIN
    assert Path(f"{prefix}.idx").read_bytes() == GOLDEN_IDX
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.bin", "corpus.idx"]


def test_gather_follows_ids(golden: str) -> None:
    file = IndexedFile(golden, vocab_size=11)
    tokens, cu_seqlens = file.gather(ids(3, 0, 3, 2))
    assert tokens.tolist() == [7, 8, 9, 10, 2, 4, 5, 2, 7, 8, 9, 10, 2, 2]
    assert cu_seqlens.tolist() == [0, 5, 8, 13, 14]


def test_gather_nothing(golden: str) -> None:
    tokens, cu_seqlens = IndexedFile(golden).gather(ids())
    assert tokens.shape == (0,)
    assert cu_seqlens.tolist() == [0]


def test_lengths_are_a_read_only_view_that_outlives_the_file(golden: str) -> None:
    lengths = IndexedFile(golden).lengths()
    assert not lengths.flags.writeable
    assert lengths.tolist() == IndexedFile(golden).lengths().tolist()


@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        (1, "uint8"),
        (2, "int8"),
        (3, "int16"),
        (4, "int32"),
        (5, "int64"),
        (8, "uint16"),
        (9, "uint32"),
        (10, "uint64"),
    ],
)
def test_reads_every_integer_type(tmp_path: Path, code: int, dtype: str) -> None:
    largest = min(np.iinfo(dtype).max, 2**31 - 1)
    tokens = np.array([0, 5, largest], dtype)
    idx = b"MMIDIDX\0\0" + struct.pack("<QBQiiqq", 1, code, 2, 1, 2, 0, tokens.itemsize)
    file = IndexedFile(write_bytes(tmp_path / "corpus", idx, tokens.tobytes()))
    assert file.dtype == dtype
    assert file.gather(ids(1, 0))[0].tolist() == [5, largest, 0]

    if np.iinfo(dtype).min < 0:
        tokens[2] = -1
        message = r"token 1 of sequence 1 is -1, expected 0 or more"
    elif tokens.itemsize >= 4:
        tokens[2] = 2**31
        message = r"token 1 of sequence 1 is 2147483648, expected .* below 2147483648"
    else:
        return
    file = IndexedFile(write_bytes(tmp_path / "bad", idx, tokens.tobytes()))
    with pytest.raises(CorpusError, match=message):
        file.gather(ids(1, 0))


def test_token_outside_vocabulary(golden: str) -> None:
    file = IndexedFile(golden, vocab_size=10)
    assert file.gather(ids(0, 1, 2))[1].tolist() == [0, 3, 5, 6]
    message = r"golden\.bin: token 3 of sequence 3 is 10, expected .* below 10, the vocab_size"
    with pytest.raises(CorpusError, match=message):
        file.gather(ids(0, 3))


@pytest.mark.parametrize("bad", [4, -1, 2**63 - 1, -(2**63)])
def test_id_out_of_range(golden: str, bad: int) -> None:
    with pytest.raises(IndexError, match=rf"ids\[1\] is {bad}, expected .* below 4"):
        IndexedFile(golden).gather(ids(0, bad))


def test_gather_too_much(tmp_path: Path) -> None:
    length = 2**20
    write_bytes(
        tmp_path / "corpus",
        b"MMIDIDX\0\0" + struct.pack("<QBQiq", 1, 8, 1, length, 0),
        bytes(2 * length),
    )
    file = IndexedFile(str(tmp_path / "corpus"))
    message = r"ids\[2047\] hold 2147483648 tokens.*fewer ids"
    with pytest.raises(ValueError, match=message):
        file.gather(np.zeros(2048, np.int64))


def test_argument_types(golden: str) -> None:
    file = IndexedFile(golden)
    for wrong in ([0], ids(0).astype(np.int32), ids(0).astype(">i8"), ids(0, 1, 2)[::2]):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            file.gather(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ids has 2 dimensions, expected 1"):
        file.gather(np.zeros((1, 1), np.int64))
    with pytest.raises(ValueError, match="ids is not aligned"):
        file.gather(np.frombuffer(bytes(17), np.int64, offset=1))
    with pytest.raises(ValueError, match="vocab_size is 0, expected at least 1"):
        IndexedFile(golden, vocab_size=0)


def test_gather_on_many_threads(golden: str) -> None:
    file = IndexedFile(golden)
    results: list[list[int]] = []

    def gather() -> None:
        for _ in range(200):
            results.append(file.gather(ids(1, 3))[0].tolist())

    threads = [threading.Thread(target=gather) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[6, 2, 7, 8, 9, 10, 2]] * 800


def test_file_names_need_not_be_utf8(tmp_path: Path) -> None:
    prefix = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    write(Path(prefix), SEQUENCES, "uint16")
    assert IndexedFile(prefix).prefix == prefix
    with pytest.raises(CorpusError, match=re.escape(f"{prefix}x.idx: does not exist")):
        IndexedFile(prefix + "x")
    with pytest.raises(ValueError, match=re.escape(f"{prefix}: no sequences")):
        IndexedWriter(prefix, dtype="int32").close()


# Damage


def only_messages(parameter: object) -> str:
    """Test ids without the bytes."""
    return parameter if isinstance(parameter, str) else "bytes"


MEGATRON = GOLDEN_IDX[:LENGTHS_AT] + struct.pack("<Q", 2) + GOLDEN_IDX[LENGTHS_AT:]
MEGATRON += struct.pack("<qq", 0, 4)


@pytest.mark.parametrize(
    ("idx", "message"),
    [
        (b"", r"has 0 bytes, expected at least the header's 26"),
        (GOLDEN_IDX[:25], r"has 25 bytes, expected at least the header's 26"),
        (GOLDEN_IDX[:-1], r"has 73 bytes, expected 74 for its 4 sequences"),
        (GOLDEN_IDX[:-12], r"has 62 bytes, expected 74"),
        (GOLDEN_IDX + b"\0", r"has 75 bytes, expected 74"),
        (patched(0, b"X"), r"does not begin with the magic MMIDIDX"),
        (patched(8, b"1"), r"does not begin with the magic MMIDIDX"),
        (patched(0, b"TNTIDX\0\0"), r"is a TNTIDX file, expected MMIDIDX"),
        (patched(0, b"HUFFIDX\0"), r"is a HUFFIDX file, expected MMIDIDX"),
        (patched(VERSION_AT, b"\2"), r"has version 2, expected 1"),
        (patched(VERSION_AT + 7, b"\1"), r"has version 72057594037927937, expected 1"),
        (patched(TYPE_AT, b"\0"), r"has dtype code 0, expected an integer type"),
        (patched(TYPE_AT, b"\6"), r"has dtype code 6, expected an integer type"),
        (patched(TYPE_AT, b"\7"), r"has dtype code 7, expected an integer type"),
        (patched(TYPE_AT, b"\x0b"), r"has dtype code 11, expected an integer type"),
        (patched(TYPE_AT, b"\1"), r"pointer of sequence 1 is 6, expected 3"),
        (patched(TYPE_AT, b"\4"), r"pointer of sequence 1 is 6, expected 12"),
        (patched(COUNT_AT, bytes(8)), r"holds no sequences"),
        (patched(COUNT_AT, b"\3"), r"has 74 bytes, expected 62 for its 3 sequences"),
        (patched(COUNT_AT, b"\5"), r"has 74 bytes, expected 86 for its 5 sequences"),
        (patched(COUNT_AT + 7, b"\xff"), r"says it holds 18374686479671623684 sequences"),
        (patched(LENGTHS_AT, bytes(4)), r"length of sequence 0 is 0, expected at least 1"),
        (patched(LENGTHS_AT + 4, b"\xff" * 4), r"length of sequence 1 is -1, expected at least 1"),
        (patched(LENGTHS_AT + 4, b"\3"), r"pointer of sequence 2 is 10, expected 12"),
        (patched(POINTERS_AT, b"\2"), r"pointer of sequence 0 is 2, expected 0"),
        (patched(POINTERS_AT + 8, b"\xff" * 8), r"pointer of sequence 1 is -1, expected 6"),
        (patched(POINTERS_AT + 16, b"\x0c"), r"pointer of sequence 2 is 12, expected 10"),
        (MEGATRON + bytes(3), r"has 101 bytes, expected 74"),
    ],
    ids=only_messages,
)
def test_damaged_index(tmp_path: Path, idx: bytes, message: str) -> None:
    prefix = write_bytes(tmp_path / "broken", idx, GOLDEN_BIN)
    where = re.escape(f"{prefix}.idx")
    # An empty sequence is no damage: some writers leave the end-of-sentence token out.
    remedy = "append-eod" if "is 0, expected" in message else "tokenize"
    with pytest.raises(CorpusError, match=rf"^{where}: {message}.*; .*{remedy}"):
        IndexedFile(prefix)


@pytest.mark.parametrize(
    ("idx", "bin_", "message"),
    [
        (GOLDEN_IDX, b"", r"is empty"),
        (GOLDEN_IDX, GOLDEN_BIN[:-1], r"sequence 3 should end at byte 22 but the file ends at 21"),
        (GOLDEN_IDX, GOLDEN_BIN[:9], r"sequence 1 should end at byte 10 but the file ends at 9"),
        (GOLDEN_IDX, GOLDEN_BIN + b"\0\0", r"has 24 bytes, expected 22 \(the sum of all lengths\)"),
        (patched(LENGTHS_AT + 12, b"\4"), GOLDEN_BIN, r"has 22 bytes, expected 20 \(the sum"),
        (
            patched(LENGTHS_AT + 12, b"\xff\xff\xff\x7f"),
            GOLDEN_BIN,
            r"sequence 3 should end at byte 4294967306 but the file ends at 22",
        ),
    ],
    ids=only_messages,
)
def test_damaged_tokens(tmp_path: Path, idx: bytes, bin_: bytes, message: str) -> None:
    prefix = write_bytes(tmp_path / "broken", idx, bin_)
    where = re.escape(f"{prefix}.bin")
    with pytest.raises(CorpusError, match=rf"^{where}: {message}.*; .*rebuild"):
        IndexedFile(prefix)


def test_index_rewritten_in_place(golden: str) -> None:
    file = IndexedFile(golden)
    with Path(f"{golden}.idx").open("r+b") as stream:
        stream.seek(LENGTHS_AT + 4)
        stream.write(struct.pack("<i", 1000))
    with pytest.raises(CorpusError, match=r"golden\.idx: was written to since it was opened; open"):
        file.gather(ids(1))


@pytest.mark.parametrize("modes", [b"", bytes(4)], ids=["text", "multimodal"])
@pytest.mark.parametrize("layout", [None, "megatron"])
def test_the_megatron_layout_is_recognised(golden: str, modes: bytes, layout: str | None) -> None:
    Path(f"{golden}.idx").write_bytes(MEGATRON + modes)
    file = IndexedFile(golden, layout=layout)
    assert file.layout == "megatron"
    assert file.gather(ids(0, 1, 2, 3))[0].tolist() == list(chain.from_iterable(SEQUENCES))
    with pytest.raises(CorpusError, match=r"asked for; it has the other layout"):
        IndexedFile(golden, layout="fairseq")


def test_missing_files(golden: str) -> None:
    with pytest.raises(CorpusError, match=r"golden\.idx\.idx: does not exist; give the path with"):
        IndexedFile(f"{golden}.idx")
    Path(f"{golden}.bin").unlink()
    with pytest.raises(CorpusError, match=r"golden\.bin: does not exist; .*pycat tokenize"):
        IndexedFile(golden)


def test_not_a_regular_file(golden: str) -> None:
    Path(f"{golden}.bin").unlink()
    os.mkfifo(f"{golden}.bin")
    with pytest.raises(CorpusError, match=r"golden\.bin: is not a regular file"):
        IndexedFile(golden)


def test_unreadable_file(golden: str) -> None:
    Path(f"{golden}.idx").chmod(0)
    if os.access(f"{golden}.idx", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(PermissionError) as caught:
        IndexedFile(golden)
    assert caught.value.filename == f"{golden}.idx"


# Writing


def test_replaces_existing_files(tmp_path: Path) -> None:
    prefix = tmp_path / "corpus"
    write(prefix, [[1], [2]], "int32")
    before = IndexedFile(str(prefix))
    write(prefix, SEQUENCES, "uint16")
    with pytest.raises(CorpusError, match=r"corpus\.\w+: was replaced or removed since it was"):
        before.gather(ids(1))
    assert Path(f"{prefix}.idx").read_bytes() == GOLDEN_IDX


def test_writers_of_one_prefix_do_not_mix(tmp_path: Path) -> None:
    prefix = tmp_path / "corpus"
    first = IndexedWriter(prefix, dtype="int32")
    write(prefix, SEQUENCES, "uint16")
    first.append(int32([7, 8]), int32([1, 1]))
    first.close()
    assert IndexedFile(prefix).gather(ids(0, 1))[0].tolist() == [7, 8]
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_appears_before_close(tmp_path: Path) -> None:
    writer = IndexedWriter(str(tmp_path / "corpus"), dtype="int32")
    writer.append(int32([1]), int32([1]))
    assert not list(tmp_path.glob("*.idx")) + list(tmp_path.glob("*.bin"))
    writer.close()
    writer.close()
    writer.abort()  # after close() it removes nothing
    assert len(IndexedFile(str(tmp_path / "corpus"))) == 1
    with pytest.raises(ValueError, match=r"append\(\) after close\(\)"):
        writer.append(int32([1]), int32([1]))


@pytest.mark.parametrize("how", ["abort", "delete", "exception"])
def test_abandoned_writer_leaves_nothing(tmp_path: Path, how: str) -> None:
    prefix = tmp_path / "corpus"
    write(prefix, SEQUENCES, "uint16")
    writer = IndexedWriter(str(prefix), dtype="int32")
    writer.append(int32([1]), int32([1]))
    assert len(list(tmp_path.iterdir())) == 2  # what is written has no name yet
    if how == "abort":
        writer.abort()
        writer.close()  # an aborted writer has nothing to publish
    elif how == "delete":
        del writer
    else:
        with pytest.raises(KeyError), writer:
            raise KeyError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.bin", "corpus.idx"]
    assert Path(f"{prefix}.bin").read_bytes() == GOLDEN_BIN
    assert Path(f"{prefix}.idx").read_bytes() == GOLDEN_IDX


@pytest.mark.parametrize(
    ("dtype", "tokens", "lengths", "message"),
    [
        ("uint16", [1, 2, 65536], [1, 2], r"tokens\[2\] \(sequence 1, token 1\) is 65536, .*65535"),
        ("uint16", [1, -1], [2], r"tokens\[1\] \(sequence 0, token 1\) is -1, expected 0\.\.65535"),
        (
            "int32",
            [-5],
            [1],
            r"tokens\[0\] \(sequence 0, token 0\) is -5, expected 0\.\.2147483647",
        ),
        ("int32", [1, 2], [2, 0], r"lengths\[1\] is 0, expected at least 1"),
        ("int32", [1, 2], [-1, 3], r"lengths\[0\] is -1, expected at least 1"),
        ("int32", [1, 2, 3], [1, 1], r"lengths sum to 2, expected 3, the number of tokens"),
        ("int32", [1], [1, 2**31 - 1], r"lengths sum to 2147483648, expected 1"),
    ],
)
def test_refused_append(
    tmp_path: Path, dtype: str, tokens: list[int], lengths: list[int], message: str
) -> None:
    writer = IndexedWriter(str(tmp_path / "corpus"), dtype=dtype)
    writer.append(int32([1]), int32([1]))
    with pytest.raises(ValueError, match=message):
        writer.append(int32(tokens), int32(lengths))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"corpus: append\(\) after .* a failure"):
        writer.append(int32([1]), int32([1]))
    with pytest.raises(ValueError, match=r"corpus: close\(\) after a failure, nothing was written"):
        writer.close()


def test_swallowed_failure_is_not_a_success(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="after a failure"),
        IndexedWriter(str(tmp_path / "corpus"), dtype="int32") as writer,
        pytest.raises(ValueError, match="lengths sum"),
    ):
        writer.append(int32([1]), int32([2]))


def test_writer_needs_a_sequence(tmp_path: Path) -> None:
    writer = IndexedWriter(str(tmp_path / "corpus"), dtype="int32")
    writer.append(int32([]), int32([]))
    with pytest.raises(ValueError, match="no sequences were appended, expected at least one"):
        writer.close()
    assert not list(tmp_path.iterdir())


def test_writer_argument_types(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype is 'float32', expected 'uint16' or 'int32'"):
        IndexedWriter(str(tmp_path / "corpus"), dtype="float32")
    assert not list(tmp_path.iterdir())
    with IndexedWriter(str(tmp_path / "corpus"), dtype="int32") as writer:
        for tokens, lengths in [(ids(1), int32([1])), (int32([1]), ids(1))]:
            with pytest.raises(TypeError, match="incompatible function arguments"):
                writer.append(tokens, lengths)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="tokens has 2 dimensions, expected 1"):
            writer.append(np.zeros((1, 1), np.int32), int32([1]))
        writer.append(int32([1]), int32([1]))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        IndexedWriter(str(tmp_path / "none" / "corpus"), dtype="int32")
    assert caught.value.filename == str(tmp_path / "none" / "corpus.bin")


def test_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(PermissionError):
        IndexedWriter(str(tmp_path / "corpus"), dtype="int32")


def test_target_that_cannot_be_replaced(tmp_path: Path) -> None:
    write(tmp_path / "corpus", SEQUENCES, "uint16")
    Path(tmp_path / "corpus.idx").unlink()
    Path(tmp_path / "corpus.idx").mkdir()
    with pytest.raises(OSError) as caught:
        write(tmp_path / "corpus", [[1]], "uint16")
    assert caught.value.errno == errno.EISDIR
    assert caught.value.filename == str(tmp_path / "corpus.idx")
    assert Path(tmp_path / "corpus.bin").read_bytes() == GOLDEN_BIN
    assert len(list(tmp_path.iterdir())) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("fails_in", ["append", "close"])
def test_full_disk(small_disk: Path, fails_in: str) -> None:
    write(small_disk / "corpus", SEQUENCES, "uint16")
    length = 400_000 if fails_in == "append" else 1  # one token a sequence: the index is larger
    with (
        pytest.raises(OSError) as caught,
        IndexedWriter(str(small_disk / "corpus"), dtype="int32") as writer,
    ):
        if fails_in == "append":
            for _ in range(2):
                writer.append(np.ones(length, np.int32), int32([length]))
        writer.append(np.ones(150_000, np.int32), np.ones(150_000, np.int32))
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value.filename).startswith(str(small_disk / "corpus."))
    assert sorted(p.name for p in small_disk.iterdir()) == ["corpus.bin", "corpus.idx"]
    assert Path(small_disk / "corpus.bin").read_bytes() == GOLDEN_BIN
    assert IndexedFile(str(small_disk / "corpus")).num_tokens == 11


@pytest.mark.parametrize("num_appends", [1, 30])  # fails in close(), fails in append()
def test_file_size_limit(tmp_path: Path, num_appends: int) -> None:
    write(tmp_path / "corpus", SEQUENCES, "uint16")
    # A process of its own: the limit would hold for every later test.
    code = f"""
import errno, resource, numpy as np
from pycat._core import IndexedWriter
resource.setrlimit(resource.RLIMIT_FSIZE, ({2**19}, {2**19}))
writer = IndexedWriter({str(tmp_path / "corpus")!r}, dtype="uint16")
try:
    for _ in range({num_appends}):
        writer.append(np.ones(100_000, np.int32), np.ones(100_000, np.int32))
    assert {num_appends} == 1, "an append should have failed"
    writer.close()
except OSError as error:
    assert error.errno == errno.EFBIG, error
    assert error.filename.startswith({str(tmp_path / "corpus.")!r}), error
else:
    raise AssertionError("no write failed")
"""
    # Outside the repository: its sources would hide the installed package.
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.bin", "corpus.idx"]
    assert Path(tmp_path / "corpus.bin").read_bytes() == GOLDEN_BIN
    assert Path(tmp_path / "corpus.idx").read_bytes() == GOLDEN_IDX
