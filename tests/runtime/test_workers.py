"""Results come in order, errors where their item would."""

from collections.abc import Iterator
from time import sleep

import pytest

from pycat.runtime.workers import on_workers


def test_workers_keep_the_order_and_pass_errors_on() -> None:
    assert list(on_workers(lambda x: x * x, range(50), 4)) == [x * x for x in range(50)]

    def work(x: int) -> int:
        if x == 7:
            raise ValueError("seven")
        return x

    with pytest.raises(ValueError, match="seven"):
        list(on_workers(work, range(50), 2))


@pytest.mark.parametrize("num_workers", [1, 3])
def test_an_error_of_the_items_comes_behind_what_was_before_it(num_workers: int) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise ValueError("no more")

    results = on_workers(lambda x: -x, items(), num_workers)
    assert [next(results) for _ in range(5)] == [0, -1, -2, -3, -4]
    with pytest.raises(ValueError, match="no more"):
        next(results)


def test_what_has_not_begun_is_left_undone() -> None:
    done: list[int] = []

    def work(x: int) -> None:
        sleep(0.01)
        done.append(x)

    results = on_workers(work, range(1000), 2)
    next(results)
    results.close()
    assert len(done) < 10
