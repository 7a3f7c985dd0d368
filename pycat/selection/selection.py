"""Selections: the pairs that are kept of a corpus, and their text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.data.opening import reopen_corpus
from pycat.data.parallel_text import ParallelText, write_rows
from pycat.data.row_files import kind_of, write_kept
from pycat.errors import OutputError, PycatError, TextError
from pycat.runtime.manifest import check_file, problem_with, read_manifest
from pycat.runtime.notebook import html_table, new_axes
from pycat.scores.parts import PART_PAIRS, read_part

KEPT_FILE = "kept.parquet"
# Scores by criteria in SQL, where there are such: whoever reads the folder later runs no SQL.
SQL_FILE = "sql-scores.parquet"
_REMEDY = "run 'pycat select' again with --overwrite"

Paths = str | PathLike[str] | tuple[str | PathLike[str], str | PathLike[str]]


@dataclass(frozen=True)
class Selection:
    """The pairs that are kept of a corpus.

    Attributes:
        pair_ids: ids of the kept pairs, int64 (kept,), ascending.
        lines: their lines in the text, int64 (kept,), from 0, which are also their lines in any
            file that is parallel to it; the pair ids where the corpus was not made from text.
        manifest: recipe, counts, range of scores, hashes, and `explained`: how much of the ranking
            follows length (and rarity, where the table has a column of that name).
        corpus_path: folder of the corpus.
        path: folder of the selection, or None for one in memory.
    """

    pair_ids: NDArray[np.int64]
    lines: NDArray[np.int64]
    manifest: Mapping[str, Any]
    corpus_path: Path
    path: Path | None = None
    _sql_scores: Mapping[str, NDArray[np.float64]] | None = None

    def __len__(self) -> int:
        return len(self.pair_ids)

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "Selection":
        """Open the folder of a selection.

        Raises:
            OutputError: the folder holds no complete selection, or is damaged.
        """
        folder = Path(path)
        manifest = read_manifest(folder, "selection")
        check_file(folder, manifest, KEPT_FILE, _REMEDY)
        try:
            columns = _read_kept(folder / KEPT_FILE)
            pair_ids = columns["pair"]
            lines = columns.get("line", pair_ids)
            _check_kept(pair_ids, lines, manifest)
        except (OSError, ValueError, KeyError, NotImplementedError, pa.ArrowException) as error:
            raise OutputError(
                f"{folder / KEPT_FILE}: cannot be read ({error}); {_REMEDY}"
            ) from None
        return cls(pair_ids, lines, manifest, (folder / manifest["corpus_path"]).resolve(), folder)

    def _repr_html_(self) -> str:
        """What was kept, and what each step dropped, as a table of a notebook."""
        manifest = self.manifest
        total = int(manifest["num_pairs"])
        rows = [[step, count, f"{count / total:.1%}"] for step, count in self._steps().items()]
        title = f"Selection: {len(self):,} of {total:,} pairs by {manifest['recipe']['criterion']}"
        return html_table(title, ("step", "pairs", "share"), rows)

    def plot(self) -> Any:
        """Draw how many pairs each step dropped, and how many are kept.

        Returns:
            The axes of matplotlib, which draws it (the extra `plot`).
        """
        axes = new_axes("What became of the pairs", "pairs", "")
        steps = self._steps()
        axes.barh(list(steps), list(steps.values()))
        axes.invert_yaxis()
        return axes

    def _steps(self) -> dict[str, int]:
        """Pairs that each step dropped, in their order, and those that are kept."""
        dropped = {f"dropped by {step}": n for step, n in self.manifest["dropped"].items()}
        return {**dropped, "kept": len(self)}

    def corpus(self) -> Corpus:
        """Open the corpus that the pairs were selected from.

        Raises:
            CorpusError: it is gone or damaged.
            PycatError: another corpus stands in its place.
        """
        corpus = reopen_corpus(self.corpus_path, self.manifest.get("corpus_options", {}))
        if corpus.id != self.manifest["corpus"]:
            raise PycatError(
                f"{self.corpus_path}: the corpus was made anew since these pairs were selected; "
                "score and select again"
            )
        return corpus

    def sql_scores(self) -> Mapping[str, NDArray[np.float64]]:
        """Scores (N,) of all pairs of the table by each criterion in SQL, by its role.

        The roles are "by", and "drop_0" and so on. Reads the folder; runs no SQL.

        Raises:
            OutputError: the file of the scores is gone or damaged.
        """
        if self._sql_scores is not None:
            return self._sql_scores
        if self.path is None or not (self.path / SQL_FILE).is_file():
            return {}
        check_file(self.path, self.manifest, SQL_FILE, _REMEDY)
        table = read_part(self.path / SQL_FILE)
        return {name: table[name].to_numpy() for name in table.column_names}

    def verify(self) -> None:
        """Compare each file of the folder with its hash.

        Raises:
            OutputError: names the first that is not as it was written.
        """
        if self.path is None:
            return
        for name, listed in self.manifest.get("files", {}).items():
            if problem := problem_with(self.path, name, listed, full=True):
                raise OutputError(f"{self.path / name}: {problem}; {_REMEDY}")

    def kept_corpus(self) -> Corpus:
        """Open a view of the kept pairs, to train on or to score; raises as `corpus`."""
        return self.corpus().subset(self.pair_ids)

    def write_text(
        self,
        src: str | PathLike[str],
        tgt: str | PathLike[str],
        *,
        of: Paths | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the kept lines of both sides, in the original order, byte for byte.

        Files named `.gz`, `.zst`, `.xz`, `.bz2` and `.lz4` are compressed. Both files appear
        complete, or neither. "-" is standard output, and devices and pipes are written to. Files
        that hold these lines already are left as they are.

        Args:
            src, tgt: the files to write.
            of: another parallel text of the same lines, such as the same sentences in other
                languages, two files or one tab-separated; then neither the corpus nor its text is
                needed.
            overwrite: replace files that exist.

        Raises:
            CorpusError: the corpus was not made from text by pycat.
            TextError: the original text is gone or changed, or `of` has another number of lines.
            OutputError: a file exists with other lines and `overwrite` is not given, a file is the
                text that is read, or both are the same file.
            OSError: a file cannot be written; the message names it.
        """
        text = self._text(of)
        if text.monolingual:
            raise PycatError(
                f"{self.corpus_path}: the text has one side; name one file to write (write_one, "
                "--text FILE)"
            )
        if text.is_tsv:
            rows = (
                tuple(side + b"\n" for side in text.sides(row, number + 1))
                for number, row in self._kept_rows(text)
            )
        else:
            rows = (row for _, row in self._kept_rows(text))
        _write(text, rows, (Path(src), Path(tgt)), overwrite)

    def write_tsv(
        self,
        out: str | PathLike[str],
        *,
        of: str | PathLike[str] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the kept lines of a text in one file, all columns of TSV, byte for byte.

        Raises:
            PycatError: the text is two files.
            CorpusError, TextError, OutputError, OSError: as `write_text`.
        """
        text = self._text(of)
        if len(text.paths) > 1:
            raise PycatError(
                f"{self.corpus_path}: the text is two files, not tab-separated; name two files to "
                "write (write_text, --text SRC TGT)"
            )
        _write(text, (row for _, row in self._kept_rows(text)), (Path(out),), overwrite)

    def write_rows(
        self,
        out: str | PathLike[str],
        *,
        of: str | PathLike[str] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the kept rows of Parquet or JSON Lines: all columns, or lines byte for byte.

        Args:
            out: the file to write, of the same kind.
            of: another file of the same rows.
            overwrite: replace a file that exists.

        Raises:
            PycatError: the text was not read from such a file.
            CorpusError, TextError, OutputError, OSError: as `write_text`.
        """
        path = Path(out)
        if of is not None:
            source = Path(of)
        else:
            file = self.corpus().row_file()
            if file is None or not file.keeps_rows:
                raise PycatError(
                    f"{self.corpus_path}: the text is not of Parquet or JSON Lines; write text "
                    "(write_text, --text SRC TGT)"
                )
            source = file.path
        refuse_own_text((source,), (path,))
        kept = np.zeros(self.manifest["num_lines"], dtype=bool)
        kept[self.lines] = True
        write_kept(source, kept, path, overwrite=overwrite)

    def write_one(
        self,
        out: str | PathLike[str],
        *,
        of: str | PathLike[str] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write one file: `write_rows` of Parquet and JSON Lines, `write_tsv` of text."""
        if of is not None:
            has_rows = kind_of(Path(of)) in ("parquet", "jsonl")
        else:
            source = self.corpus().manifest.get("source", {})
            has_rows = source.get("kind") in ("parquet", "jsonl")
        (self.write_rows if has_rows else self.write_tsv)(out, of=of, overwrite=overwrite)

    def filter(self, dataset: Any) -> Any:
        """The kept rows of the dataset that was tokenized, or of another of the same rows.

        Args:
            dataset: of as many rows as the text has lines. Row i belongs to line i.

        Returns:
            A `datasets.Dataset` of the kept rows of one; a list of those of a list or tuple. For
            anything else that yields rows, such as a `datasets.IterableDataset`, an iterator.

        Raises:
            TextError: the dataset has another number of rows. An iterator raises it where that
                shows: at the first row too many, or at the end.
            PycatError: the dataset is a mapping of splits.
        """
        if isinstance(dataset, Mapping):
            raise PycatError(
                "dataset: found a mapping, expected rows: pass one split of it, such as "
                "dataset['train']"
            )
        is_map_style = all(hasattr(dataset, name) for name in ("__len__", "features", "select"))
        if not is_map_style and not isinstance(dataset, (list, tuple)):
            return self._kept_of(dataset)
        if len(dataset) != self.manifest["num_lines"]:
            raise self._other_rows(f"{len(dataset):,}")
        if is_map_style:
            return dataset.select(self.lines)
        return [dataset[line] for line in self.lines.tolist()]

    def _kept_of(self, rows: Iterable[Any]) -> Iterator[Any]:
        kept = np.zeros(self.manifest["num_lines"], dtype=bool)
        kept[self.lines] = True
        num_rows = 0
        for row in rows:
            if num_rows == len(kept):
                raise self._other_rows(f"more than {num_rows:,}")
            if kept[num_rows]:
                yield row
            num_rows += 1
        if num_rows != len(kept):
            raise self._other_rows(f"{num_rows:,}")

    def _other_rows(self, found: str) -> TextError:
        return TextError(
            f"dataset: found {found} rows, but the pairs were selected from text of "
            f"{self.manifest['num_lines']:,}; pass the dataset that was tokenized, with its rows "
            "in their order"
        )

    def _text(self, of: Paths | None) -> ParallelText:
        """The text `of`, or that of the corpus."""
        if of is None:
            return self.corpus().text()
        return (
            ParallelText.of(*of, None) if isinstance(of, tuple) else ParallelText.of(None, None, of)
        )

    def _kept_rows(self, text: ParallelText) -> Iterator[tuple[int, tuple[bytes, ...]]]:
        """The kept rows of a text with their numbers, from 0; refuses one of other lines."""
        expected = self.manifest["num_lines"]
        kept = np.zeros(expected, dtype=bool)
        kept[self.lines] = True
        num_lines = 0
        for number, row in enumerate(text.rows()):
            num_lines = number + 1
            if number < expected and kept[number]:
                yield number, row
        if num_lines != expected:
            raise TextError(
                f"{', '.join(map(str, text.paths))}: found {num_lines:,} lines, but the pairs were "
                f"selected from text of {expected:,}; pass a text of the same lines"
            )


def _read_kept(path: Path) -> dict[str, NDArray[np.int64]]:
    """Columns of a file of kept pairs, read in pieces: Arrow would hold whole columns besides."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        size = file.metadata.num_rows
        for field in file.schema_arrow:
            if field.type != pa.int64():
                raise ValueError(f"{field.name} is {field.type}, expected int64")
        columns = {name: np.empty(size, dtype=np.int64) for name in file.schema_arrow.names}
        first = 0
        for batch in file.iter_batches(PART_PAIRS, use_threads=False):
            for name, column in columns.items():
                column[first : first + len(batch)] = batch[name].to_numpy()
            first += len(batch)
    if "line" in columns:
        columns["line"] -= 1
    return columns


def _check_kept(
    pair_ids: NDArray[np.int64], lines: NDArray[np.int64], manifest: Mapping[str, Any]
) -> None:
    """Refuse, by ValueError, kept pairs that are not those that the manifest counts."""
    for name, values, end in (
        ("pair", pair_ids, None),
        ("line", lines, manifest["num_lines"]),
    ):
        if len(values) != manifest["num_kept"]:
            raise ValueError(f"{len(values):,} pairs, expected {manifest['num_kept']:,}")
        if len(values) == 0 or values[0] < 0 or (np.diff(values) <= 0).any():
            raise ValueError(f"its column {name} does not ascend from 0")
        if end is not None and values[-1] >= end:
            raise ValueError(f"its column {name} reaches {values[-1]:,}, expected below {end:,}")


def _write(
    text: ParallelText, rows: Iterator[tuple[bytes, ...]], outs: tuple[Path, ...], overwrite: bool
) -> None:
    """Write rows of a text to files that are not the text itself."""
    refuse_own_text(text.paths, outs)
    write_rows(rows, outs, overwrite=overwrite)


def refuse_own_text(paths: Sequence[Path], outs: Sequence[Path]) -> None:
    """Refuse to write to files of a text.

    Raises:
        OutputError: one of `outs` is one of `paths`.
    """
    for out in outs:
        if out.exists() and any(out.samefile(path) for path in paths if path.exists()):
            raise OutputError(f"{out}: this is the text being pruned; write to another file")
