"""`pycat classify` as a filter in a pipe."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from other_models import pieces, write_marian, write_yaml

import pycat
from pycat.cli import main as cli
from pycat.ranking.criteria import evaluate_criterion


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scored text of 20 lines, of which line 3 has no target and 7 repeats 6."""
    folder = tmp_path_factory.mktemp("classify")
    pairs = [(f"p{i + 2} p5", f"p{i + 3}") for i in range(20)]
    pairs[3], pairs[7] = ("p5", ""), pairs[6]
    for name, at in (("en", 0), ("de", 1)):
        (folder / f"text.{name}").write_text("".join(f"{pair[at]}\n" for pair in pairs))
    words = write_yaml(folder / "vocab.yml", pieces(40))
    text = (folder / "text.en", folder / "text.de")
    corpus = pycat.tokenize(*text, out=folder / "corpus", vocabs=[words])
    models = [write_marian(folder / f"model.iter{i}.npz", seed=i) for i in (1, 2)]
    pycat.score(corpus, models, out=folder / "scores", device="cpu")
    return folder


def lines_of(here: Path) -> list[tuple[str, str]]:
    sides = [(here / f"text.{name}").read_text().split("\n")[:-1] for name in ("en", "de")]
    return list(zip(*sides, strict=True))


def scores_of(here: Path) -> dict[int, float]:
    table = pycat.ScoreTable.open(here / "scores")
    lines = table.corpus().lines.tolist()
    return dict(zip(lines, evaluate_criterion(table, "learnability").tolist(), strict=True))


def test_a_pipe_gets_the_score_as_last_column(here: Path, tmp_path: Path) -> None:
    """Lines in another order, with columns around the text, and one that was not scored."""
    pairs, scores = lines_of(here), scores_of(here)
    order = [12, 0, 3, 7, 6]
    rows = [f"http://{i}\t{pairs[i][1]}\tmore\t{pairs[i][0]}" for i in order]
    rows.append("x\tof no\tcorpus\tat all")
    command = [sys.executable, "-P", "-m", "pycat", "classify", "--scores", str(here / "scores")]
    columns = ["--scol", "4", "--tcol", "2"]
    done = subprocess.run(
        [*command, *columns], input="\n".join(rows) + "\n", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("classify: kept 6 of 6 lines\n")
    found = done.stdout.splitlines()
    assert [line.rpartition("\t")[0] for line in found] == rows
    values = [float(line.rpartition("\t")[2]) for line in found]
    expected = [scores.get(i, np.nan) for i in order]
    np.testing.assert_allclose(values, [*expected, np.nan], rtol=1e-5)
    assert values[3] == values[4]


def test_kept_and_removed_lines_with_reasons(here: Path, tmp_path: Path) -> None:
    pairs, scores = lines_of(here), scores_of(here)
    threshold = float(np.median(list(scores.values())))
    text = tmp_path / "text.tsv"
    text.write_text("".join(f"{a}\t{b}\n" for a, b in [*pairs, ("un", "known")]))
    how = ["classify", "--scores", str(here / "scores"), "--threshold", repr(threshold)]
    prefix, removed = tmp_path / "corpus", tmp_path / "removed.tsv.gz"
    files = ["--prefix", str(prefix), "--removed", str(removed)]
    assert cli.main([*how, *files, str(text)]) == 0
    kept_file = tmp_path / "corpus.best-scores.zst"
    kept = pa.input_stream(str(kept_file), compression="zstd").read().decode().splitlines()
    expected = [i for i, score in scores.items() if score >= threshold]
    assert [tuple(line.split("\t")[:2]) for line in kept] == [pairs[i] for i in expected]
    gone = pa.input_stream(str(removed), compression="gzip").read().decode().splitlines()
    reasons = {tuple(line.split("\t")[:2]): line.split("\t")[3] for line in gone}
    assert reasons.pop(("un", "known")) == "not scored"
    assert reasons.pop(("p5", "")) == "empty target"
    assert set(reasons.values()) == {f"score below {threshold:g}"}
    assert len(kept) + len(gone) == 21
    assert cli.main([*how, *files, str(text)]) == 1  # the files exist


def test_rules_are_reasons(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = ["classify", "--scores", str(here / "scores"), "--rules", "default"]
    text = ["--threshold=-1", str(here / "text.tsv"), str(tmp_path / "out.tsv")]
    pairs = lines_of(here)
    (here / "text.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs))
    assert cli.main([*how, *text]) == 1
    assert "pycat measure" in capsys.readouterr().err
    pycat.measure(here / "corpus", out=here / "measures")
    removed = tmp_path / "removed.tsv"
    assert cli.main([*how, "--removed", str(removed), *text]) == 0
    reasons = [line.split("\t")[3] for line in removed.read_text().splitlines()]
    assert "empty target" in reasons
    assert any(reason.startswith("rule ") for reason in reasons)
    kept = (tmp_path / "out.tsv").read_text().splitlines()
    assert len(kept) + len(reasons) == 20


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [
        (["--scol", "1", "--tcol", "1"], "a\tb\n", "expected two different columns"),
        (["--tcol", "3"], "a\tb\n", "line 1 has 2 columns, expected at least 3"),
        (["--by", "nonsense"], "a\tb\n", "nonsense"),
        (["--scores", "nothing"], "a\tb\n", "nothing"),
    ],
)
def test_clear_errors(
    options: list[str],
    text: str,
    message: str,
    here: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.tsv").write_text(text)
    how = ["classify", "--scores", str(here / "scores"), *options]
    assert cli.main([*how, str(tmp_path / "text.tsv"), str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
