"""The tables of the reference pages list what pycat has, and nothing else."""

import re
from pathlib import Path

from pages import ROOT
from pycat.kernels.stat_names import STAT_NAMES

from pycat.filters.rules import DEFAULT_RULES
from pycat.ranking.criteria import CRITERIA
from pycat.scoring.engine import STATS
from pycat.scoring.external_scorers import MODELS

DOCS = ROOT / "docs"


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the table whose header begins so."""
    table = page.read_text("utf-8").split(f"\n| {heading} |")[1].split("\n\n")[0]
    return [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]


def test_criteria() -> None:
    cells = rows(DOCS / "criteria.md", "criterion")
    assert sorted(re.findall(r"`(\w+)`", " ".join(row[0] for row in cells))) == sorted(CRITERIA)


def test_criteria_that_need_more_than_nll() -> None:
    text = (DOCS / "criteria.md").read_text("utf-8")
    [sentence] = re.findall(r"^(`[^.]*?) need more than nll", text, re.MULTILINE | re.DOTALL)
    assert STATS == ("nll", "all")
    needing = {name for name, rule in CRITERIA.items() if rule.statistic in {*STAT_NAMES} - {"nll"}}
    assert {*re.findall(r"`(\w+)`", sentence)} == needing


def test_rules_and_their_defaults() -> None:
    defaults = {
        name: float(row[-1])
        for row in rows(DOCS / "selection.md", "rule")
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert defaults == DEFAULT_RULES


def test_external_scorers() -> None:
    models = {row[0].strip("`"): row[1] for row in rows(DOCS / "external-scorers.md", "`--model`")}
    assert {*models} == {*MODELS}
    for model, column in models.items():
        assert column.startswith(f"`{model.replace('-', '_')}`: ")


def test_every_bench_has_its_section() -> None:
    page = (ROOT / "bench" / "README.md").read_text("utf-8")
    headings = set(re.findall(r"^## (\w+\.py): ", page, re.MULTILINE))
    assert headings >= {path.name for path in (ROOT / "bench").glob("bench_*.py")}
