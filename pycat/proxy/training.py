"""Train a proxy on a corpus and keep checkpoints along the way."""

import io
import math
import pickle
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pycat.data.batches import Batch, length_mask
from pycat.data.corpus import Corpus, as_corpus
from pycat.errors import CorpusError, OutputError, PycatError
from pycat.proxy.checkpoint import save_checkpoint
from pycat.proxy.transformer import PRESETS, ModelConfig, Transformer, shift_right
from pycat.runtime.device import autocast, choose_device, choose_dtype
from pycat.runtime.output import OutputFolder, read_manifest, replacing
from pycat.runtime.progress import progress

SCHEDULES = ("linear", "log")

_STATE_FILE = "state.pt"
_STATE_EVERY_S = 60.0
_BLOCK_LOGITS = 6_000_000
# The state first: a folder half deleted must not seem one to go on from.
_OWNED = (_STATE_FILE, "step-*.safetensors")


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        path: the folder.
        checkpoints: K files in training order.
        steps: the updates after which they were saved.
        losses: mean training loss since the checkpoint before, nats a token, smoothed labels.
    """

    path: Path
    checkpoints: tuple[Path, ...]
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "Run":
        """Open the folder of a finished run."""
        folder = Path(path)
        manifest = read_manifest(folder, "proxy")
        steps = tuple(manifest["recipe"]["checkpoint_steps"])
        files = tuple(_checkpoint_path(folder, step) for step in steps)
        return cls(folder, files, steps, tuple(manifest["losses"]), manifest)


def train(
    corpus: Corpus | str | PathLike[str],
    *,
    out: str | PathLike[str],
    preset: str = "tiny",
    checkpoints: int = 5,
    checkpoint_schedule: str = "linear",
    checkpoint_steps: Sequence[int] | None = None,
    epochs: float = 3.0,
    updates: int | None = None,
    batch_tokens: int = 2048,
    learning_rate: float = 1e-3,
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
        out: the folder to make. An interrupted run of the same options goes on in it, and a
            finished one is opened as it is.
        preset: "tiny" (d=256, 3+3 layers) or "base" (d=512, 6+6 layers).
        checkpoints: how many to keep, the last one at the end.
        checkpoint_schedule: "linear" spaces them evenly; "log" doubles the updates from one to
            the next.
        checkpoint_steps: instead of both, the updates after which to save; training ends with
            the last.
        epochs: passes over the corpus; `updates`, when given, is used instead.
        batch_tokens: tokens of the larger side of a batch, padding included.
        learning_rate: at its peak, after `warmup` updates (a tenth of all by default, at most
            4,000); then it falls with the inverse square root of the update.
        label_smoothing, dropout: probabilities.
        seed: of initial weights, batch order and dropout; on the CPU, with one number of threads, a
            run repeats itself bit for bit.
        device: "cpu", "cuda" or "auto".
        dtype: of matrix products: "float32", "bfloat16", or "auto" (bfloat16 where the device
            has it). Weights and Adam stay float32.
        overwrite: replace a run made with other options.

    Returns:
        The run: checkpoint paths, update counts, losses.

    Raises:
        CorpusError: the corpus is smaller than one batch.
        PycatError: an option is out of range, or the loss is not finite.
        OutputError: `out` holds something else, or a run made with other options.
    """
    corpus = as_corpus(corpus)
    if preset not in PRESETS:
        raise PycatError(f"preset is {preset!r}; expected one of {', '.join(PRESETS)}")
    for name, value, right, expected in (
        ("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "at least 0 and below 1"),
        ("dropout", dropout, 0 <= dropout <= 0.9, "at least 0 and at most 0.9"),
        ("learning_rate", learning_rate, 0 < learning_rate < 1, "above 0 and below 1"),
        ("epochs", epochs, 0 < epochs < 1e6, "above 0 and below a million"),
        ("updates", updates, updates is None or updates >= 1, "at least 1"),
        ("warmup", warmup, warmup is None or warmup >= 1, "at least 1"),
        ("batch_tokens", batch_tokens, batch_tokens >= 1, "at least 1"),
        ("seed", seed, 0 <= seed < 2**31, "at least 0 and below 2**31"),
    ):
        if not right:
            raise PycatError(f"{name} is {value}; expected {expected}")
    num_tokens = int(corpus.num_tokens.sum())
    if num_tokens < batch_tokens:
        raise CorpusError(
            f"{corpus.path}: {len(corpus):,} pairs hold {num_tokens:,} target tokens, expected at "
            f"least one batch of {batch_tokens:,}; add text, or lower batch_tokens to "
            f"{max(1, num_tokens // 4):,}"
        )
    updates_per_epoch = corpus.num_batches(batch_tokens, padded=True)
    planned = updates if updates is not None else max(1, round(epochs * updates_per_epoch))
    steps = _checkpoint_steps(checkpoints, checkpoint_schedule, checkpoint_steps, planned)
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)
    recipe = {
        "corpus": corpus.id,
        "preset": preset,
        "checkpoint_steps": steps,
        "batch_tokens": batch_tokens,
        "learning_rate": learning_rate,
        "warmup": warmup if warmup is not None else min(4000, max(1, steps[-1] // 10)),
        "label_smoothing": label_smoothing,
        "dropout": dropout,
        "seed": seed,
        "device": torch_device.type,
        "dtype": str(torch_dtype).removeprefix("torch."),
    }
    folder = OutputFolder(Path(out), "proxy", recipe, _OWNED, overwrite)
    if folder.manifest is None:
        _Trainer(corpus, folder, torch_device, torch_dtype).run()
    return Run.open(out)


class _Trainer:
    """One run: model, optimizer and the position in it, all of which `state.pt` can restore."""

    def __init__(
        self, corpus: Corpus, folder: OutputFolder, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.corpus, self.folder, self.device, self.dtype = corpus, folder, device, dtype
        self.recipe = folder.recipe
        self.step = 0
        self.losses: list[float] = []
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.loss_steps = 0
        self.num_tokens = 0
        self.position: dict[str, Any] | None = None  # in the corpus, for the batch after this
        config = ModelConfig(
            vocab_size=corpus.vocab_size,
            src_vocab_size=corpus.src_vocab_size,
            **PRESETS[self.recipe["preset"]],
        )
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(self.recipe["seed"])
            model = Transformer(config, self.recipe["dropout"])
        self.model = model.to(device).train()
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-9, fused=True
        )
        if folder.resumes and (folder.path / _STATE_FILE).is_file():
            self._load_state()

    def run(self) -> None:
        """Train from here to the last checkpoint."""
        steps, seed = self.recipe["checkpoint_steps"], self.recipe["seed"]
        saved = time.perf_counter()
        devices = [self.device] if self.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices),
            progress("train", steps[-1], "updates", self.step) as advance,
            closing(self._batches()) as batches,
        ):
            while self.step < steps[-1]:
                # Seeded by update, dropout goes on after an interruption as if there was none.
                torch.manual_seed((seed << 32) + self.step)
                self.loss_sum += self._update(next(batches).to(self.device))
                self.loss_steps += 1
                self.step += 1
                advance(1)
                at_checkpoint = self.step in steps
                now = time.perf_counter()
                if at_checkpoint:
                    self._note_loss()
                    save_checkpoint(
                        _checkpoint_path(self.folder.path, self.step),
                        self.model,
                        step=self.step,
                        tokenizer_sha256=self.corpus.manifest["tokenizer_sha256"],
                    )
                if at_checkpoint or now - saved > _STATE_EVERY_S:
                    self._save_state()
                    saved = now
        self.folder.finish(
            losses=self.losses,
            num_tokens=self.num_tokens,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            torch=torch.__version__,
        )
        (self.folder.path / _STATE_FILE).unlink(missing_ok=True)

    def _batches(self) -> Generator[Batch, None, None]:
        """Epoch after epoch, without end."""
        epoch = 0 if self.position is None else self.position["epoch"]
        while True:
            with self.corpus.batches(
                self.recipe["batch_tokens"],
                seed=self.recipe["seed"],
                epoch=epoch,
                padded=True,
                state=self.position,
                pin_memory=self.device.type == "cuda",
            ) as stream:
                for batch in stream:
                    self.position = stream.state
                    yield batch
            epoch, self.position = epoch + 1, None

    def _update(self, batch: Batch) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe["learning_rate"] * _warmup_then_decay(
                self.step + 1, self.recipe["warmup"]
            )
        tgt, mask = batch.tgt_tokens, length_mask(batch.tgt_tokens, batch.tgt_cu_seqlens)
        src_lengths = batch.src_cu_seqlens.diff().long()
        with autocast(self.device, self.dtype):
            hidden = self.model(batch.src_tokens, src_lengths, shift_right(tgt, self.corpus.eos_id))
            loss = self._loss(hidden[mask], tgt[mask])
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.num_tokens += int(batch.tgt_cu_seqlens[-1])
        return loss.detach()

    def _loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean smoothed cross-entropy of hidden states (T, D).

        On the CPU a block of logits at a time stays below the size that malloc reuses; whole, most
        of their time goes into page faults.
        """
        weight = self.model.output_weight
        rows = max(1, _BLOCK_LOGITS // len(weight)) if hidden.is_cpu else max(1, len(hidden))
        losses = [
            F.cross_entropy(
                F.linear(block, weight).float(),
                block_targets,
                label_smoothing=self.recipe["label_smoothing"],
                reduction="sum",
            )
            for block, block_targets in zip(
                torch.split(hidden, rows), torch.split(targets, rows), strict=True
            )
        ]
        return torch.stack(losses).sum() / len(targets)

    def _note_loss(self) -> None:
        value = self.loss_sum.item() / self.loss_steps
        if not math.isfinite(value):
            raise PycatError(
                f"{self.folder.path}: the training loss is {value} at update {self.step:,}; "
                f"lower learning_rate ({self.recipe['learning_rate']}) or lengthen warmup "
                f"({self.recipe['warmup']})"
            )
        self.losses.append(value)
        self.loss_sum.zero_()
        self.loss_steps = 0

    def _save_state(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": self.losses,
            "loss_sum": self.loss_sum,
            "loss_steps": self.loss_steps,
            "num_tokens": self.num_tokens,
            "position": self.position,
        }
        # Not straight to the file: torch's errors on a full disk are not OSErrors.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with replacing(self.folder.path / _STATE_FILE) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        self.folder.record()

    def _load_state(self) -> None:
        path = self.folder.path / _STATE_FILE
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise OutputError(
                f"{path}: cannot be read ({reason}); delete it, and training starts again"
            ) from None
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.losses = state["step"], state["losses"]
        self.loss_sum, self.loss_steps = state["loss_sum"], state["loss_steps"]
        self.num_tokens, self.position = state["num_tokens"], state["position"]


def _warmup_then_decay(step: int, warmup: int) -> float:
    """Share of the peak rate at update `step` (from 1); Vaswani et al. 2017, section 5.3."""
    return min(step / warmup, math.sqrt(warmup / step))


def _checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:07}.safetensors"


def _checkpoint_steps(
    count: int, schedule: str, given: Sequence[int] | None, updates: int
) -> list[int]:
    """The updates after which to save: ascending, distinct, at least two.

    Raises:
        PycatError: they are not.
    """
    if given is not None:
        steps = list(given)
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
