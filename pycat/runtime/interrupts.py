"""Ctrl-C on the command line: one line and status 130, whatever runs.

This is imported before anything that takes time, and imports nothing that does.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # see pycat/__init__.py

if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

STATUS = 130
MESSAGE = "pycat: interrupted; the same command goes on from here"

_seen = False
_raises = False


def watch() -> None:
    """Let Ctrl-C end the process at once, and between `begin` and `end` raise KeyboardInterrupt.

    It ends the process there too where an error would be lost: while modules are imported, and
    where Python cannot raise, as in `__del__`. Ending at once is safe: what is being written has no
    name yet, and the kernel releases locks.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as by nohup
        signal.signal(signal.SIGINT, _on_ctrl_c)
        sys.unraisablehook = _on_unraisable
    # The command pycat blocks it until now (csrc/command); what came meanwhile comes here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def begin() -> None:
    """Let Ctrl-C raise KeyboardInterrupt from here on: the caller catches it."""
    global _raises
    _raises = True


def end() -> None:
    """Let Ctrl-C end the process again."""
    global _raises
    _raises = False


def seen() -> bool:
    """Whether Ctrl-C came. Libraries make errors of their own of it, as DuckDB does."""
    return _seen


def _on_ctrl_c(_number: int, frame: FrameType | None) -> None:
    global _seen
    _seen = True
    if not _raises:
        _end()
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
