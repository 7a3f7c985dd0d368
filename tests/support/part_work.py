"""Work for the tests of parts, in a module that worker processes can import."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pycat.errors import CorpusError


def squares(num_threads: int) -> Callable[[int], int]:
    assert num_threads >= 1
    return lambda part: part * part


def write(folder: Path, part: int) -> int:
    (folder / f"{part}").write_text(f"{part}")
    return os.getpid()


def writing(folder: Path, num_threads: int) -> Callable[[int], int]:
    return partial(write, folder)


def end_at_three(part: int) -> int:
    if part == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return part


def ending(num_threads: int) -> Callable[[int], int]:
    return end_at_three


def damaged(num_threads: int) -> Callable[[int], int]:
    raise CorpusError("c: damaged")
