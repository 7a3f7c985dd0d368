"""Output folders: finished work is not repeated, and nothing of someone else's is touched."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers import FileSizeLimit, SmallDisk

from pycat.errors import CorpusError, OutputError
from pycat.runtime.locks import LOCK_FILE
from pycat.runtime.manifest import load_manifest, read_manifest
from pycat.runtime.output import OutputFolder, changes, digest, replacing, write_json
from pycat.runtime.publishing import sync_folder

RECIPE = {"keep": 0.5, "by": "cat_var"}

# What a manifest of scores has at least.
FACTS = {
    "corpus": "hash",
    "corpus_path": "../corpus",
    "num_pairs": 3,
    "num_parts": 1,
    "steps": [1, 2],
}


def opened(
    path: Path, recipe: dict[str, Any] | None = None, *, overwrite: bool = False
) -> OutputFolder:
    return OutputFolder(path, "scores", recipe or RECIPE, ("part-*", "extra"), overwrite)


def finished(path: Path) -> dict[str, Any]:
    folder = opened(path)
    (path / "part-0").write_text("zero")
    (path / "extra").write_text("more")
    return folder.finish(num_pairs=3)


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of each file, without the lock of a folder in use."""
    return {
        file.name: (file.read_bytes(), file.stat().st_mtime_ns)
        for file in path.iterdir()
        if file.name != LOCK_FILE
    }


def test_a_new_folder_is_incomplete_until_finished(tmp_path: Path) -> None:
    path = tmp_path / "made" / "with parents"
    folder = opened(path)
    assert (folder.manifest, folder.resumes) == (None, False)
    begun = {"format": "pycat.scores", "version": 1, "recipe": RECIPE, "complete": False}
    assert load_manifest(path / "scores.json") == begun
    whole = folder.finish(**FACTS)
    elapsed_s = whole["elapsed_s"]
    assert 0 <= elapsed_s < 60
    assert whole == begun | {"complete": True, **FACTS, "elapsed_s": elapsed_s}
    assert load_manifest(path / "scores.json") == whole
    assert read_manifest(path, "scores") == whole


@pytest.mark.parametrize("overwrite", [False, True])
def test_finished_work_is_opened_and_not_touched(tmp_path: Path, overwrite: bool) -> None:
    manifest = finished(tmp_path)
    before = contents(tmp_path)
    folder = opened(tmp_path, overwrite=overwrite)
    assert (folder.manifest, folder.resumes) == (manifest, False)
    assert contents(tmp_path) == before


def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "part-0").write_text("zero")
    before = contents(tmp_path)
    folder = opened(tmp_path)
    assert (folder.manifest, folder.resumes) == (None, True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("complete", [True, False])
def test_a_changed_option_is_refused_with_name_old_and_new(tmp_path: Path, complete: bool) -> None:
    if complete:
        finished(tmp_path)
    else:
        opened(tmp_path)
        (tmp_path / "part-0").write_text("zero")
    before = contents(tmp_path)
    with pytest.raises(OutputError) as caught:
        opened(tmp_path, {"keep": 0.25, "seed": 1, "by": "cat_var"})
    assert str(caught.value) == (
        f"{tmp_path}: this scores folder was made with other options (keep was 0.5, now 0.25; seed "
        "was null, now 1); pass --overwrite (overwrite=True) to replace it, or choose another "
        "folder"
    )
    assert contents(tmp_path) == before


def test_overwriting_removes_only_what_the_stage_owns(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "part-1").write_text("mine too")
    folder = opened(tmp_path, {"keep": 0.25}, overwrite=True)
    assert (folder.manifest, folder.resumes) == (None, False)
    folder.close()
    names = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*"))
    assert names == ["notes.txt", "scores.json", "sub", "sub/part-1"]
    assert json.loads((tmp_path / "scores.json").read_text())["recipe"] == {"keep": 0.25}


def test_a_run_that_failed_before_it_made_anything_blocks_no_other_options(tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    folder = opened(tmp_path, {"keep": 0.25})
    assert (folder.manifest, folder.resumes) == (None, False)
    assert sorted(contents(tmp_path)) == ["notes.txt", "scores.json"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (["thesis.tex"], "thesis.tex"),
        (["corpus.json", "src.bin"], "corpus.json, src.bin"),
        (["d", "c", "b", "a"], "a, b, c"),
    ],
)
def test_a_folder_of_something_else_is_refused(
    tmp_path: Path, names: list[str], listed: str, overwrite: bool
) -> None:
    for name in names:
        (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(OutputError) as caught:
        opened(tmp_path, overwrite=overwrite)
    assert str(caught.value) == (
        f"{tmp_path}: expected an empty folder or one made by pycat (scores.json), found {listed}; "
        "choose another folder"
    )
    assert contents(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_manifest_that_is_not_pycats_is_refused(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "scores.json").write_text('{"team": "home"}')
    (tmp_path / "part-0").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(OutputError) as caught:
        opened(tmp_path, overwrite=overwrite)
    assert str(caught.value) == (
        f"{tmp_path / 'scores.json'}: found format None, expected 'pycat.scores'; pycat did not "
        "make this file: choose another folder"
    )
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "pycat.sc', "cannot be read ("),
        ("", "cannot be read ("),
        ("[1, 2]", "expected a JSON object, found list"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "scores.json"
    file.write_text(text)
    for action in (lambda: opened(tmp_path), lambda: read_manifest(tmp_path, "scores")):
        with pytest.raises(OutputError) as caught:
            action()
        assert str(caught.value).startswith(f"{file}: {message}")
    assert file.read_text() == text


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("mine")
    with pytest.raises(OutputError) as caught:
        opened(file, overwrite=True)
    assert str(caught.value) == f"{file}: expected a folder, found a file; choose another name"
    with pytest.raises(NotADirectoryError) as below:
        opened(file / "sub")
    assert below.value.filename == str(file / "sub")
    assert file.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError) as caught:
        opened(tmp_path)
    assert caught.value.filename == str(tmp_path / "scores.json")


def test_reading_a_manifest_says_what_is_wrong(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(CorpusError) as caught:
            read_manifest(path, "scores", CorpusError)
        return str(caught.value)

    file = tmp_path / "scores.json"
    expected = "expected the manifest of a pycat scores folder, found"
    assert (
        message(tmp_path / "no") == f"{tmp_path / 'no' / 'scores.json'}: {expected} no such folder"
    )
    assert message(tmp_path) == f"{file}: {expected} a folder without it"
    opened(tmp_path)
    assert message(tmp_path) == (
        f"{tmp_path}: this scores folder is incomplete (its making was interrupted); run the "
        "command that makes it again"
    )
    for format_, version in (("pycat.scores", 2), ("pycat.corpus", 1), (None, None)):
        write_json(file, {"format": format_, "version": version, "complete": True})
        assert message(tmp_path) == (
            f"{file}: found format {format_!r} version {version!r}, expected 'pycat.scores' "
            "version 1; use the pycat that wrote it"
        )


def test_replacing_changes_the_file_on_success_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("second")
        raise KeyboardInterrupt
    assert contents(tmp_path).keys() == {"file"}
    assert path.read_text() == "first"


def test_replacing_names_the_file_in_errors_that_name_none(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(OSError) as caught, replacing(path):
        raise OSError(errno.EIO, "Input/output error")
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))
    with pytest.raises(OSError) as caught, replacing(path):
        raise OSError(errno.EIO, "Input/output error", "another")
    assert caught.value.filename == "another"


def test_a_full_disk_leaves_the_old_manifest(tmp_path: Path, small_disk: SmallDisk) -> None:
    disk = small_disk(64)
    file = disk / "scores.json"
    folder = opened(disk)
    old = file.read_bytes()
    filler = disk / "filler"
    with pytest.raises(OSError), filler.open("wb", buffering=0) as all_space:
        while True:
            all_space.write(bytes(4096))
    with pytest.raises(OSError) as caught:
        folder.finish(num_pairs=3)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(file))
    assert file.read_bytes() == old
    folder.close()
    assert sorted(entry.name for entry in disk.iterdir()) == ["filler", "scores.json"]
    filler.unlink()
    again = opened(disk)
    assert again.resumes
    assert again.finish(**FACTS) == read_manifest(disk, "scores")


def test_a_manifest_too_large_is_named(tmp_path: Path, file_size_limit: FileSizeLimit) -> None:
    file = tmp_path / "file.json"
    with file_size_limit(100), pytest.raises(OSError) as caught:
        write_json(file, {"long": "x" * 200})
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(file))
    assert list(tmp_path.iterdir()) == []


def test_changes_are_named_and_kept_short() -> None:
    assert changes({"a": 1, "b": 2, "same": 0}, {"b": 3, "c": [4], "same": 0}) == [
        "a was 1, now null",
        "b was 2, now 3",
        "c was null, now [4]",
    ]
    (row,) = changes({"sha": "a" * 64}, {"sha": "b" * 64})
    assert row == f'sha was "{"a" * 27}…{"a" * 27}", now "{"b" * 27}…{"b" * 27}"'


def test_the_digest_of_a_recipe_depends_on_its_values_alone() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    # SHA-256 of the two characters {}
    empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert digest({}) == empty


def test_a_kill_while_overwriting_leaves_a_folder_that_can_be_overwritten(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path, "scores", {"a": 1}, ("part-*",), overwrite=False)
    (tmp_path / "part-0").write_text("zero")
    folder.finish()
    folder.close()

    class Killed(BaseException):
        pass

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(Killed()))
        OutputFolder(tmp_path, "scores", {"a": 2}, ("part-*",), overwrite=True)
    assert not json.loads((tmp_path / "scores.json").read_text())["complete"]
    again = OutputFolder(tmp_path, "scores", {"a": 2}, ("part-*",), overwrite=True)
    assert again.manifest is None
    assert not (tmp_path / "part-0").exists()


def test_what_killed_runs_left_half_written_is_removed(tmp_path: Path) -> None:
    OutputFolder(tmp_path, "scores", {"a": 1}, ("part-*", "src.bin"), overwrite=False)
    litter = (".part-0.123.tmp", ".src.bin.7.0.tmp", ".scores.json.9.tmp")
    for name in (*litter, "my.tmp"):
        (tmp_path / name).write_text("half")
    assert OutputFolder(tmp_path, "scores", {"a": 1}, ("part-*", "src.bin"), False).resumes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.tmp", "scores.json"]


def test_a_kill_before_the_first_manifest_leaves_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / ".scores.json.9.tmp").write_text("half")
    assert not OutputFolder(tmp_path, "scores", {"a": 1}, (), overwrite=False).resumes


def test_time_spent_is_summed_over_interruptions(tmp_path: Path) -> None:
    first = OutputFolder(tmp_path, "scores", {"a": 1}, (), overwrite=False)
    first._started -= 100
    first.record()
    first.close()
    second = OutputFolder(tmp_path, "scores", {"a": 1}, (), overwrite=False)
    second._started -= 10
    second.finish()
    manifest = json.loads((tmp_path / "scores.json").read_text())
    assert manifest["elapsed_s"] == pytest.approx(110, abs=5)


def test_a_link_out_of_the_folder_is_removed_and_not_followed(tmp_path: Path) -> None:
    outside, path = tmp_path / "outside", tmp_path / "made"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (outside / ".file.9.tmp").write_text("mine")
    owned = ("part-*", "sub/*")
    with OutputFolder(path, "corpus", {"a": 1}, owned, overwrite=False) as folder:
        folder.finish()
    (path / "sub").symlink_to(outside)
    (path / "part-0").symlink_to(outside / "file")
    OutputFolder(path, "corpus", {"a": 2}, owned, overwrite=True).close()
    assert sorted(entry.name for entry in path.iterdir()) == ["corpus.json"]
    assert sorted(entry.name for entry in outside.iterdir()) == [".file.9.tmp", "file"]


def test_finished_work_can_be_opened_where_nothing_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = finished(tmp_path)
    (tmp_path / LOCK_FILE).write_text("")  # as a kill just before the end leaves it

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr("pycat.runtime.locks.os.open", refuse)
        assert opened(tmp_path).manifest == manifest
    assert opened(tmp_path).manifest == manifest
    assert not (tmp_path / LOCK_FILE).exists()


def test_files_of_unfinished_work_go_with_the_end_of_it(tmp_path: Path) -> None:
    def opened_with_state() -> OutputFolder:
        return OutputFolder(
            tmp_path, "proxy", RECIPE, ("state", "step-*"), False, working=("state",)
        )

    with opened_with_state() as folder:
        for name in ("state", "step-1"):
            (tmp_path / name).write_text(name)
        folder.finish()
    assert sorted(contents(tmp_path)) == ["proxy.json", "step-1"]
    # Killed after the manifest, the next call removes them.
    (tmp_path / "state").write_text("left")
    (tmp_path / LOCK_FILE).write_text("")
    assert opened_with_state().manifest is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["proxy.json", "step-1"]


@pytest.mark.parametrize("nameless", [True, False])
def test_a_replaced_file_keeps_its_mode_and_has_no_name_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool
) -> None:
    if not nameless:
        monkeypatch.delattr("pycat.runtime.publishing.os.O_TMPFILE")
    path = tmp_path / "file"
    for text, mode in (("first", 0o640), ("second", 0o640)):
        with replacing(path) as temporary:
            temporary.write_text(text)
            others = {entry.name for entry in tmp_path.iterdir()} - {"file"}
            assert others == (set() if nameless else {f".file.{os.getpid()}.tmp"})
        assert (path.read_text(), list(tmp_path.iterdir())) == (text, [path])
        path.chmod(mode)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_folder_that_is_not_on_the_disk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        sync_folder(tmp_path)
    assert caught.value.filename == str(tmp_path)


@pytest.mark.parametrize("to", ["gone", "link"])
def test_a_link_that_leads_nowhere_is_no_folder(tmp_path: Path, to: str) -> None:
    link = tmp_path / "link"
    link.symlink_to(to)
    with pytest.raises(OutputError, match=f"found a link to {to}, which is not there; make that"):
        opened(link)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
