"""Rank agreement of a reduced precision, and pairs near a cut scored again in float32."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from pycat import _core
from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.proxy.run import Run
from pycat.proxy.training import train
from pycat.scores import parts
from pycat.scores.score_table import ScoreTable
from pycat.scoring import engine, reduced_precision
from pycat.scoring.engine import score
from pycat.scoring.reduced_precision import (
    deviation,
    rank_agreement,
    sample_rows,
    score_near_cut,
)


def _exact(count: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """nll (N, 3), and lengths."""
    rng = np.random.default_rng(seed)
    num_tokens = rng.integers(1, 40, count).astype(np.int32)
    mean_nll = 3 + rng.normal(0, 1, (count, 1)) + rng.normal(0, 0.3, (count, 3))
    return mean_nll * num_tokens[:, None], num_tokens


def highest(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    return np.sort(np.argsort(-scores, kind="stable")[:count])


@pytest.mark.parametrize("sample_size", [2, 400])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.97])
def test_the_kept_pairs_are_those_of_float32(keep: float, sample_size: int) -> None:
    """However little the sample tells of how far scores shift."""
    nll, num_tokens = _exact(20_000)
    shift = np.random.default_rng(1).normal(0, 0.0005, nll.shape)
    reduced = deviation(nll * (1 + shift), num_tokens)
    asked = []

    def score_rows(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        asked.append(rows)
        return nll[rows].T[None]

    sample = np.arange(sample_size) * (20_000 // sample_size)
    cut = score_near_cut(reduced, num_tokens, keep, (sample, nll[sample]), score_rows)
    mixed, exact = reduced.deviation.copy(), deviation(nll, num_tokens).deviation
    mixed[cut.rows] = deviation(cut.sums[0].T, num_tokens[cut.rows]).deviation
    count = round(keep * 20_000)
    assert set(highest(reduced.deviation, count)) != set(highest(exact, count))
    np.testing.assert_array_equal(highest(mixed, count), highest(exact, count))
    assert cut.facts["num_pairs"] == len(cut.rows) == sum(map(len, asked)) < 3_000
    np.testing.assert_array_equal(cut.sums[0], nll[cut.rows].T)
    assert len(set(cut.rows)) == len(cut.rows)


def test_what_shifts_nowhere_is_hardly_scored_again() -> None:
    nll, num_tokens = _exact(1000)
    moves, sample = deviation(nll, num_tokens), np.arange(0, 1000, 10)
    cut = score_near_cut(
        moves, num_tokens, 0.5, (sample, nll[sample]), lambda rows: nll[rows].T[None]
    )
    assert cut.facts == {
        "criterion": "cat_var",
        "keep": 0.5,
        "num_pairs": 2,  # the two beside the cut
        "largest_change": 0.0,
    }


@pytest.fixture(scope="module")
def run(toy_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(
        toy_corpus,
        out=tmp_path_factory.mktemp("proxy"),
        checkpoint_steps=[2, 6],
        batch_tokens=512,
        device="cpu",
        dtype="float32",
    )


def test_a_table_holds_float32_near_the_cut(
    toy_corpus: Corpus, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PART_PAIRS", 100)
    arguments: dict[str, Any] = {"device": "cpu", "dtype": "bfloat16", "exact_keep": 0.5}
    exact = score(toy_corpus, run.checkpoints, device="cpu")
    reduced = score(toy_corpus, run.checkpoints, device="cpu", dtype="bfloat16")
    in_memory = score(toy_corpus, run.checkpoints, **arguments)
    table = score(toy_corpus, run.checkpoints, out=tmp_path / "s", **arguments)
    rows = pq.read_table(tmp_path / "s" / "exact.parquet")["row"].to_numpy()
    assert 2 <= len(rows) == table.manifest["exact_cut"]["num_pairs"] < len(toy_corpus)
    for name in table.names:
        np.testing.assert_array_equal(in_memory.column(name), table.column(name))
        found = table.column(name)
        np.testing.assert_array_equal(found[rows], exact.column(name)[rows], err_msg=name)
        others = np.delete(np.arange(len(toy_corpus)), rows)
        np.testing.assert_array_equal(found[others], reduced.column(name)[others])
    assert table.manifest["rank_agreement"] == reduced.manifest["rank_agreement"]
    kept = [highest(deviation(t.nll, t.num_tokens).deviation, 150) for t in (table, exact)]
    np.testing.assert_array_equal(kept[0], kept[1])


@pytest.mark.skipif("avx2" not in _core.supported_cpu_isas(), reason="no AVX2 here")
def test_auto_without_bfloat16(
    toy_corpus: Corpus, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int8 where its errors cannot change what is kept, and float32 otherwise."""
    monkeypatch.setenv("PYCAT_CPU_ISA", "avx2")

    def scored(**options: Any) -> ScoreTable:
        return score(toy_corpus, run.checkpoints, device="cpu", **options)

    exact, auto = scored(), scored(dtype="auto")
    assert auto.manifest["recipe"]["dtype"] == "float32"
    np.testing.assert_array_equal(auto.nll, exact.nll)
    near_cut = scored(dtype="auto", exact_keep=0.5)
    assert near_cut.manifest["recipe"]["dtype"] == "int8"
    assert not np.array_equal(near_cut.nll, exact.nll)
    kept = [highest(deviation(t.nll, t.num_tokens).deviation, 150) for t in (near_cut, exact)]
    np.testing.assert_array_equal(kept[0], kept[1])
    monkeypatch.setenv("PYCAT_CPU_ISA", "portable")
    assert scored(dtype="auto", exact_keep=0.5).manifest["recipe"]["dtype"] == "float32"


def test_interrupted_while_parts_are_rewritten_it_goes_on(
    toy_corpus: Corpus, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PART_PAIRS", 100)
    arguments: dict[str, Any] = {"device": "cpu", "dtype": "bfloat16", "exact_keep": 0.5}
    whole = score(toy_corpus, run.checkpoints, out=tmp_path / "whole", **arguments)
    write, count = parts.write_part, 0

    def write_two(*given: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:  # after the exact pairs and one part
            raise KeyboardInterrupt
        write(*given)

    monkeypatch.setattr(reduced_precision, "write_part", write_two)
    with pytest.raises(KeyboardInterrupt):
        score(toy_corpus, run.checkpoints, out=tmp_path / "again", **arguments)
    monkeypatch.setattr(reduced_precision, "write_part", write)
    again = score(toy_corpus, run.checkpoints, out=tmp_path / "again", **arguments)
    for name in whole.names:
        np.testing.assert_array_equal(again.column(name), whole.column(name))
    for fact in ("rank_agreement", "exact_cut"):
        assert again.manifest[fact] == whole.manifest[fact]


@pytest.mark.parametrize("exact_keep", [0.0, 1.5])
def test_a_fraction_out_of_range_is_refused(toy_corpus: Corpus, exact_keep: float) -> None:
    with pytest.raises(PycatError, match=r"exact_keep is .*; expected a fraction above 0"):
        score(toy_corpus, [], exact_keep=exact_keep)


def test_perplexities_that_overflow_are_named() -> None:
    nll, num_tokens = _exact(100)
    nll[7:60] = 1000.0 * num_tokens[7:60, None]
    moves, sample = deviation(nll, num_tokens), np.arange(0, 100, 10)
    with pytest.raises(PycatError, match=r"the perplexity of the pair in row 7 is beyond"):
        score_near_cut(
            moves, num_tokens, 0.5, (sample, nll[sample]), lambda rows: nll[rows].T[None]
        )


@pytest.mark.parametrize(
    ("num_pairs", "size"), [(1, 1), (200, 200), (5000, 200), (50_000, 1000), (10**8, 2000)]
)
def test_the_sample_is_spread_evenly(num_pairs: int, size: int) -> None:
    rows = sample_rows(num_pairs)
    assert len(rows) == size
    gaps = np.diff([*rows.tolist(), num_pairs])
    assert rows[0] == 0
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_agreement_of_a_case_worked_by_hand() -> None:
    num_tokens = np.array([1, 1, 1, 2], np.int32)
    exact = np.log([[2.0, 1.5], [8.0, 2.0], [6.0, 5.0], [9.0, 9.0]])
    # cat_var: 0.0625, 9, 0.25, 0. The last two change places: a quarter of Spearman's room.
    nll = np.log([[2.0, 1.5], [8.0, 2.0], [6.0, 6.0], [9.0, 1.0]])
    found = rank_agreement(nll, exact, num_tokens)
    assert found["num_pairs"] == 4
    # Ranks 2 4 3 1 and 2 4 1 3: the squared differences sum to 8, and 1 - 6 * 8 / (4 * 15) = 0.2.
    assert found["spearman"] == pytest.approx(0.2)
    difference = (abs(np.log(6) / np.log(5) - 1) + 1) / 8
    assert found["mean_relative_nll_difference"] == pytest.approx(difference)


def test_pairs_whose_perplexity_overflows_are_not_ranked() -> None:
    exact = np.array([[1.0, 2.0], [2.0, 4.0], [800.0, 900.0]])
    found = rank_agreement(exact, exact, np.ones(3, np.int32))
    assert (found["num_pairs"], found["spearman"]) == (2, 1.0)
    assert found["mean_relative_nll_difference"] == 0


def test_equal_pairs_have_no_correlation() -> None:
    exact = np.ones((3, 2))
    assert rank_agreement(exact, exact, np.ones(3, np.int32))["spearman"] is None
