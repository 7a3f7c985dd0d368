"""Which folders `check` looks at: none is passed over in silence."""

import errno
import os
from pathlib import Path

import pytest

from pycat.errors import PycatError
from pycat.verification import check


def broken_folder(path: Path) -> Path:
    """A folder of scores that is seen to be damaged when it is looked at."""
    path.mkdir(parents=True)
    (path / "scores.json").write_text("{")
    return path


def test_a_linked_folder_is_checked_but_not_what_lies_below_it(tmp_path: Path) -> None:
    broken_folder(tmp_path / "elsewhere")
    broken_folder(tmp_path / "elsewhere" / "below")
    work = broken_folder(tmp_path / "work")
    (work / "scores").symlink_to("../elsewhere")
    (work / "loop").symlink_to(".")
    (work / "nowhere").symlink_to("gone")
    found = check(work)
    assert [each.path for each in found] == [work, work / "scores"]
    assert all("scores.json: cannot be read" in each.problems[0] for each in found)


def test_a_manifest_that_is_a_pipe_or_a_broken_link_is_a_problem(tmp_path: Path) -> None:
    for name in ("pipe", "link"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "scores.json")
    (tmp_path / "link" / "measures.json").symlink_to("gone")
    found = check(tmp_path)
    assert [(each.path.name, each.kind) for each in found] == [
        ("link", "measures"),
        ("pipe", "scores"),
    ]
    assert all(len(each.problems) == 1 for each in found)


def test_a_folder_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_folder(tmp_path / "a")
    closed = str(tmp_path / "b")
    Path(closed).mkdir()
    scandir = os.scandir

    def refusing(path: str) -> object:
        if os.fspath(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), closed)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError) as caught:
        check(tmp_path)
    assert caught.value.filename == closed


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PycatError, match="found no such folder, expected a folder with one of"):
        check(tmp_path / "gone")
    with pytest.raises(PycatError, match="found nothing that pycat made, expected"):
        check(tmp_path)
