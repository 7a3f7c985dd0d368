"""A short form of `make chaos`: what is killed, or runs out of disk, ends in the same bytes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[2] / "bench" / "chaos.py"


@pytest.mark.slow
def test_verbs_survive_kills_full_disks_and_rivals(tmp_path: Path) -> None:
    options = ["--kills", "3", "--every", "7", "--sizes", "3", "--flips", "0", "--races", "3"]
    command = [sys.executable, str(CHAOS), *options, "--work", str(tmp_path)]
    command += ["--verbs", "tokenize", "score", "select"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["num_faults"] == 0
    counts = result["counts"]
    assert sum(counts["kill at call"].values()) >= 10
    assert counts["kill at call"]["same"] >= 3
    assert sum(counts["kill at moment"].values()) == 9
    assert counts["full disk"] == {"same": 9}
    assert sum(counts["race"].values()) == 3
    assert "| select | kill at moment | 3 | 3 |" in done.stdout
    # What is in the log is not tried again.
    log = tmp_path / "trials.jsonl"
    [*finished, _] = log.read_text().splitlines()
    log.write_text("\n".join([*finished, '{"verb": "half a li']))
    again = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert json.loads(again.stdout.splitlines()[-1])["num_trials"] == len(finished) + 1
    assert len(log.read_text().splitlines()) == len(finished) + 1
