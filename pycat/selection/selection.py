"""Keep some of the pairs, and write them as text."""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat.data.corpus import Corpus, reopen_corpus
from pycat.data.parallel_text import ParallelText, write_rows
from pycat.errors import OutputError, PycatError, TextError
from pycat.filters.noise import measure_noise
from pycat.filters.rule_measures import measure_rules
from pycat.filters.rules import complete_rules, read_rules, recorded_rules
from pycat.ranking.criteria import Criterion
from pycat.runtime.output import OutputFolder, digest, read_manifest, replacing
from pycat.scores.parts import (
    PART_PAIRS,
    file_options,
)
from pycat.scores.score_table import ScoreTable, as_table
from pycat.selection.recipe import Recipe, choose

_KEPT_FILE = "kept.parquet"

Paths = str | PathLike[str] | tuple[str | PathLike[str], str | PathLike[str]]


@dataclass(frozen=True)
class Selection:
    """The pairs kept of a corpus.

    Attributes:
        pair_ids: int64 (kept,), ascending.
        lines: int64 (kept,), from 0, of the text or of any parallel file of the same lines; the
            pair ids where the corpus was not made from text.
        manifest: recipe, counts, range of scores, hashes, and `explained`: how much of the ranking
            follows length (and rarity, where the table has a column of that name).
        corpus_path: folder of the corpus selected from.
        path: the folder, or None for a selection in memory.
    """

    pair_ids: NDArray[np.int64]
    lines: NDArray[np.int64]
    manifest: Mapping[str, Any]
    corpus_path: Path
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.pair_ids)

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "Selection":
        """Open a folder.

        Raises:
            OutputError: not a complete selection, or damaged.
        """
        folder = Path(path)
        manifest = read_manifest(folder, "selection")
        try:
            columns = _read_kept(folder / _KEPT_FILE)
            pair_ids = columns["pair"]
            lines = columns.get("line", pair_ids)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise OutputError(
                f"{folder / _KEPT_FILE}: cannot be read ({error}); run 'pycat select' again"
            ) from None
        return cls(pair_ids, lines, manifest, (folder / manifest["corpus_path"]).resolve(), folder)

    def corpus(self) -> Corpus:
        """The corpus selected from, opened.

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

    def kept_corpus(self) -> Corpus:
        """A view of the kept pairs of the corpus, to train on or to score; raises as `corpus`."""
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

        `.gz` and `.zst` names are compressed. Both files appear complete, or neither.

        Args:
            src, tgt: the files to write.
            of: another parallel text of the same lines, two files or one tab-separated, such as
                the same sentences in other languages; neither corpus nor its text is needed then.
            overwrite: replace files that exist.

        Raises:
            CorpusError: the corpus was not made from text by pycat.
            TextError: the original text is gone or changed, or `of` has not its number of lines.
            OutputError: a file exists and `overwrite` is not given, is the text that is read, or
                both are one.
            OSError: a file cannot be written; it is named.
        """
        text = self._text(of)
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
        """Write the kept lines of a tab-separated text, all columns, byte for byte.

        Raises:
            PycatError: the text is two files.
            CorpusError, TextError, OutputError, OSError: as `write_text`.
        """
        text = self._text(of)
        if not text.is_tsv:
            raise PycatError(
                f"{self.corpus_path}: the text is two files, not tab-separated; name two files to "
                "write (write_text, --text SRC TGT)"
            )
        _write(text, (row for _, row in self._kept_rows(text)), (Path(out),), overwrite)

    def _text(self, of: Paths | None) -> ParallelText:
        if of is None:
            return self.corpus().text()
        return (
            ParallelText.of(*of, None) if isinstance(of, tuple) else ParallelText.of(None, None, of)
        )

    def _kept_rows(self, text: ParallelText) -> Iterator[tuple[int, tuple[bytes, ...]]]:
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


def select(
    scores: ScoreTable | str | PathLike[str],
    *,
    keep: float | tuple[float, float] = 0.5,
    by: str | Criterion = "cat_var",
    rules: str | PathLike[str] | Mapping[str, float | None] | None = "none",
    guard: float = 0.0,
    part: str = "top",
    unit: str = "pairs",
    drop: Mapping[str | Criterion, float] | None = None,
    strata: str | None = None,
    num_strata: int | None = None,
    cap: tuple[str, int] | None = None,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> Selection:
    """Rank the pairs by a criterion, and keep a part of the ranking.

    Pairs go from the highest score to the lowest, among equal scores from the lowest pair id to the
    highest. Fractions are those of the whole table, whatever `drop` and `cap` take out before.

    Args:
        scores: an open ScoreTable of N pairs, or the path of one.
        keep: fraction to keep, in (0, 1], or the two ends of a range of the ranking: (0.2, 0.7) is
            what comes after the first fifth, half of all. Both ends count the whole table, after
            rules too: where those leave less than 0.7, all that comes after 0.2 is kept.
        by: the criterion, as in `evaluate_criterion`: a name such as "cat_var", "-ppl" to rank the
            lowest first, a column of the table, "sql: …", or a function from the table to (N,).
        rules: first of all, which pairs to leave out for their text alone: "default", "none", or
            thresholds that differ from `DEFAULT_RULES`, as a mapping or a JSON file. Measured once,
            beside the corpus. Others' data have no text and so no rules, which the manifest says.
            Where rules leave fewer pairs than `keep` asks for, all of those are kept.
        guard: then, the share of what has to go that goes for being the likeliest noise, by the
            column `noise_score`, which is added to the table with what it is made of unless it is
            there (`measure_noise`). 0 is none; `prune` takes 0.5.
        part: of the ranking, "top", "middle" or "bottom" (as "top" by the criterion with a "-").
        unit: what fractions count. "pairs": exactly round(keep * N), at least one; less only by
            what `drop` was rounded up, where no more is left. "tokens": as many pairs of the
            ranking, from its begin, as fit into round(keep * target tokens); the next one would be
            too long, so less than one pair's tokens are missing; with strata, up to that in each.
        drop: next, one after the other, the fraction of highest scores to leave out by each
            criterion: {"-aum": 0.2}.
        strata: "length" or the name of a column with few values, such as a domain: each stratum
            keeps the same share, the highest of it. "score": coverage-centric (Zheng et al. 2023,
            ICLR): strata of equal width in score keep equal numbers, drawn at random; the hardest
            are left out by `drop`.
        num_strata: by score (50 unless given), or by length (10).
        cap: name of a column of group ids, and how many of a group may stay: the first of the
            ranking, after `drop`. Negative ids are in no group.
        seed: of the criterion "random", and of what strata by score draw.
        out: the folder to make; without one, the selection stays in memory.
        overwrite: replace a selection made with other options.

    Returns:
        The selection.

    Raises:
        PycatError: an option is out of range, a criterion or rule is unknown, a criterion lacks
            columns, a score is not a number, or rules leave no pair, drop and cap fewer than asked
            for.
        TextError: rules or guard ask for the text, and it is gone or changed; `rules=None` and
            `guard=0` do not.
        OutputError: `out` holds something else, or a selection made with other options.
    """
    started = time.perf_counter()
    changed = read_rules(rules)
    thresholds = None if changed is None else complete_rules(changed)
    recipe = Recipe(keep, by, part, unit, drop, strata, num_strata, cap, seed, thresholds, guard)
    table = as_table(scores)
    recipe.check(table)
    corpus = table.corpus()
    view = table.view_of(corpus)
    by_rules, found = kept_by_rules(view, thresholds)
    if guard:
        measure_noise(table, view)
    choice = choose(table, recipe, by_rules)
    made_by = {"scores": digest(table.manifest["recipe"]), **choice.recipe}
    folder = None
    if out is not None:
        folder = OutputFolder(Path(out), "selection", made_by, (_KEPT_FILE,), overwrite, started)
        if folder.manifest is not None:
            return Selection.open(folder.path)
    facts = {
        "corpus": corpus.manifest["id"],
        **choice.facts,
        **found,
        "num_lines": corpus.manifest["num_lines"] if corpus.has_text else len(corpus),
        "corpus_options": corpus.options,
    }
    batches = _kept_pairs(table, choice.kept, corpus)
    if folder is None:
        kept = pa.Table.from_batches(batches)
        pair_ids = kept["pair"].to_numpy()
        lines = kept["line"].to_numpy() - 1 if corpus.has_text else pair_ids
        return Selection(pair_ids, lines, {"recipe": made_by, **facts}, corpus.path.resolve())
    first = next(batches)
    with (
        replacing(folder.path / _KEPT_FILE) as temporary,
        pq.ParquetWriter(temporary, first.schema, **file_options(first.schema)) as writer,
    ):
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)
    folder.finish(
        **facts,
        corpus_path=os.path.relpath(corpus.path.resolve(), folder.path.resolve()),
    )
    return Selection.open(folder.path)


def kept_by_rules(
    corpus: Corpus, thresholds: Mapping[str, float | None] | None
) -> tuple[NDArray[np.bool_] | None, dict[str, Any]]:
    """The pairs (N,) that the rules leave, None for all; what the manifest says of the rules."""
    if thresholds is None:
        return None, {}
    if not corpus.has_text:
        why = "the corpus was not made from text, which rules read"
        return None, {"without": {"rules": why}}
    table = measure_rules(corpus)
    by_rules, hits = table.apply(recorded_rules(thresholds))
    without = {
        rule: why
        for rule, why in table.manifest["without"].items()
        if thresholds.get(rule) is not None
    }
    return by_rules, {"rule_hits": hits, **({"without": without} if without else {})}


def _read_kept(path: Path) -> dict[str, NDArray[np.int64]]:
    """Columns of a file of kept pairs, a piece at a time: Arrow's own would be there twice."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        size = file.metadata.num_rows
        columns = {name: np.empty(size, dtype=np.int64) for name in file.schema_arrow.names}
        first = 0
        for batch in file.iter_batches(PART_PAIRS, use_threads=False):
            for name, column in columns.items():
                column[first : first + len(batch)] = batch[name].to_numpy()
            first += len(batch)
    if "line" in columns:
        columns["line"] -= 1
    return columns


def _kept_pairs(
    table: ScoreTable, kept: NDArray[np.bool_], corpus: Corpus
) -> Iterator[pa.RecordBatch]:
    """Pair ids and, where there is text, line numbers from 1, a chunk of the table at a time."""
    lines = corpus.lines if corpus.has_text else None

    def kept_of(rows: slice, chunk: ScoreTable) -> pa.RecordBatch:
        pair_ids = chunk.pair_ids[kept[rows]]
        columns = {"pair": pair_ids}
        if lines is not None:
            columns["line"] = lines[pair_ids] + 1
        return pa.RecordBatch.from_pydict(columns)

    return table.on_chunks(kept_of)


def _write(
    text: ParallelText, rows: Iterator[tuple[bytes, ...]], outs: tuple[Path, ...], overwrite: bool
) -> None:
    for out in outs:
        if out.exists() and any(out.samefile(path) for path in text.paths):
            raise OutputError(f"{out}: this is the text being pruned; write to another file")
        if out.exists() and not overwrite:
            raise OutputError(
                f"{out}: this file exists; pass --overwrite (overwrite=True) to replace it, or "
                "write to another file"
            )
    write_rows(rows, outs)
