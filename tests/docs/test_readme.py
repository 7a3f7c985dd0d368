"""The README's commands and Python run as they stand, on a small corpus."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import toy_pairs, write_lines

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with the files that the README names; enough text for its default options."""
    write_lines(tmp_path, toy_pairs(2400), "train")
    write_lines(tmp_path, toy_pairs(3, seed=9), "test")
    return tmp_path


def test_python_example_runs(here: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", "\n".join(blocks("python"))], cwd=here, check=True, timeout=250
    )
    assert len((here / "pruned.en").read_bytes().splitlines()) == 1200
    assert len((here / "pruned.de").read_bytes().splitlines()) == 1200


@pytest.mark.slow
def test_commands_run_in_order(here: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    commands = [
        line for block in blocks("sh") for line in block.splitlines() if line.startswith("pycat ")
    ]
    assert [line.split()[1] for line in commands] == [
        *(
            "prune",
            "prune",
            "tokenize",
            "measure",
            "train",
            "score",
            "select",
            "explain",
            "report",
            "evaluate",
        )
    ]
    for line in commands:
        # The documented command, with training cut short.
        quick = {"train": " --updates 5", "evaluate": " --updates 2"}.get(line.split()[1], "")
        if line.startswith("pycat prune"):
            quick = " --train-updates 5"
            if "--evaluate" in line:
                quick += " --evaluate-updates 2"
        subprocess.run(line + quick, shell=True, cwd=here, env=environment, check=True, timeout=250)
    assert len((here / "half.en").read_bytes().splitlines()) == 1200
    assert (here / "work" / "report.html").stat().st_size > 10_000


def test_links_and_make_targets_exist() -> None:
    text = README.read_text("utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (README.parent / target).is_file(), target
    makefile = (README.parent / "Makefile").read_text("utf-8")
    for target in re.findall(r"make ([a-z]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
