"""Ctrl-C on the command line: one line and status 130, whatever runs.

This is imported before anything that takes time.
"""

import os
import signal
import sys
from types import FrameType
from typing import Any

STATUS = 130
MESSAGE = "pycat: interrupted; the same command goes on from here"

_seen = False


def watch() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, but end the process where that would be lost.

    It is lost while modules are imported, and where Python cannot raise, as in `__del__`. Ending at
    once is safe: what is being written has no name yet, and the kernel releases locks.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as by nohup
        signal.signal(signal.SIGINT, _on_ctrl_c)
        sys.unraisablehook = _on_unraisable


def seen() -> bool:
    """Whether Ctrl-C came. Libraries make errors of their own of it, as DuckDB does."""
    return _seen


def _on_ctrl_c(_number: int, frame: FrameType | None) -> None:
    global _seen
    _seen = True
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _end()
        frame = frame.f_back
    raise KeyboardInterrupt


def _on_unraisable(unraisable: Any) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _end()
    sys.__unraisablehook__(unraisable)


def _end() -> None:
    show_cursor = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides it
    try:
        os.write(2, f"{show_cursor}{MESSAGE}\n".encode())
    finally:
        os._exit(STATUS)
