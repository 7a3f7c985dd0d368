"""Manifests: what a folder says of itself, read with the types that its readers rely on.

A manifest `<kind>.json` holds its own SHA-256 (`manifest_sha256`), and under `files` the size and
SHA-256 of each file that its stage wrote. `read_manifest` compares the first; what opens a file
compares the second. Manifests written before there were hashes have neither and still open.
"""

import hashlib
import json
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pycat.errors import OutputError, PycatError
from pycat.runtime.hashing import hash_files

FORMAT_VERSION = 1

# The command that makes a folder of each kind.
MAKERS = {
    "corpus": "pycat tokenize",
    "measures": "pycat measure",
    "proxy": "pycat train",
    "scores": "pycat score",
    "selection": "pycat select",
    "evaluation": "pycat evaluate",
    "prune": "pycat prune",
}

_OWN_HASH = "manifest_sha256"

# That of a table of a billion pairs, with two added columns, has 10 MB.
_MAX_BYTES = 1 << 28

# A Parquet file ends with its footer, the length of the footer in 4 bytes, and 4 bytes of magic.
# The footer says where each column lies and how large it is, and each page has a checksum: a
# footer that is as it was, with checked pages, is the file that was written.
_FOOTER_END = 8
_MAX_FOOTER = 1 << 28

# What any manifest may have, finished or not.
_ANY_FIELDS = {
    "recipe?": dict,
    "elapsed_s?": float,
    "files?": {str: {"bytes": int, "sha256": str, "footer_sha256?": str}},
}

# What readers rely on, by kind. `int` is a whole number from 0; a "?" ends the name of what may be
# missing or null. Further entries are not checked.
_FIELDS: dict[str, dict[str, Any]] = {
    "corpus": {
        "id": str,
        "languages": (str, str),
        "num_lines": int,
        "num_pairs": int,
        "skipped": {str: int},
        "vocab_size": int,
        "src_vocab_size?": int,
        "eos_id": int,
        "tokenizer_sha256?": str,
        "text": [{"path": str, "sha256": str}],
        "template?": dict,
        "sha256?": {str: str},
        "block_bytes?": int,
    },
    "measures": {
        "corpus": str,
        "num_pairs": int,
        "num_parts": int,
        "without": {str: str},
        "recipe": {"definitions": int, "corpus": str},
    },
    "proxy": {
        "losses": [float],
        "steps?": [int],
        "num_tokens": int,
        "model_flops?": int,
        "num_stacked?": int,
        "num_ranks?": int,
        "parameters": int,
        "torch": str,
        "recipe": {"checkpoint_steps": [int], "corpus": str},
    },
    "scores": {
        "corpus": str,
        "corpus_path": str,
        "corpus_options?": dict,
        "num_pairs": int,
        "num_parts": int,
        "steps": [int],
        "columns?": [str],
        "reused?": {"num_pairs": int, "num_tokens": int, "scores": str, "path?": str},
        "recipe": {"corpus?": str, "checkpoints?": [str]},
    },
    "selection": {
        "corpus": str,
        "corpus_path": str,
        "corpus_options?": dict,
        "num_lines": int,
        "num_pairs": int,
        "num_kept": int,
        "threshold": float,
        "highest": float,
        "recipe": {"criterion": str, "scores": str, "seed?": int, "hashes?": {str: str}},
    },
    "evaluation": {
        "arms": {str: dict},
        "warnings": [str],
        "translations": [dict],
        "ledger?": dict,
        "recipe": {"arms": dict},
    },
    "prune": {"made": {str: str}},
}
_IN_WORDS = {
    int: "a whole number from 0",
    float: "a number",
    str: "a string",
    dict: "an object",
}


def load_manifest(path: Path, error: type[PycatError] = OutputError) -> dict[str, Any]:
    """The JSON object in this file, without its own hash, which is compared.

    Raises:
        error: it cannot be read, or is not as it was written.
    """
    again = f"delete {path.parent} and make it again"
    if maker := MAKERS.get(path.stem):
        again += f" with '{maker}'"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        if status.st_size > _MAX_BYTES:
            raise ValueError(f"it has {status.st_size:,} bytes, expected at most {_MAX_BYTES:,}")
        value = json.loads(path.read_text("utf-8"), object_pairs_hook=_object)
    except (OSError, ValueError, RecursionError) as cause:
        raise error(f"{path}: cannot be read ({cause}); {again}") from None
    if not isinstance(value, dict):
        raise error(f"{path}: expected a JSON object, found {type(value).__name__}; {again}")
    recorded = value.pop(_OWN_HASH, None)
    # A manifest from before there were hashes lists no files.
    if (recorded is not None or "files" in value) and recorded != (found := json_sha256(value)):
        raise error(
            f"{path}: its content has SHA-256 {found[:12]}…, expected {str(recorded)[:12]}…, which "
            f"it records of itself; it was edited or is damaged: {again}"
        )
    _check_fields(path, value, _ANY_FIELDS, error)
    for name in value.get("files") or ():
        _check_inside(path, name, error)
    return value


def _object(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two entries of one name, another reader might take the other one."""
    value: dict[str, Any] = {}
    for name, item in entries:
        if name in value:
            raise ValueError(f"it names {name!r} twice")
        value[name] = item
    return value


def signed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its own hash as the last entry."""
    plain = json.loads(json.dumps(manifest))
    plain.pop(_OWN_HASH, None)
    return {**plain, _OWN_HASH: json_sha256(plain)}


def json_sha256(value: object) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path, kind: str, error: type[PycatError] = OutputError) -> dict[str, Any]:
    """The manifest of a complete folder of this kind.

    Raises:
        error: the folder is missing, of another kind, incomplete, of a newer format, or its
            manifest is damaged or lacks what its readers need.
    """
    path = folder / f"{kind}.json"
    if not path.is_file():
        found = "a folder without it" if folder.is_dir() else "no such folder"
        raise error(f"{path}: expected the manifest of a pycat {kind} folder, found {found}")
    manifest = load_manifest(path, error)
    if manifest.get("format") != f"pycat.{kind}" or manifest.get("version") != FORMAT_VERSION:
        raise error(
            f"{path}: found format {manifest.get('format')!r} version {manifest.get('version')!r}, "
            f"expected 'pycat.{kind}' version {FORMAT_VERSION}; use the pycat that wrote it"
        )
    if not manifest.get("complete"):
        raise error(
            f"{folder}: this {kind} folder is incomplete (its making was interrupted); run the "
            "command that makes it again"
        )
    _check_fields(path, manifest, {"recipe": dict, **_FIELDS.get(kind, {})}, error)
    return manifest


def _problems(value: Any, wanted: Any, name: str) -> Iterator[str]:
    """What of `value` is not of the type `wanted`, in words."""
    if isinstance(wanted, type):
        if not _is_a(value, wanted):
            yield _found(name, value, _IN_WORDS[wanted])
    elif isinstance(wanted, list):
        if not isinstance(value, list):
            yield _found(name, value, "a list")
            return
        for i, item in enumerate(value):
            yield from _problems(item, wanted[0], f"{name}[{i}]")
    elif isinstance(wanted, tuple):
        if not isinstance(value, list) or len(value) != len(wanted):
            yield _found(name, value, f"a list of {len(wanted)}")
            return
        for i, (item, kind) in enumerate(zip(value, wanted, strict=True)):
            yield from _problems(item, kind, f"{name}[{i}]")
    elif not isinstance(value, dict):
        yield _found(name, value, "an object")
    elif str in wanted:
        for key, item in value.items():
            yield from _problems(item, wanted[str], f"{name}.{key}")
    else:
        for key, kind in wanted.items():
            plain = key.removesuffix("?")
            inner = f"{name}.{plain}" if name else plain
            if value.get(plain) is not None:
                yield from _problems(value[plain], kind, inner)
            elif plain == key:
                yield f"{inner} is missing"


def _is_a(value: Any, wanted: type) -> bool:
    if wanted is int:
        return type(value) is int and 0 <= value < 2**63
    if wanted is float:
        return type(value) in (int, float) and value == value
    return isinstance(value, wanted)


def _found(name: str, value: Any, expected: str) -> str:
    text = json.dumps(value)
    return f"{name} is {text if len(text) <= 40 else text[:39] + '…'}, expected {expected}"


def _check_fields(
    path: Path, manifest: Mapping[str, Any], wanted: Mapping[str, Any], error: type[PycatError]
) -> None:
    """Refuse a manifest without the entries wanted, or with such of other types."""
    if problem := next(_problems(manifest, wanted, ""), None):
        raise error(
            f"{path}: {problem}; the manifest was edited, is damaged or of an older pycat: delete "
            f"{path.parent} and run '{MAKERS.get(path.stem, 'the command that makes it')}' again"
        )


def _check_inside(path: Path, name: str, error: type[PycatError]) -> None:
    """Refuse the name of a file that is not below the manifest's folder."""
    pure = PurePosixPath(name)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\0" in name:
        raise error(
            f"{path}: lists the file {name!r}, which lies outside of {path.parent}; pycat did not "
            "write this manifest: delete it"
        )


def list_files(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What a manifest records under `files`: size and SHA-256 of each, of Parquet its footer's too.

    Raises:
        OSError: a file cannot be read.
    """
    ordered = sorted(names)
    hashes = hash_files([folder / name for name in ordered], "hash files")
    listed: dict[str, dict[str, Any]] = {}
    for name, sha256 in zip(ordered, hashes, strict=True):
        path = folder / name
        listed[name] = {"bytes": path.stat().st_size, "sha256": sha256}
        if path.suffix == ".parquet":
            listed[name]["footer_sha256"] = _footer_sha256(path)
    return listed


def problem_with(
    folder: Path, name: str, listed: Mapping[str, Any], *, full: bool = False
) -> str | None:
    """How a file differs from what its manifest lists of it, in words; None if it does not.

    Compares the size, and all bytes with `full` or where the file is no Parquet file. Of a Parquet
    file it compares the footer: whoever reads its pages compares their checksums.
    """
    path = folder / name
    if problem := _other_size(path, listed["bytes"]):
        return problem
    if not full and "footer_sha256" in listed:
        return _other_hash("its footer's SHA-256", _footer_sha256(path), listed["footer_sha256"])
    [found] = hash_files([path], f"hash {path.name}")
    return _other_hash("its SHA-256", found, listed["sha256"])


def _other_size(path: Path, expected: int) -> str | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return "is missing"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_size != expected:
        return f"has {status.st_size:,} bytes, expected {expected:,}"
    return None


def _other_hash(what: str, found: str, expected: str) -> str | None:
    if found == expected:
        return None
    return f"is not as it was written: {what} is {found[:12]}…, expected {expected[:12]}…"


def damage(folder: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each file that is not as the manifest lists it, and how it differs, in words.

    Reads all bytes of all files that have the right size, about 1.5 GB a second.
    """
    listed = manifest.get("files") or {}
    whole = []
    for name, entry in listed.items():
        if problem := _other_size(folder / name, entry["bytes"]):
            yield name, problem
        else:
            whole.append(name)
    hashes = hash_files([folder / name for name in whole], "verify files")
    for name, found in zip(whole, hashes, strict=True):
        if problem := _other_hash("its SHA-256", found, listed[name]["sha256"]):
            yield name, problem


def is_whole(folder: Path, manifest: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Whether each file of a finished folder is as its manifest lists it.

    Raises:
        OutputError: one is not, and the folder may not be overwritten.
    """
    name, problem = next(damage(folder, manifest), (None, None))
    if name is None:
        return True
    if not overwrite:
        raise OutputError(
            f"{folder / name}: {problem}; put the file back, or pass --overwrite (overwrite=True) "
            f"to make {folder} again"
        )
    return False


def check_file(
    folder: Path,
    manifest: Mapping[str, Any],
    name: str,
    remedy: str,
    error: type[PycatError] = OutputError,
) -> None:
    """Refuse a file that is not as its manifest lists it; one that is not listed passes.

    Raises:
        error: says how the file differs, and `remedy`.
    """
    listed = (manifest.get("files") or {}).get(name)
    if listed is not None and (problem := problem_with(folder, name, listed)):
        raise error(f"{folder / name}: {problem}; {remedy}")


def _footer_sha256(path: Path) -> str:
    """SHA-256 of a Parquet file's footer, with its length and magic."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - _FOOTER_END, 0))
        length = int.from_bytes(file.read(4), "little") if size >= _FOOTER_END else 0
        file.seek(max(size - _FOOTER_END - min(length, _MAX_FOOTER), 0))
        return hashlib.sha256(file.read()).hexdigest()
