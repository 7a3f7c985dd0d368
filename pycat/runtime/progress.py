"""Progress of long steps: a bar on a terminal, lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread
from time import monotonic

# A step that ends sooner writes no line, so that short steps do not fill a log.
_SHORT_S = 2.0

# Seconds between two lines of a step.
_EVERY_S = 30.0


@contextmanager
def progress(
    description: str, total: float | None, unit: str, done: int = 0
) -> Iterator[Callable[[float], None]]:
    """Show on standard error how far the block is; calling the yielded function advances it.

    On a terminal a bar is drawn. Elsewhere, as in a log, a line says that the step has started,
    another one every half minute how far it is, and a last one that it is done. A step shorter
    than two seconds writes no line, and one that fails no last line.

    Args:
        description: name of the step.
        total: units in all, or None when it cannot be known beforehand.
        unit: plural name of a unit, shown as the rate "… units/s".
        done: units already done by an earlier, interrupted run.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        from pycat.runtime.progress_bar import progress_bar

        with progress_bar(console, description, total, unit, done) as advance:
            yield advance
    else:
        with _lines(Step(description, total, unit, done)) as advance:
            yield advance


class Step:
    """Progress of a step, and the lines that tell it.

    Args:
        description, total, unit, done: as for `progress`.
        clock: returns seconds since some fixed moment.
    """

    def __init__(
        self,
        description: str,
        total: float | None,
        unit: str,
        done: float = 0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._before = self._completed = float(done)
        self._clock, self._began = clock, clock()
        self._lock = Lock()  # several threads may advance

    def advance(self, count: float) -> None:
        """Count so many units more as done."""
        with self._lock:
            self._completed += count

    def started(self) -> str:
        """The line at the start."""
        if self._total is None:
            return f"{self._description}: started"
        before = f", {self._before / self._total:.0%} done before" if self._before else ""
        return f"{self._description}: started, {self._total:,.0f} {self._unit}{before}"

    def running(self) -> str:
        """A line on the way: share done, rate, time left."""
        elapsed = self._clock() - self._began
        if self._total is None:
            return f"{self._description}: running for {_duration(elapsed)}"
        rate = self._rate(elapsed)
        left = max(0.0, self._total - self._completed)
        return (
            f"{self._description}: {self._completed / max(self._total, 1e-9):.0%} of "
            f"{self._total:,.0f} {self._unit}, {self._rate_text(rate)}, "
            + (f"{_duration(left / rate)} left" if rate else "time left unknown")
        )

    def ended(self) -> str:
        """The line at the end."""
        elapsed = self._clock() - self._began
        line = f"{self._description}: done in {_duration(elapsed)}"
        rate = self._rate(elapsed)
        return f"{line}, {self._rate_text(rate)}" if rate else line

    def _rate(self, elapsed: float) -> float:
        """Units a second; those that an earlier run did do not count."""
        return (self._completed - self._before) / elapsed if elapsed > 0 else 0.0

    def _rate_text(self, rate: float) -> str:
        return f"{rate:,.{0 if rate >= 10 else 1}f} {self._unit}/s"


def tell(step: Step, wait: Callable[[float], bool], write: Callable[[str], None]) -> None:
    """Write the lines of a step until it ends.

    Args:
        step: tells the lines.
        wait: waits so many seconds; returns whether the step has ended.
        write: writes a line.
    """
    if wait(_SHORT_S):
        return
    write(step.started())
    while not wait(_EVERY_S):
        write(step.running())
    write(step.ended())


@contextmanager
def _lines(step: Step) -> Iterator[Callable[[float], None]]:
    """Let a thread tell of the step while the block runs."""
    over, failed = Event(), Event()

    def write(line: str) -> None:
        if not failed.is_set():
            with suppress(OSError, ValueError):  # standard error may be closed
                print(f"pycat: {line}", file=sys.stderr, flush=True)

    # A thread tells, since a single call can take minutes, such as that which trains a tokenizer.
    teller = Thread(target=tell, args=(step, over.wait, write), daemon=True)
    teller.start()
    try:
        yield step.advance
    except BaseException:
        failed.set()
        raise
    finally:
        over.set()
        teller.join()


def _duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever fits."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
