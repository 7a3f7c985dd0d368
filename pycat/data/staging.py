"""Copies of corpora and checkpoints on a machine's own disk, made once for all its processes.

Many processes that read tokens in a random order are slow on a file system that is reached over a
network. `staged_corpus` and `staged_checkpoints` copy what is read into a folder, compare it with
the hashes on record, and let it be read there. The original gives its name to whatever is written.

A copy is a folder of its own, named after its content or its original, with `staged.json`, which
lists its files. One process makes it under a lock, others wait. It appears complete or not at all.
"""

import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

from pycat import _core
from pycat.data.corpus import CHECKSUM_FILES, INDEX_FILES, Corpus
from pycat.errors import OutputError, PycatError
from pycat.runtime.hashing import hash_files
from pycat.runtime.locks import Lock
from pycat.runtime.manifest import load_manifest
from pycat.runtime.output import digest, write_json
from pycat.runtime.progress import progress
from pycat.runtime.publishing import sync_folder, sync_tree

_LIST = "staged.json"
_BLOCK_BYTES = 1 << 23

# Files up to this size are hashed whenever a process uses their copy. Larger ones are compared by
# size and time: tokens have checksums of blocks, which are compared as they are read.
_HASHED_BYTES = 1 << 30

# What trainers leave beside weights, and scoring does not read.
_NOT_READ = (
    "state.pt",
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "rng_state*.pth",
    "global_step*/*",
)

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Wanted(NamedTuple):
    """A file to copy: its name in the copy, its place, and its SHA-256 if that is on record."""

    name: str
    source: Path
    sha256: str | None = None


def names_copies(verb: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let errors of a function with an argument `stage` say which files are copies."""

    @functools.wraps(verb)
    def told(*args: _P.args, **options: _P.kwargs) -> _R:
        stage: Any = options.get("stage")
        try:
            return verb(*args, **options)
        except PycatError as error:
            if stage is None or f"{_folder(stage)}{os.sep}" not in str(error):
                raise
            raise type(error)(
                f"{error}. That is a copy which was staged: if it is damaged, delete the folder "
                f"that it lies in, below {_folder(stage)}, and it is copied anew"
            ) from None

    return told


def staged_corpus(corpus: Corpus, stage: str | PathLike[str]) -> Corpus:
    """The same corpus, whose tokens are read from a copy in `stage`; its `path` stays.

    Args:
        corpus: one made by pycat, or a subset.
        stage: a folder on this machine's own disk, for copies of any number of corpora.

    Raises:
        PycatError: the corpus is of another tool.
        OutputError: there is no room, or the copy or the original is damaged.
    """
    listed = corpus.manifest.get("files", {})
    if corpus.options or not listed:
        raise PycatError(
            f"{corpus.path}: has no hashes to compare a copy with, which stage needs; it is for "
            "corpora that 'pycat tokenize' made"
        )
    names = [name for name in (*INDEX_FILES, *CHECKSUM_FILES) if name in listed]
    wanted = [_Wanted(name, corpus.path / name, listed[name]["sha256"]) for name in names]
    folder = _staged(_folder(stage), f"corpus-{corpus.manifest['id'][:16]}", wanted)
    vocab_sizes = corpus.src_vocab_size or corpus.vocab_size, corpus.vocab_size
    src, tgt = (
        _core.IndexedFile(
            str(folder / side),
            vocab_size=vocab_size,
            checksums=folder / f"{side}.sums" if f"{side}.sums" in names else None,
        )
        for side, vocab_size in zip(("src", "tgt"), vocab_sizes, strict=True)
    )
    return corpus.with_files(src, tgt, _folder(stage))


def staged_checkpoints(checkpoints: Any, stage: str | PathLike[str]) -> Any:
    """The same checkpoints, as `score` takes them, but for paths those of copies in `stage`.

    Copied are files of `pycat train`, and folders, without what only a trainer reads. Files of
    other tools, which need files beside them, stay where they are, as do adapters.

    Raises:
        OutputError: there is no room, or a copy or an original is damaged.
    """
    if isinstance(checkpoints, (str, PathLike)):
        return _staged_checkpoint(Path(checkpoints), _folder(stage))
    if not isinstance(checkpoints, Sequence):
        return checkpoints
    return [
        _staged_checkpoint(Path(item), _folder(stage))
        if isinstance(item, (str, PathLike))
        else item
        for item in checkpoints
    ]


def _staged_checkpoint(path: Path, stage: Path) -> Path:
    """The copy of a file or folder; its name stays, for numbers in names tell an order."""
    if path.is_dir():
        read = [file for file in sorted(path.rglob("*")) if file.is_file() and _is_read(file)]
        recorded = _recorded(path)
        wanted = [
            _Wanted(f"{path.name}/{file.relative_to(path)}", file, recorded.get(file.name))
            for file in read
        ]
    elif (path.parent / "proxy.json").is_file():
        # The manifest of its run, which lists its hash, is looked for beside it.
        recorded = _recorded(path.parent)
        wanted = [
            _Wanted(path.name, path, recorded.get(path.name)),
            _Wanted("proxy.json", path.parent / "proxy.json"),
        ]
    else:
        return path
    status = [(str(one.source.absolute()), *_status(one.source)) for one in wanted]
    return _staged(stage, f"weights-{digest(status)[:16]}", wanted) / path.name


def _is_read(file: Path) -> bool:
    return not any(file.match(pattern) for pattern in _NOT_READ)


def _recorded(folder: Path) -> dict[str, str]:
    """Hashes of the files of a run of pycat's, by name; nothing of other folders."""
    if not (folder / "proxy.json").is_file():
        return {}
    files = load_manifest(folder / "proxy.json").get("files", {})
    return {name: entry["sha256"] for name, entry in files.items()}


def _folder(stage: str | PathLike[str]) -> Path:
    return Path(stage).absolute()


def _status(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _staged(stage: Path, name: str, wanted: Sequence[_Wanted]) -> Path:
    """Return the folder `name` in `stage`, which holds these files; missing ones are copied.

    Raises:
        OutputError: as `staged_corpus`.
    """
    folder = stage / name
    try:
        stage.mkdir(parents=True, exist_ok=True)
        # A finished copy is not written again, so looking at it takes no lock.
        if not folder.exists():
            with _lock(folder):
                if not folder.exists():
                    _copy(folder, wanted)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be copied to ({error.strerror or error}); free some space there, or "
            "stage on another disk"
        ) from error
    _check(folder)
    return folder


def _lock(folder: Path) -> Lock:
    """The lock of a copy, waited for as long as another process makes it."""
    while True:
        try:
            return Lock.of_file(folder)
        except OutputError:
            if folder.exists():  # made meanwhile; the lock is about to come free
                time.sleep(0.05)


def _copy(folder: Path, wanted: Sequence[_Wanted]) -> None:
    """Make the copy, with its list, under a name that does not count, and rename it."""
    num_bytes = sum(one.source.stat().st_size for one in wanted)
    room = shutil.disk_usage(folder.parent).free
    if room < num_bytes:
        raise OutputError(
            f"{folder.parent}: has room for {room:,} bytes, expected {num_bytes:,} for a copy of "
            f"{wanted[0].source.parent}; free some space there, or stage on another disk"
        )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # a killed process left it
    try:
        with progress("stage", num_bytes / 1e6, "MB") as advance:
            for one in wanted:
                target = partial / one.name
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy_file(one.source, target, advance)
        listed = {}
        hashes = hash_files([partial / one.name for one in wanted], "verify the copy")
        for one, found in zip(wanted, hashes, strict=True):
            if one.sha256 is not None and found != one.sha256:
                raise OutputError(
                    f"{one.source}: its copy has SHA-256 {found[:12]}…, expected "
                    f"{one.sha256[:12]}…, that of the manifest; run 'pycat check "
                    f"{one.source.parent}', which tells whether the original is damaged"
                )
            num_bytes, changed_ns = _status(partial / one.name)
            listed[one.name] = {"bytes": num_bytes, "changed_ns": changed_ns, "sha256": found}
        write_json(partial / _LIST, {"files": listed})
        sync_tree(partial)
        partial.rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _copy_file(source: Path, target: Path, advance: Callable[[float], None]) -> None:
    view = memoryview(bytearray(_BLOCK_BYTES))
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as written:
        while count := read.readinto(view):
            left = view[:count]
            while left:
                left = left[written.write(left) :]
            advance(count / 1e6)


def _check(folder: Path) -> None:
    """Refuse a copy that is not as it was made.

    Raises:
        OutputError: names the file.
    """
    again = f"delete {folder}, and it is copied anew"
    try:
        listed = json.loads((folder / _LIST).read_text("utf-8"))["files"]
        small = [name for name, entry in listed.items() if entry["bytes"] <= _HASHED_BYTES]
        for name, entry in listed.items():
            num_bytes, changed_ns = _status(folder / name)
            if num_bytes != entry["bytes"]:
                raise OutputError(
                    f"{folder / name}: has {num_bytes:,} bytes, expected {entry['bytes']:,}; "
                    f"{again}"
                )
            if changed_ns != entry["changed_ns"]:
                raise OutputError(f"{folder / name}: was changed after it was copied; {again}")
        hashes = hash_files([folder / name for name in small], "verify the copy")
        for name, found in zip(small, hashes, strict=True):
            if found != listed[name]["sha256"]:
                raise OutputError(
                    f"{folder / name}: has SHA-256 {found[:12]}…, expected "
                    f"{listed[name]['sha256'][:12]}…; {again}"
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{folder}: cannot be used ({error}); {again}") from None
