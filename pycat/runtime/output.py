"""Output folders with a manifest, written by rename and never overwritten unasked.

A folder belongs to one verb. Its manifest `<kind>.json` holds the recipe (options and input hashes)
it was made with, and whether it is complete. A later call can so tell finished from interrupted
work, and name the option that changed.
"""

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from pycat.errors import OutputError
from pycat.runtime.locks import LOCK_FILE, Lock
from pycat.runtime.manifest import FORMAT_VERSION, is_whole, json_sha256, load_manifest, signed
from pycat.runtime.publishing import NewFile, remove_left_files, sync_folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write what becomes `path` on success, durably, and vanishes on failure.

    The place can be opened by name, though the name means nothing. A link is replaced, not what is
    behind it. The mode and owner of an older file are kept.

    Raises:
        OSError: that of the block; if it named no file or the temporary one, it names `path`.
    """
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with naming(path, None), NewFile(path) as new, naming(path, new.path):
        yield new.path
        new.prepare()
        new.publish()


@contextmanager
def naming(path: Path, temporary: Path | None) -> Iterator[None]:
    """Make an OSError name `path` if it names `temporary` or, as those of write(), no file."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value`: `path` holds either its old bytes or all of the new ones."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest with its own hash, as `write_json`."""
    write_json(path, signed(manifest))


def digest(value: object) -> str:
    """SHA-256 of a JSON value, such as a recipe."""
    return json_sha256(value)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded_recipe(folder: Path, kind: str) -> dict[str, Any] | None:
    """The recipe of a folder of this kind, complete or not; None if there is no such folder.

    Raises:
        OutputError: its manifest is damaged.
    """
    path = folder / f"{kind}.json"
    if not path.is_file():
        return None
    recipe = load_manifest(path).get("recipe")
    return recipe if isinstance(recipe, dict) else None


class OutputFolder:
    """One verb's output folder, from the first look at it to its finished manifest.

    In a `with` block, the folder is locked: no other process makes it meanwhile. One that is
    finished is not locked, since nothing is written.

    Args:
        path: the folder; made when missing.
        kind: "corpus", "measures", "proxy", "scores", "selection", "evaluation" or "prune".
        recipe: options and input hashes, JSON values; equal recipes make equal folders.
        owned: glob patterns of the files this kind writes; overwriting deletes no others.
        overwrite: whether a folder made by another recipe may be replaced.
        started: `time.perf_counter()` when the work began, if that was before this call.
        working: those of the `owned` patterns that only unfinished work needs; `finish` deletes
            their files.
        lock: that of the folder, where the caller holds it already and will release it.

    Attributes:
        manifest: the finished manifest, or None while there is work to do.
        resumes: whether an interrupted run of the same recipe left work to resume.
        elapsed_s: seconds of work so far, including interrupted runs up to their last `record`.

    Raises:
        OutputError: the folder holds something else, was made by another recipe, another process
            makes it, which is named, or a file of it is damaged: with `overwrite` it is made again.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        recipe: Mapping[str, Any],
        owned: Sequence[str],
        overwrite: bool,
        started: float | None = None,
        working: Sequence[str] = (),
        lock: Lock | None = None,
    ) -> None:
        self.path, self.kind, self.recipe = path, kind, json.loads(json.dumps(recipe))
        self.manifest: dict[str, Any] | None = None
        self.resumes = False
        self._file = path / f"{kind}.json"
        self._started = time.perf_counter() if started is None else started
        self._earlier_s = 0.0
        self._working = working
        self._lock: Lock | None = None
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path}: expected a folder, found a file; choose another name")
        if path.is_symlink() and not path.exists():
            raise OutputError(
                f"{path}: expected a folder or a new name, found a link to {path.readlink()}, "
                "which is not there; make that folder, or choose another name"
            )
        finished = self._finished()
        is_damaged = finished is not None and not is_whole(path, finished, overwrite=overwrite)
        if is_damaged:
            finished = None
        if lock is not None:
            self._open(owned, overwrite, is_damaged)
            return
        if finished is not None and not (path / LOCK_FILE).exists():
            self.manifest = finished
            return
        path.mkdir(parents=True, exist_ok=True)
        try:
            with naming(self._file, path):
                self._lock = Lock.of_folder(path)
            self._open(owned, overwrite, is_damaged)
        except BaseException as error:
            self.close()
            # Not to be written, or used by another process: what is finished can be read.
            if finished is None or not isinstance(error, (OutputError, OSError)):
                raise
            self.manifest = finished
        if self.manifest is not None:
            self.close()

    def __enter__(self) -> "OutputFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()

    def _finished(self) -> dict[str, Any] | None:
        """The manifest of a complete folder of this recipe."""
        with suppress(OutputError):
            manifest = load_manifest(self._file)
            if (
                manifest.get("format") == f"pycat.{self.kind}"
                and manifest.get("recipe") == self.recipe
                and manifest.get("complete")
            ):
                return manifest
        return None

    def _open(self, owned: Sequence[str], overwrite: bool, is_damaged: bool) -> None:
        """Look at a folder that is locked, and make it ready for work, unless it is finished.

        One that is finished and damaged may be overwritten.
        """
        path, kind = self.path, self.kind
        if not self._file.is_file():
            ours = {path / LOCK_FILE, *path.glob(f".{kind}.json.*.tmp")}
            if others := {*path.iterdir()} - ours:
                names = ", ".join(sorted(entry.name for entry in others)[:3])
                raise OutputError(
                    f"{path}: expected an empty folder or one made by pycat ({kind}.json), found "
                    f"{names}; choose another folder"
                )
            self._remove_left_files(owned)
            self._write(complete=False)
            sync_folder(path.absolute().parent)
            return
        manifest = load_manifest(self._file)
        if manifest.get("format") != f"pycat.{kind}":
            raise OutputError(
                f"{self._file}: found format {manifest.get('format')!r}, expected "
                f"'pycat.{kind}'; pycat did not make this file: choose another folder"
            )
        if manifest.get("recipe") == self.recipe and not is_damaged:
            self._remove_left_files(owned)
            if manifest.get("complete"):
                self.manifest = manifest
                self._remove_working()
            else:
                self.resumes = True
                self._earlier_s = manifest.get("elapsed_s", 0.0)
            return
        files = [file for pattern in owned for file in self._inside(pattern)]
        # A folder without files of its kind, left by a run that failed early, may be replaced.
        if not overwrite and (manifest.get("complete") or files):
            changed = "; ".join(changes(manifest.get("recipe") or {}, self.recipe))
            raise OutputError(
                f"{path}: this {kind} folder was made with other options ({changed}); pass "
                "--overwrite (overwrite=True) to replace it, or choose another folder"
            )
        # If the process is killed from here on, the folder remains an unfinished one.
        write_manifest(self._file, {**manifest, "complete": False})
        for file in files:
            file.unlink(missing_ok=True)
        self._remove_left_files(owned)
        self._write(complete=False)

    def _folders(self, pattern: str) -> list[Path]:
        """The folders that hold the files of a pattern."""
        parent = PurePath(pattern).parent
        return [self.path] if parent == PurePath() else [*self.path.glob(str(parent))]

    def _inside(self, pattern: str) -> list[Path]:
        """The files of a pattern. Of a folder that is a link, the link alone: it leads outward."""
        found = []
        for folder in self._folders(pattern):
            if folder != self.path and folder.is_symlink():
                found.append(folder)
            else:
                files = folder.glob(PurePath(pattern).name)
                found += [file for file in files if file.is_symlink() or file.is_file()]
        return found

    @property
    def elapsed_s(self) -> float:  # noqa: D102 - documented with the attributes
        return self._earlier_s + time.perf_counter() - self._started

    def record(self) -> None:
        """Write the time spent so far, which a resumed run adds to its own."""
        self._write(complete=False, elapsed_s=round(self.elapsed_s, 3))

    def finish(self, **facts: Any) -> dict[str, Any]:
        """Write the complete manifest, and return it: recipe, `facts` and `elapsed_s`."""
        manifest = self._write(complete=True, **facts, elapsed_s=round(self.elapsed_s, 3))
        self._remove_working()
        return manifest

    def _remove_working(self) -> None:
        """Delete the files that only unfinished work needs."""
        for pattern in self._working:
            for file in self._inside(pattern):
                file.unlink(missing_ok=True)

    def _remove_left_files(self, owned: Sequence[str]) -> None:
        """Delete files that killed runs left half-written."""
        for pattern in (*owned, f"{self.kind}.json"):
            for folder in self._folders(pattern):
                if folder == self.path or not folder.is_symlink():
                    remove_left_files(folder, PurePath(pattern).name)

    def _write(self, **facts: Any) -> dict[str, Any]:
        manifest = {
            "format": f"pycat.{self.kind}",
            "version": FORMAT_VERSION,
            "recipe": self.recipe,
            **facts,
        }
        write_manifest(self._file, manifest)
        return manifest


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`name was x, now y` for each entry that differs."""
    rows = []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            rows.append(f"{name} was {_short(old.get(name))}, now {_short(new.get(name))}")
    return rows


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:28] + "…" + text[-28:]
