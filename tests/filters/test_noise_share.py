"""The estimated share of noise, on mixtures whose share is known."""

from pathlib import Path

import numpy as np
import pytest
from helpers import bpe_corpus, toy_pairs

import pycat
from pycat.errors import PycatError
from pycat.filters.noise_share import component_share, fitted_noise, noise_share


def test_the_share_of_a_component_by_hand() -> None:
    # A tenth of the mixture lies where all of the component lies, and nothing else does.
    rng = np.random.default_rng(0)
    component = rng.normal(9, 1, 500)
    mixture = np.concatenate([rng.normal(0, 1, 4500), rng.normal(9, 1, 500)])
    share, error = component_share(mixture, component)
    assert share == pytest.approx(0.1, abs=1.96 * error)
    # Regions hold 100 to 400 pairs of each: sqrt(2/100) to sqrt(2/400) of the share.
    assert 0.006 < error < 0.015
    # Where the mixture has none of it, next to nothing is found.
    share, _ = component_share(rng.normal(0, 1, 5000), component)
    assert share < 0.001


def spoilt_pairs(num_pairs: int, share: float) -> list[tuple[str, str]]:
    """Pairs of which a share has the target of another pair."""
    pairs = toy_pairs(num_pairs)
    spoilt = np.random.default_rng(1).permutation(num_pairs)[: round(share * num_pairs)].tolist()
    targets = [pairs[row][1] for row in spoilt]
    for row, target in zip(spoilt, targets[1:] + targets[:1], strict=True):
        pairs[row] = (pairs[row][0], target)
    return pairs


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> pycat.Corpus:
    return bpe_corpus(tmp_path_factory.mktemp("noisy"), spoilt_pairs(3000, 0.2))


def test_misaligned_pairs_are_counted(noisy: pycat.Corpus) -> None:
    found = noise_share(noisy)
    assert found.num_pairs == 3000
    assert 0.15 < found.kinds["misaligned"] < 0.25
    assert found.low < 0.2 < found.high + 0.02
    assert found.share == pytest.approx(sum(found.kinds.values()))
    again = noise_share(noisy, num_threads=1)
    assert again == found


def test_a_corpus_without_noise_has_next_to_none(tmp_path: Path) -> None:
    found = noise_share(bpe_corpus(tmp_path, toy_pairs(2000)))
    assert found.kinds["misaligned"] < 0.02


def test_auto_drops_the_estimated_share(noisy: pycat.Corpus, tmp_path: Path) -> None:
    measures = pycat.measure(noisy, out=tmp_path / "measures")
    kept = pycat.select(noisy, guard="auto", by="random", rules="none", measures=measures)
    share = kept.manifest["noise_share"]
    assert kept.manifest["dropped"]["guard"] == round(share["share"] * 3000)
    assert kept.manifest["recipe"]["guard"] == "auto"
    assert share["kinds"]["misaligned"] > 0.1
    # What is asked for stays.
    most = pycat.select(
        noisy, keep=0.98, guard="auto", by="random", rules="none", measures=measures
    )
    assert most.manifest["num_kept"] == 2940
    assert most.manifest["dropped"]["guard"] == 60


def test_the_fitted_noise_finds_what_is_spoilt(noisy: pycat.Corpus, tmp_path: Path) -> None:
    measures = pycat.measure(noisy, out=tmp_path / "measures")
    share, likely = fitted_noise(noisy, np.arange(3000), measures.column)
    assert share == noise_share(noisy)
    spoilt = np.random.default_rng(1).permutation(3000)[:600]
    worst = np.argsort(-likely)[:600]
    found = len(np.intersect1d(worst, spoilt)) / 600
    by_score = np.argsort(-measures.noise_score())[:600]
    assert found > 0.8
    assert found >= len(np.intersect1d(by_score, spoilt)) / 600
    kept = pycat.select(noisy, by="fitted_noise", rules="none", guard=0, measures=measures)
    assert kept.pair_ids.tolist() == sorted(np.argsort(likely, kind="stable")[:1500].tolist())
    assert kept.manifest["noise_share"]["share"] == share.share


def test_few_pairs_are_refused(noisy: pycat.Corpus) -> None:
    with pytest.raises(PycatError, match="among 999 pairs, expected at least 1,000; give guard"):
        noise_share(noisy, np.arange(999))
    with pytest.raises(PycatError, match="guard is likely; expected a fraction"):
        pycat.select(noisy, guard="likely")
