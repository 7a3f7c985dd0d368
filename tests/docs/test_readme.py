"""The commands and Python of README and of the pages it leads to run as they stand, in order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import toy_pairs, write_lines
from pages import README, ROOT, RUN_IN_ORDER, blocks, commands

from pycat.cli import main as cli

# What the documented commands are given beside, so that training is short.
QUICK = {
    "train": " --updates 5",
    "prune": " --train-updates 5",
    "evaluate": " --seeds 1 --passes 1",
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with the files that the pages name; enough text for the default options."""
    write_lines(tmp_path, toy_pairs(2400), "train")
    write_lines(tmp_path, toy_pairs(3, seed=9), "test")
    write_lines(tmp_path, toy_pairs(40, seed=8), "good")
    return tmp_path


def num_lines(path: Path) -> int:
    return len(path.read_bytes().splitlines())


def test_python_runs(here: Path) -> None:
    source = "\n".join(block for page in RUN_IN_ORDER for block in blocks(page, "python"))
    subprocess.run([sys.executable, "-c", source], cwd=here, check=True, timeout=250)
    assert num_lines(here / "pruned.en") == num_lines(here / "pruned.de") == 1200


@pytest.mark.slow
@pytest.mark.timeout(900)  # some twenty programs, one after the other
def test_commands_run(here: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in (line for page in RUN_IN_ORDER for line in commands(page)):
        quick = "" if "--fast" in line else QUICK.get(line.split()[1], "")
        if "--evaluate" in line:
            quick += " --evaluate-seeds 1 --evaluate-passes 1 --evaluate-no-curve"
        subprocess.run(line + quick, shell=True, cwd=here, env=environment, check=True, timeout=250)
    assert num_lines(here / "half.en") == num_lines(here / "again.de") == 1200
    assert (here / "work" / "report.html").stat().st_size > 10_000
    assert (here / "half.en").read_bytes() == (here / "again.en").read_bytes()


def test_readme_is_short_and_its_commands_are_the_main_job() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 90
    assert [line.split()[1] for line in commands(README)] == ["prune", "prune"]


def test_stages_shows_each_verb_in_its_order() -> None:
    shown = [line.split()[1] for line in commands(RUN_IN_ORDER[1])]
    assert shown == [
        *("tokenize", "measure", "train", "score", "select", "explain", "report", "evaluate"),
    ]


def test_readme_leads_from_each_verb_to_the_file_it_begins_in(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    verbs = re.findall(r"^    ([a-z][a-z-]+)(?: |$)", capsys.readouterr().out, re.MULTILINE)
    table = README.read_text("utf-8").split("| verb of `pycat`")[1].split("\n\n")[0]
    functions = {
        "apply": "write_text",
        "report": "write_report",
        "baseline": "add_baseline",
        "classify": "find",
        "trusted": "add_trusted",
        "average": "add_average",
        "cld": "add_cld",
        "clusters": "add_clusters",
        "megatron-index": "write_megatron_index",
    }
    found = []
    for row in table.splitlines()[2:]:
        names, files, _ = (re.findall(r"`(.*?)`", cell) for cell in row.strip("|").split("|", 2))
        source = "".join((ROOT / file).read_text("utf-8") for file in files)
        for name in names:
            assert f"def {functions.get(name, name)}(" in source, name
        found += names
    assert sorted(found) == sorted(verbs)
