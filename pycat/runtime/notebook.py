"""Tables and plots with which results show themselves in a notebook."""

import html
from collections.abc import Sequence
from typing import Any

from pycat.errors import PycatError


def html_table(title: str, header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A table of HTML; all text is escaped.

    Args:
        title: its caption.
        header: names of the columns.
        rows: a cell for each column; floats get four digits, integers their thousands.
    """
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_shown(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f"<table><caption>{html.escape(title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def new_axes(title: str, x: str, y: str) -> Any:
    """Axes of matplotlib to plot on.

    Raises:
        PycatError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError:
        raise PycatError(
            "a plot needs matplotlib, which is not installed; install it with: pip install "
            "'pycat-nmt[plot]'"
        ) from None
    _, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.set(title=title, xlabel=x, ylabel=y)
    return axes


def _shown(cell: object) -> str:
    if isinstance(cell, bool) or cell is None:
        return "" if cell is None else str(cell)
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:,.4g}" if isinstance(cell, float) else str(cell)
