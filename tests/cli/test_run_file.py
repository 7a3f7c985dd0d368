"""Run files: a study from text to evaluation, and what is wrong in one."""

from pathlib import Path

import pytest
from helpers import ToyText

import pycat
from pycat.cli.main import main
from pycat.cli.run_file import run_study
from pycat.errors import PycatError

STUDY = """
[text]
src = "text.en"
tgt = "text.de"

[tests]
toy = ["test.en", "test.de"]

[tokenize]
vocab-size = 320
languages = ["en", "de"]

[train]
preset = "mini"
checkpoint_steps = [2, 4]
batch_tokens = 512
dtype = "float32"
seed = 3

[score]
stats = "nll"

[select]
keep = 0.4
rules = "none"
guard = 0

[arms.longest]
by = "length"
keep = 0.4
rules = "none"
guard = 0

[evaluate]
arms = ["selected", "longest"]
seeds = 1
passes = 1
batch_tokens = 512
no_curve = true
num_workers = 1
"""


@pytest.fixture
def study(toy_text: ToyText, tmp_path: Path) -> Path:
    for name, count, seed in (("text", 200, 0), ("test", 12, 9)):
        src, tgt = toy_text(count, seed=seed, name=f"toy-{name}")
        src.rename(tmp_path / f"{name}.en")
        tgt.rename(tmp_path / f"{name}.de")
    file = tmp_path / "study.toml"
    file.write_text(STUDY, "utf-8")
    return file


def test_a_run_file_makes_a_study_once(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--run", str(study), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 0
    assert f"page: {tmp_path / 'out' / 'evaluation' / 'evaluation.html'}" in capsys.readouterr().out
    evaluation = pycat.Evaluation.open(tmp_path / "out" / "evaluation")
    assert list(evaluation.arms) == ["selected", "longest"]
    run = pycat.Run.open(tmp_path / "out" / "proxy")
    assert (run.steps, run.manifest["recipe"]["seed"]) == ((2, 4), 3)
    assert pycat.open_corpus(tmp_path / "out" / "corpus").languages == ("en", "de")
    assert not (tmp_path / "out" / "measures").exists()
    recipe = pycat.Selection.open(tmp_path / "out" / "selection").manifest["recipe"]
    assert (recipe["criterion"], recipe["strata"]) == ("learnability", "cluster")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[text]", "[txt]", "found 'txt'; expected tables of text, tests"),
        ("[text]", "[text", r"study\.toml: the run file cannot be read \(.*line 2"),
        ("[tests]\n", "[tests]\nmore = 3\n", r"\[tests\] more is 3; expected a source and a ref"),
        ('toy = ["test.en", "test.de"]', "", r"no \[tests\]; expected one test set or more"),
        ("vocab-size", "vocabulary", r"\[tokenize\] has no option 'vocabulary'; expected some of"),
        ("vocab-size = 320", 'vocab-size = "many"', r"\[tokenize\] vocab-size: invalid int value"),
        ("vocab-size = 320", "vocab-size = true", r"vocab-size is True; expected N"),
        ('preset = "mini"', 'preset = "huge"', r"\[train\] preset: invalid choice: 'huge'"),
        ("no_curve = true", "no_curve = 1", r"no_curve is 1; expected true or false"),
        ("[arms.longest]", '[arms."a/b"]', r"arms.a/b: expected a name that a folder can have"),
        ("[arms.longest]", "[arms.random]", r"\[arms.random\] has the name of an arm that evalua"),
        ("[arms.longest]", "[arms.random-eighth]", r"expected none of full, .*; rename the table"),
        ('"selected", "longest"', '"selected"', r"\[arms.longest\] is made for nothing; name it"),
        ("[select]", '[select]\nscores = "there"', r"\[select\] has no scores; leave it out"),
        ("keep = 0.4\nrules", "keep = []\nrules", r"\[select\] keep"),
        ('by = "length"', 'by = "size_of"', r"\[arms.longest\] .*size_of"),
        (
            '"selected", "longest"',
            '"selected", "longest", "halves"',
            r"\[evaluate\] arms has 'halves'",
        ),
        (
            "keep = 0.4\nrules",
            'keep = 0.4\nstrata = "town"\nrules',
            r"\[select\] strata by town are",
        ),
        ('"test.en", "test.de"', '"test.en", "gone.de"', r"gone\.de"),
        (
            "[select]",
            '[trusted]\nnoise = "test.en"\n[select]',
            r"\[trusted\] column noise: the table",
        ),
    ],
)
def test_what_is_wrong_in_a_run_file_is_named(
    study: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in STUDY
    study.write_text(STUDY.replace(old, new, 1), "utf-8")
    with pytest.raises(PycatError, match=message):
        run_study(study, tmp_path / "out", device="cpu", overwrite=False)
    assert not (tmp_path / "out").exists()


def test_a_run_file_has_trusted_text_and_arms_by_noise(study: Path, tmp_path: Path) -> None:
    text = STUDY.replace("[select]", '[trusted]\ngood = ["test.en", "test.de"]\n[select]')
    text = text.replace('by = "length"', 'by = "noise"').replace(
        "[select]\nkeep = 0.4", '[select]\nkeep = 0.4\nby = "learnability+good"'
    )
    study.write_text(text, "utf-8")
    run_study(study, tmp_path / "out", device="cpu", overwrite=False)
    selection = pycat.Selection.open(tmp_path / "out" / "selection")
    assert selection.manifest["recipe"]["criterion"] == "learnability+good"
    assert pycat.ScoreTable.open(tmp_path / "out" / "scores").names[-1] == "good"
    arm = pycat.Selection.open(tmp_path / "out" / "arms" / "longest")
    assert arm.manifest["recipe"]["criterion"] == "noise"
    assert (tmp_path / "out" / "measures").is_dir()


def test_a_run_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(PycatError, match=r"none\.toml: the run file cannot be read"):
        run_study(tmp_path / "none.toml", tmp_path / "out", device="cpu", overwrite=False)


def test_options_belong_into_the_run_file(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--run", str(study), "--out", str(tmp_path / "out")]
    assert main([*words, "--seeds", "3", "--no-curve"]) == 1
    message = capsys.readouterr().err
    assert "--run says what to make; put --seeds, --no-curve into" in message
    assert main(["evaluate", "--selection", "here", "--out", str(tmp_path / "out")]) == 1
    assert "expected held-out text; pass --test [NAME=]SRC,REF" in capsys.readouterr().err
