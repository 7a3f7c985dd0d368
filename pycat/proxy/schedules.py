"""Learning rates and checkpoints over the updates of a run."""

import math
from collections.abc import Sequence

from pycat.errors import PycatError

CHECKPOINT_SCHEDULES = ("linear", "log", "loss")
RATE_SCHEDULES = ("wsd", "inverse_sqrt")

# The share of a run in which "wsd" lets the rate fall.
_FALL_SHARE = 1 / 3

# Blocks whose mean losses the schedule "loss" goes by, and how many weights it keeps for each
# checkpoint wanted until the last loss is known.
_LOSS_BLOCKS = 64
_KEPT_PER_CHECKPOINT = 4


def rate_share(schedule: str, step: int, warmup: int, total: int) -> float:
    """Share of the peak rate at update `step`, counted from 1, of `total` (0: without an end)."""
    if schedule == "inverse_sqrt":
        return min(step / warmup, math.sqrt(warmup / step))
    fall = max(1, round(total * _FALL_SHARE))
    share = (total - step + 1) / fall if total else 1.0
    return min(step / warmup, share, 1.0)


def default_warmup(updates: int) -> int:
    """Updates until the peak rate: a tenth of all, at most 4,000."""
    return min(4000, max(1, updates // 10))


def num_updates(steps: Sequence[int], *, anneal_each: bool) -> int:
    """Updates of a run that saves after these steps, those of its branches counted."""
    if not anneal_each:
        return steps[-1]
    return trunk_updates(steps[-1]) + sum(map(branch_updates, steps))


def updates_before(steps: Sequence[int], step: int, num_saved: int, *, anneal_each: bool) -> int:
    """Of those, the ones made when the run stands at `step` with so many checkpoints saved."""
    return step + (sum(map(branch_updates, steps[:num_saved])) if anneal_each else 0)


def branch_updates(budget: int) -> int:
    """Updates of a budget in which the rate falls."""
    return max(1, round(budget * _FALL_SHARE))


def trunk_updates(budget: int) -> int:
    """Updates of a budget before the rate falls."""
    return budget - branch_updates(budget)


def checkpoint_steps_of(
    count: int, schedule: str, given: Sequence[int] | None, updates: int, warmup: int
) -> list[int]:
    """The updates after which to save: ascending, distinct, at least two.

    With the schedule "loss" they are known only at the end: then the last update alone.

    Raises:
        PycatError: they are not, or the updates behind the warm-up are too few.
    """
    if given is not None:
        steps = list(given)
        if len(steps) < 2 or steps[0] < 1 or sorted(set(steps)) != steps:
            raise PycatError(
                f"checkpoint_steps are {steps}; expected at least two ascending updates from 1"
            )
        return steps
    if schedule not in CHECKPOINT_SCHEDULES:
        raise PycatError(
            f"checkpoint_schedule is {schedule!r}; expected one of "
            f"{', '.join(CHECKPOINT_SCHEDULES)}"
        )
    if count < 1:
        raise PycatError(f"checkpoints is {count}; expected at least 1 (2 to be scored)")
    ranks = range(1, count + 1)
    if schedule == "linear":
        steps = [round(updates * i / count) for i in ranks]
    elif schedule == "log":
        steps = [round(updates / 2 ** (count - i)) for i in ranks]
    else:
        # One block more than checkpoints: the first tells the loss behind the warm-up.
        behind = max(0, updates - warmup)
        steps = [updates] if behind > count else [0]
    if steps[0] < 1 or len(set(steps)) < (count if schedule != "loss" else 1):
        behind_warmup = f" behind a warm-up of {warmup:,}" if schedule == "loss" else ""
        raise PycatError(
            f"{updates:,} updates cannot hold {count} {schedule} checkpoints{behind_warmup}; train "
            "longer (epochs, updates), lower batch_tokens, or keep fewer checkpoints"
        )
    return steps


class LossSchedule:
    """Which updates to keep, so that the loss falls by equal steps from each to the next.

    The updates behind the warm-up are cut into 64 blocks of like lengths. The loss at the end of a
    block is the lowest mean of a block so far, so that it never rises. K checkpoints of which the
    last is the end of training stand at the first ends of blocks where

        loss <= first - i (first - last) / K,   i = 1 .. K

    with the losses of the first and of the last block. Since the last loss is known only at the
    end, weights are saved at the end of every block, and no more than 4 K of them are kept: the one
    goes whose neighbours' losses differ least.

    Args:
        count: K.
        warmup: updates of the warm-up.
        updates: of the run.

    Attributes:
        ends: updates at the ends of the blocks so far.
        means: mean loss of each of them.
        kept: the ends whose weights are kept.
    """

    def __init__(self, count: int, warmup: int, updates: int) -> None:
        self.count, self._warmup = count, warmup
        behind = updates - warmup
        num_blocks = min(behind, max(_LOSS_BLOCKS, count + 1))
        self._block_ends = {warmup + i * behind // num_blocks for i in range(num_blocks + 1)}
        self.ends: list[int] = []
        self.means: list[float] = []
        self.kept: list[int] = []

    def is_end(self, step: int) -> bool:
        """Whether a block ends after that update; that of the warm-up is one too."""
        return step in self._block_ends

    def add(self, step: int, mean: float) -> int | None:
        """Note a block behind the warm-up, its weights saved; returns the end to be given up."""
        self.ends.append(step)
        self.means.append(mean)
        self.kept.append(step)
        if len(self.kept) <= _KEPT_PER_CHECKPOINT * self.count:
            return None
        losses = self._lowest()
        at = [losses[self.ends.index(end)] for end in self.kept]
        falls = [at[i - 1] - at[i + 1] for i in range(1, len(at) - 1)]
        return self.kept.pop(1 + falls.index(min(falls)))

    def chosen(self) -> list[int]:
        """The K updates to keep, once training is over."""
        losses = dict(zip(self.ends, self._lowest(), strict=True))
        first, last = losses[self.ends[0]], losses[self.ends[-1]]
        steps: list[int] = []
        for i in range(1, self.count):
            target = first - i * (first - last) / self.count
            # So many kept ends stay for the checkpoints to come.
            left = self.kept[len(steps) and self.kept.index(steps[-1]) + 1 :]
            left = left[: len(left) - (self.count - i)]
            steps.append(next((end for end in left if losses[end] <= target), left[-1]))
        return [*steps, self.ends[-1]]

    def mean_losses(self, steps: Sequence[int]) -> list[float]:
        """Mean loss of the blocks up to each step and behind the one before it."""
        means: list[float] = []
        before, first = self._warmup, 0
        for step in steps:
            last = self.ends.index(step) + 1
            total = 0.0
            for end, mean in zip(self.ends[first:last], self.means[first:last], strict=True):
                total += mean * (end - before)
                before = end
            means.append(total / (step - (self.ends[first - 1] if first else self._warmup)))
            first = last
        return means

    def _lowest(self) -> list[float]:
        """The lowest mean up to each end."""
        return [min(self.means[: i + 1]) for i in range(len(self.means))]

    def state(self) -> dict[str, list[int] | list[float]]:
        """What an interrupted run needs to go on."""
        return {"ends": self.ends, "means": self.means, "kept": self.kept}

    def restore(self, state: dict[str, list[int] | list[float]]) -> None:
        """Go on from a `state`."""
        self.ends = [int(end) for end in state["ends"]]
        self.means = [float(mean) for mean in state["means"]]
        self.kept = [int(end) for end in state["kept"]]
