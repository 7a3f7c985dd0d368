"""Scores against a loop over single sentences in float64, and their independence of batching."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycat.kernels import reference
from pycat.kernels.stat_names import STAT_NAMES
from safetensors import safe_open
from safetensors.torch import save_file
from tolerances import assert_nll, assert_within, statistic_errors

from pycat._core import IndexedWriter
from pycat.data.batches import Batch
from pycat.data.corpus import Corpus
from pycat.data.opening import open_corpus
from pycat.errors import CheckpointError, OutputError, PycatError
from pycat.proxy.checkpoint import load_model, read_info
from pycat.proxy.run import Run
from pycat.proxy.training import train
from pycat.ranking.criteria import cat_var
from pycat.runtime.output import write_manifest
from pycat.scores.parts import write_part
from pycat.scores.score_table import ScoreTable
from pycat.scoring import engine, reduced_precision
from pycat.scoring.adapter import Adapter, Head, ProxyAdapter
from pycat.scoring.engine import score
from pycat.scoring.flops import model_flops
from pycat.scoring.loading import load_adapters
from pycat.scoring.reduced_precision import sample_rows


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


@torch.inference_mode()
def _one_sentence_at_a_time(corpus: Corpus, checkpoint: Path) -> NDArray[np.float64]:
    """Summed nll (N,): float64 model, no batch, no padding, F.cross_entropy on all logits."""
    model = load_model(read_info(checkpoint), torch.device("cpu")).double()
    sums = []
    for pair_id in corpus.pair_ids:
        pair = corpus.read(np.array([pair_id]))
        src, tgt = pair.src_tokens[None], pair.tgt_tokens[None]
        tgt_in = torch.cat((torch.tensor([[corpus.eos_id]]), tgt[:, :-1]), dim=1)
        logits = model(src, torch.tensor([src.shape[1]]), tgt_in)[0] @ model.output_weight.T
        sums.append(F.cross_entropy(logits, tgt[0], reduction="sum").item())
    return np.array(sums)


def test_batched_scores_equal_the_float64_loop(toy_corpus: Corpus, run: Run) -> None:
    table = score(toy_corpus, run.checkpoints, device="cpu")
    np.testing.assert_array_equal(table.pair_ids, np.arange(len(toy_corpus)))
    np.testing.assert_array_equal(table.num_tokens, toy_corpus.num_tokens)
    for k, checkpoint in enumerate(run.checkpoints):
        exact = _one_sentence_at_a_time(toy_corpus, checkpoint)
        assert_nll(table.nll[:, k], exact, table.num_tokens)
    assert table.ppl[:, 0].mean() > table.ppl[:, 2].mean()


def test_eos_is_counted_and_padding_is_not(toy_corpus: Corpus, run: Run) -> None:
    # Two sequences of different length in one batch; the shorter one's count is its own.
    pair = np.array([toy_corpus.num_tokens.argmin(), toy_corpus.num_tokens.argmax()])
    table = score(toy_corpus.subset(pair), run.checkpoints, device="cpu")
    texts = [tgt for _, tgt in toy_corpus.sentences(table.pair_ids.tolist())]
    assert table.num_tokens.tolist() == [len(row) for row in toy_corpus.tokenizer.encode(texts)]
    assert all(row[-1] == toy_corpus.eos_id for row in toy_corpus.tokenizer.encode(texts))
    for i in range(2):
        alone = score(toy_corpus.subset(pair[i : i + 1]), run.checkpoints, device="cpu")
        row = int(np.searchsorted(table.pair_ids, pair[i]))
        np.testing.assert_array_equal(table.nll[row], alone.nll[0])


@pytest.mark.parametrize(("batch_tokens", "num_threads"), [(1, 1), (100, 3), (100_000, 2)])
def test_scores_do_not_depend_on_batch_size_or_threads(
    toy_corpus: Corpus, run: Run, batch_tokens: int, num_threads: int
) -> None:
    """Scores are the same to the bit."""
    reference = score(toy_corpus, run.checkpoints, device="cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        table = score(toy_corpus, run.checkpoints, device="cpu", batch_tokens=batch_tokens)
    finally:
        torch.set_num_threads(before)
    for name in reference.names:
        np.testing.assert_array_equal(table.column(name), reference.column(name), err_msg=name)


def test_pytorch_scores_alike(
    toy_corpus: Corpus, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch runs the models that the extension does not know."""
    reference = score(toy_corpus, run.checkpoints, device="cpu")
    monkeypatch.setattr(ProxyAdapter, "transformer_weights", lambda self, num_positions: None)
    table = score(toy_corpus, run.checkpoints, device="cpu")
    assert not np.array_equal(table.nll, reference.nll)
    assert_nll(table.nll, reference.nll, table.num_tokens[:, None], float32_sides=2)
    sums = {name: reference.column(name) for name in STAT_NAMES}
    errors = statistic_errors(sums, table.num_tokens[:, None])
    for name in ("p_target", "el2n", "margin", "entropy", "grad_norm_bound"):
        assert_within(table.column(name), sums[name], 2 * errors[name], name)
    made = score(toy_corpus, run.checkpoints, device="cpu", out=tmp_path / "s")
    with pytest.raises(PycatError, match=r"'int8' is for models that the"):
        score(
            *(toy_corpus, run.checkpoints),
            device="cpu",
            dtype="int8",
            out=tmp_path / "s",
            overwrite=True,
        )
    np.testing.assert_array_equal(ScoreTable.open(tmp_path / "s").nll, made.nll)  # still there
    with pytest.raises(ValueError, match="expected at least 1"):
        score(toy_corpus, run.checkpoints, device="cpu", batch_tokens=0)


def test_scores_do_not_depend_on_company_or_order(toy_corpus: Corpus, run: Run) -> None:
    reference = score(toy_corpus, run.checkpoints, device="cpu")
    some = np.array([41, 3, 200, 7])
    alone = score(toy_corpus.subset(some), run.checkpoints, device="cpu")
    assert alone.pair_ids.tolist() == [3, 7, 41, 200]
    np.testing.assert_array_equal(alone.nll, reference.nll[alone.pair_ids])
    swapped = score(toy_corpus, run.checkpoints[::-1], device="cpu")
    np.testing.assert_array_equal(swapped.nll, reference.nll)  # by the updates that they record


def test_bfloat16_ranks_as_float32(toy_corpus: Corpus, run: Run) -> None:
    exact = score(toy_corpus, run.checkpoints, device="cpu")
    rough = score(toy_corpus, run.checkpoints, device="cpu", dtype="bfloat16")
    assert not np.array_equal(rough.nll, exact.nll)
    np.testing.assert_allclose(rough.nll, exact.nll, rtol=4e-3)
    assert np.mean(np.abs(rough.nll / exact.nll - 1)) < 6e-4
    ranks = [cat_var(table.ppl).argsort().argsort() for table in (exact, rough)]
    assert np.corrcoef(ranks[0], ranks[1])[0, 1] > 0.999


def test_a_sure_model_scores_near_zero_and_never_below(
    toy_corpus: Corpus, run: Run, tmp_path: Path
) -> None:
    # Scaling the last norm sharpens every distribution: lse equals the winning logit.
    sharp = [
        _edited(path, tmp_path / path.name, {}, scaled=("decoder_norm.weight", 50.0))
        for path in run.checkpoints[:2]
    ]
    for dtype in ("float32", "bfloat16"):
        table = score(toy_corpus, sharp, device="cpu", dtype=dtype)
        assert table.nll.min() >= 0


def test_an_interrupted_table_goes_on_part_by_part(
    toy_corpus: Corpus, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PART_PAIRS", 100)
    whole = score(toy_corpus, run.checkpoints, out=tmp_path / "whole", device="cpu")
    compute, calls = engine.corpus_sums, []

    def stop_in_the_second(corpus: Corpus, *rest: Any) -> NDArray[np.float64]:
        calls.append(corpus.pair_ids[0])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(corpus, *rest)

    monkeypatch.setattr(engine, "corpus_sums", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        score(toy_corpus, run.checkpoints, out=tmp_path / "cut", device="cpu")
    with pytest.raises(OutputError, match="incomplete"):
        ScoreTable.open(tmp_path / "cut")
    cut = score(toy_corpus, run.checkpoints, out=tmp_path / "cut", device="cpu")
    assert calls.count(0) == 1
    np.testing.assert_array_equal(cut.nll, whole.nll)
    for name in ("part-00000.parquet", "part-00001.parquet", "part-00002.parquet"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("finished_parts", [1, 3])
def test_the_time_of_interrupted_runs_adds_up(
    toy_corpus: Corpus,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished_parts: int,
) -> None:
    monkeypatch.setattr(engine, "PART_PAIRS", 100)
    out = tmp_path / "scores"
    score(toy_corpus, run.checkpoints, out=out, device="cpu")
    for i in range(finished_parts, 3):
        (out / f"part-{i:05}.parquet").unlink()
    manifest = json.loads((out / "scores.json").read_text())
    halfway = manifest | {"complete": False, "elapsed_s": 1000.0}
    write_manifest(out / "scores.json", halfway)
    facts = score(toy_corpus, run.checkpoints, out=out, device="cpu").manifest
    most = toy_corpus.num_tokens.sum() * 3 / 1000
    assert 0.5 * most < facts["tokens_per_s"] <= most
    assert facts["elapsed_s"] > 1000
    assert facts["model_flops"] == manifest["model_flops"]
    assert 0 < facts["flop_utilization"] < 1  # measured from 5 s on


def test_facts_about_speed(toy_corpus: Corpus, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_MIN_UTILIZATION_S", 1e9)
    facts = score(toy_corpus, run.checkpoints, device="cpu").manifest
    assert facts["tokens_per_s"] * facts["elapsed_s"] == pytest.approx(
        3 * int(toy_corpus.num_tokens.sum()), rel=0.05
    )
    assert "flop_utilization" not in facts
    model = load_adapters(run.checkpoints, toy_corpus)[0]
    assert facts["model_flops"] == 3 * model_flops(model, *toy_corpus.lengths)


def test_nll_alone_is_the_same_nll(toy_corpus: Corpus, run: Run, tmp_path: Path) -> None:
    every = score(toy_corpus, run.checkpoints, device="cpu")
    alone = score(toy_corpus, run.checkpoints, device="cpu", stats="nll")
    assert alone.statistics == ("nll",)
    assert every.statistics == STAT_NAMES
    np.testing.assert_array_equal(alone.nll, every.nll)
    dtypes = {every.column(stat).dtype.name for stat in STAT_NAMES[1:]}
    assert dtypes == {"float32", "int32"}
    assert every.column("correct").dtype == np.int32
    with pytest.raises(PycatError, match=r"stats is 'some'; expected one of nll, all"):
        score(toy_corpus, run.checkpoints, device="cpu", stats="some")  # type: ignore[arg-type]


@torch.inference_mode()
def test_all_statistics_equal_the_reference(toy_corpus: Corpus, run: Run) -> None:
    some = toy_corpus.subset(np.arange(0, 300, 13))
    found = score(some, run.checkpoints, device="cpu", batch_tokens=100)
    for k, checkpoint in enumerate(run.checkpoints):
        model = load_model(read_info(checkpoint), torch.device("cpu")).double()
        for row, pair_id in enumerate(some.pair_ids):
            pair = some.read(np.array([pair_id]))
            src, tgt = pair.src_tokens[None], pair.tgt_tokens[None]
            tgt_in = torch.cat((torch.tensor([[some.eos_id]]), tgt[:, :-1]), dim=1)
            hidden = model(src, torch.tensor([src.shape[1]]), tgt_in)
            expected = reference.cat_linear_cross_entropy(
                hidden, model.output_weight[None], tgt[0], pair.tgt_cu_seqlens, stats="all"
            )
            exact = {stat: getattr(expected, stat).item() for stat in STAT_NAMES}
            errors = statistic_errors(exact, tgt.numel())
            for stat in STAT_NAMES:
                assert_within(found.column(f"{stat}_{k}")[row], exact[stat], errors[stat], stat)


def test_a_table_without_further_statistics_is_known_again(
    toy_corpus: Corpus, run: Run, tmp_path: Path
) -> None:
    table = score(toy_corpus, run.checkpoints, out=tmp_path / "nll", device="cpu", stats="nll")
    # Recipes of earlier versions do not name statistics.
    assert "stats" not in table.manifest["recipe"]
    parts = [path.stat().st_mtime_ns for path in (tmp_path / "nll").glob("part-*")]
    score(toy_corpus, run.checkpoints, out=tmp_path / "nll", device="cpu", stats="nll")
    assert [path.stat().st_mtime_ns for path in (tmp_path / "nll").glob("part-*")] == parts
    with pytest.raises(OutputError, match='stats was null, now "all"'):
        score(toy_corpus, run.checkpoints, out=tmp_path / "nll", device="cpu")


def test_rank_agreement_survives_an_interruption(
    toy_corpus: Corpus, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PART_PAIRS", 100)
    options: dict[str, Any] = {"device": "cpu", "dtype": "bfloat16"}
    memory = score(toy_corpus, run.checkpoints, **options)
    agreement = memory.manifest["rank_agreement"]
    assert (agreement["criterion"], agreement["num_pairs"]) == ("cat_var", 200)
    assert 0.999 < agreement["spearman"] < 1
    rows = sample_rows(300)
    exact = score(toy_corpus.subset(rows), run.checkpoints, device="cpu")
    assert "rank_agreement" not in exact.manifest
    difference = np.abs(memory.nll[rows] / exact.nll - 1).mean()
    assert agreement["mean_relative_nll_difference"] == pytest.approx(difference, rel=1e-3)

    def stop(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reduced_precision, "rank_agreement", stop)
        with pytest.raises(KeyboardInterrupt):
            score(toy_corpus, run.checkpoints, out=tmp_path / "cut", **options)
    assert len([*(tmp_path / "cut").glob("part-*")]) == 3
    monkeypatch.setattr(engine, "write_part", stop)  # no part is made again
    cut = score(toy_corpus, run.checkpoints, out=tmp_path / "cut", **options)
    assert cut.manifest["rank_agreement"] == agreement
    np.testing.assert_array_equal(cut.nll, memory.nll)


def test_memory_does_not_grow_with_the_corpus(
    toy_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Forty parts; all of their columns together would be 18 MB.
    num_pairs, num_parts = 160_000, 40
    rng = np.random.default_rng(0)
    for side in ("src", "tgt"):
        tokens = rng.integers(4, 40, (num_pairs, 4), dtype=np.int32)
        tokens[:, -1] = 2
        with IndexedWriter(tmp_path / side, dtype="uint16") as writer:
            writer.append(tokens.ravel(), np.full(num_pairs, 4, np.int32))
    corpus = open_corpus((tmp_path / "src", tmp_path / "tgt"), vocab_size=40, eos_id=2)
    models = [CountingAdapter(seed) for seed in range(2)]
    monkeypatch.setattr(engine, "PART_PAIRS", num_pairs // num_parts)
    kilobytes = []

    def write(table: pa.Table, path: Path) -> None:
        write_part(table, path)
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                kilobytes.append(int(line.split()[1]))

    monkeypatch.setattr(engine, "write_part", write)
    score(corpus, models, out=tmp_path / "scores", device="cpu")
    assert len(kilobytes) == num_parts
    assert kilobytes[-1] - kilobytes[num_parts // 4] < 4096


class CountingAdapter(Adapter):
    """A model whose hidden states depend only on a token's place in the batch."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        module = torch.nn.Linear(4, 40, bias=False)
        super().__init__(module, Head(module.weight), name=f"seed {seed}", step=seed)

    def hidden(self, batch: Batch) -> torch.Tensor:
        num_tokens = int(batch.tgt_cu_seqlens[-1])
        return torch.arange(num_tokens)[:, None] % torch.tensor([2.0, 3.0, 5.0, 7.0])


def test_manifest_names_what_was_scored(toy_corpus: Corpus, run: Run, tmp_path: Path) -> None:
    table = score(toy_corpus, run.checkpoints, out=tmp_path / "scores", device="cpu")
    assert table.steps == [2, 6, 12]
    assert table.manifest["recipe"]["corpus"] == toy_corpus.id
    assert table.manifest["recipe"]["checkpoints"] == [
        read_info(path).sha256 for path in run.checkpoints
    ]
    assert table.corpus_path == toy_corpus.path.resolve()


def _edited(
    source: Path,
    out: Path,
    header: dict[str, Any],
    *,
    scaled: tuple[str, float] | None = None,
    without: str = "",
) -> Path:
    """A copy with header entries replaced, one tensor scaled, one left out."""
    with safe_open(source, "pt") as file:
        old = json.loads(file.metadata()["pycat"])
        old.pop("sha256")  # as a pycat wrote it that knew no hashes
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors.pop(without, None)
    if scaled is not None:
        tensors[scaled[0]] *= scaled[1]
    save_file(tensors, out, {"pycat": json.dumps({**old, **header})})
    return out


def test_checkpoints_that_cannot_score_are_refused(
    toy_corpus: Corpus, run: Run, tmp_path: Path
) -> None:
    first, second, _ = run.checkpoints
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(first.read_bytes()[:1000])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    other = _edited(second, tmp_path / "other.safetensors", {"tokenizer_sha256": "0" * 64})
    config = read_info(second).config
    deeper = {**config.to_json(), "num_layers": config.num_layers + 1}
    wider = _edited(second, tmp_path / "wider.safetensors", {"config": deeper})
    broken = _edited(
        second, tmp_path / "nan.safetensors", {}, scaled=("decoder_norm.weight", float("nan"))
    )
    for checkpoints, message in (
        ([first], "found 1 checkpoints, expected at least 2"),
        ([], "found 0 checkpoints"),
        ([first, first], "given twice"),
        ([first, tmp_path / "none.safetensors"], "no such file or folder"),
        ([first, damaged], "damaged.safetensors: not a readable safetensors file"),
        ([first, foreign], "foreign.safetensors: found format None"),
        ([first, other], r"other.safetensors: trained with tokenizer 000000000000"),
        ([first, wider], "wider.safetensors: shape .*expected checkpoints of one training run"),
        ([first, broken], "nan.safetensors: .* has a value that is not a finite number"),
    ):
        with pytest.raises(CheckpointError, match=message):
            score(toy_corpus, checkpoints, device="cpu")


def test_weights_that_do_not_fit_their_header_are_refused(
    toy_corpus: Corpus, run: Run, tmp_path: Path
) -> None:
    pair = [
        _edited(path, tmp_path / path.name, {}, without="encoder_norm.weight")
        for path in run.checkpoints[:2]
    ]
    with pytest.raises(CheckpointError, match=r"tensors do not match.*encoder_norm.weight"):
        score(toy_corpus, pair, device="cpu")


def test_scores_of_another_corpus_are_not_taken_for_these(
    toy_corpus: Corpus, run: Run, tmp_path: Path
) -> None:
    score(toy_corpus, run.checkpoints, out=tmp_path / "scores", device="cpu")
    part = toy_corpus.subset(np.arange(10))
    with pytest.raises(OutputError, match="corpus was"):
        score(part, run.checkpoints, out=tmp_path / "scores", device="cpu")


@pytest.mark.gpu
def test_cuda_scores_equal_the_cpu(toy_corpus: Corpus, run: Run) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cpu = score(toy_corpus, run.checkpoints, device="cpu")
    cuda = score(toy_corpus, run.checkpoints, device="cuda")
    assert_nll(cuda.nll, cpu.nll, cpu.num_tokens[:, None], float32_sides=2)
