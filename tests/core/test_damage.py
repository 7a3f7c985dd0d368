"""Corpus files that are damaged, or change while they are open: always an error, never a signal."""

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pycat._core import BatchPlan, BatchStream, IndexedFile, IndexedWriter, PairOrder, read_batch
from pycat.data.corpus import Corpus
from pycat.data.opening import open_corpus
from pycat.errors import CorpusError

NUM_SEQUENCES = 5000  # several pages of each file
LARGE = 2**19 + 8  # verified on the first use, by two threads where there are two cores
BORDER = LARGE // 2  # where the second thread's share begins
LENGTHS_AT = 26

Use = Callable[[IndexedFile], Any]


def ids(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def write(prefix: Path, num_sequences: int = NUM_SEQUENCES, *, token: int = 7) -> str:
    """Sequences of 1, 2, 3, 1, 2, 3, ... tokens."""
    lengths = (np.arange(num_sequences) % 3 + 1).astype(np.int32)
    with IndexedWriter(prefix, dtype="uint16") as writer:
        writer.append(np.full(lengths.sum(), token, np.int32), lengths)
    return str(prefix)


def stream_of(src: IndexedFile, tgt: IndexedFile, **options: Any) -> BatchStream:
    order = PairOrder(src, tgt, None, scratch_folder=".")
    return BatchStream(src, tgt, BatchPlan(order, batch_tokens=64, padded=False), **options)


def order(src: IndexedFile, tgt: IndexedFile) -> PairOrder:
    return PairOrder(src, tgt, None, scratch_folder=".")


USES: dict[str, Use] = {
    "lengths": lambda file: file.lengths(),
    "sequence": lambda file: file.sequence(3),
    "gather": lambda file: file.gather(ids(3, 1)),
    "verify": lambda file: file.verify(),
    "order": lambda file: order(file, file),
    "some": lambda file: PairOrder(file, file, ids(3, 1), scratch_folder="."),
    "packed": lambda file: read_batch(file, file, ids(3, 1)),
    "padded": lambda file: read_batch(file, file, ids(3, 1), padded=True),
    "stream": lambda file: stream_of(file, file).next(),
}
each_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return write(tmp_path / "corpus")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("large") / "corpus", LARGE)


def damage(source: str, target: Path, *changes: tuple[int, bytes]) -> str:
    """A copy of `source` with other bytes at some offsets of its index."""
    index = bytearray(Path(f"{source}.idx").read_bytes())
    for offset, replacement in changes:
        index[offset : offset + len(replacement)] = replacement
    Path(f"{target}.idx").write_bytes(index)
    Path(f"{target}.bin").symlink_to(f"{source}.bin")
    return str(target)


def length_at(sequence: int) -> int:
    return LENGTHS_AT + 4 * sequence


def pointer_at(sequence: int, num_sequences: int = LARGE) -> int:
    return LENGTHS_AT + 4 * num_sequences + 8 * sequence


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Start outside the repository: its sources would hide the installed package."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=100)


# Large indexes, which are verified on the first use


@each_use
def test_a_large_index_is_verified_before_it_is_read(large: str, tmp_path: Path, use: Use) -> None:
    file = IndexedFile(damage(large, tmp_path / "bad", (pointer_at(LARGE - 1), bytes(8))))
    message = rf"bad\.idx: pointer of sequence {LARGE - 1} is 0, expected "
    for _ in range(2):
        with pytest.raises(CorpusError, match=message):
            use(file)


@pytest.mark.parametrize("bad", [0, BORDER - 1, BORDER, BORDER + 1, LARGE - 1], ids=str)
@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (length_at, struct.pack("<i", 0), "length of sequence {} is 0, expected at least 1;"),
        (length_at, struct.pack("<i", -5), "length of sequence {} is -5, expected at least 1;"),
        (pointer_at, struct.pack("<q", -2), "pointer of sequence {} is -2, expected "),
        (pointer_at, struct.pack("<q", 2**62), f"pointer of sequence {{}} is {2**62}, expected "),
        (length_at, struct.pack("<i", 2**31 - 1), "sequence {} should end at byte "),
    ],
    ids=["empty", "negative length", "negative pointer", "pointer past the end", "length past"],
)
def test_the_first_bad_entry_is_named(
    large: str, tmp_path: Path, bad: int, at: Callable[[int], int], value: bytes, message: str
) -> None:
    later = ((length_at(i), bytes(4)) for i in range(bad + 1, min(bad + 3, LARGE)))
    file = IndexedFile(damage(large, tmp_path / "bad", (at(bad), value), *later))
    with pytest.raises(CorpusError, match=re.escape(message.format(bad))):
        file.verify()


def test_overlapping_and_exchanged_sequences_are_refused(large: str, tmp_path: Path) -> None:
    pointers = [struct.pack("<q", 4 * i) for i in range(LARGE)]  # 2, 4, 6, 2, 4, 6, ... bytes
    overlap = damage(large, tmp_path / "overlap", (pointer_at(5), struct.pack("<q", 14)))
    with pytest.raises(CorpusError, match="pointer of sequence 5 is 14, expected 18"):
        IndexedFile(overlap).lengths()
    exchanged = damage(
        large, tmp_path / "exchanged", (pointer_at(3), pointers[5]), (pointer_at(5), pointers[3])
    )
    with pytest.raises(CorpusError, match="pointer of sequence 3 is 20, expected 12"):
        IndexedFile(exchanged).lengths()


def test_an_index_is_verified_where_no_thread_can_be_made(large: str, tmp_path: Path) -> None:
    code = f"""
import resource, numpy as np
from pathlib import Path
from pycat._core import *
file = IndexedFile({large!r})
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + 2**22  # less than the stack of a thread
resource.setrlimit(resource.RLIMIT_AS, (most, most))
file.verify()
order = PairOrder(file, file, np.arange(9), scratch_folder=".")
stream = BatchStream(file, file, BatchPlan(order, batch_tokens=64, padded=False))
for _ in range(2):
    try:
        stream.next()
    except RuntimeError as error:
        print(error)
"""
    assert run(code, tmp_path).stdout == "Resource temporarily unavailable\n" * 2


# Megatron's documents

MEGATRON = (
    b"MMIDIDX\0\0"
    + struct.pack("<QBQQ", 1, 8, 3, 3)
    + struct.pack("<iiiqqq", 2, 1, 3, 0, 4, 6)
    + struct.pack("<qqq", 0, 1, 3)
)
DOCUMENTS_AT = len(MEGATRON) - 24


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (DOCUMENTS_AT, 1, "document 0 begins at sequence 1, expected the documents to rise"),
        (DOCUMENTS_AT + 8, -1, "document 1 begins at sequence -1, expected "),
        (DOCUMENTS_AT + 8, 4, "document 1 begins at sequence 4, expected .* from 0 to 3;"),
        (DOCUMENTS_AT + 16, 2, "document 2 begins at sequence 2, expected "),
        (DOCUMENTS_AT + 16, 0, "document 2 begins at sequence 0, expected "),
        (26, 0, "has 94 bytes, expected 62 for its 3 sequences; the file is damaged"),
        (26, 2, "has 94 bytes, expected 62"),
        (26, -1, "has 94 bytes, expected 62"),
        (26, 2**61 + 3, "has 94 bytes, expected 62"),  # 8 times as many overflow to the same size
        (18, 2**62 + 3, "says it holds 4611686018427387907 sequences, expected at most "),
    ],
)
def test_wrong_documents_are_refused(tmp_path: Path, offset: int, value: int, message: str) -> None:
    index = MEGATRON[:offset] + struct.pack("<q", value) + MEGATRON[offset + 8 :]
    (tmp_path / "bad.bin").write_bytes(bytes(12))
    (tmp_path / "bad.idx").write_bytes(MEGATRON)
    assert IndexedFile(tmp_path / "bad").layout == "megatron"
    (tmp_path / "bad.idx").write_bytes(index)
    with pytest.raises(CorpusError, match=rf"bad\.idx: {message}"):
        IndexedFile(tmp_path / "bad")


def test_a_layout_asked_for_must_be_the_one_there_is(prefix: str) -> None:
    with pytest.raises(CorpusError, match="in the layout asked for; it has the other layout"):
        IndexedFile(prefix, layout="megatron")
    with pytest.raises(ValueError, match="layout is 'other', expected 'fairseq' or 'megatron'"):
        IndexedFile(prefix, layout="other")


# Two sides that do not belong together


def test_sides_of_unequal_count_are_refused(tmp_path: Path) -> None:
    files = [IndexedFile(write(tmp_path / f"of{count}", count)) for count in (20, 30)]
    for src, tgt in (files, files[::-1]):
        message = (
            rf"^{tgt.prefix}: holds {len(tgt)} sequences, expected {len(src)} as in {src.prefix}; "
            "open two sides"
        )
        for use in (
            lambda src, tgt: order(src, tgt),
            lambda src, tgt: PairOrder(src, tgt, ids(1, 2), scratch_folder="."),
            lambda src, tgt: read_batch(src, tgt, ids(1, 2)),
            lambda src, tgt: BatchStream(
                src, tgt, BatchPlan(order(src, src), batch_tokens=9, padded=False)
            ),
        ):
            with pytest.raises(CorpusError, match=message):
                use(src, tgt)


def test_a_plan_reads_the_files_it_was_made_from(tmp_path: Path) -> None:
    src = IndexedFile(write(tmp_path / "src"))
    tgt = IndexedFile(write(tmp_path / "tgt"))
    plan = BatchPlan(order(src, tgt), batch_tokens=64, padded=False)
    assert BatchStream(IndexedFile(src.prefix), IndexedFile(tgt.prefix), plan).next() is not None
    shorter = IndexedFile(write(tmp_path / "shorter", 20))
    write(tmp_path / "tgt")
    replaced = IndexedFile(tmp_path / "tgt")
    for sides in ((tgt, src), (src, src), (shorter, shorter), (src, replaced)):
        with pytest.raises(CorpusError, match="the batches were planned from other files"):
            BatchStream(*sides, plan)


def test_arguments_are_checked(prefix: str, tmp_path: Path) -> None:
    file = IndexedFile(prefix)
    plan = BatchPlan(order(file, file), batch_tokens=64, padded=False)
    for nothing in (
        lambda none: read_batch(none, file, ids(0)),
        lambda none: read_batch(file, none, ids(0)),
        lambda none: BatchPlan(none, batch_tokens=1, padded=True),
        lambda none: BatchStream(none, file, plan),
        lambda none: BatchStream(file, none, plan),
        lambda none: BatchStream(file, file, none),
    ):
        with pytest.raises(TypeError, match="incompatible"):
            nothing(None)
    with pytest.raises(IndexError, match=r"ids\[1\] is 5000, expected 0 or more and below 5000"):
        PairOrder(file, file, ids(3, 5000), scratch_folder=".")
    with pytest.raises(ValueError, match="there are no pairs to batch"):
        BatchPlan(PairOrder(file, file, ids(), scratch_folder="."), batch_tokens=1, padded=False)
    with pytest.raises(ValueError, match=r"batch_tokens is 2147483648, expected at most 21474"):
        BatchPlan(order(file, file), batch_tokens=2**31, padded=False)
    for buffer in (
        np.empty(2**16, np.uint8)[::-1],
        np.empty(2**16 + 1, np.uint8)[1:],
        np.frombuffer(bytes(2**16), np.uint8),
    ):
        with pytest.raises(ValueError, match="a buffer is not writable, C-contiguous and aligned"):
            BatchStream(file, file, plan, buffers=[buffer])


@pytest.mark.parametrize("vocab_size", [8, 7, 1])
def test_ids_outside_the_vocabulary_are_refused(prefix: str, vocab_size: int) -> None:
    file = IndexedFile(prefix, vocab_size=vocab_size)
    for name in ("gather", "packed", "padded", "stream", "verify"):
        if vocab_size == 8:
            USES[name](file)
            continue
        message = rf"corpus\.bin: token 0 of sequence \d is 7, expected .* below {vocab_size}, the"
        with pytest.raises(CorpusError, match=message):
            USES[name](file)


def test_a_bad_token_deep_in_a_long_sequence_is_named(tmp_path: Path) -> None:
    for place in (0, 4095, 4096, 4097, 9999):
        tokens = np.full(10_000, 7, np.int32)
        tokens[place] = 500
        with IndexedWriter(tmp_path / "long", dtype="uint16") as writer:
            writer.append(tokens, np.array([10_000], np.int32))
        with pytest.raises(CorpusError, match=f"token {place} of sequence 0 is 500, expected"):
            IndexedFile(tmp_path / "long", vocab_size=500).verify()


# Files that change while they are open


def cut(file: Path) -> None:
    os.truncate(file, 1000)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def rewrite(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(4000)
        stream.write(b"\xff" * 1000)


def replace(file: Path) -> None:
    other = file.with_suffix(".other")
    other.write_bytes(file.read_bytes())
    other.rename(file)


CHANGES = {
    cut: r"has 1000 bytes, expected the \d+ it had when it was opened; put the whole file back",
    empty: r"has 0 bytes, expected the \d+ it had when it was opened; put the whole file back",
    rewrite: "was written to since it was opened; open it again",
    replace: "was replaced or removed since it was opened; open it again",
    Path.unlink: "was replaced or removed since it was opened; open it again",
}


@each_use
@pytest.mark.parametrize("suffix", ["idx", "bin"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_file_that_changes_is_refused(
    prefix: str, use: Use, suffix: str, change: Callable[[Path], None]
) -> None:
    file = IndexedFile(prefix)
    use(file)
    change(Path(f"{prefix}.{suffix}"))
    for _ in range(2):
        with pytest.raises(CorpusError, match=rf"corpus\.{suffix}: {CHANGES[change]}"):
            use(file)


@pytest.mark.parametrize("suffix", ["idx", "bin"])
@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_a_file_that_shrinks_ends_its_stream(prefix: str, suffix: str, num_threads: int) -> None:
    file = IndexedFile(prefix)
    stream = stream_of(file, file, num_threads=num_threads, prefetch=2)
    assert stream.next() is not None
    cut(Path(f"{prefix}.{suffix}"))
    for _ in range(5):  # batches read ahead are good
        try:
            stream.next()
        except CorpusError:
            break
    for _ in range(2):
        with pytest.raises(CorpusError, match=rf"corpus\.{suffix}: has 1000 bytes"):
            stream.next()


def test_views_of_a_file_that_shrinks_can_still_be_read(prefix: str) -> None:
    file = IndexedFile(prefix)
    lengths, last = file.lengths(), file.sequence(NUM_SEQUENCES - 1)
    expected = lengths.copy()
    cut(Path(f"{prefix}.idx"))
    cut(Path(f"{prefix}.bin"))
    assert lengths[:50].tolist() == expected[:50].tolist()
    assert not lengths[2000:].any()  # lost: zeros, in one piece to the end
    assert last.tolist() == [0, 0]
    with pytest.raises(CorpusError, match=r"corpus\.idx: has 1000 bytes"):
        file.lengths()


def test_a_file_cut_short_for_a_time_is_refused(prefix: str) -> None:
    index = Path(f"{prefix}.idx")
    content, status = index.read_bytes(), index.stat()
    file = IndexedFile(prefix)
    lengths = file.lengths()
    cut(index)
    assert lengths[-1] == 0
    with index.open("r+b") as stream:
        stream.write(content)
    os.utime(index, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CorpusError, match=r"corpus\.idx: could not be read in full: it was cut"):
        file.lengths()
    assert IndexedFile(prefix).lengths()[-1] == 2


def test_a_wrong_checksum_is_refused(toy_corpus: Corpus, tmp_path: Path) -> None:
    folder = shutil.copytree(toy_corpus.path, tmp_path / "copied")
    open_corpus(folder).verify()
    tokens = bytearray((folder / "tgt.bin").read_bytes())
    tokens[100] ^= 1  # another id of the vocabulary
    (folder / "tgt.bin").write_bytes(tokens)
    corpus = open_corpus(folder)
    message = r"tgt\.bin: bytes 0 to [\d,]+ do not have the checksum that tgt\.sums records"
    with pytest.raises(CorpusError, match=message):
        corpus.verify()


def test_a_folder_without_permission_is_told_apart(prefix: str) -> None:
    nobody = 65534
    code = f"""
import os
from pycat._core import IndexedFile
if os.geteuid() == 0:
    os.setuid({nobody})
try:
    IndexedFile({prefix!r})
except PermissionError as error:
    print(error.filename)
"""
    folder = Path(prefix).parent
    folder.chmod(0)
    try:
        done = run(code, Path("/"))
    finally:
        folder.chmod(0o700)
    assert done.stdout == f"{prefix}.idx\n", done.stderr


# A SIGBUS from memory that is not a corpus file's.

PROCESSES = """
import faulthandler, mmap, os, signal, numpy as np
from pathlib import Path
from pycat._core import IndexedFile
prefix = {prefix!r}
def foreign():
    path = Path(prefix + ".foreign")
    path.write_bytes(bytes(8192))
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 8192)
    os.truncate(path, 0)
    print("read", flush=True)
    mapped[5000]
def ours():
    file = IndexedFile(prefix)
    lengths = file.lengths()
    os.truncate(prefix + ".idx", 1000)
    assert lengths[-1] == 0
for number, steps in enumerate({steps!r}):
    child = os.fork()
    if child == 0:
        output = os.open(f"{{prefix}}.output{{number}}", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        exec(steps, globals())
        print("alive", flush=True)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run_each(prefix: str, steps: list[str]) -> list[tuple[int, str]]:
    """Exit code and output of a process for each of `steps`."""
    sources = [f"prefix += '{i}'; {line}" for i, line in enumerate(steps)]
    for i in range(len(steps)):
        write(Path(f"{prefix}{i}"))
    done = run(PROCESSES.format(prefix=prefix, steps=sources), Path(prefix).parent)
    assert done.returncode == 0, done.stderr
    outputs = (Path(f"{prefix}.output{i}").read_text() for i in range(len(steps)))
    return list(zip(map(int, done.stdout.split()), outputs, strict=True))


def test_a_foreign_bus_error_ends_the_process_as_ever(prefix: str) -> None:
    quiet = [
        "IndexedFile(prefix); foreign()",
        "ours(); foreign()",
        "IndexedFile(prefix); print('read', flush=True); os.kill(os.getpid(), signal.SIGBUS)",
    ]
    dumping = [
        "faulthandler.enable(); IndexedFile(prefix); foreign()",
        "faulthandler.enable(); ours(); foreign()",
        "IndexedFile(prefix); faulthandler.enable(); foreign()",
        "IndexedFile(prefix); faulthandler.enable(); IndexedFile(prefix); foreign()",
        "f = IndexedFile(prefix); faulthandler.enable(); f.lengths(); ours(); foreign()",
    ]
    results = run_each(prefix, quiet + dumping)
    for i, (exit_code, output) in enumerate(results):
        assert exit_code == -signal.SIGBUS, output
        assert output.startswith("read\n")
        assert output.count("Fatal Python error: Bus error") == (i >= len(quiet))


def test_a_bus_error_of_ours_is_survived_whoever_came_between(prefix: str) -> None:
    results = run_each(
        prefix,
        [
            "file = IndexedFile(prefix); faulthandler.enable(); file.gather(np.arange(2)); ours()",
            "signal.signal(signal.SIGBUS, signal.SIG_IGN); ours()",
            "signal.signal(signal.SIGBUS, signal.SIG_IGN); IndexedFile(prefix); "
            "os.kill(os.getpid(), signal.SIGBUS)",
        ],
    )
    assert results == [(0, "alive\n")] * 3
