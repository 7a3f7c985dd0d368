"""The measure stage: what a corpus's text and tokens say of each pair, before any model is trained.

A folder of Parquet parts, one row a pair in the corpus's order, and `measures.json`. docs/format.md
lists the columns: what the rules compare, the lexical and the fluency scores, and the evidence of
noise. Any Parquet reader opens the parts without pycat.
"""

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat._core import copies_before
from pycat.data.corpus import Corpus
from pycat.data.opening import as_corpus, reopen_corpus
from pycat.data.staging import names_copies, staged_corpus
from pycat.errors import CorpusError, OutputError, PycatError
from pycat.filters.loud_rules import LoudRule, loud_rules
from pycat.filters.measure_steps import (
    PART_FILES,
    STEP_FILES,
    Steps,
    measure_steps,
    read_column,
    read_schema,
    unreadable,
)
from pycat.filters.noise import (
    Floats,
    corpus_signals,
    noise_score,
    sum_of_squares,
    surprise_evidence,
)
from pycat.filters.rule_measures import (
    language_codes,
    measure_file_options,
)
from pycat.filters.rules import RULE_COLUMNS, breaks, complete_rules, counts_group
from pycat.runtime.manifest import (
    check_file,
    list_files,
    load_manifest,
    problem_with,
    read_manifest,
)
from pycat.runtime.numbers import check_number
from pycat.runtime.output import OutputFolder, replacing
from pycat.runtime.parts import connected, is_here
from pycat.runtime.progress import progress
from pycat.scores.parts import PART_PAIRS, part_path
from pycat.scores.score_table import ScoreTable

# Raised when a column is measured in another way, so that older measures are made anew.
_DEFINITIONS = 5

# Why a corpus of tokens alone has no columns of rules.
WITHOUT_TEXT = "the corpus was not made from text, which rules read"

# The name of the folder that other stages look for beside their own.
MEASURES_FOLDER = "measures"
_MANIFEST = "measures.json"
_FILES = ("part-*.parquet", STEP_FILES, PART_FILES)


@names_copies
def measure(
    corpus: Corpus | str | PathLike[str],
    *,
    out: str | PathLike[str],
    num_threads: int | None = None,
    on: str = "local",
    num_workers: int | None = None,
    stage: str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> "Measures":
    """Measure what rules and noise filter read of each pair: its text, and its tokens.

    Reads the text once for the rules, and the tokens for the lexical and fluency scores; needs
    neither a proxy nor scores. A corpus that was not made from text has no columns of rules. Memory
    holds a few columns at a time, and the tables of `lexical_scores` and `fluency`.

    Args:
        corpus: an open Corpus, or the path of one; of a subset, the whole corpus is measured.
        out: the folder to make. Other stages find a folder named `measures` beside that of the
            scores or of the corpus. An interrupted run of the same corpus goes on in it after the
            last step that was finished, of rules, lexical scores and fluency scores; finished
            measures are opened as they are.
        num_threads: cores to use, None for all this process may use; the measures are the same.
        on, num_workers: where parts of 65,536 lines or pairs are measured, as in `score`: by
            threads of this process, by local worker processes, or on Ray. Each worker counts the
            same samples anew, of 500,000 pairs for the lexical and 1,000,000 for the fluency
            scores. They find the duplicates too, by ranges of hashes.
        stage: a folder on the own disk of this machine, and of each that has workers; the tokens
            are copied into it first, unless it has them already, and read there. Text is read
            where it lies.
        overwrite: replace measures of another corpus, or of an older pycat.

    Returns:
        The measures of the whole corpus.

    Raises:
        CorpusError: the corpus is damaged.
        TextError: the text is gone or changed.
        OutputError: `out` holds something else, or measures of another corpus.
        OSError: a file cannot be written.
    """
    corpus = as_corpus(corpus)
    if corpus.is_monolingual:
        raise CorpusError(
            f"{corpus.path}: is of monolingual text, and measures compare two sides; select by "
            "scores alone: --rules none --guard 0 (rules='none', guard=0)"
        )
    if num_threads is not None:
        check_number("num_threads", num_threads, low=1)
    place = None if is_here(on, num_workers) else {"on": on, "num_workers": num_workers}
    if corpus.files[2] is not None:
        corpus = reopen_corpus(corpus.path, corpus.options)
    if stage is not None:
        corpus = staged_corpus(corpus, stage)
    recipe = {"corpus": corpus.id, "definitions": _DEFINITIONS}
    with OutputFolder(
        Path(out), "measures", recipe, _FILES, overwrite, working=(STEP_FILES, PART_FILES)
    ) as folder:
        if folder.manifest is not None:
            return Measures.open(folder.path)
        with connected(on):
            steps = measure_steps(corpus, folder, num_threads, place)
        signals = corpus_signals(steps.column, *corpus.lengths, has_text=corpus.has_text)
        total = sum_of_squares((ranked for _, ranked in signals), len(corpus))
        num_parts = _write_parts(steps, total, folder)
        loud: dict[str, LoudRule] = {}
        if corpus.has_text:
            loud = loud_rules(corpus, _each_hit(complete_rules(), steps.names, steps.column))
        folder.finish(
            corpus=corpus.id,
            num_pairs=len(corpus),
            num_parts=num_parts,
            files=list_files(
                folder.path, [part_path(folder.path, index).name for index in range(num_parts)]
            ),
            without=_without(corpus),
            loud_rules=loud,
        )
    return Measures.open(folder.path)


class Measures:
    """Measures of N pairs, in pair order.

    Opening reads no column, and each use of one reads it anew: keep what is used twice.

    Attributes:
        path: the folder.
        manifest: `corpus`, the id of the corpus, `without`: why a rule has no column, and
            `loud_rules`: those that, at their default thresholds, hit more than a tenth of all
            pairs, each with its `hits` and `examples`.
    """

    def __init__(
        self,
        path: Path,
        manifest: Mapping[str, Any],
        dtypes: Mapping[str, np.dtype[Any]],
        pair_ids: NDArray[np.int64] | None = None,
    ) -> None:
        """Measures come from `measure`, `open` and `of`."""
        self.path, self.manifest = path, manifest
        self._dtypes, self._pair_ids = dtypes, pair_ids

    def __len__(self) -> int:
        num_pairs: int = self.manifest["num_pairs"]
        return num_pairs if self._pair_ids is None else len(self._pair_ids)

    def __repr__(self) -> str:
        return f"Measures({str(self.path)!r}, {len(self):,} pairs)"

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "Measures":
        """Open a folder; reads what the parts say of themselves, and no column.

        Raises:
            OutputError: not complete measures, of an older or a newer pycat, or a part is missing
                or damaged.
        """
        folder = Path(path)
        manifest = read_manifest(folder, "measures")
        definitions = manifest["recipe"]["definitions"]
        if definitions != _DEFINITIONS:
            raise OutputError(
                f"{folder}: holds measures of definitions {definitions}, expected {_DEFINITIONS}; "
                "measure the corpus again: pycat measure --overwrite (pycat.measure)"
            )
        dtypes: dict[str, np.dtype[Any]] | None = None
        for index in range(manifest["num_parts"]):
            part = part_path(folder, index)
            check_file(
                folder, manifest, part.name, f"delete {folder} and run 'pycat measure' again"
            )
            schema, num_rows = read_schema(part)
            expected = min(PART_PAIRS, manifest["num_pairs"] - index * PART_PAIRS)
            if num_rows != expected or (dtypes is not None and schema != dtypes):
                raise unreadable(part, f"{num_rows:,} rows of {', '.join(schema)}")
            dtypes = schema
        return cls(folder, manifest, dtypes or {})

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(self._dtypes)

    def of(self, corpus: Corpus) -> "Measures":
        """The measures of this corpus, or of the subset that it is.

        Raises:
            OutputError: they are of another corpus.
        """
        if self.manifest["corpus"] != corpus.manifest["id"]:
            raise OutputError(
                f"{self.path}: holds measures of another corpus than {corpus.path}, or of what it "
                "was before it was made anew; run "
                f"'{measure_command(corpus, self.path, overwrite=True)}'"
            )
        return Measures(self.path, self.manifest, self._dtypes, corpus.files[2])

    def column(self, name: str, first: int = 0, end: int | None = None) -> NDArray[Any]:
        """A column (N,), or its rows from `first` to `end`: only parts with such a row are read.

        Raises:
            PycatError: no such column.
            OutputError: a part is gone or damaged.
        """
        if name not in self._dtypes:
            why = self.manifest["without"].get(name) or self.manifest["without"].get("rules")
            raise PycatError(
                f"{self.path}: has no column {name!r}, expected one of {', '.join(self.names)}"
                + (f"; {why}" if why else "")
            )
        end = len(self) if end is None else end
        values = np.empty(max(end - first, 0), self._dtypes[name])
        done = 0
        for index, rows in self._parts(first, end):
            chosen = read_column(part_path(self.path, index), name)[rows]
            values[done : done + len(chosen)] = chosen
            done += len(chosen)
        return values

    def each_hit(
        self, rules: Mapping[str, float | None] | None = None
    ) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Each rule that is switched on, and which pairs (N,) it would drop, one after the other.

        Args:
            rules: thresholds that differ from `DEFAULT_RULES`, None to switch a rule off.

        Raises:
            PycatError: an unknown rule.
        """
        return _each_hit(complete_rules(rules), self.names, self.column)

    def hits(self, rules: Mapping[str, float | None] | None = None) -> dict[str, NDArray[np.bool_]]:
        """`each_hit`, all together: a byte a pair and rule."""
        return dict(self.each_hit(rules))

    def apply(
        self, rules: Mapping[str, float | None] | None = None
    ) -> tuple[NDArray[np.bool_], dict[str, int]]:
        """Which pairs (N,) no rule drops, and how many each rule hits.

        A pair that several rules hit counts for each of them. Holds one column at a time.

        Raises:
            PycatError: an unknown rule.
        """
        kept, counts = np.ones(len(self), bool), {}
        for rule, hit in self.each_hit(rules):
            kept &= ~hit
            counts[rule] = int(np.count_nonzero(hit))
        return kept, counts

    def broken_by(self, row: int, rules: Mapping[str, float | None] | None = None) -> list[str]:
        """The rules that would drop the pair in this row; of most columns only its part is read.

        Raises:
            PycatError: an unknown rule.
        """
        broken = []
        for rule, threshold in self._thresholds(rules).items():
            if counts_group(rule):
                groups = self.column(RULE_COLUMNS[rule], 0, row + 1)
                values = np.array([np.count_nonzero(groups[:-1] == groups[-1])])
            else:
                values = self.column(RULE_COLUMNS[rule], row, row + 1)
            if breaks(rule, values, threshold)[0]:
                broken.append(rule)
        return broken

    def verify(self) -> None:
        """Read every part in full, and compare it with the manifest.

        Raises:
            OutputError: names the first file that is not as it was written.
        """
        for name, listed in self.manifest.get("files", {}).items():
            if problem := problem_with(self.path, name, listed, full=True):
                raise unreadable(self.path / name, problem)
        for index in range(self.manifest["num_parts"]):
            part = part_path(self.path, index)
            for name in self.names:
                values = read_column(part, name)
                first = index * PART_PAIRS
                if name == "pair" and (values != np.arange(first, first + len(values))).any():
                    raise unreadable(part, "its pair ids are others")

    def noise_score(self, table: ScoreTable | None = None) -> Floats:
        """How likely each pair is noise: the share of pairs that are less suspect, (N,) in [0, 1).

        Without a table it ranks pairs as the column `noise_score` does.

        Args:
            table: scores of these N pairs; where it has entropy, the model's surprise counts too.

        Raises:
            PycatError: the table holds another number of pairs.
        """
        total = self.column("noise_evidence")
        if table is not None:
            if len(table) != len(self):
                raise PycatError(
                    f"{table.path or 'score table'}: holds {len(table):,} pairs, expected the "
                    f"{len(self):,} of {self.path}; take Measures.of(corpus.subset(pair_ids))"
                )
            if (ranked := surprise_evidence(table)) is not None:
                total += np.square(ranked)
        return noise_score(total)

    def _parts(self, first: int, end: int) -> Iterator[tuple[int, slice | NDArray[np.int64]]]:
        """Each part that holds one of these rows, and where in the part they are."""
        if self._pair_ids is None:
            for index in range(first // PART_PAIRS, -(-end // PART_PAIRS)):
                begin = index * PART_PAIRS
                yield index, slice(max(first - begin, 0), end - begin)
            return
        wanted = self._pair_ids[first:end]
        begins = np.arange(self.manifest["num_parts"] + 1) * PART_PAIRS
        for index, (low, high) in enumerate(pairwise(np.searchsorted(wanted, begins))):
            if low < high:
                yield index, wanted[low:high] - begins[index]

    def _thresholds(self, rules: Mapping[str, float | None] | None) -> dict[str, float]:
        """Of the rules that are switched on and have a column."""
        return {
            rule: threshold
            for rule, threshold in complete_rules(rules).items()
            if threshold is not None and RULE_COLUMNS[rule] in self._dtypes
        }


def _each_hit(
    thresholds: Mapping[str, float | None],
    names: Collection[str],
    column: Callable[[str], NDArray[Any]],
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each rule that is switched on and has a column, and which pairs (N,) it would drop."""
    for rule, threshold in thresholds.items():
        if threshold is not None and RULE_COLUMNS[rule] in names:
            values = column(RULE_COLUMNS[rule])
            values = copies_before(values) if counts_group(rule) else values
            yield rule, breaks(rule, values, threshold)


def find_measures(
    table: ScoreTable, corpus: Corpus, given: Measures | str | PathLike[str] | None = None
) -> Measures | None:
    """The measures of a table's pairs; None where none are given and none are found.

    Args:
        table: scores of the pairs of `corpus`.
        corpus: the corpus that was scored, or the subset.
        given: measures or their folder. Without them, a folder `measures` beside that of the
            table, then beside that of the corpus, is opened if it is of this corpus.

    Raises:
        OutputError: the measures given are of another corpus; or those that were found are
            unfinished, of an older pycat or damaged.
    """
    if given is not None:
        return (given if isinstance(given, Measures) else Measures.open(given)).of(corpus)
    for folder in _places(table, corpus):
        if (folder / _MANIFEST).is_file():
            measures = Measures.open(folder)
            if measures.manifest["corpus"] == corpus.manifest["id"]:
                return measures.of(corpus)
    return None


def all_finished(table: ScoreTable, corpus: Corpus) -> bool:
    """Whether `find_measures` meets no folder that is unfinished or of an older pycat.

    Raises:
        OutputError: the manifest of a folder is damaged.
    """
    for folder in _places(table, corpus):
        if (folder / _MANIFEST).is_file():
            manifest = load_manifest(folder / _MANIFEST)
            definitions = (manifest.get("recipe") or {}).get("definitions")
            if not manifest.get("complete") or definitions != _DEFINITIONS:
                return False
    return True


def no_measures(table: ScoreTable, corpus: Corpus) -> OutputError:
    """The error that the measures of a table's pairs are needed and were not found."""
    places = _places(table, corpus)
    replaces = (places[0] / _MANIFEST).exists()  # those of another corpus
    return OutputError(
        f"{' and '.join(map(str, places))}: expected the measures of {corpus.path}, which rules "
        "and noise filter read, found none of this corpus; run "
        f"'{measure_command(corpus, places[0], overwrite=replaces)}' (pycat.measure), name another "
        "folder (--measures, measures=...), or leave both out: --rules none --guard 0 "
        "(rules='none', guard=0)"
    )


def measure_command(corpus: Corpus, out: Path, *, overwrite: bool = False) -> str:
    """The command that measures this corpus into a folder."""
    options = dict(corpus.options)
    files = options.pop("prefixes", None)
    paths = [corpus.path] if files is None else [corpus.path / file for file in files]
    if "tokenizer" in options:
        options["tokenizer"] = corpus.path / options["tokenizer"]
    words = ["pycat", "measure", "--corpus", *map(str, paths)]
    for name, value in options.items():
        if value is not None:
            given = ",".join(value) if isinstance(value, list | tuple) else str(value)
            words += [f"--{name.replace('_', '-')}", given]
    return shlex.join([*words, "--out", str(out), *(["--overwrite"] if overwrite else [])])


def _places(table: ScoreTable, corpus: Corpus) -> list[Path]:
    """Where measures are looked for: beside the folder of the table, and beside the corpus's."""
    folders = [corpus.path.resolve()] if table.path is None else [table.path, corpus.path.resolve()]
    places = [folder.parent / MEASURES_FOLDER for folder in folders]
    return places[:1] if places[0].resolve() == places[-1] else places


def _without(corpus: Corpus) -> dict[str, str]:
    """Why rules, or some of them, have no columns."""
    if not corpus.has_text:
        return {"rules": WITHOUT_TEXT}
    without = language_codes(corpus)[1]
    if corpus.src_vocab_size is not None:
        why = "source and target have vocabularies of their own"
        without |= {"src_foreign": why, "tgt_foreign": why}
    return without


def _write_parts(steps: Steps, total: NDArray[np.float32], folder: OutputFolder) -> int:
    """Write the parts, with the noise score of each pair; returns how many they are."""
    num_pairs, score = len(total), noise_score(total).astype(np.float32)
    with progress("write measures", num_pairs, "pairs") as advance:
        firsts = range(0, num_pairs, PART_PAIRS)
        for index, first in enumerate(firsts):
            end = min(first + PART_PAIRS, num_pairs)
            table = steps.part(index).add_column(0, "pair", pa.array(np.arange(first, end)))
            for name, values in (("noise_evidence", total), ("noise_score", score)):
                table = table.append_column(name, pa.array(values[first:end]))
            with replacing(part_path(folder.path, index)) as temporary:
                pq.write_table(table, temporary, **measure_file_options(table.schema))
            advance(end - first)
    return len(firsts)
