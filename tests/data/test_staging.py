"""Copies on a machine's own disk: made once, compared, and without a trace in what is written."""

import json
import os
import pickle
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import FileSizeLimit, MakeScores, SmallDisk, ToyText, plain_select

import pycat
from pycat.cli.main import main
from pycat.data import staging
from pycat.data.reopening import CorpusAddress
from pycat.data.staging import staged_checkpoints, staged_corpus
from pycat.errors import CorpusError, OutputError, PycatError
from pycat.evaluation import evaluation
from pycat.proxy.run import Run
from pycat.proxy.trainer import Arm

FAST: dict[str, Any] = {
    "preset": "mini",
    "batch_tokens": 256,
    "checkpoint_steps": [1, 2],
    "device": "cpu",
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_corpus: pycat.Corpus) -> Run:
    return pycat.train(toy_corpus, out=tmp_path_factory.mktemp("run") / "proxy", **FAST)


def copy_of(stage: Path, kind: str) -> Path:
    [folder] = stage.glob(f"{kind}-*")
    return folder


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Each file below a folder: its inode and the time of its last change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def without_times(manifest: Mapping[str, Any]) -> dict[str, Any]:
    times = ("elapsed_s", "tokens_per_s", "flop_utilization", "manifest_sha256", "corpus_path")
    return {name: value for name, value in manifest.items() if name not in times}


def test_what_is_made_of_copies_is_the_same_and_names_the_originals(
    tmp_path: Path, toy_corpus: pycat.Corpus, run: Run
) -> None:
    stage = tmp_path / "disk"
    staged = pycat.train(toy_corpus, out=tmp_path / "staged", stage=stage, **FAST)
    for ours, theirs in zip(staged.checkpoints, run.checkpoints, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()
    made = files_of(stage)
    assert {Path(name).name for name in made} == {
        *("src.idx", "src.bin", "tgt.idx", "tgt.bin", "src.sums", "tgt.sums", "staged.json")
    }
    tables = []
    for out, where in (("plain", None), ("copied", stage)):
        table = pycat.score(
            toy_corpus.path, run.path, out=tmp_path / out, stage=where, device="cpu"
        )
        tables.append(table)
    plain, copied = tables
    assert plain.path is not None and copied.path is not None
    part = "part-00000.parquet"
    assert (plain.path / part).read_bytes() == (copied.path / part).read_bytes()
    assert without_times(plain.manifest) == without_times(copied.manifest)
    folder = (copied.path / copied.manifest["corpus_path"]).resolve()
    assert folder == toy_corpus.path.resolve()
    assert str(stage) not in (copied.path / "scores.json").read_text()
    assert str(stage) not in (staged.path / "proxy.json").read_text()
    # The second use copied the weights, and left the corpus that was there.
    after = files_of(stage)
    assert {name: after[name] for name in made} == made
    names = {Path(name).name for name in after.keys() - made.keys()}
    assert names == {*(path.name for path in run.checkpoints), "proxy.json", "staged.json"}


def test_a_subset_is_read_from_the_copy_of_the_whole(
    tmp_path: Path, toy_corpus: pycat.Corpus
) -> None:
    subset = toy_corpus.subset(toy_corpus.pair_ids[5:50:3])
    staged = staged_corpus(subset, tmp_path)
    assert staged.id == subset.id and staged.path == subset.path
    assert staged.files[0].prefix == str(copy_of(tmp_path, "corpus") / "src")
    assert staged.pair_ids.tolist() == subset.pair_ids.tolist()
    for ours, theirs in zip(staged[7], subset[7], strict=True):
        assert ours.tolist() == theirs.tolist()
    again = staged.subset(subset.pair_ids[:3])
    assert again.files[0].prefix == staged.files[0].prefix


def test_another_process_reads_a_copy_too(tmp_path: Path, toy_corpus: pycat.Corpus) -> None:
    subset = staged_corpus(toy_corpus, tmp_path / "here").subset(toy_corpus.pair_ids[::2])
    address = pickle.loads(pickle.dumps(CorpusAddress.of(subset)))
    assert address.path == toy_corpus.path.resolve()
    there = address.open()
    assert there.files[0].prefix == str(copy_of(tmp_path / "here", "corpus") / "src")
    assert there.id == subset.id and there.path == toy_corpus.path.resolve()
    # The copy is made anew where there is none, as on another machine.
    shutil.rmtree(tmp_path / "here")
    assert address.open().files[0].prefix == there.files[0].prefix


def test_measures_of_a_copy_are_the_same(tmp_path: Path, toy_corpus: pycat.Corpus) -> None:
    plain = pycat.measure(toy_corpus, out=tmp_path / "plain")
    words = ["--corpus", str(toy_corpus.path), "--out", str(tmp_path / "copied")]
    assert main(["measure", *words, "--stage", str(tmp_path / "disk")]) == 0
    assert {path.name for path in copy_of(tmp_path / "disk", "corpus").iterdir()} >= {"src.bin"}
    part = "part-00000.parquet"
    assert (tmp_path / "copied" / part).read_bytes() == (plain.path / part).read_bytes()


def test_arms_are_trained_on_the_copy(
    tmp_path: Path,
    toy_corpus: pycat.Corpus,
    make_scores: MakeScores,
    toy_text: ToyText,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Trained(Exception):
        pass

    def retrain(arms: Sequence[Arm], **_: Any) -> None:
        prefixes = {arm.corpus.files[0].prefix for arm in arms}
        assert prefixes == {str(copy_of(tmp_path / "disk", "corpus") / "src")}
        raise Trained

    monkeypatch.setattr(evaluation, "retrain", retrain)
    nll = np.random.default_rng(0).random((len(toy_corpus), 3)) + 1
    selection = plain_select(make_scores(toy_corpus, nll), out=tmp_path / "half")
    with pytest.raises(Trained):
        pycat.evaluate(
            selection,
            tests={"toy": toy_text(20, seed=1)},
            out=tmp_path / "evaluation",
            batch_tokens=64,
            device="cpu",
            stage=tmp_path / "disk",
        )


def test_processes_that_come_together_copy_once(
    tmp_path: Path, toy_corpus: pycat.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    copy_file, begun = staging._copy_file, threading.Event()

    def slow(source: Path, target: Path, advance: Any) -> None:
        copied.append(source.name)
        begun.wait(0.2)  # the others look for the copy meanwhile
        copy_file(source, target, advance)

    monkeypatch.setattr(staging, "_copy_file", slow)
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(staged_corpus(toy_corpus, tmp_path).files[0].prefix)
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copied) == len(set(copied)) == 6
    assert len(found) == 4 and len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [copy_of(tmp_path, "corpus").name]


def test_what_a_killed_process_left_is_replaced(tmp_path: Path, toy_corpus: pycat.Corpus) -> None:
    name = f"corpus-{toy_corpus.manifest['id'][:16]}"
    partial = tmp_path / f".{name}.partial"
    partial.mkdir()
    (partial / "src.bin").write_bytes(b"half")
    (tmp_path / f".{name}.pycat.lock").touch()
    staged_corpus(toy_corpus, tmp_path).verify()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_full_disk_is_told_before_and_while_copying(
    tmp_path: Path,
    toy_corpus: pycat.Corpus,
    file_size_limit: FileSizeLimit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with file_size_limit(2000), pytest.raises(OutputError, match=r"cannot be copied to \(File too"):
        staged_corpus(toy_corpus, tmp_path)
    assert not [*tmp_path.iterdir()]
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"has room for 100 bytes, expected [\d,]+ for a copy of"):
        staged_corpus(toy_corpus, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_disk_that_runs_full_keeps_no_half_copy(
    toy_corpus: pycat.Corpus, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = small_disk(16)
    roomy = shutil.disk_usage(disk)._replace(free=1 << 40)  # others fill it meanwhile
    monkeypatch.setattr(shutil, "disk_usage", lambda path: roomy)
    with pytest.raises(OutputError, match="No space left on device"):
        staged_corpus(toy_corpus, disk / "stage")
    assert not [*(disk / "stage").iterdir()]


@pytest.mark.parametrize("name", ["src.idx", "src.bin", "tgt.sums"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "touched"])
def test_a_damaged_copy_is_refused_by_name(
    name: str, damage: str, tmp_path: Path, toy_corpus: pycat.Corpus
) -> None:
    staged_corpus(toy_corpus, tmp_path)
    path = copy_of(tmp_path, "corpus") / name
    content, status = bytearray(path.read_bytes()), path.stat()
    if damage == "missing":
        path.unlink()
    elif damage == "touched":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content[:-1] if damage == "cut" else content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(OutputError) as caught:
        staged_corpus(toy_corpus, tmp_path)
    message = str(caught.value)
    assert str(path) in message and "and it is copied anew" in message


def test_damage_in_a_large_copy_is_found_where_it_is_read(
    tmp_path: Path, toy_corpus: pycat.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_HASHED_BYTES", 0)
    staged_corpus(toy_corpus, tmp_path / "disk")
    path = copy_of(tmp_path / "disk", "corpus") / "tgt.bin"
    content, status = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CorpusError) as caught:
        pycat.train(toy_corpus, out=tmp_path / "run", stage=tmp_path / "disk", **FAST)
    assert str(path) in str(caught.value)
    assert f"below {tmp_path / 'disk'}, and it is copied anew" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"files": {"src.bin": 1}}', b"\xff"])
def test_a_damaged_list_is_refused(
    content: bytes, tmp_path: Path, toy_corpus: pycat.Corpus
) -> None:
    staged_corpus(toy_corpus, tmp_path)
    (copy_of(tmp_path, "corpus") / "staged.json").write_bytes(content)
    with pytest.raises(OutputError, match=r"cannot be used .*and it is copied anew"):
        staged_corpus(toy_corpus, tmp_path)


def test_a_damaged_original_is_not_copied(tmp_path: Path, toy_corpus: pycat.Corpus) -> None:
    original = tmp_path / "corpus"
    original.mkdir()
    for path in toy_corpus.path.iterdir():
        if path.is_file():
            (original / path.name).write_bytes(path.read_bytes())
    content = bytearray((original / "src.bin").read_bytes())
    content[10] ^= 1
    (original / "src.bin").write_bytes(content)
    corpus = pycat.open_corpus(original)
    with pytest.raises(OutputError, match=r"src\.bin: its copy has SHA-256 .*run 'pycat check"):
        staged_corpus(corpus, tmp_path / "disk")
    assert not [*(tmp_path / "disk").iterdir()]


def test_checkpoints_of_every_kind_are_copied_or_left(tmp_path: Path, run: Run) -> None:
    stage = tmp_path / "disk"
    [one] = staged_checkpoints([run.checkpoints[1]], stage)
    assert one.name == run.checkpoints[1].name and (one.parent / "proxy.json").is_file()
    assert one.read_bytes() == run.checkpoints[1].read_bytes()

    # A folder of a Trainer, without what only the Trainer reads.
    saved = tmp_path / "checkpoint-20"
    (saved / "global_step20").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "optimizer.pt", "rng_state_0.pth"):
        (saved / name).write_text(name)
    (saved / "global_step20" / "shard.pt").write_text("of the optimizer")
    (saved / "linked.json").symlink_to(saved / "config.json")
    copied = staged_checkpoints(str(saved), stage)
    assert copied.name == "checkpoint-20"
    assert sorted(path.name for path in copied.iterdir()) == [
        *("config.json", "linked.json", "model.safetensors")
    ]
    assert not (copied / "linked.json").is_symlink()

    # One that was trained further since is another.
    (saved / "model.safetensors").write_text("model, later")
    later = staged_checkpoints([saved], stage)[0]
    assert later != copied and (later / "model.safetensors").read_text() == "model, later"

    # Files of other tools and adapters stay.
    loose = tmp_path / "model.iter10.npz"
    loose.write_bytes(b"weights")
    adapter = object()
    assert staged_checkpoints([loose, adapter], stage) == [loose, adapter]
    assert staged_checkpoints(adapter, stage) is adapter


def test_a_checkpoint_that_is_not_that_of_its_run_is_not_copied(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "proxy"
    folder.mkdir()
    for path in run.path.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    path = folder / run.checkpoints[0].name
    path.write_bytes(run.checkpoints[1].read_bytes())
    for given in (path, folder):
        with pytest.raises(OutputError, match=r"expected .*that of the manifest"):
            staged_checkpoints(given, tmp_path / "disk")


def test_what_cannot_be_staged_is_refused(
    tmp_path: Path, toy_corpus: pycat.Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((toy_corpus.path / "corpus.json").read_text())
    other = pycat.open_corpus(
        (toy_corpus.path / "src", toy_corpus.path / "tgt"),
        vocab_size=manifest["vocab_size"],
        eos_id=manifest["eos_id"],
    )
    with pytest.raises(PycatError, match="has no hashes to compare a copy with"):
        staged_corpus(other, tmp_path / "disk")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be copied to"):
        staged_corpus(toy_corpus, tmp_path / "file")
    words = ["score", "--corpus", str(toy_corpus.path), "--checkpoints", "x", "--stage", "y"]
    assert main([*words, "--format", "marian"]) == 1
    assert "--stage is for a table of scores" in capsys.readouterr().err
