"""Time packing random batches of a corpus against numpy and against a bare copy.

python bench/bench_corpus.py [--pairs N] [--quick]
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pycat._core import IndexedFile, IndexedWriter

VOCAB_SIZE = 8000
BATCH_TOKENS = 4096
MEAN_LENGTH = 25

Packed = tuple[NDArray[np.int32], NDArray[np.int32]]


def synthesise(prefix: str, num_sequences: int) -> float:
    """Write log-normal lengths, as text has them; returns the seconds spent writing."""
    rng = np.random.default_rng(1)
    sigma = 0.7
    mu = np.log(MEAN_LENGTH) - sigma**2 / 2  # the mean of exp(normal) is exp(mu + sigma²/2)
    elapsed_s = 0.0
    with IndexedWriter(prefix, dtype="uint16") as writer:
        for begin in range(0, num_sequences, 100_000):
            num_lines = min(100_000, num_sequences - begin)
            lengths = np.clip(rng.lognormal(mu, sigma, num_lines), 1, 250).astype(np.int32)
            tokens = rng.integers(4, VOCAB_SIZE, lengths.sum(), dtype=np.int32)
            start = time.perf_counter()
            writer.append(tokens, lengths)
            elapsed_s += time.perf_counter() - start
        start = time.perf_counter()
        writer.close()
    return elapsed_s + time.perf_counter() - start


def length_sorted_batches(lengths: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """Batches of neighbours in length, about BATCH_TOKENS each, in random order."""
    rng = np.random.default_rng(2)
    order = rng.permutation(lengths.size)
    order = order[np.argsort(lengths[order], kind="stable")]
    batch_of = np.cumsum(lengths[order], dtype=np.int64) // BATCH_TOKENS
    batches = np.split(order, np.flatnonzero(np.diff(batch_of)) + 1)
    rng.shuffle(batches)
    return batches


class NumpyReader:
    """The same packing without the extension, given what IndexedFile reads from the index."""

    def __init__(self, prefix: str, lengths: NDArray[np.int32]) -> None:
        self.lengths = lengths
        self.begins = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)])
        self.tokens = np.memmap(f"{prefix}.bin", np.uint16, "r")

    def vectorised(self, ids: NDArray[np.int64]) -> Packed:
        """Pack by index arithmetic, without a loop."""
        lengths = self.lengths[ids]
        cu_seqlens = np.zeros(ids.size + 1, np.int32)
        np.cumsum(lengths, out=cu_seqlens[1:])
        shift = np.repeat(self.begins[ids] - cu_seqlens[:-1], lengths)
        return self.tokens[shift + np.arange(cu_seqlens[-1])].astype(np.int32), cu_seqlens

    def looped(self, ids: NDArray[np.int64]) -> Packed:
        """Pack one sequence at a time."""
        cu_seqlens = np.zeros(ids.size + 1, np.int32)
        np.cumsum(self.lengths[ids], out=cu_seqlens[1:])
        parts = [
            np.frombuffer(self.tokens, np.uint16, self.lengths[i], 2 * self.begins[i]) for i in ids
        ]
        return np.concatenate(parts, dtype=np.int32), cu_seqlens


def check_equal(expected: Packed, found: Packed, who: str) -> None:
    for a, b in zip(expected, found, strict=True):
        if a.dtype != b.dtype or not np.array_equal(a, b):
            sys.exit(f"{who} packs other tokens than IndexedFile.gather")


def time_interleaved(
    variants: dict[str, Callable[[int], object]], num_rounds: int, num_batches: int
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each variant in each round, the order changing from round to round."""
    elapsed_s = {name: np.zeros(num_rounds) for name in variants}
    names = list(variants)
    batch = 0
    for round_ in range(-1, num_rounds):  # round -1 warms up
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            # Always new batches: one that another variant has read would lie in the cache.
            for k in range(batch, batch + num_batches):
                variants[name](k)
            if round_ >= 0:
                elapsed_s[name][round_] = time.perf_counter() - start
            batch += num_batches
    return elapsed_s


def median_open_ms(prefix: str) -> float:
    elapsed_s = []
    for _ in range(7):
        start = time.perf_counter()
        IndexedFile(prefix)
        elapsed_s.append(time.perf_counter() - start)
    return float(np.median(elapsed_s)) * 1e3


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=4_000_000, help="sequences to synthesise")
    parser.add_argument("--quick", action="store_true", help="100,000 sequences, few rounds")
    options = parser.parse_args()
    num_sequences = 100_000 if options.quick else options.pairs
    num_rounds, round_batches = (5, 20) if options.quick else (25, 100)

    with tempfile.TemporaryDirectory() as folder:
        prefix = f"{folder}/corpus"
        write_s = float(np.median([synthesise(prefix, num_sequences) for _ in range(3)]))
        open_ms = median_open_ms(prefix)
        file = IndexedFile(prefix, vocab_size=VOCAB_SIZE)
        rival = NumpyReader(prefix, file.lengths())
        batches = length_sorted_batches(rival.lengths)
        for ids in batches[:50]:
            expected = file.gather(ids)
            check_equal(expected, rival.vectorised(ids), "vectorised numpy")
            check_equal(expected, rival.looped(ids), "the numpy loop")

        # The bound: as many bytes as a batch's packed output, from one cached buffer to another.
        source, target = np.ones((2, BATCH_TOKENS), np.int32)
        num_batches = len(batches)
        elapsed_s = time_interleaved(
            {
                "gather": lambda k: file.gather(batches[k % num_batches]),
                "numpy": lambda k: rival.vectorised(batches[k % num_batches]),
                "loop": lambda k: rival.looped(batches[k % num_batches]),
                "memcpy": lambda k: np.copyto(target, source),
            },
            num_rounds,
            round_batches,
        )
        # Every batch holds the same tokens to within one sentence.
        tokens = file.num_tokens / num_batches
        report(file, tokens, elapsed_s, round_batches, open_ms, len(file) / write_s)


def report(
    file: IndexedFile,
    batch_tokens: float,
    elapsed_s: dict[str, NDArray[np.float64]],
    round_batches: int,
    open_ms: float,
    write_per_s: float,
) -> None:
    print(
        f"corpus: {len(file):,} sequences, {file.num_tokens:,} tokens, {file.dtype}, "
        f"{file.num_tokens * 2 / 1e6:.0f} MB; batches of {batch_tokens:.0f} tokens to int32"
    )
    print(f"{'':8}{'ms/batch':>10}{'p10':>9}{'p90':>9}{'Mtok/s':>9}{'GB/s':>8}{'vs gather':>11}")
    batch_ms = {name: rounds / round_batches * 1e3 for name, rounds in elapsed_s.items()}
    median_ms = {name: float(np.median(ms)) for name, ms in batch_ms.items()}
    for name, ms in batch_ms.items():
        # Bytes moved: each token is read as 2 (memcpy: 4) bytes and written as 4.
        num_bytes = batch_tokens * (8 if name == "memcpy" else 6)
        p10, p90 = np.percentile(ms, [10, 90])
        print(
            f"{name:8}{median_ms[name]:10.4f}{p10:9.4f}{p90:9.4f}"
            f"{batch_tokens / median_ms[name] / 1e3:9.0f}{num_bytes / median_ms[name] / 1e6:8.2f}"
            f"{median_ms[name] / median_ms['gather']:11.2f}"
        )
    print(f"open and verify: {open_ms:.2f} ms; write: {write_per_s:,.0f} sequences/s with fsync")

    best_peer_ms = min(median_ms["numpy"], median_ms["loop"])
    result = {
        "bench": "corpus",
        "machine": cpu_model(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "num_sequences": len(file),
        "packed_tokens_per_s": round(batch_tokens / median_ms["gather"] * 1e3),
        "packed_over_best_peer": round(best_peer_ms / median_ms["gather"], 3),
        "packed_over_memcpy": round(median_ms["memcpy"] / median_ms["gather"], 4),
        "gather_per_s": round(1e3 / median_ms["gather"]),
        "open_ms": round(open_ms, 3),
        "write_sequences_per_s": round(write_per_s),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
