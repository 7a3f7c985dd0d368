"""What planning and streaming cost in memory, each in a process of its own.

`measure` starts `python bench/corpus_memory.py WHAT FOLDER`, which prints one JSON object. Memory
is what the process has gained since its imports were done: `private_mb` are anonymous pages (heap
and buffers), `resident_mb` also counts the mapped files' pages, which the page cache would hold
anyway and takes back when memory is short.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from corpus_rivals import fairseq_plan
from corpus_synthesis import open_both, open_corpus
from harness import resident_mb

from pycat import _core

BATCH_TOKENS = 4096
MAX_STREAMED = 4000  # batches


def measure(what: str, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, what, folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def memory_mb() -> tuple[float, float]:
    """Anonymous and all resident pages of this process."""
    return resident_mb("RssAnon"), resident_mb("VmRSS")


def peak_while(work: Callable[[], Any]) -> dict[str, float]:
    """The most memory gained while `work` runs, looked at every millisecond, and its time."""
    before, peak, done = memory_mb(), [0.0, 0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            for kind, mb in enumerate(memory_mb()):
                peak[kind] = max(peak[kind], mb - before[kind])

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    work()
    elapsed_s = time.perf_counter() - start
    done.set()
    watcher.join()
    return {"private_mb": peak[0], "resident_mb": peak[1], "elapsed_s": elapsed_s}


def plan(folder: str) -> dict[str, float]:
    src, tgt = open_both(folder)
    src.lengths(), tgt.lengths()  # verified now

    def work() -> _core.BatchPlan:
        order = _core.PairOrder(src, tgt, None, scratch_folder=folder)
        return _core.BatchPlan(order, batch_tokens=BATCH_TOKENS, padded=True)

    return peak_while(work)


def plan_as_fairseq(folder: str) -> dict[str, float]:
    src, tgt = open_both(folder)
    lengths = np.array(src.lengths()), np.array(tgt.lengths())
    return peak_while(lambda: fairseq_plan(*lengths, BATCH_TOKENS, seed=1))


def stream(folder: str, *, padded: bool = True) -> dict[str, float]:
    """From opening, through planning, to the last batch: one process that only reads."""
    tokens = batches = 0
    first_s = rate_s = 0.0

    def work() -> None:
        nonlocal tokens, batches, first_s, rate_s
        start = time.perf_counter()
        with open_corpus(folder).batches(BATCH_TOKENS, seed=1, padded=padded) as stream:
            for batch in stream:
                if batches == 0:
                    first_s = time.perf_counter() - start
                    start = time.perf_counter()
                tokens += int(batch.src_cu_seqlens[-1]) + int(batch.tgt_cu_seqlens[-1])
                batches += 1
                if batches == MAX_STREAMED:
                    break
            rate_s = time.perf_counter() - start

    found = peak_while(work)
    return {**found, "batches": batches, "tokens_per_s": tokens / rate_s, "first_s": first_s}


if __name__ == "__main__":
    what, folder = sys.argv[1:]
    work = {"plan": plan, "fairseq": plan_as_fairseq, "stream": stream}[what]
    print(json.dumps(work(folder)))
