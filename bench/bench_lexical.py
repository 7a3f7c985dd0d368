"""Time and memory of lexical scores, checked by pairs whose targets were exchanged.

python bench/bench_lexical.py [--pairs N] [--tokens T] [--quick]

Synthesised: T tokens a side on average, of 16,000 with frequencies as in text (Zipf); two thirds of
a target's tokens are translations of source tokens, the others drawn alike. A tenth of the targets
are exchanged. Models are estimated on all pairs and score all pairs. With `pip install eflomal`,
its sentence scores are timed beside (IBM Model 1 by Gibbs sampling, both directions, through text
files); without, they are left out. The last line is JSON.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import processor_name, resident_mb, restart_peak
from numpy.typing import NDArray

import pycat
from pycat._core import IndexedWriter
from pycat.filters.lexical import lexical_scores

VOCAB_SIZE, EOS = 16_000, 2
REPEATS = 3


def synthesise(
    folder: Path, num_pairs: int, num_tokens: int
) -> tuple[pycat.Corpus, NDArray[np.bool_]]:
    """The corpus, and which of its pairs have another's target."""
    rng = np.random.default_rng(0)
    exchanged = rng.random(num_pairs) < 0.1
    weights = 1 / np.arange(3, VOCAB_SIZE)
    weights /= weights.sum()
    translation = np.concatenate((np.arange(3), 3 + rng.permutation(VOCAB_SIZE - 3)))
    lengths = rng.integers(num_tokens // 2, num_tokens + num_tokens // 2 + 1, num_pairs)
    ends = np.cumsum(lengths)
    src, other = (rng.choice(np.arange(3, VOCAB_SIZE), ends[-1], p=weights) for _ in range(2))
    tgt = np.where(rng.random(ends[-1]) < 2 / 3, translation[src], other)
    targets = np.split(tgt, ends[:-1])
    where = np.flatnonzero(exchanged)
    for row, target in zip(where, [targets[i] for i in np.roll(where, 1)], strict=True):
        targets[row] = target
    for side, rows in (("src", np.split(src, ends[:-1])), ("tgt", targets)):
        with IndexedWriter(folder / side, dtype="uint16") as writer:
            tokens = np.concatenate([np.append(row, EOS) for row in rows]).astype(np.int32)
            writer.append(tokens, np.array([len(row) + 1 for row in rows], np.int32))
    corpus = pycat.open_corpus(
        (folder / "src", folder / "tgt"), languages=("xx", "yy"), vocab_size=VOCAB_SIZE, eos_id=EOS
    )
    return corpus, exchanged


def auc(scores: NDArray[np.float32], exchanged: NDArray[np.bool_]) -> float:
    """How often a pair with its own target scores above one with another's: area under the ROC."""
    rank = np.empty(len(scores))
    rank[np.argsort(scores, kind="stable")] = np.arange(len(scores))
    num_good = int((~exchanged).sum())
    below = rank[~exchanged].sum() - num_good * (num_good - 1) / 2
    return float(below / num_good / exchanged.sum())


def cpu_seconds(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def time_eflomal(folder: Path, corpus: pycat.Corpus) -> tuple[float, NDArray[np.float32]] | None:
    """CPU seconds of both directions, and the lower of both scores; higher is better."""
    try:
        from eflomal import Aligner
    except ImportError:
        print("eflomal is not installed and left out")
        return None
    lines = [
        [" ".join(map(str, corpus[row][side][:-1])) for row in range(len(corpus))]
        for side in (0, 1)
    ]
    before = cpu_seconds(resource.RUSAGE_CHILDREN)
    outputs = [folder / "forward", folder / "reverse"]
    Aligner(model=1, score_model=1, n_samplers=1).align(
        *lines,
        scores_filename_fwd=str(outputs[0]),
        scores_filename_rev=str(outputs[1]),
        quiet=True,
    )
    seconds = cpu_seconds(resource.RUSAGE_CHILDREN) - before
    # eflomal gives a sentence the mean negative log probability of its links: lower is better.
    found = [np.loadtxt(path, dtype=np.float32) for path in outputs]
    return seconds, -np.maximum(*found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=500_000)
    parser.add_argument("--tokens", type=int, default=15, help="of a side, on average")
    parser.add_argument("--quick", action="store_true", help="20,000 pairs")
    options = parser.parse_args()
    num_pairs = 20_000 if options.quick else options.pairs
    num_cores = len(os.sched_getaffinity(0))
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        corpus, exchanged = synthesise(Path(name), num_pairs, options.tokens)
        print(
            f"{num_pairs:,} pairs of {options.tokens} tokens a side, {exchanged.sum():,} exchanged"
        )
        restart_peak()  # so far it was that of synthesising
        before, first = resident_mb("VmHWM"), None
        print(f"{'':20}{'CPU us a pair':>15}{'seconds':>9}{'AUC':>7}")
        for num_threads in dict.fromkeys((1, num_cores)):
            cpu, wall = [], []
            for _ in range(REPEATS):
                start, start_cpu = time.perf_counter(), cpu_seconds(resource.RUSAGE_SELF)
                scores = lexical_scores(corpus, max_sample=num_pairs, num_threads=num_threads)
                cpu.append(1e6 * (cpu_seconds(resource.RUSAGE_SELF) - start_cpu) / num_pairs)
                wall.append(time.perf_counter() - start)
            if first is None:
                first = scores
            if any((one != other).any() for one, other in zip(first, scores, strict=True)):
                sys.exit("the scores depend on the number of threads")
            lowest = np.minimum(scores.tgt, scores.src)
            results[f"pycat, {num_threads} threads"] = {
                "cpu_us": statistics.median(cpu),
                "seconds": statistics.median(wall),
                "auc": auc(lowest, exchanged),
            }
        memory = resident_mb("VmHWM") - before
        start = time.perf_counter()
        if (rival := time_eflomal(Path(name), corpus)) is not None:
            results["eflomal"] = {
                "cpu_us": 1e6 * rival[0] / num_pairs,
                "seconds": time.perf_counter() - start,
                "auc": auc(rival[1], exchanged),
            }
    for title, row in results.items():
        print(f"{title:20}{row['cpu_us']:15.2f}{row['seconds']:9.2f}{row['auc']:7.3f}")
    print(f"memory beside the corpus: {memory:.0f} MB, of them {16 * num_pairs / 1e6:.0f} results")
    if min(row["auc"] for title, row in results.items() if "pycat" in title) < 0.95:
        sys.exit("exchanged targets do not score low")
    result = {
        "bench": "lexical",
        "machine": processor_name(),
        "num_cores": num_cores,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pairs": num_pairs,
        "tokens": options.tokens,
        "results": results,
        "memory_mb": round(memory),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
