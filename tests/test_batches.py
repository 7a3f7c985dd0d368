"""Batches cover each pair once, within the budget, alike however they are read."""

from itertools import chain

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pycat.batches import Batch, length_mask
from pycat.corpus import Corpus


def batches(corpus: Corpus, batch_tokens: int, **options: object) -> list[Batch]:
    with corpus.batches(batch_tokens, **options) as stream:  # type: ignore[arg-type]
        return list(stream)


def pairs(corpus: Corpus, batch_tokens: int, **options: object) -> list[list[int]]:
    return [batch.pair_ids.tolist() for batch in batches(corpus, batch_tokens, **options)]


def test_length_mask_by_hand() -> None:
    mask = length_mask(torch.zeros(3, 3), torch.tensor([0, 3, 5, 6], dtype=torch.int32))
    assert mask.tolist() == [[True] * 3, [True, True, False], [True, False, False]]


def computed(corpus: Corpus, ids: NDArray[np.int64], padded: bool) -> int:
    sides = corpus.num_src_tokens[ids], corpus.num_tokens[ids]
    return max(len(ids) * int(side.max()) if padded else int(side.sum()) for side in sides)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 30, 64, 333, 100_000])
def test_each_pair_comes_once_within_the_budget(
    toy_corpus: Corpus, batch_tokens: int, padded: bool
) -> None:
    counts = set()
    for seed, epoch in ((None, 0), (0, 0), (0, 1), (1, 0), (2**31, 7), (-1, 0)):
        plan = pairs(toy_corpus, batch_tokens, seed=seed, epoch=epoch, padded=padded)
        assert sorted(chain.from_iterable(plan)) == list(range(300))
        for ids in plan:
            assert len(ids) == 1 or computed(toy_corpus, np.array(ids), padded) <= batch_tokens
        counts.add(len(plan))
    assert counts == {toy_corpus.num_batches(batch_tokens, padded=padded)}


def test_a_budget_of_no_tokens_is_refused(toy_corpus: Corpus) -> None:
    with pytest.raises(ValueError, match=r"^batch_tokens is 0, expected at least 1$"):
        toy_corpus.batches(0)
