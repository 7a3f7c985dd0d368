"""Checkpoints by the loss."""

from itertools import pairwise

import pytest

from pycat.proxy.schedules import LossSchedule, num_updates, updates_before


def of_losses(count: int, means: list[float], warmup: int = 10) -> LossSchedule:
    """A schedule that saw blocks of one update each."""
    schedule = LossSchedule(count, warmup, warmup + len(means))
    for step, mean in enumerate(means, start=warmup + 1):
        assert schedule.is_end(step)
        schedule.add(step, mean)
    return schedule


def test_checkpoints_lie_where_the_loss_has_fallen_by_equal_steps() -> None:
    # From 9 to 1 in four steps: 7, 5, 3 and the end.
    schedule = of_losses(4, [9.0, 8.0, 6.5, 6.0, 5.5, 4.5, 4.0, 3.5, 3.0, 2.0, 1.5, 1.0])
    assert schedule.chosen() == [13, 16, 19, 22]
    # Means of the blocks from one to the next.
    assert schedule.mean_losses([13, 16, 19, 22]) == pytest.approx(
        [(9 + 8 + 6.5) / 3, (6 + 5.5 + 4.5) / 3, (4 + 3.5 + 3) / 3, (2 + 1.5 + 1) / 3]
    )


def test_a_loss_that_rises_again_changes_nothing() -> None:
    schedule = of_losses(2, [9.0, 5.0, 8.0, 8.0, 7.0, 1.0])
    assert schedule.chosen() == [12, 16]
    assert of_losses(2, [9.0, 4.0, 1.0, 5.0, 6.0]).chosen() == [12, 15]


def test_checkpoints_are_distinct_whatever_the_loss_does() -> None:
    assert of_losses(3, [5.0, 5.0, 5.0, 5.0]).chosen() == [11, 12, 14]
    assert of_losses(3, [9.0, 1.0, 1.0, 1.0, 1.0]).chosen() == [12, 13, 15]
    assert of_losses(3, [9.0, 9.0, 9.0, 1.0]).chosen() == [12, 13, 14]
    assert of_losses(1, [9.0, 2.0]).chosen() == [12]


def test_weights_are_given_up_where_the_loss_fell_least() -> None:
    schedule = LossSchedule(1, 0, 6)
    gone = [schedule.add(step, loss) for step, loss in enumerate([9.0, 8.0, 4.0, 3.5, 1.0, 0.9], 1)]
    # Of the neighbours' falls 9-4, 8-3.5 and 4-1 the last is the least; then 9-4, 8-1 and 4-0.9.
    assert gone == [None, None, None, None, 4, 5]
    assert schedule.kept == [1, 2, 3, 6]


def test_blocks_follow_the_warmup_and_have_like_lengths() -> None:
    schedule = LossSchedule(5, 100, 1000)
    ends = [step for step in range(1, 1001) if schedule.is_end(step)]
    assert (ends[0], ends[-1], len(ends)) == (100, 1000, 65)
    assert {after - before for before, after in pairwise(ends)} == {14, 15}


def test_a_state_goes_on() -> None:
    means = [9.0, 7.0, 6.0, 5.0, 3.0, 2.5, 1.0]
    whole = of_losses(1, means)
    cut = of_losses(1, means[:4])
    going_on = LossSchedule(1, 10, 17)
    going_on.restore(cut.state())
    for step, mean in enumerate(means[4:], start=15):
        going_on.add(step, mean)
    assert going_on.state() == whole.state()


def test_updates_are_counted_with_their_branches() -> None:
    # Budgets of 6 and 12: 8 updates at the constant rate, branches of 2 and 4.
    assert num_updates([6, 12], anneal_each=True) == 14
    assert updates_before([6, 12], 8, 1, anneal_each=True) == 10
    assert updates_before([6, 12], 8, 1, anneal_each=False) == 8
