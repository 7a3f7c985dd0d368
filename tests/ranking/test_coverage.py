"""The greedy choice by feature decay, by hand and against the plain algorithm."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import pycat
from pycat import _core
from pycat.data.opening import open_corpus
from pycat.ranking.coverage import coverage
from pycat.scores.unscored import unscored
from pycat.selection.choice import choose
from pycat.selection.recipe import Recipe

Sides = tuple[list[int], list[int]]


def corpus_of_tokens(folder: Path, pairs: list[Sides]) -> pycat.Corpus:
    """A corpus of these token ids, below 50; EOS, which is 0, is added."""
    for side, name in enumerate(("src", "tgt")):
        rows = [[*pair[side], 0] for pair in pairs]
        with _core.IndexedWriter(str(folder / name), dtype="uint16") as writer:
            lengths = np.array([len(row) for row in rows], np.int32)
            writer.append(np.concatenate([np.array(row, np.int32) for row in rows]), lengths)
    return open_corpus((folder / "src", folder / "tgt"), vocab_size=50, eos_id=0)


def features(pair: Sides) -> set[tuple[int, ...]]:
    """N-grams of both sides, n from 1 to 3, with the side in front."""
    return {
        (side, *tokens[first:end])
        for side, tokens in enumerate(pair)
        for first in range(len(tokens))
        for end in range(first + 1, min(first + 3, len(tokens)) + 1)
    }


def plain_choice(pairs: list[Sides], rows: list[int]) -> list[tuple[int, float]]:
    """Rows in the order of choice with their gains: every gain is measured before each choice."""
    counts = Counter(f for row in rows for f in features(pairs[row]))
    seen: Counter[tuple[int, ...]] = Counter()
    left, chosen = list(rows), []

    def gain(row: int) -> float:
        weights = sum(
            math.log(len(rows) / counts[f]) * 0.5 ** seen[f] for f in features(pairs[row])
        )
        return weights / max(1, sum(map(len, pairs[row])))

    while left:
        best = max(left, key=lambda row: (round(gain(row), 5), -row))
        chosen.append((best, gain(best)))
        left.remove(best)
        seen.update(features(pairs[best]))
    return chosen


def test_gains_by_hand(tmp_path: Path) -> None:
    # Token 5 of the source is in two pairs of three, as is 6 of the target; 7, 8 and 5 of the
    # target are in one.
    corpus = corpus_of_tokens(tmp_path, [([5], [6]), ([5], [6]), ([7], [8])])
    everything = np.ones(3, bool)
    # The third first: (ln 3 + ln 3) / 2. Then the first: ln 1.5. Then half of what is left of it.
    expected = [math.log(1.5), math.log(1.5) / 2, math.log(3)]
    assert coverage(corpus, everything, 3).tolist() == pytest.approx(expected)
    # Of pairs that are not chosen: what they would add at the end.
    assert coverage(corpus, everything, 1).tolist() == pytest.approx(
        [math.log(1.5), math.log(1.5), math.log(3)]
    )
    assert coverage(corpus, everything, 2).tolist() == pytest.approx(expected)
    # Without the first pair nothing is shared by both: each n-gram is in one pair of two.
    left = np.array([False, True, True])
    assert coverage(corpus, left, 2).tolist() == pytest.approx([0, math.log(2), math.log(2)])
    assert coverage(corpus, np.zeros(3, bool), 2).tolist() == [0, 0, 0]


def test_n_grams_count_once_and_a_side_has_its_own(tmp_path: Path) -> None:
    corpus = corpus_of_tokens(tmp_path, [([5, 5, 5], [6]), ([6], [5]), ([9], [9])])
    # n-grams of the first: 5, 5 5 and 5 5 5 of the source, 6 of the target, none of them elsewhere.
    gains = coverage(corpus, np.ones(3, bool), 3)
    assert gains.tolist() == pytest.approx([math.log(3), math.log(3), math.log(3)])


def test_the_lazy_choice_is_the_plain_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = [
        tuple((rng.zipf(1.4, rng.integers(0, 8)) % 49 + 1).tolist() for _ in range(2))
        for _ in range(200)
    ]
    corpus = corpus_of_tokens(tmp_path, pairs)
    left = rng.random(200) < 0.8
    rows = np.flatnonzero(left).tolist()
    order = plain_choice(pairs, rows)
    gains = coverage(corpus, left, len(rows), tolerance=0)
    np.testing.assert_allclose(
        gains[rows], [gain for _, gain in sorted(order)], rtol=1e-4, atol=1e-6
    )
    assert coverage(corpus, left, len(rows), tolerance=0, num_threads=1).tolist() == gains.tolist()
    view = corpus.subset(np.flatnonzero(left))
    of_view = coverage(view, np.ones(len(view), bool), len(view), tolerance=0)
    assert of_view.tolist() == gains[rows].tolist()
    # Within the tolerance of each choice the sum of gains stays near that of the exact one.
    near = coverage(corpus, left, 60)
    assert np.sort(near)[-60:].sum() > 0.95 * np.sort(gains)[-60:].sum()
    # A budget of tokens ends with the first pair that exceeds it.
    costs = corpus.num_tokens
    some = coverage(corpus, left, 50, costs=costs, tolerance=0)
    chosen = [row for row, _ in order]
    spent = np.cumsum(costs[chosen])
    inside = chosen[: int(np.searchsorted(spent, 50)) + 1]
    assert some[inside].tolist() == gains[inside].tolist()


def test_the_noisy_go_first_and_then_the_redundant(tmp_path: Path) -> None:
    corpus = corpus_of_tokens(
        tmp_path, [([5, 6], [7]), ([5, 6], [7]), ([8], [9]), ([10, 11], [12])]
    )
    table = unscored(corpus)

    def kept(**options: float) -> list[int]:
        recipe = Recipe(by="coverage", keep=0.5, **options)  # type: ignore[arg-type]
        choice = choose(table, recipe, noise=lambda: np.array([0, 0.1, 0.2, 0.9]), corpus=corpus)
        assert choice.recipe["hashes"]["by"]
        return [int(row) for row in np.flatnonzero(choice.kept)]

    # What is noisy is also new, so without the noise filter it is among the first.
    assert kept() == [2, 3]
    [redundant] = {0, 1} - {*kept(guard=0.5)}
    assert kept(guard=0.5) == sorted([1 - redundant, 2])


def test_more_n_grams_than_cells_share_them(tmp_path: Path) -> None:
    corpus = corpus_of_tokens(tmp_path, [([i], [i]) for i in range(1, 49)])
    crowded = coverage(corpus, np.ones(48, bool), 10, max_cells=16)
    assert np.isfinite(crowded).all()
    assert crowded.max() < math.log(48)


def test_the_chooser_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    corpus = corpus_of_tokens(tmp_path, [([5], [6]), ([5], [6])])
    src, tgt, _ = corpus.files
    ids = np.arange(2)
    good = {"num_cells": 64, "decay": 0.5, "tolerance": 0.0, "num_threads": 1}
    for change, problem in (
        ({"num_cells": 63}, "num_cells is 63, expected a power of two"),
        ({"decay": 1.0}, r"decay is 1\.0+, expected a number between 0 and 1"),
        ({"tolerance": 1.0}, r"tolerance is 1\.0+, expected a number from 0 to below 1"),
        ({"num_threads": 0}, "num_threads is 0, expected at least 1"),
    ):
        with pytest.raises(ValueError, match=problem):
            _core.NgramCoverage(src, tgt, ids, **{**good, **change})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="found 0 pairs"):
        _core.NgramCoverage(src, tgt, ids[:0], **good)  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="ids"):
        _core.NgramCoverage(src, tgt, np.array([0, 2]), **good)  # type: ignore[arg-type]
    chooser = _core.NgramCoverage(src, tgt, ids, **good)  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="begin is 0 and end 3"):
        chooser.count(0, 3)
