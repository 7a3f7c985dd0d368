"""Child processes: they end with their parent however it ends, and leave Ctrl-C to it.

Python scripts run as children through this file, which imports nothing of pycat: torch would take
seconds.
"""

import ctypes
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when `parent`, its parent's id, has ended. Linux only."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before that
            os._exit(1)


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """Keep Ctrl-C until the end of the block, and for good from the processes started in it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_python(
    words: Sequence[str], *, stdin: bytes | None = None, stderr: int | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """Run a Python script (path, arguments) or module ("-m", name, arguments) as a child.

    Args:
        words: what follows `python`.
        stdin: bytes for its standard input.
        stderr: as in `subprocess.Popen`.

    Returns:
        Its exit status and what it wrote to standard output.
    """
    # -P: Python must not import the modules beside this file in place of its own.
    command = [sys.executable, "-P", __file__, str(os.getpid()), *words]
    with ctrl_c_held_back():
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    with process:
        try:
            out, err = process.communicate(stdin)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _main(parent: str, *words: str) -> None:
    end_with_parent(int(parent))
    if words[0] == "-m":
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    _main(*sys.argv[1:])
