"""Verification of folders that pycat made, in full, and what makes a damaged one anew."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from pycat.data.opening import open_corpus
from pycat.errors import PycatError
from pycat.evaluation.results import Evaluation
from pycat.filters.measures import Measures
from pycat.proxy.run import Run
from pycat.runtime.manifest import MAKERS, damage, load_manifest, read_manifest
from pycat.scores.score_table import ScoreTable
from pycat.selection.selection import Selection


@dataclass(frozen=True)
class Checked:
    """What was found of one folder.

    Attributes:
        path: the folder.
        kind: "corpus", "measures", "proxy", "scores", "selection", "evaluation" or "prune".
        num_files: files that its manifest lists.
        problems: what is damaged, a sentence each; empty where the folder is as it was made.
    """

    path: Path
    kind: str
    num_files: int
    problems: list[str]


def check(folder: str | PathLike[str]) -> list[Checked]:
    """Verify a folder that pycat made, and those in it: hashes, counts, ranges and order.

    Reads every byte once or twice. Nothing is written.

    Args:
        folder: a corpus, measures, a proxy's run, scores, a selection, an evaluation, the work
            folder of `prune`, or a folder with such folders in it.

    Returns:
        A row for each folder, in the order of their paths; `problems` also says which command
        makes what is damaged anew.

    Raises:
        PycatError: there is no such folder, or it holds none that pycat made.
        OSError: a folder cannot be read, so that nothing is known of what is in it.
    """
    path = Path(folder)
    is_there = path.is_dir()
    found = [_checked(inner, kind) for inner, kind in sorted(_folders(path))] if is_there else []
    if not found:
        what = "nothing that pycat made" if is_there else "no such folder"
        raise PycatError(
            f"{path}: found {what}, expected a folder with one of "
            f"{', '.join(f'{kind}.json' for kind in MAKERS)}"
        )
    return found


def _folders(path: Path) -> Iterator[tuple[Path, str]]:
    """Folders with a manifest at or below `path`, and their kinds.

    A link in the place of such a folder is followed, but not what else it leads to.
    """

    def unreadable(error: OSError) -> None:
        raise error

    seen = set()
    for name, inner, _ in os.walk(path, onerror=unreadable):
        folder = Path(name)
        for place in (folder, *(folder / each for each in inner if (folder / each).is_symlink())):
            if (real := place.resolve()) in seen:
                continue
            seen.add(real)
            for kind in MAKERS:
                manifest = place / f"{kind}.json"
                # A tokenizer's folder may hold a file of such a name, which is no manifest.
                if not manifest.is_dir() and os.path.lexists(manifest) and _is_ours(manifest, kind):
                    yield place, kind


def _is_ours(manifest: Path, kind: str) -> bool:
    try:
        return load_manifest(manifest).get("format") == f"pycat.{kind}"
    except PycatError:  # `_checked` reports it
        return True


def _checked(path: Path, kind: str) -> Checked:
    """Verify one folder."""
    problems: list[str] = []
    num_files = 0
    try:
        manifest = read_manifest(path, kind)
        num_files = len(manifest.get("files") or {})
        again = f"put it back, or run '{MAKERS[kind]}' again with --overwrite"
        problems = [f"{path / name}: {why}; {again}" for name, why in damage(path, manifest)]
        # What is not listed, and what hashes do not tell. A damaged file would be found again.
        if not problems:
            _VERIFY[kind](path)
    except (PycatError, OSError) as error:
        problems.append(str(error))
    return Checked(path, kind, num_files, problems)


def _verify_corpus(path: Path) -> None:
    corpus = open_corpus(path)
    corpus.verify()
    _ = corpus.tokenizer, corpus.kept_lines


def _verify_run(path: Path) -> None:
    run = Run.open(path)
    if "files" not in run.manifest:  # made before there were hashes: the weights themselves tell
        import torch

        from pycat.proxy.checkpoint import load_model, read_info

        for checkpoint in run.checkpoints:
            load_model(read_info(checkpoint), torch.device("cpu"))


def _verify_table(path: Path) -> None:
    table = ScoreTable.open(path)
    table.verify()
    table.view_of(table.corpus())


def _verify_selection(path: Path) -> None:
    selection = Selection.open(path)
    selection.kept_corpus()


def _verify_measures(path: Path) -> None:
    Measures.open(path).verify()


_VERIFY: dict[str, Callable[[Path], object]] = {
    "corpus": _verify_corpus,
    "measures": _verify_measures,
    "proxy": _verify_run,
    "scores": _verify_table,
    "selection": _verify_selection,
    "evaluation": Evaluation.open,
    "prune": lambda path: read_manifest(path, "prune"),
}
