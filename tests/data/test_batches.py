"""Batches cover each pair once, within the budget, alike however they are read."""

import json
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pycat._core import BatchPlan, IndexedFile, IndexedWriter, PairOrder, read_batch
from pycat._core import BatchStream as CoreStream
from pycat.data.batches import Batch, from_capsules, length_mask
from pycat.data.corpus import Corpus
from pycat.errors import CorpusError


def batches(corpus: Corpus, batch_tokens: int, **options: Any) -> list[Batch]:
    with corpus.batches(batch_tokens, **options) as stream:
        return list(stream)


def pairs(corpus: Corpus, batch_tokens: int, **options: Any) -> list[list[int]]:
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


def test_a_batch_is_full_when_it_is_cut(toy_corpus: Corpus) -> None:
    for padded in (False, True):
        plan = pairs(toy_corpus, 64, padded=padded)
        for ids, following in pairwise(plan):
            assert computed(toy_corpus, np.array([*ids, following[0]]), padded) > 64


def test_without_a_seed_lengths_rise_and_neighbours_are_alike(toy_corpus: Corpus) -> None:
    order = list(chain.from_iterable(pairs(toy_corpus, 64)))
    lengths = [(int(toy_corpus.num_tokens[i]), int(toy_corpus.num_src_tokens[i])) for i in order]
    # Source lengths rise within even target lengths and fall within odd ones; ids settle ties.
    keys = [
        (tgt, src if tgt % 2 == 0 else -src, i)
        for (tgt, src), i in zip(lengths, order, strict=True)
    ]
    assert keys == sorted(keys)


def test_the_order_depends_on_seed_and_epoch_alone(toy_corpus: Corpus) -> None:
    first = pairs(toy_corpus, 64, seed=1, epoch=2)
    assert first == pairs(toy_corpus, 64, seed=1, epoch=2)
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        other = pairs(toy_corpus, 64, seed=seed, epoch=epoch)
        assert other != first
        assert {frozenset(ids) for ids in other} != {frozenset(ids) for ids in first}
    longest = [max(int(toy_corpus.num_tokens[i]) for i in ids) for ids in first]
    assert longest != sorted(longest)


def test_packed_tokens_are_those_of_the_pairs(toy_corpus: Corpus) -> None:
    for batch in batches(toy_corpus, 64, seed=3):
        expected = toy_corpus.read(batch.pair_ids.numpy())
        for name in Batch._fields:
            assert torch.equal(getattr(batch, name), getattr(expected, name))
        for i, pair in enumerate(batch.pair_ids.tolist()):
            src, tgt = toy_corpus[pair]
            begin, end = batch.src_cu_seqlens[i : i + 2].tolist()
            assert batch.src_tokens[begin:end].tolist() == src.tolist()
            begin, end = batch.tgt_cu_seqlens[i : i + 2].tolist()
            assert batch.tgt_tokens[begin:end].tolist() == tgt.tolist()


def test_padded_rows_hold_the_pairs_and_the_padding(toy_corpus: Corpus) -> None:
    for batch in batches(toy_corpus, 200, seed=3, padded=True):
        for tokens, cu_seqlens, side in (
            (batch.src_tokens, batch.src_cu_seqlens, 0),
            (batch.tgt_tokens, batch.tgt_cu_seqlens, 1),
        ):
            assert tokens.shape == (len(batch.pair_ids), int(cu_seqlens.diff().max()))
            for row, pair in zip(tokens.tolist(), batch.pair_ids.tolist(), strict=True):
                sentence = toy_corpus[pair][side].tolist()
                padding = [toy_corpus.pad_id] * (len(row) - len(sentence))
                assert row == sentence + padding


@pytest.mark.parametrize("padded", [False, True])
def test_every_way_of_reading_gives_the_same_bytes(toy_corpus: Corpus, padded: bool) -> None:
    expected = batches(toy_corpus, 64, seed=5, padded=padded, num_threads=0)
    for num_threads in (1, 2, 5):
        found = batches(toy_corpus, 64, seed=5, padded=padded, num_threads=num_threads)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert all(map(torch.equal, one, other))
    narrow = batches(toy_corpus, 64, seed=5, padded=padded, dtype=torch.int32)
    for one, other in zip(narrow, expected, strict=True):
        assert one.src_tokens.dtype == one.tgt_tokens.dtype == torch.int32
        assert torch.equal(one.tgt_tokens.long(), other.tgt_tokens)
        assert torch.equal(one.src_tokens.long(), other.src_tokens)


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 64, 300])
def test_ranks_share_an_epoch_evenly(toy_corpus: Corpus, world_size: int, seed: int | None) -> None:
    ranks = [
        batches(toy_corpus, 100, seed=seed, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    ids = [batch.pair_ids.tolist() for rank in ranks for batch in rank]
    assert sorted(chain.from_iterable(ids)) == list(range(300))
    assert len({len(rank) for rank in ranks}) == 1
    for rank, found in enumerate(ranks):
        assert len(toy_corpus.batches(100, rank=rank, world_size=world_size)) == len(found)
    for step in zip(*ranks, strict=True):
        tokens = [len(batch.tgt_tokens) for batch in step]
        assert max(tokens) - min(tokens) <= 100


def test_more_ranks_than_pairs_leave_some_without_a_batch(toy_corpus: Corpus) -> None:
    few = toy_corpus[:3]
    found = [batches(few, 1, rank=rank, world_size=5) for rank in range(5)]
    assert sorted(batch.pair_ids.item() for rank in found for batch in rank) == [0, 1, 2]
    assert [len(rank) for rank in found] == [1, 1, 1, 0, 0]
    assert [len(few.batches(1, rank=rank, world_size=5)) for rank in range(5)] == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_state_goes_on_at_the_next_batch(
    toy_corpus: Corpus, world_size: int, num_threads: int
) -> None:
    options: dict[str, Any] = {"seed": 4, "epoch": 2, "rank": world_size - 1}
    options |= {"world_size": world_size, "num_threads": num_threads}
    whole = batches(toy_corpus, 50, **options)
    for done in (0, 1, len(whole) // 2, len(whole)):
        with toy_corpus.batches(50, **options) as stream:
            for _ in range(done):
                next(stream)
            state = stream.state
        assert len(json.dumps(state)) <= 200
        rest = batches(toy_corpus, 50, **options, state=json.loads(json.dumps(state)))
        assert len(rest) == len(whole) - done
        for one, other in zip(rest, whole[done:], strict=True):
            assert all(map(torch.equal, one, other))


@pytest.mark.parametrize(
    "change",
    [{"seed": 5}, {"epoch": 1}, {"batch_tokens": 51}, {"padded": True}, {"world_size": 2}],
)
def test_a_state_of_other_batches_is_refused(toy_corpus: Corpus, change: dict[str, Any]) -> None:
    options: dict[str, Any] = {"batch_tokens": 50, "seed": 4, "epoch": 0}
    state = toy_corpus.batches(**options).state
    with pytest.raises(CorpusError, match=r"belongs to other batches; expected one with .*plan"):
        toy_corpus.batches(**{**options, **change}, state=state)
    with pytest.raises(CorpusError, match=r"belongs to other batches"):
        toy_corpus[:200].batches(**options, state=state)
    with pytest.raises(ValueError, match=r"^first step is 10000, expected at most \d+, the steps"):
        toy_corpus.batches(**options, state={**state, "step": 10_000})


def test_options_out_of_range_are_refused(toy_corpus: Corpus) -> None:
    with pytest.raises(ValueError, match=r"^batch_tokens is 0, expected at least 1$"):
        toy_corpus.batches(0)
    with pytest.raises(ValueError, match=r"^world_size is 0, expected at least 1$"):
        toy_corpus.batches(world_size=0)
    with pytest.raises(ValueError, match=r"^rank is 2, expected 0 or more and below the world"):
        toy_corpus.batches(rank=2, world_size=2)
    with pytest.raises(ValueError, match=r"^dtype is 'float32', expected 'int32' or 'int64'$"):
        toy_corpus.batches(dtype=torch.float32)


def test_batches_outlive_their_stream_and_are_not_overwritten(toy_corpus: Corpus) -> None:
    stream = toy_corpus.batches(30, seed=1)
    kept = [(batch, [tensor.clone() for tensor in batch]) for batch in stream]
    stream.close()
    del stream
    for batch, copies in kept:
        assert all(map(torch.equal, batch, copies))


def test_memory_is_used_again_once_a_batch_is_gone(toy_corpus: Corpus) -> None:
    addresses = {batch.src_tokens.data_ptr() for batch in toy_corpus.batches(10, seed=1)}
    assert len(batches(toy_corpus, 10)) > 50
    assert len(addresses) <= 10


def test_a_closed_stream_says_so(toy_corpus: Corpus) -> None:
    with toy_corpus.batches(64) as stream:
        next(stream)
    with pytest.raises(RuntimeError, match=r"^the batch stream is closed; make another$"):
        next(stream)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> tuple[IndexedFile, IndexedFile]:
    """100,000 pairs with lengths like text's, long tails and all."""
    folder = tmp_path_factory.mktemp("sentences")
    rng = np.random.default_rng(0)
    common = rng.normal(3.0, 0.6, 100_000)
    files = []
    for side in ("src", "tgt"):
        lengths = np.exp(common + rng.normal(0, 0.2, len(common))).clip(1, 400).astype(np.int32)
        with IndexedWriter(str(folder / side), dtype="uint16") as writer:
            writer.append(rng.integers(0, 500, lengths.sum(), dtype=np.int32), lengths)
        files.append(IndexedFile(str(folder / side)))
    return files[0], files[1]


@pytest.mark.parametrize("padded", [False, True])
def test_batches_are_at_least_99_percent_full(
    sentences: tuple[IndexedFile, IndexedFile], tmp_path: Path, padded: bool
) -> None:
    src, tgt = sentences
    order = PairOrder(src, tgt, None, scratch_folder=tmp_path)
    plan = BatchPlan(order, batch_tokens=8192, padded=padded)
    src_lengths, tgt_lengths = src.lengths(), tgt.lengths()
    used = real = 0
    for i in range(len(plan)):
        ids = plan.pairs(i, seed=1)
        sides = src_lengths[ids], tgt_lengths[ids]
        used += max(len(ids) * side.max() if padded else side.sum() for side in sides)
        real += max(side.sum() for side in sides)
    assert used / (8192 * len(plan)) >= 0.99
    assert real / used >= (0.85 if padded else 1.0)  # the rest is padding


def test_a_seed_spreads_each_pair_over_all_places_of_its_length(
    sentences: tuple[IndexedFile, IndexedFile], tmp_path: Path
) -> None:
    src, tgt = sentences
    order = PairOrder(src, tgt, None, scratch_folder=tmp_path)
    plan = BatchPlan(order, batch_tokens=10**9, padded=False)
    assert len(plan) == 1
    unshuffled = plan.pairs(0)
    lengths = np.stack((tgt.lengths()[unshuffled], src.lengths()[unshuffled]))
    starts = np.flatnonzero(np.r_[True, np.any(lengths[:, 1:] != lengths[:, :-1], axis=0)])
    sizes = np.diff(np.r_[starts, len(unshuffled)])
    cell = int(np.argmax(sizes))
    begin, size = int(starts[cell]), int(sizes[cell])
    assert size > 100
    epochs = 400
    places = np.empty((epochs, size), dtype=np.int64)
    for epoch in range(epochs):
        shuffled = plan.pairs(0, seed=11, epoch=epoch)[begin : begin + size]
        places[epoch] = np.argsort(shuffled)
    assert all(np.array_equal(np.sort(row), np.arange(size)) for row in places)
    # Of a uniform place: mean, spread, and no memory of the epoch or the neighbour before.
    scaled = (places + 0.5) / size - 0.5
    noise = 1 / np.sqrt(12 * epochs)
    assert np.abs(scaled.mean(0)).max() < 5 * noise
    assert np.abs(scaled.var(0) * 12 - 1).max() < 0.3
    assert abs((scaled[1:] * scaled[:-1]).mean() * 12) < 0.02
    assert abs((scaled[:, 1:] * scaled[:, :-1]).mean() * 12) < 0.02


def test_long_documents_come_last(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    sides = []
    for side in ("src", "tgt"):
        lengths = rng.integers(1, 9, 50).astype(np.int32)
        lengths[rng.permutation(50)[:10]] = rng.integers(3000, 9000, 10)
        with IndexedWriter(str(tmp_path / side), dtype="uint16") as writer:
            writer.append(np.ones(lengths.sum(), dtype=np.int32), lengths)
        sides.append(IndexedFile(str(tmp_path / side)))
    order = PairOrder(sides[0], sides[1], None, scratch_folder=tmp_path)
    plan = BatchPlan(order, batch_tokens=10**9, padded=False)
    src, tgt = sides[0].lengths().tolist(), sides[1].lengths().tolist()
    expected = sorted(
        range(50),
        key=lambda i: (max(src[i], tgt[i]) > 2047, tgt[i], src[i] * (-1) ** (tgt[i] % 2), i),
    )
    assert plan.pairs(0).tolist() == expected


def test_given_buffers_are_read_into(
    sentences: tuple[IndexedFile, IndexedFile], tmp_path: Path
) -> None:
    order = PairOrder(*sentences, np.arange(2000), scratch_folder=tmp_path)
    plan = BatchPlan(order, batch_tokens=2000, padded=True)
    buffers = [np.zeros(plan.max_bytes, dtype=np.uint8) for _ in range(9)]
    ranges = [(buffer.ctypes.data, buffer.ctypes.data + buffer.nbytes) for buffer in buffers]
    stream = CoreStream(*sentences, plan, prefetch=4, num_threads=2, buffers=buffers)
    del buffers  # the stream holds them
    kept, found = [], []
    while (capsules := stream.next()) is not None:
        batch = from_capsules(capsules)
        found.append(batch.pair_ids.tolist())
        kept.append((batch, batch.tgt_tokens.clone()))
        del kept[:-2]
        address = batch.tgt_tokens.data_ptr()
        assert any(begin <= address < end for begin, end in ranges)
        assert all(torch.equal(one.tgt_tokens, copy) for one, copy in kept)
    assert sorted(chain.from_iterable(found)) == list(range(2000))


def test_a_buffer_too_small_is_passed_over(
    sentences: tuple[IndexedFile, IndexedFile], tmp_path: Path
) -> None:
    order = PairOrder(*sentences, np.arange(100), scratch_folder=tmp_path)
    plan = BatchPlan(order, batch_tokens=1000, padded=False)
    stream = CoreStream(*sentences, plan, buffers=[np.zeros(64, dtype=np.uint8)])
    ids = []
    while (capsules := stream.next()) is not None:
        ids += from_capsules(capsules).pair_ids.tolist()
    assert sorted(ids) == list(range(100))


def test_a_plan_tells_subsets_of_equal_lengths_apart(tmp_path: Path) -> None:
    with IndexedWriter(str(tmp_path / "side"), dtype="uint16") as writer:
        writer.append(np.ones(60, dtype=np.int32), np.full(20, 3, dtype=np.int32))
    side = IndexedFile(str(tmp_path / "side"))
    plans = [
        BatchPlan(PairOrder(side, side, ids, scratch_folder=tmp_path), batch_tokens=9, padded=False)
        for ids in (np.arange(10), np.arange(10, 20), np.arange(20), None)
    ]
    assert len({plan.fingerprint for plan in plans}) == 4


@pytest.mark.parametrize("pad_id", [-1, 2**31])
def test_a_pad_id_that_is_no_token_is_refused(
    sentences: tuple[IndexedFile, IndexedFile], pad_id: int
) -> None:
    with pytest.raises(ValueError, match=rf"^pad_id is {pad_id}, expected 0 or more and below"):
        read_batch(*sentences, np.arange(2), padded=True, pad_id=pad_id)
