"""OpusFilter runs pycat's filters by the names in its configuration."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from other_models import convert_marian, ct2_nll, pieces, write_marian, write_yaml

import pycat
from pycat.ranking.criteria import evaluate_criterion

pytest.importorskip("ruamel.yaml", reason="needs opusfilter")
pytestmark = pytest.mark.skipif(
    not (Path(sys.executable).parent / "opusfilter").is_file(), reason="needs opusfilter"
)


def run(folder: Path, kind: str, filters: str) -> None:
    """Run a configuration of one step in `folder`."""
    outputs = "output: scores.jsonl" if kind == "score" else "outputs: [kept.en, kept.de]"
    (folder / "config.yaml").write_text(
        f"common:\n  output_directory: {folder}\nsteps:\n  - type: {kind}\n    parameters:\n"
        f"      inputs: [text.en, text.de]\n      {outputs}\n      filters:\n{filters}"
    )
    command = [str(Path(sys.executable).parent / "opusfilter"), "--overwrite", "config.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pairs_are_kept_by_a_score_table(tmp_path: Path) -> None:
    src, tgt = tmp_path / "train.en", tmp_path / "train.de"
    src.write_text("".join(f"p{2 + i % 37} p{5 + i // 4}\n" for i in range(60)))
    tgt.write_text("".join(f"p{3 + i // 3} p{4 + i % 31}\n" for i in range(60)))
    words = write_yaml(tmp_path / "vocab.yml", pieces(40))
    corpus = pycat.tokenize(src, tgt, out=tmp_path / "corpus", vocabs=[words])
    models = [write_marian(tmp_path / f"model.iter{i}.npz", seed=i) for i in (1, 2)]
    table = pycat.score(corpus, models, out=tmp_path / "scores", device="cpu")
    values = evaluate_criterion(table, "learnability")
    threshold = float(np.sort(values)[25])
    # Other lines, and another order, than the corpus has.
    sources, targets = src.read_text("utf-8").splitlines(), tgt.read_text("utf-8").splitlines()
    order = [*range(30, 60), *range(10)]
    for name, lines in (("en", sources), ("de", targets)):
        text = [*(lines[i] for i in order), "of no corpus"]
        (tmp_path / f"text.{name}").write_text("".join(f"{line}\n" for line in text), "utf-8")
    run(
        tmp_path,
        "filter",
        f"        - PycatFilter: {{scores: scores, threshold: {threshold!r}}}\n"
        "          module: pycat.integrations.opusfilter\n",
    )
    kept = (tmp_path / "kept.en").read_text("utf-8").splitlines()
    assert kept == [sources[i] for i in order if values[i] >= threshold]
    assert 0 < len(kept) < len(order)


def test_pairs_are_scored_by_a_model(tmp_path: Path) -> None:
    model = write_marian(tmp_path / "model.npz")
    write_yaml(tmp_path / "vocab.yml", pieces(40))
    folder = convert_marian(model, tmp_path / "ct2", pieces(40), pieces(40))
    src, tgt = [f"p{i} p5" for i in range(2, 12)], [f"p{i} p{i + 3}" for i in range(2, 12)]
    tgt[3] = ""
    for name, lines in (("en", src), ("de", tgt)):
        (tmp_path / f"text.{name}").write_text("".join(f"{line}\n" for line in lines))
    rows = [[line.split() for line in side] for side in (tgt, src)]
    exact = np.array([nll.mean() for nll in ct2_nll(folder, *rows)])
    exact[3] = np.inf
    options = "checkpoint: model.npz, vocabs: [vocab.yml], reverse: true"
    module = "          module: pycat.integrations.opusfilter\n"
    run(tmp_path, "score", f"        - PycatScorer: {{{options}}}\n{module}")
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    found = [json.loads(line)["PycatScorer"] for line in lines]
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    threshold = float(np.sort(exact)[4]) + 1e-3
    run(
        tmp_path,
        "filter",
        f"        - PycatScorer: {{{options}, threshold: {threshold}}}\n{module}",
    )
    kept = (tmp_path / "kept.en").read_text().splitlines()
    assert kept == [line for line, score in zip(src, exact, strict=True) if score < threshold]
