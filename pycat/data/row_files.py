"""Files of sentence pairs that are not lines of text: Parquet, JSON Lines, TMX, and zips of OPUS.

Their content tells what they are, not their names. A corpus keeps their text in two plain files
(`spooled_text`); what is kept of Parquet and JSON Lines is written as it was, with all columns.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat.data.moses_zip import zip_languages, zip_pairs
from pycat.data.parallel_text import FileFingerprint, ParallelText, decode, write_rows
from pycat.data.spooled_text import (
    column_languages,
    listed,
    no_column,
    row_pairs,
    spool,
    text_columns,
)
from pycat.data.text_files import check_regular, opened_text
from pycat.data.tmx import tmx_languages, tmx_pairs
from pycat.errors import OutputError, TextError
from pycat.runtime.named_files import writing
from pycat.runtime.progress import progress

# Kinds, and what errors call them.
KINDS = {
    "parquet": "a Parquet file",
    "jsonl": "JSON Lines",
    "tmx": "TMX",
    "zip": "a zip archive",
}

_MAGIC = {b"PAR1": "parquet", b"PK\x03\x04": "zip"}
_BOM = b"\xef\xbb\xbf"
_HEAD_BYTES = 1 << 16
_MAX_JSON_BYTES = 1 << 26
_BATCH_ROWS = 4096
_BATCH_BYTES = 1 << 25
_ADVANCE_ROWS = 1000

Columns = tuple[int, int] | tuple[str, str]


@dataclass(frozen=True)
class RowFile:
    """N sentence pairs in one file that is not text.

    Attributes:
        path: the file, absolute.
        kind: one of `KINDS`.
        columns: names of source and target: columns of Parquet and JSON Lines, languages of TMX,
            endings of the files in a zip.
    """

    path: Path
    kind: str
    columns: tuple[str, str]

    @property
    def keeps_rows(self) -> bool:
        """Whether what is kept is written as it was, and not as text."""
        return self.kind in ("parquet", "jsonl")

    @property
    def recipe(self) -> dict[str, Any]:
        """What the recipe of a corpus says of this text beside its hash."""
        return {"columns": [*self.columns]}

    @property
    def languages(self) -> tuple[str, str]:
        """Names of source and target by their columns."""
        return column_languages(self.columns)

    def fingerprint(self, known: Iterable[FileFingerprint] = ()) -> list[FileFingerprint]:
        """SHA-256 of the file, as `ParallelText.fingerprint`."""
        return ParallelText((self.path,)).fingerprint(known)

    def record(self, known: Iterable[FileFingerprint] = ()) -> dict[str, Any]:
        """What the manifest of a corpus says of where its text comes from."""
        [fingerprint] = self.fingerprint(known)
        return {"kind": self.kind, "columns": [*self.columns], **fingerprint}

    def in_folder(self, folder: Path, left_out: Counter[str] | None = None) -> ParallelText:
        """Write the text into the corpus folder.

        Args:
            folder: of the corpus.
            left_out: counts what of the file gives no line, by the reason.

        Raises:
            TextError: the file is damaged, or a row has no text; names the row.
        """
        with progress("read rows", None, "rows") as advance:

            def counted() -> Iterator[tuple[bytes, bytes]]:
                for number, pair in enumerate(self.pairs(left_out), start=1):
                    if number % _ADVANCE_ROWS == 0:
                        advance(_ADVANCE_ROWS)
                    yield pair

            return spool(counted(), folder, self.path)

    def pairs(self, left_out: Counter[str] | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield source and target of each row, as one line each; count what gives none."""
        if self.kind == "zip":
            return zip_pairs(self.path, self.columns)
        if self.kind == "tmx":
            return _tmx_pairs(self.path, self.columns, left_out)
        if self.kind == "parquet":
            return row_pairs(
                _parquet_rows(self.path, self.columns),
                self.columns,
                lambda number: f"{self.path}: row {number:,}",
            )
        return row_pairs(
            ((number, _json_object(line, self.path, number)) for number, line in _lines(self.path)),
            self.columns,
            lambda number: f"{self.path}: line {number:,}",
        )


def open_text(
    src: str | PathLike[str] | None,
    tgt: str | PathLike[str] | None,
    tsv: str | PathLike[str] | None,
    columns: Columns | None = None,
    languages: tuple[str, str] | None = None,
) -> ParallelText | RowFile:
    """Files of parallel text of any kind; paths become absolute.

    Args:
        src, tgt, tsv: the files, as for `ParallelText.of`; `tsv` may be one of rows instead.
        columns: of source and target in `tsv`: numbers from 1 in tab-separated text, names in
            files of rows, languages in TMX and zip.
        languages: those of TMX and zip, where no columns are given.

    Raises:
        TextError: as `ParallelText.of`, or columns that do not belong to the file.
    """
    if tsv is not None and src is None and tgt is None:
        path = Path(tsv).absolute()
        kind = kind_of(path)
        if kind is not None:
            return RowFile(path, kind, _checked_columns(path, kind, columns, languages))
    if columns is not None and any(isinstance(column, str) for column in columns):
        raise TextError(
            f"columns are {', '.join(map(str, columns))}, but {tsv or src} is lines of text; "
            "expected two numbers, counted from 1, of columns in a tab-separated file (tsv)"
        )
    return ParallelText.of(src, tgt, tsv, cast(tuple[int, int] | None, columns))


def kind_of(path: Path) -> str | None:
    """Which of `KINDS` a file is, None for lines of text.

    Raises:
        TextError: it is no file that can be read several times.
    """
    check_regular(path)
    with path.open("rb") as raw:
        magic = raw.read(4)
    if magic in _MAGIC:
        return _MAGIC[magic]
    with opened_text(path) as (file, _):
        try:
            head = file.read(_HEAD_BYTES)
            if _is_tmx(head):
                return "tmx"
            head = head.removeprefix(_BOM).lstrip()
            if not head.startswith(b"{"):
                return None
            if b"\n" not in head:
                head += file.readline(_MAX_JSON_BYTES)
        except OSError:  # reading it as text will say what is damaged
            return None
    try:
        first = json.loads(head.split(b"\n", 1)[0].decode())
    except (ValueError, RecursionError):
        return None
    return "jsonl" if isinstance(first, dict) else None


def known_columns(path: Path) -> list[str]:
    """Columns of text of a file of Parquet or JSON Lines; [] of a file of another kind.

    Raises:
        TextError: as `kind_of`, or it is damaged.
    """
    kind = kind_of(path)
    return _known_columns(path, kind) if kind in ("parquet", "jsonl") else []


def _is_tmx(head: bytes) -> bool:
    """Whether a file that begins like this is a TMX document, in UTF-8 or UTF-16."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head[: len(head) // 2 * 2].decode("utf-16", "replace").encode()
    head = head.removeprefix(_BOM).lstrip()
    begins = head.startswith((b"<?xml", b"<!--", b"<!DOCTYPE", b"<tmx"))
    return begins and re.search(rb"<tmx[\s>]|<!DOCTYPE\s+tmx", head) is not None


def _tmx_pairs(
    path: Path, languages: tuple[str, str], left_out: Counter[str] | None
) -> Iterator[tuple[bytes, bytes]]:
    with opened_text(path) as (file, _):
        yield from tmx_pairs(file, path, languages, left_out)


def write_kept(path: Path, kept: NDArray[np.bool_], out: Path, *, overwrite: bool) -> None:
    """Write the kept rows of a Parquet or JSON Lines file: lines byte for byte, or all columns.

    Args:
        path: the file.
        kept: for each of its rows, bool (N,).
        out: the file to write; JSON Lines are compressed as its suffix says.
        overwrite: replace a file that holds other rows.

    Raises:
        TextError: the file is of neither kind, is damaged, or has other than N rows.
        OutputError: the suffix of `out` is that of another kind of file, or it exists with other
            rows and `overwrite` is not given.
    """
    kind = kind_of(path)
    if kind not in ("parquet", "jsonl"):
        raise TextError(
            f"{path}: expected Parquet or JSON Lines, found {KINDS[kind] if kind else 'text'}; "
            "pass a file of rows"
        )
    suffix = out.suffix.lower()
    if (suffix == ".parquet") != (kind == "parquet"):
        wanted = ".parquet" if kind == "parquet" else ".jsonl, maybe compressed"
        raise OutputError(
            f"{out}: the rows come from {KINDS[kind]} and are written as such; name a file that "
            f"ends in {wanted}, or two files for source and target"
        )
    if kind == "parquet":
        _write_kept_parquet(path, kept, out, overwrite)
    else:
        write_rows(((line,) for line in _kept_lines(path, kept)), (out,), overwrite=overwrite)


def check_num_rows(path: object, num_rows: int, expected: int) -> None:
    """Refuse a file of other rows than those that pairs were selected from.

    Raises:
        TextError: says both numbers.
    """
    if num_rows != expected:
        raise TextError(
            f"{path}: found {num_rows:,} rows, but the pairs were selected from text of "
            f"{expected:,}; pass a file of the same rows"
        )


def _known_columns(path: Path, kind: str) -> list[str]:
    if kind == "tmx":
        with opened_text(path) as (file, _):
            return tmx_languages(file, path)
    if kind == "zip":
        return zip_languages(path)
    return _parquet_text_columns(path) if kind == "parquet" else _json_text_columns(path)


def _checked_columns(
    path: Path, kind: str, columns: Columns | None, languages: tuple[str, str] | None
) -> tuple[str, str]:
    """Names of source and target, which the file has."""
    named = kind in ("tmx", "zip")  # by languages
    what = "languages" if named else "columns of text"
    columns = languages if named and columns is None else columns
    known = [] if named and columns is not None else _known_columns(path, kind)
    if columns is None:
        raise TextError(
            f"{path}: {KINDS[kind]} with {what} {listed(known)}; name those of source and target "
            "(--columns SRC,TGT)"
        )
    src, tgt = map(str, columns)
    if src == tgt:
        raise TextError(f"{path}: {what} are {src} and {tgt}; expected two different ones")
    for column in (src, tgt):
        if not named and column not in known:  # where languages are, reading says
            raise no_column(str(path), column, known)
    return src, tgt


# JSON Lines.


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1."""
    for number, (line,) in enumerate(ParallelText((path,)).rows(), start=1):
        if line.strip():
            yield number, line


def _json_object(line: bytes, path: Path, number: int) -> Any:
    text = decode(line.removeprefix(_BOM) if number == 1 else line, path, number)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TextError(
            f"{path}: line {number:,} is no JSON ({error}); expected one object a line: mend the "
            "line, or leave it out"
        ) from None


def _json_text_columns(path: Path) -> list[str]:
    number, line = next(_lines(path))
    return text_columns(_json_object(line, path, number))


def _kept_lines(path: Path, kept: NDArray[np.bool_]) -> Iterator[bytes]:
    num_rows = 0
    for _, line in _lines(path):
        if num_rows < len(kept) and kept[num_rows]:
            yield line
        num_rows += 1
    check_num_rows(path, num_rows, len(kept))


# Parquet.


def _opened_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> TextError:
    return TextError(f"{path}: cannot be read as Parquet ({error}); fetch the file again")


def _parquet_text_columns(path: Path) -> list[str]:
    with _opened_parquet(path) as file:
        return [*_text_fields(file.schema_arrow, "")]


def _text_fields(fields: Iterable[pa.Field], prefix: str) -> Iterator[str]:
    for field in fields:
        kind = field.type
        if pa.types.is_struct(kind):
            inner = (kind.field(place) for place in range(kind.num_fields))
            yield from _text_fields(inner, f"{prefix}{field.name}.")
            continue
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            yield f"{prefix}{field.name}"


def _parquet_rows(path: Path, columns: tuple[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with these columns alone, with their numbers from 1."""
    number = 0
    with _opened_parquet(path) as file:
        for batch in _batches(file, path, _BATCH_ROWS, [*columns]):
            try:
                rows = batch.to_pylist()
            except UnicodeDecodeError:
                raise _not_utf8(batch, path, number, columns) from None
            for row in rows:
                number += 1
                yield number, row


def _not_utf8(
    batch: pa.RecordBatch, path: Path, before: int, columns: tuple[str, str]
) -> TextError:
    """The error of the first row of a batch whose text is not UTF-8."""
    for place in range(len(batch)):
        try:
            batch.slice(place, 1).to_pylist()
        except UnicodeDecodeError as error:
            return TextError(
                f"{path}: row {before + place + 1:,} holds text that is not valid UTF-8 "
                f"({error.reason}) in {' or '.join(columns)}; leave the row out"
            )
    raise AssertionError("each row can be read alone")


def _batches(
    file: pq.ParquetFile, path: Path, num_rows: int, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(num_rows, columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _write_kept_parquet(path: Path, kept: NDArray[np.bool_], out: Path, overwrite: bool) -> None:
    """Filter the rows batch by batch; a batch of what is kept becomes a row group."""
    with _opened_parquet(path) as file:
        metadata = file.metadata
        check_num_rows(path, metadata.num_rows, len(kept))
        groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
        row_bytes = sum(group.total_byte_size for group in groups) // max(1, metadata.num_rows)
        num_rows = max(1, min(1 << 17, _BATCH_BYTES // max(1, row_bytes)))
        with (
            writing([out], overwrite=overwrite, same_is_done=True) as [stream],
            pq.ParquetWriter(
                _Sink(stream), file.schema_arrow, compression=_compression(groups)
            ) as writer,
        ):
            first = 0
            for batch in _batches(file, path, num_rows):
                rows = kept[first : first + len(batch)]
                first += len(batch)
                if rows.any():
                    writer.write_batch(batch.filter(pa.array(rows)))


class _Sink(io.RawIOBase):
    """A stream that tells its place, which the writer of Parquet asks for."""

    def __init__(self, stream: io.RawIOBase) -> None:
        self._stream, self._place = stream, 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def write(self, data: Any) -> int:
        size = self._stream.write(data) or 0
        self._place += size
        return size


def _compression(groups: list[Any]) -> str:
    """The compression of a Parquet file's first column, as pyarrow's writer calls it."""
    found = (
        groups[0].column(0).compression.lower() if groups and groups[0].num_columns else "snappy"
    )
    return {"uncompressed": "none", "lz4_raw": "lz4", "lzo": "snappy"}.get(found, found)
