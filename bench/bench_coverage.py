"""Time and memory of choosing by coverage: the pairs that add rare n-grams, one after the other.

python bench/bench_coverage.py [--pairs N] [--tokens T] [--keep X] [--threads N] [--folder F]
                               [--quick]

Synthesised: T tokens a side on average, of 16,000 with frequencies as in text (Zipf), drawn one by
one. Text repeats its phrases, so that its n-grams are fewer. The choice is made once. Memory is the
peak beyond imports: cells of n-grams, 512 MB at most, 40 bytes a pair, and the mapped corpus, which
the page cache would hold anyway. The last line is JSON.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from harness import processor_name, resident_mb

import pycat
from pycat._core import IndexedWriter
from pycat.ranking.coverage import coverage

VOCAB_SIZE, EOS = 16_000, 2
CHUNK = 200_000  # pairs synthesised at a time


def synthesise(folder: Path, num_pairs: int, mean_length: int) -> pycat.Corpus:
    """Write a corpus of tokens whose frequency falls with their rank."""
    rng = np.random.default_rng(0)
    span = np.log(VOCAB_SIZE - EOS - 1)
    with ExitStack() as stack:
        writers = [
            stack.enter_context(IndexedWriter(folder / side, dtype="uint16"))
            for side in ("src", "tgt")
        ]
        for begin in range(0, num_pairs, CHUNK):
            count = min(CHUNK, num_pairs - begin)
            for writer in writers:
                lengths = rng.integers(mean_length // 2, mean_length * 3 // 2 + 1, count) + 1
                ranks = np.exp(span * rng.random(lengths.sum(), np.float32))
                tokens = EOS + ranks.astype(np.int32)
                tokens[np.cumsum(lengths) - 1] = EOS
                writer.append(tokens, lengths.astype(np.int32))
    return pycat.open_corpus(
        (folder / "src", folder / "tgt"), languages=("xx", "yy"), vocab_size=VOCAB_SIZE, eos_id=EOS
    )


def peak_private_mb(done: threading.Event, found: list[float]) -> None:
    """Keep the most anonymous memory in `found` until `done`."""
    while not done.wait(0.05):
        found[0] = max(found[0], resident_mb("RssAnon"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--tokens", type=int, default=20, help="of a side, on average")
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="where to synthesise (90 bytes a pair)")
    parser.add_argument("--quick", action="store_true", help="50,000 pairs")
    options = parser.parse_args()
    num_pairs = 50_000 if options.quick else options.pairs
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        corpus = synthesise(Path(name), num_pairs, options.tokens)
        before, peak, done = resident_mb("RssAnon"), [0.0], threading.Event()
        watcher = threading.Thread(target=peak_private_mb, args=(done, peak))
        watcher.start()
        start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        budget = round(options.keep * num_pairs)
        gains = coverage(corpus, np.ones(num_pairs, bool), budget, num_threads=options.threads)
        elapsed_s = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
        done.set()
        watcher.join()
        size_mb = sum(path.stat().st_size for path in Path(name).iterdir()) / 2**20
    if not np.isfinite(gains).all() or (gains < 0).any():
        sys.exit("a gain is negative, or not a number")
    cpu_s = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    private_mb = peak[0] - before
    print(f"{num_pairs:,} pairs of {options.tokens} tokens a side, keep {options.keep:g}")
    print(
        f"{elapsed_s:.1f} s on {options.threads} threads, {1e6 * cpu_s / num_pairs:.1f} us of "
        f"processor time a pair; {private_mb:.0f} MB beside the corpus of {size_mb:.0f} MB"
    )
    print(
        json.dumps(
            {
                "bench": "coverage",
                "processor": processor_name(),
                "pairs": num_pairs,
                "tokens": options.tokens,
                "keep": options.keep,
                "threads": options.threads,
                "elapsed_s": round(elapsed_s, 1),
                "cpu_us_per_pair": round(1e6 * cpu_s / num_pairs, 2),
                "private_mb": round(private_mb),
                "private_bytes_per_pair": round(private_mb * 2**20 / num_pairs, 1),
                "corpus_mb": round(size_mb),
                "pycat": pycat.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
