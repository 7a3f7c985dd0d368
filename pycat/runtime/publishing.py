"""New files that appear under their names complete and on the disk, or not at all.

A new file has no name while it is written (O_TMPFILE), so that nothing of it is left if its process
is killed. Where the file system or the kernel has no such files it has the name of a temporary one,
which `remove_left_files` deletes after a kill.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

_MODE = 0o666  # before the umask
_NO_NAMELESS = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)
# What file systems say that cannot wait for a folder.
_NO_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF)


class NewFile:
    """A file that is written at `path`, and appears as `target` by `publish`.

    Attributes:
        path: where to write it, by name.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._named = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        self._descriptor = _open_nameless(target.parent)
        self.path = (
            self._named if self._descriptor is None else Path(f"/proc/self/fd/{self._descriptor}")
        )
        self._has_name = self._descriptor is None

    def __enter__(self) -> "NewFile":
        return self

    def __exit__(self, *_: object) -> None:
        """Forget a file that was not published."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
        if self._has_name:
            self._named.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Wait until the content is on the disk; give it the mode and owner of the old file.

        A file that replaces another gets its temporary name, so that `publish` only renames.
        """
        descriptor = self._descriptor
        if descriptor is None:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with suppress(FileNotFoundError):
                old = self.target.lstat()
                _make_alike(descriptor, old)
            os.fsync(descriptor)
        finally:
            if descriptor != self._descriptor:
                os.close(descriptor)
        if self._descriptor is not None and os.path.lexists(self.target):
            self._link_temporary()

    def publish(self) -> None:
        """Let the file appear, durably. Only after `prepare`."""
        if not self._has_name:
            try:
                self._link(self.target)
            except FileExistsError:  # made just now
                self._link_temporary()
        if self._has_name:
            self._named.replace(self.target)
            self._has_name = False
        sync_folder(self.target.parent)

    def _link_temporary(self) -> None:
        try:
            self._link(self._named)
        except FileExistsError:  # of a killed process of the same id
            self._named.unlink()
            self._link(self._named)
        self._has_name = True

    def _link(self, name: Path) -> None:
        assert self._descriptor is not None
        # Given a folder's descriptor, Python follows the link in /proc to the file itself.
        folder = os.open(name.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.link(self.path, name.name, dst_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)


def replace_link(path: Path, to: str) -> None:
    """Make `path` a symbolic link to `to`, in place of what it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(to)
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until names made or removed in a folder are on the disk.

    Raises:
        OSError: they are not; it names the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise OSError(error.errno, error.strerror, str(folder)) from None
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until all files below a folder are on the disk, which others wrote."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def remove_left_files(folder: Path, pattern: str) -> None:
    """Delete temporary files that killed processes left of files whose names match.

    Only for the holder of the lock: those of a running process have the same names.
    """
    for path in folder.glob(f".{pattern}.[0-9]*.tmp"):
        path.unlink(missing_ok=True)


def _open_nameless(folder: Path) -> int | None:
    """A file without a name in the file system of `folder`; None where there are none."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None:
        return None
    try:
        descriptor = os.open(folder, flag | os.O_RDWR | os.O_CLOEXEC, _MODE)
    except OSError as error:
        if error.errno in _NO_NAMELESS:
            return None
        raise OSError(error.errno, os.strerror(error.errno or 0)) from None
    if not os.path.exists(f"/proc/self/fd/{descriptor}"):  # noqa: PTH110 - /proc is not there
        os.close(descriptor)
        return None
    return descriptor


def _make_alike(descriptor: int, old: os.stat_result) -> None:
    """Give a file the mode and owner of the one it replaces, as far as this user may."""
    if not stat.S_ISREG(old.st_mode):
        return
    with suppress(PermissionError):
        new = os.fstat(descriptor)
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
