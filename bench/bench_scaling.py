"""Time 1 and 2 workers of tokenize, measure and score, local and on Ray, and what Ray costs a part.

Each worker has one core, and one worker has the only core of this process. Workers begin by
importing and loading, which a long run does not notice: the time of a part is that between the
first parts of all workers and the last part, of all steps of a verb together, over the parts in
between. The files of all variants, and of this process by itself, are compared. On a machine whose
cores are busy with other work `speedup` says nothing.

python bench/bench_scaling.py [--quick | --short] [--without-ray]
"""

import argparse
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from bench_tokenizing import VOCAB_SIZE, synthesise
from harness import processor_name
from small_parts import small_parts

import pycat
from pycat.data import tokenizing
from pycat.filters import measures
from pycat.runtime import part_files, parts
from pycat.scoring import engine


class Size(NamedTuple):
    """The parts of a verb, and the pairs of each."""

    num_parts: int
    part_pairs: int

    @property
    def num_pairs(self) -> int:
        """All of them."""
        return self.num_parts * self.part_pairs


# A part of tokenize and measure takes tenths of a second here, one of score some seconds.
SIZES = {
    "tokenize": Size(24, 16_384),
    "measure": Size(24, 16_384),
    "score": Size(24, 2_048),
}
SHORT = {
    "tokenize": Size(16, 8_192),
    "measure": Size(16, 8_192),
    "score": Size(16, 512),
}
QUICK = {"tokenize": Size(4, 1024), "measure": Size(4, 1024), "score": Size(4, 128)}


class Clock:
    """The moments at which parts were finished, in place of `map_parts`; each call is a step."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self.steps: list[list[float]] = []

    def map_parts(self, *given: Any, **place: Any) -> Iterator[Any]:
        finished: list[float] = []
        self.steps.append(finished)
        for result in parts.map_parts(*given, **place):
            finished.append(time.perf_counter())
            yield result

    @property
    def seconds_a_part(self) -> float:
        """Summed over steps: between the first parts of all workers and the last."""
        first = self.num_workers - 1
        return sum((step[-1] - step[first]) / (len(step) - 1 - first) for step in self.steps)


@contextmanager
def one_core() -> Iterator[None]:
    """Let this process, and those that it starts, have a single core."""
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
def in_workers() -> Iterator[None]:
    """Let a single worker be a process too, where otherwise this one would work."""
    with ExitStack() as stack:
        for module in (parts, tokenizing, measures, engine):
            stack.enter_context(patch.object(module, "is_here", lambda on, num_workers: False))
        yield


def timed(
    verb: Callable[..., Any], place: dict[str, Any], out: Path
) -> tuple[dict[str, float], str]:
    """Figures of a run by workers, and a hash of the files that it made."""
    clock, began = Clock(place["num_workers"]), time.perf_counter()
    with (
        in_workers(),
        patch.object(engine, "map_parts", clock.map_parts),
        patch.object(part_files, "map_parts", clock.map_parts),
    ):
        verb(out=out, **place)
    seconds = time.perf_counter() - began
    figures = {"seconds": round(seconds, 2), "seconds_a_part": round(clock.seconds_a_part, 4)}
    return figures, content_of(out)


def content_of(folder: Path) -> str:
    """A hash of the files that were made, without the manifest, which tells times."""
    content = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix != ".json":
            content.update(path.read_bytes())
    return content.hexdigest()


def empty_work(num_threads: int) -> Callable[[int], None]:
    """Work that takes no time: what is left is the cost of handing parts out."""
    return do_nothing


def do_nothing(part: int) -> None:
    """No work."""


def cost_of_a_part(place: dict[str, Any], num_parts: int) -> float:
    """Seconds that a part takes beside its work."""
    clock = Clock(place["num_workers"])
    with in_workers():
        for _ in clock.map_parts(empty_work, range(num_parts), **place):
            pass
    return clock.seconds_a_part


def verbs_on(work: Path, sizes: dict[str, Size], *, quick: bool) -> dict[str, Callable[..., Any]]:
    """Texts, corpora and a proxy; returns the verbs, which need a place and `out`."""
    texts = {}
    for name, num_pairs in (
        ("training", 3000 if quick else 20_000),
        ("long", sizes["tokenize"].num_pairs),
        ("short", sizes["score"].num_pairs),
    ):
        (work / name).mkdir()
        texts[name] = synthesise(work / name, num_pairs)
    vocab_size = 1000 if quick else VOCAB_SIZE
    first = pycat.tokenize(*texts["training"], out=work / "corpus", vocab_size=vocab_size)
    tokenizer = first.path / "tokenizer.model"
    corpora = {
        name: pycat.tokenize(*texts[name], out=work / f"corpus-{name}", tokenizer=tokenizer)
        for name in ("long", "short")
    }
    run = pycat.train(
        first, out=work / "proxy", checkpoint_steps=[1, 2], preset="mini", device="cpu"
    )
    return {
        "tokenize": lambda **how: pycat.tokenize(*texts["long"], tokenizer=tokenizer, **how),
        "measure": lambda **how: pycat.measure(corpora["long"], **how),
        "score": lambda **how: pycat.score(
            corpora["short"], run.checkpoints, device="cpu", dtype="float32", **how
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only see that everything works")
    parser.add_argument("--short", action="store_true", help="time less work, in some minutes")
    parser.add_argument("--without-ray", action="store_true")
    options = parser.parse_args()
    sizes = QUICK if options.quick else SHORT if options.short else SIZES
    found: dict[str, dict[str, Any]] = {verb: {} for verb in sizes}
    costs: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        verbs = verbs_on(work, sizes, quick=options.quick)
        made = {verb: set[str]() for verb in verbs}
        for verb, call in verbs.items():
            with small_parts(sizes[verb].part_pairs):
                call(out=work / f"{verb}-here")
                made[verb].add(content_of(work / f"{verb}-here"))
        for on in ("local",) if options.without_ray else ("local", "ray"):
            for num_workers in (1, 2):
                name = f"{on} {num_workers}"
                place = {"on": on, "num_workers": num_workers}
                with ExitStack() as stack:
                    if num_workers == 1:
                        stack.enter_context(one_core())
                    # One Ray for all verbs: it takes seconds to start.
                    stack.enter_context(parts.connected(on))
                    for verb, call in verbs.items():
                        with small_parts(sizes[verb].part_pairs):
                            figures, content = timed(call, place, work / f"{verb}-{name}")
                        made[verb].add(content)
                        found[verb][name] = figures
                        print(f"{verb}, {name}: {figures}", flush=True)
                    num_parts = 20 if options.quick else 200
                    of_a_part = [cost_of_a_part(place, num_parts) for _ in range(3)]
                    costs[name] = 1e3 * float(np.median(of_a_part))
                print(f"a part without work, {name}: {costs[name]:.2f} ms", flush=True)
        for verb, contents in made.items():
            assert len(contents) == 1, f"{verb}: the files differ"
    speedup = {
        f"{verb}, {on}": round(
            runs[f"{on} 1"]["seconds_a_part"] / runs[f"{on} 2"]["seconds_a_part"], 3
        )
        for verb, runs in found.items()
        for on in ("local", "ray")
        if f"{on} 2" in runs
    }
    print(f"from one worker to two: {speedup}")
    result = {
        "bench": "scaling",
        "machine": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "sizes": {verb: size._asdict() for verb, size in sizes.items()},
        "runs": found,
        "speedup": speedup,
        "ms_a_part_without_work": {name: round(ms, 3) for name, ms in costs.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
