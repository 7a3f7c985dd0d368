"""The study behind the default recipe runs from labelled text to its tables and last line."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import toy_pairs

STUDY = Path(__file__).parents[1] / "bench" / "noise_study.py"


@pytest.mark.slow
def test_the_study_runs_end_to_end(tmp_path: Path) -> None:
    pairs = toy_pairs(3000)
    rows = [
        (src, pairs[i - 1][1] if i % 5 == 0 else tgt, "clean" if i % 5 else "misaligned")
        for i, (src, tgt) in enumerate(pairs)
    ]
    labelled = tmp_path / "labelled.tsv.gz"
    text = "".join(f"{src}\t{tgt}\ttoy\t{label}\n" for src, tgt, label in rows)
    labelled.write_bytes(gzip.compress(text.encode()))
    command = [sys.executable, STUDY, "--tsv", labelled, "--work", tmp_path / "work"]
    options = ["--pairs", "1300", "--seeds", "0", "--steps", "1", "2"]
    done = subprocess.run(
        [*map(str, command), *options], capture_output=True, text=True, check=True, timeout=250
    )
    *tables, last = done.stdout.splitlines()
    assert sum(line.startswith("### ") for line in tables) == 2
    results = json.loads(last)["results"]
    for which in ("given", "other"):
        recipe, plain = (results[which][name] for name in ("rules, guard, cat_var", "cat_var"))
        assert recipe["noise"] < plain["noise"]
        assert 0 < plain["clean"] < 1
