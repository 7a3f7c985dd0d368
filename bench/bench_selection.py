"""Time and memory of selecting from a score table on the disk, checked against a plain sort.

python bench/bench_selection.py [--rows N] [--keep X] [--folder F] [--selections NAME ...]
                                [--peers NAME ...] [--rounds N] [--quick]

The table is synthesised part by part: nll under five checkpoints. Each selection runs in a process
of its own (selection_runs.py); its peak memory is that beyond what imports take. A plain one holds,
a pair:

    scores 8, target tokens 4, strata 2, kept 1, comparisons 1: 16 bytes

then, without the scores, 8 for line numbers and 16 for each pair kept. Peers make the selection
"cat_var" from the same files, in turn with pycat; they must keep the same pairs. Two limits stand
beside it: reading the files from the page cache, and moving the columns it needs through memory,

    (8 K + 4) bytes a pair, written once and read once

at the rate of a copy by one core. Ratios are medians over rounds. The last line is JSON.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import processor_name, ratio
from numpy.typing import NDArray

import pycat
from pycat._core import IndexedWriter
from pycat.runtime.output import OutputFolder, write_json
from pycat.scores.parts import part_path, write_part

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

PEERS = ("duckdb", "polars", "numpy")


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
    facts |= {"languages": ["xx", "yy"], "vocab_size": 3, "eos_id": 2, "skipped": {}, "recipe": {}}
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


def run(name: str, scores: Path, out: Path, options: dict[str, Any]) -> dict[str, float]:
    """`seconds`, `core_seconds` and peak `mb` of one selection."""
    done = subprocess.run(
        [
            *(sys.executable, str(Path(__file__).with_name("selection_runs.py"))),
            *(name, str(scores), str(out), json.dumps(options)),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def read_seconds(scores: Path) -> float:
    """Read all parts once, as `cat` to /dev/null does."""
    start = time.perf_counter()
    buffer = bytearray(1 << 20)
    for part in sorted(scores.glob("part-*.parquet")):
        with part.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def copy_rate() -> float:
    """Bytes a second, read and written, of copying what no cache holds; the best of five."""
    source = np.ones(1 << 25)
    target = np.ones_like(source)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(seconds)


def check(selection: Path, scores: Path, keep: float) -> NDArray[np.int64]:
    """The plain selection by cat_var: number, order and ties; returns its pairs."""
    made = pycat.Selection.open(selection)
    table = pycat.ScoreTable.open(scores)
    kept = np.zeros(len(table), dtype=bool)
    kept[made.pair_ids] = True
    threshold = made.manifest["threshold"]
    lowest, best_dropped, tie_ended = np.inf, -np.inf, False
    for rows, chunk in table.chunks():
        variance = chunk.ppl.var(axis=1)
        lowest = min(lowest, variance[kept[rows]].min(initial=np.inf))
        best_dropped = max(best_dropped, variance[~kept[rows]].max(initial=-np.inf))
        for stays in kept[rows][variance == threshold].tolist():
            if stays and tie_ended:
                sys.exit("among equal scores a higher pair id was kept")
            tie_ended |= not stays
    if len(made) != round(keep * len(table)) or not best_dropped <= threshold == lowest:
        sys.exit(f"kept {len(made)} from {lowest}, dropped up to {best_dropped}: not the highest")
    return made.pair_ids


def check_peer(name: str, out: Path, expected: NDArray[np.int64]) -> int:
    """How many pairs a peer keeps in place of others: some, as its exp rounds otherwise."""
    found = pq.read_table(out)["pair"].to_numpy()
    num_other = len(np.setdiff1d(found, expected, assume_unique=True))
    if len(found) != len(expected) or num_other > 1e-6 * len(expected):
        sys.exit(f"{name}: keeps {len(found)} pairs, {num_other} other than pycat's")
    return num_other


def against_peers(
    folder: Path, keep: float, peers: Sequence[str], rounds: int
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Medians of what `run` returns, of pycat and its peers; and what they say."""
    scores = folder / "scores"
    num_pairs = json.loads((scores / "scores.json").read_text())["num_pairs"]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("pycat", *peers)}
    reading = []
    expected = None
    for turn in range(rounds):
        for name in found:
            out = folder / f"{name}-{turn}"
            found[name].append(run(name, scores, out, {"keep": keep}))
            if name == "pycat" and expected is None:
                expected = check(out, scores, keep)
            elif name != "pycat" and turn == 0:
                assert expected is not None
                other = check_peer(name, out, expected)
                print(f"{name} keeps {other} other pairs than pycat")
        reading.append(read_seconds(scores))
    seconds = {name: [each["seconds"] for each in runs] for name, runs in found.items()}
    medians = {
        name: {key: float(np.median([each[key] for each in runs])) for key in runs[0]}
        for name, runs in found.items()
    }
    rate = copy_rate()
    moving = 2 * (8 * NUM_CHECKPOINTS + 4) * num_pairs / rate
    facts: dict[str, Any] = {
        "rounds": rounds,
        "bytes_a_pair": round(medians["pycat"]["mb"] * 2**20 / num_pairs, 1),
        "file_bytes_a_pair": round(
            sum(part.stat().st_size for part in scores.glob("part-*.parquet")) / num_pairs, 1
        ),
        "over_reading": ratio(seconds["pycat"], reading, digits=2),
        "reading_seconds": round(float(np.median(reading)), 3),
        "over_moving": round(medians["pycat"]["seconds"] / moving, 2),
        "copy_gb_s": round(rate / 1e9, 1),
    }
    if peers:
        best = min(peers, key=lambda name: medians[name]["seconds"])
        facts |= {
            "peer_seconds": {name: round(medians[name]["seconds"], 3) for name in peers},
            "peer_mb": {name: round(medians[name]["mb"]) for name in peers},
            "best_peer": best,
            "over_best_peer": ratio(seconds[best], seconds["pycat"], digits=2),
        }
    return medians, facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="pairs to synthesise")
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--folder", type=Path, help="where to synthesise (70 bytes a pair)")
    parser.add_argument("--selections", nargs="+", choices=SELECTIONS, default=[*SELECTIONS])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[*PEERS])
    parser.add_argument("--rounds", type=int, default=3, help="of cat_var and its peers")
    parser.add_argument("--quick", action="store_true", help="300,000 rows, one round")
    options = parser.parse_args()
    num_pairs = 300_000 if options.quick else options.rows
    keep, rounds = options.keep, 1 if options.quick else options.rounds
    results: dict[str, dict[str, float]] = {}
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        start = time.perf_counter()
        synthesise(folder, num_pairs)
        print(f"{num_pairs:,} pairs, {NUM_CHECKPOINTS} checkpoints, synthesised in", end=" ")
        print(f"{time.perf_counter() - start:.1f} s; keep {keep}")
        for title in options.selections:
            if title == "cat_var":
                medians, facts = against_peers(folder, keep, options.peers, rounds)
                results[title] = medians.pop("pycat")
                results |= medians
            else:
                how = {"keep": keep, **SELECTIONS[title]}
                results[title] = run("pycat", folder / "scores", folder / title, how)
    print(f"{'':24}{'seconds':>9}{'of a core':>11}{'M pairs/s':>11}{'peak MB':>9}", end="")
    print(f"{'bytes a pair':>14}")
    for title, found in results.items():
        print(
            f"{title:24}{found['seconds']:9.2f}{found['core_seconds']:11.2f}"
            f"{num_pairs / found['seconds'] / 1e6:11.2f}"
            f"{found['mb']:9.0f}{found['mb'] * 2**20 / num_pairs:14.1f}"
        )
    result = {
        "bench": "selection",
        "machine": processor_name(),
        "num_cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "pyarrow", "duckdb", "polars")},
        "rows": num_pairs,
        "keep": keep,
        "seconds": {title: round(results[title]["seconds"], 3) for title in options.selections},
        "peak_mb": {title: round(results[title]["mb"]) for title in options.selections},
        **facts,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
