"""Clusters of encoder states."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ToyText, write_lines

import pycat
from pycat.errors import CheckpointError, PycatError
from pycat.proxy.checkpoint import load_model, read_infos
from pycat.scoring import clusters
from pycat.scoring.clusters import add_clusters, spherical_k_means


def test_k_means_finds_directions() -> None:
    rng = np.random.default_rng(0)
    truth = np.eye(4, 8)[rng.integers(4, size=300)]
    points = truth + rng.normal(scale=0.05, size=truth.shape)
    directions = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    centres = spherical_k_means(directions, 4, rng)
    assert centres.shape == (4, 8)
    assert np.linalg.norm(centres, axis=1).tolist() == pytest.approx([1] * 4)
    found, wanted = (directions @ centres.T).argmax(axis=1), truth.argmax(axis=1)
    assert len({*zip(found.tolist(), wanted.tolist(), strict=True)}) == 4


def test_k_means_makes_no_more_centres_than_there_are_points() -> None:
    directions = np.repeat(np.eye(2, 3, dtype=np.float32), 5, axis=0)
    centres = spherical_k_means(directions, 7, np.random.default_rng(1))
    assert sorted(map(tuple, centres.tolist())) == [(0, 1, 0), (1, 0, 0)]
    # Sources that are all the same lie at their mean.
    nowhere = np.zeros((5, 3), dtype=np.float32)
    assert spherical_k_means(nowhere, 2, np.random.default_rng(1)).tolist() == [[0, 0, 0]]


@pytest.fixture(scope="module")
def two_domains(tmp_path_factory: pytest.TempPathFactory) -> tuple[pycat.Corpus, pycat.Run, Path]:
    """Texts of two vocabularies by turns, and a proxy that was trained a little."""
    folder = tmp_path_factory.mktemp("domains")
    rng = np.random.default_rng(3)
    words = [
        ["alpha", "beta", "gamma", "delta", "epsilon"],
        ["rot", "blau", "gelb", "weiss", "lila"],
    ]
    pairs = []
    for i in range(200):
        drawn = [words[i % 2][k] for k in rng.integers(5, size=rng.integers(3, 9))]
        pairs.append((" ".join(drawn) + f" {i}", " ".join(drawn[::-1]) + f" {i}"))
    corpus = pycat.tokenize(*write_lines(folder, pairs, "two"), out=folder / "c", vocab_size=310)
    run = pycat.train(
        corpus,
        out=folder / "proxy",
        checkpoint_steps=[10, 20],
        batch_tokens=256,
        preset="mini",
        device="cpu",
    )
    pycat.score(corpus, run.checkpoints, out=folder / "scores", device="cpu")
    return corpus, run, folder / "scores"


def test_domains_are_told_apart_and_kept_in_equal_shares(
    two_domains: tuple[pycat.Corpus, pycat.Run, Path], tmp_path: Path
) -> None:
    corpus, run, scores = two_domains
    assert add_clusters(scores, run.checkpoints[-1], num_clusters=2, device="cpu") == "cluster"
    table = pycat.ScoreTable.open(scores)
    of_pairs = np.asarray(table.column("cluster"))
    domains = corpus.lines % 2
    assert sorted(np.unique(of_pairs)) == [0, 1]
    agreement = (of_pairs == domains).mean()
    assert max(agreement, 1 - agreement) > 0.9
    chosen = pycat.select(
        table, out=tmp_path / "half", rules="none", guard=0, strata="cluster", keep=0.5
    )
    kept = np.isin(corpus.pair_ids, chosen.pair_ids)
    for cluster in (0, 1):
        size = int((of_pairs == cluster).sum())
        assert abs(int(kept[of_pairs == cluster].sum()) - size / 2) <= 1
    made_by = table.manifest["made_by"]["cluster"]
    assert made_by["num_clusters"] == 2 and made_by["seed"] == 0
    # The same call leaves the table as it is, by default options too; another is refused.
    assert add_clusters(scores, run.checkpoints[-1], device="cpu") == "cluster"
    assert pycat.ScoreTable.open(scores).manifest == table.manifest
    with pytest.raises(PycatError, match="column cluster: the table has or keeps this name"):
        add_clusters(scores, run.checkpoints[0], device="cpu")


def test_a_small_text_is_one_cluster(
    two_domains: tuple[pycat.Corpus, pycat.Run, Path], tmp_path: Path
) -> None:
    corpus, run, _ = two_domains
    for num_pairs, num_clusters in ((1, 1), (199, 1), (200, 2)):
        part = corpus.subset(corpus.pair_ids[:num_pairs])
        table = pycat.score(part, run.checkpoints, device="cpu")
        add_clusters(table, run.checkpoints[-1], device="cpu")
        assert len(np.unique(table.column("cluster"))) == num_clusters
        assert table.manifest["made_by"]["cluster"]["num_clusters"] == num_clusters


def test_a_sample_stands_for_a_large_text(
    two_domains: tuple[pycat.Corpus, pycat.Run, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, run, _ = two_domains
    found = []
    for sample in (20_000, 120):
        monkeypatch.setattr(clusters, "_SAMPLE", sample)
        table = pycat.score(corpus, run.checkpoints, device="cpu")
        add_clusters(table, run.checkpoints[-1], num_clusters=2, device="cpu")
        found.append(np.asarray(table.column("cluster")))
    agreement = (found[0] == found[1]).mean()
    assert max(agreement, 1 - agreement) > 0.9


def test_states_are_means_over_source_tokens(
    two_domains: tuple[pycat.Corpus, pycat.Run, Path],
) -> None:
    from pycat.scoring.clusters import _means

    corpus, run, _ = two_domains
    [info] = read_infos([run.checkpoints[-1]], corpus)
    model = load_model(info, torch.device("cpu"))
    found = np.zeros((len(corpus), model.config.d_model))
    for rows, means in _means(corpus, model, torch.device("cpu"), "sample"):
        found[rows] = means
    for row in (0, 7, 199):
        batch = corpus.read(corpus.pair_ids[[row]])
        with torch.inference_mode():
            states, _ = model.encode(batch.src_tokens[None], batch.src_cu_seqlens.diff())
        np.testing.assert_allclose(found[row], states[0].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_what_is_refused(
    two_domains: tuple[pycat.Corpus, pycat.Run, Path], toy_text: ToyText, tmp_path: Path
) -> None:
    _, run, scores = two_domains
    checkpoint = run.checkpoints[-1]
    with pytest.raises(PycatError, match="num_clusters"):
        add_clusters(scores, checkpoint, num_clusters=1, name="one")
    with pytest.raises(PycatError, match="holds 200 pairs, expected at least one for each"):
        add_clusters(scores, checkpoint, num_clusters=201, name="more")
    other = pycat.tokenize(*toy_text(60), out=tmp_path / "other", vocab_size=340)
    foreign = pycat.train(
        other,
        out=tmp_path / "proxy",
        checkpoint_steps=[1, 2],
        batch_tokens=64,
        preset="mini",
        device="cpu",
    )
    with pytest.raises(CheckpointError, match="tokenizer"):
        add_clusters(scores, foreign.checkpoints[0], name="foreign")
