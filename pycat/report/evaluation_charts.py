"""Charts of an evaluation: held-out loss over updates, and effective data with intervals.

Needs matplotlib. The SVG text has the page's colours, like that of the other charts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from pycat.report.charts import COLOURS, INK, chart_style, svg_text

# Arms beside `selected` and the random ones share the ink, so they also differ by marker and dash.
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))


def loss_picture(test: str, updates: Sequence[int], losses: Mapping[str, Sequence[float]]) -> str:
    """Draw the held-out loss of each arm at each budget.

    Args:
        test: name of the test set.
        updates: the B budgets, ascending.
        losses: of each arm, nats a target token, B values.
    """
    with chart_style(f"loss-{test}"):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for i, (name, values) in enumerate(losses.items()):
            axes.plot(
                updates,
                values,
                color=_colour(name),
                marker=_MARKS[i % len(_MARKS)],
                linestyle=_DASHES[i % len(_DASHES)],
                markersize=4,
                linewidth=1.3,
                label=f" {name}",  # a name that begins with "_" would be left out of the legend
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(list(updates)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("updates, log scale")
        axes.set_ylabel("nats a target token")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), borderaxespad=0.5)
        return svg_text(figure, f"Held-out loss on {test} by arm and updates")


def worth_picture(
    test: str, arms: Mapping[str, Mapping[str, Any]], words: Mapping[str, str], share: float
) -> str:
    """Draw the effective data of each arm that has some, with its interval, and say it beside.

    Args:
        test: name of the test set.
        arms: what `evaluation.json` says of each arm on it.
        words: the effective data of each, as `Evaluation.worth_text` has it.
        share: of all target tokens that a random arm of the selection's size has.
    """
    rows = [
        (name, result["effective_data"])
        for name, result in arms.items()
        if result.get("effective_data", [None])[0] is not None
    ]
    with chart_style(f"worth-{test}"):
        figure = Figure(figsize=(9, 0.9 + 0.32 * max(1, len(rows))), layout="constrained")
        axes = figure.add_subplot()
        for y, (name, (value, low, high)) in enumerate(rows):
            axes.plot([100 * low, 100 * high], [y, y], color=_colour(name), linewidth=2)
            axes.plot([100 * value], [y], color=_colour(name), marker="o", markersize=5)
            axes.annotate(
                words[name], (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8
            )
        axes.axvline(100 * share, color=INK, linewidth=1, linestyle=(0, (4, 2)))
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 102)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("worth of random text, % of the whole; dashed: the size of the selection")
        return svg_text(figure, f"Effective data of each arm on {test}")


def _colour(arm: str) -> str:
    if arm == "selected":
        return COLOURS["kept"]
    return COLOURS["dropped"] if arm.startswith("random") else INK
