"""Batches of an epoch, whose order is found a block at a time."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

import pycat
from pycat.proxy import packing
from pycat.proxy.packing import PackedBatches, cut_batches


def read(batches: PackedBatches, count: int) -> list[list[int]]:
    return [next(batches).pair_ids.tolist() for _ in range(count)]


def by_hand(corpus: pycat.Corpus, batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """One epoch, ordered and cut at once."""
    keys = np.random.default_rng((seed, epoch)).random(int(corpus.pair_ids.max()) + 1)
    order = np.argsort(keys[corpus.pair_ids], kind="stable")
    src, tgt = corpus.num_src_tokens[order], corpus.num_tokens[order]
    ends = cut_batches(src, tgt, batch_tokens, len(corpus))
    ids = corpus.pair_ids[order]
    return [ids[first:end].tolist() for first, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("block_pairs", [30, 64, 299, 1 << 22])
@pytest.mark.parametrize(
    "view", [lambda n: np.arange(n), lambda n: np.arange(5, n, 3)], ids=["whole", "subset"]
)
def test_blocks_are_cut_as_one_order(
    block_pairs: int,
    view: Callable[[int], NDArray[np.int64]],
    toy_corpus: pycat.Corpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = toy_corpus.subset(view(len(toy_corpus)))
    if len(corpus) == len(toy_corpus):
        corpus = toy_corpus  # not a view
    monkeypatch.setattr(packing, "_BLOCK_PAIRS", block_pairs)
    expected = [by_hand(corpus, 150, 3, epoch) for epoch in range(3)]
    batches = PackedBatches(corpus, 150, seed=3)
    for epoch in expected:
        assert read(batches, len(epoch)) == epoch
        assert batches.num_batches == len(epoch)

    flat = [batch for epoch in expected for batch in epoch]
    positions = []
    batches = PackedBatches(corpus, 150, seed=3)
    for _ in range(len(flat) - 1):
        positions.append(batches.position)
        next(batches)
    for at in range(0, len(positions), 40):
        resumed = PackedBatches(corpus, 150, seed=3, position=positions[at])
        assert resumed.position == positions[at]
        assert read(resumed, 1) == [flat[at]]
        batches.go_to(positions[at])
        assert read(batches, 2) == flat[at : at + 2]


def test_a_pair_longer_than_a_batch_stands_alone_beside_the_end_of_a_block(
    toy_corpus: pycat.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_BLOCK_PAIRS", 50)
    batches = PackedBatches(toy_corpus, 1)
    assert batches.num_batches == len(toy_corpus)
    assert sorted(read(batches, len(toy_corpus))) == [[i] for i in range(len(toy_corpus))]
