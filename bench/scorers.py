"""pycat and its rivals as scorers, each in a process of its own and all asked the same way.

A scorer is made of a folder with a corpus and, for each checkpoint k, `<k>.safetensors` and the
CTranslate2 model `<k>`. Its `prepare` is outside the time; what that returns is timed, and gives
the nll (n, k) of the first n pairs under the first k checkpoints, with its time if it has a clock.
The rivals hold the corpus in memory as it suits them, tensors or words; pycat reads its own.
"""

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from harness import resident_mb, restart_peak
from numpy.typing import NDArray
from proxies import EOS_ID, PAD_ID, reopen, to_hugging_face, words
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import pycat
from pycat.proxy.checkpoint import load_model, read_info
from pycat.scoring.adapter import ProxyAdapter

NAIVE_BATCH = 32  # sentences

Nll = NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """Of one scoring: its nll, its time, and what the process took for it.

    `peak_mb` is the most memory resident above what was before; `system_share` the share of the
    processor's time that was spent in the kernel, page faults among it.
    """

    nll: Nll
    elapsed_s: float
    faults_per_s: float
    system_share: float
    peak_mb: float


class Process:
    """A scorer in a new process on so many cores, with variables added to its environment."""

    def __init__(
        self,
        scorer: Callable[..., Any],
        *arguments: object,
        threads: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        added = {"OMP_NUM_THREADS": str(threads), **(environment or {})}
        before = {name: os.environ.get(name) for name in added}
        os.environ.update(added)
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=partial(_begin, scorer, threads, *arguments),
        )
        # Begins it, now that the environment is set.
        self._begun = self._pool.submit(os.getpid)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

    def ask(self, **options: Any) -> Answer:
        self._begun.result()
        return self._pool.submit(_answer, options).result()

    def close(self) -> None:
        self._pool.shutdown()


_scorer: Any


def _begin(scorer: Callable[..., Any], threads: int, *arguments: object) -> None:
    global _scorer
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    _scorer = scorer(*arguments)


def _answer(options: dict[str, Any]) -> Answer:
    work = _scorer.prepare(**options)
    restart_peak()
    resident = resident_mb()
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    found = work()
    nll, elapsed_s = found if isinstance(found, tuple) else (found, time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF)
    system_s = after.ru_stime - before.ru_stime
    cpu_s = system_s + after.ru_utime - before.ru_utime
    return Answer(
        nll,
        elapsed_s,
        faults_per_s=(after.ru_minflt - before.ru_minflt) / elapsed_s,
        system_share=system_s / cpu_s if cpu_s else 0.0,
        peak_mb=max(0.0, resident_mb("VmHWM") - resident),
    )


class Pycat:
    """`pycat.score` with checkpoints in memory; what it makes of them is in the time.

    Its own clock counts: the float32 sample behind a reduced precision's rank agreement, 2 % of a
    large corpus, would be a fifth of this one.
    """

    def __init__(
        self, folder: Path, num_checkpoints: int, vocab_size: int, device: str = "cpu"
    ) -> None:
        self._corpus, self._device = reopen(folder, vocab_size), device
        _ = self._corpus.id  # hashed once
        paths = [folder / f"{k}.safetensors" for k in range(num_checkpoints)]
        self._adapters = [ProxyAdapter(read_info(path), EOS_ID) for path in paths]

    def prepare(
        self, *, pairs: int, checkpoints: int, profiled: bool = False, **options: Any
    ) -> Callable[[], tuple[Nll, float]]:
        """Profiled, it prints where the time of the GPU goes; and takes longer."""
        corpus = self._corpus[:pairs]
        _ = corpus.id
        models = self._adapters[:checkpoints]

        def work() -> tuple[Nll, float]:
            table = pycat.score(corpus, models, device=self._device, **options)
            total = checkpoints * int(table.num_tokens.sum())
            return table.nll, total / table.manifest["tokens_per_s"]

        return partial(_profiled, work) if profiled else work


def _profiled(work: Callable[[], tuple[Nll, float]]) -> tuple[Nll, float]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        found = work()
    kernels = [row for row in profile.key_averages() if row.self_device_time_total > 0]
    kernels.sort(key=lambda row: -row.self_device_time_total)
    busy_s = sum(row.self_device_time_total for row in kernels) / 1e6
    for row in kernels[:25]:
        kernel_s = row.self_device_time_total / 1e6
        share = kernel_s / busy_s
        print(f"{share:6.1%} {1e3 * kernel_s:10.2f} ms {row.count:7} {row.key[:90]}")
    print(f"the GPU is busy for {busy_s:.3f} s; scoring takes {found[1]:.3f} s", flush=True)
    return found


class HuggingFace:
    """M2M-100 with the same weights: in the order of the corpus, or sorted under a token budget."""

    def __init__(
        self,
        folder: Path,
        num_checkpoints: int,
        vocab_size: int,
        device: str = "cpu",
        max_pairs: int | None = None,
    ) -> None:
        corpus = reopen(folder, vocab_size)[:max_pairs]
        self._device = torch.device(device)
        pairs = [corpus[row] for row in range(len(corpus))]
        self._src, self._tgt = (
            [torch.from_numpy(pair[side].astype(np.int64)) for pair in pairs] for side in (0, 1)
        )
        self._lengths = np.array([[len(side) for side in pair] for pair in pairs])
        infos = [read_info(folder / f"{k}.safetensors") for k in range(num_checkpoints)]
        models = [to_hugging_face(load_model(info, torch.device("cpu"))) for info in infos]
        self._models = {"float32": [model.to(self._device) for model in models]}

    def prepare(
        self, *, pairs: int, checkpoints: int, dtype: str, batch_tokens: int | None
    ) -> Callable[[], Nll]:
        """Without a budget: batches of NAIVE_BATCH sentences as they come."""
        if dtype not in self._models:
            self._models[dtype] = [_cast(model, dtype) for model in self._models["float32"]]
        models = self._models[dtype][:checkpoints]
        return partial(self._score, models, pairs, batch_tokens)

    @torch.inference_mode()
    def _score(self, models: Sequence[Any], pairs: int, batch_tokens: int | None) -> Nll:
        nll = np.empty((pairs, len(models)))
        for k, model in enumerate(models):
            batches = self._batches(pairs, batch_tokens)
            # Fetched at the end: on CUDA nothing waits for a batch.
            found = [self._nll(model, rows) for rows in batches]
            nll[np.concatenate(batches), k] = torch.cat(found).cpu().numpy()
        return nll

    def _batches(self, pairs: int, batch_tokens: int | None) -> list[NDArray[np.int64]]:
        if batch_tokens is None:
            return np.split(np.arange(pairs), range(NAIVE_BATCH, pairs, NAIVE_BATCH))
        lengths = self._lengths[:pairs]
        order = np.lexsort((lengths[:, 0], lengths[:, 1]))
        cuts, first, longest = [], 0, 0
        for i, row in enumerate(order):
            longest = max(longest, int(lengths[row].max()))
            if longest * (i + 1 - first) > batch_tokens and i > first:
                cuts.append(i)
                first, longest = i, int(lengths[row].max())
        return np.split(order, cuts)

    def _nll(self, model: Any, rows: NDArray[np.int64]) -> Tensor:
        src, tgt = (
            pad_sequence([side[row] for row in rows], True, PAD_ID).to(self._device)
            for side in (self._src, self._tgt)
        )
        tgt_in = F.pad(tgt[:, :-1], (1, 0), value=EOS_ID)
        mask = src != PAD_ID
        logits = model(
            input_ids=src, attention_mask=mask, decoder_input_ids=tgt_in, use_cache=False
        ).logits
        # In float32: a sum of bfloat16 exponentials says little.
        tokens = F.cross_entropy(
            logits.float().flatten(0, 1), tgt.flatten(), reduction="none", ignore_index=PAD_ID
        )
        return tokens.view(tgt.shape).double().sum(1)


def _cast(model: Any, dtype: str) -> Any:
    theirs = type(model)(model.config).eval()
    theirs.load_state_dict(model.state_dict())
    for side in ("encoder", "decoder"):
        mine = getattr(model.model, side).embed_positions.weights
        getattr(theirs.model, side).embed_positions.weights = mine.clone()
    return theirs.to(model.device, getattr(torch, dtype))


class CTranslate2:
    """`Translator.score_batch` under a token budget, or `score_iterable` as it comes."""

    def __init__(self, folder: Path, num_checkpoints: int, vocab_size: int) -> None:
        import ctranslate2  # other scorers do not need it

        self._translator_class = ctranslate2.Translator
        self._src, self._tgt = words(reopen(folder, vocab_size))
        self._paths = [folder / str(k) for k in range(num_checkpoints)]
        self._translators: dict[tuple[str, int], tuple[int, Any]] = {}

    def prepare(
        self,
        *,
        pairs: int,
        checkpoints: int,
        dtype: str,
        batch_tokens: int | None,
        workers: int = 1,
    ) -> Callable[[], Nll]:
        """So many workers share the threads."""
        models = [self._translator(k, dtype, workers) for k in range(checkpoints)]
        src, tgt = self._src[:pairs], self._tgt[:pairs]

        def score() -> Nll:
            found = []
            for model in models:
                if batch_tokens is None:
                    results = model.score_iterable(src, tgt)
                else:
                    results = model.score_batch(
                        src, tgt, max_batch_size=batch_tokens, batch_type="tokens"
                    )
                found.append([-sum(result.log_probs) for result in results])
            return np.array(found).T

        return score

    def _translator(self, k: int, dtype: str, workers: int) -> Any:
        known = self._translators.get((dtype, k))
        if known is None or known[0] != workers:
            known = (
                workers,
                self._translator_class(
                    str(self._paths[k]),
                    compute_type=dtype,
                    inter_threads=workers,
                    intra_threads=torch.get_num_threads() // workers,
                ),
            )
            self._translators[dtype, k] = known
        return known[1]


class Product:
    """No scorer but its bound: torch's product of two large square matrices."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = device

    def prepare(self, *, dtype: str, size: int) -> Callable[[], Nll | tuple[Nll, float]]:
        a = torch.randn(size, size, device=self._device).to(getattr(torch, dtype))
        out = torch.mm(a, a)

        def multiply() -> Nll | tuple[Nll, float]:
            if self._device == "cuda":
                return np.empty((0, 0)), _event_seconds(lambda: torch.mm(a, a, out=out))
            torch.mm(a, a, out=out)
            return np.empty((0, 0))

        return multiply


def _event_seconds(call: Callable[[], object], num_calls: int = 10) -> float:
    """Seconds of a call, by the clock of the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(num_calls):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / num_calls / 1e3
