"""Results come in order, errors where their item would."""

import pytest

from pycat.workers import on_workers


def test_workers_keep_the_order_and_pass_errors_on() -> None:
    assert list(on_workers(lambda x: x * x, range(50), 4)) == [x * x for x in range(50)]

    def work(x: int) -> int:
        if x == 7:
            raise ValueError("seven")
        return x

    with pytest.raises(ValueError, match="seven"):
        list(on_workers(work, range(50), 2))
