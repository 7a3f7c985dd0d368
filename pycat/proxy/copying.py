"""A finished training run taken over into another folder."""

import os
import shutil
from os import PathLike
from pathlib import Path

from pycat.errors import OutputError
from pycat.proxy.run import Run
from pycat.proxy.trainer import OWNED, WORKING
from pycat.runtime.manifest import list_files
from pycat.runtime.output import OutputFolder, naming, write_manifest
from pycat.runtime.publishing import sync_tree


def copy_run(
    run: Run, out: str | PathLike[str], *, overwrite: bool = False, started: float | None = None
) -> Run:
    """Make a folder that holds the same run: hard links of its files, or copies.

    pycat replaces files and never writes into them, so that a link keeps what it holds.

    Args:
        run: a finished run.
        out: the folder to make. One that holds this run is opened as it is.
        overwrite: replace another run in it.
        started: as for `OutputFolder`.

    Raises:
        OutputError: a file of the run is not the one that its manifest lists, or `out` holds
            something else.
        OSError: a file cannot be made; it is named.
    """
    folder_path = Path(out)
    listed = run.manifest.get("files") or {path.name: {} for path in run.checkpoints}
    recipe = run.manifest["recipe"]
    with OutputFolder(
        folder_path, "proxy", recipe, OWNED, overwrite, started, working=WORKING
    ) as folder:
        if folder.manifest is None:
            for name in listed:
                _link(run.path / name, folder_path / name)
            found = list_files(folder_path, listed)
            for name, entry in listed.items():
                if entry and entry["sha256"] != found[name]["sha256"]:
                    raise OutputError(
                        f"{run.path / name}: is not as it was written: its SHA-256 is "
                        f"{found[name]['sha256'][:12]}…, expected {entry['sha256'][:12]}…; delete "
                        f"{folder_path}, and train {run.path} again"
                    )
            sync_tree(folder_path)
            write_manifest(folder_path / "proxy.json", {**run.manifest, "files": found})
    return Run.open(folder_path)


def _link(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy on another file system."""
    if not source.is_file():
        raise OutputError(f"{source}: is missing; train the run in its folder again")
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        with naming(target, None):
            shutil.copyfile(source, target)
