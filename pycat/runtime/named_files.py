"""Files that a user names: regular ones appear complete or not at all, others are written to.

"-" is standard output. Devices and pipes, `/dev/stdout` among them, are opened and written, never
replaced. A link to a file is written through, and a file that is replaced keeps its mode.
"""

import glob
import io
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pycat.errors import OutputError
from pycat.runtime.locks import Lock
from pycat.runtime.output import naming
from pycat.runtime.publishing import NewFile, remove_left_files

_STANDARD = {"-": 1, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
_NOT_WRITTEN = {
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}


@contextmanager
def writing(
    paths: Sequence[Path], *, overwrite: bool, same_is_done: bool = False
) -> Iterator[list[io.RawIOBase]]:
    """Yield a binary stream for each of the files; all appear at the end of the block, or none.

    If the process is killed while several files appear, some may be missing, but no new file stands
    beside an old one.

    Args:
        paths: all different.
        overwrite: whether files that exist are replaced.
        same_is_done: whether a file that exists and holds what is written is left alone, in place
            of an error; so a command that was interrupted or finished can be given again.

    Raises:
        OutputError: a file exists (and holds something else), is no file, or another process writes
            it.
        OSError: that of the block, or of writing; it names the file.
    """
    with ExitStack() as stack:
        streams: list[_Output | None] = [None] * len(paths)
        targets: dict[int, Path] = {}
        for i, path in enumerate(paths):
            if is_stream(path):
                streams[i] = stack.enter_context(_Output(path, _open_stream(path)))
            else:
                targets[i] = Path(os.path.realpath(path)) if path.is_symlink() else path
        # In one order everywhere, so that two processes do not wait for each other.
        for target in sorted(targets.values(), key=os.path.abspath):
            stack.enter_context(Lock.of_file(target))
            remove_left_files(target.parent, glob.escape(target.name))
        fresh: list[NewFile] = []
        for i, target in targets.items():
            if target.exists() and not overwrite:
                if not same_is_done:
                    raise _exists(paths[i])
                streams[i] = stack.enter_context(_Same(paths[i], target.open("rb")))
                continue
            with naming(paths[i], None):
                new = stack.enter_context(NewFile(target))
            fresh.append(new)
            streams[i] = stack.enter_context(_Output(paths[i], new.path.open("wb", buffering=0)))
        outputs = [stream for stream in streams if stream is not None]
        yield list(outputs)
        for output in outputs:
            output.finish()
        for new in fresh:
            with naming(new.target, new.path):
                new.prepare()
        for new in fresh[1:]:
            new.target.unlink(missing_ok=True)
        for new in fresh:
            with naming(new.target, new.path):
                new.publish()


def refuse_existing(paths: Sequence[Path]) -> None:
    """Refuse files that `writing` would refuse, before work is done.

    Raises:
        OutputError: one exists.
    """
    for path in paths:
        if not is_stream(path) and path.exists():
            raise _exists(path)


def is_stream(path: Path) -> bool:
    """Whether a path is no file to replace but something to write to.

    Raises:
        OutputError: it is neither.
        IsADirectoryError: a folder.
    """
    if _descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        path.open("wb")  # raises
    if found := _NOT_WRITTEN.get(stat.S_IFMT(mode)):
        raise OutputError(f"{path}: expected a file to write, found {found}; choose another name")
    return not stat.S_ISREG(mode)


def is_standard_output(path: Path) -> bool:
    """Whether a path is standard output, where a verb's own words must not go then."""
    return _descriptor(path) == 1


def _descriptor(path: Path) -> int | None:
    """The open descriptor of this process that a path means, such as /dev/stdout."""
    for _ in range(40):  # links to such names are followed to them, and no further
        if str(path) in _STANDARD:
            return _STANDARD[str(path)]
        if found := _DESCRIPTOR.fullmatch(str(path)):
            return int(found[1])
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def _open_stream(path: Path) -> io.FileIO:
    descriptor = _descriptor(path)
    if descriptor is None:
        return path.open("wb", buffering=0)
    if descriptor == 1 and sys.stdout is not None:
        sys.stdout.flush()
    with naming(path, None):
        # Not opened anew: that would begin at the start of a file that output is directed to.
        return io.FileIO(os.dup(descriptor), "wb")


def _exists(path: Path) -> OutputError:
    return OutputError(
        f"{path}: this file exists; pass --overwrite (overwrite=True) to replace it, or choose "
        "another name"
    )


class _Output(io.RawIOBase):
    """A stream that writes all it is given, and names its file in errors."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path, self._file = path, file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        with naming(self._path, None):
            while left:
                left = left[self._file.write(left) :]
        return len(data)

    def finish(self) -> None:
        """Called when all is written."""
        self.close()

    def close(self) -> None:
        if not self.closed:
            super().close()
            with naming(self._path, None):
                self._file.close()


class _Same(_Output):
    """A stream that refuses to be given anything but what a file holds."""

    def write(self, data: Any) -> int:
        if self._file.read(len(data)) != bytes(data):
            raise _exists(self._path)
        return len(data)

    def finish(self) -> None:
        if self._file.read(1):
            raise _exists(self._path)
