"""Lexical scores: against Model 1 written out in numpy, and what they find."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers import toy_pairs
from numpy.typing import NDArray

import pycat
from pycat._core import IbmModel1, IndexedFile, IndexedWriter
from pycat.data.tokenizing import tokenize
from pycat.errors import CorpusError
from pycat.filters.lexical import lexical_scores

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]
Doubles = NDArray[np.float64]

EOS = 2
MAX_TOKENS = 128
NUM_ROUNDS = 4


def write_side(prefix: Path, rows: Sequence[Sequence[int]], vocab_size: int) -> IndexedFile:
    """The rows, each with EOS behind it."""
    with IndexedWriter(prefix, dtype="uint16") as writer:
        tokens = [token for row in rows for token in (*row, EOS)]
        lengths = [len(row) + 1 for row in rows]
        writer.append(np.array(tokens, np.int32), np.array(lengths, np.int32))
    return IndexedFile(prefix, vocab_size=vocab_size)


def random_pairs(num_pairs: int, vocab_sizes: tuple[int, int], most: int = 12) -> Pairs:
    """Frequent tokens are low; a target holds translations of some source tokens, and others."""
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(num_pairs):
        src, other = (
            (size * rng.random(rng.integers(0, most)) ** 3).astype(int) for size in vocab_sizes
        )
        tgt = (7 * src[rng.random(len(src)) < 0.8] + 1) % vocab_sizes[1]
        rows.append((src.tolist(), np.concatenate((tgt, other[::3])).tolist()))
    return rows


def places(tokens: Sequence[int], side: int, num_cells: int) -> NDArray[np.uint64]:
    """A token's share in the place of its cells, as in csrc/lexical.cpp."""
    token = np.array(tokens, np.uint64)
    mixed = (token & ~np.uint64(1)) + np.uint64(side)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    low = (token & np.uint64(1)) << np.uint64(side)
    return (mixed << np.uint64(2) | low) & np.uint64(num_cells - 1)


def oracle(
    pairs: Pairs, vocab_sizes: tuple[int, int], num_cells: int, max_sample: int | None = None
) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """What `lexical_scores` returns, in float64, a pair at a time."""
    size = min(len(pairs), max_sample or len(pairs))
    sample = {i * len(pairs) // size for i in range(size)}
    results = []
    for given in (0, 1):
        num_x, num_y = vocab_sizes[given], vocab_sizes[1 - given]
        seen = []
        for pair in pairs:
            xs, ys = pair[given][:MAX_TOKENS], pair[1 - given][:MAX_TOKENS]
            at = places(xs, given, num_cells) ^ places(ys, 1 - given, num_cells)[:, None]
            # Behind the cells stand those of NULL, which is the x beyond the vocabulary.
            null = num_cells + np.array(ys, np.int64)[:, None]
            seen.append(
                (np.array([*xs, num_x]), np.array(ys, np.int64), np.hstack((at.astype(int), null)))
            )
        counts, totals = np.ones(num_cells + num_y), np.ones(num_x + 1)
        frequency = np.bincount(
            np.concatenate([seen[row][1] for row in sorted(sample)]), minlength=num_y
        )
        for _ in range(NUM_ROUNDS):
            before, totals_before = counts, totals
            counts, totals = np.zeros_like(counts), np.zeros_like(totals)
            for row in sample:
                x, _, at = seen[row]
                shares = before[at] / totals_before[x]
                shares /= shares.sum(axis=1, keepdims=True)
                np.add.at(counts, at, shares)
                np.add.at(totals, x, shares.sum(axis=0))
        means, gaps = np.zeros(len(pairs)), np.zeros(len(pairs))
        for row, (x, y, at) in enumerate(seen):
            own = np.zeros(at.shape)
            if row in sample:
                own = before[at] / totals_before[x]
                own /= own.sum(axis=1, keepdims=True)
                # A token that repeats in its pair takes all of the pair's counts out.
                _, kinds = np.unique(y[:, None] * (num_x + 1) + x, return_inverse=True)
                own = np.bincount(kinds.ravel(), own.ravel())[kinds].reshape(own.shape)
            chance = np.maximum(counts[at] - own, 0) / np.maximum(totals[x] - own, 1e-3)
            ratios = np.log(np.maximum(chance.mean(axis=1), 1e-7))
            ratios -= np.log((frequency[y] + 1) / (frequency.sum() + num_y))
            means[row] = ratios.mean() if len(y) else 0
            short = np.minimum(np.log(2) - ratios, 2)
            runs = [short[i:j].sum() for j in range(len(y) + 1) for i in range(j)]
            gaps[row] = max(0, *runs, 0)
        results.append((means, gaps))
    (tgt, tgt_gap), (src, src_gap) = results
    return tgt, src, tgt_gap, src_gap


def scores_of(model: IbmModel1, num_pairs: int) -> list[NDArray[np.float32]]:
    for round_ in range(NUM_ROUNDS):
        if round_ > 0:
            model.start_round()
        model.count(0, model.num_sampled)
    (tgt, tgt_gap), (src, src_gap) = model.score(0, num_pairs).transpose(0, 2, 1)
    return [tgt, src, tgt_gap, src_gap]


def assert_close(found: Sequence[NDArray[np.float32]], expected: Sequence[Doubles]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def write_sides(
    folder: Path, pairs: Pairs, vocab_sizes: tuple[int, int]
) -> tuple[IndexedFile, IndexedFile]:
    src, tgt = (
        write_side(folder / name, [pair[side] for pair in pairs], vocab_sizes[side])
        for side, name in enumerate(("src", "tgt"))
    )
    return src, tgt


@pytest.mark.parametrize("max_cells", [1 << 10, 1 << 24])
@pytest.mark.parametrize("max_sample", [70, 400])
@pytest.mark.parametrize("vocab_sizes", [(90, 90), (301, 76)])
def test_scores_are_model_1_without_the_pair_itself(
    tmp_path: Path, vocab_sizes: tuple[int, int], max_sample: int, max_cells: int
) -> None:
    pairs = random_pairs(300, vocab_sizes)
    assert min(len(pair[0]) for pair in pairs) == 0  # some are EOS alone
    sides = write_sides(tmp_path, pairs, vocab_sizes)
    results = []
    for num_threads in (1, 2, 3):
        model = IbmModel1(
            *sides, None, max_sample=max_sample, max_cells=max_cells, num_threads=num_threads
        )
        results.append(scores_of(model, len(pairs)))
    assert_close(results[0], oracle(pairs, vocab_sizes, model.num_cells, max_sample))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_long_sides_are_cut(tmp_path: Path) -> None:
    pairs = random_pairs(40, (50, 40), most=300)
    assert max(len(pair[0]) for pair in pairs) > 2 * MAX_TOKENS
    model = IbmModel1(
        *write_sides(tmp_path, pairs, (50, 40)),
        None,
        max_sample=1000,
        max_cells=1 << 16,
        num_threads=2,
    )
    assert_close(scores_of(model, 40), oracle(pairs, (50, 40), model.num_cells))


def test_a_gap_is_the_worst_run(tmp_path: Path) -> None:
    """In half of the pairs, three of the eight tokens stand beside a source not their own."""
    rng = np.random.default_rng(5)
    pairs = []
    for row in range(2000):
        src = rng.choice(np.arange(3, 63), 8, replace=False)
        tgt = src.copy()
        if row % 2:
            tgt[2:5] = rng.choice(np.setdiff1d(np.arange(3, 63), src), 3, replace=False)
        pairs.append((src.tolist(), tgt.tolist()))
    model = IbmModel1(
        *write_sides(tmp_path, pairs, (63, 63)),
        None,
        max_sample=2000,
        max_cells=1 << 20,
        num_threads=2,
    )
    for gap in scores_of(model, len(pairs))[2:]:
        assert gap[::2].max() == 0
        assert gap[1::2].min() > 3


def test_what_repeats_in_a_pair_explains_nothing(tmp_path: Path) -> None:
    """A rare word of the source stands beside one of the target, in one pair and often."""
    rng = np.random.default_rng(6)
    good = [rng.integers(3, 63, 8).tolist() for _ in range(2000)]
    wrong = [rng.integers(3, 63, 6).tolist() for _ in range(2)]
    pairs = [*zip(good, good, strict=True), ([*wrong[0], *[63] * 3], [*wrong[1], *[64] * 3])]
    sides = write_sides(tmp_path, pairs, (65, 65))
    model = IbmModel1(*sides, None, max_sample=2001, max_cells=1 << 20, num_threads=1)
    tgt, src, tgt_gap, src_gap = scores_of(model, len(pairs))
    assert max(tgt[-1], src[-1]) < min(np.quantile(tgt, 0.01), np.quantile(src, 0.01))
    assert min(tgt_gap[-1], src_gap[-1]) > max(
        np.quantile(tgt_gap, 0.99), np.quantile(src_gap, 0.99)
    )


def test_views_and_chunks_do_not_matter(
    toy_corpus: pycat.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = toy_corpus.subset(np.arange(5, 300, 3))
    pairs = [(view[i][0][:-1].tolist(), view[i][1][:-1].tolist()) for i in range(len(view))]
    src, tgt, ids = view.files
    model = IbmModel1(src, tgt, ids, max_sample=1000, max_cells=1 << 24, num_threads=1)
    sizes = (view.vocab_size, view.vocab_size)
    whole = lexical_scores(view)
    assert_close(whole, oracle(pairs, sizes, model.num_cells))
    steps: list[float] = []

    @contextmanager
    def recorded(name: str, total: float, unit: str) -> Iterator[Callable[[float], None]]:
        yield steps.append
        assert sum(steps) == total == 5 * len(view)

    monkeypatch.setattr("pycat.filters.lexical.progress", recorded)
    monkeypatch.setattr("pycat.filters.lexical._CHUNK_PAIRS", 7)
    for one, other in zip(whole, lexical_scores(view, num_threads=2), strict=True):
        np.testing.assert_array_equal(one, other)
    assert max(steps) == 2 * 7


def test_a_sample_is_close(toy_corpus: pycat.Corpus) -> None:
    whole = lexical_scores(toy_corpus)
    for one, other in zip(whole, lexical_scores(toy_corpus, max_sample=200), strict=True):
        assert np.isfinite(other).all()
        assert np.corrcoef(one, other)[0, 1] > 0.8


def test_misaligned_pairs_score_low(tmp_path: Path, toy_tokenizer: Path) -> None:
    pairs = toy_pairs(3000, seed=1)
    wrong = np.random.default_rng(0).random(3000) < 0.1
    shifted = [pair[1] for pair in pairs[1:]] + [pairs[0][1]]
    mixed = [(src, shifted[i] if wrong[i] else tgt) for i, (src, tgt) in enumerate(pairs)]
    text = tmp_path / "text.tsv"
    text.write_text("".join(f"{src}\t{tgt}\n" for src, tgt in mixed), "utf-8")
    scores = lexical_scores(tokenize(tsv=text, out=tmp_path / "corpus", tokenizer=toy_tokenizer))
    for good in (scores.tgt, scores.src, -scores.tgt_gap, -scores.src_gap):
        higher = (good[~wrong][:, None] > good[wrong]).mean()
        assert higher > 0.8  # neighbours share some words: every number has a unit


def test_tokens_that_the_sample_never_saw_leave_no_nan(tmp_path: Path) -> None:
    pairs, sizes = random_pairs(600, (900, 900)), (900, 900)
    sides = write_sides(tmp_path, pairs, sizes)
    model = IbmModel1(*sides, None, max_sample=20, max_cells=1 << 12, num_threads=1)
    found = scores_of(model, 600)
    assert all(np.isfinite(side).all() for side in found)
    assert_close(found, oracle(pairs, sizes, model.num_cells, 20))


def test_pairs_of_nothing_but_eos_are_at_zero(tmp_path: Path) -> None:
    sides = write_sides(tmp_path, [((), ()), ((), (3,)), ((3,), ())], (5, 5))
    model = IbmModel1(*sides, None, max_sample=10, max_cells=1 << 10, num_threads=3)
    tgt, src, tgt_gap, src_gap = scores_of(model, 3)
    assert tgt[[0, 2]].tolist() == src[[0, 1]].tolist() == [0, 0]
    assert tgt_gap[[0, 2]].tolist() == src_gap[[0, 1]].tolist() == [0, 0]
    none = IbmModel1(
        *sides, np.array([], np.int64), max_sample=10, max_cells=1 << 10, num_threads=3
    )
    assert [array.tolist() for array in scores_of(none, 0)] == [[]] * 4


def test_damage_and_bad_arguments_are_refused(tmp_path: Path) -> None:
    src, tgt = write_sides(tmp_path, [((1, 3), (4, 1))] * 400, (5, 5))
    options = {"max_sample": 400, "max_cells": 1 << 10, "num_threads": 2}
    low = IndexedFile(tmp_path / "tgt", vocab_size=4)
    for use in (IbmModel1.count, IbmModel1.score):
        with pytest.raises(
            CorpusError, match=r"tgt.bin: token 0 of sequence 7 is 4, expected .* 4"
        ):
            use(IbmModel1(src, low, None, **options), 7, 400)
    with pytest.raises(ValueError, match="src was opened without a vocab_size, which bounds"):
        IbmModel1(IndexedFile(tmp_path / "src"), tgt, None, **options)
    with pytest.raises(IndexError, match=r"ids\[0\] is 400, expected 0 or more and below 400"):
        IbmModel1(src, tgt, np.array([3, 400]), **options)
    model = IbmModel1(src, tgt, None, **options)
    for read in (model.count, model.score):
        with pytest.raises(IndexError, match=r"begin is 3 and end 401, expected .* <= 400"):
            read(3, 401)
    for name, value, expected in (
        ("max_sample", 0, "1 to 4194304"),
        ("max_cells", 1023, "1024 to 2147483648"),
        ("num_threads", 0, "1 to 4096"),
    ):
        with pytest.raises(ValueError, match=f"{name} is {value}, expected {expected}"):
            IbmModel1(src, tgt, None, **{**options, name: value})


def test_sides_with_vocabularies_of_their_own(tmp_path: Path) -> None:
    """Each side has a vocabulary, as in fairseq's folders: ids of one exceed the other's."""
    pairs, sizes = random_pairs(200, (40, 300)), (40, 300)
    write_sides(tmp_path, pairs, sizes)
    for side, language in enumerate(("xx", "yy")):
        for suffix in ("idx", "bin"):
            file = tmp_path / f"{('src', 'tgt')[side]}.{suffix}"
            file.rename(tmp_path / f"train.xx-yy.{language}.{suffix}")
        # Four symbols stand before those of the dictionary.
        rows = "".join(f"piece{i} 1\n" for i in range(sizes[side] - 4))
        (tmp_path / f"dict.{language}.txt").write_text(rows)
    corpus = pycat.open_corpus(tmp_path)
    model = IbmModel1(*corpus.files, max_sample=200, max_cells=1 << 24, num_threads=1)
    assert corpus.src_vocab_size == 40
    assert_close(lexical_scores(corpus), oracle(pairs, sizes, model.num_cells))
