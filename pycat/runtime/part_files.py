"""Arrays that workers make of parts, in files of their own until a stage puts them together."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pycat.errors import OutputError
from pycat.runtime.output import replacing
from pycat.runtime.parts import Load, map_parts

_Part = TypeVar("_Part")

Arrays = Mapping[str, NDArray[Any]]


def map_to_files(
    load: Load[_Part, Arrays],
    parts: Iterable[tuple[Path, _Part]],
    done: Callable[[_Part], None],
    *,
    resumes: bool,
    on: str,
    num_workers: int | None,
    uses_gpu: bool = False,
) -> list[Path]:
    """Let workers write the arrays of each part into its file.

    Args:
        load: as for `map_parts`; its work returns arrays.
        parts: each with the absolute path of its file.
        done: called with each part that is finished, here or by an earlier run.
        resumes: whether a file that is there is one of an earlier run, and stays.
        on, num_workers, uses_gpu: as for `map_parts`.

    Returns:
        The files, in the order of the parts.
    """
    paths = []

    def unfinished() -> Iterator[tuple[Path, _Part]]:
        for path, part in parts:
            paths.append(path)
            if resumes and path.is_file():
                done(part)
            else:
                yield path, part

    writing = _Writing(load)
    mapped = map_parts(writing, unfinished(), on=on, num_workers=num_workers, uses_gpu=uses_gpu)
    with closing(mapped) as written:
        for (_, part), _ in written:
            done(part)
    return paths


def array_names(path: Path) -> list[str]:
    """Names of the arrays of a part.

    Raises:
        OutputError: the file is gone or damaged.
    """
    with _opened(path) as arrays:
        return list(arrays.files)


def read_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of a part, or those of these names.

    Raises:
        OutputError: the file is gone or damaged.
    """
    with _opened(path) as arrays:
        return {name: arrays[name] for name in (arrays.files if names is None else names)}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise OutputError(
            f"{path}: this part cannot be read ({error}); delete it and run the same command again"
        ) from None


@dataclass(frozen=True)
class _Writing:
    """Loads work that writes what the work of `load` returns."""

    load: Load[Any, Arrays]

    def __call__(self, num_threads: int) -> Callable[[tuple[Path, Any]], None]:
        return partial(_write, self.load(num_threads))


def _write(work: Callable[[Any], Arrays], part: tuple[Path, Any]) -> None:
    path, given = part
    arrays: dict[str, Any] = dict(work(given))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
