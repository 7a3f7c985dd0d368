"""Provenance of a selection: options, hashes, versions and folders of every stage."""

import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pycat.data.corpus import Corpus
from pycat.evaluation.results import Evaluation
from pycat.filters.measures import Measures
from pycat.proxy.run import Run
from pycat.scores.score_table import ScoreTable
from pycat.selection.selection import Selection


def recipes(
    corpus: Corpus,
    run: Run | None,
    scores: ScoreTable,
    selection: Selection,
    evaluation: Evaluation | None,
) -> dict[str, dict[str, Any]]:
    """Options of every stage, without the hashes of its input: `hashes` has those."""
    manifests: Iterable[tuple[str, Mapping[str, Any]]] = (
        *((("tokenize", corpus.manifest),) if corpus.has_text else ()),
        *((("train", run.manifest),) if run is not None else ()),
        *((("score", scores.manifest),) if scores.num_checkpoints else ()),
        ("select", selection.manifest),
        *((("evaluate", evaluation.manifest),) if evaluation is not None else ()),
    )
    hidden = ("text", "corpus", "checkpoints", "scores", "arms", "tests", "hashes")
    options = {
        stage: {name: value for name, value in manifest["recipe"].items() if name not in hidden}
        for stage, manifest in manifests
    }
    if run is not None:
        options["train"]["parameters"] = run.manifest["parameters"]
    return options


def hashes(corpus: Corpus, scores: ScoreTable, selection: Selection) -> list[tuple[str, str]]:
    """SHA-256 of text, tokenizer, corpus, checkpoints, and what the selection read of a table."""
    return [
        *((f"text {row['path']}", row["sha256"]) for row in corpus.manifest.get("text", ())),
        *(
            (("tokenizer", tokenizer),)
            if (tokenizer := corpus.manifest["tokenizer_sha256"])
            else ()
        ),
        ("corpus", scores.manifest["corpus"]),
        *(
            (f"checkpoint at update {step:,}", sha256)
            for step, sha256 in zip(
                scores.steps, scores.manifest["recipe"].get("checkpoints", ()), strict=False
            )
        ),
        *(
            (f"values read by select: {role}", sha256)
            for role, sha256 in selection.manifest["recipe"].get("hashes", {}).items()
        ),
    ]


def versions(run: Run | None, scores: ScoreTable) -> dict[str, str]:
    """Versions of the programs that made the stages and this page."""
    programs = {
        "pycat": version("pycat-nmt"),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
    }
    if "torch" in scores.manifest:  # not where merged tables are of two versions
        programs["PyTorch, scoring"] = scores.manifest["torch"]
    if run is not None:
        programs["PyTorch, training"] = run.manifest["torch"]
    return programs


def outputs(
    page: Path,
    corpus: Corpus,
    measures: Measures | None,
    run: Run | None,
    scores: ScoreTable,
    selection: Selection,
    evaluation: Evaluation | None,
) -> dict[str, str]:
    """Folder of each stage, relative to that of the page; without what is only in memory."""
    paths = {
        "corpus": corpus.path,
        "measures": measures.path if measures else None,
        "proxy": run.path if run else None,
        "scores": scores.path,
        "selection": selection.path,
        "evaluation": evaluation.path if evaluation else None,
    }
    return {
        stage: os.path.relpath(path, page.parent)
        for stage, path in paths.items()
        if path is not None
    }
