"""Clusters of encoder states."""

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ToyText, write_lines

import pycat
from pycat.errors import CheckpointError, OutputError, PycatError
from pycat.proxy.checkpoint import load_model, read_infos
from pycat.runtime.locks import Lock
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


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of half the pairs, and some parts of both passes."""
    monkeypatch.setattr(clusters, "_SAMPLE", 100)
    monkeypatch.setattr(clusters, "_BATCH_TOKENS", 256)
    monkeypatch.setattr(clusters, "_PART_BATCHES", 3)


def column_of(scores: Path) -> list[int]:
    return [int(cluster) for cluster in pycat.ScoreTable.open(scores).column("cluster")]


@pytest.fixture
def tables(two_domains: tuple[pycat.Corpus, pycat.Run, Path], tmp_path: Path) -> list[Path]:
    """Three equal tables without clusters."""
    corpus, run, _ = two_domains
    first = tmp_path / "scores-0"
    pycat.score(corpus, run.checkpoints, out=first, stats="nll", device="cpu")
    return [first, *(shutil.copytree(first, tmp_path / f"scores-{i}") for i in (1, 2))]


def test_workers_make_the_same_clusters(
    two_domains: tuple[pycat.Corpus, pycat.Run, Path],
    tables: list[Path],
    small_parts: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, run, _ = two_domains
    here, elsewhere, _ = tables
    add_clusters(here, run.checkpoints[-1], num_clusters=5, device="cpu")
    # Workers of the test are forked, so that they have its sizes too.
    forked = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: forked)
    add_clusters(elsewhere, run.checkpoints[-1], num_clusters=5, device="cpu", num_workers=2)
    assert column_of(elsewhere) == column_of(here)
    assert len(set(column_of(here))) == 5
    assert sorted(path.name for path in elsewhere.iterdir()) == [
        *("column-cluster-00000.parquet", "part-00000.parquet", "scores.json")
    ]


def test_an_interrupted_pass_goes_on(
    two_domains: tuple[pycat.Corpus, pycat.Run, Path],
    tables: list[Path],
    small_parts: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, run, _ = two_domains
    whole, killed, other = tables
    means, made = clusters._means, list[int]()

    def interrupted(*given: Any) -> Any:
        if len(made) == stop_after:
            raise KeyboardInterrupt
        made.append(given[-1].first)
        return means(*given)

    def add(scores: Path, seed: int = 0) -> None:
        made.clear()
        add_clusters(scores, run.checkpoints[-1], num_clusters=5, seed=seed, device="cpu")

    monkeypatch.setattr(clusters, "_means", interrupted)
    stop_after = -1
    add(whole)
    num_parts = len(made)
    num_sample_parts = made[1:].index(0) + 1  # the second pass begins at the first batch again
    assert 1 < num_sample_parts < num_parts - 1
    # In the sample, and in the pass over all pairs.
    for stop in (1, num_sample_parts):
        stop_after = stop
        with pytest.raises(KeyboardInterrupt):
            add(killed)
        assert "cluster" not in pycat.ScoreTable.open(killed).manifest.get("columns", ())
    stop_after = -1
    add(killed)
    assert len(made) == num_parts - num_sample_parts - 1
    assert column_of(killed) == column_of(whole)
    assert not (killed / "clustering").exists()

    # States of other options are of no use, and none are left, also where a kill came late.
    stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        add(other, seed=1)
    stop_after = -1
    add(other)
    assert len(made) == num_parts
    assert column_of(other) == column_of(whole)
    (other / "clustering").mkdir()
    (other / "clustering" / "cluster-00000.npz").touch()
    add(other)
    assert made == [] and not (other / "clustering").exists()


def test_one_process_at_a_time_makes_clusters(
    two_domains: tuple[pycat.Corpus, pycat.Run, Path], tables: list[Path]
) -> None:
    _, run, _ = two_domains
    working = tables[0] / "clustering"
    working.mkdir()
    with (
        Lock.of_folder(working),
        pytest.raises(OutputError, match=r"process \d+ on .* writes here"),
    ):
        add_clusters(tables[0], run.checkpoints[-1], num_clusters=5, device="cpu")


def test_a_killed_writer_of_a_column_leaves_nothing(
    two_domains: tuple[pycat.Corpus, pycat.Run, Path], tables: list[Path]
) -> None:
    _, run, _ = two_domains
    (tables[0] / ".scores.json.123.tmp").touch()
    (tables[0] / ".column-cluster-00000.parquet.123.tmp").touch()
    add_clusters(tables[0], run.checkpoints[-1], num_clusters=2, device="cpu")
    assert not [*tables[0].glob(".*")]
    # Nor one that was killed after it had written the manifest.
    (tables[0] / ".pycat.lock").touch()
    (tables[0] / ".scores.json.123.tmp").touch()
    add_clusters(tables[0], run.checkpoints[-1], num_clusters=2, device="cpu")
    assert not [*tables[0].glob(".*")]
    (tables[0] / ".pycat.lock").touch()
    with pytest.raises(PycatError, match="the table has or keeps this name"):
        pycat.add_average(tables[0], tables[1:], by="nll_0", name="cluster")
    assert not [*tables[0].glob(".*")]


def test_states_are_means_over_source_tokens(
    two_domains: tuple[pycat.Corpus, pycat.Run, Path],
) -> None:
    from pycat.scoring.clusters import _Batches, _means

    corpus, run, _ = two_domains
    [info] = read_infos([run.checkpoints[-1]], corpus)
    model = load_model(info, torch.device("cpu"))
    found = np.zeros((len(corpus), model.config.d_model))
    num_batches = corpus.num_batches(8192, padded=True)
    for rows, means in _means(corpus, model, torch.device("cpu"), _Batches(0, num_batches)):
        found[rows] = means
    for row in (0, 7, 199):
        batch = corpus.read(corpus.pair_ids[[row]])
        with torch.inference_mode():
            states, _ = model.encode(batch.src_tokens[None], batch.src_cu_seqlens.diff())
        np.testing.assert_allclose(found[row], states[0].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_states_are_those_of_the_padded_batch(
    two_domains: tuple[pycat.Corpus, pycat.Run, Path],
) -> None:
    corpus, run, _ = two_domains
    [info] = read_infos([run.checkpoints[-1]], corpus)
    model = load_model(info, torch.device("cpu"))
    with corpus.batches(512, padded=True) as batches, torch.inference_mode():
        for batch in batches:
            lengths = batch.src_cu_seqlens.diff()
            expected, mask = model.encode(batch.src_tokens, lengths)
            found = clusters._encode(model, batch.src_tokens, lengths)
            shown = mask[:, 0, 0, :, None]
            torch.testing.assert_close(found, expected * shown, rtol=1e-5, atol=1e-6)


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
    table = pycat.score(pycat.open_corpus(two_domains[0].path), run.checkpoints, device="cpu")
    with pytest.raises(PycatError, match="num_workers=2: workers write files; pass a table on the"):
        add_clusters(table, checkpoint, num_workers=2, device="cpu")
    with pytest.raises(CheckpointError, match="tokenizer"):
        add_clusters(scores, foreign.checkpoints[0], name="foreign")
