"""Scores that are taken over from an earlier table, compared with those that are made anew."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import corpus_of, toy_pairs
from tolerances import assert_nll

from pycat import _core
from pycat.cli import main as cli
from pycat.data.batches import Batch
from pycat.data.corpus import Corpus
from pycat.errors import CorpusError, OutputError, PycatError
from pycat.proxy.run import Run
from pycat.proxy.training import train
from pycat.runtime.output import digest
from pycat.scores.merge import merge_scores
from pycat.scores.parts import write_part
from pycat.scores.score_table import ScoreTable
from pycat.scoring import engine, reuse
from pycat.scoring.adapter import ProxyAdapter
from pycat.scoring.cpu_forward import CpuForward
from pycat.scoring.engine import score

PAIRS = toy_pairs(300)
MORE = toy_pairs(400, seed=1)
NEW = [pair for pair in MORE if pair not in PAIRS][:30]


@pytest.fixture(scope="module")
def run(toy_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(
        toy_corpus,
        out=tmp_path_factory.mktemp("proxy"),
        checkpoint_steps=[2, 6, 12],
        batch_tokens=512,
        device="cpu",
        dtype="float32",
    )


@pytest.fixture(scope="module")
def earlier(toy_corpus: Corpus, run: Run, tmp_path_factory: pytest.TempPathFactory) -> ScoreTable:
    """Of the 300 pairs `PAIRS`."""
    out = tmp_path_factory.mktemp("earlier") / "scores"
    return score(toy_corpus, run.checkpoints, out=out, device="cpu")


@pytest.fixture
def scored_tokens(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Target tokens of each batch that a forward pass gets."""
    counts: list[int] = []
    run_batches = CpuForward.run

    def counting(self: CpuForward, batches: Iterator[Batch]) -> Any:
        def counted() -> Iterator[Batch]:
            for batch in batches:
                counts.append(int(batch.tgt_cu_seqlens[-1]))
                yield batch

        return run_batches(self, counted())

    monkeypatch.setattr(CpuForward, "run", counting)
    return counts


def _assert_same(table: ScoreTable, expected: ScoreTable) -> None:
    assert table.names == expected.names
    for name in expected.names:
        np.testing.assert_array_equal(table.column(name), expected.column(name), err_msg=name)


def test_a_tenth_of_new_text_costs_a_tenth(
    run: Run, earlier: ScoreTable, toy_tokenizer: Path, tmp_path: Path, scored_tokens: list[int]
) -> None:
    corpus = corpus_of(tmp_path, [*PAIRS, *NEW], toy_tokenizer)
    table = score(corpus, run.checkpoints, base=earlier, out=tmp_path / "s", device="cpu")
    assert sum(scored_tokens) == corpus.num_tokens[300:].sum()
    assert 0.05 < sum(scored_tokens) / corpus.num_tokens.sum() < 0.15
    assert earlier.path is not None
    assert table.manifest["reused"] == {
        "num_pairs": 300,
        "num_tokens": earlier.num_tokens.sum(),
        "scores": digest(dict(earlier.manifest["recipe"])),
        "path": os.path.relpath(earlier.path.resolve(), (tmp_path / "s").resolve()),
        "torch": torch.__version__,
    }
    assert not [*(tmp_path / "s").glob(reuse.WORKING_FILES)]
    anew = score(corpus, run.checkpoints, out=tmp_path / "anew", device="cpu")
    _assert_same(table, anew)
    assert anew.manifest["recipe"] == table.manifest["recipe"]
    assert anew.manifest["model_flops"] == table.manifest["model_flops"]
    assert "reused" not in anew.manifest
    table.verify()


@pytest.mark.parametrize("kind", ["shuffled", "removed", "repeated", "changed", "none", "subset"])
def test_values_are_those_of_scoring_anew(
    kind: str,
    run: Run,
    earlier: ScoreTable,
    toy_tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scored_tokens: list[int],
) -> None:
    """Parts hold 64 pairs and piles 50, so that a small corpus has several of each."""
    monkeypatch.setattr(engine, "PART_PAIRS", 64)
    monkeypatch.setattr(reuse, "PART_PAIRS", 64)
    monkeypatch.setattr(reuse, "_PILE_PAIRS", 50)
    monkeypatch.setattr(reuse, "_BLOCK_PAIRS", 37)
    rng = random.Random(0)
    mixed = rng.sample([*PAIRS, *NEW], 330)
    pairs, num_reused = {
        "shuffled": (mixed, 300),
        "removed": ([pair for pair in mixed if pair in NEW or pair in PAIRS[::2]], 150),
        "repeated": ([*NEW, *mixed, *PAIRS[:9], *PAIRS[:9]], 318),
        # Sources with the targets of their neighbours: each side is known, the pair is not.
        "changed": ([(PAIRS[i][0], PAIRS[(i + i % 2) % 300][1]) for i in range(300)], 150),
        "none": (NEW, 0),
        "subset": (mixed, 300),
    }[kind]
    whole = corpus_of(tmp_path, pairs, toy_tokenizer)
    corpus = whole
    if kind == "subset":
        corpus = whole.subset(np.arange(0, 330, 3))
        num_reused = sum(pair in PAIRS for pair in pairs[::3])
    table = score(corpus, run.checkpoints, base=earlier, out=tmp_path / "scores", device="cpu")
    assert table.manifest["reused"]["num_pairs"] == num_reused
    taken = table.manifest["reused"]["num_tokens"]
    assert sum(scored_tokens) == corpus.num_tokens.sum() - taken
    _assert_same(table, score(corpus, run.checkpoints, device="cpu"))
    in_memory = score(corpus, run.checkpoints, base=earlier, device="cpu")
    _assert_same(in_memory, table)
    assert in_memory.manifest["reused"]["num_pairs"] == num_reused


def test_workers_score_what_is_left(
    run: Run, earlier: ScoreTable, toy_tokenizer: Path, tmp_path: Path
) -> None:
    corpus = corpus_of(tmp_path, [*NEW, *PAIRS], toy_tokenizer)
    options: dict[str, Any] = {"base": earlier, "device": "cpu"}
    here = score(corpus, run.checkpoints, out=tmp_path / "here", **options)
    table = score(corpus, run.checkpoints, out=tmp_path / "there", num_workers=2, **options)
    assert table.manifest["reused"] == here.manifest["reused"]
    assert table.manifest["reused"]["num_pairs"] == 300
    parts = [tmp_path / name / "part-00000.parquet" for name in ("here", "there")]
    assert parts[0].read_bytes() == parts[1].read_bytes()
    assert not [*(tmp_path / "there").glob(reuse.WORKING_FILES)]
    with pytest.raises(PycatError, match="num_workers=2: workers write files; pass out"):
        score(corpus, run.checkpoints, num_workers=2, **options)


def test_a_table_may_hold_more_than_is_asked_for(
    run: Run, earlier: ScoreTable, toy_corpus: Corpus, toy_tokenizer: Path, tmp_path: Path
) -> None:
    """Scores come from tables of more statistics, of other checkpoints, and merged of two."""
    corpus = corpus_of(tmp_path, [*NEW, *PAIRS], toy_tokenizer)
    last = run.checkpoints[1:]
    table = score(corpus, last, base=earlier, stats="nll", device="cpu")
    assert table.manifest["reused"]["num_pairs"] == 300
    _assert_same(table, score(corpus, last, stats="nll", device="cpu"))
    halves = [toy_corpus[:100], toy_corpus[200:]]
    merged = merge_scores([score(half, run.checkpoints, device="cpu") for half in halves])
    table = score(corpus, run.checkpoints, base=merged, device="cpu")
    assert table.manifest["reused"]["num_pairs"] == 200
    _assert_same(table, score(corpus, run.checkpoints, device="cpu"))


def test_an_interrupted_table_goes_on(
    run: Run,
    earlier: ScoreTable,
    toy_tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scored_tokens: list[int],
) -> None:
    monkeypatch.setattr(engine, "PART_PAIRS", 110)
    corpus = corpus_of(tmp_path, [*NEW[:10], *PAIRS, *NEW[10:]], toy_tokenizer)

    def stop(table: Any, path: Path) -> None:
        if "00001" in path.name:
            raise KeyboardInterrupt
        write_part(table, path)

    options: dict[str, Any] = {"out": tmp_path / "scores", "base": earlier, "device": "cpu"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine, "write_part", stop)
        score(corpus, run.checkpoints, **options)
    scored_tokens.clear()
    table = score(corpus, run.checkpoints, **options)
    assert sum(scored_tokens) == corpus.num_tokens[310:].sum()
    assert table.manifest["reused"]["num_pairs"] == 300
    assert not [*(tmp_path / "scores").glob(reuse.WORKING_FILES)]
    _assert_same(table, score(corpus, run.checkpoints, device="cpu"))


def test_pytorch_takes_over_within_rounding(
    run: Run,
    toy_corpus: Corpus,
    toy_tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch rounds a pair in other company otherwise; the pairs taken over keep their bits."""
    monkeypatch.setattr(ProxyAdapter, "transformer_weights", lambda self, num_positions: None)
    before = score(toy_corpus, run.checkpoints, device="cpu")
    corpus = corpus_of(tmp_path, [*PAIRS, *NEW], toy_tokenizer)
    table = score(corpus, run.checkpoints, base=before, device="cpu")
    np.testing.assert_array_equal(table.nll[:300], before.nll)
    anew = score(corpus, run.checkpoints, device="cpu")
    assert_nll(table.nll, anew.nll, anew.num_tokens[:, None], float32_sides=2)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_reduced_precision_and_its_exact_pairs(
    dtype: str, run: Run, toy_corpus: Corpus, toy_tokenizer: Path, tmp_path: Path
) -> None:
    """Pairs that hold sums of float32 are not taken for those of the reduced precision."""
    if dtype == "bfloat16" and not _core.cpu_isa().endswith("_bf16"):
        pytest.skip("PyTorch computes bfloat16 here, whose rounding depends on the batch")
    if dtype == "int8" and _core.cpu_isa() in ("portable", "neon"):
        pytest.skip("no int8 on this instruction set")
    options: dict[str, Any] = {"device": "cpu", "dtype": dtype, "exact_keep": 0.5}
    before = score(toy_corpus, run.checkpoints, out=tmp_path / "before", **options)
    corpus = corpus_of(tmp_path, [*PAIRS, *NEW], toy_tokenizer)
    table = score(corpus, run.checkpoints, base=before, **options)
    num_exact = before.manifest["exact_cut"]["num_pairs"]
    assert 0 < num_exact < 300
    assert table.manifest["reused"]["num_pairs"] == 300 - num_exact
    _assert_same(table, score(corpus, run.checkpoints, **options))
    in_memory = score(toy_corpus, run.checkpoints, **options)
    with pytest.raises(PycatError, match=r"scored again in float32, and exact.parquet, which says"):
        score(corpus, run.checkpoints, base=in_memory, **options)


def test_what_cannot_be_taken_over_is_refused(
    run: Run, earlier: ScoreTable, toy_corpus: Corpus, tmp_path: Path
) -> None:
    more = train(
        *(toy_corpus,),
        out=tmp_path / "proxy",
        checkpoint_steps=[2, 4],
        batch_tokens=512,
        seed=1,
        device="cpu",
    )
    with pytest.raises(PycatError, match=r"holds no scores under 2 of the 2 checkpoints, such as"):
        score(toy_corpus, more.checkpoints, base=earlier, device="cpu")
    few = score(toy_corpus, run.checkpoints, stats="nll", device="cpu")
    with pytest.raises(PycatError, match=r"table in memory: found statistics \['nll'\], expected"):
        score(toy_corpus, run.checkpoints, base=few, device="cpu")
    with pytest.raises(PycatError, match="found dtype float32, expected bfloat16, so that scores"):
        score(toy_corpus, run.checkpoints, base=earlier, device="cpu", dtype="bfloat16")
    assert earlier.path is not None
    with pytest.raises(OutputError, match="is the table to take scores from; name another"):
        score(toy_corpus, run.checkpoints, base=earlier.path, out=earlier.path, device="cpu")
    gone = score(toy_corpus, run.checkpoints, device="cpu")
    gone.manifest = {**gone.manifest, "corpus_path": str(tmp_path / "gone")}
    with pytest.raises(CorpusError, match="gone"):
        score(toy_corpus, run.checkpoints, base=gone, device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_full_is_named(
    run: Run, earlier: ScoreTable, toy_corpus: Corpus, tmp_path: Path, file_size_limit: Any
) -> None:
    with file_size_limit(8000), pytest.raises(OSError, match=r"reused-sums.tmp"):
        score(toy_corpus, run.checkpoints, base=earlier, out=tmp_path / "scores", device="cpu")
    table = score(toy_corpus, run.checkpoints, out=tmp_path / "scores", device="cpu")
    _assert_same(table, earlier)


def test_the_command_line(
    run: Run,
    earlier: ScoreTable,
    toy_tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus_of(tmp_path, [*PAIRS, *NEW], toy_tokenizer)
    command = [
        *("score", "--corpus", str(tmp_path / "corpus"), "--checkpoints", str(run.path)),
        *("--base", str(earlier.path), "--device", "cpu"),
    ]
    assert cli.main([*command, "--out", str(tmp_path / "scores")]) == 0
    assert "300 of the pairs were taken over from the earlier table" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "scores" / "scores.json").read_text("utf-8"))
    assert manifest["reused"]["num_pairs"] == 300
    assert cli.main([*command, "--format", "marian"]) == 1
    assert "--base goes with a table of scores, not with --format" in capsys.readouterr().err
