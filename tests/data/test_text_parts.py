"""Parts of a text are its lines, wherever they are cut; workers make the same corpus of them."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from helpers import ToyText

from pycat.data import text_parts as module
from pycat.data.corpus import Corpus
from pycat.data.parallel_text import ParallelText
from pycat.data.text_parts import FileRange, text_parts
from pycat.data.tokenizing import tokenize
from pycat.errors import OutputError, TextError
from pycat.filters.measures import measure
from pycat.runtime.part_files import read_arrays


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of a finished folder, but for its manifest, which holds times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".json"}


@pytest.mark.parametrize("part_lines", [1, 2, 3, 100])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_parts_have_the_lines_of_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_lines: int, is_compressed: bool
) -> None:
    monkeypatch.setattr(module, "PART_LINES", part_lines)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 5)  # lines go over the ends of blocks
    src, tgt = b"a\nbc\rd\n\nefghijklmn\n\xef\xbb\xbf", b"1\r\n2\n3\n\n5"
    paths = tmp_path / "t.en", tmp_path / "t.de"
    for path, content in zip(paths, (src, tgt), strict=True):
        path.write_bytes(gzip.compress(content) if is_compressed else content)
    parts = list(text_parts(ParallelText(paths)))
    assert [part.index for part in parts] == list(range(len(parts)))
    assert [part.first for part in parts] == list(range(1, 6, part_lines))[: len(parts)]
    assert all(isinstance(side, FileRange) != is_compressed for side in parts[0].sides)
    chunks = [chunk for part in parts for chunk in part.chunks()]
    assert [chunk.first for chunk in chunks] == [part.first for part in parts]
    columns = [[line for chunk in chunks for line in chunk.columns[side]] for side in (0, 1)]
    assert columns[0] == [b"a\n", b"bc\rd\n", b"\n", b"efghijklmn\n", b"\xef\xbb\xbf"]
    assert columns[1] == [b"1\r\n", b"2\n", b"3\n", b"\n", b"5"]


@pytest.mark.parametrize("num_lines", [3, 4, 7])
def test_unequal_files_are_refused_with_their_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_lines: int
) -> None:
    monkeypatch.setattr(module, "PART_LINES", 2)
    (tmp_path / "a").write_bytes(b"x\n" * 5)
    (tmp_path / "b").write_bytes(b"y\n" * num_lines)
    text = ParallelText((tmp_path / "a", tmp_path / "b"))
    with pytest.raises(TextError, match=rf"a has 5 lines but .*b has {num_lines};"):
        list(text_parts(text))
    with pytest.raises(TextError, match=rf"b has {num_lines} lines but .*a has 5;"):
        list(text_parts(ParallelText(text.paths[::-1])))


def test_what_is_no_text_or_has_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(b"a\tb\n" * 3)
    [part] = text_parts(ParallelText((path,)))
    path.write_bytes(b"a\tb\n\n\n\n\n\n\n\n\n")
    with pytest.raises(TextError, match=r"t\.tsv: has changed since its lines were counted"):
        list(part.chunks())
    path.write_bytes(b"a\tb\n")
    with pytest.raises(TextError, match="has changed"):
        list(part.chunks())
    path.unlink()
    with pytest.raises(TextError, match="cannot be read"):
        list(part.chunks())
    path.write_bytes(b"PAR1" + bytes(20))
    with pytest.raises(TextError, match="Parquet"):
        list(text_parts(ParallelText((path,))))
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 10)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 4)
    path.write_bytes(b"a\tb\n" + b"c" * 30)
    with pytest.raises(TextError, match="line 2 is longer than"):
        list(text_parts(ParallelText((path,))))


def test_workers_tokenize_and_measure_to_the_same_bytes(
    toy_text: ToyText, toy_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_LINES", 70)
    src, tgt = toy_text(300)
    lines = src.read_text("utf-8").splitlines()
    lines[5] = lines[290] = ""  # these are skipped
    src.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    made: list[Corpus] = [
        tokenize(src, tgt, out=tmp_path / name / "corpus", tokenizer=toy_tokenizer, num_workers=n)
        for name, n in (("here", None), ("there", 2))
    ]
    assert made[0].id == made[1].id and len(made[1]) == 298
    assert made[0].manifest["skipped"] == made[1].manifest["skipped"] == {"empty source": 2}
    assert files_of(made[0].path) == files_of(made[1].path)
    for name in ("measures", "measure_steps", "rule_measures"):
        monkeypatch.setattr(f"pycat.filters.{name}.PART_PAIRS", 64)
    here = measure(made[0], out=tmp_path / "here" / "measures")
    there = measure(made[1], out=tmp_path / "there" / "measures", num_workers=2)
    assert files_of(here.path) == files_of(there.path)
    assert here.manifest["loud_rules"] == there.manifest["loud_rules"]


def test_finished_parts_are_not_made_again(
    toy_text: ToyText, toy_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_LINES", 100)
    src, tgt = toy_text(300)
    whole = tokenize(src, tgt, out=tmp_path / "whole", tokenizer=toy_tokenizer)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pycat.data.token_writing.read_arrays", stop)
        with pytest.raises(KeyboardInterrupt):
            tokenize(src, tgt, out=tmp_path / "cut", tokenizer=toy_tokenizer, num_workers=2)
    parts = sorted((tmp_path / "cut").glob("tokens-*.npz"))
    assert len(parts) == 3
    parts[1].unlink()
    times = [part.stat().st_mtime_ns for part in (parts[0], parts[2])]
    with monkeypatch.context() as patch:
        patch.setattr("pycat.data.token_writing.read_arrays", stop)
        with pytest.raises(KeyboardInterrupt):
            tokenize(src, tgt, out=tmp_path / "cut", tokenizer=toy_tokenizer, num_workers=2)
    assert [part.stat().st_mtime_ns for part in (parts[0], parts[2])] == times
    cut = tokenize(src, tgt, out=tmp_path / "cut", tokenizer=toy_tokenizer, num_workers=2)
    assert files_of(cut.path) == files_of(whole.path)  # no part is left


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokens-1.npz"
    np.savez(path, src=np.arange(1000))
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(OutputError, match=r"tokens-1\.npz: this part cannot be read"):
        read_arrays(path)
    with pytest.raises(OutputError, match="cannot be read"):
        read_arrays(tmp_path / "none.npz")
