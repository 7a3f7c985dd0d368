"""Training of proxies on corpora, with checkpoints along the way."""

import hashlib
import io
import math
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pycat.data.batches import Batch
from pycat.data.corpus import Corpus, as_corpus
from pycat.errors import CheckpointError, CorpusError, OutputError, PycatError
from pycat.proxy.checkpoint import load_model, read_info, save_checkpoint
from pycat.proxy.flops import proxy_products
from pycat.proxy.packing import PackedBatches
from pycat.proxy.run import Run, checkpoint_path
from pycat.proxy.stacked_step import Capacity, StackedStep
from pycat.proxy.stacked_transformer import StackedTransformer
from pycat.proxy.transformer import PRESETS, ModelConfig, Transformer
from pycat.runtime.device import choose_device, choose_dtype
from pycat.runtime.manifest import list_files
from pycat.runtime.numbers import check_number
from pycat.runtime.output import OutputFolder, replacing
from pycat.runtime.progress import progress

SCHEDULES = ("linear", "log")
RATE_SCHEDULES = ("wsd", "inverse_sqrt")

# A proxy's early checkpoints are what is wanted of it: a large corpus is not read to its end.
MAX_PROXY_UPDATES = 4000

# Peaks by preset.
LEARNING_RATES = {"mini": 2e-3, "tiny": 1e-3, "base": 7e-4}

# The share of a run in which "wsd" lets the rate fall.
_FALL_SHARE = 1 / 3
_STATE_FILE = "state.pt"
# What `state.pt` begins with, before the SHA-256 of what torch saved, and that.
_STATE_MAGIC = b"pycat.state.1 "
_STATE_EVERY_S = 60.0
# On CUDA a batch holds at most one pair for so many of its tokens. Attention starts a block for
# each pair that a batch could hold, so a bound that only very short pairs reach saves time.
_CUDA_TOKENS_A_PAIR = 12
# The state is deleted first: a folder that is half deleted must not look like one to resume.
_OWNED = (_STATE_FILE, "step-*.safetensors")


class Arm(NamedTuple):
    """One of several models that are trained together."""

    corpus: Corpus
    seed: int
    out: Path


def train(
    corpus: Corpus | str | PathLike[str],
    *,
    out: str | PathLike[str],
    preset: str = "auto",
    checkpoints: int = 5,
    checkpoint_schedule: str = "linear",
    checkpoint_steps: Sequence[int] | None = None,
    epochs: float = 3.0,
    updates: int | None = None,
    batch_tokens: int = 2048,
    learning_rate: float | None = None,
    rate_schedule: str = "inverse_sqrt",
    warmup: int | None = None,
    label_smoothing: float = 0.1,
    dropout: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
) -> Run:
    """Train a Transformer on a corpus, saving checkpoints at chosen updates.

    Args:
        corpus: an open Corpus (or a subset), or the path of one.
        out: the folder to make. A run of the same options is resumed if it was interrupted, and
            opened as it is if finished.
        preset: "mini" (d=128, 4+4 layers), "tiny" (d=256, 3+3 layers), "base" (d=512, 6+6 layers),
            or "auto": "mini" below 100,000 pairs, else "tiny".
        checkpoints: their number; the last is saved at the end of training.
        checkpoint_schedule: "linear" spaces them evenly; "log" doubles the updates from each to
            the next.
        checkpoint_steps: instead of both, the updates after which to save; training ends with
            the last.
        epochs: passes over the corpus, but at most 4,000 updates; `updates`, when given, is used
            instead, without a bound.
        batch_tokens: most tokens of either side of a batch.
        learning_rate: its peak; by default that of the preset.
        rate_schedule: the rate after the peak. "inverse_sqrt" lets it fall with the inverse square
            root of the update (Vaswani et al. 2017, section 5.3). "wsd" holds it, and lets it fall
            linearly to zero over the last third (Hägele et al. 2024, arXiv 2405.18392).
        warmup: updates until the peak (a tenth of all by default, at most 4,000).
        label_smoothing, dropout: probabilities.
        seed: of initial weights, batch order and dropout. On the CPU, with the same number of
            threads, a run repeats bit for bit.
        device: "cpu", "cuda" or "auto".
        dtype: of matrix products: "float32", "bfloat16", or "auto" (bfloat16 where the device
            has it). Weights and the state of Adam stay float32.
        overwrite: replace a run made with other options.

    Returns:
        The run: checkpoint paths, update counts, losses.

    Raises:
        CorpusError: the corpus is smaller than one batch.
        PycatError: an option is out of range, or the loss is not finite.
        OutputError: `out` holds something else, or a run made with other options.
    """
    corpus = as_corpus(corpus)
    if preset == "auto":
        preset = auto_preset(len(corpus))
    check_options(
        preset=preset,
        label_smoothing=label_smoothing,
        dropout=dropout,
        learning_rate=learning_rate,
        rate_schedule=rate_schedule,
        epochs=epochs,
        updates=updates,
        warmup=warmup,
        batch_tokens=batch_tokens,
        seed=seed,
    )
    _check_size(corpus, batch_tokens)
    if updates is None:
        per_epoch = PackedBatches(corpus, batch_tokens, seed=seed).num_batches
        updates = min(MAX_PROXY_UPDATES, max(1, round(epochs * per_epoch)))
    steps = _checkpoint_steps(checkpoints, checkpoint_schedule, checkpoint_steps, updates)
    (run,) = train_together(
        [Arm(corpus, seed, Path(out))],
        checkpoint_steps=steps,
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


def train_together(
    arms: Sequence[Arm],
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
        anneal_each: with "wsd", each of the steps is the end of a budget of its own: the rate falls
            to zero over the last third before it, in a branch off the run at the constant rate.
            The run is as long as two thirds of the largest budget, the branches a third of each.
        preset, batch_tokens, learning_rate, rate_schedule, warmup, label_smoothing, dropout,
            device, dtype, overwrite: as in `train`; `preset` is not "auto".
        advance: called with the updates of each run that were done; by default progress is shown.

    Returns:
        The M runs.

    Raises:
        As `train`.
    """
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)
    steps = list(checkpoint_steps)
    recipe = {
        "preset": preset,
        "checkpoint_steps": steps,
        "batch_tokens": batch_tokens,
        "learning_rate": LEARNING_RATES[preset] if learning_rate is None else learning_rate,
        "rate_schedule": rate_schedule,
        "warmup": warmup if warmup is not None else min(4000, max(1, steps[-1] // 10)),
        "label_smoothing": label_smoothing,
        "dropout": dropout,
        "device": torch_device.type,
        "dtype": str(torch_dtype).removeprefix("torch."),
        **({"anneal_each": True} if anneal_each else {}),
    }
    open_runs = []
    for arm in arms:
        own = {"corpus": arm.corpus.id, "seed": arm.seed, **recipe}
        folder = OutputFolder(arm.out, "proxy", own, _OWNED, overwrite)
        if folder.manifest is None:
            open_runs.append(_OpenRun(arm, folder))
    for place in sorted({run.place for run in open_runs}):
        group = [run for run in open_runs if run.place == place]
        _Trainer(group, recipe, torch_device, torch_dtype).run(advance)
    return [Run.open(arm.out) for arm in arms]


def auto_preset(num_pairs: int) -> str:
    """The preset for a corpus of that size."""
    return "mini" if num_pairs < 100_000 else "tiny"


class _OpenRun:
    """A run that is not finished: its folder, and what `state.pt` says of it."""

    def __init__(self, arm: Arm, folder: OutputFolder) -> None:
        self.arm, self.folder = arm, folder
        self.state: dict[str, Any] | None = None
        path = folder.path / _STATE_FILE
        if folder.resumes and path.is_file():
            self.state = _load_state(path, folder.recipe["checkpoint_steps"])
            self._check_progress(path)
        self.step = 0 if self.state is None else int(self.state["step"])
        self.losses: list[float] = [] if self.state is None else self.state["losses"]
        self.num_tokens = 0 if self.state is None else int(self.state["num_tokens"])
        self.model_flops = 0 if self.state is None else int(self.state["model_flops"])
        self.loss_steps = 0 if self.state is None else int(self.state["loss_steps"])

    def _check_progress(self, path: Path) -> None:
        """Refuse a state whose losses or checkpoints are not those of its update.

        Raises:
            OutputError: says what to delete.
        """
        assert self.state is not None
        recipe, losses = self.folder.recipe, self.state["losses"]
        steps = recipe["checkpoint_steps"]
        done = [step for step in steps if step <= self.state["step"]]
        if not recipe.get("anneal_each") and len(losses) != len(done):
            raise OutputError(
                f"{path}: has {len(losses)} losses at update {self.state['step']:,}, expected "
                f"{len(done)}; delete it, and training starts again"
            )
        for step in steps[: len(losses)]:
            checkpoint = checkpoint_path(self.folder.path, step)
            try:
                load_model(read_info(checkpoint), torch.device("cpu"))
            except CheckpointError as error:
                raise OutputError(
                    f"{error}; the run cannot go on without it: delete {path}, and training "
                    "starts again"
                ) from None

    @property
    def place(self) -> tuple[int, int]:
        """Updates and checkpoints done: runs at one place can go on together."""
        return self.step, len(self.losses)


class _Trainer:
    """M runs that stand at one update: models, optimizer, and their places in their corpora."""

    def __init__(
        self,
        runs: Sequence[_OpenRun],
        recipe: dict[str, Any],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.runs, self.recipe, self.device = runs, recipe, device
        self.step = runs[0].step
        self.stack = StackedTransformer(
            [_new_model(run.arm, recipe["preset"]).to(device) for run in runs], recipe["dropout"]
        )
        self.batches = [
            PackedBatches(
                run.arm.corpus,
                recipe["batch_tokens"],
                batch_pairs=self._batch_pairs(),
                seed=run.arm.seed,
                position=None if run.state is None else run.state["position"],
            )
            for run in runs
        ]
        self.update = StackedStep(
            self.stack,
            eos_id=runs[0].arm.corpus.eos_id,
            label_smoothing=recipe["label_smoothing"],
            dtype=dtype,
            capacity=self._capacity(),
        )
        if self.step > 0:
            self._put_states_back()

    def run(self, advance: Callable[[int], None] | None) -> None:
        """Train to the last checkpoint, from wherever the state is."""
        steps = self.recipe["checkpoint_steps"]
        anneal_each = self.recipe.get("anneal_each", False)
        devices = [self.device] if self.device.type == "cuda" else []
        self.saved_at = time.perf_counter()
        with torch.random.fork_rng(devices), ExitStack() as shown:
            if advance is None:
                total = num_updates(steps, anneal_each=anneal_each)
                advance = shown.enter_context(progress("train", total, "updates", self.step))
            if anneal_each:
                self._run_branches(steps, advance)
            else:
                for _ in self._updates(steps[-1], steps[-1], advance):
                    if self.step in steps:
                        self._save_checkpoints(self.step)
        for m, run in enumerate(self.runs):
            names = [checkpoint_path(run.folder.path, step).name for step in steps]
            run.folder.finish(
                files=list_files(run.folder.path, names),
                losses=run.losses,
                num_tokens=run.num_tokens,
                model_flops=run.model_flops,
                num_stacked=len(self.runs),
                parameters=sum(value.numel() for value in self.stack.state_dict(m).values()),
                torch=torch.__version__,
            )
            (run.folder.path / _STATE_FILE).unlink(missing_ok=True)

    def _run_branches(self, budgets: Sequence[int], advance: Callable[[int], None]) -> None:
        """One run at the constant rate, and for each budget a branch in which the rate falls."""
        # A loss is noted for each budget that is done.
        for budget in budgets[len(self.runs[0].losses) :]:
            for _ in self._updates(_trunk_updates(budget), 0, advance):
                pass
            self._save_states()
            before = self._snapshot()
            for _ in self._updates(budget, budget, advance, saves=False):
                pass
            self._save_checkpoints(budget)
            if budget != budgets[-1]:
                self._restore(before)
                self._save_states()

    def _updates(
        self, until: int, total: int, advance: Callable[[int], None], *, saves: bool = True
    ) -> Iterator[int]:
        """Update to step `until`; the rate falls towards `total`, or not at all if that is 0."""
        while self.step < until:
            # Dropout is seeded by the update, so that a resumed run repeats an uninterrupted one.
            if self.device.type == "cpu":
                torch.manual_seed((self.runs[0].arm.seed << 32) + self.step)
            rate = self.recipe["learning_rate"] * rate_share(
                self.recipe["rate_schedule"], self.step + 1, self.recipe["warmup"], total
            )
            batches = [next(own) for own in self.batches]
            self.update.update(batches, rate)
            for run, batch in zip(self.runs, batches, strict=True):
                run.num_tokens += len(batch.tgt_tokens)
                run.model_flops += _update_flops(self.stack.config, batch)
                run.loss_steps += 1
            self.step += 1
            advance(1)
            yield self.step
            if saves and time.perf_counter() - self.saved_at > _STATE_EVERY_S:
                self._save_states()

    def _save_checkpoints(self, step: int) -> None:
        """Write a checkpoint of each model, and its mean loss since the last one."""
        sums = self.update.loss_sums.tolist()
        self.update.loss_sums.zero_()
        for m, run in enumerate(self.runs):
            loss = sums[m] / run.loss_steps
            if not math.isfinite(loss):
                raise PycatError(
                    f"{run.folder.path}: the training loss is {loss} at update {step:,}; "
                    f"lower learning_rate ({self.recipe['learning_rate']}) or lengthen warmup "
                    f"({self.recipe['warmup']})"
                )
            run.losses.append(loss)
            run.loss_steps = 0
            save_checkpoint(
                checkpoint_path(run.folder.path, step),
                self.stack.model(m),
                step=step,
                tokenizer_sha256=run.arm.corpus.manifest["tokenizer_sha256"],
            )
        if not self.recipe.get("anneal_each", False):
            self._save_states()

    def _snapshot(self) -> dict[str, Any]:
        """All that an update changes, copied on the device."""
        return {
            "parameters": {name: p.detach().clone() for name, p in self.stack.parameters.items()},
            "optimizer": self.update.optimizer_state(),
            "step": self.step,
            "positions": [own.position for own in self.batches],
        }

    def _restore(self, snapshot: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, parameter in self.stack.parameters.items():
                parameter.copy_(snapshot["parameters"][name])
        self.update.load_optimizer_state(snapshot["optimizer"])
        self.step = snapshot["step"]
        for own, position in zip(self.batches, snapshot["positions"], strict=True):
            own.go_to(position)

    def _save_states(self) -> None:
        """Write what each run needs to go on from here."""
        optimizer = self.update.optimizer_state()
        sums = self.update.loss_sums.tolist()
        for m, run in enumerate(self.runs):
            state = {
                "model": self.stack.state_dict(m),
                "optimizer": {
                    name: {key: value[m] if value.dim() else value for key, value in own.items()}
                    for name, own in optimizer.items()
                },
                "step": self.step,
                "losses": run.losses,
                "loss_sum": sums[m],
                "loss_steps": run.loss_steps,
                "num_tokens": run.num_tokens,
                "model_flops": run.model_flops,
                "position": self.batches[m].position,
            }
            # Not straight to the file: torch's errors on a full disk are not OSErrors.
            buffer = io.BytesIO()
            torch.save(_on_host(state), buffer)
            sha256 = hashlib.sha256(buffer.getbuffer()).hexdigest()
            with replacing(run.folder.path / _STATE_FILE) as temporary:
                temporary.write_bytes(
                    b"".join((_STATE_MAGIC, sha256.encode(), b"\n", buffer.getbuffer()))
                )
            run.folder.record()
        self.saved_at = time.perf_counter()

    def _put_states_back(self) -> None:
        """Go on from the states.

        Raises:
            OutputError: a state is of models of another shape.
        """
        try:
            self._load_states()
        except (RuntimeError, KeyError, ValueError, AttributeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise OutputError(
                f"{self.runs[0].folder.path / _STATE_FILE}: does not fit the models that are "
                f"trained ({reason}); delete it, and training starts again"
            ) from None

    def _load_states(self) -> None:
        states = [run.state for run in self.runs if run.state is not None]
        for state in states:
            for name, parameter in self.stack.parameters.items():
                own = {"weights": state["model"][name], **state["optimizer"][name]}
                for key, value in own.items():
                    # Adam's count is a scalar.
                    if key != "step" and value.shape != parameter.shape[1:]:
                        raise ValueError(f"{key} of {name} have shape {tuple(value.shape)}")
        with torch.no_grad():
            for name, parameter in self.stack.parameters.items():
                parameter.copy_(torch.stack([state["model"][name] for state in states]))
        names = states[0]["optimizer"]
        self.update.load_optimizer_state(
            {
                name: {
                    key: torch.stack([state["optimizer"][name][key] for state in states])
                    if value.dim()
                    else value
                    for key, value in names[name].items()
                }
                for name in names
            }
        )
        sums = torch.tensor([state["loss_sum"] for state in states], dtype=torch.float64)
        self.update.loss_sums.copy_(sums)

    def _batch_pairs(self) -> int | None:
        if self.device.type != "cuda":
            return None
        return max(1, int(self.recipe["batch_tokens"]) // _CUDA_TOKENS_A_PAIR)

    def _capacity(self) -> Capacity:
        """What no batch of any of the runs exceeds."""
        corpora = [run.arm.corpus for run in self.runs]
        src, tgt = (
            max(int(lengths.max()) for lengths in sides)
            for sides in (
                [corpus.num_src_tokens for corpus in corpora],
                [corpus.num_tokens for corpus in corpora],
            )
        )
        batch_tokens = self.recipe["batch_tokens"]
        return Capacity(
            max(batch_tokens, src), max(batch_tokens, tgt), self._batch_pairs() or 0, max(src, tgt)
        )


def _new_model(arm: Arm, preset: str) -> Transformer:
    """A model with the initial weights of the arm's seed."""
    config = ModelConfig(
        vocab_size=arm.corpus.vocab_size,
        src_vocab_size=arm.corpus.src_vocab_size,
        **PRESETS[preset],
    )
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(arm.seed)
        return Transformer(config)


def _update_flops(config: ModelConfig, batch: Batch) -> int:
    """Operations of an update: those of the forward pass, and twice as many backward."""
    lengths = (ends.diff().numpy().astype(float) for ends in (batch[1], batch[3]))
    return 3 * 2 * proxy_products(config, *lengths)


def check_options(**options: Any) -> None:
    """Refuse those of the given options of training that are out of range."""
    for name, known in (("preset", PRESETS), ("rate_schedule", RATE_SCHEDULES)):
        if name in options and options[name] not in known:
            raise PycatError(f"{name} is {options[name]!r}; expected one of {', '.join(known)}")
    ranges: dict[str, dict[str, Any]] = {
        "label_smoothing": {"low": 0, "high": 1, "below": True, "whole": False},
        "dropout": {"low": 0, "high": 0.9, "whole": False},
        "learning_rate": {"low": 0, "above": True, "high": 1, "below": True, "whole": False},
        "epochs": {"low": 0, "above": True, "high": 1_000_000, "below": True, "whole": False},
        "updates": {"low": 1},
        "warmup": {"low": 1},
        "batch_tokens": {"low": 1, "high": 2**31, "below": True},
        "seed": {"low": 0, "high": 2**31, "below": True},
    }
    for name, bounds in ranges.items():
        may_be_none = name in ("learning_rate", "updates", "warmup")
        if name in options and not (may_be_none and options[name] is None):
            check_number(name, options[name], **bounds)


def _check_size(corpus: Corpus, batch_tokens: int) -> None:
    num_tokens = int(corpus.num_tokens.sum())
    if num_tokens < batch_tokens:
        raise CorpusError(
            f"{corpus.path}: {len(corpus):,} pairs hold {num_tokens:,} target tokens, expected at "
            f"least one batch of {batch_tokens:,}; add text, or lower batch_tokens to "
            f"{max(1, num_tokens // 4):,}"
        )


def _load_state(path: Path, steps: Sequence[int]) -> dict[str, Any]:
    """What a run that saves after these steps needs to go on.

    Raises:
        OutputError: the file cannot be read, is not the one that was written, or is of another run.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(len(_STATE_MAGIC) + 65)
            if begin.startswith(_STATE_MAGIC):
                content = file.read()
                if hashlib.sha256(content).hexdigest().encode() != begin[-65:-1]:
                    raise ValueError("its SHA-256 is not the one it was saved with")
            else:  # a state of a pycat before there were hashes
                content = begin + file.read()
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
        _check_state(state, steps)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OutputError(
            f"{path}: cannot be read ({reason}); delete it, and training starts again"
        ) from None
    return state


def _check_state(state: Any, steps: Sequence[int]) -> None:
    """Refuse, by ValueError, a state without what a run that saves after these steps needs."""
    kinds = {
        "model": dict,
        "optimizer": dict,
        "step": int,
        "losses": list,
        "loss_sum": float,
        "loss_steps": int,
        "num_tokens": int,
        "model_flops": int,
        "position": dict,
    }
    if not isinstance(state, dict):
        raise ValueError(f"it holds {type(state).__name__}, expected dict")
    for name, kind in kinds.items():
        if name not in state:
            raise ValueError(f"it has no {name}")
        if not isinstance(state[name], kind):
            raise ValueError(
                f"its {name} is {type(state[name]).__name__}, expected {kind.__name__}"
            )
    for name in ("epoch", "batch"):
        if type(state["position"].get(name)) is not int or state["position"][name] < 0:
            raise ValueError(f"its position has no {name} from 0")
    losses = state["losses"]
    if not all(isinstance(loss, float) and math.isfinite(loss) for loss in losses):
        raise ValueError("its losses are not finite numbers")
    if not 1 <= state["step"] <= steps[-1] or len(losses) > len(steps):
        raise ValueError(
            f"it has {len(losses)} losses at update {state['step']}, expected at most {len(steps)} "
            f"at updates 1 to {steps[-1]}"
        )
    for name in ("model", "optimizer"):
        values = state[name].values()
        inner = values if name == "model" else [v for own in values for v in own.values()]
        for value in inner:
            if not isinstance(value, Tensor) or not value.isfinite().all():
                raise ValueError(f"its {name} holds what is no tensor of finite numbers")


def _on_host(value: Any) -> Any:
    """The same, with copies of its tensors in the host's memory."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _on_host(item) for key, item in value.items()}
    return value


def rate_share(schedule: str, step: int, warmup: int, total: int) -> float:
    """Share of the peak rate at update `step`, counted from 1, of `total` (0: without an end)."""
    if schedule == "inverse_sqrt":
        return min(step / warmup, math.sqrt(warmup / step))
    fall = max(1, round(total * _FALL_SHARE))
    share = (total - step + 1) / fall if total else 1.0
    return min(step / warmup, share, 1.0)


def num_updates(steps: Sequence[int], *, anneal_each: bool) -> int:
    """Updates of a run that saves after these steps, those of its branches counted."""
    if not anneal_each:
        return steps[-1]
    return _trunk_updates(steps[-1]) + sum(map(_branch_updates, steps))


def _branch_updates(budget: int) -> int:
    """Updates of a budget in which the rate falls."""
    return max(1, round(budget * _FALL_SHARE))


def _trunk_updates(budget: int) -> int:
    """Updates of a budget before the rate falls."""
    return budget - _branch_updates(budget)


def _checkpoint_steps(
    count: int, schedule: str, given: Sequence[int] | None, updates: int
) -> list[int]:
    """The updates after which to save: ascending, distinct, at least two.

    Raises:
        PycatError: they are not.
    """
    if given is not None:
        steps = list(given)
        for step in steps:
            check_number("a step of checkpoint_steps", step)
        if len(steps) < 2 or steps[0] < 1 or sorted(set(steps)) != steps:
            raise PycatError(
                f"checkpoint_steps are {steps}; expected at least two ascending updates from 1"
            )
        return steps
    if schedule not in SCHEDULES:
        raise PycatError(
            f"checkpoint_schedule is {schedule!r}; expected one of {', '.join(SCHEDULES)}"
        )
    if count < 1:
        raise PycatError(f"checkpoints is {count}; expected at least 1 (2 to be scored)")
    ranks = range(1, count + 1)
    if schedule == "linear":
        steps = [round(updates * i / count) for i in ranks]
    else:
        steps = [round(updates / 2 ** (count - i)) for i in ranks]
    if steps[0] < 1 or len(set(steps)) < count:
        raise PycatError(
            f"{updates:,} updates cannot hold {count} {schedule} checkpoints; train longer "
            "(epochs, updates), lower batch_tokens, or keep fewer checkpoints"
        )
    return steps
