"""Locks: one process at a time, released however it ends, and nothing of them left."""

import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pycat.errors import OutputError
from pycat.runtime import locks
from pycat.runtime.locks import LOCK_FILE, Lock, read_owner, scratch_folder
from pycat.runtime.output import OutputFolder

_HOLD = """
import sys, time
from pathlib import Path
from pycat.runtime import locks
if sys.argv[2] == "without":
    from test_locks import no_flock
    no_flock()
lock = locks.Lock.of_folder(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.2)


def no_flock() -> None:
    """Let flock say what file systems without it say."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = refuse


@pytest.fixture(params=["flock", "without"])
def flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "without":
        monkeypatch.setattr(fcntl, "flock", fcntl.flock)  # put back at the end
        no_flock()
    return str(request.param)


@contextmanager
def holder(folder: Path, flock: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of a folder."""
    command = [sys.executable, "-c", _HOLD, str(folder), flock]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_second_process_is_told_who_holds_it_and_takes_it_after_a_kill(
    tmp_path: Path, flock: str
) -> None:
    with holder(tmp_path, flock) as process:
        with pytest.raises(OutputError) as caught:
            Lock.of_folder(tmp_path)
        expected = (
            rf"{tmp_path}: process {process.pid} on {socket.gethostname()} writes here since "
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}; wait until it ends, or choose another place"
        )
        by_hand = rf"; if it is gone, delete {tmp_path / LOCK_FILE}\*" if flock == "without" else ""
        assert re.fullmatch(expected + by_hand, str(caught.value))
        process.kill()
        process.wait()
    assert (tmp_path / LOCK_FILE).exists()
    with Lock.of_folder(tmp_path):
        assert read_owner(tmp_path / LOCK_FILE)["pid"] == os.getpid()  # type: ignore[index]
    assert list(tmp_path.iterdir()) == []


def test_one_process_holds_it_once_and_again_after_release(tmp_path: Path, flock: str) -> None:
    lock = Lock.of_folder(tmp_path)
    with pytest.raises(OutputError, match=f"process {os.getpid()} on "):
        Lock.of_folder(tmp_path)
    lock.release()
    lock.release()
    again = Lock.of_folder(tmp_path)
    del again
    Lock.of_folder(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_without_flock_the_lock_of_another_machine_is_never_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", fcntl.flock)
    no_flock()
    owner = {"host": "elsewhere", "pid": 2**22 + 1, "since": "then", "started": "1"}
    (tmp_path / LOCK_FILE).write_text(json.dumps(owner))
    with pytest.raises(OutputError, match=r"on elsewhere writes here since then; .* delete "):
        Lock.of_folder(tmp_path)
    assert json.loads((tmp_path / LOCK_FILE).read_text()) == owner


def test_a_forked_child_does_not_release_it(tmp_path: Path) -> None:
    lock = Lock.of_folder(tmp_path)
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(OutputError):
        Lock.of_folder(tmp_path)
    lock.release()


def test_files_have_locks_of_their_own(tmp_path: Path) -> None:
    first, second = (Lock.of_file(tmp_path / name) for name in "ab")
    with pytest.raises(OutputError, match=f"{tmp_path / 'a'}: process"):
        Lock.of_file(tmp_path / "a")
    first.release()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_made_names_what_it_protects(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Lock.of_file(tmp_path / "no" / "file")
    assert caught.value.filename == str(tmp_path / "no" / "file")


@pytest.mark.parametrize("kind", ["link", "hard link", "broken link", "pipe", "folder"])
def test_what_stands_in_the_place_of_a_lock_is_left_alone(tmp_path: Path, kind: str) -> None:
    """A folder from elsewhere may hold a link, and the lock's owner would be written through it."""
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    lock = folder / LOCK_FILE
    outside.write_text("mine")
    if kind == "link":
        lock.symlink_to(outside)
    elif kind == "hard link":
        lock.hardlink_to(outside)
    elif kind == "broken link":
        lock.symlink_to(tmp_path / "new")
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(OutputError, match=r"\.pycat\.lock: expected a lock file of pycat, or none"):
        Lock.of_folder(folder)
    assert outside.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "outside"]
    assert os.path.lexists(lock)


def test_a_folder_in_use_is_refused_and_finished_ones_are_opened(tmp_path: Path) -> None:
    with OutputFolder(tmp_path, "scores", {"a": 1}, ("part-*",), overwrite=False) as folder:
        for recipe in ({"a": 1}, {"a": 2}):
            with pytest.raises(OutputError, match=f"{tmp_path}: process {os.getpid()} on "):
                OutputFolder(tmp_path, "scores", recipe, ("part-*",), overwrite=True)
        folder.finish()
    lock = Lock.of_folder(tmp_path)
    opened = OutputFolder(tmp_path, "scores", {"a": 1}, ("part-*",), overwrite=False)
    assert opened.manifest is not None
    lock.release()


def test_scratch_folders_of_killed_processes_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "pycat-scratch-left"
    left.mkdir()
    (left / "big").write_text("text")
    (left / LOCK_FILE).write_text("")
    used = tmp_path / "pycat-scratch-used"
    used.mkdir()
    with Lock.of_folder(used), scratch_folder() as folder:
        (folder / "text").write_text("text")
        assert {path.name for path in tmp_path.iterdir()} == {used.name, folder.name}
    assert list(tmp_path.iterdir()) == [used]
