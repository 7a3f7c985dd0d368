"""The order of checkpoints: by the updates that they record, whatever order they are given in.

A shell sorts `checkpoint-1000` before `checkpoint-200`. What a checkpoint records of itself comes
first; the numbers in its name stand in for that, and the result says so.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pycat.errors import CheckpointError
from pycat.proxy.checkpoint import read_info

# Names in which training tools write the updates: Trainer, Marian, OpenNMT-py, fairseq.
_UPDATES_IN_NAMES = (
    r"checkpoint-(\d+)",
    r".*\.iter-?(\d+)(?:\.npz)?",
    r".*_step_(\d+)(?:\.pt)?",
    r"checkpoint_\d+_(\d+)(?:\.pt)?",
)
RECORDED = "updates on record"
NAMES = "numbers in their names"
GIVEN = "order given"


@dataclass(frozen=True)
class CheckpointOrder:
    """Checkpoints in training order.

    Attributes:
        paths: K paths.
        steps: K updates, or what stands for them: the last number of a name, or the position from
            1.
        by: what the order follows: `RECORDED`, `NAMES` or `GIVEN`.
    """

    paths: tuple[Path, ...]
    steps: tuple[int, ...]
    by: str

    def __str__(self) -> str:
        unit = "update " if self.by == RECORDED else ""
        each = ", ".join(
            f"{path.name} ({unit}{step:,})" if unit else path.name
            for path, step in zip(self.paths, self.steps, strict=True)
        )
        doubt = {
            RECORDED: "",
            NAMES: " (by the numbers in their names; they record no updates)",
            GIVEN: " (as given; neither they nor their names tell updates)",
        }
        return f"checkpoints in training order: {each}{doubt[self.by]}"


def in_training_order(
    paths: Sequence[Path], *, listed: bool, allow_equal_steps: bool = False
) -> CheckpointOrder:
    """Sort checkpoints by their updates.

    Args:
        paths: files of `pycat train`, folders of transformers, models of other tools.
        listed: whether a person or a shell put them in this order; else a folder was searched, and
            its order means nothing.
        allow_equal_steps: accept several of one update, as for models that are compared.

    Raises:
        CheckpointError: two are of one update, or the order of those in a folder cannot be told.
    """
    recorded = [recorded_step(path) for path in paths]
    steps = [step for step in recorded if step is not None]
    if len(steps) == len(paths):
        if not allow_equal_steps:
            _refuse_repeats(paths, steps)
        places = sorted(range(len(paths)), key=lambda i: steps[i])
        return CheckpointOrder(
            tuple(paths[i] for i in places), tuple(steps[i] for i in places), RECORDED
        )
    numbers = _numbers_of_like_names([path.name for path in paths])
    # Updates on record and numbers of names are not to be compared, so they are never mixed.
    if numbers is not None and not steps:
        places = sorted(range(len(paths)), key=lambda i: numbers[i])
        last = [numbers[i][-1] for i in places]
        distinct = len(set(last)) == len(last) and last == sorted(last)
        found = last if distinct else range(1, len(paths) + 1)
        return CheckpointOrder(tuple(paths[i] for i in places), tuple(found), NAMES)
    if len(paths) < 2:
        return CheckpointOrder(tuple(paths), (1,) * len(paths), GIVEN)
    unknown = paths[recorded.index(None)]
    if not listed:
        raise CheckpointError(
            f"{unknown}: its place among the {len(paths)} checkpoints of {unknown.parent} is not "
            "known: it has no trainer_state.json, nor the updates in its name; list the "
            "checkpoints one by one, in training order"
        )
    if steps != sorted(set(steps)) and not allow_equal_steps:
        raise CheckpointError(
            f"{unknown}: records no updates (trainer_state.json), and the other checkpoints do not "
            "stand in the order of theirs, so its place is not known; list them in training order"
        )
    return CheckpointOrder(tuple(paths), tuple(range(1, len(paths) + 1)), GIVEN)


def recorded_step(path: Path) -> int | None:
    """Updates that a checkpoint was trained for, by its own record; None if it has none."""
    if path.is_dir():
        try:
            state = json.loads((path / "trainer_state.json").read_text("utf-8"))
            return int(state["global_step"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
    for pattern in _UPDATES_IN_NAMES:
        if match := re.fullmatch(pattern, path.name):
            return int(match[1])
    if path.suffix == ".npz":
        return _marian_notes(path)
    return read_info(path).step if path.suffix == ".safetensors" else None


def _marian_notes(path: Path) -> int | None:
    """Updates in the notes that Marian keeps beside a model, such as its best."""
    try:
        notes = path.with_name(f"{path.name}.progress.yml").read_text("utf-8", "replace")
    except OSError:
        return None
    found = re.search(r"^batches:\s*(\d+)", notes, re.MULTILINE)
    return None if found is None else int(found[1])


def _numbers_of_like_names(names: Sequence[str]) -> list[tuple[int, ...]] | None:
    """The numbers in names that differ in those alone, None unless all are such names."""
    frames = {re.sub(r"\d+", "0", name) for name in names}
    numbers = [tuple(map(int, re.findall(r"\d+", name))) for name in names]
    if len(frames) > 1 or not all(numbers) or len(set(numbers)) < len(numbers):
        return None
    return numbers


def _refuse_repeats(paths: Sequence[Path], steps: Sequence[int]) -> None:
    first: dict[int, Path] = {}
    for path, step in zip(paths, steps, strict=True):
        if step in first:
            # The name that tells no number is the copy.
            pair = sorted((first[step], path), key=lambda each: not re.search(r"\d", each.name))
            raise CheckpointError(
                f"{pair[1]}: is of update {step:,}, as is {pair[0].name}; a checkpoint that counts "
                "twice distorts how perplexity moves: list the others without it"
            )
        first[step] = path
