"""The loop that trains proxies, goes on where it was interrupted, and saves checkpoints."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pycat.data.batches import Batch
from pycat.data.corpus import Corpus
from pycat.errors import CheckpointError, OutputError, PycatError
from pycat.proxy.checkpoint import CheckpointInfo, load_model, read_info, save_checkpoint
from pycat.proxy.dynamic_pruning import DynamicBatches
from pycat.proxy.flops import proxy_products
from pycat.proxy.packing import PackedBatches
from pycat.proxy.run import checkpoint_path
from pycat.proxy.run_state import check_shapes, read_state, unusable, write_state
from pycat.proxy.schedules import (
    LossSchedule,
    num_updates,
    rate_share,
    trunk_updates,
    updates_before,
)
from pycat.proxy.stacked_step import Capacity, StackedStep
from pycat.proxy.stacked_transformer import StackedTransformer
from pycat.proxy.transformer import PRESETS, ModelConfig, Transformer
from pycat.runtime.manifest import list_files
from pycat.runtime.output import OutputFolder, recorded_recipe
from pycat.runtime.progress import progress
from pycat.runtime.ranks import ALONE, Ranks

_STATE_FILE = "state.pt"
_STATE_EVERY_S = 60.0
# On CUDA a batch holds at most one pair for so many of its tokens. Attention starts a block for
# each pair that a batch could hold, so a bound that only very short pairs reach saves time.
_CUDA_TOKENS_A_PAIR = 12
# Room that a rank has for its share of a batch on CUDA, in even shares, beside one longest pair.
# Shares have like sums of source and target tokens, but more of one side now and then.
_SHARE_ROOM = 1.125
# The state is deleted first: a folder that is half deleted must not look like one to resume.
OWNED = (_STATE_FILE, "step-*.safetensors")
# Of those, what only an unfinished run needs.
WORKING = (_STATE_FILE,)


class Arm(NamedTuple):
    """One of several models that are trained together; it starts from `initial`, if given."""

    corpus: Corpus
    seed: int
    out: Path
    initial: CheckpointInfo | None = None


class OpenRun:
    """A run that is not finished: its folder, which rank 0 alone has, and its state."""

    def __init__(
        self,
        arm: Arm,
        folder: OutputFolder | None,
        state: dict[str, Any] | None,
        recipe: Mapping[str, Any],
    ) -> None:
        self.arm, self._folder, self.state = arm, folder, state
        self.step = 0 if self.state is None else int(self.state["step"])
        self.losses: list[float] = [] if self.state is None else self.state["losses"]
        self.num_tokens = 0 if self.state is None else int(self.state["num_tokens"])
        self.model_flops = 0 if self.state is None else int(self.state["model_flops"])
        self.loss_steps = 0 if self.state is None else int(self.state["loss_steps"])
        self.loss_schedule: LossSchedule | None = None
        if "loss_checkpoints" in recipe:
            updates = recipe["checkpoint_steps"][-1]
            self.loss_schedule = LossSchedule(recipe["loss_checkpoints"], recipe["warmup"], updates)
            if self.state is not None:
                self.loss_schedule.restore(self.state["blocks"])

    @property
    def folder(self) -> OutputFolder:
        """The folder, on rank 0."""
        assert self._folder is not None
        return self._folder

    @property
    def place(self) -> tuple[int, int]:
        """Updates and checkpoints done: runs at one place can go on together."""
        return self.step, len(self.losses)


def state_of(folder: OutputFolder) -> dict[str, Any] | None:
    """The state from which a run goes on in its folder; None at the beginning.

    Raises:
        OutputError: it is damaged, of another run, or its checkpoints are gone or damaged; says
            what to delete.
    """
    path = folder.path / _STATE_FILE
    if folder.manifest is not None or not (folder.resumes and path.is_file()):
        return None
    state = read_state(path)
    recipe, losses, step = folder.recipe, state["losses"], state["step"]
    steps = recipe["checkpoint_steps"]
    if step > steps[-1]:
        raise unusable(path, ValueError(f"it is of update {step:,} of {steps[-1]:,}"))
    if "loss_checkpoints" in recipe:
        return state
    num_done = sum(done <= step for done in steps)
    if len(losses) > len(steps) or (not recipe.get("anneal_each") and len(losses) != num_done):
        found = f"it has {len(losses)} losses at update {step:,}, expected {num_done}"
        raise unusable(path, ValueError(found))
    for saved in steps[: len(losses)]:
        try:
            load_model(read_info(checkpoint_path(folder.path, saved)), torch.device("cpu"))
        except CheckpointError as error:
            raise OutputError(
                f"{error}; the run cannot go on without it: delete {path}, and training "
                "starts again"
            ) from None
    return state


class Trainer:
    """M runs that stand at one update: models, optimizer, and their places in their corpora."""

    def __init__(
        self,
        runs: Sequence[OpenRun],
        recipe: dict[str, Any],
        device: torch.device,
        dtype: torch.dtype,
        ranks: Ranks = ALONE,
    ) -> None:
        self.runs, self.recipe, self.device, self.ranks = runs, recipe, device, ranks
        self.step = runs[0].step
        self.stack = StackedTransformer(
            [_new_model(run.arm, recipe["preset"]).to(device) for run in runs], recipe["dropout"]
        )
        self.batches = [self._batches_of(run) for run in runs]
        self.update = StackedStep(
            self.stack,
            eos_id=runs[0].arm.corpus.eos_id,
            label_smoothing=recipe["label_smoothing"],
            dtype=dtype,
            capacity=self._capacity(),
            ranks=ranks,
            optimizer=recipe.get("optimizer", "adam"),
        )
        if self.step > 0:
            self._put_states_back()

    def run(self, advance: Callable[[int], None] | None) -> None:
        """Train to the last checkpoint, from wherever the state is."""
        steps, anneal_each = self.recipe["checkpoint_steps"], self._anneal_each
        devices = [self.device] if self.device.type == "cuda" else []
        self.saved_at = time.perf_counter()
        with torch.random.fork_rng(devices), ExitStack() as shown:
            if self.ranks.num_ranks > 1 and self.device.type == "cuda":
                # Ranks drop other activations. (On the CPU each update is seeded.)
                torch.cuda.manual_seed(self._dropout_seed())
            if not self.ranks.is_first:
                advance = _show_nothing
            elif advance is None:
                total = num_updates(steps, anneal_each=anneal_each)
                done = updates_before(
                    steps, self.step, len(self.runs[0].losses), anneal_each=anneal_each
                )
                advance = shown.enter_context(progress("train", total, "updates", done))
            if anneal_each:
                self._run_branches(steps, advance)
            else:
                for _ in self._updates(steps[-1], steps[-1], advance):
                    if self.runs[0].loss_schedule is not None:
                        self._end_block()
                    elif self.step in steps:
                        self._save_checkpoints(self.step)
        for m, run in enumerate(self.runs if self.ranks.is_first else ()):
            chosen = self._chosen_by_loss(run)  # deletes what the loss did not choose
            names = [path.name for path in run.folder.path.glob("step-*.safetensors")]
            run.folder.finish(
                **chosen,
                files=list_files(run.folder.path, names),
                num_tokens=run.num_tokens,
                model_flops=run.model_flops,
                num_stacked=len(self.runs),
                **({} if self.ranks.num_ranks == 1 else {"num_ranks": self.ranks.num_ranks}),
                parameters=sum(value.numel() for value in self.stack.state_dict(m).values()),
                torch=torch.__version__,
            )

    def _run_branches(self, budgets: Sequence[int], advance: Callable[[int], None]) -> None:
        """One run at the constant rate, and for each budget a branch in which the rate falls."""
        # A loss is noted for each budget that is done.
        for budget in budgets[len(self.runs[0].losses) :]:
            for _ in self._updates(trunk_updates(budget), 0, advance):
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
                torch.manual_seed(self._dropout_seed())
            rate = self.recipe["learning_rate"] * rate_share(
                self.recipe["rate_schedule"], self.step + 1, self.recipe["warmup"], total
            )
            batches = [next(own) for own in self.batches]
            self._update(batches, rate)
            for run, own in zip(self.runs, self.batches, strict=True):
                run.num_tokens += int(own.lengths[1].sum())
                run.model_flops += _update_flops(self.stack.config, *own.lengths)
                run.loss_steps += 1
            self.step += 1
            advance(1)
            yield self.step
            if saves and time.perf_counter() - self.saved_at > _STATE_EVERY_S:
                self._save_states()

    def _update(self, batches: Sequence[Batch], rate: float) -> None:
        """One update; with dynamic pruning, by the tokens it chose, whose losses it is told."""
        dynamic = [own for own in self.batches if isinstance(own, DynamicBatches)]
        if not dynamic:
            num_tokens = [int(own.lengths[1].sum()) for own in self.batches]
            self.update.update(batches, rate, num_counted=num_tokens)
            return
        pairs = list(zip(dynamic, batches, strict=True))
        self.update.update(batches, rate, [own.token_weights(batch) for own, batch in pairs])
        losses = self.update.token_losses.cpu().numpy()  # (M, T)
        for m, (own, batch) in enumerate(pairs):
            own.record(batch, losses[m, : len(batch.tgt_tokens)])

    def _save_checkpoints(self, step: int) -> None:
        """Write a checkpoint of each model, and its mean loss since the last one."""
        for m, (run, loss) in enumerate(zip(self.runs, self._mean_losses(step), strict=True)):
            run.losses.append(loss)
            self._write_checkpoint(m, step)
        if not self._anneal_each:
            self._save_states()

    def _end_block(self) -> None:
        """At the end of a block of the loss schedule: note its loss, and keep the weights."""
        schedules = [run.loss_schedule for run in self.runs if run.loss_schedule is not None]
        if not schedules[0].is_end(self.step):
            return
        losses = self._mean_losses(self.step)
        if self.step == self.recipe["warmup"]:
            return  # what follows is a block of its own
        given_up = []
        for m, (schedule, loss) in enumerate(zip(schedules, losses, strict=True)):
            self._write_checkpoint(m, self.step)
            given_up.append(schedule.add(self.step, loss))
        # The states first: what they name must be there when a run goes on from them.
        self._save_states()
        for run, step in zip(self.runs, given_up, strict=True):
            if step is not None and self.ranks.is_first:
                checkpoint_path(run.folder.path, step).unlink(missing_ok=True)

    def _chosen_by_loss(self, run: OpenRun) -> dict[str, Any]:
        """The losses of a finished run; by the loss schedule also the steps that are kept of it."""
        if run.loss_schedule is None:
            return {"losses": run.losses}
        steps = run.loss_schedule.chosen()
        kept = {checkpoint_path(run.folder.path, step) for step in steps}
        for path in set(run.folder.path.glob("step-*.safetensors")) - kept:
            path.unlink()
        return {"steps": steps, "losses": run.loss_schedule.mean_losses(steps)}

    def _mean_losses(self, step: int) -> list[float]:
        """Mean loss of each model since the last call.

        Raises:
            PycatError: one is not finite.
        """
        sums = self.update.loss_sums.tolist()
        self.update.loss_sums.zero_()
        losses = [total / run.loss_steps for run, total in zip(self.runs, sums, strict=True)]
        for run, loss in zip(self.runs, losses, strict=True):
            run.loss_steps = 0
            if not math.isfinite(loss):
                raise PycatError(
                    f"{run.arm.out}: the training loss is {loss} at update {step:,}; "
                    f"lower learning_rate ({self.recipe['learning_rate']}) or lengthen warmup "
                    f"({self.recipe['warmup']})"
                )
        return losses

    def _write_checkpoint(self, m: int, step: int) -> None:
        if not self.ranks.is_first:
            return
        run = self.runs[m]
        save_checkpoint(
            checkpoint_path(run.folder.path, step),
            self.stack.model(m),
            step=step,
            tokenizer_sha256=run.arm.corpus.manifest["tokenizer_sha256"],
        )

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
        """Write what each run needs to go on from here. The other ranks get it from rank 0."""
        self.saved_at = time.perf_counter()
        if not self.ranks.is_first:
            return
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
                **({} if run.loss_schedule is None else {"blocks": run.loss_schedule.state()}),
            }
            write_state(run.folder.path / _STATE_FILE, _on_host(state))
            run.folder.record()
        self.saved_at = time.perf_counter()

    def _dropout_seed(self) -> int:
        """What seeds the dropout of the next update on this rank."""
        place = self.step * self.ranks.num_ranks + self.ranks.rank
        return (int(self.runs[0].arm.seed) << 32) + place

    def _put_states_back(self) -> None:
        states = [run.state for run in self.runs if run.state is not None]
        for run in self.runs:
            try:
                check_shapes(run.state or {}, self.stack.parameters)
            except ValueError as error:
                raise unusable(run.arm.out / _STATE_FILE, error) from None
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

    @property
    def _anneal_each(self) -> bool:
        return bool(self.recipe.get("anneal_each", False))

    def _batches_of(self, run: OpenRun) -> PackedBatches:
        """The batches of a run, from its place on."""
        common: dict[str, Any] = {
            "batch_pairs": self._batch_pairs(),
            "seed": run.arm.seed,
            "position": None if run.state is None else run.state["position"],
        }
        if "dynamic" not in self.recipe:
            return PackedBatches(
                run.arm.corpus, self.recipe["batch_tokens"], **common, ranks=self.ranks
            )
        return DynamicBatches(
            run.arm.corpus,
            self.recipe["batch_tokens"],
            updates=self.recipe["checkpoint_steps"][-1],
            **self.recipe["dynamic"],
            **common,
        )

    def _batch_pairs(self) -> int | None:
        if self.device.type != "cuda":
            return None
        return max(1, int(self.recipe["batch_tokens"]) // _CUDA_TOKENS_A_PAIR)

    def _capacity(self) -> Capacity:
        """What no batch of any of the runs exceeds; of several ranks, what few shares exceed."""
        corpora = [run.arm.corpus for run in self.runs]
        src, tgt = (
            max(int(lengths.max()) for lengths in sides)
            for sides in (
                [corpus.num_src_tokens for corpus in corpora],
                [corpus.num_tokens for corpus in corpora],
            )
        )
        batch_tokens, num_ranks = self.recipe["batch_tokens"], self.ranks.num_ranks
        pairs = self._batch_pairs() or 0
        if num_ranks == 1:
            return Capacity(max(batch_tokens, src), max(batch_tokens, tgt), pairs, max(src, tgt))
        share = math.ceil(_SHARE_ROOM * batch_tokens / num_ranks)
        return Capacity(share + src, share + tgt, -(-pairs // num_ranks), max(src, tgt))


def updates_done(out: Path, recipe: Mapping[str, Any]) -> int:
    """Updates that earlier calls made of the run of this recipe in folder `out`."""
    steps, anneal_each = recipe["checkpoint_steps"], recipe.get("anneal_each", False)
    if recorded_recipe(out, "proxy") != recipe:
        return 0
    path = out / _STATE_FILE
    if path.is_file():
        state = read_state(path)
        num_saved = len(state["losses"])
        return updates_before(steps, int(state["step"]), num_saved, anneal_each=anneal_each)
    # A finished run has no state; nor has one that was stopped before the first.
    is_finished = checkpoint_path(out, steps[-1]).is_file()
    return num_updates(steps, anneal_each=anneal_each) if is_finished else 0


def _new_model(arm: Arm, preset: str) -> Transformer:
    """A model with the weights that the arm starts from, by default those of its seed."""
    if arm.initial is not None:
        return load_model(arm.initial, torch.device("cpu"))
    config = ModelConfig(
        vocab_size=arm.corpus.vocab_size,
        src_vocab_size=arm.corpus.src_vocab_size,
        **PRESETS[preset],
    )
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(arm.seed)
        return Transformer(config)


def _update_flops(config: ModelConfig, src: NDArray[np.int32], tgt: NDArray[np.int32]) -> int:
    """Operations of an update by pairs of these lengths: forward, and twice as many backward."""
    return 3 * 2 * proxy_products(config, src.astype(float), tgt.astype(float))


def _show_nothing(_updates: int) -> None:
    """Progress on the ranks that show none."""


def _on_host(value: Any) -> Any:
    """The same, with copies of its tensors in the host's memory."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _on_host(item) for key, item in value.items()}
    return value
