"""What a corpus of a billion pairs costs to open, to plan, to cut into parts and to resume.

The corpus has an index and no tokens: lengths as text has them, pointers that the reader checks,
and files of tokens that are holes in the file system. Source and target are the same two files by
two names, so that the index takes 12 bytes a pair of disk instead of 24; reading it is counted for
each side. Each step runs in a process of its own, `--step NAME`, and prints one JSON object.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from corpus_memory import peak_while
from corpus_synthesis import MEAN_LENGTH, VOCAB_SIZE
from harness import processor_name

from pycat.data.corpus import Corpus
from pycat.data.opening import open_corpus
from pycat.proxy.packing import PackedBatches
from pycat.scores.parts import PART_PAIRS, part_path, read_part, write_part

BATCH_TOKENS = 2048
NUM_CHECKPOINTS = 5
SAMPLED_PARTS = 64
TRAINED = 4000  # updates behind which a run is resumed
CHUNK = 1 << 22  # pairs synthesised at a time
ITEM_BYTES = 2


def synthesise(folder: Path, num_pairs: int) -> None:
    """Write `corpus.json`, one index, and a hole for its tokens; the other side links to both."""
    rng = np.random.default_rng(1)
    sigma = 0.7
    mu = np.log(MEAN_LENGTH) - sigma**2 / 2  # the mean of exp(normal) is exp(mu + sigma²/2)
    header = b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + b"\x08" + num_pairs.to_bytes(8, "little")
    end = 0
    with (folder / "src.idx").open("wb") as lengths_at, (folder / "src.idx").open("r+b") as ends_at:
        lengths_at.write(header)
        lengths_at.flush()
        ends_at.seek(len(header) + 4 * num_pairs)
        for first in range(0, num_pairs, CHUNK):
            normal = rng.standard_normal(min(CHUNK, num_pairs - first), dtype=np.float32)
            lengths = np.exp(mu + sigma * normal).clip(1, 250).astype(np.int32)
            ends = end + ITEM_BYTES * np.cumsum(lengths, dtype=np.int64)
            lengths_at.write(lengths.tobytes())
            ends_at.write((ends - ITEM_BYTES * lengths).tobytes())
            end = int(ends[-1])
    with (folder / "src.bin").open("wb") as tokens:
        tokens.truncate(end)
    for suffix in ("idx", "bin"):
        os.link(folder / f"src.{suffix}", folder / f"tgt.{suffix}")


def measured(work: Callable[[], object]) -> dict[str, float]:
    """What a step took: memory, seconds by the clock, and processor seconds of this thread."""
    spent = 0.0

    def timed() -> None:
        nonlocal spent
        start = time.thread_time()
        work()
        spent = time.thread_time() - start

    return {**peak_while(timed), "cpu_s": spent}


def open_both(folder: Path) -> Corpus:
    """Open the files as two prefixes, as data of another tool; nothing is verified yet."""
    corpus = open_corpus(
        (folder / "src", folder / "tgt"), vocab_size=VOCAB_SIZE, eos_id=0, layout="fairseq"
    )
    corpus._manifest["id"] = "0" * 64  # else all tokens would be hashed
    return corpus


def verified(folder: Path) -> Corpus:
    corpus = open_both(folder)
    _ = corpus.lengths
    return corpus


def opened(folder: Path) -> dict[str, float]:
    """Open, and check the whole index, as the first use of it does."""
    start = time.perf_counter()
    corpus = open_both(folder)
    open_s = time.perf_counter() - start
    found = measured(lambda: corpus.lengths)
    return {**found, "open_ms": 1e3 * open_s}


def counted(folder: Path) -> dict[str, float]:
    """Pass over the lengths of both sides, as `train` and `score` do for their counts."""
    corpus = verified(folder)
    return measured(lambda: (corpus.num_tokens.sum(), corpus.num_src_tokens.max()))


def planned(folder: Path) -> dict[str, float]:
    """Plan all pairs for streaming, sorted by length, and read the first batch."""
    corpus = verified(folder)

    def work() -> None:
        with corpus.batches(16_384, seed=1) as stream:
            next(stream)

    return measured(work)


def ordered(folder: Path) -> dict[str, float]:
    """Order pairs for training, and read the first batch."""
    corpus = verified(folder)
    return measured(lambda: next(PackedBatches(corpus, BATCH_TOKENS)))


def resumed_training(folder: Path) -> dict[str, float]:
    """Go on behind so many updates of training."""
    corpus = verified(folder)
    position = {"epoch": 0, "batch": min(TRAINED, len(corpus) // 100)}
    return measured(lambda: next(PackedBatches(corpus, BATCH_TOKENS, position=position)))


def cut(folder: Path) -> dict[str, float]:
    """Cut into parts, and find the tokens of each; of some, plan it and read its first batch."""
    corpus = verified(folder)
    starts = range(0, len(corpus), PART_PAIRS)

    def work() -> None:
        for first in starts:
            part = corpus[first : first + PART_PAIRS]
            part.num_tokens.sum(), part.num_src_tokens.sum()

    found = measured(work)
    sampled = starts[:: max(1, len(starts) // SAMPLED_PARTS)]
    start = time.perf_counter()
    for first in sampled:
        with corpus[first : first + PART_PAIRS].batches(16_384) as stream:
            next(stream)
    plan_ms = 1e3 * (time.perf_counter() - start) / len(sampled)
    return {**found, "num_parts": len(starts), "plan_ms_per_part": plan_ms}


def resumed_scoring(folder: Path) -> dict[str, float]:
    """Check finished parts of a score table, as a resumed run does; bytes and time of each."""
    corpus = verified(folder)
    starts = range(0, len(corpus), PART_PAIRS)[:SAMPLED_PARTS]
    rng = np.random.default_rng(0)
    table = folder / "table"
    table.mkdir()
    try:
        for index, first in enumerate(starts):
            write_part(_columns(corpus[first : first + PART_PAIRS], rng), part_path(table, index))
        paths = sorted(table.iterdir())
        part_bytes = sum(path.stat().st_size for path in paths) / len(paths)

        def work() -> None:
            for first, path in zip(starts, paths, strict=True):
                part, read = corpus[first : first + PART_PAIRS], read_part(path)
                assert np.array_equal(read["pair"].to_numpy(), part.pair_ids)
                assert np.array_equal(read["num_tokens"].to_numpy(), part.num_tokens)

        found = measured(work)
    finally:
        shutil.rmtree(table)
    return {**found, "sampled_parts": len(paths), "bytes_per_part": part_bytes}


def _columns(part: Corpus, rng: np.random.Generator) -> Any:
    """Columns of all statistics under five checkpoints, of random numbers."""
    import pyarrow as pa

    from pycat.scores.parts import statistic_columns

    num_stats = 7
    sums = rng.gamma(2.0, 20.0, (num_stats, NUM_CHECKPOINTS, len(part)))
    sums[2] = np.minimum(np.rint(sums[2]), part.num_tokens)  # the count of right tokens
    pairs = {
        "pair": part.pair_ids,
        "num_src_tokens": part.num_src_tokens,
        "num_tokens": part.num_tokens,
    }
    return pa.table({**pairs, **statistic_columns(sums)})


STEPS: dict[str, Callable[[Path], dict[str, float]]] = {
    "open": opened,
    "count": counted,
    "plan": planned,
    "order": ordered,
    "resume training": resumed_training,
    "parts": cut,
    "resume scoring": resumed_scoring,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000_000)
    parser.add_argument("--folder", type=Path, help="where to make the corpus, 12 bytes a pair")
    parser.add_argument("--quick", action="store_true", help="10 million pairs")
    parser.add_argument("--step", choices=STEPS, help="only this, of the corpus that is in FOLDER")
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step](options.folder)))
        return
    num_pairs = 10_000_000 if options.quick else options.pairs
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        synthesise(folder, num_pairs)
        result: dict[str, Any] = {}
        for step in STEPS:
            command = [sys.executable, __file__, "--folder", name, "--step", step]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            found = result[step] = json.loads(done.stdout)
            print(f"{step:16}", *(f"{key} {value:,.1f}" for key, value in found.items()))
    result["pairs"], result["machine"] = num_pairs, processor_name()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
