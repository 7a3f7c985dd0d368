"""Locks on what is written: one process at a time fills a folder or replaces a file.

A lock is a file that its process holds by flock(2), so that the kernel releases it however the
process ends. Its content says who holds it. Where the file system has no flock, the file itself is
the lock: it is made only where there is none, and one whose process is gone on this machine is
taken over. That of another machine has to be deleted by hand.
"""

import errno
import fcntl
import json
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pycat.errors import OutputError

# The lock of a folder, in it.
LOCK_FILE = ".pycat.lock"

# How long a lock may take to come free: that of a worker does just after its parent was killed.
_PATIENCE_S = 1.0
_POLL_S = 0.05

_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)

_SCRATCH_PREFIX = "pycat-scratch-"


class Lock:
    """A lock on a folder or file, held until `release`, or until no name refers to it.

    Args:
        file: the lock file; it is removed on release.
        held: what it protects, named in the error.

    Raises:
        OutputError: another process, or another part of this one, holds it; or a link or something
            else that is no file of its own stands in its place.
        OSError: the lock file cannot be made; it names `held`.
    """

    def __init__(self, file: Path, held: Path) -> None:
        self._file, self._held, self._pid = file, held, os.getpid()
        self._descriptor: int | None = None
        self._has_flock = True
        deadline = time.monotonic() + _PATIENCE_S
        while not self._try():
            if time.monotonic() >= deadline:
                raise OutputError(self._refusal())
            time.sleep(_POLL_S)

    @classmethod
    def of_folder(cls, folder: Path) -> "Lock":
        """The lock of an output folder that exists."""
        return cls(folder / LOCK_FILE, folder)

    @classmethod
    def of_file(cls, file: Path) -> "Lock":
        """The lock of a single output file, which need not exist; its folder must."""
        return cls(file.with_name(f".{file.name}{LOCK_FILE}"), file)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            self.release()

    def release(self) -> None:
        """Remove the lock file, and let others in; does nothing the second time."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        # Removed while it is held: whoever opened it meanwhile sees that it is gone. A forked
        # child has the descriptor too, but not the lock.
        try:
            if self._pid == os.getpid() and _is_same_file(descriptor, self._file):
                with suppress(OSError):
                    self._file.unlink()
        finally:
            os.close(descriptor)

    def _try(self) -> bool:
        """Take the lock if it is free."""
        try:
            # What a link leads to is not ours to write; a pipe is opened without waiting.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self._file, flags, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise self._no_lock_file() from None
            raise OSError(error.errno, error.strerror, str(self._held)) from None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.close(descriptor)
            raise self._no_lock_file()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_same_file(descriptor, self._file):  # its holder removed it just now
                os.close(descriptor)
                return False
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_FLOCK:
                raise
            self._has_flock = False
            return self._try_without_flock()
        self._descriptor = descriptor
        with suppress(OSError):  # on a full disk the lock holds, though it cannot say whose it is
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _owner())
        return True

    def _no_lock_file(self) -> OutputError:
        return OutputError(
            f"{self._file}: expected a lock file of pycat, or none, found a link or another kind "
            "of file; delete it, if nothing else needs it, and run the same command again"
        )

    def _try_without_flock(self) -> bool:
        """Take the lock by making its file, or by making it anew where its process is gone."""
        try:
            content = self._file.read_bytes()
        except FileNotFoundError:
            return False  # it came free just now
        # An empty file was made by `_try`, of this process or another, and locks nothing.
        if content and not _is_gone(content):
            return False
        # Only the process that makes this file may remove the lock of another.
        claim = self._file.with_name(f"{self._file.name}.claim")
        try:
            os.close(os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            return False
        try:
            if self._file.read_bytes() != content:
                return False
            self._file.unlink()
            descriptor = os.open(
                self._file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666
            )
            self._descriptor = descriptor
            os.write(descriptor, _owner())
        except (FileNotFoundError, FileExistsError):
            return False
        finally:
            claim.unlink()
        return True

    def _refusal(self) -> str:
        owner = read_owner(self._file)
        if owner is None:
            who = "another process is writing here"
        else:
            who = f"process {owner['pid']} on {owner['host']} writes here since {owner['since']}"
        by_hand = "" if self._has_flock else f"; if it is gone, delete {self._file}*"
        return f"{self._held}: {who}; wait until it ends, or choose another place{by_hand}"


def read_owner(file: Path) -> dict[str, Any] | None:
    """Who holds a lock: `host`, `pid`, `since`; None if its file does not say."""
    with suppress(OSError, ValueError):
        owner = json.loads(file.read_bytes())
        if isinstance(owner, dict) and owner.keys() >= {"host", "pid", "since"}:
            return owner
    return None


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder for temporary files, which is deleted at the end.

    Folders that killed processes left are deleted first.
    """
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{_SCRATCH_PREFIX}*"):
        with suppress(OSError, OutputError):
            if left.stat().st_uid == os.getuid() and not left.is_symlink():
                _delete_if_unused(left)
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=place))
    try:
        with Lock.of_folder(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _delete_if_unused(folder: Path) -> None:
    """Delete a scratch folder whose process is gone."""
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _owner() -> bytes:
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    pid = os.getpid()
    owner = {"host": socket.gethostname(), "pid": pid, "since": since, "started": _started(pid)}
    return json.dumps(owner).encode() + b"\n"


def _is_gone(content: bytes) -> bool:
    """Whether a lock's process was of this machine, and has ended."""
    try:
        owner = json.loads(content)
        if owner["host"] != socket.gethostname():
            return False
        return bool(_started(owner["pid"]) != owner["started"])
    except (ValueError, KeyError, TypeError):
        return False


def _started(pid: int) -> str | None:
    """When a process of this machine began, in ticks since its boot; None if there is none.

    Process ids are used again; an id with this moment is not.
    """
    try:
        facts = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return facts.rpartition(")")[2].split()[19]


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)
