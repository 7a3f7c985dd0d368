"""Damage to any file of a finished work folder: each verb says so, or does what it did before."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import toy_pairs

import pycat
from pycat.errors import PycatError
from pycat.proxy.run import Run
from pycat.report import page
from pycat.report.page import write_report
from pycat.runtime.output import write_manifest
from pycat.scores.score_table import ScoreTable
from pycat.selection.selection import Selection

OPTIONS: dict[str, Any] = {
    "tokenize_options": {"vocab_size": 340, "max_tokens": 24},
    "train_options": {"checkpoint_steps": [2, 4], "batch_tokens": 512, "device": "cpu"},
    "score_options": {"device": "cpu"},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    pairs = toy_pairs(160)
    for side in (0, 1):
        lines = [pair[side] for pair in pairs] + ["", "one two three " * 40]
        (folder / f"toy.{('en', 'de')[side]}").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished work folder. Nothing writes into it."""
    work = tmp_path_factory.mktemp("whole") / "work"
    prune(text, work)
    return work


@pytest.fixture
def work(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage, with the same times."""
    return shutil.copytree(whole, tmp_path / "work")


def prune(text: Path, work: Path, **options: Any) -> bytes:
    pycat.prune(text / "toy.en", text / "toy.de", out=work, **OPTIONS, **options)
    return b"".join((work / f"pruned.{side}").read_bytes() for side in ("en", "de"))


def score(work: Path) -> bytes:
    run = Run.open(work / "proxy")
    return pycat.score(work / "corpus", run.checkpoints, device="cpu").nll.tobytes()


def select(work: Path) -> bytes:
    table = ScoreTable.open(work / "scores")
    return pycat.select(table, by="el2n", keep=0.3).pair_ids.tobytes()


def explain(work: Path) -> bytes:
    found = pycat.explain(work / "scores", 7, selection=work / "selection")
    return str(found.json()).encode()


def report(work: Path) -> bytes:
    out = work.parent / "again.html"
    table = ScoreTable.open(work / "scores")
    run = Run.open(work / "proxy")
    write_report(out, Selection.open(work / "selection"), table, run, timings={})
    return out.read_bytes()


def write_text(work: Path) -> bytes:
    outs = work.parent / "en", work.parent / "de"
    Selection.open(work / "selection").write_text(*outs, overwrite=True)
    return b"".join(out.read_bytes() for out in outs)


VERBS: dict[str, Callable[[Path], bytes]] = {
    "score": score,
    "select": select,
    "explain": explain,
    "report": report,
    "write_text": write_text,
}


def flip_bit(file: Path, chooser: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chooser.randrange(len(content))] ^= 1 << chooser.randrange(8)
    file.write_bytes(content)


def files_of(work: Path) -> list[Path]:
    return sorted(path for path in work.rglob("*") if path.is_file() and path.parent != work)


def test_a_flipped_bit_in_any_file_is_never_silent(
    whole: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_pictures", lambda *_: {})
    expected = {name: verb(work) for name, verb in VERBS.items()}
    chooser = random.Random(3)
    found = dict.fromkeys(VERBS, 0)
    for file in files_of(work):
        original = file.read_bytes()
        flip_bit(file, chooser)
        for name, verb in VERBS.items():
            try:
                got = verb(work)
            except PycatError as error:
                found[name] += 1
                assert str(work) in str(error), (file, name)
            else:
                assert got == expected[name], (file, name)
        file.write_bytes(original)
    assert min(found.values()) >= 3, found


def test_check_and_the_same_command_find_every_flipped_bit(text: Path, work: Path) -> None:
    assert all(not row.problems for row in pycat.check(work))
    chooser = random.Random(4)
    expected = prune(text, work)
    for file in files_of(work):
        original = file.read_bytes()
        for _ in range(3):
            flip_bit(file, chooser)
            problems = [problem for row in pycat.check(work) for problem in row.problems]
            if not problems:  # a blank of a manifest, which says the same
                assert file.suffix == ".json"
                continue
            assert any(file.name in problem for problem in problems), (file, problems)
            with pytest.raises(PycatError) as caught:
                prune(text, work)
            assert file.name in str(caught.value)
            file.write_bytes(original)
    assert prune(text, work) == expected


@pytest.mark.parametrize("name", ["pruned.en", "report.html"])
def test_damaged_results_are_written_again(text: Path, work: Path, name: str) -> None:
    file = work / name
    before = file.read_bytes()
    for damaged in (before[:100], b"", b"x" * len(before)):
        file.write_bytes(damaged)
        assert any(name in problem for row in pycat.check(work) for problem in row.problems)
        prune(text, work)
        assert file.read_bytes() == before


def test_a_damaged_stage_is_made_again_with_overwrite(text: Path, work: Path) -> None:
    expected = prune(text, work)
    before = (work / "scores" / "part-00000.parquet").read_bytes()
    for name in ("corpus/skipped.tsv", "scores/part-00000.parquet", "selection/kept.parquet"):
        file = work / name
        file.write_bytes(file.read_bytes()[:-9])
        with pytest.raises(PycatError, match="pass --overwrite"):
            prune(text, work)
        assert prune(text, work, overwrite=True) == expected
    assert (work / "scores" / "part-00000.parquet").read_bytes() == before
    assert all(not row.problems for row in pycat.check(work))


@pytest.mark.parametrize(
    ("file", "column", "change"),
    [
        ("scores/part-00000.parquet", "pair", lambda values: [value + 1 for value in values]),
        ("scores/part-00000.parquet", "nll_1", lambda values: values[::-1]),
        ("scores/part-00000.parquet", "num_tokens", lambda values: [-value for value in values]),
        ("measures/part-00000.parquet", "copied", None),
        ("selection/kept.parquet", "line", lambda values: [value - 3 for value in values]),
        ("selection/kept.parquet", "pair", lambda values: [10**12 for _ in values]),
    ],
)
def test_parquet_of_others_is_refused(
    work: Path, file: str, column: str, change: Callable[[list[Any]], list[Any]] | None
) -> None:
    path = work / file
    table = pq.read_table(path)
    if change is None:
        table = table.slice(0, len(table) - 1)
    else:
        values = change(table[column].to_pylist())
        at = table.column_names.index(column)
        table = table.set_column(at, column, pa.array(values, table[column].type))
    pq.write_table(table, path)
    with pytest.raises(PycatError, match=path.name):
        explain(work) if "measures" not in file else select(work)


def test_a_manifest_cannot_name_files_outside_of_its_folder(work: Path) -> None:
    path = work / "selection" / "selection.json"
    manifest = dict(Selection.open(path.parent).manifest)
    for name in ("../../secret", "/etc/passwd", "a/../../b"):
        write_manifest(path, {**manifest, "files": {name: {"bytes": 1, "sha256": "0"}}})
        with pytest.raises(PycatError, match="lies outside of"):
            Selection.open(path.parent)
