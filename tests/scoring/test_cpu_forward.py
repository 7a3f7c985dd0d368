"""The extension's forward pass against PyTorch's, and what its scores must not depend on."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycat.kernels.reference import cat_linear_cross_entropy
from pycat.kernels.stat_names import STAT_NAMES, Stats
from tolerances import assert_nll, assert_within, statistic_errors
from torch import Tensor

from pycat import _core
from pycat.data.batches import Batch
from pycat.errors import PycatError
from pycat.proxy.transformer import DecoderLayer, ModelConfig, Transformer
from pycat.scoring.cpu_forward import CpuForward
from pycat.scoring.transformer_weights import proxy_weights

EOS = 2
ISAS = _core.supported_cpu_isas()
# Widths that are no multiple of a tile's rows, a vocabulary that leaves a ragged last tile.
CONFIG = ModelConfig(vocab_size=101, d_model=40, num_heads=5, d_ff=72, num_layers=2)


def _model(config: ModelConfig = CONFIG, seed: int = 0) -> Transformer:
    """A proxy of peaked distributions, whose biases and norms matter."""
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        model.embedding.weight.mul_(4.0)
    return model


def _batch(lengths: list[tuple[int, int]], seed: int = 0, vocab_size: int = 101) -> Batch:
    """Pairs of these (source, target) lengths, packed."""
    rng = np.random.default_rng(seed)

    def side(counts: list[int]) -> tuple[Tensor, Tensor]:
        rows = [np.append(rng.integers(3, vocab_size, count - 1), EOS) for count in counts]
        ends = np.cumsum([0, *counts])
        return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(ends).int()

    src, src_ends = side([pair[0] for pair in lengths])
    tgt, tgt_ends = side([pair[1] for pair in lengths])
    return Batch(src, src_ends, tgt, tgt_ends, torch.arange(len(lengths)))


def _lengths(count: int, longest: int, seed: int = 0) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    return [(int(a), int(b)) for a, b in rng.integers(1, longest + 1, (count, 2))]


def _pair(batch: Batch, b: int) -> Batch:
    """Pair b of a batch, alone."""
    src, tgt = (slice(*ends[b : b + 2].tolist()) for ends in (batch[1], batch[3]))
    return Batch(
        batch.src_tokens[src],
        torch.tensor([0, src.stop - src.start], dtype=torch.int32),
        batch.tgt_tokens[tgt],
        torch.tensor([0, tgt.stop - tgt.start], dtype=torch.int32),
        batch.pair_ids[b : b + 1],
    )


@torch.no_grad()
def _expected(model: Transformer, batch: Batch) -> NDArray[np.float64]:
    """Sums (S, B) by float64 layers, one sentence at a time."""
    model = model.double()
    sums = []
    for b in range(len(batch.pair_ids)):
        src = batch.src_tokens[batch.src_cu_seqlens[b] : batch.src_cu_seqlens[b + 1]]
        tgt = batch.tgt_tokens[batch.tgt_cu_seqlens[b] : batch.tgt_cu_seqlens[b + 1]]
        tgt_in = torch.cat((torch.tensor([EOS]), tgt[:-1]))
        hidden = model(src[None], torch.tensor([len(src)]), tgt_in[None])
        ends = torch.tensor([0, len(tgt)], dtype=torch.int32)
        weight = model.output_weight[None]
        stats = cat_linear_cross_entropy(hidden, weight, tgt, ends, stats="all")
        sums.append([getattr(stats, name)[0, 0].item() for name in STAT_NAMES])
    model.float()
    return np.array(sums).T


def _score(
    model: Transformer, batch: Batch, dtype: str = "float32", stats: Stats = "nll"
) -> NDArray[np.float64]:
    """Sums (S, B)."""
    forward = CpuForward([proxy_weights(model, EOS, 600)], dtype, stats=stats)
    return forward.score(batch).sums[:, 0]


@pytest.mark.parametrize("isa", ISAS)
def test_all_statistics_equal_the_float64_model(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYCAT_CPU_ISA", isa)
    model, batch = _model(), _batch([(1, 1), (1, 9), (33, 2), *_lengths(30, 40)])
    found, expected = _score(model, batch, stats="all"), _expected(model, batch)
    assert expected[0].std() > 1  # else agreement would prove little
    errors = statistic_errors(
        dict(zip(STAT_NAMES, expected, strict=True)), batch.tgt_cu_seqlens.diff()
    )
    for name, sums, exact in zip(STAT_NAMES, found, expected, strict=True):
        assert_within(sums, exact, errors[name], name)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("longest", [31, 32, 33, 150])
def test_sentences_that_cross_panels_of_any_width(heads: int, longest: int) -> None:
    config = ModelConfig(vocab_size=101, d_model=16 * heads, num_heads=heads, d_ff=32, num_layers=1)
    model = _model(config)
    batch = _batch([(longest, longest), *_lengths(6, longest), (1, longest), (longest, 1)])
    found, expected = _score(model, batch)[0], _expected(model, batch)[0]
    assert_nll(found, expected, batch.tgt_cu_seqlens.diff())


def test_a_source_with_a_vocabulary_of_its_own() -> None:
    config = ModelConfig(50, 16, 2, 32, 1, src_vocab_size=101)
    model, batch = _model(config), _batch(_lengths(9, 20))
    batch = batch._replace(tgt_tokens=batch.tgt_tokens % 50)
    found, expected = _score(model, batch)[0], _expected(model, batch)[0]
    assert_nll(found, expected, batch.tgt_cu_seqlens.diff())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_scores_do_not_depend_on_company_or_order(dtype: str) -> None:
    _skip_without(dtype)
    weights, batch = proxy_weights(_model(), EOS, 50), _batch(_lengths(20, 50))
    forward = CpuForward([weights], dtype, stats="all", per_token=True)
    together = forward.score(batch)
    assert together.nll_per_token is not None
    for b in [3, 0, 19, 7]:
        tgt = slice(*batch.tgt_cu_seqlens[b : b + 2].tolist())
        found = forward.score(_pair(batch, b))
        assert found.nll_per_token is not None
        np.testing.assert_array_equal(found.nll_per_token[0], together.nll_per_token[0, tgt])
        np.testing.assert_array_equal(found.sums[:, :, 0], together.sums[:, :, b])


def test_per_token_nll_adds_up() -> None:
    forward = CpuForward([proxy_weights(_model(), EOS, 12)], "float32", per_token=True)
    found = forward.score(_batch(_lengths(8, 12)))
    assert found.nll_per_token is not None
    tokens = found.nll_per_token[0].astype(np.float64)
    added = np.add.reduceat(tokens, found.tgt_cu_seqlens[:-1])
    np.testing.assert_allclose(added, found.sums[0, 0], rtol=1e-6)


def test_checkpoints_stay_apart() -> None:
    models, batch = [_model(seed=seed) for seed in (0, 1)], _batch(_lengths(8, 12))
    both = CpuForward([proxy_weights(model, EOS, 64) for model in models], "float32").score(batch)
    for k, model in enumerate(models):
        np.testing.assert_array_equal(both.sums[:, k], _score(model, batch))


def test_a_prefix_is_read_and_not_counted() -> None:
    """A language tag is such a prefix: nll is that of the rest, given the prefix."""
    weights, batch = proxy_weights(_model(), EOS, 64), _batch([(4, 3), (2, 6)])
    prefixed = replace(weights, prefix=(EOS, 17, 23))
    found = CpuForward([prefixed], "float32", per_token=True).score(batch)
    rows = torch.split(batch.tgt_tokens, batch.tgt_cu_seqlens.diff().tolist())
    whole = batch._replace(
        tgt_tokens=torch.cat([torch.tensor([17, 23, *row.tolist()]) for row in rows]),
        tgt_cu_seqlens=torch.tensor([0, 5, 13], dtype=torch.int32),
    )
    expected = CpuForward([weights], "float32", per_token=True).score(whole).nll_per_token
    assert expected is not None and found.nll_per_token is not None
    tokens = found.nll_per_token[0]
    np.testing.assert_array_equal(tokens, np.concatenate((expected[0, 2:5], expected[0, 7:])))
    np.testing.assert_allclose(found.sums[0, 0], [tokens[:3].sum(), tokens[3:].sum()], rtol=1e-6)


# The largest errors are about a third of these; AVX2 has seven bits of the tokens.
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 4e-3), ("int8", 1e-2)])
@pytest.mark.parametrize("isa", ISAS)
def test_reduced_precision_is_near(
    isa: str, dtype: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYCAT_CPU_ISA", isa)
    _skip_without(dtype)
    model, batch = _model(ModelConfig(500, 64, 4, 256, 2)), _batch(_lengths(64, 40), vocab_size=500)
    exact, reduced = _expected(model, batch), _score(model, batch, dtype, stats="all")
    error = np.abs(reduced[0] - exact[0]) / exact[0]
    assert 0 < error.mean() < tolerance
    assert np.abs(reduced[1:] - exact[1:]).sum() > 0
    for name, sums, expected in zip(STAT_NAMES, reduced, exact, strict=True):
        assert np.corrcoef(sums, expected)[0, 1] > 0.99, name


@pytest.mark.parametrize("isa", ISAS)
def test_int8_has_the_targets_logits_of_float32(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers add nothing here, and one token alone has logits other than 0."""
    monkeypatch.setenv("PYCAT_CPU_ISA", isa)
    _skip_without("int8")
    model, batch = _model(), _batch(_lengths(20, 30))
    token = 7
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".output." in name or ".feed_forward.2." in name:
                value.zero_()
        model.embedding.weight[torch.arange(101) != token] = 0.0
    tokens = batch.tgt_tokens.where(batch.tgt_tokens == EOS, token)
    weights, batch = proxy_weights(model, EOS, 64), batch._replace(tgt_tokens=tokens)
    nll = []
    for dtype in ("float32", "int8"):
        scored = CpuForward([weights], dtype, per_token=True).score(batch).nll_per_token
        assert scored is not None
        nll.append(scored[0][tokens.numpy() == token])
    assert nll[0].std() > 1
    np.testing.assert_allclose(nll[1], nll[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa != "portable"])
def test_widths_that_are_odd_numbers_of_words(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are summed four words at a time on AVX2: here one or two words are left over."""
    monkeypatch.setenv("PYCAT_CPU_ISA", isa)
    model, batch = _model(ModelConfig(101, 40, 5, 36, 1)), _batch(_lengths(9, 20))
    exact = _expected(model, batch)[0]
    assert np.abs(_score(model, batch, "int8")[0] / exact - 1).mean() < 1e-2


@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("num_batches", [1, 7])
def test_results_do_not_depend_on_workers(num_workers: int, num_batches: int) -> None:
    """Several workers cut batches into shares; one worker cuts only those above its limit."""
    models = [proxy_weights(_model(seed=seed), EOS, 90) for seed in (0, 1, 2)]
    batches = [_batch(_lengths(25, 80, seed), seed) for seed in range(num_batches)]
    options: dict[str, Any] = {"stats": "all", "per_token": True}
    alone = CpuForward(models, "float32", **options)
    shared = CpuForward(models, "float32", num_workers=num_workers, **options)
    found = list(shared.run(iter(batches)))
    assert len(found) == num_batches
    for batch, sums in zip(batches, found, strict=True):
        expected = alone.score(batch)
        np.testing.assert_array_equal(sums.pair_ids, batch.pair_ids)
        np.testing.assert_array_equal(sums.sums, expected.sums)
        assert sums.nll_per_token is not None and expected.nll_per_token is not None
        np.testing.assert_array_equal(sums.nll_per_token, expected.nll_per_token)


def test_a_large_batch_is_cut_between_sentences() -> None:
    weights, batch = proxy_weights(_model(), EOS, 90), _batch(_lengths(70, 80))
    forward = CpuForward([weights], "float32")
    assert len(batch.tgt_tokens) > 2 * forward.batch_tokens
    sums = forward.score(batch).sums
    for b in range(70):
        np.testing.assert_array_equal(sums[:, :, b], forward.score(_pair(batch, b)).sums[:, :, 0])


def test_no_batches_give_no_sums() -> None:
    forward = CpuForward([proxy_weights(_model(), EOS, 12)], "float32", num_workers=2)
    assert list(forward.run(iter(()))) == []


def test_an_error_of_the_batches_is_raised_after_those_before_it() -> None:
    forward = CpuForward([proxy_weights(_model(), EOS, 12)], "float32", num_workers=2)

    def batches() -> Iterator[Batch]:
        for seed in range(9):
            yield _batch(_lengths(3, 12), seed)
        raise OSError("the disk is gone")

    found = []
    with pytest.raises(OSError, match="the disk is gone"):
        for sums in forward.run(batches()):
            found.append(sums)
    assert 0 < len(found) < 9


def test_a_dtype_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYCAT_CPU_ISA", "portable")
    with pytest.raises(PycatError, match=r"instruction set portable.* has no int8 products; use"):
        CpuForward([proxy_weights(_model(), EOS, 8)], "int8")


def test_models_it_cannot_run_are_refused() -> None:
    weights = proxy_weights(_model(ModelConfig(50, 24, 2, 32, 1)), EOS, 64)
    with pytest.raises(PycatError, match="width 24 with 2 heads; expected heads whose width is a"):
        CpuForward([weights], "float32")


def test_tokens_and_positions_beyond_the_model_are_named() -> None:
    forward = CpuForward([proxy_weights(_model(), EOS, 8)], "float32")
    with pytest.raises(ValueError, match="a source has 9 tokens; the model has 8 positions"):
        forward.score(_batch([(9, 3)]))
    batch = _batch([(3, 3)])
    with pytest.raises(
        ValueError, match=r"token 101 of a source is outside of .* vocabulary of 101"
    ):
        forward.score(batch._replace(src_tokens=torch.tensor([101, 5, EOS])))
    broken = torch.tensor([0, 4], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"cu_seqlens runs from 0 to 4; expected .* the 3 tokens"):
        forward.score(batch._replace(src_cu_seqlens=broken))


def test_damaged_weights_harm_only_what_they_touch() -> None:
    model, batch = (
        _model(ModelConfig(101, 16, 2, 32, 1, src_vocab_size=101)),
        _batch(_lengths(8, 12)),
    )
    healthy = _score(model, batch)[0]
    token = int(batch.src_tokens[0])
    assert model.src_embedding is not None
    with torch.no_grad():
        model.src_embedding.weight[token, 3] = torch.nan
    sources = torch.split(batch.src_tokens, batch.src_cu_seqlens.diff().tolist())
    touched = np.array([bool((source == token).any()) for source in sources])
    nll = _score(model, batch)[0]
    np.testing.assert_array_equal(np.isnan(nll), touched)
    np.testing.assert_array_equal(nll[~touched], healthy[~touched])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_an_overflow_inside_stays_visible(dtype: str) -> None:
    """An int8 value cannot be NaN, and the overflow must show all the same."""
    _skip_without(dtype)
    model, batch = _model(), _batch(_lengths(8, 12))
    with torch.no_grad():
        for layer in (cast(DecoderLayer, model.decoder[0]).cross_attention,):
            layer.query.weight[:8] *= 1e25
            layer.key_value.weight[:8] *= 1e25
    assert np.isnan(_score(model, batch, dtype)[0]).all()


def _skip_without(dtype: str) -> None:
    try:
        CpuForward([proxy_weights(_model(), EOS, 8)], dtype)
    except PycatError as error:
        pytest.skip(str(error))
