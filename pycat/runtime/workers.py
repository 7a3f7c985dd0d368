"""A pool of threads that works on a stream of items and keeps their order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def on_workers(
    work: Callable[[_In], _Out], items: Iterable[_In], num_workers: int
) -> Generator[_Out, None, None]:
    """Yield `work` of each item, in order; threads work up to 2 `num_workers` items ahead.

    An error of `work` or `items` is raised in place of its result. If the caller stops early, as
    after Ctrl-C, items that no thread has begun are dropped.
    """
    if num_workers == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(num_workers, thread_name_prefix="pycat") as pool:
        ahead: deque[Future[_Out]] = deque()
        try:
            for future in _submitted(pool, work, items):
                ahead.append(future)
                if len(ahead) > 2 * num_workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _submitted(
    pool: ThreadPoolExecutor, work: Callable[[_In], _Out], items: Iterable[_In]
) -> Iterator[Future[_Out]]:
    """Yield a future for each item, and one more for an error of `items`."""
    try:
        for item in items:
            yield pool.submit(work, item)
    except Exception as error:
        broken = Future[_Out]()
        broken.set_exception(error)
        yield broken
