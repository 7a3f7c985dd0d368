"""Tables and charts of the study, made from its results."""

import json
from pathlib import Path
from typing import Any

import pytest
from study_report import BEGIN, END, in_short, table, verdict, write_report

from pycat.evaluation.comparing import mean_gain


def arm(pairs: int, **tests: tuple[float, list[float], str]) -> dict[str, Any]:
    return {
        "pairs": pairs,
        "seeds": 1,
        "tests": {
            name: {
                "nll": nll,
                "nll_by_updates": {"10": nll + 2, "20": nll + 1, "40": nll},
                "gain_on_full": [value - 0.1 for value in gain],
                "gain_on_random": gain,
                "verdict": of_test,
            }
            for name, (nll, gain, of_test) in tests.items()
        },
    }


RESULT: dict[str, Any] = {
    "text": "en-xx",
    "pairs": 1000,
    "keep": 0.5,
    "passes": 8.0,
    "updates": [10, 20, 40],
    "preset": "mini",
    "seeds": 1,
    "arms": {
        "cat_var": arm(300, a=(4.5, [-0.5, -0.7, -0.3], "worse"), b=(2, [0, -0.1, 0.1], "tie")),
        "random": arm(500, a=(4, [0, 0, 0], "tie"), b=(2, [0, 0, 0], "tie")),
        "full": arm(1000, a=(3.8, [0.2, 0.1, 0.3], "better"), b=(1, [1, 0.8, 1.2], "better")),
        "selected": arm(450, a=(3.9, [0.1, 0.1, 0.1], "better"), b=(1.8, [0.2, 0, 0.4], "tie")),
    },
}


def test_the_mean_gain_has_the_error_of_independent_tests() -> None:
    value, low, high = mean_gain(RESULT["arms"]["full"], "random")
    half = (0.1**2 + 0.2**2) ** 0.5 / 2
    assert (value, low, high) == pytest.approx((0.6, 0.6 - half, 0.6 + half))
    # Models of several seeds err alike on all tests: 0.1 and 0.2 in the mean.
    assert mean_gain({**RESULT["arms"]["full"], "seeds": 2}, "random") == pytest.approx(
        (0.6, 0.45, 0.75)
    )
    assert verdict((0.1, -0.1, 0.3)) == "tie"
    assert verdict((-0.1, -0.2, -0.01)) == "worse"
    assert verdict((0.1, 0.01, 0.3)) == "better"


def test_the_table_has_the_arms_in_order() -> None:
    lines = table(RESULT).splitlines()
    assert lines[0] == "| arm | pairs | seeds | a | b | mean | gain on a random half |"
    assert lines[2].startswith("| everything | 1,000 | 1 | 3.800 ↑ | 1.000 ↑ | 2.400 | +0.600 [")
    assert lines[3] == "| random half | 500 | 1 | 4.000 | 2.000 | 3.000 |  |"
    assert lines[4].startswith("| **`pycat prune`: rules, noise filter")
    assert "| 4.500 ↓ | 2.000 | 3.250 | -0.250 [" in lines[5]
    assert len({line.count("|") for line in lines}) == 1


def test_a_row_for_each_budget_says_what_the_default_gains() -> None:
    rows = [line.split(" | ") for line in in_short([RESULT]).splitlines()[2:]]
    assert [row[1:3] for row in rows] == [["0.5", "2"], ["0.5", "4"], ["0.5", "8"]]
    assert rows[0][3:8] == ["4.400", "5.000", "4.850", "-0.450", "+0.150"]
    # Means over two tests, the second of which has an error of 0.2.
    assert rows[2][3:6] == ["2.400", "3.000", "2.850"]
    assert rows[2][6:] == ["+0.050 [-0.050, +0.150]", "+0.150 [+0.050, +0.250]", "1, 1, 0 |"]


def test_the_page_is_written_between_its_marks_and_again(tmp_path: Path) -> None:
    page, results = tmp_path / "docs" / "page.md", tmp_path / "results"
    page.parent.mkdir()
    results.mkdir()
    page.write_text(f"before\n{BEGIN}old\n{END}after\n", "utf-8")
    (results / "en-xx.json").write_text(json.dumps(RESULT), "utf-8")
    few = {name: RESULT["arms"][name] for name in ("full", "random", "selected")}
    third = {**RESULT, "keep": 0.3, "arms": few}
    (results / "en-xx-keep-0.3.json").write_text(json.dumps(third), "utf-8")
    assert write_report(results, page, tmp_path / "docs" / "study") == 2
    text = page.read_text("utf-8")
    assert text.startswith(f"before\n{BEGIN}") and text.endswith(f"{END}after\n")
    # One section, of the result with all arms.
    assert "| en-xx | 0.3 | 8 |" in text and text.count("### en-xx") == text.count("keep 0.5,") == 1
    assert "old" not in text and "](study/en-xx.svg)" in text
    drawn = (tmp_path / "docs" / "study" / "en-xx.svg").read_bytes()
    write_report(results, page, tmp_path / "docs" / "study")
    assert page.read_text("utf-8") == text
    assert (tmp_path / "docs" / "study" / "en-xx.svg").read_bytes() == drawn


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing\n", "utf-8")
    with pytest.raises(SystemExit, match="no lines <!-- study --> and <!-- /study -->"):
        write_report(tmp_path, tmp_path / "page.md", tmp_path)
    assert (tmp_path / "page.md").read_text("utf-8") == "nothing\n"
