"""An explained pair as `explain` prints it for people."""

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pycat.report.explaining import Explanation
from pycat.report.formatting import number

# Characters of the bar that shows a percentile.
_BAR_WIDTH = 20


def show(explanation: Explanation, console: Console | None = None) -> None:
    """Print the pair, its trajectory, its standing and the decision."""
    console = console or Console(highlight=False)
    line = "" if explanation.line is None else f", line {explanation.line:,} of the text"
    console.print(Text(f"Pair {explanation.pair:,}{line}", style="bold"))
    for side, count in enumerate((explanation.num_src_tokens, explanation.num_tokens)):
        name = ("source", "target")[side]
        sentence = "–" if explanation.text is None else explanation.text[side]
        console.print(Text(f"{name}, {count:,} tokens"))
        console.print(Padding(Text(_visible(sentence)), (0, 0, 0, 2)))
    if explanation.text_problem is not None:
        console.print(Text(f"(not the original text: {explanation.text_problem})", style="dim"))
    if explanation.decision is not None:
        style = "green" if explanation.decision.kept else "yellow"
        console.print(Text(explanation.decision.reason, style=f"bold {style}"))
    if explanation.rules is not None:
        broken = ", ".join(explanation.rules) or "none"
        at = (
            "at default thresholds"
            if explanation.default_rules
            else "at the selection's thresholds"
        )
        console.print(Text(f"rules it breaks {at}: {broken}"))
    if explanation.steps:
        _print_trajectory(explanation, console)
    _print_criteria(explanation, console)


def _print_trajectory(explanation: Explanation, console: Console) -> None:
    table = Table("update", title="Over the checkpoints, mean of the target tokens", box=None)
    table.title_justify = "left"
    for name in explanation.trajectory:
        table.add_column({"ppl": "perplexity"}.get(name, name), justify="right")
    for k, step in enumerate(explanation.steps):
        table.add_row(f"{step:,}", *(number(row[k]) for row in explanation.trajectory.values()))
    console.print()
    console.print(table)


def _print_criteria(explanation: Explanation, console: Console) -> None:
    title = f"Among {explanation.num_ranked:,} pairs, evenly drawn if those are not all"
    table = Table("criterion", title=title, box=None)
    table.title_justify = "left"
    table.add_column("value", justify="right")
    table.add_column("% of pairs lower", justify="right")
    table.add_column("")
    for name, standing in explanation.criteria.items():
        share = standing.percentile
        filled = 0 if share != share else round(share / 100 * _BAR_WIDTH)
        table.add_row(
            Text(name),
            number(standing.value),
            "–" if share != share else f"{share:.1f}",
            Text("█" * filled + "·" * (_BAR_WIDTH - filled), style="cyan"),
        )
    console.print()
    console.print(table)


def _visible(text: str) -> str:
    """Control characters made visible, so that none of them reaches the terminal."""
    return "".join(
        chr(0x2400 + ord(char)) if ord(char) < 32 else "␡" if 127 <= ord(char) < 160 else char
        for char in text
    )
