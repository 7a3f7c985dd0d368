"""The HTML page of an evaluation, and its charts as SVG files."""

import re
from os import PathLike
from pathlib import Path
from typing import Any

from pycat.evaluation.results import Evaluation
from pycat.report.template import template
from pycat.runtime.output import replacing

PAGE_FILE = "evaluation.html"


def write_evaluation_page(evaluation: Evaluation | str | PathLike[str]) -> Path:
    """Write `evaluation.html` into the folder of an evaluation and, given matplotlib, its charts.

    `TEST.loss.svg` has the held-out loss of each arm at each budget, and `TEST.worth.svg` the
    effective data of each arm with its interval. The page holds both for every test set.

    Args:
        evaluation: a finished one, or its folder.

    Returns:
        Path of the page. Equal evaluations give equal bytes.

    Raises:
        OutputError: the folder holds no finished evaluation.
    """
    if not isinstance(evaluation, Evaluation):
        evaluation = Evaluation.open(evaluation)
    variables = evaluation_variables(evaluation)
    recipe = {
        name: value
        for name, value in evaluation.manifest["recipe"].items()
        if name not in ("arms", "tests")
    }
    html = template("evaluation.html.jinja").render(evaluation=variables, recipe=recipe)
    for test, pictures in variables["pictures"].items():
        for kind, svg in pictures.items():
            if svg:
                _write(evaluation.path / f"{test}.{kind}.svg", _alone(svg))
    page = evaluation.path / PAGE_FILE
    _write(page, html)
    return page


def evaluation_variables(evaluation: Evaluation) -> dict[str, Any]:
    """What the templates say of an evaluation; `pictures` is empty without matplotlib."""
    tests = list(next(iter(evaluation.arms.values()))["tests"])
    return {
        "tests": tests,
        "arms": evaluation.arms,
        "worth": {
            test: {name: evaluation.worth_text(name, test) for name in evaluation.arms}
            for test in tests
        },
        "rows": evaluation.rows,
        "warnings": evaluation.warnings,
        "updates": evaluation.manifest["recipe"]["updates"][-1],
        "ledger": evaluation.manifest["ledger"],
        "pictures": {test: _pictures(evaluation, test) for test in tests}
        if _has_matplotlib()
        else {},
    }


def _pictures(evaluation: Evaluation, test: str) -> dict[str, str]:
    """The charts of a test set as SVG text; "worth" is empty where no curve was fitted."""
    from pycat.report import evaluation_charts

    arms = evaluation.arms
    results = {name: arm["tests"][test] for name, arm in arms.items()}
    by_updates = {name: result["nll_by_updates"] for name, result in results.items()}
    updates = [int(budget) for budget in next(iter(by_updates.values()))]
    pictures = {
        "loss": evaluation_charts.loss_picture(
            test, updates, {name: list(losses.values()) for name, losses in by_updates.items()}
        ),
        "worth": "",
    }
    if "full" in arms and "random" in arms and "effective_data" in results["full"]:
        share = arms["random"]["target_tokens"] / arms["full"]["target_tokens"]
        words = {name: evaluation.worth_text(name, test) for name in arms}
        pictures["worth"] = evaluation_charts.worth_picture(test, results, words, share)
    return pictures


def _has_matplotlib() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def _alone(svg: str) -> str:
    """The SVG text as a file of its own: the page's light colours in place of its variables."""
    css = (Path(__file__).parent / "page.css").read_text("utf-8")
    colours = dict(re.findall(r"--(\w+): (#\w+);", css[: css.index("@media")]))
    return re.sub(r"var\(--(\w+)\)", lambda match: colours[match[1]], svg)


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")
