"""Progress of long steps: share done, rate and time left, on a terminal only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        rate = (
            "" if speed is None else f"{speed:,.{0 if speed >= 10 else 1}f} {task.fields['unit']}/s"
        )
        return Text(rate, style="progress.data.speed")


@contextmanager
def progress(
    description: str, total: float | None, unit: str, done: int = 0
) -> Iterator[Callable[[float], None]]:
    """A bar on standard error while the block runs; calling the yielded function advances it.

    Args:
        description: what is being done.
        total: units in all, or None when it cannot be known beforehand.
        unit: plural name of a unit, shown as the rate "… units/s".
        done: units already done by an earlier, interrupted run.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        _RateColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(description, total=total, completed=done, unit=unit)
        yield lambda count: bars.advance(task, count)
