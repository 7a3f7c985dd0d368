"""Progress bars of terminals."""

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
def progress_bar(
    console: Console, description: str, total: float | None, unit: str, done: int
) -> Iterator[Callable[[float], None]]:
    """Draw a bar while the block runs: units done, rate and time left, as for `progress`."""
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        _RateColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(description, total=total, completed=done, unit=unit)
        yield lambda count: bars.advance(task, count)
