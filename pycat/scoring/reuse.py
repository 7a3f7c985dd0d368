"""Sums of an earlier table for those pairs of a corpus that it holds already.

A sum depends on a pair's tokens and the checkpoint alone. So a corpus that has grown, shrunk or
been put in another order takes over what an earlier table holds of its pairs, found by a hash of
their tokens, and only the rest is scored.

The join runs in bounded memory, whatever the sizes of both corpora: hashes are laid into files by
their first bits, each pile is joined by sorting, the matches are laid into files by their rows of
the earlier table, and its columns are read once in their order.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.kernels.stat_names import STAT_NAMES
from pycat.runtime.output import digest, naming
from pycat.runtime.progress import progress
from pycat.scores.parts import PART_PAIRS, read_part, stored_type
from pycat.scores.score_table import ScoreTable
from pycat.scoring.reduced_precision import EXACT_FILE
from pycat.scoring.truncation import KeptLengths

# Where `prune` sets its folders aside while it makes them anew; deleted when that is done.
SET_ASIDE = "before"

# What the join writes beside the parts of a table while it is made.
WORKING_FILES = "reused-*.tmp"

_PILE_PAIRS = 1 << 20  # 24 bytes each, in memory several times while they are sorted
_BLOCK_PAIRS = 8192  # whose tokens are in memory, 8 bytes each

# Between the tokens of source and target. No token is negative.
_BETWEEN = np.array([-1], "<i4").tobytes()

_HASHED = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<i8")])
_MATCH = np.dtype([("earlier", "<i8"), ("row", "<i8")])


@dataclass(frozen=True)
class Earlier:
    """A table that a corpus's sums may come from, and what of it belongs to the K checkpoints.

    Attributes:
        table: of N' pairs.
        corpus: view of these pairs, in the order of the rows.
        places: for each of the K checkpoints, its place among those of the table.
        stats: names of the statistics to take.
        not_reduced: rows whose sums are those of float32 although the table is of another type.
    """

    table: ScoreTable
    corpus: Corpus
    places: tuple[int, ...]
    stats: tuple[str, ...]
    not_reduced: NDArray[np.int64]

    @classmethod
    def of(cls, table: ScoreTable, corpus: Corpus, recipe: Mapping[str, Any]) -> "Earlier":
        """Check that sums of `table` are those that `recipe`, of a table of `corpus`, asks for.

        Raises:
            PycatError: it has other checkpoints, another type, device or tokenizer, or fewer
                statistics.
            CorpusError: the corpus that was scored is gone or changed.
        """
        name, own = str(table.path or "the table in memory"), table.manifest["recipe"]
        known = list(own.get("checkpoints") or ())
        unknown = [sha256 for sha256 in recipe["checkpoints"] if sha256 not in known]
        if unknown:
            raise PycatError(
                f"{name}: holds no scores under {len(unknown)} of the {len(recipe['checkpoints'])} "
                f"checkpoints, such as that of SHA-256 {unknown[0][:12]}…, so none can be taken "
                "over; pass the checkpoints that it was scored with, or leave --base out"
            )
        stats = STAT_NAMES if recipe.get("stats") == "all" else ("nll",)
        earlier = table.view_of(table.corpus())
        missing = [stat for stat in stats if stat not in table.statistics]
        for what, found, expected in (
            ("dtype", own.get("dtype"), recipe["dtype"]),
            ("device", own.get("device"), recipe["device"]),
            ("statistics", list(table.statistics), [*stats] if missing else list(table.statistics)),
            (
                "tokenizer",
                earlier.manifest["tokenizer_sha256"],
                corpus.manifest["tokenizer_sha256"],
            ),
            ("special tokens", earlier.template.to_json(), corpus.template.to_json()),
        ):
            if found != expected:
                raise PycatError(
                    f"{name}: found {what} {found}, expected {expected}, so that scores can be "
                    "taken over; pass the option that it was scored with, or leave --base out"
                )
        places = tuple(map(known.index, recipe["checkpoints"]))
        return cls(table, earlier, places, tuple(stats), _not_reduced(table, name))

    @property
    def columns(self) -> dict[str, str]:
        """Names of the columns to make, each with its name in the table."""
        return {
            f"{stat}_{k}": f"{stat}_{place}"
            for stat in self.stats
            for k, place in enumerate(self.places)
        }


def _not_reduced(table: ScoreTable, name: str) -> NDArray[np.int64]:
    """Rows (n,) of a table of reduced precision that were scored again in float32.

    Raises:
        PycatError: there are such rows, and the table does not say which.
    """
    if not _has_exact_pairs(table.manifest):
        return np.empty(0, np.int64)
    if table.path is None or not (table.path / EXACT_FILE).is_file():
        raise PycatError(
            f"{name}: some of its pairs were scored again in float32, and {EXACT_FILE}, which says "
            "which, is not there; leave --base out"
        )
    rows: NDArray[np.int64] = read_part(table.path / EXACT_FILE, ["row"])["row"].to_numpy()
    return rows


def _has_exact_pairs(manifest: Mapping[str, Any]) -> bool:
    return "exact_cut" in manifest or any(map(_has_exact_pairs, manifest.get("inputs") or ()))


@dataclass(frozen=True)
class SumsFile:
    """A file of sums of the N pairs of a corpus, some of which are there.

    Attributes:
        path: the file, which `ReusedSums` makes.
        num_pairs: N.
        columns: names of S statistics under K checkpoints, those of a statistic together.
        num_stats: S.
    """

    path: Path
    num_pairs: int
    columns: tuple[str, ...]
    num_stats: int

    @classmethod
    def of(cls, earlier: Earlier, corpus: Corpus, folder: Path) -> "SumsFile":
        """The file in `folder` that takes what an earlier table holds of a corpus."""
        columns = tuple(earlier.columns)
        return cls(folder / "reused-sums.tmp", len(corpus), columns, len(earlier.stats))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the record of a pair."""
        types = [(name, stored_type(name)) for name in self.columns]
        return np.dtype([("is_there", np.uint8), *types])

    def map(self, mode: Literal["r", "r+"] = "r") -> "np.memmap[Any, np.dtype[Any]]":
        """The records (N,), in memory as far as they are read."""
        return np.memmap(self.path, self.dtype, mode, shape=self.num_pairs)

    def rows(self, first: int, count: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Which of `count` pairs from row `first` on are there, and the sums (S, K, n) of those."""
        part = self.map()[first : first + count]
        is_there = part["is_there"] == 1
        found = part[is_there]
        sums = np.array([found[name] for name in self.columns], np.float64)
        num_models = len(self.columns) // self.num_stats
        return is_there, sums.reshape(self.num_stats, num_models, -1)


class ReusedSums:
    """Sums that an earlier table holds of the N pairs of a corpus, in a file.

    Attributes:
        file: the file, which other processes may read too.
        num_pairs, num_tokens: how many pairs are in it, and their target tokens.
    """

    def __init__(
        self, earlier: Earlier, corpus: Corpus, lengths: KeptLengths, folder: Path
    ) -> None:
        """Join both corpora. The files lie in `folder`, by the names `WORKING_FILES`.

        Raises:
            OSError: there is no space for them.
        """
        for left in folder.glob(WORKING_FILES):
            left.unlink()
        self.earlier = earlier
        self.num_pairs = self.num_tokens = 0
        self.file = SumsFile.of(earlier, corpus, folder)
        with naming(self.file.path, None), self.file.path.open("wb") as file:
            # Space that lacked later would be a signal, not an error.
            os.posix_fallocate(file.fileno(), 0, len(corpus) * self.file.dtype.itemsize)
        self._sums = self.file.map("r+")
        matches = _join(earlier, corpus, folder)
        for pile in matches:
            self._take(pile, lengths)
        matches.delete()
        self._sums.flush()  # a worker on another machine reads the file

    def _take(self, matches: NDArray[Any], lengths: KeptLengths) -> None:
        """Copy sums of matched rows that are near each other in the earlier table."""
        if len(matches) == 0:
            return
        matches = matches[np.argsort(matches["earlier"], kind="stable")]
        names = ["num_src_tokens", "num_tokens", *self.earlier.columns.values()]
        ends = (matches["earlier"] // PART_PAIRS).searchsorted(
            np.arange(matches["earlier"][0] // PART_PAIRS, matches["earlier"][-1] // PART_PAIRS + 2)
        )
        for begin, end in pairwise(ends.tolist()):
            if begin == end:
                continue
            wanted = matches[begin:end]
            first, last = int(wanted["earlier"][0]), int(wanted["earlier"][-1])
            table = self.earlier.table.rows(names, first, last + 1)
            at, rows = wanted["earlier"] - first, wanted["row"]
            # A pair that was truncated otherwise has other sums.
            alike = (table["num_src_tokens"].to_numpy()[at] == lengths.src[rows]) & (
                table["num_tokens"].to_numpy()[at] == lengths.tgt[rows]
            )
            at, rows = at[alike], rows[alike]
            for name, column in self.earlier.columns.items():
                self._sums[name][rows] = table[column].to_numpy()[at]
            self._sums["is_there"][rows] = 1
            self.num_pairs += len(rows)
            self.num_tokens += int(lengths.tgt[rows].sum())

    def facts(self, folder: Path | None) -> dict[str, Any]:
        """For the manifest of a table in `folder`: how many pairs, and of which table.

        The path of a table that is only set aside is left out: it will lead nowhere.
        """
        table = self.earlier.table
        where: dict[str, str] = {}
        if table.path is not None and folder is None:
            where = {"path": str(table.path.resolve())}
        elif table.path is not None and folder is not None:
            path, own = table.path.resolve(), folder.resolve()
            if not any(path == work / SET_ASIDE / own.relative_to(work) for work in own.parents):
                where = {"path": os.path.relpath(path, own)}
        return {
            "num_pairs": self.num_pairs,
            "num_tokens": self.num_tokens,
            "scores": digest(dict(table.manifest["recipe"])),
            **where,
            **({"torch": table.manifest["torch"]} if "torch" in table.manifest else {}),
        }


class _Piles:
    """Records in files, one file a pile."""

    def __init__(self, folder: Path, name: str, count: int, dtype: np.dtype[Any]) -> None:
        self._paths = [folder / f"reused-{name}-{i:05}.tmp" for i in range(count)]
        self._dtype = dtype

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return map(self.read, range(len(self._paths)))

    def add(self, piles: NDArray[np.int64], records: NDArray[Any]) -> None:
        """Append each of n records to the file of its pile; `piles` has their numbers (n,)."""
        order = np.argsort(piles, kind="stable")
        piles, records = piles[order], records[order]
        begins = np.flatnonzero(np.diff(piles, prepend=-1))
        for begin, end in pairwise((*begins.tolist(), len(piles))):
            path = self._paths[piles[begin]]
            with naming(path, None), path.open("ab") as file:
                file.write(records[begin:end].tobytes())

    def read(self, pile: int) -> NDArray[Any]:
        """The records of a pile, in the order in which they came."""
        path = self._paths[pile]
        if not path.is_file():
            return np.empty(0, self._dtype)
        return np.fromfile(path, self._dtype)

    def delete(self) -> None:
        """Delete the files."""
        for path in self._paths:
            path.unlink(missing_ok=True)


def _join(earlier: Earlier, corpus: Corpus, folder: Path) -> _Piles:
    """Rows of a corpus, each with the first row of the earlier table that has the same tokens."""
    largest = max(len(earlier.corpus), len(corpus))
    count = -(-largest // _PILE_PAIRS)
    sides = [_Piles(folder, name, count, _HASHED) for name in ("earlier", "now")]
    total = len(earlier.corpus) + len(corpus)
    with progress("compare with --base", total, "pairs") as advance:
        for side, pairs in zip(sides, (earlier.corpus, corpus), strict=True):
            for records in _hashes(pairs):
                advance(len(records))
                if pairs is earlier.corpus and len(earlier.not_reduced):
                    records = records[~np.isin(records["row"], earlier.not_reduced)]
                piles = (records["high"] >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)
                side.add(piles.astype(np.int64), records)
    matches = _Piles(folder, "matches", -(-len(earlier.corpus) // _PILE_PAIRS), _MATCH)
    for before, now in zip(*sides, strict=True):
        found = _matches(before, now)
        matches.add(found["earlier"] // _PILE_PAIRS, found)
    for side in sides:
        side.delete()
    return matches


def _matches(before: NDArray[Any], now: NDArray[Any]) -> NDArray[Any]:
    """Rows of `now` whose hash is in `before`, each with the first row there."""
    hashed = np.concatenate((before, now))
    # Equal hashes stay in this order, so that the first of them is of `before` if any is.
    order = np.lexsort((hashed["low"], hashed["high"]))
    high, low = hashed["high"][order], hashed["low"][order]
    begins = np.ones(len(order), bool)
    begins[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    first = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    matched = (order >= len(before)) & (first < len(before))
    found = np.empty(int(matched.sum()), _MATCH)
    found["earlier"] = hashed["row"][first[matched]]
    found["row"] = hashed["row"][order[matched]]
    return found


def _hashes(corpus: Corpus) -> Iterator[NDArray[Any]]:
    """Yield, for a block of pairs at a time, 128 bits of each pair's tokens, with its row."""
    for first in range(0, len(corpus), _BLOCK_PAIRS):
        block = corpus[first : first + _BLOCK_PAIRS]
        batch = corpus.read_arrays(block.pair_ids)
        src, tgt = (
            _sequences(batch.src_tokens, batch.src_cu_seqlens),
            _sequences(batch.tgt_tokens, batch.tgt_cu_seqlens),
        )
        digests = b"".join(
            blake2b(b"".join((s, _BETWEEN, t)), digest_size=16).digest()
            for s, t in zip(src, tgt, strict=True)
        )
        records = np.empty(len(block), _HASHED)
        halves = np.frombuffer(digests, "<u8").reshape(-1, 2)
        records["high"], records["low"] = halves.T
        records["row"] = np.arange(first, first + len(block))
        yield records


def _sequences(tokens: NDArray[np.int64], cu_seqlens: NDArray[np.int32]) -> list[memoryview]:
    """The bytes of each of B packed sequences, 4 a token."""
    view = memoryview(tokens.astype("<i4").tobytes())
    ends: Sequence[int] = (4 * cu_seqlens.astype(np.int64)).tolist()
    return [view[begin:end] for begin, end in pairwise(ends)]
