"""The verb `explain` of the command line: options, and what it prints."""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pycat.report.explaining import Explanation, explain
from pycat.report.formatting import number

_BAR = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add those of `explain`."""
    parser.add_argument("--scores", type=Path, required=True, help="folder made by score")
    parser.add_argument(
        "--pair", type=int, required=True, metavar="N", help="id of the pair, from 0"
    )
    parser.add_argument(
        "--selection", type=Path, help="folder made by select: say why it kept or dropped the pair"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for other programs")


def run(scores: Path, pair: int, selection: Path | None, json: bool) -> None:
    """Explain, and print it."""
    found = explain(scores, pair, selection=selection)
    if json:
        print(_json(found))
    else:
        # A table cut to 80 columns would lose numbers where the output is a file.
        console = Console(highlight=False)
        show(found, console)


def _json(found: Explanation) -> str:
    return json.dumps(found.json(), ensure_ascii=False, indent=2, allow_nan=False)


def show(found: Explanation, console: Console) -> None:
    """Print the pair, its trajectory, its standing and the decision."""
    line = "" if found.line is None else f", line {found.line:,} of the text"
    console.print(Text(f"Pair {found.pair:,}{line}", style="bold"))
    for side, count in enumerate((found.num_src_tokens, found.num_tokens)):
        name = ("source", "target")[side]
        sentence = "–" if found.text is None else found.text[side]
        console.print(Text(f"{name}, {count:,} tokens"))
        console.print(Padding(Text(_visible(sentence)), (0, 0, 0, 2)))
    if found.text_problem is not None:
        console.print(Text(f"(not the original text: {found.text_problem})", style="dim"))
    if found.decision is not None:
        style = "green" if found.decision.kept else "yellow"
        console.print(Text(found.decision.reason, style=f"bold {style}"))
    if found.rules is not None:
        broken = ", ".join(found.rules) or "none"
        at = "at default thresholds" if found.default_rules else "at the selection's thresholds"
        console.print(Text(f"rules it breaks {at}: {broken}"))
    _print_trajectory(found, console)
    _print_criteria(found, console)


def _print_trajectory(found: Explanation, console: Console) -> None:
    table = Table("update", title="Over the checkpoints, mean of the target tokens", box=None)
    table.title_justify = "left"
    for name in found.trajectory:
        table.add_column({"ppl": "perplexity"}.get(name, name), justify="right")
    for k, step in enumerate(found.steps):
        table.add_row(f"{step:,}", *(number(row[k]) for row in found.trajectory.values()))
    console.print()
    console.print(table)


def _print_criteria(found: Explanation, console: Console) -> None:
    title = f"Among {found.num_ranked:,} pairs, evenly drawn if those are not all"
    table = Table("criterion", title=title, box=None)
    table.title_justify = "left"
    table.add_column("value", justify="right")
    table.add_column("% of pairs lower", justify="right")
    table.add_column("")
    for name, standing in found.criteria.items():
        share = standing.percentile
        filled = 0 if share != share else round(share / 100 * _BAR)
        table.add_row(
            Text(name),
            number(standing.value),
            "–" if share != share else f"{share:.1f}",
            Text("█" * filled + "·" * (_BAR - filled), style="cyan"),
        )
    console.print()
    console.print(table)


def _visible(text: str) -> str:
    """Control characters made visible, so that none of them reaches the terminal."""
    return "".join(
        chr(0x2400 + ord(char)) if ord(char) < 32 else "␡" if 127 <= ord(char) < 160 else char
        for char in text
    )
