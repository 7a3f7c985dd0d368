"""Work on a stream of items by several threads, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def on_workers(
    work: Callable[[_In], _Out], items: Iterable[_In], num_workers: int
) -> Iterator[_Out]:
    """Results of `work` in the order of the items, a few items ahead, on threads of their own."""
    if num_workers == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(num_workers, thread_name_prefix="pycat") as pool:
        ahead: deque[Future[_Out]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > 2 * num_workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
