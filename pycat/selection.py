"""Keep a fraction of the pairs, and write them as text."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pycat.corpus import Corpus, reopen_corpus
from pycat.criteria import CRITERIA, Criterion, Scores, evaluate_criterion
from pycat.errors import OutputError, PycatError
from pycat.output import OutputFolder, digest, read_manifest, replacing
from pycat.parallel_text import ParallelText, write_rows
from pycat.score_table import ScoreTable

_KEPT_FILE = "kept.parquet"


@dataclass(frozen=True)
class Selection:
    """The pairs kept of a corpus.

    Attributes:
        pair_ids: int64 (kept,), ascending.
        manifest: recipe, counts, threshold and hashes.
        corpus_path: folder of the corpus selected from.
        path: the folder, or None for a selection in memory.
    """

    pair_ids: NDArray[np.int64]
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
            kept = pq.read_table(folder / _KEPT_FILE, page_checksum_verification=True)
            pair_ids = kept["pair"].to_numpy()
        except (OSError, KeyError, pa.ArrowException) as error:
            raise OutputError(
                f"{folder / _KEPT_FILE}: cannot be read ({error}); run 'pycat select' again"
            ) from None
        return cls(pair_ids, manifest, (folder / manifest["corpus_path"]).resolve(), folder)

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

    def write_text(
        self, src: str | PathLike[str], tgt: str | PathLike[str], *, overwrite: bool = False
    ) -> None:
        """Write the kept lines of both sides, in the original order, byte for byte.

        `.gz` and `.zst` names are compressed. Both files appear complete, or neither.

        Raises:
            CorpusError: the corpus was not made from text by pycat.
            TextError: the original text is gone or changed.
            OutputError: a file exists and `overwrite` is not given, is the original text, or
                both are one.
            OSError: a file cannot be written; it is named.
        """
        text = self.corpus().text()
        if text.is_tsv:
            rows = (
                tuple(side + b"\n" for side in text.sides(row, number + 1))
                for number, row in self._kept_rows()
            )
        else:
            rows = (row for _, row in self._kept_rows())
        _write(text, rows, (Path(src), Path(tgt)), overwrite)

    def write_tsv(self, out: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write the kept lines of a tab-separated text, all columns, byte for byte.

        Raises:
            PycatError: the text is two files.
            CorpusError, TextError, OutputError, OSError: as `write_text`.
        """
        text = self.corpus().text()
        if not text.is_tsv:
            raise PycatError(
                f"{self.corpus_path}: the text is two files, not tab-separated; name two files to "
                "write (write_text, --text SRC TGT)"
            )
        _write(text, (row for _, row in self._kept_rows()), (Path(out),), overwrite)

    def _kept_rows(self) -> Iterator[tuple[int, tuple[bytes, ...]]]:
        corpus = self.corpus().subset(self.pair_ids)
        kept = np.zeros(corpus.manifest["num_lines"], dtype=bool)
        kept[corpus.lines] = True
        rows = enumerate(corpus.text().rows())
        return ((number, row) for number, row in rows if kept[number])


def select(
    scores: ScoreTable | str | PathLike[str],
    *,
    keep: float = 0.5,
    by: str | Criterion = "cat_var",
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> Selection:
    """Keep the highest-scoring fraction of the pairs.

    Args:
        scores: an open ScoreTable of N pairs, or the path of one.
        keep: fraction of the pairs, in (0, 1]; round(keep * N) are kept, at least one.
        by: name of a criterion, or a function from the table to scores (N,), higher ranks first.
        seed: of the criterion "random".
        out: the folder to make; without one, the selection stays in memory.
        overwrite: replace a selection made with other options.

    Returns:
        The selection; among equal scores the lower pair id is kept.

    Raises:
        PycatError: `keep` is out of range, the criterion is unknown or not a number somewhere.
        OutputError: `out` holds something else, or a selection made with other options.
    """
    check_recipe(keep, by)
    table = scores if isinstance(scores, ScoreTable) else ScoreTable.open(scores)
    values = evaluate_criterion(table, by, seed)
    recipe = {
        "scores": digest(table.manifest["recipe"]),
        "criterion": by if isinstance(by, str) else getattr(by, "__name__", "function"),
        # Two functions may share a name, such as "<lambda>"; what they return tells them apart.
        "function_scores": None if isinstance(by, str) else sha256(values.tobytes()).hexdigest(),
        "keep": keep,
        "seed": seed if by == "random" else None,
    }
    corpus = reopen_corpus(table.corpus_path, table.manifest.get("corpus_options", {}))
    if corpus.manifest["id"] != table.manifest["corpus"]:
        raise PycatError(
            f"{corpus.path}: the corpus was made anew since it was scored; run 'pycat score' again"
        )
    folder = None
    if out is not None:
        folder = OutputFolder(Path(out), "selection", recipe, (_KEPT_FILE,), overwrite)
        if folder.manifest is not None:
            return Selection.open(folder.path)
    rows = highest(values, max(1, round(keep * len(table))))
    pair_ids = table.pair_ids[rows]
    facts: dict[str, Any] = {
        "corpus": corpus.manifest["id"],
        "num_pairs": len(table),
        "num_kept": len(pair_ids),
        "num_tokens": int(table.num_tokens.sum()),
        "num_tokens_kept": int(table.num_tokens[rows].sum()),
        "threshold": float(values[rows].min()),
        "corpus_options": corpus.options,
    }
    if folder is None:
        return Selection(pair_ids, {"recipe": recipe, **facts}, corpus.path.resolve())
    with replacing(folder.path / _KEPT_FILE) as temporary:
        columns = {"pair": pair_ids}
        if corpus.has_text:
            columns["line"] = corpus.subset(pair_ids).lines + 1
        pq.write_table(pa.table(columns), temporary, write_page_checksum=True)
    folder.finish(
        **facts,
        corpus_path=os.path.relpath(corpus.path.resolve(), folder.path.resolve()),
    )
    return Selection.open(folder.path)


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


def check_recipe(keep: float, by: str | Criterion) -> None:
    """Refuse a fraction out of range or an unknown criterion, before any work.

    Raises:
        PycatError: with what was expected.
    """
    if not 0 < keep <= 1:
        raise PycatError(f"keep is {keep}; expected a fraction above 0 and at most 1, such as 0.5")
    if isinstance(by, str) and by not in CRITERIA:
        raise PycatError(f"criterion {by!r} is not known; expected one of {', '.join(CRITERIA)}")


def highest(scores: Scores, count: int) -> NDArray[np.int64]:
    """Rows of the `count` highest scores, ascending; among equals the lower row is in."""
    order = np.argsort(-scores, kind="stable")
    return np.sort(order[:count])
