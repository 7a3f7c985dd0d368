"""Files that a user names: devices are written to, links through, and two files appear together."""

import os
import stat
from pathlib import Path
from threading import Thread

import pytest

from pycat.errors import OutputError
from pycat.runtime.named_files import is_standard_output, is_stream, refuse_existing, writing
from pycat.runtime.output import replacing


def write(*texts: str, into: list[Path], overwrite: bool = False, same: bool = False) -> None:
    with writing(into, overwrite=overwrite, same_is_done=same) as files:
        for file, text in zip(files, texts, strict=True):
            file.write(text.encode())


def test_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(KeyboardInterrupt), writing(paths, overwrite=False) as files:
        files[0].write(b"first")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    write("first", "second", into=paths)
    assert [path.read_text() for path in paths] == ["first", "second"]
    assert sorted(tmp_path.iterdir()) == paths


def test_what_exists_is_refused_unless_it_holds_the_same(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    write("first", "second", into=paths)
    before = [path.stat().st_mtime_ns for path in paths]
    for same in (False, True):
        for other in ("fir", "first.", "other"):
            with pytest.raises(OutputError, match="this file exists; pass --overwrite"):
                write(other, "second", into=paths, same=same)
    write("first", "second", into=paths, same=True)
    assert [path.stat().st_mtime_ns for path in paths] == before
    # Killed between the two names, the same command makes what is missing.
    paths[1].unlink()
    write("first", "second", into=paths, same=True)
    assert [path.read_text() for path in paths] == ["first", "second"]
    with pytest.raises(OutputError, match=f"{paths[0]}: this file exists"):
        refuse_existing(paths)


def test_no_new_file_stands_beside_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    write("old a", "old b", into=paths)
    renamed: list[Path] = []
    replace = Path.replace

    def killed(self: Path, target: Path) -> None:
        if renamed:
            raise KeyboardInterrupt
        renamed.append(replace(self, target))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        write("new a", "new b", into=paths, overwrite=True)
    assert paths[0].read_text() == "new a"
    assert not paths[1].exists()
    write("new a", "new b", into=paths, overwrite=True)
    assert sorted(tmp_path.iterdir()) == paths


def test_overwriting_keeps_the_mode_and_writes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "file", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o600)
    link.symlink_to(real)
    write("new", into=[link], overwrite=True)
    assert link.is_symlink() and real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert list((tmp_path / "real").iterdir()) == [real]
    # In a folder of pycat a link is not followed: it could lead anywhere.
    with replacing(link) as temporary:
        temporary.write_text("newer")
    assert not link.is_symlink() and real.read_text() == "new"


def test_a_link_to_nothing_makes_the_file_behind_it(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "file")
    write("text", into=[link])
    assert link.is_symlink() and (tmp_path / "file").read_text() == "text"


def test_pipes_and_devices_are_written_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    reader = Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write("through", into=[pipe])
    reader.join()
    assert found == ["through"] and stat.S_ISFIFO(pipe.stat().st_mode)
    write("nothing", into=[Path("/dev/null")])
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    link = tmp_path / "out"
    link.symlink_to("/dev/stdout")
    for path in (Path("-"), Path("/dev/stdout"), Path("/dev/fd/1"), Path("/proc/self/fd/1"), link):
        assert is_standard_output(path) and is_stream(path)
        write(f"{path}\n", into=[path])
    assert capfd.readouterr().out == f"-\n/dev/stdout\n/dev/fd/1\n/proc/self/fd/1\n{link}\n"


def test_standard_output_in_a_file_is_appended_to(tmp_path: Path) -> None:
    before = os.dup(1)
    file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    try:
        os.dup2(file, 1)
        os.write(1, b"one ")
        write("two ", into=[Path("/dev/stdout")])
        os.write(1, b"three")
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(file)
    assert (tmp_path / "file").read_text() == "one two three"


def test_folders_and_sockets_are_refused(tmp_path: Path) -> None:
    import socket

    with pytest.raises(IsADirectoryError):
        write("text", into=[tmp_path])
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        with pytest.raises(OutputError, match="expected a file to write, found a socket"):
            write("text", into=[tmp_path / "socket"])


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / ".out [1].99.tmp"
    mine = tmp_path / ".out 1.99.tmp"
    for path in (left, mine):
        path.write_text("half")
    write("text", into=[tmp_path / "out [1]"])
    assert not left.exists() and mine.exists()
