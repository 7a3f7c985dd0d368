"""Merging of score tables: of other pairs of a corpus, or other checkpoints on the same pairs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pycat.errors import OutputError, PycatError
from pycat.runtime.manifest import list_files
from pycat.runtime.output import OutputFolder, digest
from pycat.scores.parts import (
    PART_PAIRS,
    SCORE_FILES,
    column_names,
    part_path,
    score_files,
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
    updates, equal ones as given. Added columns are left out.

    Args:
        tables: two or more, or their paths.
        out: the folder to make; without one, the table is in memory. Holds the pair ids and a
            few parts at a time.
        overwrite: replace a table made from other input.

    Raises:
        PycatError: fewer than two tables; they are of different corpora, dtypes or statistics; or
            neither their pairs nor their checkpoints are the same.
        OutputError: `out` holds something else, or a table made from other input.
    """
    opened = list(map(as_table, tables))
    _check_alike(opened)
    first, pair_ids = opened[0], [table.pair_ids for table in opened]
    checkpoints = [_recipe(table).get("checkpoints", []) for table in opened]

    # Merge rows of the same checkpoints, or checkpoints of the same rows.
    if all(shas == checkpoints[0] for shas in checkpoints):
        parts = _by_pair(opened, pair_ids)
        merged, steps = checkpoints[0], first.steps
        counts = _counts(*opened)
    else:
        order = _order(opened, pair_ids, checkpoints)
        parts = _by_checkpoint(opened, order)
        merged = [checkpoints[i][k] for i, k in order]
        steps = [opened[i].steps[k] for i, k in order]
        counts = _counts(first)
    recipe = {
        "corpus": first.manifest["corpus"],
        "checkpoints": merged,
        "device": ", ".join(sorted({_recipe(table).get("device", "") for table in opened})),
        "dtype": _recipe(first).get("dtype"),
        "merged": sorted(map(_recipe_digest, opened)),
    }
    facts = _facts(opened, counts, steps)

    # Write the parts, unless the folder holds them already.
    if out is None:
        manifest = {"recipe": recipe, **facts, "corpus_path": str(first.corpus_path)}
        return ScoreTable.from_arrow(pa.concat_tables(parts), manifest)
    path = Path(out)
    for table in opened:
        if table.path is not None and table.path.resolve() == path.resolve():
            raise OutputError(f"{path}: is one of the tables to merge; name another folder")
    with OutputFolder(path, "scores", recipe, SCORE_FILES, overwrite) as folder:
        if folder.manifest is None:
            num_parts = 0
            for part in parts:
                write_part(part, part_path(path, num_parts))
                num_parts += 1
            relative = os.path.relpath(first.corpus_path, path.resolve())
            files = list_files(path, score_files(path))
            folder.finish(**facts, num_parts=num_parts, files=files, corpus_path=relative)
    return ScoreTable.open(path)


def _check_alike(tables: Sequence[ScoreTable]) -> None:
    """Refuse fewer than two tables, and tables of different corpora, dtypes or statistics."""
    if len(tables) < 2:
        raise PycatError(f"found {len(tables)} score tables to merge, expected two or more")
    first = tables[0]
    for table in tables[1:]:
        for what, found, expected in (
            ("corpus", table.manifest["corpus"], first.manifest["corpus"]),
            ("dtype", _recipe(table).get("dtype"), _recipe(first).get("dtype")),
            ("statistics", table.statistics, first.statistics),
        ):
            if found != expected:
                raise PycatError(
                    f"{_name(table)}: found {what} {found}, but {_name(first)} has {expected}; "
                    "merge tables that agree in it"
                )


def _counts(*tables: ScoreTable) -> dict[str, int]:
    """Pairs and tokens of all tables together, and truncated pairs if there are any."""
    num_truncated = sum(table.manifest.get("num_truncated", 0) for table in tables)
    return {
        "num_pairs": sum(map(len, tables)),
        "num_tokens": sum(int(table.num_tokens.sum()) for table in tables),
        **({"num_truncated": num_truncated} if num_truncated else {}),
    }


def _facts(
    tables: Sequence[ScoreTable], counts: Mapping[str, int], steps: list[int]
) -> dict[str, Any]:
    """The facts of the merged manifest."""
    first = tables[0]
    facts = {
        "corpus": first.manifest["corpus"],
        **counts,
        "steps": steps,
        **{
            name: first.manifest[name]
            for name in ("tokenizer_sha256", "torch")
            if all(name in table.manifest for table in tables)
            and all(table.manifest[name] == first.manifest[name] for table in tables)
        },
        # These, and `corpus_path`, open the corpus; those of any table do.
        "corpus_options": first.manifest.get("corpus_options", {}),
        "inputs": sorted(map(_input, tables), key=lambda facts: facts["recipe"]),
    }
    if all("model_flops" in table.manifest for table in tables):
        facts["model_flops"] = sum(table.manifest["model_flops"] for table in tables)
    return facts


def _recipe(table: ScoreTable) -> Mapping[str, Any]:
    recipe: Mapping[str, Any] = table.manifest["recipe"]
    return recipe


def _recipe_digest(table: ScoreTable) -> str:
    return digest(dict(_recipe(table)))


def _input(table: ScoreTable) -> dict[str, Any]:
    """Facts of one input table that do not hold for the merged one."""
    names = ("torch", "rank_agreement", "exact_cut", "inputs")
    facts = {name: table.manifest[name] for name in names if name in table.manifest}
    return {"recipe": _recipe_digest(table), "num_pairs": len(table), "steps": table.steps, **facts}


def _name(table: ScoreTable) -> str:
    return str(table.path or "table in memory")


def _by_pair(
    tables: Sequence[ScoreTable], pair_ids: Sequence[NDArray[np.int64]]
) -> Iterator[pa.Table]:
    """Parts of all rows in pair order, once no pair is in two tables."""
    merged = np.sort(np.concatenate(pair_ids))
    if len(repeated := merged[1:][merged[1:] == merged[:-1]]):
        raise PycatError(
            f"pair {int(repeated[0]):,} is in two of the tables, which have the same checkpoints; "
            "merge tables of other pairs, or of other checkpoints"
        )
    return _rows_by_pair(tables, pair_ids, merged)


def _rows_by_pair(
    tables: Sequence[ScoreTable],
    pair_ids: Sequence[NDArray[np.int64]],
    merged: NDArray[np.int64],
) -> Iterator[pa.Table]:
    names = column_names(tables[0].statistics, tables[0].num_checkpoints)
    for start in range(0, len(merged), PART_PAIRS):
        part_ids = merged[start : start + PART_PAIRS]
        rows = [
            table.rows(
                names,
                int(np.searchsorted(table_ids, part_ids[0])),
                int(np.searchsorted(table_ids, part_ids[-1], side="right")),
            )
            for table, table_ids in zip(tables, pair_ids, strict=True)
        ]
        yield pa.concat_tables(rows).sort_by("pair").combine_chunks()


def _order(
    tables: Sequence[ScoreTable],
    pair_ids: Sequence[NDArray[np.int64]],
    checkpoints: Sequence[Sequence[str]],
) -> list[tuple[int, int]]:
    """The merged checkpoints in order, each as an index of a table and of its checkpoint."""
    for table, table_ids in zip(tables[1:], pair_ids[1:], strict=True):
        if not np.array_equal(table_ids, pair_ids[0]):
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
    hashes = [sha256 for of_table in checkpoints for sha256 in of_table]
    if len(set(hashes)) < len(hashes):
        raise PycatError(
            "a checkpoint is in two of the tables, which have the same pairs; merge tables of "
            "other checkpoints"
        )
    places = [(i, k) for i, table in enumerate(tables) for k in range(table.num_checkpoints)]
    return sorted(places, key=lambda place: tables[place[0]].steps[place[1]])


def _by_checkpoint(
    tables: Sequence[ScoreTable], order: Sequence[tuple[int, int]]
) -> Iterator[pa.Table]:
    """Parts with the columns of all checkpoints."""
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
            for k, (i, table_k) in enumerate(order):
                columns[f"{stat}_{k}"] = read[i][f"{stat}_{table_k}"]
        yield pa.table(columns).select(names)
