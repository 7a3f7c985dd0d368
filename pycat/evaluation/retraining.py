"""Retraining of many arms: stacked on a CUDA device, one process a core on a CPU."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch

from pycat.data.reopening import CorpusAddress
from pycat.errors import PycatError
from pycat.proxy.run import Run
from pycat.proxy.schedules import num_updates
from pycat.proxy.trainer import Arm
from pycat.proxy.training import count_updates_done, train_together
from pycat.runtime.children import ctrl_c_held_back, end_with_parent
from pycat.runtime.device import choose_device
from pycat.runtime.parts import map_parts
from pycat.runtime.progress import progress

# Models of one stack on a CUDA device: more fill it no better.
MAX_STACKED = 16

_POLL_S = 0.5

# In a worker process: updates done, of all workers together.
_done: "Synchronized[int] | None" = None


def retrain(
    arms: Sequence[Arm],
    *,
    checkpoint_steps: Sequence[int],
    device: str = "auto",
    num_workers: int | None = None,
    on: str = "local",
    **options: Any,
) -> list[Run]:
    """Train one model for each arm; each can be interrupted, and goes on where it was.

    Args:
        arms: corpora, seeds and folders, all of one vocabulary.
        checkpoint_steps: as in `train_together`; every budget is annealed in a branch of its own.
        device: "cpu", "cuda" or "auto".
        num_workers: processes on a CPU, of one thread each; by default as many as cores. On Ray,
            workers at most.
        on: "local", or where Ray trains, as in `score`: on a CPU each worker has a core and an arm
            at a time, on CUDA a GPU and a stack.
        options: further ones of `train_together`.

    Returns:
        The runs, in the order of the arms.

    Raises:
        As `train_together`.
    """
    options |= {"checkpoint_steps": checkpoint_steps, "anneal_each": True}
    a_run = num_updates(checkpoint_steps, anneal_each=True)
    of_recipe = {name: value for name, value in options.items() if name != "overwrite"}
    done = count_updates_done(arms, device=device, **of_recipe)
    with progress("retrain", a_run * len(arms), "updates", done) as advance:
        if on != "local":
            is_cuda = choose_device(device).type == "cuda"
            size = MAX_STACKED if is_cuda else 1
            stacks = [
                tuple(_ArmElsewhere.of(arm) for arm in arms[first : first + size])
                for first in range(0, len(arms), size)
            ]
            load = partial(_load_training, {"device": device, **options})
            trained = map_parts(
                load, stacks, on=on, num_workers=num_workers, uses_gpu=is_cuda, max_threads=1
            )
            with closing(trained):
                for stack, _ in trained:
                    advance(a_run * len(stack))
        elif choose_device(device).type == "cuda":
            runs = []
            for first in range(0, len(arms), MAX_STACKED):
                stacked = arms[first : first + MAX_STACKED]
                each = partial(_advance_all, advance, len(stacked))
                runs += train_together(stacked, device=device, advance=each, **options)
            return runs
        else:
            num_workers = num_workers or len(os.sched_getaffinity(0))
            _train_in_processes(arms, min(num_workers, len(arms)), options, advance)
    return [Run.open(arm.out) for arm in arms]


def _train_in_processes(
    arms: Sequence[Arm], num_workers: int, options: dict[str, Any], advance: Callable[[float], None]
) -> None:
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    shown = 0
    with ProcessPoolExecutor(num_workers, context, _begin_worker, (os.getpid(), done)) as pool:
        with ctrl_c_held_back():
            waiting = {pool.submit(_train_one, _ArmElsewhere.of(arm), options) for arm in arms}
        try:
            while waiting:
                finished, waiting = wait(waiting, _POLL_S, FIRST_COMPLETED)
                for future in finished:
                    future.result()
                now = int(done.value)
                advance(now - shown)
                shown = now
        except BrokenProcessPool:
            raise PycatError(
                "a worker process of the retraining was killed, most likely for lack of memory; "
                "run the same command again, with fewer --num-workers: what is trained is kept"
            ) from None
        finally:
            for future in waiting:
                future.cancel()


@dataclass(frozen=True)
class _ArmElsewhere:
    """An arm as another process finds it."""

    corpus: CorpusAddress
    seed: int
    out: Path

    @classmethod
    def of(cls, arm: Arm) -> "_ArmElsewhere":
        return cls(CorpusAddress.of(arm.corpus), arm.seed, arm.out.absolute())

    def arm(self) -> Arm:
        return Arm(self.corpus.open(), self.seed, self.out)


def _begin_worker(parent: int, done: "Synchronized[int]") -> None:
    global _done
    end_with_parent(parent)
    _done = done
    # Several threads of one model lose to one thread each of several models.
    torch.set_num_threads(1)


def _train_one(arm: _ArmElsewhere, options: dict[str, Any]) -> None:
    train_together([arm.arm()], device="cpu", advance=_count, **options)


def _load_training(
    options: dict[str, Any], num_threads: int
) -> Callable[[Sequence[_ArmElsewhere]], None]:
    """What a worker of Ray does to a stack of arms. A stack that was begun goes on."""
    torch.set_num_threads(num_threads)
    return partial(_train_stack, options)


def _train_stack(options: dict[str, Any], stack: Sequence[_ArmElsewhere]) -> None:
    train_together([arm.arm() for arm in stack], advance=lambda updates: None, **options)


def _advance_all(advance: Callable[[float], None], num_models: int, updates: int) -> None:
    advance(updates * num_models)


def _count(updates: int) -> None:
    assert _done is not None
    with _done.get_lock():
        _done.value += updates
