"""Time a tokenized corpus: write, open, check, random access, plan and stream, and its memory.

python bench/bench_corpus.py [--pairs N] [--quick] [--folder F]

Everything is measured against vectorised numpy over a memory map, megatron-core, pyarrow and
Hugging Face datasets where they are installed, fairseq's planner, and a bare copy of memory.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from corpus_memory import BATCH_TOKENS, measure
from corpus_rivals import (
    Reader,
    fairseq_plan,
    installed_version,
    memcpy_bytes_per_s,
    open_rivals,
)
from corpus_synthesis import open_both, open_corpus, synthesise, write_checksums
from harness import median_ms, processor_name, spread, turns
from numpy.typing import NDArray
from torch import Tensor

from pycat import _core
from pycat.data.batches import Batch, BatchStream

PAD_ID = 2
SEED = 1
MANY_PAIRS = 10_000_000  # above this only numpy is a rival: the others need the memory
KNOWN_STEPS = 6000  # whose batches the rivals read
GATHERED = 160  # sentences in a random access

Ids = NDArray[np.int64]
# Reads `count` batches from `first` on, and says how many tokens those were.
Work = Callable[[int, int], int]


class Known(NamedTuple):
    """The first batches of an epoch: their pairs, and their real tokens on both sides."""

    ids: list[Ids]
    tokens: Ids


class Streams:
    """Our streams of one plan, each begun at whatever batch is asked for."""

    def __init__(self, folder: str, *, padded: bool, checksums: bool = False) -> None:
        self.padded = padded
        self.src, self.tgt = open_both(folder, checksums=checksums)
        order = _core.PairOrder(self.src, self.tgt, None, scratch_folder=folder)
        self.plan = _core.BatchPlan(order, batch_tokens=BATCH_TOKENS, padded=padded)

    def begin(self, first: int, num_threads: int = 1) -> BatchStream:
        facts = {"plan": f"{self.plan.fingerprint:016x}", "seed": SEED, "epoch": 0, "step": first}
        return BatchStream(
            self.src,
            self.tgt,
            self.plan,
            seed=SEED,
            epoch=0,
            rank=0,
            state=facts,
            pad_id=PAD_ID,
            dtype=torch.int64,
            num_threads=num_threads,
            pin_memory=False,
        )

    def known(self) -> Known:
        ids, tokens = [], []
        with self.begin(0) as stream:
            for batch in islice(stream, KNOWN_STEPS):
                ids.append(batch.pair_ids.numpy().copy())
                tokens.append(int(batch.src_cu_seqlens[-1] + batch.tgt_cu_seqlens[-1]))
        return Known(ids, np.array(tokens))

    def read(self, first: int, count: int, num_threads: int) -> None:
        """Read `count` batches from `first` on, with starting and stopping the threads."""
        with self.begin(first, num_threads) as stream:
            for _ in islice(stream, count):
                pass

    def fill(self) -> float:
        """Share of the budget that batches compute, the longer side counted."""
        lengths = self.src.lengths(), self.tgt.lengths()
        used = []
        for batch in range(0, len(self.plan), max(1, len(self.plan) // 20_000)):
            ids = self.plan.pairs(batch)
            sides = [length[ids] for length in lengths]
            used.append(max(side.max() * len(ids) if self.padded else side.sum() for side in sides))
        return float(np.mean(used)) / BATCH_TOKENS


def sides_of(batch: Batch) -> tuple[tuple[Tensor, Tensor], ...]:
    return (batch.src_tokens, batch.src_cu_seqlens), (batch.tgt_tokens, batch.tgt_cu_seqlens)


def check_equal(batch: Batch, read: tuple[tuple[Tensor, Tensor], ...], who: str) -> None:
    for side, other_side in zip(sides_of(batch), read, strict=True):
        for one, other in zip(side, other_side, strict=True):
            if one.dtype != other.dtype or not torch.equal(one, other):
                raise SystemExit(f"{who} reads other tokens than pycat's stream")


def read_rival(sides: tuple[Reader, Reader], ids: Ids, *, padded: bool) -> Any:
    return tuple(side.padded(ids) if padded else side.packed(ids) for side in sides)


def time_per_token(
    variants: dict[str, tuple[Callable[[int, int], object], int]],
    tokens: Ids,
    num_rounds: int,
) -> dict[str, NDArray[np.float64]]:
    """Seconds a token of each variant in each round.

    Row 0 by the clock, row 1 of processor time, which other processes on the machine change less.
    `variants` name what reads `count` batches from `first` on, and that count.
    """
    times = {name: np.zeros((2, num_rounds)) for name in variants}
    first = 0
    for round_, name in turns(variants, num_rounds, warm_up=True):
        work, count = variants[name]
        # Always other batches: those that another variant has just read lie in the cache.
        first = first if first + count <= len(tokens) else 0
        start = np.array([time.perf_counter(), time.process_time()])
        work(first, count)
        elapsed_s = np.array([time.perf_counter(), time.process_time()]) - start
        if round_ >= 0:
            times[name][:, round_] = elapsed_s / tokens[first : first + count].sum()
        first += count
    return times


def bench_streams(
    streams: Streams, rivals: dict[str, tuple[Reader, Reader]], num_rounds: int
) -> dict[str, NDArray[np.float64]]:
    padded = streams.padded
    known = streams.known()
    with streams.begin(0) as stream:
        for batch, ids in zip(islice(stream, 20), known.ids, strict=False):
            for name, sides in rivals.items():
                check_equal(batch, read_rival(sides, ids, padded=padded), name)
    for num_threads in (0, 2):
        with streams.begin(0) as one, streams.begin(0, num_threads) as other:
            for batch, same in islice(zip(one, other, strict=True), 200):
                check_equal(batch, sides_of(same), f"the stream with {num_threads} threads")

    def ours(num_threads: int) -> Callable[[int, int], object]:
        return lambda first, count: streams.read(first, count, num_threads)

    def rival(sides: tuple[Reader, Reader]) -> Callable[[int, int], object]:
        def read(first: int, count: int) -> None:
            for ids in known.ids[first : first + count]:
                read_rival(sides, ids, padded=padded)

        return read

    most = max(1, len(known.ids) // 4)
    variants = {f"pycat, {n} thread{'s' * (n != 1)}": (ours(n), min(400, most)) for n in (0, 1, 2)}
    for name, sides in rivals.items():
        variants[name] = (rival(sides), min(200 if name == "numpy" else 10, most))
    return time_per_token(variants, known.tokens, num_rounds)


def bench_gather(
    folder: str, rivals: dict[str, tuple[Reader, Reader]], num_rounds: int
) -> dict[str, NDArray[np.float64]]:
    """Seconds a sentence of random access, into int32 for us and int64 for the others."""
    src, _ = open_both(folder)
    rng = np.random.default_rng(3)
    calls = [rng.integers(0, len(src), GATHERED) for _ in range(3000)]
    variants: dict[str, tuple[Callable[[int, int], object], int]] = {}

    def each(gather: Callable[[Ids], object]) -> Callable[[int, int], object]:
        def work(first: int, count: int) -> None:
            for ids in calls[first : first + count]:
                gather(ids)

        return work

    variants["pycat"] = each(src.gather), 400
    for name, (reader, _) in rivals.items():
        for ids in calls[:20]:
            for one, other in zip(src.gather(ids), reader.packed(ids), strict=True):
                if not np.array_equal(one, other.numpy()):
                    raise SystemExit(f"{name} gathers other tokens than pycat")
        variants[name] = each(reader.packed), 100 if name == "numpy" else 10
    return time_per_token(variants, np.full(len(calls), GATHERED), num_rounds)


def bench_plan(folder: str, num_pairs: int, num_rounds: int) -> dict[str, float]:
    src, tgt = open_both(folder)

    def ours() -> _core.BatchPlan:
        order = _core.PairOrder(src, tgt, None, scratch_folder=folder)
        return _core.BatchPlan(order, batch_tokens=BATCH_TOKENS, padded=True)

    plan = ours()
    seen = np.zeros(num_pairs, bool)
    num_seen = 0
    for batch in range(len(plan)):
        ids = plan.pairs(batch, seed=SEED)
        seen[ids] = True
        num_seen += len(ids)
    if num_seen != num_pairs or not seen.all():
        raise SystemExit("the plan does not hold every pair once")
    found = {}
    if num_pairs > MANY_PAIRS:
        found["plan_ms"] = median_ms(ours, 5)
    else:
        lengths = np.array(src.lengths()), np.array(tgt.lengths())
        both = []
        for _ in range(num_rounds):
            both.append(
                (median_ms(ours, 5), median_ms(lambda: fairseq_plan(*lengths, BATCH_TOKENS, 1), 1))
            )
        found["plan_ms"], found["fairseq_plan_ms"] = map(float, np.median(both, axis=0))
        found["plan_over_fairseq"] = float(np.median([theirs / our for our, theirs in both]))
        found["fairseq_plan_mb"] = measure("fairseq", folder)["private_mb"]
    found["plan_mb"] = measure("plan", folder)["private_mb"]
    return found


def first_batch_ms(folder: str, repeats: int) -> dict[str, float]:
    """Milliseconds to the first batch of a new epoch, and of a resume in its middle."""
    corpus = open_corpus(folder)
    corpus.num_batches(BATCH_TOKENS)  # sorts the pairs, once a corpus
    with corpus.batches(BATCH_TOKENS, seed=SEED) as stream:
        next(stream)
        state = {**stream.state, "step": len(stream) // 2}

    def first(epoch: int, state: dict[str, Any] | None) -> None:
        with corpus.batches(BATCH_TOKENS, seed=SEED, epoch=epoch, state=state) as stream:
            next(stream)

    return {
        "first_batch_ms": median_ms(lambda: first(1, None), repeats),
        "resume_ms": median_ms(lambda: first(0, state), repeats),
    }


def checksum_cost(folder: str, num_rounds: int) -> dict[str, float]:
    """What comparing each block once adds to an epoch of the stream that opens the files.

    The first epoch reads `2 * num_tokens` bytes more than the others. Without a reading thread, so
    that nothing hides it; and with the one that streams have by default.
    """
    write_checksums(folder)
    found: dict[str, float] = {}
    for num_threads in (0, 1):
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(num_rounds):
            for checksums in (False, True):
                streams = Streams(folder, padded=False, checksums=checksums)
                start = time.perf_counter()
                streams.read(0, len(streams.plan), num_threads)
                times[checksums].append(time.perf_counter() - start)
        plain, compared = (float(np.median(times[checksums])) for checksums in (False, True))
        found[f"checksum_share_{num_threads}_threads"] = compared / plain - 1
    file = f"{folder}/src.bin"
    checksums_ms = median_ms(lambda: _core.block_checksums(file), 5)
    found["checksum_bytes_per_s"] = Path(file).stat().st_size / checksums_ms * 1e3
    return found


def check_ns(folder: str, num_pairs: int) -> float:
    """First use of both files, which verifies every entry of their indexes."""
    elapsed_s = []
    for _ in range(5):
        files = open_both(folder)
        start = time.perf_counter()
        for file in files:
            file.lengths()
        elapsed_s.append(time.perf_counter() - start)
    return float(np.median(elapsed_s)) / (2 * num_pairs) * 1e9


def print_rates(
    title: str, times: dict[str, NDArray[np.float64]], ours: str, unit: str, scale: float
) -> None:
    print(f"\n{title:30}{unit:>10}{'p10':>9}{'p90':>9}{'time':>10}{'cpu':>10}{'time':>10}")
    for name, (wall, cpu) in times.items():
        p10, median, p90 = spread(1 / wall / scale)
        over_ours = np.median([wall, cpu] / times[ours], axis=1)
        print(
            f"{name:30}{median:10.2f}{p10:9.2f}{p90:9.2f}{over_ours[0]:8.2f} x"
            f"{1 / np.median(cpu) / scale:10.2f}{over_ours[1]:8.2f} x"
        )


def best_peer(times: dict[str, NDArray[np.float64]], ours: str, *, cpu: bool = False) -> float:
    """How many times faster than the fastest rival, the median over rounds."""
    return min(
        float(np.median(seconds[int(cpu)] / times[ours][int(cpu)]))
        for name, seconds in times.items()
        if not name.startswith("pycat")
    )


def rate(seconds: NDArray[np.float64]) -> int:
    return round(1 / float(np.median(seconds[0])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2_000_000, help="pairs to synthesise")
    parser.add_argument("--quick", action="store_true", help="300,000 pairs, few rounds")
    parser.add_argument("--folder", help="holds the corpus while the bench runs, 120 bytes a pair")
    options = parser.parse_args()
    num_pairs = 300_000 if options.quick else options.pairs
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(json.dumps(run(folder, num_pairs, num_rounds=5 if options.quick else 15)))


def run(folder: str, num_pairs: int, num_rounds: int) -> dict[str, Any]:
    write_s = synthesise(folder, num_pairs)
    open_ms = median_ms(lambda: open_both(folder), 9)
    check = check_ns(folder, num_pairs)
    names = (
        ["numpy"] if num_pairs > MANY_PAIRS else ["numpy", "megatron-core", "pyarrow", "datasets"]
    )
    rivals = open_rivals((f"{folder}/src", f"{folder}/tgt"), PAD_ID, names)
    memcpy = memcpy_bytes_per_s()

    times, fill = {}, {}
    for padded in (True, False):
        streams = Streams(folder, padded=padded)
        kind = "padded" if padded else "packed"
        times[kind] = bench_streams(streams, rivals, num_rounds)
        fill[kind] = round(streams.fill(), 4)
    gather = bench_gather(folder, rivals, num_rounds)
    planned = bench_plan(folder, num_pairs, max(3, num_rounds // 3))
    first = first_batch_ms(folder, 15)
    checksums = checksum_cost(folder, max(5, num_rounds))
    streamed = measure("stream", folder)

    ours = "pycat, 1 thread"
    for kind, found in times.items():
        print_rates(f"{kind} int64, both sides", found, ours, "Mtok/s", 1e6)
    print_rates(f"gather of {GATHERED} at random", gather, "pycat", "M sent/s", 1e6)
    print(
        f"\nmemcpy {memcpy / 1e9:.1f} GB/s; open {open_ms:.2f} ms; check {check:.2f} ns a "
        f"sentence; write {num_pairs / write_s / 1e6:.2f} M pairs/s with fsync\n"
        f"plan {planned['plan_ms']:.1f} ms, {planned['plan_mb']:.1f} MB; "
        f"fairseq's {planned.get('fairseq_plan_ms', float('nan')):.1f} ms, "
        f"{planned.get('fairseq_plan_mb', float('nan')):.1f} MB\n"
        f"comparing checksums adds {checksums['checksum_share_0_threads']:.1%} to the first epoch, "
        f"{checksums['checksum_share_1_threads']:.1%} with a reading thread, at "
        f"{checksums['checksum_bytes_per_s'] / 1e9:.1f} GB/s\n"
        f"first batch {first['first_batch_ms']:.2f} ms, after a resume {first['resume_ms']:.2f} "
        f"ms; streaming alone: {streamed['private_mb']:.1f} MB private, "
        f"{streamed['resident_mb']:.0f} MB resident, {streamed['tokens_per_s'] / 1e6:.0f} Mtok/s "
        f"over {streamed['batches']:.0f} batches from a cold map"
    )
    packed_tokens_per_s = rate(times["packed"][ours])
    over_fairseq = {}
    if "fairseq_plan_mb" in planned:
        over_fairseq = {
            "plan_over_fairseq": round(planned["plan_over_fairseq"], 2),
            "plan_memory_over_fairseq": round(planned["plan_mb"] / planned["fairseq_plan_mb"], 3),
        }
    packages = ("numpy", "torch", "megatron-core", "pyarrow", "datasets", "fairseq")
    return {
        "bench": "corpus",
        "machine": processor_name(),
        "versions": {"python": platform.python_version()}
        | {name: known for name in packages if (known := installed_version(name))},
        "num_pairs": num_pairs,
        "padded_tokens_per_s": rate(times["padded"][ours]),
        "packed_tokens_per_s": packed_tokens_per_s,
        "padded_over_best_peer": round(best_peer(times["padded"], ours), 3),
        "packed_over_best_peer": round(best_peer(times["packed"], ours), 3),
        # Processor time is compared without a reading thread, which would wait for the consumer.
        **{
            f"{kind}_cpu_over_best_peer": round(best_peer(found, "pycat, 0 threads", cpu=True), 3)
            for kind, found in times.items()
        },
        # Bytes of int64 tokens written, without boundaries and ids.
        "packed_over_memcpy": round(8 * packed_tokens_per_s / memcpy, 4),
        "memcpy_bytes_per_s": round(memcpy),
        "plan_pairs_per_s": round(num_pairs / planned["plan_ms"] * 1e3),
        **over_fairseq,
        "plan_mb": round(planned["plan_mb"], 1),
        "gather_per_s": rate(gather["pycat"]),
        "gather_over_best_peer": round(best_peer(gather, "pycat"), 3),
        "open_ms": round(open_ms, 3),
        "check_ns_per_sentence": round(check, 3),
        **{name: round(ms, 3) for name, ms in first.items()},
        **{name: round(value, 4) for name, value in checksums.items()},
        "private_mb": round(streamed["private_mb"], 1),
        "resident_mb": round(streamed["resident_mb"], 1),
        "cold_tokens_per_s": round(streamed["tokens_per_s"]),
        "write_pairs_per_s": round(num_pairs / write_s),
        "fill": fill,
    }


if __name__ == "__main__":
    main()
