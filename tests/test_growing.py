"""Pruning of text that has grown: what is taken over from the work before, and what is not."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import toy_pairs, write_lines

import pycat
from pycat import pruning
from pycat.errors import OutputError, PycatError
from pycat.proxy.copying import copy_run
from pycat.pruning import Pruned, prune

PAIRS = toy_pairs(200)
NEW = [pair for pair in toy_pairs(300, seed=1) if pair not in PAIRS][:20]
FAST: dict[str, Any] = {
    "tokenize_options": {"vocab_size": 340},
    "train_options": {"checkpoint_steps": [2, 4], "batch_tokens": 512, "device": "cpu"},
    "score_options": {"device": "cpu"},
}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    """The work of 200 pairs."""
    folder = tmp_path_factory.mktemp("before")
    return prune(*write_lines(folder, PAIRS, "text"), out=folder / "work", **FAST)


def _work(pruned: Pruned) -> Path:
    return pruned.report.parent


def test_grown_text_is_pruned_as_if_all_were_scored_anew(before: Pruned, tmp_path: Path) -> None:
    # New pairs stand first, some are gone, and the rest is in another order.
    text = write_lines(tmp_path, [*NEW, *PAIRS[150:], *PAIRS[:140]], "text")
    pruned = prune(*text, out=tmp_path / "work", base=_work(before), **FAST)
    reused = pruned.scores.manifest["reused"]
    assert reused["num_pairs"] == 190
    assert reused["path"] == os.path.relpath(
        (_work(before) / "scores").resolve(), (tmp_path / "work" / "scores").resolve()
    )
    # By hand, with the same tokenizer and checkpoints.
    assert before.run is not None
    corpus = pycat.tokenize(
        *text, out=tmp_path / "corpus", tokenizer=before.corpus.path / "tokenizer.model"
    )
    anew = pycat.score(corpus, before.run.checkpoints, out=tmp_path / "scores", device="cpu")
    for name in anew.names:
        np.testing.assert_array_equal(pruned.scores.column(name), anew.column(name))
    pycat.measure(corpus, out=tmp_path / "measures")
    pycat.add_clusters(anew, before.run.checkpoints[-1], device="cpu")
    kept = pycat.select(anew)
    assert pruned.selection.pair_ids.tolist() == kept.pair_ids.tolist()
    assert len(kept) == 105
    # The time of the proxy was spent earlier.
    assert list(pruned.timings) == ["tokenize", "measure", "score", "select", "cluster"]
    assert pruned.report.is_file()
    assert all(not row.problems for row in pycat.check(tmp_path / "work"))
    # A second call repeats nothing, and the work after that builds on this one.
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.json")}
    prune(*text, out=tmp_path / "work", base=_work(before), **FAST)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    third = prune(*text, out=tmp_path / "third", base=tmp_path / "work", **FAST)
    assert third.scores.manifest["reused"]["num_pairs"] == 210


def test_the_proxy_is_linked_or_copied(
    before: Pruned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert before.run is not None
    linked = copy_run(before.run, tmp_path / "linked")
    assert linked.manifest == before.run.manifest
    for ours, theirs in zip(linked.checkpoints, before.run.checkpoints, strict=True):
        assert ours.samefile(theirs)

    link = os.link

    def elsewhere(*places: Any, **options: Any) -> None:
        if not options:  # with options, a new file gets its name
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        link(*places, **options)

    monkeypatch.setattr(os, "link", elsewhere)
    copied = copy_run(before.run, tmp_path / "copied")
    for ours, theirs in zip(copied.checkpoints, before.run.checkpoints, strict=True):
        assert not ours.samefile(theirs)
        assert ours.read_bytes() == theirs.read_bytes()
    # A copy that is damaged is not taken over.
    content = bytearray(copied.checkpoints[1].read_bytes())
    content[-1] ^= 1
    copied.checkpoints[1].write_bytes(content)
    with pytest.raises(OutputError, match=r"step-0000004.safetensors: is not as it was written"):
        copy_run(copied, tmp_path / "third")
    assert not (tmp_path / "third" / "proxy.json").is_file() or not json.loads(
        (tmp_path / "third" / "proxy.json").read_text("utf-8")
    ).get("complete")
    copied.checkpoints[1].unlink()
    with pytest.raises(OutputError, match=r"step-0000004.safetensors: is missing; train"):
        copy_run(copied, tmp_path / "fourth")


def test_a_proxy_of_its_own(before: Pruned, tmp_path: Path) -> None:
    """The tokenizer alone is taken over, and other options of train are allowed."""
    text = write_lines(tmp_path, [*PAIRS, *NEW], "text")
    options = {**FAST, "train_options": {**FAST["train_options"], "checkpoint_steps": [3, 5]}}
    message = (
        r"work: its proxy was made with other options of train \(checkpoint_steps was \[2, 4\], "
        r"now \[3, 5\]\); give the same, or pass --train-anew"
    )
    with pytest.raises(PycatError, match=message):
        prune(*text, out=tmp_path / "work", base=_work(before), **options)
    assert not (tmp_path / "work" / "corpus").exists()
    base = _work(before)
    pruned = prune(*text, out=tmp_path / "work", base=base, train_anew=True, **options)
    assert pruned.scores.steps == [3, 5]
    assert "reused" not in pruned.scores.manifest
    assert pruned.corpus.manifest["tokenizer_sha256"] == before.corpus.manifest["tokenizer_sha256"]


def test_scores_by_trusted_text_are_taken_over_too(tmp_path: Path) -> None:
    good = write_lines(tmp_path, toy_pairs(30, seed=7), "good")
    options = {**FAST, "trusted": {"trusted": good}, "rules": "none", "guard": 0.0}
    text = write_lines(tmp_path, PAIRS, "before")
    prune(*text, out=tmp_path / "before", **options)
    text = write_lines(tmp_path, [*NEW, *PAIRS], "text")
    pruned = prune(*text, out=tmp_path / "work", base=tmp_path / "before", **options)
    scores = pycat.ScoreTable.open(tmp_path / "work" / "trusted" / "trusted" / "scores")
    assert scores.manifest["reused"]["num_pairs"] == 200
    assert scores.manifest["reused"]["path"] == "../../../../before/trusted/trusted/scores"
    assert pruned.run is not None
    tuned = pycat.Run.open(tmp_path / "work" / "trusted" / "trusted" / "tuned")
    both = [pruned.run.checkpoints[-1], *tuned.checkpoints]
    anew = pycat.score(pruned.corpus, both, stats="nll", device="cpu")
    np.testing.assert_array_equal(scores.nll, anew.nll)
    # Other trusted text tunes to another checkpoint, under which everything is scored.
    better = write_lines(tmp_path, toy_pairs(30, seed=8), "better")
    pycat.add_trusted(
        pruned.scores,
        better,
        checkpoint=pruned.run.checkpoints[-1],
        out=tmp_path / "better",
        name="better",
        base=scores,
        device="cpu",
    )
    assert "reused" not in pycat.ScoreTable.open(tmp_path / "better" / "scores").manifest


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_text_grows_in_place(before: Pruned, tmp_path: Path) -> None:
    work = tmp_path / "work"
    prune(*write_lines(tmp_path, PAIRS, "text"), out=work, base=_work(before), **FAST)
    grown = write_lines(tmp_path, [*NEW, *PAIRS], "grown")
    elsewhere = prune(*grown, out=tmp_path / "elsewhere", base=work, **FAST)
    pruned = prune(*grown, out=work, base=work, **FAST)
    assert pruned.scores.manifest["reused"]["num_pairs"] == len(PAIRS)
    assert pruned.selection.pair_ids.tolist() == elsewhere.selection.pair_ids.tolist()
    assert _tree(work) == _tree(tmp_path / "elsewhere")
    assert all(not row.problems for row in pycat.check(work))


def test_text_grows_within_one_work_folder(
    before: Pruned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    text = write_lines(tmp_path, PAIRS, "text")
    prune(*text, out=work, base=_work(before), **FAST)
    notes = work / "notes.txt"
    notes.write_text("mine")
    grown = write_lines(tmp_path, [*NEW, *PAIRS], "grown")
    elsewhere = prune(*grown, out=tmp_path / "elsewhere", base=work, **FAST)
    # Cut off while files are moved, then while pairs are chosen; each time the command goes on.
    rename = Path.rename
    moved: list[Path] = []

    def stop(path: Path, target: Path) -> Path:
        if len(moved) == 3:
            raise KeyboardInterrupt
        moved.append(path)
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", stop)
        prune(*grown, out=work, base=work, **FAST)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pruning, "select", interrupted)
        prune(*grown, out=work, base=work, **FAST)
    assert (work / "before" / "prune.json").is_file()
    pruned = prune(*grown, out=work, base=work, **FAST)
    reused, reused_elsewhere = (some.scores.manifest["reused"] for some in (pruned, elsewhere))
    assert reused["num_pairs"] == len(PAIRS)
    # The earlier table is gone, and nothing leads to it.
    assert reused_elsewhere.pop("path") == "../../work/scores"
    assert reused == reused_elsewhere
    assert _tree(work) == _tree(tmp_path / "elsewhere") | {"notes.txt"}
    for name in ("pruned.en", "pruned.de", "scores/part-00000.parquet"):
        assert (work / name).read_bytes() == (tmp_path / "elsewhere" / name).read_bytes()
    assert pruned.selection.pair_ids.tolist() == elsewhere.selection.pair_ids.tolist()
    assert all(not row.problems for row in pycat.check(work))
    # A second call repeats nothing.
    stamps = {path: path.stat().st_mtime_ns for path in work.rglob("*.json")}
    prune(*grown, out=work, base=work, **FAST)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    # What does not fit is refused, and nothing is moved.
    with pytest.raises(PycatError, match="vocab_size was 340, now 8000"):
        prune(*text, out=work, base=work, **{**FAST, "tokenize_options": {}})
    assert _tree(work) == _tree(tmp_path / "elsewhere") | {"notes.txt"}


def test_what_does_not_fit_is_refused_before_any_work(before: Pruned, tmp_path: Path) -> None:
    text = write_lines(tmp_path, PAIRS, "text")
    out, base = tmp_path / "work", _work(before)
    message = (
        r"its tokenizer was made with other options of tokenize \(vocab_size was 340, now 8000\); "
        "give the same, or leave --base out"
    )
    with pytest.raises(PycatError, match=message):
        prune(*text, out=out, base=base, **{**FAST, "tokenize_options": {}})
    with pytest.raises(PycatError, match=r"seed was 0, now 1"):
        prune(*text, out=out, base=base, seed=1, **FAST)
    with pytest.raises(PycatError, match="base brings a proxy and its scores, and fast uses"):
        prune(*text, out=out, base=base, fast=True)
    with pytest.raises(PycatError, match="train_anew goes with base, whose proxy it leaves out"):
        prune(*text, out=out, train_anew=True)
    with pytest.raises(OutputError, match=r"prune.json: expected the manifest of a pycat prune"):
        prune(*text, out=out, base=before.corpus.path, **FAST)
    assert not out.exists()
    quick = prune(*text, out=tmp_path / "fast", fast=True, tokenize_options={"vocab_size": 340})
    with pytest.raises(OutputError, match="was made without a proxy"):
        prune(*text, out=out, base=_work(quick), **FAST)
