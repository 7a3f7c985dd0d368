"""Which pairs and spans dynamic pruning trains on, and what they count."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import make_corpus

from pycat.data.corpus import Corpus
from pycat.proxy.dynamic_pruning import DynamicBatches, unit_weights
from pycat.proxy.packing import PackedBatches

RNG = np.random.default_rng


def test_the_lowest_losses_are_left_out() -> None:
    losses = np.array([3.0, 1.0, 2.0, 5.0, 4.0], dtype=np.float32)
    assert unit_weights(losses, 0.6, "loss", RNG(0)).tolist() == [1, 0, 0, 1, 1]
    assert unit_weights(losses, 0.99, "loss", RNG(0)).tolist() == [1] * 5
    assert unit_weights(losses, 0.01, "loss", RNG(0)).tolist() == [0, 0, 0, 1, 0]


def test_infobatch_leaves_out_low_losses_and_makes_up_for_them() -> None:
    # Mean 4: six of ten below it. Two go, and the other four count 1 / (1 - 2 / 6).
    losses = np.array([1, 1, 2, 2, 3, 3, 7, 7, 7, 7], dtype=np.float32)
    weights = unit_weights(losses, 0.8, "infobatch", RNG(0))
    assert weights[6:].tolist() == [1] * 4
    assert sorted(weights[:6].tolist()) == pytest.approx([0, 0, 1.5, 1.5, 1.5, 1.5])
    # Five go, of the ten lowest, although only six lie below the mean.
    weights = unit_weights(losses, 0.5, "infobatch", RNG(0))
    assert sorted(weights.tolist()) == [0] * 5 + [2] * 5
    assert weights[6:].max() == 2


def test_what_infobatch_expects_is_the_whole() -> None:
    losses = RNG(1).gamma(2.0, size=50).astype(np.float32)
    sums = [unit_weights(losses, 0.7, "infobatch", RNG(seed)) for seed in range(4000)]
    np.testing.assert_allclose(np.mean(sums, axis=0), 1, atol=0.06)


def test_a_random_share_differs_from_epoch_to_epoch() -> None:
    losses = np.full(10, np.nan, dtype=np.float32)
    first, second = (unit_weights(losses, 0.3, "random", RNG(seed)) for seed in (0, 1))
    assert first.sum() == second.sum() == 3
    assert first.tolist() != second.tolist()


def batches_of(corpus: Corpus, **options: Any) -> DynamicBatches:
    common: dict[str, Any] = {"batch_pairs": None, "seed": 0, "updates": 1000, "share": 0.5}
    return DynamicBatches(corpus, 128, **{**common, "by": "loss", "unit": "pairs", **options})


def epoch(batches: DynamicBatches, loss_of: Any = None) -> dict[int, np.ndarray[Any, Any]]:
    """Reads an epoch; the token weights by pair."""
    read: dict[int, np.ndarray[Any, Any]] = {}
    while True:
        batch = next(batches)
        weights = batches.token_weights(batch)
        ends = batch.tgt_cu_seqlens.numpy()
        for i, pair in enumerate(batch.pair_ids.tolist()):
            read[pair] = weights[ends[i] : ends[i + 1]]
        if loss_of is not None:
            losses = [
                np.broadcast_to(np.float32(loss_of(pair)), ends[i + 1] - ends[i])
                for i, pair in enumerate(batch.pair_ids.tolist())
            ]
            batches.record(batch, np.concatenate(losses))
        if batches.position["batch"] == batches.num_batches:
            return read


def test_an_epoch_follows_the_losses_of_the_last_one(toy_corpus: Corpus) -> None:
    few = toy_corpus.subset(toy_corpus.pair_ids[10:30])
    batches = batches_of(few)
    assert sorted(epoch(batches, float)) == few.pair_ids.tolist()
    # The higher a pair's id, the higher was its loss.
    assert sorted(epoch(batches, lambda pair: -pair)) == few.pair_ids[10:].tolist()
    # Those are the lowest now; the loss of the others is that of two epochs ago.
    assert sorted(epoch(batches)) == few.pair_ids[:10].tolist()


def test_random_prunes_from_the_first_epoch_on(toy_corpus: Corpus) -> None:
    few = toy_corpus.subset(toy_corpus.pair_ids[:20])
    batches = batches_of(few, by="random")
    first, second = sorted(epoch(batches)), sorted(epoch(batches))
    assert len(first) == len(second) == 10
    assert first != second


def test_the_last_eighth_of_the_updates_reads_everything(toy_corpus: Corpus) -> None:
    few = toy_corpus.subset(toy_corpus.pair_ids[:40])
    num_batches = PackedBatches(few, 128).num_batches
    updates = 8 * num_batches
    batches = batches_of(few, by="random", updates=updates)
    for _ in range(updates - num_batches):
        next(batches)
    assert batches.position["batch"] < batches.num_batches  # within an epoch
    last = [next(batches).pair_ids.tolist() for _ in range(num_batches)]
    assert sorted(chain.from_iterable(last)) == few.pair_ids.tolist()


def test_spans_are_left_out_of_the_loss_alone(tmp_path: Path) -> None:
    # The second target has three spans, of 14, 13 and 13 tokens; the others have one.
    lengths = [3, 40, 16, 5]
    rows = [[*([7] * (length - 1)), 2] for length in lengths]
    corpus = make_corpus(tmp_path / "corpus", rows, rows, eos_id=2)
    batches = batches_of(corpus, unit="spans", share=0.5)

    def losses_of(pair: int) -> np.ndarray[Any, Any]:
        losses = np.full(lengths[pair], 5.0 + pair, dtype=np.float32)
        if pair == 1:
            losses[:14], losses[14:27], losses[27:] = 1.0, 9.0, 2.0
            losses[0], losses[13] = 0.0, 2.0
        return losses

    assert {pair: own.sum() for pair, own in epoch(batches, losses_of).items()} == dict(
        enumerate(lengths)
    )
    np.testing.assert_allclose(batches.position["losses"], [5, 1, 9, 2, 7, 8])
    weights = epoch(batches, losses_of)
    assert sorted(weights) == [1, 2, 3]
    assert weights[1].tolist() == [0] * 14 + [1] * 13 + [0] * 13
    assert weights[2].tolist() == [1] * 16


def test_subsets_read_what_they_share_in_one_order(toy_corpus: Corpus) -> None:
    half = toy_corpus.subset(toy_corpus.pair_ids[::2])
    orders = []
    for corpus in (toy_corpus, half):
        batches = PackedBatches(corpus, 128, seed=3)
        read = [next(batches).pair_ids.tolist() for _ in range(batches.num_batches)]
        orders.append(list(chain.from_iterable(read)))
    assert sorted(orders[0]) == toy_corpus.pair_ids.tolist()
    assert [pair for pair in orders[0] if pair % 2 == 0] == orders[1]
