"""Measuring the rules: one pass over a corpus's text writes `rules.parquet` beside it.

`_core.measure_pairs` does what is done for each pair. What a chunk of lines gives goes to scratch
files, a column each, since groups of duplicates and usual lengths are known only at the end; then
the table is written row group by row group.
"""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat import _core
from pycat.data.corpus import RULES_FILE, Corpus, open_corpus
from pycat.data.parallel_text import Chunk, ParallelText
from pycat.errors import OutputError
from pycat.filters.code_points import code_points
from pycat.filters.foreign import foreign_shares
from pycat.filters.language import language_model
from pycat.filters.rules import FORMAT, RuleTable
from pycat.runtime.output import replacing
from pycat.runtime.progress import progress
from pycat.runtime.workers import on_workers

_ROW_GROUP = 65_536


def measure_rules(corpus: Corpus, *, num_threads: int | None = None) -> RuleTable:
    """Measure every rule of a corpus, reading its text once; what is measured is opened as it is.

    Holds 22 bytes a pair (measured on 10 million), and 92 in scratch files without a name in the
    corpus's folder.

    Args:
        corpus: one made from text; of a view, the whole corpus is measured.
        num_threads: cores to use, None for all this process may use; the table is the same.

    Returns:
        The table of the corpus's own pairs, also written to `rules.parquet` in its folder.

    Raises:
        CorpusError: the corpus was not made from text by pycat.
        TextError: the text is gone or changed.
        OSError: the file cannot be written.
    """
    try:
        return RuleTable.open(corpus)
    except OutputError:
        pass
    text = corpus.text()
    codes, without = _language_codes(corpus)
    whole = corpus.manifest
    with replacing(corpus.path / RULES_FILE) as temporary, _Scratch(corpus.path) as scratch:
        with progress("rules", text.file_bytes / 1e6, "MB") as advance:
            kept = corpus.kept_lines
            for piece in on_workers(
                partial(_measure_chunk, text, kept, codes),
                text.chunks(lambda num_bytes: advance(num_bytes / 1e6)),
                num_threads or len(os.sched_getaffinity(0)),
            ):
                scratch.append(piece)
            del kept
        if scratch.num_rows != whole["num_pairs"]:
            raise OutputError(
                f"{corpus.path}: the text gives {scratch.num_rows:,} pairs, expected "
                f"{whole['num_pairs']:,}; run 'pycat tokenize' again"
            )
        _group(scratch)
        # A corpus made from text has one vocabulary.
        shares = foreign_shares(open_corpus(corpus.path))
        for name, values in zip(("src_foreign", "tgt_foreign"), shares, strict=True):
            scratch.replace(name, values)
        del shares
        usual = usual_lengths(scratch.read("src_chars"), scratch.read("tgt_chars"))
        manifest = {"format": FORMAT, "corpus": whole["id"], "without": without}
        _write(scratch, usual, manifest, temporary)
    return RuleTable.open(corpus)


def usual_lengths(
    src_chars: NDArray[np.int32], tgt_chars: NDArray[np.int32]
) -> tuple[float, float]:
    """The ratio of target to source characters of a corpus, and the spread that `length_z` needs.

    The spread is such that half of the pairs lie within 0.67, and at least 1.
    """
    values = np.empty(len(src_chars))
    rows = [slice(first, first + _ROW_GROUP) for first in range(0, len(values), _ROW_GROUP)]
    for part in rows:
        src, tgt = src_chars[part].astype(np.float64) + 1, tgt_chars[part].astype(np.float64) + 1
        values[part] = np.log(tgt / src)
    ratio = float(np.exp(np.median(values, overwrite_input=True)))
    for part in rows:
        values[part] = np.abs(_deviation(src_chars[part], tgt_chars[part], ratio))
    spread = float(np.median(values, overwrite_input=True)) / 0.6745
    return ratio, max(spread, 1.0)


def length_z(
    src_chars: NDArray[np.int32], tgt_chars: NDArray[np.int32], ratio: float, spread: float
) -> NDArray[np.float32]:
    """How far the lengths of a pair are from those of a translation, in standard deviations.

    (tgt - c src) / (s sqrt((tgt + c src) / 2)), with c and s of `usual_lengths`; positive where the
    target is long. The ratio of short pairs may differ more. Source: Gale and Church 1993,
    section 3.2, symmetrised.
    """
    z: NDArray[np.float32] = (_deviation(src_chars, tgt_chars, ratio) / spread).astype(np.float32)
    return z


def _deviation(
    src_chars: NDArray[np.int32], tgt_chars: NDArray[np.int32], ratio: float
) -> NDArray[np.float64]:
    src, tgt = src_chars.astype(np.float64) + 1, tgt_chars.astype(np.float64) + 1
    src *= ratio
    deviation: NDArray[np.float64] = (tgt - src) / np.sqrt((tgt + src) / 2)
    return deviation


def _language_codes(corpus: Corpus) -> tuple[tuple[str, ...] | None, dict[str, str]]:
    """The languages of both sides, None if either is unknown; and what to say of that."""
    known = language_model().codes
    codes = tuple(re.split("[-_]", name)[0].lower() for name in corpus.languages)
    strangers = [
        name for name, code in zip(corpus.languages, codes, strict=True) if code not in known
    ]
    if not strangers:
        return codes, {}
    why = f"{strangers[0]!r} is not a language code that py3langid knows; tokenize with --languages"
    return None, {"src_language": why, "tgt_language": why}


def _measure_chunk(
    text: ParallelText,
    kept: NDArray[np.bool_],
    codes: tuple[str, ...] | None,
    chunk: Chunk,
) -> dict[str, NDArray[Any]]:
    """The columns of the pairs of a chunk, and the hashes that `_group` makes columns of."""
    sides = text.columns(chunk)
    chosen = kept[chunk.first - 1 : chunk.first - 1 + len(chunk)]
    if not chosen.all():
        rows = np.flatnonzero(chosen).tolist()
        sides = [sides[0][row] for row in rows], [sides[1][row] for row in rows]
    columns: dict[str, NDArray[Any]] = _core.measure_pairs(*sides, **code_points()._asdict())
    for name, side, code in zip(("src", "tgt"), sides, codes or (None, None), strict=True):
        unusual = columns.pop(f"{name}_unusual")
        if code is not None:
            columns[f"{name}_language"] = language_model().probability(side, code, unusual)
    return columns


class _Scratch:
    """Columns in files without a name, which the system removes with the process."""

    def __init__(self, folder: Path) -> None:
        self.num_rows = 0
        self._folder, self._stack = folder, ExitStack()
        self._files: dict[str, tuple[Any, np.dtype[Any]]] = {}

    def __enter__(self) -> "_Scratch":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """The next rows of columns of equal length."""
        for name, values in columns.items():
            if name not in self._files:
                self.replace(name, values[:0])
            self._files[name][0].write(values.data)
        self.num_rows += len(next(iter(columns.values())))

    def replace(self, name: str, values: NDArray[Any]) -> None:
        """A column of these values."""
        file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - the stack closes it
        self._stack.enter_context(file)
        self._files[name] = file, values.dtype
        file.write(values.data)

    def take(self, name: str) -> NDArray[Any]:
        """A column, whose file is gone then."""
        values = self.read(name)
        self._files.pop(name)[0].close()
        return values

    def read(self, name: str, first: int = 0, end: int | None = None) -> NDArray[Any]:
        """Rows of a column, by default all."""
        file, dtype = self._files[name]
        values = np.empty((self.num_rows if end is None else end) - first, dtype)
        file.seek(first * dtype.itemsize)
        file.readinto(values.data.cast("B"))
        return values

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return list(self._files)


def _group(scratch: _Scratch) -> None:
    """Replace hashes by the least pair id of each group, one column at a time."""
    for side in ("pair", "src", "tgt"):
        scratch.replace(f"{side}_group", _core.first_duplicates(scratch.take(f"{side}_hash")))
    near = np.arange(scratch.num_rows)
    for band in range(4):
        _core.join_duplicates(scratch.take(f"band_{band}"), near)
    scratch.replace("near_group", near)


def _write(
    scratch: _Scratch, usual: tuple[float, float], manifest: Mapping[str, Any], path: Path
) -> None:
    """The Parquet file, a row group at a time."""
    writer = None
    with ExitStack() as stack:
        for first in range(0, scratch.num_rows, _ROW_GROUP):
            end = min(first + _ROW_GROUP, scratch.num_rows)
            columns: dict[str, NDArray[Any]] = {"pair": np.arange(first, end)}
            columns |= {name: scratch.read(name, first, end) for name in scratch.names}
            columns["length_z"] = length_z(columns["src_chars"], columns["tgt_chars"], *usual)
            table = pa.table(columns)
            if writer is None:
                schema = table.schema.with_metadata({"pycat": json.dumps(manifest)})
                # Against dictionaries, the default: 0.4 of the time, 0.6 of the bytes.
                delta = {
                    field.name: "DELTA_BINARY_PACKED"
                    for field in schema
                    if pa.types.is_integer(field.type)
                }
                writer = stack.enter_context(
                    pq.ParquetWriter(
                        path,
                        schema,
                        compression="zstd",
                        use_dictionary=["number_mismatch"],
                        column_encoding=delta,
                        write_page_checksum=True,
                    )
                )
            writer.write_table(table.replace_schema_metadata(schema.metadata))
