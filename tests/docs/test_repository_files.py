"""The files that tools and hosts read of the repository: hooks, CI, citation, changelog."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pycat import __version__

ROOT = Path(__file__).parents[2]


def parsed(name: str) -> Any:
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with transformers")
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def make_lint() -> list[str]:
    """The commands of `make lint`, as a shell gets them, after the target that it needs."""
    makefile = (ROOT / "Makefile").read_text("utf-8").replace("\\\n", "")
    rule = re.search(r"^lint: (\w+)\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert rule is not None
    recipe = rule[2].replace("$(BIN)", ".venv/bin").splitlines()
    return [f"make {rule[1]}", *(" ".join(line.split()) for line in recipe)]


def test_hooks_are_the_commands_of_make_lint() -> None:
    [local] = parsed(".pre-commit-config.yaml")["repos"]
    commands = []
    for hook in local["hooks"]:
        assert (hook["language"], hook["pass_filenames"]) == ("system", False)
        words = shlex.split(hook["entry"])
        commands.append(words[2] if words[:2] == ["sh", "-c"] else hook["entry"])
    assert commands == make_lint()


def test_hooks_run_in_a_shell_where_they_need_one() -> None:
    # pre-commit starts a program with its words; it expands no pattern and changes no folder.
    for hook in parsed(".pre-commit-config.yaml")["repos"][0]["hooks"]:
        if re.search(r"[*&=]", hook["entry"]):
            assert hook["entry"].startswith("sh -c '"), hook["id"]


def test_public_host_runs_what_must_pass_here() -> None:
    workflow = parsed(".github/workflows/ci.yml")
    [job] = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    versions = job["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13"]
    assert project["requires-python"] == f">={versions[0]}"


def test_citation_and_changelog_know_the_version() -> None:
    citation = parsed("CITATION.cff")
    assert citation["version"] == __version__
    assert citation["authors"] == [{"name": "The pycat authors"}]
    [paper] = citation["references"]
    assert paper["url"] == "https://arxiv.org/abs/2405.19462"
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert versions[:2] == ["Unreleased", __version__]
