"""A pure function mapped over parts: in this process, in worker processes, or on Ray.

A stage cuts its corpus into parts by the corpus alone. What it does to one part is a pure function
of the part and of what a worker loads once, such as the corpus and models, so that a part made
twice has the same bytes, whoever makes it. `map_parts` runs that function; `parts_on_ray` is the
half of it that needs Ray.
"""

import multiprocessing
import os
import pickle
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, TypeVar

from pycat.errors import PycatError
from pycat.runtime.children import ctrl_c_held_back, end_with_parent
from pycat.runtime.numbers import check_number

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")

# What a worker does to a part.
Work = Callable[[_Part], _Result]
# Makes that of a worker, given the number of its threads: it loads what all parts need.
Load = Callable[[int], Work[_Part, _Result]]

# In a worker process: what it was begun with, and what it does once that is loaded.
_load = b""
_num_threads = 1
_work: Work[Any, Any] | None = None


def is_here(on: str, num_workers: int | None) -> bool:
    """Whether `map_parts` works in this process.

    Raises:
        PycatError: `on` names no place, or the number of workers is no positive number.
    """
    if num_workers is not None:
        check_number("num_workers", num_workers, low=1)
    if on not in ("local", "ray", "auto") and not on.startswith("ray://"):
        raise PycatError(f"on is {on!r}; expected local, ray, ray://HOST:PORT or auto")
    return on == "local" and num_workers in (None, 1)


def connected(on: str) -> AbstractContextManager[None]:
    """Keep a connection to Ray for several calls of `map_parts` in the block.

    Raises:
        PycatError: Ray is not installed, or there is no cluster.
    """
    if on == "local":
        return nullcontext()
    from pycat.runtime import parts_on_ray

    return parts_on_ray.connected(on)


def map_parts(
    load: Load[_Part, _Result],
    parts: Iterable[_Part],
    *,
    on: str = "local",
    num_workers: int | None = None,
    uses_gpu: bool = False,
    max_threads: int = 8,
) -> Generator[tuple[_Part, _Result], None, None]:
    """Yield each part with its result, as they are finished, in any order.

    On Ctrl-C, or if the caller stops early, workers are ended at once, whatever they do.

    Args:
        load: makes the work of a worker, once in each; for others than this process it must be
            possible to pickle it, the parts and the results.
        parts: what to work on; they are asked for as workers need them.
        on: "local", "ray" (a Ray started on this machine and ended afterwards), "ray://HOST:PORT",
            or "auto" (the cluster that RAY_ADDRESS names, or that runs on this machine).
        num_workers: local processes, which share the cores of this process; without it, this
            process alone. On Ray, workers at most; without it, as many as have room, also on
            nodes that come later.
        uses_gpu: whether each worker on Ray gets a GPU of its own.
        max_threads: cores of a worker on Ray at most; smaller nodes make it fewer.

    Raises:
        PycatError: a worker was killed (on Ray, again and again with the same part), Ray is not
            installed, there is no cluster, or no node of it has had room for a worker for five
            minutes.
        Exception: that of `load` or of its work.
    """
    if is_here(on, num_workers):
        yield from _here(load, parts)
    elif on == "local":
        assert num_workers is not None
        yield from _in_processes(load, parts, num_workers)
    else:
        from pycat.runtime import parts_on_ray

        yield from parts_on_ray.map_parts(
            load, parts, on, num_workers, uses_gpu=uses_gpu, max_threads=max_threads
        )


def _here(
    load: Load[_Part, _Result], parts: Iterable[_Part]
) -> Generator[tuple[_Part, _Result], None, None]:
    work = None
    for part in parts:
        if work is None:
            work = load(len(os.sched_getaffinity(0)))
        yield part, work(part)


def _in_processes(
    load: Load[_Part, _Result], parts: Iterable[_Part], num_workers: int
) -> Generator[tuple[_Part, _Result], None, None]:
    """Work in processes that end with this one."""
    num_threads = max(1, len(os.sched_getaffinity(0)) // num_workers)
    before = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        num_workers,
        multiprocessing.get_context("spawn"),
        _begin_worker,
        (os.getpid(), _pickled(load), num_threads),
    ) as pool:
        todo = iter(parts)
        futures: dict[Future[_Result], _Part] = {}
        try:
            while True:
                # Each worker has a part, and one more that waits for it.
                for part in islice(todo, 2 * num_workers - len(futures)):
                    with ctrl_c_held_back():
                        futures[pool.submit(_run, part)] = part
                if not futures:
                    return
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    yield futures.pop(future), future.result()
        except BrokenProcessPool:
            raise PycatError(
                "a worker process was killed, most likely for lack of memory; run the same command "
                "again, with fewer --num-workers: finished work is kept"
            ) from None
        finally:
            for process in set(multiprocessing.active_children()) - before:
                process.kill()


def _pickled(load: Load[Any, Any]) -> bytes:
    try:
        return pickle.dumps(load)
    except Exception as error:
        raise PycatError(
            f"num_workers: what workers load cannot be sent to them ({error}); define classes in "
            "modules that they can import, or leave num_workers out"
        ) from None


def _begin_worker(parent: int, load: bytes, num_threads: int) -> None:
    global _load, _num_threads
    end_with_parent(parent)
    _load, _num_threads = load, num_threads


def _run(part: Any) -> Any:
    """Work on a part; errors of loading are those of the first part."""
    global _work
    if _work is None:
        _work = pickle.loads(_load)(_num_threads)
    return _work(part)
