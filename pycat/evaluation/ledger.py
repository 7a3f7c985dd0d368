"""Costs of pruning against what it saves in training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pycat.proxy.run import Run
from pycat.proxy.schedules import num_updates
from pycat.ranking.criteria import is_of
from pycat.runtime.manifest import load_manifest, read_manifest
from pycat.runtime.output import digest, recorded_recipe
from pycat.scores.unscored import unscored_recipe
from pycat.selection.selection import Selection

# Folders of a trusted text, and the kinds of their manifests.
_OF_TRUSTED = {"corpus": "corpus", "tuned": "proxy", "scores": "scores"}


def ledger(
    selection: Selection, retrained: Sequence[Run], *, num_tokens: int, kept_tokens: int
) -> dict[str, Any]:
    """Seconds and FLOPs of each stage, and after how many trainings the pruning has paid.

    A training of the whole takes as many times longer as it has more target tokens, at the same
    number of passes. So pruning has paid after

        seconds of pruning / (seconds of a retraining (whole tokens / kept tokens - 1))

    trainings of a model of the evaluation's size; larger models are paid for sooner. Such a
    training anneals once: of the seconds of a run the updates count that one budget has, and not
    those of the branches of smaller ones.

    Args:
        selection: one in a folder that has the other stages' folders beside it, as `prune` makes
            them; else only the retraining is known.
        retrained: all runs of the evaluation.
        num_tokens, kept_tokens: target tokens of the whole corpus, and of the selection.

    Returns:
        `seconds` and `flops` of the stages that the selection's recipe has need of; `paid_after`
        trainings, None where one of those stages is not known.
    """
    seconds: dict[str, float] = {}
    flops: dict[str, int] = {}
    needed = _needed(selection)
    for stage, (folder, kind) in needed.items():
        manifest = _manifest(folder, kind)
        if manifest is not None:
            seconds[stage] = manifest["elapsed_s"]
            if "model_flops" in manifest:
                flops[stage] = manifest["model_flops"]
    is_known = needed.keys() <= seconds.keys() and bool(needed)
    if "score" in needed:
        more, more_flops = _of_columns(selection, needed["score"][0])
        seconds |= more
        flops |= more_flops
    pruning_s = sum(seconds.values()) if is_known else None
    # Runs that were trained as one share its time.
    elapsed = [run.manifest["elapsed_s"] / run.manifest["num_stacked"] for run in retrained]
    of_one = [
        own_s * run.steps[-1] / num_updates(run.steps, anneal_each=_anneals_each(run))
        for run, own_s in zip(retrained, elapsed, strict=True)
    ]
    seconds["retrain"] = round(sum(elapsed), 3)
    flops["retrain"] = sum(run.manifest["model_flops"] for run in retrained)
    saved_s = sum(of_one) / len(of_one) * (num_tokens / kept_tokens - 1)
    paid = None if pruning_s is None or saved_s <= 0 else round(pruning_s / saved_s, 2)
    return {"seconds": seconds, "flops": flops, "paid_after": paid}


def _anneals_each(run: Run) -> bool:
    return bool(run.manifest["recipe"].get("anneal_each", False))


def _needed(selection: Selection) -> dict[str, tuple[Path, str]]:
    """Folder and kind of each stage that the selection's recipe has need of, by the stage.

    A proxy that was taken over from earlier work costs nothing again.
    """
    if selection.path is None:
        return {}
    recipe, beside = selection.manifest["recipe"], selection.path.parent
    needed: dict[str, tuple[Path, str]] = {}
    has_rules = "rules" in recipe and "rules" not in selection.manifest.get("without", {})
    if has_rules or "guard" in recipe or any(map(_reads_noise, _criteria(selection))):
        needed["measure"] = beside / "measures", "measures"
    if recipe["scores"] != digest(unscored_recipe(selection.corpus())):
        if "base" not in (recorded_recipe(beside, "prune") or {}).get("train", {}):
            needed["proxy"] = beside / "proxy", "proxy"
        needed["score"] = beside / "scores", "scores"
    needed["select"] = selection.path, "selection"
    return needed


def _reads_noise(criterion: str) -> bool:
    return is_of(criterion, "noise") or is_of(criterion, "fitted_noise")


def _criteria(selection: Selection) -> list[str]:
    """The criteria that a selection ranks or drops by."""
    recipe = selection.manifest["recipe"]
    return [recipe["criterion"], *(by for by, _ in recipe.get("drop", ()))]


def _of_columns(selection: Selection, scores: Path) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds and FLOPs of the columns that the selection reads: clusters and trusted texts."""
    recipe = selection.manifest["recipe"]
    strata = str(recipe.get("strata") or "").split(",")
    manifest = _manifest(scores, "scores") or {}
    seconds: dict[str, float] = {}
    flops: dict[str, int] = {}
    clusters = [
        made["elapsed_s"]
        for name, made in manifest.get("made_by", {}).items()
        if name in strata and "elapsed_s" in made
    ]
    if clusters:
        seconds["cluster"] = sum(clusters)
    for folder in sorted(scores.parent.glob("trusted/*")):
        name = folder.name
        if name in strata or any(is_of(by, name) for by in _criteria(selection)):
            for own, kind in _OF_TRUSTED.items():
                found = _manifest(folder / own, kind) or {}
                seconds["trusted"] = seconds.get("trusted", 0.0) + found.get("elapsed_s", 0.0)
                if "model_flops" in found:
                    flops["trusted"] = flops.get("trusted", 0) + found["model_flops"]
    return seconds, flops


def _manifest(folder: Path, kind: str) -> dict[str, Any] | None:
    """The manifest of a stage's folder, if it is there and finished.

    Raises:
        OutputError: it is damaged.
    """
    file = folder / f"{kind}.json"
    if not file.is_file() or not load_manifest(file).get("complete"):
        return None
    return read_manifest(folder, kind)
