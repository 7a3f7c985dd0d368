"""What results show of themselves in a notebook."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pycat.errors import PycatError
from pycat.evaluation.results import Evaluation
from pycat.proxy.run import Run
from pycat.runtime.notebook import html_table, new_axes
from pycat.scores.score_table import ScoreTable
from pycat.selection.selection import Selection

matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib (pycat-nmt[plot])")


@pytest.fixture(autouse=True)
def no_window() -> Any:
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


def cells(text: str) -> list[list[str]]:
    return [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>.*?</tr>", text)[1:]]


def test_text_is_escaped() -> None:
    shown = html_table("<b>", ["a & b"], [["<script>", 1234567, 0.123456, None, True]])
    assert "<caption>&lt;b&gt;</caption><thead><tr><th>a &amp; b</th>" in shown
    assert cells(shown) == [["&lt;script&gt;", "1,234,567", "0.1235", "", "True"]]


def test_score_table() -> None:
    """Perplexities 1, e and e² of one token each: quartiles between them."""
    columns: dict[str, list[float]] = {
        "pair": [0, 1, 2],
        "num_src_tokens": [1, 1, 1],
        "num_tokens": [1, 2, 1],
    }
    columns |= {"nll_0": [0.0, 2.0, 2.0], "nll_1": [1.0, 2.0, 1.0]}
    table = ScoreTable.from_arrow(pa.table(columns), {"steps": [100, 2000], "recipe": {}})
    shown = table._repr_html_()
    assert "ScoreTable: 3 pairs under 2 checkpoints" in shown
    assert cells(shown) == [
        ["100", "1.649", "2.718", "4.482"],
        ["2,000", "2.718", "2.718", "2.718"],
    ]
    axes = table.plot()
    assert axes.lines[0].get_xdata().tolist() == [100, 2000]
    assert axes.lines[0].get_ydata() == pytest.approx([2.71828, 2.71828], rel=1e-5)


def test_selection() -> None:
    import numpy as np

    manifest = {
        "num_pairs": 10,
        "recipe": {"criterion": "sql: a < b"},
        "dropped": {"rules": 3, "cut": 5},
    }
    selection = Selection(np.array([1, 4]), np.array([1, 4]), manifest, Path("corpus"))
    shown = selection._repr_html_()
    assert "Selection: 2 of 10 pairs by sql: a &lt; b" in shown
    assert cells(shown) == [
        ["dropped by rules", "3", "30.0%"],
        ["dropped by cut", "5", "50.0%"],
        ["kept", "2", "20.0%"],
    ]
    assert [bar.get_width() for bar in selection.plot().patches] == [3, 5, 2]


def test_run() -> None:
    run = Run(Path("<proxy>"), (Path("a"), Path("b")), (10, 20), (3.5, 2.25), {})
    assert cells(run._repr_html_()) == [["10", "3.5", "a"], ["20", "2.25", "b"]]
    assert "&lt;proxy&gt;" in run._repr_html_()
    assert list(run.plot().lines[0].get_ydata()) == [3.5, 2.25]


def test_evaluation() -> None:
    arms = {
        "whole": {"pairs": 1000, "tests": {"dev": {"nll": 2.5}}},
        "<best>": {"pairs": 500, "tests": {"dev": {"nll": 2.25, "verdict": "better"}}},
    }
    evaluation = Evaluation(Path("eval"), arms, [], [], {})
    assert cells(evaluation._repr_html_()) == [
        ["whole", "1,000", "dev", "2.5", ""],
        ["&lt;best&gt;", "500", "dev", "2.25", "better"],
    ]
    axes = evaluation.plot()
    assert axes.collections[0].get_offsets().tolist() == [[2.5, 0], [2.25, 1]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["whole", "<best>"]


def test_a_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(PycatError, match=r"pip install 'pycat-nmt\[plot\]'"):
        new_axes("a", "b", "c")
