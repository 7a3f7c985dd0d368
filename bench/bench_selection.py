"""Time and memory of selecting from a score table on the disk, checked against a plain sort.

python bench/bench_selection.py [--rows N] [--keep X] [--folder F] [--quick]

The table is synthesised part by part: nll under five checkpoints. Each selection runs in a process
of its own; its peak memory is that beyond what importing pycat takes. A plain one holds, a pair:

    scores 8, target tokens 4, strata 2, kept 1, comparisons 1: 16 bytes

then, without the scores, 8 for line numbers and 16 for each pair kept. The last line is JSON.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import pycat
from pycat._core import IndexedWriter
from pycat.output import OutputFolder, write_json
from pycat.score_table import part_path, write_part

NUM_CHECKPOINTS = 5
PART_PAIRS = 65_536

SELECTIONS: dict[str, dict[str, Any]] = {
    "cat_var": {},
    "cat_var of tokens": {"unit": "tokens"},
    "middle of cat_var_log": {"by": "cat_var_log", "part": "middle"},
    "drop ppl, then cat_var": {"drop": {"ppl": 0.2}},
    "strata by length": {"strata": "length"},
    "strata by a column": {"strata": "num_src_tokens"},
    "strata by score": {"strata": "score", "by": "cat_var_log", "drop": {"ppl": 0.1}},
    "each pair a group": {"cap": ("pair", 1)},
    "cat_var_clipped": {"by": "cat_var_clipped"},
    "random": {"by": "random"},
}

# Not ru_maxrss, which starts at that of the process that started this one.
SCRIPT = """
import json, sys, time, pycat
def peak():
    rows = dict(row.split(":") for row in open("/proc/self/status"))
    return int(rows["VmHWM"].split()[0]) / 1024
options = json.loads(sys.argv[3])
if "cap" in options:
    options["cap"] = tuple(options["cap"])
before, start = peak(), time.perf_counter()
pycat.select(sys.argv[1], out=sys.argv[2], **options)
print(json.dumps({"seconds": time.perf_counter() - start, "mb": peak() - before}))
"""


def synthesise(folder: Path, num_pairs: int) -> None:
    """A corpus of one token a side, which selecting does not read, and scores of it."""
    corpus, scores = folder / "corpus", folder / "scores"
    corpus.mkdir()
    for side in ("src", "tgt"):
        with IndexedWriter(corpus / side, dtype="uint16") as writer:
            for first in range(0, num_pairs, 1_000_000):
                ones = np.ones(min(1_000_000, num_pairs - first), np.int32)
                writer.append(2 * ones, ones)
    (corpus / "skipped.tsv").write_text("line\treason\n")
    facts = {"id": "synthetic", "num_lines": num_pairs, "num_pairs": num_pairs, "text": []}
    facts |= {"languages": ["xx", "yy"], "vocab_size": 3, "eos_id": 2}
    kind = {"format": "pycat.corpus", "version": 1, "complete": True}
    write_json(corpus / "corpus.json", {**kind, **facts, "tokenizer_sha256": ""})
    out = OutputFolder(scores, "scores", {"corpus": "synthetic"}, ("*.parquet",), False)
    num_parts = -(-num_pairs // PART_PAIRS)
    for part in range(num_parts):
        first = part * PART_PAIRS
        write_part(
            synthetic_part(first, min(PART_PAIRS, num_pairs - first)), part_path(scores, part)
        )
    out.finish(
        corpus="synthetic",
        corpus_path="../corpus",
        num_pairs=num_pairs,
        num_parts=num_parts,
        steps=[100 * (k + 1) for k in range(NUM_CHECKPOINTS)],
    )


def synthetic_part(first: int, count: int) -> pa.Table:
    """Log-normal lengths; nll that falls, by more where it began high."""
    rng = np.random.Generator(np.random.SFC64([7, first]))
    lengths = np.exp(3.0 + 0.7 * rng.standard_normal((2, count))).clip(1, 250).astype(np.int32)
    nll = 9 + 0.8 * rng.standard_normal(count)
    columns = {
        "pair": np.arange(first, first + count),
        "num_src_tokens": lengths[0],
        "num_tokens": lengths[1],
    }
    for k in range(NUM_CHECKPOINTS):
        columns[f"nll_{k}"] = nll * lengths[1]
        nll = nll * 0.85 + 0.1 * rng.standard_normal(count)
    return pa.table(columns)


def check(folder: Path, num_pairs: int, keep: float) -> None:
    """The plain selection by cat_var: number, order and ties."""
    made = pycat.Selection.open(folder / "cat_var")
    kept = np.zeros(num_pairs, dtype=bool)
    kept[made.pair_ids] = True
    threshold = made.manifest["threshold"]
    lowest, best_dropped, tie_ended = np.inf, -np.inf, False
    for rows, chunk in pycat.ScoreTable.open(folder / "scores").chunks():
        scores = chunk.ppl.var(axis=1)
        lowest = min(lowest, scores[kept[rows]].min(initial=np.inf))
        best_dropped = max(best_dropped, scores[~kept[rows]].max(initial=-np.inf))
        for stays in kept[rows][scores == threshold].tolist():
            if stays and tie_ended:
                sys.exit("among equal scores a higher pair id was kept")
            tie_ended |= not stays
    if len(made) != round(keep * num_pairs) or not best_dropped <= threshold == lowest:
        sys.exit(f"kept {len(made)} from {lowest}, dropped up to {best_dropped}: not the highest")


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="pairs to synthesise")
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--folder", type=Path, help="where to synthesise (45 bytes a pair)")
    parser.add_argument("--quick", action="store_true", help="300,000 rows")
    options = parser.parse_args()
    num_pairs = 300_000 if options.quick else options.rows
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        start = time.perf_counter()
        synthesise(folder, num_pairs)
        print(f"{num_pairs:,} pairs, {NUM_CHECKPOINTS} checkpoints, synthesised in", end=" ")
        print(f"{time.perf_counter() - start:.1f} s; keep {options.keep}")
        print(f"{'':24}{'seconds':>9}{'M pairs/s':>11}{'peak MB':>9}{'bytes a pair':>14}")
        for title, how in SELECTIONS.items():
            done = subprocess.run(
                [
                    *(sys.executable, "-P", "-c", SCRIPT, str(folder / "scores")),
                    str(folder / title),
                    json.dumps({"keep": options.keep, **how}),
                ],
                check=True,
                capture_output=True,
                text=True,
            )
            found = results[title] = json.loads(done.stdout)
            print(
                f"{title:24}{found['seconds']:9.2f}{num_pairs / found['seconds'] / 1e6:11.2f}"
                f"{found['mb']:9.0f}{found['mb'] * 2**20 / num_pairs:14.1f}"
            )
            if title == "cat_var":
                check(folder, num_pairs, options.keep)
    result = {
        "bench": "selection",
        "machine": cpu_model(),
        "num_cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "rows": num_pairs,
        "keep": options.keep,
        "seconds": {title: round(found["seconds"], 3) for title, found in results.items()},
        "peak_mb": {title: round(found["mb"]) for title, found in results.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
