"""Cheap rules that drop pairs before any model sees them: the thresholds, and whom they drop.

`rule_measures` reads a corpus's text once and writes `rules.parquet` beside it, a row for a pair.
`RuleTable.apply` says which pairs a set of thresholds drops, and how many each rule hits.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat._core import copies_before
from pycat.data.corpus import RULES_FILE, Corpus
from pycat.errors import OutputError, PycatError

FORMAT = "pycat.rules.2"

# What each threshold means stands in docs/format.md; None switches a rule off.
DEFAULT_RULES: dict[str, float | None] = {
    "duplicate": 1,
    "near_duplicate": 1,
    "target_copies": 5,
    "copied": 0.6,
    "src_language": 0.02,
    "tgt_language": 0.02,
    "src_foreign": 0.15,
    "tgt_foreign": 0.15,
    "length_z": 4.0,
    "letters": 0.5,
    "numbers": 0.34,
    "encoding": 0,
    "repeated": 0.25,
}

# The column that each rule compares; of groups, the earlier pairs of the same group are counted.
_COLUMNS = {
    "duplicate": "pair_group",
    "near_duplicate": "near_group",
    "target_copies": "tgt_group",
    "copied": "overlap",
    "src_language": "src_language",
    "tgt_language": "tgt_language",
    "src_foreign": "src_foreign",
    "tgt_foreign": "tgt_foreign",
    "length_z": "length_z",
    "letters": "letters",
    "numbers": "number_mismatch",
    "encoding": "num_damaged",
    "repeated": "repetition",
}


class RuleColumns(Mapping[str, NDArray[Any]]):
    """The columns (N,) of a rules file, each read anew whenever it is asked for.

    Raises:
        OutputError: when a column is read that is damaged.
    """

    def __init__(self, file: pq.ParquetFile, path: Path, rows: NDArray[np.int64] | None) -> None:
        """The columns of all rows, or of those, ascending."""
        self._file, self._path, self._rows = file, path, rows
        self._names: list[str] = file.schema_arrow.names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.rows(name)

    @property
    def num_rows(self) -> int:
        """N."""
        return self._file.metadata.num_rows if self._rows is None else len(self._rows)

    def rows(self, name: str, first: int = 0, end: int | None = None) -> NDArray[Any]:
        """A range of N, by default all of it: only row groups with such a row are read."""
        if name not in self._names:
            raise KeyError(name)
        end = self.num_rows if end is None else end
        dtype = self._file.schema_arrow.field(name).type.to_pandas_dtype()
        values = np.empty(end - first, dtype)
        begin = done = 0
        for group in range(self._file.num_row_groups):
            stop = begin + self._file.metadata.row_group(group).num_rows
            # Of the rows wanted, those of this group; by their number in it.
            if self._rows is None:
                here: Any = slice(max(first, begin) - begin, max(min(end, stop) - begin, 0))
                count = max(min(end, stop) - max(first, begin), 0)
            else:
                wanted = self._rows[first:end]
                at, to = np.searchsorted(wanted, (begin, stop))
                here, count = wanted[at:to] - begin, int(to - at)
            if count:
                values[done : done + count] = self._read(name, group)[here]
                done += count
            begin = stop
        return values

    def _read(self, name: str, group: int) -> NDArray[Any]:
        try:
            column: NDArray[Any] = self._file.read_row_group(group, [name])[name].to_numpy()
            if len(column) != (expected := self._file.metadata.row_group(group).num_rows):
                raise ValueError(f"{len(column):,} rows, expected {expected:,}")
        except (OSError, ValueError, pa.ArrowException) as error:
            raise OutputError(
                f"{self._path}: column {name} cannot be read ({error}); delete the file and "
                "measure the rules again (pycat.measure_rules)"
            ) from None
        return column


@dataclass(frozen=True)
class RuleTable:
    """Measurements of N pairs, in pair order.

    Opening reads no column, and each use of one reads it anew: keep what is used twice.

    Attributes:
        columns: by the names that docs/format.md gives, (N,) each. A language column is missing
            where the corpus names no language that is known.
        manifest: the corpus, versions, and `without`: why a column is missing.
    """

    columns: RuleColumns
    manifest: Mapping[str, Any]

    def __len__(self) -> int:
        return self.columns.num_rows

    @classmethod
    def open(cls, corpus: Corpus) -> "RuleTable":
        """The rules of this corpus, or of the part of it that it is a view of.

        Raises:
            OutputError: they have not been measured, or by an older pycat, or the file is damaged
                or of another corpus.
        """
        path = corpus.path / RULES_FILE
        remedy = "measure the rules again (pycat.measure_rules)"
        try:
            file = pq.ParquetFile(path, page_checksum_verification=True)
            manifest = json.loads(file.schema_arrow.metadata[b"pycat"])
            written_as, id_ = manifest["format"], manifest["corpus"]
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise OutputError(f"{path}: cannot be read ({error}); {remedy}") from None
        if written_as != FORMAT:
            raise OutputError(f"{path}: found format {written_as}, expected {FORMAT}; {remedy}")
        whole, num_rows = corpus.manifest, file.metadata.num_rows
        if id_ != whole["id"] or num_rows != whole["num_pairs"]:
            raise OutputError(
                f"{path}: holds {num_rows:,} pairs of corpus {id_[:12]}, "
                f"expected {whole['num_pairs']:,} of {whole['id'][:12]}; {remedy}"
            )
        rows = corpus.pair_ids if len(corpus) < num_rows else None
        return cls(RuleColumns(file, path, rows), manifest)

    def each_hit(
        self, rules: Mapping[str, float | None] | None = None
    ) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Each rule that is switched on, and which pairs (N,) it would drop, one after the other.

        Args:
            rules: thresholds that differ from `DEFAULT_RULES`, None to switch a rule off.

        Raises:
            PycatError: an unknown rule.
        """
        for rule, threshold in self._thresholds(rules).items():
            values = self.columns[_COLUMNS[rule]]
            if _COLUMNS[rule].endswith("_group"):
                values = copies_before(values)
            yield rule, _breaks(rule, values, threshold)

    def hits(self, rules: Mapping[str, float | None] | None = None) -> dict[str, NDArray[np.bool_]]:
        """`each_hit`, all together: a byte a pair and rule."""
        return dict(self.each_hit(rules))

    def broken_by(self, row: int, rules: Mapping[str, float | None] | None = None) -> list[str]:
        """The rules that would drop the pair in this row; of most columns only that row is read.

        Raises:
            PycatError: an unknown rule.
        """
        broken = []
        for rule, threshold in self._thresholds(rules).items():
            name = _COLUMNS[rule]
            if name.endswith("_group"):
                groups = self.columns.rows(name, 0, row + 1)
                values = np.array([np.count_nonzero(groups[:-1] == groups[-1])])
            else:
                values = self.columns.rows(name, row, row + 1)
            if _breaks(rule, values, threshold)[0]:
                broken.append(rule)
        return broken

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

    def _thresholds(self, rules: Mapping[str, float | None] | None) -> dict[str, float]:
        """Of the rules that are switched on and have a column."""
        return {
            rule: threshold
            for rule, threshold in complete_rules(rules).items()
            if threshold is not None and _COLUMNS[rule] in self.columns
        }


def _breaks(rule: str, values: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Whether each value (N,) of the rule's column, of groups the count, is out of bounds."""
    broken: NDArray[np.bool_]
    if _COLUMNS[rule].endswith("_group"):
        broken = values >= threshold
    elif rule in ("src_language", "tgt_language", "letters"):
        broken = values < threshold
    elif rule == "length_z":
        broken = np.abs(values) > threshold
    else:
        broken = values > threshold
    return broken


def complete_rules(rules: Mapping[str, float | None] | None = None) -> dict[str, float | None]:
    """`DEFAULT_RULES` with these changes.

    Raises:
        PycatError: an unknown rule, or a threshold that is not a number.
    """
    given = dict(rules or {})
    if strangers := [name for name in given if name not in DEFAULT_RULES]:
        raise PycatError(
            f"rule {strangers[0]!r} is not known; expected one of {', '.join(DEFAULT_RULES)}"
        )
    for name, value in given.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise PycatError(f"rule {name} is {value!r}; expected a number, or null for no rule")
    return {**DEFAULT_RULES, **given}


def recorded_rules(thresholds: Mapping[str, float | None]) -> dict[str, float | None]:
    """Thresholds that a selection recorded: a rule that was not known then is switched off."""
    return {**dict.fromkeys(DEFAULT_RULES), **thresholds}


def read_rules(
    given: str | PathLike[str] | Mapping[str, float | None] | None,
) -> dict[str, float | None] | None:
    """Thresholds that differ from `DEFAULT_RULES`; None for no rules at all.

    Args:
        given: "default", "none" or None, a JSON file of thresholds, or thresholds.

    Raises:
        PycatError: no such file, not JSON, or an unknown rule.
    """
    if given is None or given == "none":
        return None
    if given == "default":
        return {}
    rules: object = given
    if not isinstance(given, Mapping):
        try:
            rules = json.loads(Path(given).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise PycatError(
                f"{given}: cannot be read as rules ({error}); expected default, none, or a JSON "
                'file such as {"copied": 0.7, "numbers": null}'
            ) from None
    if not isinstance(rules, Mapping):
        raise PycatError(f"{given}: expected a JSON object of rules, found {type(rules).__name__}")
    complete_rules(rules)
    return dict(rules)
