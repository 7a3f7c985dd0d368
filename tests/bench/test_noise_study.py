"""The study behind the default recipe runs from labelled text to its tables and last line."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import toy_pairs
from invented_sentences import sentences
from noise_kinds import Pair
from noise_study import labelled, main

STUDY = Path(__file__).parents[2] / "bench" / "noise_study.py"


def run_study(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(STUDY), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250)


@pytest.mark.slow
def test_the_study_runs_end_to_end(tmp_path: Path) -> None:
    pairs = toy_pairs(3000)
    rows = [
        (src, pairs[i - 1][1] if i % 5 == 0 else tgt, "clean" if i % 5 else "misaligned")
        for i, (src, tgt) in enumerate(pairs)
    ]
    tsv = tmp_path / "labelled.tsv.gz"
    text = "".join(f"{src}\t{tgt}\ttoy\t{label}\n" for src, tgt, label in rows)
    tsv.write_bytes(gzip.compress(text.encode()))
    done = run_study(
        *("--tsv", tsv, "--work", tmp_path / "work"),
        *("--pairs", "1300", "--seeds", "0", "--steps", "1", "2"),
    )
    assert done.returncode == 0, done.stderr
    *tables, last = done.stdout.splitlines()
    assert sum(line.startswith("### ") for line in tables) == 2
    results = json.loads(last)["results"]
    for which in ("given", "other"):
        recipe, plain = (results[which][name] for name in ("rules, guard, cat_var", "cat_var"))
        assert recipe["noise"] < plain["noise"]
        assert 0 < plain["clean"] < 1
        default = next(found for name, found in results[which].items() if "the default" in name)
        assert default["noise"] < plain["noise"]
    # Without a seed there is no proxy, and the rules drop the same.
    done = run_study("--tsv", tsv, "--work", tmp_path / "work", "--pairs", "1300", "--seeds")
    *tables, last = done.stdout.splitlines()
    assert any(line.startswith("| any rule |") for line in tables)
    rules = {which: {"any rule": found["any rule"]} for which, found in results.items()}
    assert json.loads(last)["results"] == rules


@pytest.mark.slow
def test_held_out_noise_in_a_text_without_labels(tmp_path: Path) -> None:
    text, third = tmp_path / "text.tsv.gz", tmp_path / "third.tsv"
    rows = [f"{src}\t{tgt}\ttoy\n" for src, tgt, _ in sentences(2400)]
    text.write_bytes(gzip.compress("".join([*rows, "left\tout\tother\n"]).encode()))
    third.write_text("birds\toiseaux dans le ciel\ttoy\n", "utf-8")
    done = run_study(
        *("--tsv", text, "--work", tmp_path / "work", "--kinds", "held-out"),
        *("--languages", "en,xx", "--without-domains", "other", "--third-language", third),
        *("--pairs", "1300", "--seeds", "0", "--steps", "1", "2", "--no-source-gain"),
    )
    assert done.returncode == 0, done.stderr
    *tables, last = done.stdout.splitlines()
    assert "### held-out: 1,300 pairs, 29.5% noise" in tables
    assert "text.tsv.gz has no labels: noise of its own counts as clean here." in tables
    counts = next(line for line in tables if line.startswith("Pairs (en-xx) of each kind: "))
    assert "foreign-source 24, gloss 24" in counts
    assert "source gain" not in done.stdout
    facts = json.loads(last)
    assert facts["languages"] == ["en", "xx"]
    assert 0 < facts["results"]["held-out"]["cat_var"]["noise"] < 1


def test_text_with_and_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "text.tsv"
    path.write_text("a\tb\tnews\nc\td\tbible\ne\tf\tnews\tmisaligned\n", "utf-8")
    first, last = Pair("a", "b", "clean"), Pair("e", "f", "misaligned")
    assert labelled(path) == [first, Pair("c", "d", "clean"), last]
    assert labelled(path, ["bible"]) == [first, last]
    with pytest.raises(
        ValueError, match=r"text.tsv: no pair is of the domain new; found bible, news"
    ):
        labelled(path, ["new", "bible"])
    path.write_text("a\tb\tnews\na\tb\n", "utf-8")
    with pytest.raises(ValueError, match=r"text.tsv, line 2: 2 columns; expected source, target,"):
        labelled(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no pair is labelled as noise; use --kinds other held-out"),
        (["--without-domains", "bible"], "no pair is of the domain bible; found news"),
    ],
)
def test_text_that_the_study_cannot_use_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    path = tmp_path / "text.tsv"
    path.write_text("a\tb\tnews\n", "utf-8")
    command = ["noise_study.py", "--tsv", str(path), "--work", str(tmp_path), *options]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err
