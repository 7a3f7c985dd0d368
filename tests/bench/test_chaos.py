"""A short form of `make chaos`: what is killed, or runs out of disk, ends in the same bytes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[2] / "bench" / "chaos.py"


@pytest.mark.slow
def test_verbs_survive_kills_full_disks_and_rivals() -> None:
    options = ["--kills", "3", "--every", "7", "--sizes", "3", "--flips", "0", "--races", "3"]
    command = [sys.executable, str(CHAOS), *options, "--verbs", "tokenize", "score", "select"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["num_faults"] == 0, done.stdout
    counts = result["counts"]
    assert counts["kill at call"]["same"] >= 6
    assert counts["kill at moment"] == {"same": 9}
    assert counts["full disk, said"] == {"refused": 9}
    assert counts["full disk, again"] == {"same": 9}
    assert sum(counts["race"].values()) == 3
