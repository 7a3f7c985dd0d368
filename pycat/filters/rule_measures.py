"""Measurements of a corpus's text that the rules compare: one pass over the text, one row a pair.

`_core.measure_pairs` measures each pair alone. Groups of duplicates and the usual ratio of lengths
are known only at the end of the text, so the columns go to scratch files first, and from there
into one Parquet file.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat import _core
from pycat.data.corpus import Corpus
from pycat.data.parallel_text import Chunk, ParallelText
from pycat.data.reopening import CorpusAddress
from pycat.data.text_parts import TextPart
from pycat.errors import CorpusError
from pycat.filters.code_points import code_points, plain_form
from pycat.filters.duplicates import HASHES, Copies, copies_of, group_column, joined
from pycat.filters.foreign import foreign_shares
from pycat.filters.language import COMPOSITION, SURE_BYTES, language_model
from pycat.filters.language_names import identifier_codes, main_script, unknown_scripts
from pycat.runtime.output import replacing
from pycat.runtime.part_files import Arrays, array_names, read_arrays
from pycat.runtime.progress import progress
from pycat.runtime.workers import on_workers
from pycat.scores.parts import PART_PAIRS

# Added to the number of a target's 4-grams: names and short terms are often the same in both
# languages.
_EXTRA_GRAMS = 12
# Shares of 4-grams that lie so many deviations above the usual one, and this share, are of copies.
_COPY_SPREADS, _MIN_COPY = 3.0, 0.46
# The variance of a translation's length, as that of a line of n letters: n + 20 + 0.015 n². The
# second term stands for a word more or less, the third for languages that differ by the subject.
_FIXED_VARIANCE, _SQUARED_VARIANCE = 20.0, 0.015
# A side's lines in a script that the identifier was not trained on for this language are judged by
# it unless they are so large a share of the side.
_MIN_UNKNOWN_SCRIPT = 0.2

_HASHES = frozenset(column for columns in HASHES.values() for column in columns)


class Elsewhere(Protocol):
    """Workers that measure a text."""

    def measured(self, text: ParallelText) -> list[Path]:
        """Files of parts in order, made by `LoadLines`."""

    def copies(self, parts: list[tuple[Path, int]], num_rows: int) -> Callable[[str], Copies]:
        """What finds the copies in a column of hashes of those files, each with its first row."""


def measure_text(
    corpus: Corpus,
    path: Path,
    *,
    num_threads: int | None = None,
    elsewhere: Elsewhere | None = None,
) -> None:
    """Measure what the rules compare, and write it to a Parquet file of 65,536 pairs a row group.

    The columns are those of docs/format.md, without `pair`. Memory holds 22 bytes a pair (measured
    on 10 million), or 16 where workers find the duplicates, and the folder of `path` 92 in scratch
    files without a name.

    Args:
        corpus: all pairs of a corpus that was made from text.
        path: the file to write; it appears complete or not at all.
        num_threads: cores to use, None for all this process may use; the file is the same.
        elsewhere: has workers measure the lines and find the duplicates.

    Raises:
        CorpusError: the corpus was not made from text by pycat, or is damaged.
        TextError: the text is gone or changed.
        OSError: a file cannot be written.
    """
    text = corpus.text()
    codes, _ = language_codes(corpus)
    with replacing(path) as temporary, _Scratch(path.parent) as scratch:
        if elsewhere is not None:
            parts = []
            for part in elsewhere.measured(text):
                names = [name for name in array_names(part) if name not in _HASHES]
                parts.append((part, scratch.num_rows))
                scratch.append(read_arrays(part, names))
        else:
            with progress("rules", text.file_bytes / 1e6, "MB") as advance:
                for columns in on_workers(
                    partial(_measure_chunk, text, corpus.kept_lines, codes),
                    text.chunks(lambda num_bytes: advance(num_bytes / 1e6)),
                    num_threads or len(os.sched_getaffinity(0)),
                ):
                    scratch.append(columns)
        if scratch.num_rows != len(corpus):
            raise CorpusError(
                f"{corpus.path}: the text gives {scratch.num_rows:,} pairs, expected "
                f"{len(corpus):,}; run 'pycat tokenize' again"
            )
        find = scratch.copies if elsewhere is None else elsewhere.copies(parts, len(corpus))
        for name, hashed in HASHES.items():
            found = [find(column) for column in hashed]
            groups = found[0] if len(found) == 1 else joined(found)
            scratch.write(name, group_column(groups, len(corpus)))
        del found, groups
        for side, known in zip(("src", "tgt"), codes, strict=True):
            if known:
                _spare_unknown_script(scratch, side)
        shares = foreign_shares(corpus)
        for name, values in zip(("src_foreign", "tgt_foreign"), shares, strict=True):
            # In a line of another script, names in Latin letters are no text in the other language.
            in_latin = scratch.take(name.replace("foreign", "names"))
            scratch.replace(name, np.maximum(values - in_latin, np.float32(0)))
        del shares, in_latin
        copied = scratch.take("num_grams").astype(np.float32)
        copied = scratch.read("overlap") * copied / (copied + _EXTRA_GRAMS)
        scratch.replace("copied", copied * _copied_scale(copied))
        del copied
        usual = usual_lengths(scratch.read("src_letters"), scratch.read("tgt_letters"))
        _write(scratch, usual, temporary)


def usual_lengths(
    src_chars: NDArray[np.int32], tgt_chars: NDArray[np.int32]
) -> tuple[float, float]:
    """The usual ratio of target to source lengths, and the spread that `length_z` needs.

    Lengths are counts of any one unit; the rule's are those of letters. The spread is such that
    half of the pairs lie within 0.67, and at least 1.
    """
    values = np.empty(len(src_chars))
    parts = [slice(first, first + PART_PAIRS) for first in range(0, len(values), PART_PAIRS)]
    for part in parts:
        src, tgt = src_chars[part].astype(np.float64) + 1, tgt_chars[part].astype(np.float64) + 1
        values[part] = np.log(tgt / src)
    ratio = float(np.exp(np.median(values, overwrite_input=True)))
    for part in parts:
        values[part] = np.abs(_deviation(src_chars[part], tgt_chars[part], ratio))
    spread = float(np.median(values, overwrite_input=True)) / 0.6745
    return ratio, max(spread, 1.0)


def length_z(
    src_chars: NDArray[np.int32], tgt_chars: NDArray[np.int32], ratio: float, spread: float
) -> NDArray[np.float32]:
    """How far the lengths of a pair are from those of a translation, in standard deviations.

    (tgt - c src) / (s sqrt(n + 20 + 0.015 n²)), with n = (tgt + c src) / 2, and c and s of
    `usual_lengths`; positive where the target is long. Source: Gale and Church 1993, section 3.2,
    symmetrised; their variance is n alone.
    """
    z: NDArray[np.float32] = (_deviation(src_chars, tgt_chars, ratio) / spread).astype(np.float32)
    return z


def _deviation(
    src_chars: NDArray[np.int32], tgt_chars: NDArray[np.int32], ratio: float
) -> NDArray[np.float64]:
    src, tgt = src_chars.astype(np.float64) + 1, tgt_chars.astype(np.float64) + 1
    src *= ratio
    mean = (tgt + src) / 2
    variance = mean + _FIXED_VARIANCE + _SQUARED_VARIANCE * mean * mean
    deviation: NDArray[np.float64] = (tgt - src) / np.sqrt(variance)
    return deviation


def _copied_scale(shares: NDArray[np.float32]) -> float:
    """What makes 0.46 of the share of 4-grams (N,) from which a pair of this corpus is a copy.

    1 for distant languages. In close ones, translations share many 4-grams, and equal sides are no
    surprise: the share is the usual one (median) and three deviations (of the middle half).
    """
    usual = float(np.median(shares))
    spread = float(np.median(np.abs(shares - usual))) / 0.6745
    return _MIN_COPY / max(_MIN_COPY, usual + _COPY_SPREADS * spread)


def language_codes(corpus: Corpus) -> tuple[tuple[tuple[str, ...], ...], dict[str, str]]:
    """The identifier's codes of each side, and why a language rule has no column.

    A side has no codes, and its rule no column, where the identifier lacks its language.
    """
    model = language_model()
    codes = tuple(identifier_codes(name, model.codes) for name in corpus.languages)
    without = {
        f"{side}_language": f"{name!r} is not a language code that py3langid knows; tokenize with "
        "--languages"
        for side, name, known in zip(("src", "tgt"), corpus.languages, codes, strict=True)
        if not known
    }
    return codes, without


def _measure_chunk(
    text: ParallelText,
    kept: NDArray[np.bool_],
    codes: tuple[tuple[str, ...], ...],
    chunk: Chunk,
) -> dict[str, NDArray[Any]]:
    """The columns of a chunk's pairs, the hashes of `HASHES`, and `*_unknown` of scripts."""
    sides = text.columns(chunk)
    chosen = kept[chunk.first - 1 : chunk.first - 1 + len(chunk)]
    if not chosen.all():
        rows = np.flatnonzero(chosen).tolist()
        sides = [sides[0][row] for row in rows], [sides[1][row] for row in rows]
    sides, columns = _measure_plain(list(sides[0]), list(sides[1]))
    for name, side, names, other in zip(("src", "tgt"), sides, codes, codes[::-1], strict=True):
        forms = columns.pop(f"{name}_forms")
        if names:
            columns[f"{name}_language"] = found = language_model().probability(
                side, names, forms, sure_bytes=SURE_BYTES
            )
            columns[f"{name}_unknown"] = _in_unknown_script(side, found, names, other)
    return columns


def _in_unknown_script(
    lines: list[bytes],
    probability: NDArray[np.float32],
    names: tuple[str, ...],
    other: tuple[str, ...],
) -> NDArray[np.bool_]:
    """Which lines (N,) the identifier cannot know: of another script that the language is used in.

    Lines in the other side's language are none of them: those it knows.
    """
    unknown = np.zeros(len(lines), bool)
    if not (scripts := unknown_scripts(names)):
        return unknown
    for row in np.flatnonzero(probability < 0.5).tolist():
        unknown[row] = main_script(lines[row]) in scripts
    rows = np.flatnonzero(unknown)
    if other and len(rows):
        chosen = [lines[row] for row in rows.tolist()]
        unknown[rows] = language_model().probability(chosen, other) < 0.5
    return unknown


def _spare_unknown_script(scratch: "_Scratch", side: str) -> None:
    """Let lines in an unknown script pass for the side's language, where they are many of it.

    Kazakh in Latin letters and Hindi in romanised form are written thus, and the identifier knows
    neither. Few such lines are in another language.
    """
    unknown = scratch.take(f"{side}_unknown")
    if unknown.mean() >= _MIN_UNKNOWN_SCRIPT:
        probability = scratch.read(f"{side}_language")
        probability[unknown] = 1
        scratch.replace(f"{side}_language", probability)


def _measure_plain(
    src: list[bytes], tgt: list[bytes]
) -> tuple[tuple[list[bytes], list[bytes]], dict[str, NDArray[Any]]]:
    """The lines in their plain form, and what C++ measures of them.

    Few lines are not in it, so all are measured first, and those that were changed again.
    """
    sides, tables = (src, tgt), code_points()._asdict()
    columns: dict[str, NDArray[Any]] = _core.measure_pairs(src, tgt, **tables)
    changed = set()
    for name, side in zip(("src", "tgt"), sides, strict=True):
        for row in np.flatnonzero(columns[f"{name}_forms"] & COMPOSITION).tolist():
            if (plain := plain_form(side[row])) != side[row]:
                side[row] = plain
                changed.add(row)
    if changed:
        rows = sorted(changed)
        again = _core.measure_pairs(
            [src[row] for row in rows], [tgt[row] for row in rows], **tables
        )
        # What a blank or an invisible character was before says more of damage.
        del again["num_damaged"]
        for name, values in again.items():
            columns[name][rows] = values
    return sides, columns


@dataclass(frozen=True)
class LoadLines:
    """Loads, in a worker, what measures parts of the text of a corpus."""

    corpus: CorpusAddress

    def __call__(self, num_threads: int) -> Callable[[TextPart], Arrays]:
        """What is done to a part, by so many threads."""
        corpus = self.corpus.open()
        codes, _ = language_codes(corpus)
        measure = partial(_measure_chunk, corpus.text(), corpus.kept_lines, codes)
        return partial(_measure_part, measure, num_threads)


def _measure_part(
    measure: Callable[[Chunk], dict[str, NDArray[Any]]], num_threads: int, part: TextPart
) -> Arrays:
    chunks = list(on_workers(measure, part.chunks(), num_threads))
    return {name: np.concatenate([columns[name] for columns in chunks]) for name in chunks[0]}


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
        """Add the next rows of columns of equal length."""
        for name, values in columns.items():
            if name not in self._files:
                self.replace(name, values[:0])
            self._files[name][0].write(values.data)
        self.num_rows += len(next(iter(columns.values())))

    def replace(self, name: str, values: NDArray[Any]) -> None:
        """Make a column of these values."""
        file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - the stack closes it
        self._stack.enter_context(file)
        self._files[name] = file, values.dtype
        file.write(values.data)

    def write(self, name: str, parts: Iterable[NDArray[Any]]) -> None:
        """Write a column whose values come in parts, in the order of the rows."""
        for index, part in enumerate(parts):
            if index == 0:
                self.replace(name, part[:0])
            self._files[name][0].write(part.data)

    def take(self, name: str) -> NDArray[Any]:
        """Remove a column, and return it."""
        values = self.read(name)
        self._files.pop(name)[0].close()
        return values

    def copies(self, name: str) -> Copies:
        """Remove a column of hashes, and return the copies in it."""
        return copies_of(self.take(name))

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


def _write(scratch: _Scratch, usual: tuple[float, float], path: Path) -> None:
    """Write the Parquet file, a row group at a time."""
    with ExitStack() as stack:
        writer = None
        for first in range(0, scratch.num_rows, PART_PAIRS):
            end = min(first + PART_PAIRS, scratch.num_rows)
            columns = {name: scratch.read(name, first, end) for name in scratch.names}
            lengths = columns.pop("src_letters"), columns.pop("tgt_letters")
            columns["length_z"] = length_z(*lengths, *usual)
            table = pa.table(columns)
            if writer is None:
                options = measure_file_options(table.schema)
                writer = stack.enter_context(pq.ParquetWriter(path, table.schema, **options))
            writer.write_table(table)


def measure_file_options(schema: pa.Schema) -> dict[str, Any]:
    """How files of measures are written, for `pyarrow.parquet.ParquetWriter`.

    Against dictionaries, the default of Parquet, a file of the rules' columns takes 0.4 of the time
    and 0.6 of the bytes.
    """
    return {
        "compression": "zstd",
        "use_dictionary": [name for name in schema.names if name == "number_mismatch"],
        "column_encoding": {
            field.name: "DELTA_BINARY_PACKED" for field in schema if pa.types.is_integer(field.type)
        },
        "write_page_checksum": True,
    }
