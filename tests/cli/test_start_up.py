"""Verbs load what they use: torch only where tensors are, others only where they are called for."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest
from helpers import ToyText, plain_select

import pycat

RUN = """
import json, sys
from pycat.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(json.dumps([status, sorted(sys.modules)]))
"""


def imported(words: Sequence[object]) -> set[str]:
    """Modules that a process has imported after it ran `pycat` with these words."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, *map(str, words)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=120,
    )
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stdout
    return set(modules)


@pytest.mark.parametrize(
    "words",
    [("--version",), ("--help",), ("select", "--help"), ("prune", "--help"), ("train", "--help")],
)
def test_help_loads_nothing_that_computes(words: tuple[str, ...]) -> None:
    assert not imported(words) & {"torch", "numpy", "pyarrow", "rich", "sentencepiece", "jinja2"}


@pytest.fixture
def stages(toy_corpus: pycat.Corpus, toy_text: ToyText, tmp_path: Path) -> Path:
    """A folder of a corpus, a proxy, scores, and an evaluation."""
    shutil.copytree(toy_corpus.path, tmp_path / "corpus")
    corpus = pycat.open_corpus(tmp_path / "corpus")
    run = pycat.train(corpus, out=tmp_path / "proxy", checkpoint_steps=[1, 2], device="cpu")
    pycat.score(corpus, run.checkpoints, out=tmp_path / "scores", device="cpu")
    plain_select(tmp_path / "scores", out=tmp_path / "evaluated")
    test = tuple(map(str, toy_text(2, seed=9, name="test")))
    pycat.evaluate(
        tmp_path / "evaluated",
        tests={"toy": (test[0], test[1])},
        out=tmp_path / "evaluation",
        arms=["selected"],
        curve=False,
        seeds=1,
        passes=1.0,
        num_workers=1,
        batch_tokens=128,
        device="cpu",
    )
    return tmp_path


def test_measure_and_verbs_after_score_run_without_torch(stages: Path) -> None:
    scores, selection = ("--scores", stages / "scores"), ("--selection", stages / "selection")
    drop = ("--drop", "rarity:0.1")
    texts = (stages / "a.en", stages / "a.de"), (stages / "b.en", stages / "b.de")
    more = ("--proxy", stages / "proxy", "--evaluation", stages / "evaluation")
    for words in (
        ("measure", "--corpus", stages / "corpus", "--out", stages / "measures"),
        ("select", *scores, *drop, "--out", stages / "selection", "--text", *texts[0]),
        ("apply", *selection, "--text", *texts[1]),
        ("explain", *scores, *selection, "--pair", 3),
        ("report", *scores, *selection, *more, "--out", stages / "report.html"),
    ):
        used = imported(words)
        assert not used & {"torch", "transformers", "duckdb", "sacrebleu"}, words[0]
        if words[0] != "report":  # which draws charts
            assert "matplotlib" not in used


def test_tokenize_runs_without_torch(toy_text: ToyText, tmp_path: Path) -> None:
    src, tgt = toy_text(50)
    files = ("--src", src, "--tgt", tgt, "--out", tmp_path / "corpus", "--vocab-size", 340)
    assert "torch" not in imported(("tokenize", *files))


def test_openmp_is_told_to_wait_passively_before_torch_loads() -> None:
    code = "import os, sys, pycat; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["passive", "False"]


def test_every_public_name_is_found_where_types_say() -> None:
    """`__all__`, the imports for types and the modules that names are loaded from are one list."""
    source = Path(str(pycat.__file__)).read_text("utf-8")
    typed = {
        alias.name: node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pycat.")
        for alias in node.names
    }
    assert typed.keys() == set(pycat.__all__)
    assert set(pycat.__all__) <= set(dir(pycat))
    for name, module in typed.items():
        assert getattr(pycat, name) is getattr(sys.modules[str(module)], name)
    with pytest.raises(AttributeError, match="module 'pycat' has no attribute 'scor'"):
        pycat.scor  # type: ignore[attr-defined]  # noqa: B018


def test_version_is_that_of_the_package() -> None:
    assert pycat.__version__ == version("pycat-nmt")
