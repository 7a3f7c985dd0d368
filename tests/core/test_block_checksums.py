"""Checksums of blocks of token files: their values, and that readers compare them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pycat._core import BLOCK_BYTES, IndexedFile, IndexedWriter, block_checksums
from pycat.errors import CorpusError

MASK = 2**64 - 1


def mixed(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def checksum(block: bytes) -> int:
    """The definition in csrc/corpus/block_checksums.h, in numpy."""
    rows = np.frombuffer(block + bytes(-len(block) % 256), "<u4").reshape(-1, 64)
    lanes = np.array([mixed(i + 1) & 0xFFFFFFFF for i in range(64)], np.uint32)
    for row in rows:
        lanes = (lanes ^ row) * np.uint32(0x9E3779B1)
        lanes = (lanes << np.uint32(15)) | (lanes >> np.uint32(17))
    state = 0
    for number in (len(block), *lanes.tolist()):
        state = mixed((state + 0x9E3779B97F4A7C15) & MASK) ^ number
    return mixed(state)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, BLOCK_BYTES, BLOCK_BYTES + 2])
def test_checksums_are_those_of_the_definition(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    (tmp_path / "file").write_bytes(content)
    blocks = [content[at : at + BLOCK_BYTES] for at in range(0, size, BLOCK_BYTES)]
    assert block_checksums(tmp_path / "file").tolist() == [checksum(block) for block in blocks]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """40 sequences of 4,000 tokens: 320,000 bytes, five blocks."""
    prefix = tmp_path / "src"
    tokens = np.random.default_rng(1).integers(0, 1000, 160_000, dtype=np.int32)
    with IndexedWriter(prefix, dtype="uint16") as writer:
        writer.append(tokens, np.full(40, 4000, np.int32))
    block_checksums(tmp_path / "src.bin").tofile(tmp_path / "src.sums")
    return prefix


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def ids(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def test_a_block_is_compared_before_a_token_of_it_is_read(prefix: Path, tmp_path: Path) -> None:
    flip(tmp_path / "src.bin", 3 * BLOCK_BYTES)
    file = IndexedFile(prefix, checksums=tmp_path / "src.sums")
    # Sequence i has the bytes from 8,000 i; block 3 begins within sequence 24.
    assert len(file.sequence(0)) == len(file.sequence(23)) == 4000
    assert len(file.gather(ids(1, 2, 23, 33))[0]) == 16_000
    message = (
        rf"^{tmp_path}/src\.bin: bytes 196608 to 262143 do not have the checksum that src\.sums "
        r"records of them; one of the two files is damaged: .*'pycat tokenize' again with --overw"
    )
    for read in (
        lambda: file.sequence(24),
        lambda: file.sequence(32),
        lambda: file.gather(ids(0, 28)),
        file.verify,
    ):
        with pytest.raises(CorpusError, match=message):
            read()


@pytest.mark.parametrize("at", range(0, 320_000, 32_123))
def test_every_flipped_bit_is_found(prefix: Path, tmp_path: Path, at: int) -> None:
    IndexedFile(prefix, checksums=tmp_path / "src.sums").verify()
    IndexedFile(prefix).verify()
    flip(tmp_path / "src.bin", at)
    file = IndexedFile(prefix, checksums=tmp_path / "src.sums")
    with pytest.raises(CorpusError, match="do not have the checksum"):
        file.gather(np.arange(40))


def test_checksums_of_another_file_are_refused(prefix: Path, tmp_path: Path) -> None:
    sums = tmp_path / "src.sums"
    flip(sums, 8)
    with pytest.raises(CorpusError, match="bytes 65536 to 131071 do not have the checksum"):
        IndexedFile(prefix, checksums=sums).verify()
    sums.write_bytes(sums.read_bytes()[:-1])
    with pytest.raises(CorpusError, match=r"src\.sums: has 39 bytes, expected 40, 8 for each blo"):
        IndexedFile(prefix, checksums=sums)
    sums.unlink()
    with pytest.raises(CorpusError, match=r"src\.sums: does not exist; put it back, or delete"):
        IndexedFile(prefix, checksums=sums)
