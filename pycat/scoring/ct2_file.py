"""`model.bin`, the file of named arrays in a folder that CTranslate2 converted.

Little-endian, without padding:

    uint32 version, text spec, uint32 revision
    uint32 count, then for each variable:
        text name, uint8 rank, uint32 size of each dimension, uint8 type, uint32 bytes, the values
    uint32 count, then for each alias: text name, text name of its variable

A text is a uint16 length and so many bytes, the last of which is 0. Types count float32, int8,
int16, int32, float16 and bfloat16 from 0.

Source: the reader and the writer of CTranslate2 4.8 (`models/model.cc`, `specs/model_spec.py`).
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.errors import CheckpointError

# Before version 4 the type was not stored; after 6 the layout may be another.
_VERSIONS = range(4, 7)
_TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
_ITEM_BYTES = (4, 1, 2, 4, 2, 2)


@dataclass(frozen=True)
class Ct2File:
    """The content of a `model.bin`.

    Attributes:
        version: of the layout.
        spec: the kind of model, such as "TransformerSpec".
        revision: of the names that a kind's variables have.
        variables: arrays by name, aliases too. bfloat16 is widened to float32.
    """

    version: int
    spec: str
    revision: int
    variables: dict[str, NDArray[Any]]


def read_ct2_file(path: Path) -> Ct2File:
    """Read the file; each array is a copy of its own.

    Raises:
        CheckpointError: missing, damaged, or of another version.
    """
    try:
        content = memoryview(np.memmap(path, dtype=np.uint8, mode="r").data)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise CheckpointError(
            f"{path}: cannot be read ({error}); convert the model again"
        ) from None
    reader = _Reader(path, content)
    version = reader.number("I")
    if version not in _VERSIONS:
        raise CheckpointError(
            f"{path}: found version {version:,}, expected {_VERSIONS[0]} to {_VERSIONS[-1]} of "
            "CTranslate2's model.bin; convert the model with CTranslate2 2.0 to 4"
        )
    spec, revision = reader.text(), reader.number("I")
    variables = {}
    for _ in range(reader.number("I")):
        name = reader.text()
        variables[name] = reader.array(name)
    for _ in range(reader.number("I")):
        alias, name = reader.text(), reader.text()
        if name not in variables:
            raise reader.damaged(f"{alias} stands for {name}, which is missing")
        variables[alias] = variables[name]
        if f"{name}_scale" in variables:  # of the same integers
            variables[f"{alias}_scale"] = variables[f"{name}_scale"]
    if reader.at != len(content):
        raise reader.damaged(f"{len(content) - reader.at:,} bytes follow the last entry")
    return Ct2File(version, spec, revision, variables)


class _Reader:
    """A position in the file, which never passes its end."""

    def __init__(self, path: Path, content: memoryview) -> None:
        self.path, self._content, self.at = path, content, 0

    def damaged(self, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: byte {self.at:,}: {why}; the file is damaged or incomplete: convert the "
            "model again"
        )

    def take(self, num_bytes: int) -> memoryview:
        if num_bytes > len(self._content) - self.at:
            raise self.damaged(
                f"{num_bytes:,} bytes should follow, but the file ends at {len(self._content):,}"
            )
        self.at += num_bytes
        return self._content[self.at - num_bytes : self.at]

    def number(self, code: str) -> int:
        [value] = struct.unpack(f"<{code}", self.take(struct.calcsize(code)))
        return int(value)

    def text(self) -> str:
        raw = bytes(self.take(self.number("H")))
        try:
            return raw.removesuffix(b"\0").decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged("a name is not UTF-8") from None

    def array(self, name: str) -> NDArray[Any]:
        shape = [self.number("I") for _ in range(self.number("B"))]
        kind, num_bytes = self.number("B"), self.number("I")
        if kind >= len(_TYPES):
            raise self.damaged(f"{name} has type {kind}, expected below {len(_TYPES)}")
        if num_bytes != math.prod(shape) * _ITEM_BYTES[kind]:
            raise self.damaged(f"{name} of shape {shape} in {_TYPES[kind]} has {num_bytes:,} bytes")
        raw = self.take(num_bytes)
        if _TYPES[kind] == "bfloat16":
            halves = np.frombuffer(raw, np.dtype("<u2"))
            return (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)
        return np.frombuffer(raw, np.dtype(_TYPES[kind]).newbyteorder("<")).reshape(shape).copy()
