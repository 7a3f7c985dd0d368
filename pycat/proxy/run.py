"""Finished training runs, for what opens one without torch."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from pycat.errors import OutputError
from pycat.runtime.manifest import check_file, load_manifest, problem_with, read_manifest
from pycat.runtime.notebook import html_table, new_axes

# What a damaged run needs.
_REMEDY = "delete the folder and run 'pycat train' again"


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
        """Open the folder of a finished run.

        Raises:
            OutputError: it is no such folder, or its manifest is damaged.
        """
        folder = Path(path)
        manifest = read_manifest(folder, "proxy")
        # Steps that were chosen by the loss are no part of the recipe.
        steps = tuple(manifest.get("steps", manifest["recipe"]["checkpoint_steps"]))
        losses = manifest["losses"]
        if len(losses) != len(steps) or list(steps) != sorted(set(steps)):
            raise OutputError(
                f"{folder / 'proxy.json'}: has {len(losses)} losses of the checkpoints at updates "
                f"{list(steps)}, expected one for each of ascending updates; {_REMEDY}"
            )
        files = tuple(checkpoint_path(folder, step) for step in steps)
        return cls(folder, files, steps, tuple(losses), manifest)

    def verify(self) -> None:
        """Compare each checkpoint with its hash.

        Raises:
            OutputError: names the first that is not as it was written.
        """
        for name, listed in self.manifest.get("files", {}).items():
            if problem := problem_with(self.path, name, listed, full=True):
                raise OutputError(f"{self.path / name}: {problem}; {_REMEDY}")

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


def check_in_run(path: Path) -> None:
    """Refuse a checkpoint that is not the one that the run in its folder lists.

    Raises:
        OutputError: it is another file, or the run's manifest is damaged.
    """
    if (path.parent / "proxy.json").is_file():
        manifest = load_manifest(path.parent / "proxy.json")
        check_file(path.parent, manifest, path.name, _REMEDY)


def checkpoint_path(folder: Path, step: int) -> Path:
    """File of the checkpoint that a run saves after update `step`."""
    return folder / f"step-{step:07}.safetensors"
