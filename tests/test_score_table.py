"""The score table: any Parquet reader opens it, and damage never becomes a score."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import MakeScores, SmallDisk
from numpy.typing import NDArray

from pycat.corpus import Corpus, open_corpus
from pycat.errors import OutputError
from pycat.score_table import ScoreTable, part_path, read_part, write_part


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
    (folder / "scores.json").write_text(json.dumps(manifest | {"num_parts": 12}))
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
    (folder / "scores.json").write_text(json.dumps(manifest | {"complete": False}))
    with pytest.raises(OutputError, match="this scores folder is incomplete"):
        ScoreTable.open(folder)


def test_a_part_appears_whole_or_not_at_all(folder: Path, small_disk: SmallDisk) -> None:
    disk = small_disk(4)
    part = part_path(disk, 0)
    with pytest.raises(OSError) as caught:
        write_part(read_part(part_path(folder, 0)), part)
    assert caught.value.filename == str(part)
    assert list(disk.iterdir()) == []
