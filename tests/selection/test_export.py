"""What OpusTrainer gets of a selection: data sets, stages and weights."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from helpers import MakeScores, ToyText, toy_pairs

import pycat
from pycat.errors import OutputError, PycatError


def test_kept_and_rest_become_data_sets_with_stages(
    toy_text: ToyText, make_scores: MakeScores, tmp_path: Path
) -> None:
    corpus = pycat.tokenize(*toy_text(40), out=tmp_path / "corpus", vocab_size=340)
    nll = np.ones((40, 2))
    nll[:, 1] = np.arange(40)
    table = make_scores(corpus, nll, tmp_path / "scores")
    kept = pycat.select(
        table, by="nll_1", rules="none", guard=0, keep=0.25, drop={"nll_1": 0.5}, out=tmp_path / "s"
    )
    assert kept.pair_ids.tolist() == [*range(10, 20)]
    config = pycat.export_opustrainer(kept, table, out=tmp_path / "out")
    lines = ["\t".join(pair) for pair in toy_pairs(40)]
    files = {
        name: gzip.decompress((tmp_path / "out" / f"{name}.tsv.gz").read_bytes()).decode()
        for name in ("kept", "rest")
    }
    assert files["kept"].splitlines() == lines[10:20]
    assert files["rest"].splitlines() == lines[:10]  # those that the drop left out are neither
    weights = [*map(float, (tmp_path / "out" / "weights.txt").read_text().split())]
    assert weights == pytest.approx([*((np.arange(20) + 1) / 20), *([0] * 20)])
    text = config.read_text()
    assert f'kept: "{tmp_path / "out" / "kept.tsv.gz"}"\n' in text
    # Half of what is mixed was kept: half and half, then three quarters, then kept alone.
    assert text.index("- kept 0.5000") < text.index("- kept 0.7500") < text.index("- kept 1.0")
    with pytest.raises(OutputError, match=r"kept\.tsv\.gz: this file exists; pass --overwrite"):
        pycat.export_opustrainer(kept, table, out=tmp_path / "out")
    pycat.export_opustrainer(
        tmp_path / "s", tmp_path / "scores", out=tmp_path / "out", overwrite=True
    )
    assert config.read_text() == text
    with pytest.raises(PycatError, match="made from another score table"):
        pycat.export_opustrainer(kept, out=tmp_path / "other")
    everything = pycat.select(table, by="nll_1", rules="none", guard=0, keep=1.0)
    with pytest.raises(PycatError, match="left out no pair, so there is no rest"):
        pycat.export_opustrainer(everything, table, out=tmp_path / "other")
