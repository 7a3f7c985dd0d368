"""Time 1 and 2 workers of tokenize, measure and score, local and on Ray, and what Ray costs a part.

Each worker has one core; local 1 is this process on one. Workers begin by importing and loading,
which a long run does not notice: a part's time is that between the first and the last, over those
in between (of `measure`, of all its steps together). The files of all
variants are compared before anything is printed. On a machine whose cores are busy with other work,
`speedup` says nothing: `processor_s_a_part` then still tells what a part costs.

python bench/bench_scaling.py [--pairs N] [--quick] [--without-ray]
"""

import argparse
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from bench_tokenizing import VOCAB_SIZE, synthesise
from harness import processor_name

import pycat
from pycat.data import text_parts
from pycat.filters import measure_steps, measures, rule_measures
from pycat.runtime import part_files, parts
from pycat.scoring import engine

# Parts small enough for a short run; figures are for a part.
PART_PAIRS = 4096


class Clock:
    """The moments at which parts were finished, in place of `map_parts`."""

    def __init__(self) -> None:
        self.finished: list[float] = []

    def map_parts(self, *given: Any, **place: Any) -> Iterator[Any]:
        for result in parts.map_parts(*given, **place):
            self.finished.append(time.perf_counter())
            yield result

    @property
    def seconds_a_part(self) -> float:
        """Between the first part and the last."""
        return (self.finished[-1] - self.finished[0]) / (len(self.finished) - 1)


@contextmanager
def one_core() -> Iterator[None]:
    """Let this process have a single core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(num_threads)


@contextmanager
def small_parts() -> Iterator[None]:
    """Cut all stages into parts of `PART_PAIRS`."""
    named = [(text_parts, "PART_LINES")]
    named += [(module, "PART_PAIRS") for module in (measure_steps, measures, rule_measures, engine)]
    patches = [patch.object(module, name, PART_PAIRS) for module, name in named]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def timed(
    verb: Callable[..., Any], place: dict[str, Any], out: Path, num_parts: int
) -> tuple[dict[str, Any], str]:
    """Figures of a run, and a hash of the files that it made."""
    clock, began = Clock(), (time.perf_counter(), cpu_seconds())
    with (
        patch.object(engine, "map_parts", clock.map_parts),
        patch.object(part_files, "map_parts", clock.map_parts),
    ):
        here = place == {"on": "local", "num_workers": 1}
        with one_core() if here else nullcontext():
            verb(out=out, **place)
    seconds = time.perf_counter() - began[0]
    content = hashlib.sha256()
    for path in sorted(out.iterdir()):
        if path.suffix != ".json":
            content.update(path.read_bytes())
    figures = {
        "seconds": round(seconds, 2),
        # This process works without handing parts out, and begins at once.
        "seconds_a_part": round(seconds / num_parts if here else clock.seconds_a_part, 4),
        "processor_s_a_part": round((cpu_seconds() - began[1]) / num_parts, 4),
    }
    return figures, content.hexdigest()


def cpu_seconds() -> float:
    """Processor time of this process and of all that it has waited for."""
    return sum(os.times()[:4])


def empty_work(num_threads: int) -> Callable[[int], None]:
    """Work that takes no time: what is left is the cost of handing parts out."""
    return do_nothing


def do_nothing(part: int) -> None:
    """No work."""


def cost_of_a_part(on: str, num_workers: int, num_parts: int) -> float:
    """Seconds that a part takes beside its work."""
    clock = Clock()
    for _ in clock.map_parts(empty_work, range(num_parts), on=on, num_workers=num_workers):
        pass
    return clock.seconds_a_part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40 * PART_PAIRS)
    parser.add_argument("--quick", action="store_true", help="only see that everything works")
    parser.add_argument("--without-ray", action="store_true")
    options = parser.parse_args()
    num_pairs = 3 * PART_PAIRS if options.quick else options.pairs
    places: dict[str, dict[str, Any]] = {
        f"{on} {n}": {"on": on, "num_workers": n}
        for on in (("local",) if options.without_ray else ("local", "ray"))
        for n in (1, 2)
    }
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, small_parts():
        work = Path(folder)
        src, tgt = synthesise(work, num_pairs)
        corpus = pycat.tokenize(src, tgt, out=work / "corpus", vocab_size=VOCAB_SIZE)
        run = pycat.train(corpus, out=work / "proxy", checkpoint_steps=[1, 2], device="cpu")

        verbs: dict[str, Callable[..., Any]] = {
            "tokenize": lambda **how: pycat.tokenize(
                src, tgt, tokenizer=corpus.path / "tokenizer.model", **how
            ),
            "measure": lambda **how: pycat.measure(corpus, **how),
            "score": lambda **how: pycat.score(corpus, run.checkpoints, device="cpu", **how),
        }
        for verb, call in verbs.items():
            hashes = set()
            for name, place in places.items():
                num_parts = -(-num_pairs // PART_PAIRS)
                figures, made = timed(call, place, work / f"{verb}-{name}", num_parts)
                found[f"{verb}, {name}"] = figures
                hashes.add(made)
                print(f"{verb}, {name}: {figures}", flush=True)
            assert len(hashes) == 1, f"{verb}: the files differ"
        costs = {
            name: [
                cost_of_a_part(**place, num_parts=10 if options.quick else 200) for _ in range(3)
            ]
            for name, place in places.items()
            if name != "local 1"
        }
    for name, seconds in costs.items():
        print(f"a part without work, {name}: {1e3 * np.median(seconds):.2f} ms")
    result = {
        "bench": "scaling",
        "machine": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "pairs": num_pairs,
        "part_pairs": PART_PAIRS,
        "runs": found,
        "ms_a_part_without_work": {
            name: round(1e3 * float(np.median(seconds)), 3) for name, seconds in costs.items()
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
