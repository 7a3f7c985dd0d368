"""Lines about long steps where no terminal shows a bar."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from pycat.runtime import progress as module
from pycat.runtime.progress import Step, progress, tell


class Clock:
    """Seconds that pass only where a step waits, and what is done meanwhile."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def told(
    total: float | None, units: list[float], done: float = 0, last: float = 10.0
) -> list[tuple[float, str]]:
    """When each line is written, and the line; `units` are done in one wait after the other."""
    clock = Clock()
    step = Step("score", total, "pairs", done, clock)
    todo, lines = iter(units), []

    def wait(seconds: float) -> bool:
        count = next(todo, None)
        clock.now += last if count is None else seconds
        step.advance(count or 0)
        return count is None

    tell(step, wait, lambda line: lines.append((clock.now - 100, line)))
    return lines


def test_a_line_at_the_start_every_half_minute_and_at_the_end() -> None:
    assert told(7200, [200, 3000, 3400, 600 - 0.0]) == [
        (2, "score: started, 7,200 pairs"),
        (32, "score: 44% of 7,200 pairs, 100 pairs/s, 40 s left"),
        (62, "score: 92% of 7,200 pairs, 106 pairs/s, 6 s left"),
        (92, "score: 100% of 7,200 pairs, 78 pairs/s, 0 s left"),
        (102, "score: done in 1 min 42 s, 71 pairs/s"),
    ]


def test_what_an_earlier_run_did_counts_as_done_but_not_as_speed() -> None:
    assert told(1000, [0, 160], done=500, last=8.0) == [
        (2, "score: started, 1,000 pairs, 50% done before"),
        (32, "score: 66% of 1,000 pairs, 5.0 pairs/s, 1 min 08 s left"),
        (40, "score: done in 40 s, 4.0 pairs/s"),
    ]


def test_a_step_without_a_total_tells_how_long_it_runs() -> None:
    assert told(None, [0, 0, 0]) == [
        (2, "score: started"),
        (32, "score: running for 32 s"),
        (62, "score: running for 1 min 02 s"),
        (72, "score: done in 1 min 12 s"),
    ]


def test_a_step_that_stands_still_has_no_time_left() -> None:
    assert told(50, [0, 0])[1] == (32, "score: 0% of 50 pairs, 0.0 pairs/s, time left unknown")


def test_hours_are_told() -> None:
    lines = told(100_000, [0, *[32.0] * 10])
    assert lines[-2][1] == "score: 0% of 100,000 pairs, 1.1 pairs/s, 26 h 07 min left"


def test_a_short_step_writes_no_line() -> None:
    assert told(50, []) == []


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHORT_S", 0.0)
    monkeypatch.setattr(module, "_EVERY_S", 0.001)


def until_told(capsys: pytest.CaptureFixture[str], words: str, advance: Callable[[], None]) -> str:
    """What was written once those words are."""
    seen = ""
    while words not in seen:
        advance()
        seen += capsys.readouterr().err
    return seen


@pytest.mark.usefixtures("hasty")
def test_lines_go_to_standard_error_while_the_step_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress("score", 1e12, "pairs") as advance:
        seen = until_told(capsys, "left", lambda: advance(1))
    *lines, last = (seen + capsys.readouterr().err).splitlines()
    assert lines[0] == "pycat: score: started, 1,000,000,000,000 pairs"
    assert all(line.startswith("pycat: score: 0% of") for line in lines[1:])
    assert re.fullmatch(r"pycat: score: done in 0 s, [\d,.]+ pairs/s", last)


@pytest.mark.usefixtures("hasty")
def test_a_step_that_fails_is_not_told_to_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), progress("score", None, "pairs"):
        seen = until_told(capsys, "running", lambda: None)
        raise KeyboardInterrupt
    assert "started" in seen
    assert "done" not in seen + capsys.readouterr().err


BAR = """
from pycat.runtime.progress import progress
with progress("score", 4, "pairs") as advance:
    advance(4)
"""


def test_a_terminal_has_a_bar_and_no_lines() -> None:
    ours, theirs = pty.openpty()
    environment = {"TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-P", "-c", BAR], stderr=theirs, env=environment, check=True)
    shown = b""
    while b"\r\n" not in shown:
        shown += os.read(ours, 4096)
    assert b"score" in shown
    assert "━".encode() in shown
    assert b"pycat: " not in shown
