"""Finished training runs, for what opens one without torch."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

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


def checkpoint_path(folder: Path, step: int) -> Path:
    """File of the checkpoint that a run saves after update `step`."""
    return folder / f"step-{step:07}.safetensors"
