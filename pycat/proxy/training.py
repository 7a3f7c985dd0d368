"""Training of proxies on corpora, with checkpoints along the way."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pycat.data.corpus import Corpus
from pycat.data.opening import as_corpus
from pycat.data.staging import names_copies, staged_corpus
from pycat.errors import CorpusError, PycatError
from pycat.proxy.dynamic_pruning import DYNAMIC_BY, DYNAMIC_UNITS
from pycat.proxy.packing import PackedBatches
from pycat.proxy.run import Run
from pycat.proxy.schedules import RATE_SCHEDULES, checkpoint_steps_of, default_warmup
from pycat.proxy.trainer import OWNED, WORKING, Arm, OpenRun, Trainer, state_of, updates_done
from pycat.proxy.transformer import PRESETS
from pycat.runtime.device import choose_device, choose_dtype
from pycat.runtime.numbers import check_number
from pycat.runtime.output import OutputFolder
from pycat.runtime.ranks import Ranks, join_ranks, launch, rank_device

# A proxy's early checkpoints are what is wanted of it: a large corpus is not read to its end.
MAX_PROXY_UPDATES = 4000

# Peaks by preset.
# Chosen by dev loss on random pairs, for mini; docs/training.md has the grid.
LEARNING_RATES = {"mini": 4e-3, "tiny": 1e-3, "base": 7e-4}
BATCH_TOKENS = {"mini": 1024, "tiny": 2048, "base": 2048}


@names_copies
def train(
    corpus: Corpus | str | PathLike[str],
    *,
    out: str | PathLike[str],
    preset: str = "auto",
    checkpoints: int = 5,
    checkpoint_schedule: str = "linear",
    checkpoint_steps: Sequence[int] | None = None,
    dynamic: float | None = None,
    dynamic_by: str = "loss",
    dynamic_unit: str = "pairs",
    epochs: float = 3.0,
    updates: int | None = None,
    batch_tokens: int | None = None,
    learning_rate: float | None = None,
    rate_schedule: str = "inverse_sqrt",
    warmup: int | None = None,
    label_smoothing: float = 0.1,
    dropout: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    stage: str | PathLike[str] | None = None,
) -> Run:
    """Train a Transformer on a corpus, saving checkpoints at chosen updates.

    Called by several ranks that torch's launcher started (`pycat.runtime.ranks`), it trains one
    model, each rank on its share of every batch; rank 0 alone writes. Dropout aside, that is the
    training of one process up to rounding.

    Args:
        corpus: an open Corpus (or a subset), or the path of one.
        out: the folder to make. A run of the same options is resumed if it was interrupted, and
            opened as it is if finished.
        preset: "mini" (d=128, 4+4 layers), "tiny" (d=256, 3+3 layers), "base" (d=512, 6+6 layers),
            or "auto": "mini" below 100,000 pairs, else "tiny".
        checkpoints: their number; the last is saved at the end of training.
        checkpoint_schedule: "linear" spaces them evenly; "log" doubles the updates from each to
            the next; "loss" lets the training loss fall by equal steps behind the warm-up, so that
            none lies in it (`LossSchedule`).
        checkpoint_steps: instead of both, the updates after which to save; training ends with
            the last.
        dynamic: share of the corpus that each epoch trains on, in (0, 1), chosen by the losses of
            earlier epochs; None trains on all of it (`pycat.proxy.dynamic_pruning`).
        dynamic_by: "loss" (the highest), "infobatch" (the low ones at random, re-weighted) or
            "random".
        dynamic_unit: "pairs", or "spans" of at most 16 target tokens.
        epochs: passes over the corpus, or over that share of it, but at most 4,000 updates;
            `updates`, when given, is used instead, without a bound.
        batch_tokens: most tokens of either side of a batch, of all ranks together; by default
            1,024 for mini, else 2,048.
        learning_rate: its peak; by default 4e-3 for mini, 1e-3 for tiny, 7e-4 for base.
        rate_schedule: the rate after the peak. "inverse_sqrt" lets it fall with the inverse square
            root of the update (Vaswani et al. 2017, section 5.3). "wsd" holds it, and lets it fall
            linearly to zero over the last third (Hägele et al. 2024, arXiv 2405.18392).
        warmup: updates until the peak (a tenth of all by default, at most 4,000).
        label_smoothing, dropout: probabilities.
        seed: of initial weights, batch order and dropout. On the CPU, with the same number of
            threads and of ranks, a run repeats bit for bit.
        device: "cpu", "cuda" or "auto".
        dtype: of matrix products: "float32", "bfloat16", or "auto" (bfloat16 where the device
            has it). Weights and the state of Adam stay float32.
        overwrite: replace a run made with other options.
        stage: a folder on this machine's own disk; the corpus is copied into it first, unless it
            is there, and read there (`pycat.data.staging`).

    Returns:
        The run: checkpoint paths, update counts, losses.

    Raises:
        CorpusError: the corpus is smaller than one batch.
        PycatError: an option is out of range, the loss is not finite, or ranks cannot meet, differ
            in an option, or lose one of them.
        OutputError: `out` holds something else, or a run made with other options.
    """
    corpus = as_corpus(corpus)
    if stage is not None:
        corpus = staged_corpus(corpus, stage)
    if preset == "auto":
        preset = auto_preset(len(corpus))
    check_options(
        preset=preset,
        label_smoothing=label_smoothing,
        dropout=dropout,
        learning_rate=learning_rate,
        rate_schedule=rate_schedule,
        dynamic=dynamic,
        dynamic_by=dynamic_by,
        dynamic_unit=dynamic_unit,
        epochs=epochs,
        updates=updates,
        warmup=warmup,
        batch_tokens=batch_tokens,
        seed=seed,
    )
    by_loss = checkpoint_schedule == "loss" and checkpoint_steps is None
    if by_loss and dynamic is not None:
        raise PycatError(
            "checkpoint_schedule is 'loss', which dynamic pruning does not allow: the loss on what "
            "an epoch chooses does not fall evenly; expected linear or log"
        )
    if batch_tokens is None:
        batch_tokens = BATCH_TOKENS[preset]
    check_size(corpus, batch_tokens)
    if updates is None:
        passes = epochs * (1.0 if dynamic is None else dynamic)
        updates = _updates_of(corpus, batch_tokens, seed, passes)
    steps = checkpoint_steps_of(
        checkpoints,
        checkpoint_schedule,
        checkpoint_steps,
        updates,
        default_warmup(updates) if warmup is None else warmup,
    )
    (run,) = train_together(
        [Arm(corpus, seed, Path(out))],
        checkpoint_steps=steps,
        loss_checkpoints=checkpoints if by_loss else None,
        dynamic=None
        if dynamic is None
        else {"share": dynamic, "by": dynamic_by, "unit": dynamic_unit},
        preset=preset,
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        rate_schedule=rate_schedule,
        warmup=warmup,
        label_smoothing=label_smoothing,
        dropout=dropout,
        device=device,
        dtype=dtype,
        overwrite=overwrite,
    )
    return run


def _updates_of(corpus: Corpus, batch_tokens: int, seed: int, passes: float) -> int:
    """Updates of so many passes over a corpus, at most 4,000."""
    # No batch holds more, so a large corpus needs not be ordered to be counted.
    fewest = int(corpus.num_tokens.sum(dtype=np.int64)) / batch_tokens
    if round(passes * fewest) >= MAX_PROXY_UPDATES:
        return MAX_PROXY_UPDATES
    per_epoch = PackedBatches(corpus, batch_tokens, seed=seed).num_batches
    return min(MAX_PROXY_UPDATES, max(1, round(passes * per_epoch)))


def train_together(
    arms: Sequence[Arm],
    *,
    checkpoint_steps: Sequence[int],
    loss_checkpoints: int | None = None,
    dynamic: dict[str, Any] | None = None,
    preset: str,
    batch_tokens: int = 2048,
    learning_rate: float | None = None,
    rate_schedule: str = "wsd",
    anneal_each: bool = False,
    warmup: int | None = None,
    label_smoothing: float = 0.1,
    dropout: float = 0.1,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    advance: Callable[[int], None] | None = None,
) -> list[Run]:
    """Train models of one shape as one stacked model, each on its own corpus and seed.

    Args:
        arms: M of them, of one vocabulary. Each becomes the run that it would be alone, up to
            rounding and dropout masks. Those that are finished are opened; those that were
            interrupted go on, with those that stand at the same update.
        checkpoint_steps: ascending updates after which to save; training ends with the last.
        loss_checkpoints: instead, keep so many by the loss, as `LossSchedule` chooses them.
        dynamic: `share`, `by` and `unit` of `DynamicBatches`; None trains on everything. Neither of
            the two goes with `anneal_each`.
        anneal_each: with "wsd", each of the steps is the end of a budget of its own: the rate falls
            to zero over the last third before it, in a branch off the run at the constant rate.
            The run is as long as two thirds of the largest budget, the branches a third of each.
        preset, batch_tokens, learning_rate, rate_schedule, warmup, label_smoothing, dropout,
            device, dtype, overwrite: as in `train`; `preset` is not "auto", and only a label where
            all arms have initial weights.
        advance: called with the updates of each run that were done; by default progress is shown.

    Returns:
        The M runs.

    Raises:
        As `train`.
    """
    started = launch()
    torch_device = choose_device(rank_device(device, started))
    recipe = _recipe(
        torch_device,
        checkpoint_steps=list(checkpoint_steps),
        preset=preset,
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        rate_schedule=rate_schedule,
        anneal_each=anneal_each,
        warmup=warmup,
        label_smoothing=label_smoothing,
        dropout=dropout,
        dtype=dtype,
        loss_checkpoints=loss_checkpoints,
        dynamic=dynamic,
    )
    if started.num_ranks > 1:
        _check_for_ranks(len(arms), dynamic)
    ranks = join_ranks(started)
    with ExitStack() as folders:
        ranks.check_equal({**_recipe_of(arms[0], recipe), "torch": torch.__version__})
        open_runs = []
        for arm in arms:
            own = _recipe_of(arm, recipe)
            run = _open_run(arm, own, folders, ranks, overwrite=overwrite)
            if run is not None:
                open_runs.append(run)
        products: torch.dtype = getattr(torch, recipe["dtype"])
        for place in sorted({run.place for run in open_runs}):
            group = [run for run in open_runs if run.place == place]
            Trainer(group, recipe, torch_device, products, ranks).run(advance)
        return ranks.from_first(lambda: [Run.open(arm.out) for arm in arms])


def _open_run(
    arm: Arm, recipe: dict[str, Any], folders: ExitStack, ranks: Ranks, *, overwrite: bool
) -> OpenRun | None:
    """The run of an arm, its folder locked by rank 0 and left to `folders`; None if finished."""
    opened: list[OutputFolder] = []

    def open_folder() -> tuple[bool, dict[str, Any] | None]:
        folder = OutputFolder(arm.out, "proxy", recipe, OWNED, overwrite, working=WORKING)
        opened.append(folders.enter_context(folder))
        return folder.manifest is not None, state_of(folder)

    is_finished, state = ranks.from_first(open_folder)
    own = opened[0] if opened else None
    return None if is_finished else OpenRun(arm, own, state, recipe)


def _check_for_ranks(num_arms: int, dynamic: Mapping[str, Any] | None) -> None:
    """Refuse what several ranks cannot train.

    Raises:
        PycatError: says what.
    """
    if num_arms > 1:
        raise PycatError(
            f"{num_arms} models are to be trained as one, which several ranks (torchrun) cannot; "
            "start it in one process"
        )
    if dynamic is not None:
        raise PycatError(
            "dynamic pruning was asked for, which several ranks (torchrun) cannot do, for each "
            "has the losses of its own share alone; leave out dynamic, or train in one process"
        )


def count_updates_done(arms: Sequence[Arm], *, device: str = "auto", **options: Any) -> int:
    """Updates that earlier calls of `train_together` made of these arms with these options."""
    recipe = _recipe(choose_device(device), **options)
    return sum(updates_done(arm.out, _recipe_of(arm, recipe)) for arm in arms)


def _recipe(
    device: torch.device,
    *,
    checkpoint_steps: Sequence[int],
    preset: str,
    batch_tokens: int = 2048,
    learning_rate: float | None = None,
    rate_schedule: str = "wsd",
    anneal_each: bool = False,
    warmup: int | None = None,
    label_smoothing: float = 0.1,
    dropout: float = 0.1,
    dtype: str = "auto",
    loss_checkpoints: int | None = None,
    dynamic: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What determines a run beside its corpus and seed, with defaults filled in."""
    steps = list(checkpoint_steps)
    return {
        "preset": preset,
        "checkpoint_steps": steps,
        "batch_tokens": batch_tokens,
        "learning_rate": LEARNING_RATES[preset] if learning_rate is None else learning_rate,
        "rate_schedule": rate_schedule,
        "warmup": default_warmup(steps[-1]) if warmup is None else warmup,
        "label_smoothing": label_smoothing,
        "dropout": dropout,
        "device": device.type,
        "dtype": str(choose_dtype(dtype, device)).removeprefix("torch."),
        **({"anneal_each": True} if anneal_each else {}),
        **({} if loss_checkpoints is None else {"loss_checkpoints": loss_checkpoints}),
        **({} if dynamic is None else {"dynamic": dict(dynamic)}),
    }


def _recipe_of(arm: Arm, recipe: dict[str, Any]) -> dict[str, Any]:
    initial = {} if arm.initial is None else {"initial": arm.initial.sha256}
    return {"corpus": arm.corpus.id, "seed": arm.seed, **recipe, **initial}


def auto_preset(num_pairs: int) -> str:
    """The preset for a corpus of that size."""
    return "mini" if num_pairs < 100_000 else "tiny"


def check_options(**options: Any) -> None:
    """Refuse those of the given options of training that are out of range."""
    for name, known in (
        ("preset", PRESETS),
        ("rate_schedule", RATE_SCHEDULES),
        ("dynamic_by", DYNAMIC_BY),
        ("dynamic_unit", DYNAMIC_UNITS),
    ):
        if name in options and options[name] not in known:
            raise PycatError(f"{name} is {options[name]!r}; expected one of {', '.join(known)}")
    between = {"low": 0, "above": True, "high": 1, "below": True, "whole": False}
    ranges: dict[str, dict[str, Any]] = {
        "label_smoothing": {"low": 0, "high": 1, "below": True, "whole": False},
        "dropout": {"low": 0, "high": 0.9, "whole": False},
        "learning_rate": between,
        "dynamic": between,
        "epochs": {**between, "high": 1_000_000},
        "updates": {"low": 1},
        "warmup": {"low": 1},
        "batch_tokens": {"low": 1, "high": 2**31, "below": True},
        "seed": {"low": 0, "high": 2**31, "below": True},
    }
    for name, bounds in ranges.items():
        may_be_none = name in ("batch_tokens", "learning_rate", "dynamic", "updates", "warmup")
        if name in options and not (may_be_none and options[name] is None):
            check_number(name, options[name], **bounds)


def check_size(corpus: Corpus, batch_tokens: int) -> None:
    """Refuse a corpus that is smaller than one batch."""
    num_tokens = int(corpus.num_tokens.sum())
    if num_tokens < batch_tokens:
        raise CorpusError(
            f"{corpus.path}: {len(corpus):,} pairs hold {num_tokens:,} target tokens, expected at "
            f"least one batch of {batch_tokens:,}; add text, or lower batch_tokens to "
            f"{max(1, num_tokens // 4):,}"
        )
