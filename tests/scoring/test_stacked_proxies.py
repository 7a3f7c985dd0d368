"""All checkpoints as one model, against each model by itself on single sentences."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycat.kernels.ops import cat_linear_cross_entropy
from pycat.kernels.reference import SequenceStats
from pycat.kernels.stat_names import STAT_NAMES
from tolerances import assert_nll
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import pycat
from pycat.data.corpus import Corpus
from pycat.proxy import packed_attention
from pycat.proxy.packed_attention import Side, has_varlen
from pycat.proxy.training import train
from pycat.proxy.transformer import PRESETS, ModelConfig, Transformer
from pycat.scoring import stacked_forward
from pycat.scoring import sums as scoring_sums
from pycat.scoring.adapter import ProxyAdapter
from pycat.scoring.loading import load_adapters
from pycat.scoring.stacked_forward import StackedForward, copied_ahead, sides
from pycat.scoring.stacked_proxies import StackedProxies

EOS = 2
SHARED = ModelConfig(vocab_size=70, d_model=32, num_heads=4, d_ff=64, num_layers=2)
SEPARATE = ModelConfig(
    vocab_size=70, d_model=32, num_heads=2, d_ff=48, num_layers=3, src_vocab_size=40
)
CPU = torch.device("cpu")
CUDA = torch.device("cuda")
BFLOAT16 = torch.bfloat16
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def make_models(config: ModelConfig, count: int) -> list[Transformer]:
    """Models of random weights, with biases, gains and shifts so large that a lost one shows."""
    torch.manual_seed(0)
    models = [Transformer(config).eval() for _ in range(count)]
    for model in models:
        for parameter in model.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.5)
    return models


def make_side(lengths: list[int], vocab_size: int, device: torch.device = CPU) -> Side:
    rng = np.random.default_rng(len(lengths))
    ends = np.cumsum(lengths)
    tokens = rng.integers(3, vocab_size, ends[-1])
    tokens[ends - 1] = EOS
    cu_seqlens = torch.from_numpy(np.concatenate(([0], ends)).astype(np.int32))
    return Side(torch.from_numpy(tokens).to(device), cu_seqlens.to(device), np.array(lengths))


def make_sides(config: ModelConfig, device: torch.device = CPU, count: int = 24) -> list[Side]:
    """Lengths of 1 to 80 on both sides, not in their order."""
    rng = np.random.default_rng(7)
    lengths = [[1, 80, 64, *rng.integers(1, 81, count).tolist()] for _ in range(2)]
    lengths[1].reverse()
    sizes = config.src_vocab_size or config.vocab_size, config.vocab_size
    return [make_side(*side, device) for side in zip(lengths, sizes, strict=True)]


@torch.no_grad()
def one_sentence_at_a_time(model: Transformer, src: Side, tgt: Side, eos_id: int = EOS) -> Tensor:
    """Hidden states (T, D) of one model in float64."""
    model.double()
    rows = []
    for source, target in zip(*(split(side) for side in (src, tgt)), strict=True):
        tgt_in = torch.cat((torch.tensor([eos_id]), target[:-1]))
        rows.append(model(source[None], torch.tensor([len(source)]), tgt_in[None])[0])
    model.float()
    return torch.cat(rows)


def split(side: Side) -> list[Tensor]:
    return list(torch.split(side.tokens, side.lengths.tolist()))


def sums(proxies: StackedProxies, src: Side, tgt: Side, **options: Any) -> SequenceStats:
    hidden = proxies.hidden(src, tgt, **options)
    stats: SequenceStats = cat_linear_cross_entropy(
        hidden, proxies.head, tgt.tokens, tgt.cu_seqlens, check=False
    )
    return stats


@pytest.mark.parametrize("config", [SHARED, SEPARATE])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_hidden_states_equal_those_of_each_model_alone(config: ModelConfig, count: int) -> None:
    models, (src, tgt) = make_models(config, count), make_sides(config)
    exact = torch.stack([one_sentence_at_a_time(model, src, tgt) for model in models])
    found = StackedProxies(models, EOS, torch.float64).hidden(src, tgt)
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", [SHARED, SEPARATE])
def test_nll_in_float32_and_bfloat16(config: ModelConfig) -> None:
    models, (src, tgt) = make_models(config, 3), make_sides(config)
    exact = []
    for model in models:
        logits = one_sentence_at_a_time(model, src, tgt) @ model.output_weight.detach().double().T
        tokens = F.cross_entropy(logits, tgt.tokens, reduction="none")
        exact.append([float(part.sum()) for part in torch.split(tokens, tgt.lengths.tolist())])
    single = sums(StackedProxies(models, EOS, torch.float32), src, tgt).nll
    assert_nll(single, exact, tgt.lengths)
    rough = sums(StackedProxies(models, EOS, torch.bfloat16), src, tgt).nll
    np.testing.assert_allclose(rough, exact, rtol=2e-2)
    assert np.mean(np.abs(rough.numpy() / exact - 1)) < 2e-3


def test_a_sentence_does_not_see_its_company() -> None:
    models, (src, tgt) = make_models(SEPARATE, 2), make_sides(SEPARATE)
    proxies = StackedProxies(models, EOS, torch.float64)
    together = torch.split(proxies.hidden(src, tgt), tgt.lengths.tolist(), dim=1)
    for i in (0, 1, 2, 9):
        alone = [
            Side(
                rows[i],
                torch.tensor([0, len(rows[i])], dtype=torch.int32),
                np.array([len(rows[i])]),
            )
            for rows in (split(src), split(tgt))
        ]
        torch.testing.assert_close(proxies.hidden(*alone), together[i], rtol=1e-12, atol=1e-12)


def varlen_in_python(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """`varlen_attn` of torch 2.11, sequence by sequence; it asserts what that requires."""
    assert window_size in ((-1, -1), (-1, 0))
    assert {type(longest) for longest in (max_q, max_k)} == {int}
    out = torch.empty_like(query)
    for cu_seqlens, longest, tensors in (
        (cu_seq_q, max_q, [query]),
        (cu_seq_k, max_k, [key, value]),
    ):
        assert cu_seqlens.dtype == torch.int32 and cu_seqlens.is_contiguous()
        assert cu_seqlens.diff().max() <= longest
        assert all(len(tensor) == cu_seqlens[-1] for tensor in tensors)
        assert all(tensor.stride(-1) == 1 for tensor in tensors)
    for i in range(len(cu_seq_q) - 1):
        q, k = slice(*cu_seq_q[i : i + 2].tolist()), slice(*cu_seq_k[i : i + 2].tolist())
        attended = F.scaled_dot_product_attention(
            query[q].transpose(0, 1),
            key[k].transpose(0, 1),
            value[k].transpose(0, 1),
            is_causal=window_size == (-1, 0),
        )
        out[q] = attended.transpose(0, 1)
    return out


@pytest.mark.parametrize("max_sequences", [65_535, 10, 1])
def test_both_ways_of_attention_agree(max_sequences: int, monkeypatch: pytest.MonkeyPatch) -> None:
    models, (src, tgt) = make_models(SEPARATE, 3), make_sides(SEPARATE)
    proxies = StackedProxies(models, EOS, torch.float64)
    expected = proxies.hidden(src, tgt, varlen=False)
    monkeypatch.setattr(packed_attention, "_varlen_attn", lambda: varlen_in_python)
    monkeypatch.setattr(packed_attention, "_MAX_SEQUENCES", max_sequences)
    for varlen in (True, False):
        found = proxies.hidden(src, tgt, varlen=varlen)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_where_varlen_attention_is_used() -> None:
    assert not has_varlen(CPU, torch.bfloat16, 64)
    assert not has_varlen(CUDA, torch.float32, 64)
    assert not has_varlen(CUDA, torch.bfloat16, 20)  # not a multiple of 8
    assert not has_varlen(CUDA, torch.bfloat16, 264)
    newer = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)
    assert has_varlen(CUDA, torch.bfloat16, 64) == (newer and torch.version.hip is None)


@pytest.fixture(scope="module")
def checkpoints(toy_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("proxy")
    options: dict[str, Any] = {"batch_tokens": 512, "device": "cpu", "dtype": "float32"}
    return list(train(toy_corpus, out=out, checkpoint_steps=[2, 6], **options).checkpoints)


@pytest.mark.parametrize("batch_tokens", [70, 4096])
def test_scores_are_those_of_one_checkpoint_at_a_time(
    toy_corpus: Corpus,
    checkpoints: list[Path],
    batch_tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = toy_corpus.subset(np.arange(0, 300, 3))
    expected = pycat.score(some, checkpoints, device="cpu", dtype="float32").nll
    monkeypatch.setattr(scoring_sums, "_can_stack", lambda models, device: True)
    monkeypatch.setattr(ProxyAdapter, "hidden", None)  # one at a time would call it
    found = pycat.score(
        some, checkpoints, device="cpu", dtype="float32", batch_tokens=batch_tokens
    ).nll
    assert_nll(found, expected, some.num_tokens[:, None], float32_sides=2)


def test_nll_of_tokens(toy_corpus: Corpus, checkpoints: list[Path]) -> None:
    some = toy_corpus.subset(np.arange(0, 300, 30))
    models = [
        model for model in load_adapters(checkpoints, some) if isinstance(model, ProxyAdapter)
    ]
    for batch in StackedForward(models, CPU, torch.float32, per_token=True).run(some.batches(60)):
        assert batch.nll_per_token is not None
        tokens = torch.from_numpy(batch.nll_per_token)
        parts = torch.split(tokens, np.diff(batch.tgt_cu_seqlens).tolist(), dim=1)
        for pair_id, part in zip(batch.pair_ids, parts, strict=True):
            pair = toy_corpus.read(np.array([pair_id]))
            src, tgt = sides(pair, pair)
            for model, found in zip(models, part, strict=True):
                hidden = one_sentence_at_a_time(model.model, src, tgt, some.eos_id)
                logits = hidden @ model.model.output_weight.detach().double().T
                exact = F.cross_entropy(logits, tgt.tokens, reduction="none")
                assert_nll(found, exact, 1)


def test_all_statistics_come_back(toy_corpus: Corpus, checkpoints: list[Path]) -> None:
    some = toy_corpus.subset(np.arange(40))
    models = [
        model for model in load_adapters(checkpoints, some) if isinstance(model, ProxyAdapter)
    ]
    forward = StackedForward(models, CPU, torch.float32, stats="all", per_token=True)
    batches = list(forward.run(some.batches(60)))
    assert len(batches) > 3
    assert sorted(np.concatenate([batch.pair_ids for batch in batches])) == list(range(40))
    for batch in batches:
        assert batch.sums.shape == (len(STAT_NAMES), 2, len(batch.pair_ids))
        assert batch.nll_per_token is not None
        by_pair = np.add.reduceat(batch.nll_per_token, batch.tgt_cu_seqlens[:-1], axis=1)
        np.testing.assert_allclose(batch.sums[0], by_pair, rtol=1e-5)
        lengths = np.diff(batch.tgt_cu_seqlens)
        np.testing.assert_array_equal(lengths, some.num_tokens[batch.pair_ids])
        p_target, el2n = batch.sums[1], batch.sums[3]
        assert ((p_target > 0) & (p_target < lengths)).all()
        # 1 - p_y is at most EL2N, and that at most sqrt 2 times as much.
        assert (el2n >= (1 - 1e-6) * (lengths - p_target)).all()
        assert (el2n <= (1 + 1e-6) * 2**0.5 * (lengths - p_target)).all()


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Tensors without contents, on a CUDA device that need not be there."""
    if torch.version.cuda is None:
        pytest.skip("this torch is built without CUDA, and so cannot cut its tensors")
    with FakeTensorMode():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_and_dtypes_on_cuda_without_waiting(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a number off the device would raise here, and so would mixing dtypes."""
    residual = pytest.importorskip("pycat.kernels.residual", reason="needs Triton")

    def add_norm(x: Tensor, *_: Any, dtype: torch.dtype, **__: Any) -> Tensor:
        return torch.empty_like(x, dtype=dtype)

    def add_bias_(x: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
        assert x.shape[::2] == bias.shape[::2]
        return x

    monkeypatch.setattr(residual, "add_norm", add_norm)
    monkeypatch.setattr(residual, "add_bias_", add_bias_)
    with torch.device("meta"):
        models = [Transformer(SEPARATE).eval() for _ in range(3)]
    lengths = np.array([3, 80, 1])

    def make() -> Side:
        tokens = torch.empty(84, dtype=torch.int64, device=CUDA)
        return Side(tokens, torch.empty(4, dtype=torch.int32, device=CUDA), lengths)

    with fake_cuda():
        for module in (module for model in models for module in model.modules()):
            for name, value in list(module.named_parameters(recurse=False)):
                module._parameters[name] = nn.Parameter(torch.empty(value.shape, device=CUDA))
        proxies = StackedProxies(models, EOS, dtype)
        src, tgt = make(), make()
        hidden = proxies.hidden(src, tgt, varlen=True)
        assert (hidden.shape, hidden.dtype) == ((3, 84, 32), dtype)
        assert sums(proxies, src, tgt, varlen=True).nll.shape == (3, 3)


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("config", [SHARED, SEPARATE, ModelConfig(70, **PRESETS["tiny"])])
def test_a_gpu_computes_as_the_cpu(config: ModelConfig) -> None:
    models, cpu_sides = make_models(config, 3), make_sides(config)
    exact = sums(StackedProxies(models, EOS, torch.float32), *cpu_sides).nll
    models = [model.to(CUDA) for model in models]
    src, tgt = make_sides(config, CUDA)
    single = sums(StackedProxies(models, EOS, torch.float32), src, tgt).nll
    assert_nll(single, exact, tgt.lengths, float32_sides=2)
    proxies = StackedProxies(models, EOS, torch.bfloat16)
    for varlen in (True, False):
        rough = sums(proxies, src, tgt, varlen=varlen).nll.cpu().numpy()
        np.testing.assert_allclose(rough, exact, rtol=2e-2)
        assert np.mean(np.abs(rough / exact.numpy() - 1)) < 2e-3


@on_gpu
@pytest.mark.gpu
def test_both_ways_of_attention_agree_on_a_gpu() -> None:
    config = ModelConfig(70, **PRESETS["base"])
    proxies = StackedProxies([model.to(CUDA) for model in make_models(config, 2)], EOS, BFLOAT16)
    src, tgt = make_sides(config, CUDA)
    assert has_varlen(CUDA, BFLOAT16, 64)
    packed, padded = (proxies.hidden(src, tgt, varlen=varlen).float() for varlen in (True, False))
    error = (packed - padded).norm() / padded.norm()
    assert 0 < error < 2e-2
    again = proxies.hidden(src, tgt).float()
    assert torch.equal(again, packed)


@on_gpu
@pytest.mark.gpu
def test_more_sequences_than_a_grid_takes() -> None:
    config = ModelConfig(70, **{**PRESETS["tiny"], "num_layers": 1})
    proxies = StackedProxies([model.to(CUDA) for model in make_models(config, 2)], EOS, BFLOAT16)
    lengths = [1, 2, 2] * 12_000
    side = make_side(lengths, 70, CUDA)
    for varlen in (True, False):
        whole = proxies.hidden(side, side, varlen=varlen)[:, -5:]
        last = make_side(lengths[-3:], 70, CUDA)._replace(tokens=side.tokens[-5:])
        alone = proxies.hidden(last, last, varlen=varlen)
        torch.testing.assert_close(whole, alone, rtol=5e-2, atol=5e-2)


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
def test_nothing_waits_for_the_device(dtype: torch.dtype) -> None:
    models = [model.to(CUDA) for model in make_models(SEPARATE, 3)]
    proxies = StackedProxies(models, EOS, dtype)
    sums(proxies, *make_sides(SEPARATE, CUDA))  # compiles the kernels
    more = make_sides(SEPARATE, CUDA, count=31)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = sums(proxies, *more)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.nll.isfinite().all()


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("batch_tokens", [100, 4096])
def test_a_corpus_on_a_gpu(toy_corpus: Corpus, checkpoints: list[Path], batch_tokens: int) -> None:
    """Many small batches: memory taken back too early would show."""
    tables = [
        pycat.score(toy_corpus, checkpoints, device=device, batch_tokens=batch_tokens)
        for device in ("cpu", "cuda")
    ]
    assert_nll(tables[1].nll, tables[0].nll, toy_corpus.num_tokens[:, None], float32_sides=2)


class Recorded:
    """A tensor, stream or event of batch `number` that writes down what is done with it."""

    def __init__(self, log: list[str], number: int = -1) -> None:
        self.log, self.number = log, number

    def to(self, device: torch.device, *, non_blocking: bool) -> "Recorded":
        assert device == CUDA and non_blocking
        self.log.append(f"copy {self.number}")
        return self

    def record_stream(self, _: object) -> None:
        self.log.append(f"hold {self.number}")

    def record_event(self) -> "Recorded":
        return Recorded(self.log, int(self.log[-1].split()[1]))

    def wait_event(self, event: "Recorded") -> None:
        self.log.append(f"device waits for {event.number}")

    def synchronize(self) -> None:
        self.log.append(f"host waits for {'all' if self.number < 0 else self.number}")


@pytest.mark.parametrize("taken", [2, 3])
def test_copies_run_ahead_and_end_before_their_memory_is_used_again(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Recorded(log))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Recorded(log))

    def read() -> Iterator[Any]:
        for number in range(3):
            log.append(f"read {number}")
            yield (Recorded(log, number),)

    monkeypatch.setattr(stacked_forward, "Batch", lambda tensor: (tensor,))
    copies = copied_ahead(read(), CUDA)
    for number in range(taken):
        next(copies)
        log.append(f"compute {number}")
    copies.close() if taken < 3 else list(copies)
    first = ["read 0", "copy 0", "read 1", "copy 1"]
    then = ["device waits for 0", "hold 0", "compute 0", "host waits for 0", "read 2", "copy 2"]
    then += ["device waits for 1", "hold 1", "compute 1"]
    if taken == 3:
        then += ["host waits for 1", "device waits for 2", "hold 2", "compute 2"]
        then += ["host waits for 2"]
    assert log == [*first, *then, "host waits for all"]
