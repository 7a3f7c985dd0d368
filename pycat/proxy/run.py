"""Finished training runs, for what opens one without torch."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from pycat.runtime.notebook import html_table, new_axes
from pycat.runtime.output import read_manifest


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        path: the folder.
        checkpoints: K files in training order.
        steps: the updates after which they were saved.
        losses: mean training loss since the previous checkpoint, nats a token, smoothed labels.
        manifest: recipe and facts of the run.
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
        # Steps that were chosen by the loss are no part of the recipe.
        steps = tuple(manifest.get("steps", manifest["recipe"]["checkpoint_steps"]))
        files = tuple(checkpoint_path(folder, step) for step in steps)
        return cls(folder, files, steps, tuple(manifest["losses"]), manifest)

    def _repr_html_(self) -> str:
        """The checkpoints, as a table of a notebook."""
        rows = [
            [step, loss, path.name]
            for step, loss, path in zip(self.steps, self.losses, self.checkpoints, strict=True)
        ]
        header = ("updates", "training loss (nats a token)", "file")
        return html_table(f"Run: {self.path}", header, rows)

    def plot(self) -> Any:
        """Draw the training loss over the updates.

        Returns:
            The axes of matplotlib, which draws it (the extra `plot`).
        """
        axes = new_axes("Training of the proxy", "updates", "loss (nats a token)")
        axes.plot(self.steps, self.losses, marker="o")
        return axes


def checkpoint_path(folder: Path, step: int) -> Path:
    """File of the checkpoint that a run saves after update `step`."""
    return folder / f"step-{step:07}.safetensors"
