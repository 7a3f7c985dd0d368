"""The score table: any Parquet reader opens it, and damage never becomes a score."""

import errno
import json
import re
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import MakeScores, SmallDisk
from numpy.typing import NDArray
from pycat.kernels.stat_names import STAT_NAMES

from pycat.data.corpus import Corpus
from pycat.data.opening import open_corpus
from pycat.errors import OutputError, PycatError
from pycat.ranking.criteria import evaluate_criterion
from pycat.runtime.output import OutputFolder, write_manifest
from pycat.scores import score_table
from pycat.scores.parts import SCORE_FILES, column_path, part_path, read_part, write_part
from pycat.scores.score_table import ScoreTable


def random_nll(num_pairs: int = 300, num_checkpoints: int = 3) -> NDArray[np.float64]:
    return np.random.default_rng(0).uniform(1, 50, (num_pairs, num_checkpoints))


@pytest.fixture
def folder(toy_corpus: Corpus, make_scores: MakeScores, tmp_path: Path) -> Path:
    make_scores(toy_corpus, random_nll(), tmp_path / "scores")
    return tmp_path / "scores"


def test_any_parquet_reader_opens_a_part(folder: Path, toy_corpus: Corpus) -> None:
    table = pq.read_table(folder / "part-00000.parquet")
    assert table.schema.equals(
        pa.schema(
            [
                ("pair", pa.int64()),
                ("num_src_tokens", pa.int32()),
                ("num_tokens", pa.int32()),
                ("nll_0", pa.float64()),
                ("nll_1", pa.float64()),
                ("nll_2", pa.float64()),
            ]
        )
    )
    assert table["pair"].to_pylist() == list(range(300))
    assert table["num_src_tokens"].to_pylist() == toy_corpus.num_src_tokens.tolist()
    assert table["num_tokens"].to_pylist() == toy_corpus.num_tokens.tolist()
    assert table["nll_2"].to_pylist() == random_nll()[:, 2].tolist()


def test_files_that_other_versions_wrote_are_read(folder: Path) -> None:
    part = part_path(folder, 0)
    columns = read_part(part)
    stored = {
        column.path_in_schema: column
        for column in map(pq.read_metadata(part).row_group(0).column, range(columns.num_columns))
    }
    assert "DELTA_BINARY_PACKED" in stored["pair"].encodings
    for k in range(3):
        assert "BYTE_STREAM_SPLIT" in stored[f"nll_{k}"].encodings
        assert not stored[f"nll_{k}"].has_dictionary_page
    pq.write_table(columns, part, compression="zstd", write_page_checksum=True)
    assert ScoreTable.open(folder).nll.tolist() == random_nll().tolist()


def test_what_was_written_is_opened(folder: Path, toy_corpus: Corpus) -> None:
    table = ScoreTable.open(folder)
    assert len(table) == 300
    assert repr(table) == f"ScoreTable(300 pairs, 3 checkpoints, {folder})"
    assert (table.pair_ids.dtype, table.num_tokens.dtype, table.nll.dtype) == (
        np.dtype(np.int64),
        np.dtype(np.int32),
        np.dtype(np.float64),
    )
    assert table.pair_ids.tolist() == list(range(300))
    assert table.num_src_tokens.tolist() == toy_corpus.num_src_tokens.tolist()
    assert table.num_tokens.tolist() == toy_corpus.num_tokens.tolist()
    assert table.nll.tolist() == random_nll().tolist()
    assert table.steps == [10, 20, 30]
    assert table.corpus_path == toy_corpus.path.resolve()
    expected = np.exp(random_nll() / toy_corpus.num_tokens[:, None])
    np.testing.assert_allclose(table.ppl, expected, rtol=1e-15)


def test_parts_are_read_in_order(folder: Path, toy_corpus: Corpus) -> None:
    whole = read_part(part_path(folder, 0))
    bounds = [0, *range(25, 301, 25)]  # 12 parts: 10 and 11 sort before 2 without padding
    for i, (first, end) in enumerate(pairwise(bounds)):
        write_part(whole.slice(first, end - first), part_path(folder, i))
    manifest = json.loads((folder / "scores.json").read_text())
    write_manifest(folder / "scores.json", manifest | {"num_parts": 12})
    assert ScoreTable.open(folder).nll.tolist() == random_nll().tolist()
    part_path(folder, 11).unlink()
    with pytest.raises(OutputError) as caught:
        ScoreTable.open(folder)
    assert str(caught.value).startswith(
        f"{folder / 'part-00011.parquet'}: this part of the score table cannot be read ("
    )


def test_a_table_in_memory_equals_the_one_on_disk(
    folder: Path, toy_corpus: Corpus, make_scores: MakeScores
) -> None:
    table = make_scores(toy_corpus, random_nll())
    assert table.path is None
    assert table.corpus_path == toy_corpus.path.resolve()
    assert table.nll.tolist() == ScoreTable.open(folder).nll.tolist()


def test_a_moved_work_folder_still_finds_its_corpus(
    tmp_path: Path, toy_corpus: Corpus, make_scores: MakeScores
) -> None:
    work = tmp_path / "work"
    corpus = open_corpus(shutil.copytree(toy_corpus.path, work / "corpus"))
    make_scores(corpus, random_nll(), work / "scores")
    moved = work.rename(tmp_path / "elsewhere")
    table = ScoreTable.open(moved / "scores")
    assert table.corpus_path == (moved / "corpus").resolve()
    assert open_corpus(table.corpus_path).id == table.manifest["corpus"]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "not parquet"])
def test_a_damaged_part_is_refused_by_name(folder: Path, damage: str) -> None:
    part = part_path(folder, 0)
    data = part.read_bytes()
    part.unlink()
    changed = {"empty": b"", "cut": data[:-1], "not parquet": b"pair,nll\n0,1.5\n"}
    if damage in changed:
        part.write_bytes(changed[damage])
    with pytest.raises(OutputError) as caught:
        ScoreTable.open(folder)
    message = str(caught.value)
    assert message.startswith(f"{part}: this part of the score table cannot be read (")
    assert message.endswith("); delete the table's folder and run 'pycat score' again")


def test_no_flipped_bit_becomes_a_score(folder: Path) -> None:
    part = part_path(folder, 0)
    data = part.read_bytes()
    whole = ScoreTable.open(folder)
    expected = [whole.column(name).tolist() for name in whole.names]
    refused = 0
    for position in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        part.write_bytes(flipped)
        try:
            table = ScoreTable.open(folder)
            found = [table.column(name).tolist() for name in table.names]
        except OutputError:
            refused += 1
            continue
        # Some bytes carry nothing that is read, such as statistics; then the values are right.
        assert found == expected
    assert refused > 0.8 * len(data) / 7


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["pair", "num_src_tokens", "num_tokens", "nll_0"], "nll_0"),
        (["num_src_tokens", "num_tokens", "nll_0", "nll_1", "nll_2"], "num_src_tokens"),
    ],
)
def test_other_columns_are_refused(folder: Path, columns: list[str], found: str) -> None:
    part = part_path(folder, 0)
    write_part(read_part(part).select(columns), part)
    with pytest.raises(OutputError) as caught:
        ScoreTable.open(folder)
    assert str(caught.value) == (
        f"{part}: found columns {', '.join(columns)}, expected pair, num_src_tokens, num_tokens, "
        "nll_0, nll_1, nll_2; delete the table's folder and run 'pycat score' again"
    )


def test_another_number_of_rows_is_refused(folder: Path) -> None:
    part = part_path(folder, 0)
    write_part(read_part(part).slice(0, 299), part)
    with pytest.raises(OutputError) as caught:
        ScoreTable.open(folder)
    assert str(caught.value) == (
        f"{folder}: the parts hold 299 rows, expected 300; delete the folder and run 'pycat score' "
        "again"
    )


def test_an_unfinished_table_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "scores.json").read_text())
    write_manifest(folder / "scores.json", manifest | {"complete": False})
    with pytest.raises(OutputError, match="this scores folder is incomplete"):
        ScoreTable.open(folder)


def test_a_part_appears_whole_or_not_at_all(folder: Path, small_disk: SmallDisk) -> None:
    disk = small_disk(4)
    part = part_path(disk, 0)
    with pytest.raises(OSError) as caught:
        write_part(read_part(part_path(folder, 0)), part)
    assert caught.value.filename == str(part)
    assert list(disk.iterdir()) == []


def test_columns_are_read_when_asked_for(folder: Path, toy_corpus: Corpus) -> None:
    table = ScoreTable.open(folder)
    assert table.names == ("pair", "num_src_tokens", "num_tokens", "nll_0", "nll_1", "nll_2")
    assert table.statistics == ("nll",)
    assert table.column("nll_1").tolist() == random_nll()[:, 1].tolist()
    assert table.column("nll").tolist() == random_nll().tolist()
    assert table.column("num_tokens").tolist() == toy_corpus.num_tokens.tolist()
    part_path(folder, 0).unlink()
    assert len(table) == 300
    with pytest.raises(OutputError, match="this part of the score table cannot be read"):
        table.column("pair")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("el2n", r"score again with --stats all \(stats='all'\)"),
        ("margin_0", r"score again with --stats all \(stats='all'\)"),
        ("labse", r"add\(\) it first"),
        ("nll_3", "checkpoints count from 0 to 2"),
    ],
)
def test_a_missing_column_says_how_to_get_it(folder: Path, name: str, remedy: str) -> None:
    with pytest.raises(PycatError) as caught:
        ScoreTable.open(folder).column(name)
    assert re.fullmatch(
        rf"{folder}: found no column '{name}', only nll, pair, num_src_tokens, num_tokens; "
        + remedy,
        str(caught.value),
    )


def all_statistics(toy_corpus: Corpus) -> pa.Table:
    """Every statistic of two checkpoints: value k + 10 s of statistic s under checkpoint k."""
    columns = {
        "pair": toy_corpus.pair_ids,
        "num_src_tokens": toy_corpus.num_src_tokens,
        "num_tokens": toy_corpus.num_tokens,
    }
    for s, stat in enumerate(STAT_NAMES):
        for k in range(2):
            columns[f"{stat}_{k}"] = np.full(300, k + 10.0 * s)
    return pa.table(columns)


def test_a_statistic_is_had_by_its_bare_name(toy_corpus: Corpus) -> None:
    table = ScoreTable.from_arrow(all_statistics(toy_corpus), {"steps": [1, 2]})
    assert table.statistics == STAT_NAMES
    assert table.num_checkpoints == 2
    for s, stat in enumerate(STAT_NAMES):
        assert table.column(stat)[[0, 299]].tolist() == [[10.0 * s, 10.0 * s + 1]] * 2


@pytest.fixture
def parts(folder: Path) -> Path:
    """The same table in parts of 120, 120 and 60 pairs."""
    whole = read_part(part_path(folder, 0))
    for i in range(3):
        write_part(whole.slice(120 * i, 120), part_path(folder, i))
    manifest = json.loads((folder / "scores.json").read_text())
    write_manifest(folder / "scores.json", manifest | {"num_parts": 3})
    return folder


@pytest.mark.parametrize("in_memory", [False, True])
def test_chunks_are_the_table_in_order(
    parts: Path, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_table, "PART_PAIRS", 120)
    table = ScoreTable.open(parts)
    if in_memory:
        table = ScoreTable.from_arrow(table.rows(table.names, 0, 300), table.manifest)
    table.add("domain", np.array(["news", "talk", "law"] * 100))
    chunks = [*table.chunks()]
    assert [rows for rows, _ in chunks] == [slice(0, 120), slice(120, 240), slice(240, 300)]
    for rows, chunk in chunks:
        assert len(chunk) == rows.stop - rows.start
        assert chunk.steps == table.steps
        assert chunk.corpus_path == table.corpus_path
        for name in (*table.names, "nll"):
            assert chunk.column(name).tolist() == table.column(name)[rows].tolist()
        assert chunk.ppl.tolist() == table.ppl[rows].tolist()


@pytest.mark.parametrize("in_memory", [False, True])
def test_added_columns_are_had_by_their_names(parts: Path, in_memory: bool) -> None:
    table = ScoreTable.open(parts)
    if in_memory:
        table = ScoreTable.from_arrow(table.rows(table.names, 0, 300), table.manifest)
    labse = np.random.default_rng(1).random(300).astype(np.float32)
    labse[[3, 200]] = np.nan
    assert table.add("labse", labse) == 2
    assert table.add("domain", ["news", "talk"] * 150) == 0
    assert table.add("is_copy", np.arange(300) % 7 == 0) == 0
    for again in (table,) if in_memory else (table, ScoreTable.open(parts)):
        assert again.names[-3:] == ("labse", "domain", "is_copy")
        assert again.column("labse").dtype == np.float32
        np.testing.assert_array_equal(again.column("labse"), labse)
        assert again.column("domain").tolist() == ["news", "talk"] * 150
        assert again.column("is_copy").tolist() == [i % 7 == 0 for i in range(300)]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("nll_1", np.zeros(300), "column nll_1: the table has or keeps this name; choose another"),
        ("el2n", np.zeros(300), "column el2n: the table has or keeps this name; choose another"),
        ("pair", np.zeros(300), "column pair: the table has or keeps this name; choose another"),
        ("ppl", np.zeros(300), "column ppl: the table has or keeps this name; choose another"),
        ("mine", np.zeros(300), "column mine: the table has or keeps this name; choose another"),
        ("a/b", np.zeros(300), "column 'a/b': expected a letter, then letters, digits and '_'"),
        (
            "short",
            np.zeros(299),
            "column short: found shape (299,), expected (300,), one value a pair of the table",
        ),
    ],
)
def test_what_cannot_be_added_is_refused(
    parts: Path, name: str, values: NDArray[np.float64], message: str
) -> None:
    table = ScoreTable.open(parts)
    other = ScoreTable.open(parts)  # as in another process
    table.add("mine", np.arange(300))
    before = sorted(parts.iterdir())
    for each in (table, other):
        with pytest.raises(PycatError) as caught:
            each.add(name, values)
        assert str(caught.value) == message
    assert sorted(parts.iterdir()) == before


def test_values_without_a_type_and_chunks_are_refused(parts: Path) -> None:
    table = ScoreTable.open(parts)
    for values, message in (
        ([object()] * 300, "column odd: expected numbers, booleans or text"),
        ([b"bytes"] * 300, "column odd: found binary, expected numbers, booleans or text"),
        ([True, None] * 150, "column odd: 150 values are None; give NaN instead"),
    ):
        with pytest.raises(PycatError, match=message):
            table.add("odd", np.array(values, dtype=object))
    table.add("domain", np.array(["news", None] * 150, dtype=object))
    assert table.column("domain").tolist() == ["news", None] * 150
    _, chunk = next(table.chunks())
    with pytest.raises(PycatError, match=r"column late: this is a chunk of .*; add to the whole"):
        chunk.add("late", np.zeros(120))


@pytest.mark.parametrize("values", [np.arange(300) / 2, np.arange(300) % 2 > 0, ["a", "b"] * 150])
def test_a_column_may_be_called_line_whatever_it_holds(parts: Path, values: Any) -> None:
    table = ScoreTable.open(parts)
    repeated = np.resize(np.asarray(values), len(table))
    table.add("line", repeated)
    assert ScoreTable.open(parts).column("line").tolist() == repeated.tolist()


def test_columns_added_in_two_processes_both_stay(parts: Path) -> None:
    one, other = ScoreTable.open(parts), ScoreTable.open(parts)
    one.add("first", np.zeros(300))
    other.add("second", np.ones(300))
    assert ScoreTable.open(parts).names[-2:] == ("first", "second")


def test_a_column_is_added_whole_or_not_at_all(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ScoreTable.open(parts)
    before = sorted(parts.iterdir())
    written: list[Path] = []

    def fail_at_the_third(part: pa.Table, path: Path) -> None:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "no space", str(path))
        written.append(path)
        write_part(part, path)

    monkeypatch.setattr(score_table, "write_part", fail_at_the_third)
    with pytest.raises(OSError, match="no space"):
        table.add("labse", np.zeros(300))
    assert len(written) == 2
    assert sorted(parts.iterdir()) == before
    monkeypatch.undo()
    # Killed in its middle, a column leaves files that nothing reads and the next one replaces.
    write_part(pa.table({"pair": [0], "labse": [7.0]}), column_path(part_path(parts, 0), "labse"))
    assert "labse" not in ScoreTable.open(parts).names
    table.add("labse", np.ones(300))
    assert ScoreTable.open(parts).column("labse").tolist() == [1.0] * 300


@pytest.mark.parametrize("renamed", [False, True])
def test_a_column_whose_manifest_fails_is_there_or_leaves_no_file(
    parts: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    before = sorted(parts.iterdir())

    def stop(path: Path, manifest: Mapping[str, Any]) -> None:
        assert len([*parts.glob("column-labse-*.parquet")]) == 3
        if renamed:
            write_manifest(path, manifest)
        raise OSError(errno.ENOSPC, "no space", str(path))

    monkeypatch.setattr(score_table, "write_manifest", stop)
    table = ScoreTable.open(parts)
    with pytest.raises(OSError, match="no space"):
        table.add("labse", np.ones(300))
    if renamed:
        assert ScoreTable.open(parts).column("labse").tolist() == [1.0] * 300
    else:
        assert sorted(parts.iterdir()) == before
        assert "labse" not in table.names


def test_a_part_that_changes_under_an_open_table_is_refused(parts: Path) -> None:
    table = ScoreTable.open(parts)
    file = part_path(parts, 1)
    write_part(read_part(file).slice(1), file)
    for read in (lambda: table.column("nll"), lambda: evaluate_criterion(table, "cat_var")):
        with pytest.raises(OutputError) as caught:
            read()
        assert str(caught.value) == (
            f"{file}: found 119 rows of nll_0, expected 120; delete the table's folder and run "
            "'pycat score' again"
        )


@pytest.mark.parametrize("num_threads", [1, 3])
def test_chunks_are_worked_on_in_order_whatever_the_threads(
    parts: Path, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_table, "_MAX_WORKERS", num_threads)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(3))
    table = ScoreTable.open(parts)
    sums = [*table.on_chunks(lambda rows, chunk: (rows.start, chunk.nll.sum()))]
    assert [start for start, _ in sums] == [0, 120, 240]
    nll = random_nll()
    np.testing.assert_allclose(
        [total for _, total in sums], [nll[a : a + 120].sum() for a in (0, 120, 240)]
    )
    assert table.nll.tolist() == nll.tolist()
    expected = np.exp(nll / table.num_tokens[:, None])[:, [0, 1, 2]].var(axis=1)
    assert evaluate_criterion(table, "cat_var").tolist() == expected.tolist()


def test_a_column_of_another_table_is_refused(parts: Path) -> None:
    ScoreTable.open(parts).add("labse", np.zeros(300))
    file = column_path(part_path(parts, 1), "labse")
    write_part(read_part(file).slice(1), file)
    with pytest.raises(OutputError) as caught:
        ScoreTable.open(parts)
    assert str(caught.value) == (
        f"{file}: found columns pair, labse and 119 rows, expected pair, labse and 120; it belongs "
        "to another table: delete the table's folder and run 'pycat score' again"
    )
    file.unlink()
    with pytest.raises(OutputError, match=r"column-labse-00001.parquet: .*cannot be read"):
        ScoreTable.open(parts)


def test_overwriting_a_table_takes_its_columns_along(
    parts: Path, toy_corpus: Corpus, make_scores: MakeScores
) -> None:
    ScoreTable.open(parts).add("labse", np.zeros(300))
    folder = OutputFolder(parts, "scores", {"corpus": "another"}, SCORE_FILES, overwrite=True)
    folder.close()
    assert [path.name for path in folder.path.iterdir()] == ["scores.json"]


def test_pandas_polars_and_duckdb_open_the_parts(parts: Path) -> None:
    import duckdb
    import pandas as pd
    import polars as pl

    table = ScoreTable.open(parts)
    table.add("labse", np.linspace(0, 1, 300))
    by_pandas = pd.concat(pd.read_parquet(path) for path in sorted(parts.glob("part-*.parquet")))
    by_polars = pl.read_parquet(parts / "part-*.parquet").sort("pair")
    by_duckdb = duckdb.execute(f"FROM '{parts}/part-*.parquet' ORDER BY pair").fetchnumpy()
    for name in table.names[:-1]:
        expected = table.column(name).tolist()
        assert by_pandas[name].tolist() == expected
        assert by_polars[name].to_list() == expected
        assert by_duckdb[name].tolist() == expected
    # An added column is joined by pair.
    joined = duckdb.execute(
        f"SELECT nll_0 * labse AS product FROM '{parts}/part-*.parquet' "
        f"JOIN '{parts}/column-labse-*.parquet' USING (pair) ORDER BY pair"
    )
    expected = (table.column("nll_0") * table.column("labse")).tolist()
    assert joined.fetchnumpy()["product"].tolist() == expected
    added = pl.read_parquet(parts / "column-labse-*.parquet")
    assert by_polars.join(added, on="pair")["labse"].to_list() == table.column("labse").tolist()
    by_pandas = by_pandas.merge(
        pd.concat(pd.read_parquet(path) for path in parts.glob("column-labse-*")), on="pair"
    )
    assert by_pandas["labse"].tolist() == table.column("labse").tolist()
