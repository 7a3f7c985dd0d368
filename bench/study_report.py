"""Tables and charts of `bench/study.py` for docs/evidence.md, from the results in bench/study/.

python bench/study_report.py [--results DIR] [--page FILE] [--charts DIR]

The page holds what stands between the lines `<!-- study -->` and `<!-- /study -->`; it is replaced.
The first table has all results. A text's table and chart of all arms come from the result that has
the most of them: what each arm gains on a random half, in the mean over the tests.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from pycat.evaluation.comparing import mean_gain

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- study -->\n", "<!-- /study -->\n"

# What the arms of bench/study.py are called in the table, in its order.
NAMES = {
    "full": "everything",
    "random": "random half",
    "selected": "**`pycat prune`: rules, noise filter, `learnability+noise` within clusters**",
    "oracle": "clean pairs at random (labels)",
    "rules-random": "rules, random",
    "filter-random": "rules, noise filter, random",
    "filter-cat_var": "rules, noise filter, `cat_var`",
    "filter-learnability": "rules, noise filter, `learnability`",
    "filter-learnability+noise": "rules, noise filter, `learnability+noise`",
    "filter-learnability-length": "rules, noise filter, `learnability` within lengths",
    "filter-learnability-cluster": "rules, noise filter, `learnability` within clusters",
    "filter-learnability-cluster-length": (
        "rules, noise filter, `learnability` within clusters and lengths"
    ),
    "filter-learnability-mix": "rules, noise filter, half by `learnability`, half random",
    "filter-coverage": "rules, noise filter, `coverage`",
    "noise": "rules, `noise` (no proxy)",
    "noise-length": "rules, `noise` within lengths (no proxy)",
    "noise-cluster": "rules, `noise` within clusters",
    "learnability+noise-cluster": "rules, `learnability+noise` within clusters",
    "fitted_noise": "rules, `fitted_noise` (no proxy)",
    "share-random": "rules, estimated share of noise, random",
    "share-learnability": "rules, estimated share of noise, `learnability`",
    "share-learnability+noise-cluster": (
        "rules, estimated share of noise, `learnability+noise` within clusters"
    ),
    "share-coverage": "rules, estimated share of noise, `coverage`",
    "share-noise-mix": "rules, estimated share of noise, `noise`, a fifth at random",
    "cat_var": "`cat_var` alone (the paper's)",
    "random-quarter": "random quarter",
    "random-eighth": "random eighth",
}
_COLOURS = {"better": "#2a9d5c", "tie": "#8a8a8a", "worse": "#d1495b"}


def verdict(gain: tuple[float, float, float]) -> str:
    if gain[1] > 0:
        return "better"
    return "worse" if gain[2] < 0 else "tie"


def ordered(arms: dict[str, Any]) -> list[str]:
    return [name for name in NAMES if name in arms]


def table(result: dict[str, Any]) -> str:
    """Held-out loss of each arm on each test set, and what it gains in the mean."""
    arms = result["arms"]
    tests = list(next(iter(arms.values()))["tests"])
    lines = [
        f"| arm | pairs | seeds | {' | '.join(tests)} | mean | gain on a random half |",
        "|---" * (len(tests) + 5) + "|",
    ]
    for name in ordered(arms):
        arm = arms[name]
        cells = []
        for test in tests:
            found = arm["tests"][test]
            arrow = {"better": " ↑", "worse": " ↓"}.get(found["verdict"], "")
            cells.append(f"{found['nll']:.3f}{arrow if name != 'random' else ''}")
        mean = sum(arm["tests"][test]["nll"] for test in tests) / len(tests)
        value, low, high = mean_gain(arm, "random")
        gain = "" if name == "random" else f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(
            f"| {NAMES[name]} | {arm['pairs']:,.0f} | {arm['seeds']} | {' | '.join(cells)} "
            f"| {mean:.3f} | {gain} |"
        )
    return "\n".join(lines) + "\n"


def mean_loss(arm: dict[str, Any], updates: int) -> float:
    """The held-out loss of an arm after so many updates, nats a token, mean over its tests."""
    losses: list[float] = [test["nll_by_updates"][str(updates)] for test in arm["tests"].values()]
    return sum(losses) / len(losses)


def in_short(results: list[dict[str, Any]]) -> str:
    """Everything, a random half and pycat's half of each text, at each budget."""
    lines = [
        "| text | keep | passes | everything | random half | pycat's half | gain on everything "
        "| gain on a random half | tests where it is better, as good, worse than a random half |",
        "|---" * 9 + "|",
    ]
    for result in results:
        arms = {name: result["arms"][name] for name in ("full", "random", "selected")}
        *earlier, last = result["updates"]
        for updates in (*earlier, last):
            losses = [mean_loss(arm, updates) for arm in arms.values()]
            gains = [f"{loss - losses[2]:+.3f}" for loss in losses[:2]]
            verdicts = ""
            if updates == last:
                for place, on in enumerate(("full", "random")):
                    value, low, high = mean_gain(arms["selected"], on)
                    gains[place] = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
                found = [test["verdict"] for test in arms["selected"]["tests"].values()]
                verdicts = ", ".join(str(found.count(name)) for name in ("better", "tie", "worse"))
            passes = result["passes"] * updates / last
            cells = (f"{passes:g}", *(f"{loss:.3f}" for loss in losses), *gains, verdicts)
            lines.append(f"| {result['text']} | {result['keep']:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def chart(result: dict[str, Any]) -> Figure:
    """What each arm of a text gains on a random half, with intervals."""
    arms = {name: result["arms"][name] for name in ordered(result["arms"]) if name != "random"}
    figure = Figure(figsize=(8, 0.8 + 0.3 * len(arms)), layout="constrained")
    axes = figure.add_subplot()
    for y, (_, arm) in enumerate(arms.items()):
        gain = mean_gain(arm, "random")
        colour = _COLOURS[verdict(gain)]
        axes.plot(gain[1:], [y, y], color=colour, linewidth=2)
        axes.plot([gain[0]], [y], color=colour, marker="o", markersize=5)
    axes.axvline(0, color=_COLOURS["tie"], linewidth=1)
    names = [NAMES[name].replace("`", "").replace("**", "") for name in arms]
    axes.set_yticks(range(len(arms)), names)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(
        "nats a target token gained on a random half, mean over the tests; right: better"
    )
    return figure


def section(result: dict[str, Any], chart_path: str) -> str:
    """What the page says of a text."""
    return (
        f"### {result['text']}\n\n"
        f"{result['pairs']:,} pairs, keep {result['keep']:g}, {result['passes']:g} passes over a "
        f"half in {result['updates'][-1]:,} updates, preset `{result['preset']}`.\n\n"
        f"{table(result)}\n"
        f"![What each arm of {result['text']} gains on a random half]({chart_path})\n"
    )


def write_report(results: Path, page: Path, charts: Path) -> int:
    """Write the charts, and the study's part of the page; how many texts there are."""
    matplotlib.rcParams["svg.hashsalt"] = "study"
    found = [json.loads(path.read_text("utf-8")) for path in sorted(results.glob("*.json"))]
    charts.mkdir(parents=True, exist_ok=True)
    largest: dict[str, dict[str, Any]] = {}
    for result in found:
        earlier = largest.setdefault(result["text"], result)
        if len(result["arms"]) > len(earlier["arms"]):
            largest[result["text"]] = result
    sections = []
    for result in largest.values():
        path = charts / f"{result['text']}.svg"
        chart(result).savefig(path, format="svg", metadata={"Date": None})
        sections.append(section(result, path.relative_to(page.parent).as_posix()))
    text = page.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{page}: no lines {BEGIN.strip()} and {END.strip()} to write between")
    written = "\n".join((in_short(found), *sections))
    page.write_text(f"{before}{BEGIN}\n{written}\n{END}{after}", "utf-8")
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "study")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "evidence.md")
    parser.add_argument("--charts", type=Path, default=ROOT / "docs" / "study")
    options = parser.parse_args()
    print(f"{write_report(options.results, options.page, options.charts)} results")


if __name__ == "__main__":
    main()
