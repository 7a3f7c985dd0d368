"""Several score tables as one: other pairs of a corpus, or other checkpoints on the same pairs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pycat.errors import OutputError, PycatError
from pycat.runtime.output import OutputFolder, digest
from pycat.scores.parts import (
    PART_PAIRS,
    SCORE_FILES,
    column_names,
    part_path,
    write_part,
)
from pycat.scores.score_table import ScoreTable, as_table


def merge_scores(
    tables: Sequence[ScoreTable | str | PathLike[str]],
    *,
    out: str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> ScoreTable:
    """Merge tables of other pairs of one corpus, or of other checkpoints on the same pairs.

    With the same checkpoints no pair may be in two tables; the rows are put in pair order. With
    other checkpoints the pairs must be the same; the checkpoints are put in the order of their
    updates, equal ones as given. Added columns are left behind.

    Args:
        tables: two or more, or their paths.
        out: the folder to make; without one, the table is in memory. Holds the pair ids and a
            few parts at a time.
        overwrite: replace a table made from other input.

    Raises:
        PycatError: fewer than two, of different corpora, dtypes or statistics, or pairs and
            checkpoints fit neither way.
        OutputError: `out` holds something else, or a table made from other input.
    """
    opened = [as_table(table) for table in tables]
    return _merge(opened, None if out is None else Path(out), overwrite)


def _merge(tables: Sequence[ScoreTable], out: Path | None, overwrite: bool) -> ScoreTable:
    if len(tables) < 2:
        raise PycatError(f"found {len(tables)} score tables to merge, expected two or more")
    first = tables[0]
    for table in tables[1:]:
        for what, mine, wanted in (
            ("corpus", table.manifest["corpus"], first.manifest["corpus"]),
            ("dtype", _recipe(table).get("dtype"), _recipe(first).get("dtype")),
            ("statistics", table.statistics, first.statistics),
        ):
            if mine != wanted:
                raise PycatError(
                    f"{_name(table)}: found {what} {mine}, but {_name(first)} has {wanted}; merge "
                    f"tables that agree in it"
                )
    pair_ids = [table.pair_ids for table in tables]
    checkpoints = [_recipe(table).get("checkpoints", []) for table in tables]
    if all(own == checkpoints[0] for own in checkpoints):
        parts = _by_pair(tables, pair_ids)
        steps, merged = first.steps, checkpoints[0]
        num_pairs = sum(map(len, tables))
        num_tokens = sum(int(table.num_tokens.sum()) for table in tables)
        num_truncated = sum(table.manifest.get("num_truncated", 0) for table in tables)
    else:
        order = _order(tables, pair_ids, checkpoints)
        parts = _by_checkpoint(tables, order)
        steps = [tables[i].steps[k] for i, k in order]
        merged = [checkpoints[i][k] for i, k in order]
        num_pairs, num_tokens = len(first), int(first.num_tokens.sum())
        num_truncated = first.manifest.get("num_truncated", 0)
    recipe = {
        "corpus": first.manifest["corpus"],
        "checkpoints": merged,
        "device": ", ".join(sorted({_recipe(table).get("device", "") for table in tables})),
        "dtype": _recipe(first).get("dtype"),
        "merged": sorted(map(_recipe_digest, tables)),
    }
    facts = {
        "corpus": first.manifest["corpus"],
        "num_pairs": num_pairs,
        "num_tokens": num_tokens,
        **({"num_truncated": num_truncated} if num_truncated else {}),
        "steps": steps,
        **{
            name: first.manifest[name]
            for name in ("tokenizer_sha256", "torch")
            if all(name in table.manifest for table in tables)
            and all(table.manifest[name] == first.manifest[name] for table in tables)
        },
        # As corpus_path is: any of them opens the corpus.
        "corpus_options": first.manifest.get("corpus_options", {}),
        "inputs": sorted(map(_input, tables), key=lambda facts: facts["recipe"]),
    }
    if all("model_flops" in table.manifest for table in tables):
        facts["model_flops"] = sum(table.manifest["model_flops"] for table in tables)
    corpus_path = first.corpus_path
    if out is None:
        manifest = {"recipe": recipe, **facts, "corpus_path": str(corpus_path)}
        return ScoreTable.from_arrow(pa.concat_tables(parts), manifest)
    for table in tables:
        if table.path is not None and table.path.resolve() == out.resolve():
            raise OutputError(f"{out}: is one of the tables to merge; name another folder")
    folder = OutputFolder(out, "scores", recipe, SCORE_FILES, overwrite)
    if folder.manifest is None:
        num_parts = 0
        for part in parts:
            write_part(part, part_path(out, num_parts))
            num_parts += 1
        relative = os.path.relpath(corpus_path, out.resolve())
        folder.finish(**facts, num_parts=num_parts, corpus_path=relative)
    return ScoreTable.open(out)


def _recipe(table: ScoreTable) -> Mapping[str, Any]:
    recipe: Mapping[str, Any] = table.manifest["recipe"]
    return recipe


def _recipe_digest(table: ScoreTable) -> str:
    return digest(dict(_recipe(table)))


def _input(table: ScoreTable) -> dict[str, Any]:
    """What holds of one of the tables and was not measured of all."""
    names = ("torch", "rank_agreement", "exact_cut", "inputs")
    own = {name: table.manifest[name] for name in names if name in table.manifest}
    return {"recipe": _recipe_digest(table), "num_pairs": len(table), "steps": table.steps, **own}


def _name(table: ScoreTable) -> str:
    return str(table.path or "table in memory")


def _by_pair(
    tables: Sequence[ScoreTable], pair_ids: Sequence[NDArray[np.int64]]
) -> Iterator[pa.Table]:
    """Parts of all rows in pair order."""
    every = np.sort(np.concatenate(pair_ids))
    if len(twice := every[1:][every[1:] == every[:-1]]):
        raise PycatError(
            f"pair {int(twice[0]):,} is in two of the tables, which have the same checkpoints; "
            "merge tables of other pairs, or of other checkpoints"
        )
    return _rows_by_pair(tables, pair_ids, every)


def _rows_by_pair(
    tables: Sequence[ScoreTable],
    pair_ids: Sequence[NDArray[np.int64]],
    every: NDArray[np.int64],
) -> Iterator[pa.Table]:
    names = column_names(tables[0].statistics, tables[0].num_checkpoints)
    for start in range(0, len(every), PART_PAIRS):
        some = every[start : start + PART_PAIRS]
        rows = [
            table.rows(
                names,
                int(np.searchsorted(own, some[0])),
                int(np.searchsorted(own, some[-1], side="right")),
            )
            for table, own in zip(tables, pair_ids, strict=True)
        ]
        yield pa.concat_tables(rows).sort_by("pair").combine_chunks()


def _order(
    tables: Sequence[ScoreTable],
    pair_ids: Sequence[NDArray[np.int64]],
    checkpoints: Sequence[Sequence[str]],
) -> list[tuple[int, int]]:
    """Which table and which of its checkpoints each of the merged ones is."""
    for table, own in zip(tables[1:], pair_ids[1:], strict=True):
        if not np.array_equal(own, pair_ids[0]):
            raise PycatError(
                f"{_name(table)}: has other checkpoints than {_name(tables[0])} and other pairs "
                "too; merge tables that differ in one of them"
            )
        for name in ("num_tokens", "num_src_tokens"):
            if not np.array_equal(table.column(name), tables[0].column(name)):
                raise PycatError(
                    f"{_name(table)}: {name} differs from that in {_name(tables[0])}, as where "
                    "models of other positions cut pairs; score both within the same positions"
                )
    every = [sha256 for own in checkpoints for sha256 in own]
    if len(set(every)) < len(every):
        raise PycatError(
            "a checkpoint is in two of the tables, which have the same pairs; merge tables of "
            "other checkpoints"
        )
    places = [(i, k) for i, table in enumerate(tables) for k in range(table.num_checkpoints)]
    return sorted(places, key=lambda place: tables[place[0]].steps[place[1]])


def _by_checkpoint(
    tables: Sequence[ScoreTable], order: Sequence[tuple[int, int]]
) -> Iterator[pa.Table]:
    """Parts of all columns."""
    first = tables[0]
    names = column_names(first.statistics, len(order))
    for start in range(0, len(first), PART_PAIRS):
        end = min(start + PART_PAIRS, len(first))
        read = [
            table.rows(column_names(table.statistics, table.num_checkpoints), start, end)
            for table in tables
        ]
        columns = {name: read[0][name] for name in column_names((), 0)}
        for stat in first.statistics:
            for k, (i, own) in enumerate(order):
                columns[f"{stat}_{k}"] = read[i][f"{stat}_{own}"]
        yield pa.table(columns).select(names)
