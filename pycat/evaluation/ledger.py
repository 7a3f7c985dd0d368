"""Costs of pruning against what it saves in training."""

from collections.abc import Sequence
from typing import Any

from pycat.proxy.run import Run
from pycat.runtime.manifest import load_manifest, read_manifest
from pycat.selection.selection import Selection

# Stages of `prune` beside the selection's folder, and what each is for.
_STAGES = {"measures": "measure", "proxy": "proxy", "scores": "score", "selection": "select"}


def ledger(
    selection: Selection, retrained: Sequence[Run], *, num_tokens: int, kept_tokens: int
) -> dict[str, Any]:
    """Seconds and FLOPs of each stage, and after how many trainings the pruning has paid.

    A training of the whole takes as many times longer as it has more target tokens, at the same
    number of passes. So pruning has paid after

        seconds of pruning / (seconds of a retraining (whole tokens / kept tokens - 1))

    trainings of a model of the evaluation's size; larger models are paid for sooner.

    Args:
        selection: one in a folder that has the other stages' folders beside it, as `prune` makes
            them; else only the retraining is known.
        retrained: all runs of the evaluation.
        num_tokens, kept_tokens: target tokens of the whole corpus, and of the selection.

    Returns:
        `seconds` and `flops` by stage; `paid_after` trainings, None where a stage is not known.
    """
    seconds: dict[str, float] = {}
    flops: dict[str, int] = {}
    for folder, stage in _STAGES.items():
        manifest = _manifest(selection, folder)
        if manifest is not None:
            seconds[stage] = manifest["elapsed_s"]
            if "model_flops" in manifest:
                flops[stage] = manifest["model_flops"]
    pruning_s = sum(seconds.values()) if set(seconds) >= {"proxy", "score", "select"} else None
    # Runs that were trained as one share its time.
    elapsed = [run.manifest["elapsed_s"] / run.manifest["num_stacked"] for run in retrained]
    seconds["retrain"] = round(sum(elapsed), 3)
    flops["retrain"] = sum(run.manifest["model_flops"] for run in retrained)
    saved_s = sum(elapsed) / len(elapsed) * (num_tokens / kept_tokens - 1)
    paid = None if pruning_s is None or saved_s <= 0 else round(pruning_s / saved_s, 2)
    return {"seconds": seconds, "flops": flops, "paid_after": paid}


def _manifest(selection: Selection, folder: str) -> dict[str, Any] | None:
    """The manifest of a stage's folder beside the selection's, if it is there and finished.

    Raises:
        OutputError: it is damaged.
    """
    if selection.path is None:
        return None
    path = selection.path if folder == "selection" else selection.path.parent / folder
    file = path / f"{folder}.json"
    if not file.is_file() or not load_manifest(file).get("complete"):
        return None
    return read_manifest(path, folder)
