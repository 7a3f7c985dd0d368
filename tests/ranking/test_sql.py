"""Criteria in SQL: one scalar expression, which reaches nothing outside of the table."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import MakeScores

import pycat
from pycat.errors import PycatError
from pycat.ranking.criteria import evaluate_criterion
from pycat.report.page import write_report
from pycat.runtime.output import write_manifest


@pytest.fixture
def table(toy_corpus: pycat.Corpus, make_scores: MakeScores, tmp_path: Path) -> pycat.ScoreTable:
    nll = np.random.default_rng(0).uniform(1, 9, (len(toy_corpus), 2))
    return make_scores(toy_corpus, nll, tmp_path / "scores")


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("(SELECT max(nll_0) FROM scores)", "found SUBQUERY"),
        ("nll_0 IN (SELECT 1)", "found SUBQUERY"),
        ("(SELECT length(content) FROM read_text('/etc/passwd'))", "found SUBQUERY"),
        ("1) FROM read_text('/etc/passwd') --", "syntax error"),
        ("1 FROM read_text('/etc/passwd')", "expected one scalar expression"),
        ("nll_0; COPY scores TO '/tmp/x'", "Only SELECT statements"),
        ("nll_0; SELECT 1", "expected one scalar expression"),
        ("nll_0; INSTALL httpfs", "Only SELECT statements"),
        ("nll_0, nll_1", "expected one scalar expression"),
        ("nll_0 AS a", "expected one scalar expression"),
        ("nll_0 WHERE nll_0 > 1", "expected one scalar expression"),
        ("nll_0 ORDER BY 1", "expected one scalar expression"),
        ("DISTINCT nll_0", "expected one scalar expression"),
        ("nll_0 UNION SELECT 1", "expected one scalar expression"),
        ("*", "found STAR"),
        ("COLUMNS('nll.*')", "found STAR"),
        ("$1", "found PARAMETER"),
        ("random()", "random does not give the same value each time"),
        ("nll_0 + nextval('x')", "nextval does not give the same value each time"),
        ("length(current_setting('threads'))", "current_setting does not give the same"),
        ("getenv('HOME')", "getenv"),
        ("read_text('/etc/passwd')", "read_text"),
        ("", "expected one scalar expression"),
    ],
)
def test_what_is_no_scalar_expression_is_refused(
    table: pycat.ScoreTable, expression: str, found: str
) -> None:
    with pytest.raises(PycatError) as caught:
        evaluate_criterion(table, f"sql: {expression}")
    assert str(caught.value).startswith(f"criterion 'sql: {expression}'")
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("NLL_1 - scores.nll_0 -- the last from the first", lambda nll: nll[:, 1] - nll[:, 0]),
        (
            "CASE WHEN nll_0 BETWEEN 2 AND 3 THEN 1 ELSE 0 END",
            lambda nll: abs(nll[:, 0] - 2.5) < 0.5,
        ),
        ("greatest(nll_0, nll_1)::DOUBLE", lambda nll: nll.max(axis=1)),
        ("list_sum([x * 2 for x in [nll_0, nll_1]])", lambda nll: 2 * nll.sum(axis=1)),
        ("nll_0 - avg(nll_0) OVER ()", lambda nll: nll[:, 0] - nll[:, 0].mean()),
    ],
)
def test_scalar_expressions_are_evaluated(
    table: pycat.ScoreTable, expression: str, expected: Any
) -> None:
    found = evaluate_criterion(table, f"sql: {expression}")
    np.testing.assert_allclose(found, expected(table.nll), rtol=1e-12, atol=1e-12)


def test_report_and_explain_run_no_sql_of_a_file(
    table: pycat.ScoreTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by, drop = "sql: nll_0 - nll_1", "sql: nll_0"
    options: dict[str, Any] = {"by": by, "drop": {drop: 0.1}, "rules": None, "guard": 0}
    selection = pycat.select(table, out=tmp_path / "selection", **options)
    in_memory = pycat.select(table, **options)

    def refuse(*_: object) -> None:
        raise AssertionError("SQL is run")

    monkeypatch.setattr("pycat.ranking.sql.evaluate", refuse)
    opened = pycat.Selection.open(tmp_path / "selection")
    for found in (selection, in_memory, opened):
        write_report(tmp_path / "page.html", found, table, timings={})
        pycat.export_opustrainer(found, table, out=tmp_path / "export")
        steps = [explain.step for pair in (0, 1, 2) if (explain := decision(table, pair, found))]
        assert set(steps) <= {"cut", f"drop {drop}"}
    # A recipe that someone else wrote.
    file = tmp_path / "selection" / "selection.json"
    recipe = {**opened.manifest["recipe"], "criterion": "sql: 1); COPY (SELECT 1) TO 'x'; --"}
    del recipe["drop"]
    write_manifest(file, {**opened.manifest, "recipe": recipe})
    (tmp_path / "selection" / "sql-scores.parquet").unlink()
    forged = pycat.Selection.open(tmp_path / "selection")
    with pytest.raises(PycatError, match="is SQL that a file holds, which is not run"):
        write_report(tmp_path / "page.html", forged, table, timings={})
    assert "not known" in str(decision(table, 1, forged))


@pytest.mark.parametrize(
    "forged",
    [
        {"criterion": "sql: nll_0"},
        {"criterion": "-sql: nll_0"},
        {"criterion": "learnability+sql: nll_0"},
        {"criterion": "sql: nll_0+learnability"},
        {"criterion": "coverage+-sql: nll_0"},
        {"drop": [["sql: nll_0", 0.2]]},
        {"drop": [["length+sql: nll_0", 0.2]]},
        {"drop": [["sql: nll_0", 0.2]], "criterion": "coverage"},
    ],
    ids=str,
)
def test_nothing_runs_sql_that_was_written_into_a_manifest(
    table: pycat.ScoreTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forged: dict[str, Any],
) -> None:
    run: list[str] = []
    monkeypatch.setattr("pycat.ranking.sql.evaluate", lambda _, expression: run.append(expression))
    pycat.select(table, by="length", rules="none", guard=0, out=tmp_path / "selection")
    file = tmp_path / "selection" / "selection.json"
    manifest = pycat.Selection.open(tmp_path / "selection").manifest
    write_manifest(file, {**manifest, "recipe": {**manifest["recipe"], **forged}})
    found = pycat.Selection.open(tmp_path / "selection")
    with pytest.raises(PycatError, match=r"SQL that a file holds|a mean of ranks takes none"):
        pycat.export_opustrainer(found, table, out=tmp_path / "export")
    assert decision(table, 1, found).step == "not known"
    if forged.get("criterion", "length") == "length":
        write_report(tmp_path / "page.html", found, table, timings={})
    else:
        with pytest.raises(PycatError, match=r"SQL that a file holds|a mean of ranks takes none"):
            write_report(tmp_path / "page.html", found, table, timings={})
    assert not run


def test_a_mean_of_ranks_takes_no_expression(table: pycat.ScoreTable) -> None:
    for by in ("learnability+sql: nll_0", "length+-sql: nll_0 - 1"):
        with pytest.raises(PycatError) as caught:
            pycat.select(table, by=by, rules="none", guard=0)
        assert str(caught.value) == (
            f"criterion {by!r}: {by.split('+')[1]!r} is an expression, and a mean of ranks takes "
            "none; add its values to the table as a column (ScoreTable.add), and name that"
        )
    # An expression may have a sum in it.
    assert len(pycat.select(table, by="sql: nll_0 + nll_1", rules="none", guard=0)) == 150


def decision(table: pycat.ScoreTable, pair: int, selection: pycat.Selection) -> Any:
    return pycat.explain(table, pair, selection=selection).decision
