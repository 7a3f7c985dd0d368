"""Cheap rules that drop pairs before any model sees them: what is measured, and the thresholds.

`measure_rules` reads a corpus's text once and writes `rules.parquet` beside it, a row for a pair.
`RuleTable.apply` says which pairs a set of thresholds drops, and how many each rule hits.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat.corpus import RULES_FILE, Corpus
from pycat.duplicates import NUM_BANDS, band_hashes, connected, first_of_equal
from pycat.errors import OutputError, PycatError
from pycat.language import language_model
from pycat.output import replacing
from pycat.parallel_text import Chunk, ParallelText
from pycat.progress import progress
from pycat.tokenizing import in_order

# What each threshold means stands in docs/format.md; None switches a rule off.
DEFAULT_RULES: dict[str, float | None] = {
    "duplicate": 1,
    "near_duplicate": 1,
    "target_copies": 5,
    "copied": 0.6,
    "src_language": 0.02,
    "tgt_language": 0.02,
    "length_z": 4.0,
    "letters": 0.5,
    "numbers": 0.5,
    "encoding": 0,
}

_ROW_GROUP = 65_536

# U+FFFD; and what UTF-8 turns into when it is read as Latin-1 or Windows-1252 and written again.
_DAMAGE = re.compile(
    rb"\xef\xbf\xbd|\xc3[\x82\x83](?:\xc2[\x80-\xbf]|\xc5[\x92\x93\xa0\xa1\xb8\xbd\xbe]|\xe2[\x80-\x84])"
)
_PUNCTUATION = bytes(range(33)) + b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_IS_LETTER = np.array(
    [bytes([byte]).isalpha() or byte >= 0x80 for byte in range(256)], dtype=np.uint8
)


@dataclass(frozen=True)
class RuleTable:
    """Measurements of N pairs, in pair order.

    Attributes:
        columns: by the names that docs/format.md gives, (N,) each. A language column is missing
            where the corpus names no language that is known.
        manifest: the corpus, versions, and `without`: why a column is missing.
    """

    columns: Mapping[str, NDArray[Any]]
    manifest: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.columns["pair"])

    @classmethod
    def open(cls, corpus: Corpus) -> "RuleTable":
        """The rules of this corpus, or of the part of it that it is a view of.

        Raises:
            OutputError: they have not been measured, or the file is damaged or of another corpus.
        """
        path = corpus.path / RULES_FILE
        remedy = "measure the rules again (pycat.measure_rules)"
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            manifest = json.loads(table.schema.metadata[b"pycat"])
            columns = {name: table[name].to_numpy() for name in table.column_names}
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise OutputError(f"{path}: cannot be read ({error}); {remedy}") from None
        whole = corpus.manifest
        if manifest["corpus"] != whole["id"] or table.num_rows != whole["num_pairs"]:
            raise OutputError(
                f"{path}: holds {table.num_rows:,} pairs of corpus {manifest['corpus'][:12]}, "
                f"expected {whole['num_pairs']:,} of {whole['id'][:12]}; {remedy}"
            )
        if len(corpus) < table.num_rows:
            columns = {name: values[corpus.pair_ids] for name, values in columns.items()}
        return cls(columns, manifest)

    def hits(self, rules: Mapping[str, float | None] | None = None) -> dict[str, NDArray[np.bool_]]:
        """Which pairs (N,) each rule that is switched on would drop.

        Args:
            rules: thresholds that differ from `DEFAULT_RULES`, None to switch a rule off.

        Raises:
            PycatError: an unknown rule.
        """
        thresholds = complete_rules(rules)
        column, hits = self.columns, {}
        for rule, threshold in thresholds.items():
            if threshold is None or (rule.endswith("_language") and rule not in column):
                continue
            if rule == "duplicate":
                hit = copies_before(column["pair_group"]) >= threshold
            elif rule == "near_duplicate":
                hit = copies_before(column["near_group"]) >= threshold
            elif rule == "target_copies":
                hit = copies_before(column["tgt_group"]) >= threshold
            elif rule == "copied":
                hit = column["overlap"] > threshold
            elif rule in ("src_language", "tgt_language"):
                hit = column[rule] < threshold
            elif rule == "length_z":
                hit = np.abs(column["length_z"]) > threshold
            elif rule == "letters":
                hit = column["letters"] < threshold
            elif rule == "numbers":
                hit = column["number_mismatch"] > threshold
            else:
                hit = column["num_damaged"] > threshold
            hits[rule] = hit
        return hits

    def apply(
        self, rules: Mapping[str, float | None] | None = None
    ) -> tuple[NDArray[np.bool_], dict[str, int]]:
        """Which pairs (N,) no rule drops, and how many each rule hits.

        A pair that several rules hit counts for each of them.

        Raises:
            PycatError: an unknown rule.
        """
        hits = self.hits(rules)
        kept = np.ones(len(self), bool)
        for hit in hits.values():
            kept &= ~hit
        return kept, {rule: int(hit.sum()) for rule, hit in hits.items()}


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


def copies_before(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many earlier rows (N,) have the same group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    begins = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    sizes = np.diff(begins, append=len(groups))
    before = np.empty(len(groups), np.int64)
    before[order] = np.arange(len(groups)) - np.repeat(begins, sizes)
    return before


def measure_rules(corpus: Corpus, *, num_threads: int | None = None) -> RuleTable:
    """Measure every rule of a corpus, reading its text once; what is measured is opened as it is.

    Holds about 430 bytes a pair (measured on 330,000), since duplicates are grouped over all of
    them.

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
    pieces: list[dict[str, NDArray[Any]]] = []
    with progress("rules", text.file_bytes / 1e6, "MB") as advance:
        kept = corpus.kept_lines
        chunks = text.chunks(lambda num_bytes: advance(num_bytes / 1e6))
        for piece in in_order(
            # Empty arrays have no windows; a corpus has a pair, so one chunk at least is measured.
            (chunk for chunk in chunks if kept[_lines_of(chunk)].any()),
            partial(_measure_chunk, text, kept, codes),
            num_threads or len(os.sched_getaffinity(0)),
        ):
            pieces.append(piece)
    columns = {
        name: np.concatenate([piece.pop(name) for piece in pieces]) for name in list(pieces[0])
    }
    whole = corpus.manifest
    if len(columns["overlap"]) != whole["num_pairs"]:
        raise OutputError(
            f"{corpus.path}: the text gives {len(columns['overlap']):,} pairs, expected "
            f"{whole['num_pairs']:,}; run 'pycat tokenize' again"
        )
    _group(columns)
    columns["length_z"] = length_z(columns["src_chars"], columns["tgt_chars"])
    columns = {"pair": np.arange(whole["num_pairs"]), **columns}
    manifest = {"format": "pycat.rules.1", "corpus": whole["id"], "without": without}
    table = pa.table(columns).replace_schema_metadata({"pycat": json.dumps(manifest)})
    with replacing(corpus.path / RULES_FILE) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            row_group_size=_ROW_GROUP,
            write_page_checksum=True,
        )
    del table, columns
    return RuleTable.open(corpus)


def length_z(src_chars: NDArray[np.int32], tgt_chars: NDArray[np.int32]) -> NDArray[np.float32]:
    """How far the lengths of a pair are from those of a translation, in standard deviations.

    (tgt - c src) / (s sqrt((tgt + c src) / 2)): with c the corpus's own ratio of lengths, and s
    such that half of the pairs lie within 0.67, at least 1; positive where the target is long. The
    ratio of short pairs may differ more. Source: Gale and Church 1993, section 3.2, symmetrised.
    """
    src, tgt = src_chars.astype(np.float64) + 1, tgt_chars.astype(np.float64) + 1
    src *= np.exp(np.median(np.log(tgt / src)))
    deviation = (tgt - src) / np.sqrt((tgt + src) / 2)
    spread = np.median(np.abs(deviation)) / 0.6745
    z: NDArray[np.float32] = (deviation / max(spread, 1.0)).astype(np.float32)
    return z


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


def _lines_of(chunk: Chunk) -> slice:
    """Its lines among those of the text, from 0."""
    return slice(chunk.first - 1, chunk.first - 1 + len(chunk))


def _measure_chunk(
    text: ParallelText,
    kept: NDArray[np.bool_],
    codes: tuple[str, ...] | None,
    chunk: Chunk,
) -> dict[str, NDArray[Any]]:
    """The columns of the pairs, at least one, of a chunk; hashes that `_group` makes columns of."""
    rows = np.flatnonzero(kept[_lines_of(chunk)]).tolist()
    src, tgt = ([side[row] for row in rows] for side in text.columns(chunk))
    src_letters, tgt_letters = _Letters(src), _Letters(tgt)
    columns: dict[str, NDArray[Any]] = {
        "src_chars": src_letters.count_chars(),
        "tgt_chars": tgt_letters.count_chars(),
        "overlap": _overlap(src, tgt),
        "letters": np.minimum(src_letters.share_of_letters(), tgt_letters.share_of_letters()),
        "number_mismatch": _number_mismatch(src_letters, tgt_letters),
        "num_damaged": _count_damage(src) + _count_damage(tgt),
    }
    if codes is not None:
        for name, side, code in zip(
            ("src_language", "tgt_language"), (src, tgt), codes, strict=True
        ):
            columns[name] = language_model().probability(side, code)
    bands = band_hashes([_plain(a) + b"\t" + _plain(b) for a, b in zip(src, tgt, strict=True)])
    for band in range(NUM_BANDS):
        columns[f"band_{band}"] = bands[:, band].copy()
    # Python salts these anew in each process, but which lines are equal stays.
    for name, side in (("src_group", src), ("tgt_group", tgt)):
        columns[name] = np.fromiter(map(hash, side), np.int64, len(side))
    columns["pair_group"] = np.fromiter(map(hash, zip(src, tgt, strict=True)), np.int64, len(src))
    return columns


def _group(columns: dict[str, NDArray[Any]]) -> None:
    """Replace hashes by the least pair id of each group."""
    for name in ("pair_group", "src_group", "tgt_group"):
        columns[name] = first_of_equal(columns[name])
    links = [first_of_equal(columns.pop(f"band_{band}")) for band in range(NUM_BANDS)]
    columns["near_group"] = connected(links, len(columns["pair_group"]))


def _plain(line: bytes) -> bytes:
    """Without case, blanks and ASCII punctuation."""
    if line.isascii():
        return line.lower().translate(None, _PUNCTUATION)
    return line.decode().casefold().encode().translate(None, _PUNCTUATION)


def _count_damage(lines: Sequence[bytes]) -> NDArray[np.int32]:
    """Damaged characters of each line (N,)."""
    # Most often there is none in all of them, which one search tells.
    if _DAMAGE.search(b"\n".join(lines)) is None:
        return np.zeros(len(lines), np.int32)
    return np.fromiter((len(_DAMAGE.findall(line)) for line in lines), np.int32, len(lines))


class _Letters:
    """The bytes of many lines, one behind the other."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self.bytes = np.frombuffer(b"".join(lines), np.uint8)
        self.lengths = np.fromiter(map(len, lines), np.int64, len(lines))
        self.ends = np.cumsum(self.lengths)

    def count(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many bytes of each line (N,) are chosen."""
        before = np.zeros(len(chosen) + 1, np.int64)
        np.cumsum(chosen, out=before[1:])
        counts: NDArray[np.int64] = before[self.ends] - before[self.ends - self.lengths]
        return counts

    def count_chars(self) -> NDArray[np.int32]:
        """Characters of each line (N,)."""
        return self.count((self.bytes & 0xC0) != 0x80).astype(np.int32)

    def share_of_letters(self) -> NDArray[np.float32]:
        """Of the bytes that are not blank (N,); all beyond ASCII count as letters."""
        letters, blanks = self.count(_IS_LETTER[self.bytes] > 0), self.count(self.bytes <= 32)
        share: NDArray[np.float32] = letters / np.maximum(self.lengths - blanks, 1)
        return share.astype(np.float32)

    def count_digits(self) -> NDArray[np.int64]:
        """Occurrences of each digit (N, 10)."""
        at = np.flatnonzero((self.bytes >= 48) & (self.bytes <= 57))
        cells = np.searchsorted(self.ends, at, side="right") * 10 + (self.bytes[at] - 48)
        return np.bincount(cells, minlength=10 * len(self.lengths)).reshape(-1, 10)


def _number_mismatch(src: _Letters, tgt: _Letters) -> NDArray[np.float32]:
    """Share (N,) of the digits of both sides that the other side lacks.

    0 where a side has none, since a number may be spelled out. Separators and order do not count.
    """
    a, b = src.count_digits(), tgt.count_digits()
    both = a.sum(1) + b.sum(1)
    mismatch = np.abs(a - b).sum(1) / np.maximum(both, 1)
    mismatch[(a.sum(1) == 0) | (b.sum(1) == 0)] = 0
    rounded: NDArray[np.float32] = mismatch.astype(np.float32)
    return rounded


def _overlap(src: Sequence[bytes], tgt: Sequence[bytes]) -> NDArray[np.float32]:
    """Share (N,) of the distinct 4-byte n-grams of the target that occur in the source."""
    # One sort brings equal n-grams of both sides of a pair together, the source's first.
    codes = np.concatenate((_grams(src, 0), _grams(tgt, 1)))
    codes.sort()
    codes = codes[np.concatenate(([True], codes[1:] != codes[:-1]))]
    is_tgt = codes & np.uint64(1) > 0
    shared = np.zeros(len(codes), bool)
    shared[1:] = is_tgt[1:] & (codes[1:] - codes[:-1] == 1)
    rows = (codes >> np.uint64(33)).astype(np.int64)
    found, all_ = (np.bincount(rows[chosen], minlength=len(src)) for chosen in (shared, is_tgt))
    share: NDArray[np.float32] = (found / np.maximum(all_, 1)).astype(np.float32)
    return share


def _grams(lines: Sequence[bytes], side: int) -> NDArray[np.uint64]:
    """Row << 33 | 4-byte n-gram << 1 | side; the ends of a line count as blanks."""
    lowered = b"".join(b"  " + line.lower() + b"  " for line in lines)
    letters = np.frombuffer(lowered, np.uint8)
    lengths = np.fromiter(map(len, lines), np.int64, len(lines)) + 1
    rows = np.repeat(np.arange(len(lines)), lengths)
    # An n-gram for each of length + 4 bytes but the last three.
    grams = np.lib.stride_tricks.sliding_window_view(letters, 4)[np.arange(len(rows)) + 3 * rows]
    codes = np.ascontiguousarray(grams).view("<u4")[:, 0].astype(np.uint64)
    return rows.astype(np.uint64) << np.uint64(33) | codes << np.uint64(1) | np.uint64(side)
