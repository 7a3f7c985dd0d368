"""Text files as people have them: plain, or compressed, which their first bytes tell.

gzip (several members too, and padded with zeros), zstd, xz, bzip2 and LZ4 are read, whatever the
file is called, and written by the file's suffix. Archives, UTF-16 and pipes are refused by name.
"""

import bz2
import codecs
import io
import lzma
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from pycat.errors import OutputError, TextError

_BLOCK_BYTES = 1 << 20

# Suffixes of the files that are written compressed, and of those that are never lines of text.
COMPRESSED = {
    ".gz": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".xz": "xz",
    ".bz2": "bz2",
    ".lz4": "lz4",
}
_NOT_WRITTEN = (
    *(".zip", ".7z", ".rar", ".tar", ".tgz", ".z", ".br", ".sz", ".lz", ".lzma"),
    *(".parquet", ".arrow", ".feather", ".tmx", ".xlf", ".xliff", ".xlsx", ".ods"),
)

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bz2",
    b"\x04\x22\x4d\x18": "lz4",
}
_REFUSED = {
    b"PK\x03\x04": "a zip archive; unpack it (unzip), or give one of OPUS as --tsv (tsv)",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it (7z x)",
    b"Rar!": "a rar archive; unpack it (unrar x)",
    b"\x1f\x9d": "a file of compress; unpack it (uncompress)",
    b"LZIP": "a file of lzip; unpack it (lzip -d)",
    b"\x5d\x00\x00": "a file of LZMA; unpack it (xz -d)",
    b"\xff\x06\x00\x00sNaPpY": "a file of snappy; unpack it (snzip -d)",
    b"PAR1": "a Parquet file; give it as --tsv, unpacked, with --columns (tsv, columns)",
    b"\xff\xfe\x00\x00": "UTF-32; convert it: iconv -f UTF-32 -t UTF-8",
    b"\x00\x00\xfe\xff": "UTF-32; convert it: iconv -f UTF-32 -t UTF-8",
    b"\xff\xfe": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
}
_HEAD_BYTES = 512


def check_regular(path: Path) -> None:
    """Refuse what is no file that can be read more than once.

    Raises:
        TextError: says what it is.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        raise TextError(f"{path}: expected a text file, found nothing; check the path") from None
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise TextError(f"{path}: expected a text file, found a folder; check the path")
    kind = "a pipe" if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else "a device"
    raise TextError(
        f"{path}: expected a text file, found {kind}, which can be read once; text is read several "
        "times (to tokenize, to measure, to write what is kept): write it to a file first"
    )


@contextmanager
def opened_text(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """Open a file: its text, decompressed, and a function that tells the place in the file.

    Raises:
        TextError: it cannot be opened, or is of a kind that is refused.
    """
    try:
        disk = io.FileIO(path)
    except OSError as error:
        raise TextError(f"{path}: cannot be opened ({error}); check the path") from None
    with disk:
        kind = _compression(path, disk.read(_HEAD_BYTES))
        disk.seek(0)
        place: Callable[[], int] = disk.tell
        if kind in ("gzip", "xz", "bz2"):
            raw: Any = _Decompressed(disk, kind)
        else:
            # pyarrow refuses truncated streams and reads every frame of a concatenated one.
            source = pa.OSFile(str(path))
            place = source.tell
            raw = source if kind is None else pa.CompressedInputStream(source, kind)
        with raw:
            yield cast(BinaryIO, io.BufferedReader(raw, _BLOCK_BYTES)), place


def refuse_binary(path: Path, head: bytes) -> None:
    """Refuse text that begins as no text in UTF-8 does.

    Raises:
        TextError: names what the file is, and what makes text of it.
    """
    for magic, kind in _REFUSED.items():
        if head.startswith(magic):
            raise TextError(f"{path}: expected text in UTF-8, found {kind}")
    if head[257:262] == b"ustar":
        raise TextError(f"{path}: expected text in UTF-8, found a tar archive; unpack it (tar -x)")
    head = head[:_HEAD_BYTES]
    if len(head) > 3 and 4 * head.count(0) > len(head):
        order = "LE" if head[1::2].count(0) > head[::2].count(0) else "BE"
        raise TextError(
            f"{path}: expected text in UTF-8, found a zero byte beside each letter, as in UTF-16; "
            f"convert it: iconv -f UTF-16{order} -t UTF-8"
        )


def compressing(file: io.RawIOBase, out: Path) -> Any:
    """A stream that compresses into `file` as the suffix of `out` says; closing leaves `file` open.

    Raises:
        OutputError: the suffix is that of a file that never is lines of text.
    """
    suffix = out.suffix.lower()
    if suffix in _NOT_WRITTEN:
        raise OutputError(
            f"{out}: {suffix} files are not written of lines of text; name plain text, or one of "
            f"{', '.join(COMPRESSED)}"
        )
    compression = COMPRESSED.get(suffix)
    stream = _LeftOpen(file)
    if compression is None:
        return stream
    if compression == "xz":
        return lzma.open(cast(BinaryIO, stream), "wb")
    return pa.CompressedOutputStream(stream, compression)


def compression_suffix(path: Path) -> str:
    """The suffix of a compressed file, else ""."""
    return path.suffix if path.suffix.lower() in COMPRESSED else ""


class _Decompressed(io.RawIOBase):
    """The text of all members of a compressed file; zeros between and after them are padding."""

    def __init__(self, disk: io.FileIO, kind: str) -> None:
        make: dict[str, Callable[[], Any]] = {
            "gzip": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
            "xz": lzma.LZMADecompressor,
            "bz2": bz2.BZ2Decompressor,
        }
        self._disk, self._make, self._kind = disk, make[kind], kind
        self._member: Any = None
        self._input = self._output = b""
        self._place = 0  # in _output, before which it has been read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._place == len(self._output):
            at_end = False
            if not self._input and getattr(self._member, "needs_input", True):
                self._input = self._disk.read(_BLOCK_BYTES)
                at_end = not self._input
            if self._member is None:
                self._input = self._input.lstrip(b"\0")
                if not self._input:
                    if at_end:
                        return 0
                    continue
                self._member = self._make()
            self._decompress()
            if at_end and self._member is not None and not self._output:
                raise OSError(f"the {self._kind} data end in the middle")
        size = min(len(buffer), len(self._output) - self._place)
        buffer[:size] = self._output[self._place : self._place + size]
        self._place += size
        return size

    def _decompress(self) -> None:
        try:
            # At most a block at a time: a small file can hold more than memory does.
            self._output = self._member.decompress(self._input, _BLOCK_BYTES)
            self._place = 0
        except (zlib.error, lzma.LZMAError, OSError) as error:
            raise OSError(f"no {self._kind} data: {error}") from None
        self._input = getattr(self._member, "unconsumed_tail", b"")
        if self._member.eof:
            self._input, self._member = self._member.unused_data, None


class _LeftOpen(io.RawIOBase):
    """A stream that stays open when what writes to it is closed."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data) or 0


def is_compressed(path: Path) -> bool:
    """Whether the text of a file is compressed."""
    with path.open("rb") as file:
        return _compression(path, file.read(_HEAD_BYTES)) is not None


def _compression(path: Path, head: bytes) -> str | None:
    """The compression of a file that begins like this: what its name says, if nothing is known."""
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    # Programs that download a file may unpack it and leave its name.
    return None if _is_text(head) else COMPRESSED.get(path.suffix.lower())


def _is_text(head: bytes) -> bool:
    """Whether a file that begins like this is text: UTF-8 without other controls than blanks."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(letter >= " " or letter in "\t\n\v\f\r" for letter in text)
