"""Charts of the report, as SVG text for an HTML page.

Needs matplotlib. The colours below stand for CSS variables of the page, which
replace them in the finished SVG, so that the same chart fits light, dark and print.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from pycat.report.formatting import number, signed
from pycat.report.histograms import Histogram, Tenth

INK, _RULE, _KEPT, _DROPPED = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {INK: "ink", _RULE: "rule", _KEPT: "kept", _DROPPED: "dropped"}
COLOURS = {"kept": _KEPT, "dropped": _DROPPED}

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold dollar signs
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
}

# Perplexity may be infinite. It is drawn up to here, so that margins and ticks stay in float64.
_MAX_PPL = 1e100


def score_picture(counts: Histogram, threshold: float, criterion: str) -> str:
    """Draw the histogram of scores, kept pairs stacked on dropped ones, and the threshold."""
    with chart_style("score"):
        figure = Figure(figsize=(9, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for name, heights, below in (
            ("dropped", counts.dropped, np.zeros_like(counts.dropped)),
            ("kept", counts.dropped + counts.kept, counts.dropped),
        ):
            if (heights > below).any():
                axes.stairs(
                    heights,
                    counts.edges,
                    baseline=below,
                    fill=True,
                    color=COLOURS[name],
                    linewidth=0,
                    label=name,
                )
        if counts.log:
            _log_axis(axes.xaxis, axes.set_xscale, counts.edges[0], counts.edges[-1])
        else:
            axes.xaxis.set_major_formatter(FuncFormatter(_tick))
        axes.axvline(
            float(np.clip(threshold, counts.edges[0], counts.edges[-1])),
            color=INK,
            linewidth=1.2,
            linestyle=(0, (4, 2)),
            label=f"threshold {number(threshold)}",
        )
        axes.set_xlim(counts.edges[0], counts.edges[-1])
        _count_axis(axes, "pairs")
        axes.set_xlabel(f"{criterion}{', log scale' if counts.log else ''}")
        axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
        return svg_text(figure, "Histogram of scores, kept and dropped pairs")


def trajectory_picture(
    steps: Sequence[int],
    bands: Mapping[str, NDArray[np.float64]],
    lines: Mapping[str, NDArray[np.float64]],
) -> str:
    """Draw perplexity over checkpoints, with a panel for each group.

    Args:
        steps: the K checkpoints, in updates.
        bands: quantiles 0.1, 0.25, 0.5, 0.75 and 0.9 of each group's perplexity, (5, K).
        lines: perplexity of single pairs of each group, (n, K).
    """
    ascending = list(steps) == sorted(set(steps))
    x = list(steps) if ascending else list(range(1, len(steps) + 1))
    drawn = {name: np.minimum(band, _MAX_PPL) for name, band in bands.items()}
    low = min(band.min() for band in drawn.values())
    high = max(band.max() for band in drawn.values())
    margin = max((high / low) ** 0.15, 1.1)
    low, high = low / margin, high * margin
    with chart_style("trajectories"):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
        for axes, (name, band) in zip(panels, drawn.items(), strict=True):
            colour = COLOURS[name]
            for line in lines[name]:
                axes.plot(x, np.minimum(line, _MAX_PPL), color=INK, linewidth=0.5, alpha=0.35)
            axes.fill_between(x, band[0], band[4], color=colour, alpha=0.2, linewidth=0)
            axes.fill_between(x, band[1], band[3], color=colour, alpha=0.35, linewidth=0)
            axes.plot(x, band[2], color=colour, linewidth=2.2, marker="o", markersize=3.5)
            for other in drawn.keys() - {name}:
                axes.plot(x, drawn[other][2], color=COLOURS[other], linewidth=1.6, linestyle="--")
            _log_axis(axes.yaxis, axes.set_yscale, low, high)
            axes.set_ylim(low, high)
            axes.set_xticks(x if len(x) <= 10 else x[:: -(-len(x) // 10)])
            axes.xaxis.set_major_formatter(FuncFormatter(_tick))
            axes.set_xlabel("training update" if ascending else "checkpoint")
            axes.set_title(name)
        panels[0].set_ylabel("perplexity, log scale")
        return svg_text(figure, "Perplexity over checkpoints of kept and dropped pairs")


def group_picture(
    histograms: Mapping[str, Histogram], tenths: Mapping[str, Sequence[Tenth]], share: float
) -> str:
    """Draw target length and word rarity: distributions of both groups, share kept by tenths."""
    labels = {"length": "target tokens", "rarity": "word rarity, bits a token"}
    with chart_style("groups"):
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        panels = figure.subplots(2, 2)
        for (name, label), (top, bottom) in zip(labels.items(), panels.T, strict=True):
            counts = histograms[name]
            for group, heights in (("dropped", counts.dropped), ("kept", counts.kept)):
                if heights.any():
                    top.stairs(
                        100 * heights / heights.sum(),
                        counts.edges,
                        color=COLOURS[group],
                        linewidth=1.6,
                        label=group,
                    )
            if counts.log:
                _log_axis(top.xaxis, top.set_xscale, counts.edges[0], counts.edges[-1])
            top.set_xlim(counts.edges[0], counts.edges[-1])
            top.set_ylim(0)
            top.set_xlabel(label)
            top.set_ylabel("% of its group")
            top.yaxis.set_major_formatter(FuncFormatter(_tick))
            top.legend(loc="upper right")
            at = range(len(tenths[name]))
            bottom.bar(at, [100 * tenth.share for tenth in tenths[name]], 0.8, color=_KEPT)
            bottom.axhline(100 * share, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
            bottom.set_ylim(0, 100)
            bottom.set_xticks(
                at, [_range(tenth) for tenth in tenths[name]], rotation=35, ha="right"
            )
            bottom.set_xlabel(f"{label}, in tenths of the corpus")
            bottom.set_ylabel("% kept")
        return svg_text(figure, "Kept and dropped pairs by target length and word rarity")


def map_picture(
    confidence: NDArray[np.float64],
    variability: NDArray[np.float64],
    kept: NDArray[np.bool_],
    flags: Mapping[str, NDArray[np.bool_]],
) -> str:
    """Draw the data map with a point for each of N pairs: kept and dropped, and then each flag.

    Args:
        confidence, variability: coordinates (N,).
        kept: whether each pair was kept (N,).
        flags: for each flag, the pairs that it marks (N,); without flags there is one panel.
    """
    panels: list[dict[str, NDArray[np.bool_]]] = [{"dropped": ~kept, "kept": kept}]
    if flags:
        neither = ~np.logical_or.reduce(list(flags.values()))
        panels.append({"neither": neither, **flags})
    colours = {**COLOURS, "neither": _RULE, "hard": _KEPT, "noisy": _DROPPED}
    with chart_style("map"):
        figure = Figure(figsize=(9, 3.9), layout="constrained")
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, groups in zip(row, panels, strict=True):
            for name, rows in groups.items():
                axes.plot(
                    np.round(variability[rows], 4),
                    np.round(confidence[rows], 4),
                    linestyle="",
                    marker="o",
                    markersize=2.6,
                    markeredgewidth=0,
                    alpha=0.6,
                    color=colours[name],
                    label=name,
                )
            axes.set_xlabel("variability")
            axes.legend(ncols=len(groups), loc="lower right", bbox_to_anchor=(1, 1))
        row[0].set_ylabel("confidence")
        return svg_text(figure, "Data map of pairs: confidence by variability")


def correlation_picture(names: Sequence[str], correlations: NDArray[np.float64]) -> str:
    """Draw rank correlations (C, C) as a heat map: a deeper colour is nearer to 1 or to -1."""
    count = len(names)
    with chart_style("correlations"):
        figure = Figure(figsize=(9, 1.4 + 0.32 * count), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(visible=False)
        for i, j in np.argwhere(np.tri(count, k=-1)).tolist():
            rho = float(correlations[i, j])
            if np.isnan(rho):
                continue
            axes.add_patch(
                Rectangle(
                    (j - 0.5, i - 0.5),
                    1,
                    1,
                    facecolor=_KEPT if rho > 0 else _DROPPED,
                    alpha=round(0.75 * abs(rho), 2),
                    linewidth=0,
                )
            )
            axes.text(j, i, signed(rho, 2), ha="center", va="center", fontsize=7)
        axes.set_xlim(-0.5, max(count - 1.5, 0.5))
        axes.set_ylim(max(count - 0.5, 1.5), 0.5)
        axes.set_xticks(range(count - 1), names[:-1], rotation=35, ha="right")
        axes.set_yticks(range(1, count), names[1:])
        axes.tick_params(length=0)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        return svg_text(figure, "Rank correlations of the criteria with each other")


def overlap_picture(
    criteria: Mapping[str, float], without_checkpoint: Mapping[str, float], chance: float
) -> str:
    """Draw Jaccard overlaps in percent, and a line at that of two random selections."""
    titles = {
        "kept pairs and as many by another criterion": criteria,
        "by the criterion, with and without the checkpoint at update": without_checkpoint,
    }
    panels = {title: overlaps for title, overlaps in titles.items() if overlaps}
    with chart_style("overlaps"):
        num_bars = max(map(len, panels.values()))
        figure = Figure(figsize=(9, 0.9 + 0.24 * num_bars), layout="constrained")
        row = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, overlaps) in zip(row, panels.items(), strict=True):
            at = range(len(overlaps))
            axes.barh(at, [100 * value for value in overlaps.values()], 0.7, color=_KEPT)
            axes.axvline(100 * chance, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
            axes.set_yticks(at, list(overlaps))
            axes.set_ylim(num_bars - 0.5, -0.5)
            axes.set_xlim(0, 100)
            axes.grid(visible=False)
            axes.set_xlabel("% shared; dashed: two random selections")
            axes.set_title(title)
        return svg_text(figure, "Overlap of the selection with others")


def _range(tenth: Tenth) -> str:
    """Label of a tenth: its lowest and highest value."""
    low, high = (
        f"{value:,.0f}" if value % 1 == 0 else f"{value:.1f}" for value in (tenth.low, tenth.high)
    )
    return low if low == high else f"{low}–{high}"


def chart_style(salt: str) -> AbstractContextManager[None]:
    """Apply `_STYLE` over matplotlib's defaults instead of the user's settings.

    `salt` makes the SVG ids of one chart differ from those of another on the same page.
    """
    unrelated = ("backend", "toolbar", "interactive", "timezone", "webagg", "date")
    rc: Any = {
        name: value
        for name, value in matplotlib.rcParamsDefault.items()
        if not name.startswith(unrelated)
    }
    rc |= _STYLE | {"svg.hashsalt": salt}
    return matplotlib.rc_context(rc)


def _count_axis(axes: Axes, label: str) -> None:
    """Give the y axis whole-number ticks."""
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylabel(label)


def _tick(value: float, _: object = None) -> str:
    """Label of a tick: the number without trailing zeros."""
    text = number(value)
    return re.sub(r"\.?0+$", "", text) if "." in text else text


def _log_axis(axis: Axis, set_scale: Any, low: float, high: float) -> None:
    """Make an axis logarithmic, with ticks at round values."""
    set_scale("log")
    axis.set_minor_locator(NullLocator())
    axis.set_major_locator(FixedLocator(_log_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(_tick))


def _log_ticks(low: float, high: float) -> list[float]:
    """Two to eight round values between two positive ones, however close those are."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1,)):
        ticks = [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
        if len(ticks) <= 8:
            break
    if len(ticks) < 2:
        ticks = [
            float(tick) for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high
        ]
    return ticks[:: -(-len(ticks) // 8) or 1]


def svg_text(figure: Figure, label: str) -> str:
    """SVG element of a figure, without metadata, for the page's colours and screen readers."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<g id=\"[^\"]*\"", "<g", text)
    text = re.sub(r" *<metadata>.*?</metadata>\n", "", text, flags=re.DOTALL)
    for colour, name in _VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
