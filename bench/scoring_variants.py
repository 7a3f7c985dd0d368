"""The processes that `bench_scoring.py` compares, what they are asked, and their answers."""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from harness import processor_flags, ratio, torch_multiplies_bfloat16, turns
from numpy.typing import NDArray
from scorers import (
    NAIVE_BATCH,
    Answer,
    CTranslate2,
    HuggingFace,
    Process,
    Product,
    Pycat,
)

from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.proxy.transformer import ModelConfig

# Tokens of a batch, from which each rival gets its best, and which are tried on ours.
BUDGETS = {"cpu": (512, 1024, 2048, 4096), "cuda": (4096, 16_384, 65_536)}
OUR_BUDGETS = {"cpu": (1024, 2048, 8192, 16_384), "cuda": (4096, 8192, 32_768, 65_536)}
SQUARES = {"cpu": (2048, 4096), "cuda": (8192,)}  # sides of the large products
# On CUDA in float32, and for rivals, so many of the pairs are enough; and of those that are held
# against the CPU.
CUDA_PAIRS, CUDA_CPU_PAIRS = 4096, 96
DEFAULT_BATCH, ONE_THREAD = "default batch", "one thread"
TOLERANCE = 1e-4  # relative, of a sentence's nll in float32

# By default glibc gives large blocks back at once, and the arenas of its threads hold none above
# 64 MB: the kernel then takes up to 0.45 of CTranslate2's time (base, int8) to map them again. Nor
# does it choose AVX-512 by itself.
TUNED = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
}


def relative(nll: NDArray[np.float64], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each error over the exact value, of the pairs and checkpoints that both have."""
    pairs, checkpoints = np.minimum(nll.shape, exact.shape)
    ratio = nll[:pairs, :checkpoints] / exact[:pairs, :checkpoints]
    found: NDArray[np.float64] = np.abs(ratio - 1)
    return found


@dataclass
class Variant:
    """One way to score: by which process, how, what share of the pairs, and what it took."""

    process: Process
    options: dict[str, Any]
    pairs: int
    checkpoints: int
    scale: float = 1.0  # from its pairs to all of them, by target tokens
    answers: list[Answer] = field(default_factory=list)

    def ask(self, pairs: int, checkpoints: int) -> Answer:
        return self.process.ask(pairs=pairs, checkpoints=checkpoints, **self.options)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Of each round, for all pairs."""
        return self.scale * np.array([answer.elapsed_s for answer in self.answers])


class Bench:
    """The processes of one run, and what they are asked."""

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        corpus: Corpus,
        checkpoints: int,
        threads: int,
        device: str,
        only: str | None = None,
    ) -> None:
        self.corpus, self.checkpoints, self.threads = corpus, checkpoints, threads
        self.device, self.pairs = device, len(corpus)
        vocab_size = config.vocab_size
        given = folder, checkpoints, vocab_size

        self.ours = Process(Pycat, *given, device, threads=threads)
        self.processes = {"ours": self.ours}
        self.variants: dict[str, Variant] = {}
        if only == "ours":
            self.processes["ours on one"] = Process(Pycat, *given, threads=1)
            return
        if only is not None:
            self._add_ctranslate2(*given)
            return
        self.product = self.processes["product"] = Process(Product, device, threads=threads)
        if device == "cuda":
            # One checkpoint is enough: the loop does the same for each.
            self.hugging_face = Process(
                HuggingFace, folder, 1, vocab_size, device, CUDA_PAIRS, threads=threads
            )
            all_cores = len(os.sched_getaffinity(0))
            self.processes["cpu"] = Process(Pycat, *given, threads=all_cores)
        else:
            self.hugging_face = Process(HuggingFace, *given, threads=threads)
            self.processes["ours on one"] = Process(Pycat, *given, threads=1)
            self.processes["ct2"] = Process(CTranslate2, *given, threads=threads)
            self._add_ctranslate2(*given)
        self.processes["hugging face"] = self.hugging_face
        # Types that torch multiplies in; what it lacks is left out, by name.
        self.torch_dtypes = ["float32"]
        if torch_multiplies_bfloat16(device):
            self.torch_dtypes.append("bfloat16")
        else:
            print("left out: Hugging Face bfloat16 and its floor (torch lacks the instructions)")

    def _add_ctranslate2(self, *given: object) -> None:
        """The tuned process. It has AVX-512 unless it is held to less from outside."""
        is_free = "CT2_FORCE_CPU_ISA" not in os.environ and "avx512f" in processor_flags()
        avx512 = {"CT2_FORCE_CPU_ISA": "AVX512"} if is_free else {}
        self.processes["ct2 tuned"] = Process(
            CTranslate2, *given, threads=self.threads, environment={**TUNED, **avx512}
        )

    def add_tuned(self, dtype: str) -> None:
        """CTranslate2 with the batches and workers that it is fastest with."""
        layouts = [{"workers": n} for n in {1, self.threads}]
        tuned = self.processes["ct2 tuned"]
        options = self.fastest(tuned, dtype, self.pairs, layouts)
        self.add(f"CTranslate2 {dtype} tuned", tuned, **options)

    def add(self, name: str, process: Process, pairs: int | None = None, **options: Any) -> None:
        """A variant that scores all pairs, or the first ones."""
        checkpoints = options.pop("checkpoints", self.checkpoints)
        pairs = min(pairs or self.pairs, self.pairs)
        tokens = self.corpus.num_tokens
        scale = float(tokens.sum() / tokens[:pairs].sum())
        if process is self.processes.get("hugging face"):
            scale *= self.checkpoints / checkpoints
        self.variants[name] = Variant(process, options, pairs, checkpoints, scale)

    def takes(self, dtype: str) -> bool:
        """Whether `pycat.score` multiplies matrices in this type on this processor."""
        try:
            self.ours.ask(pairs=2, checkpoints=2, dtype=dtype)
        except PycatError:
            return False
        return True

    def fastest(
        self, process: Process, dtype: str, pairs: int, layouts: list[dict[str, int]]
    ) -> dict[str, Any]:
        """Batch size and layout that a rival is fastest with, on one checkpoint."""
        tried = []
        for batch_tokens in BUDGETS[self.device]:
            for layout in layouts:
                options = {"dtype": dtype, "batch_tokens": batch_tokens, **layout}
                process.ask(pairs=max(1, pairs // 4), checkpoints=1, **options)  # warms up
                answer = process.ask(pairs=pairs, checkpoints=1, **options)
                tried.append((answer.elapsed_s, options))
        return min(tried, key=lambda pair: pair[0])[1]

    def add_all(self, dtypes: list[str], best: str) -> None:
        """Ours in all types; what is asked of our batches, in the best; the rivals."""
        cuda = self.device == "cuda"
        for dtype in dtypes:
            slow = cuda and dtype == "float32"
            self.add(f"pycat {dtype}", self.ours, CUDA_PAIRS if slow else None, dtype=dtype)
        self.add_batches(best)
        theirs, half = self.hugging_face, self.pairs // 2
        # Whole batches: their padding is what makes this one slow.
        few_batches = NAIVE_BATCH * max(2, round(self.pairs / 12 / NAIVE_BATCH))
        one: dict[str, Any] = {}
        if cuda:
            half, few_batches = min(half, CUDA_PAIRS), min(few_batches, 512)
            one = {"checkpoints": 1}
        self.add(
            "Hugging Face naive", theirs, few_batches, dtype="float32", batch_tokens=None, **one
        )
        for dtype in self.torch_dtypes:
            options = self.fastest(theirs, dtype, half, [{}])
            self.add(f"Hugging Face sorted {dtype}", theirs, half, **options, **one)
        if cuda:
            return
        for dtype in ("float32", "int8"):
            untuned = self.processes["ct2"]
            self.add(f"CTranslate2 {dtype}", untuned, half, dtype=dtype, batch_tokens=None)
            self.add_tuned(dtype)

    def add_batches(self, dtype: str) -> None:
        """Ours on one thread, and in batches of several sizes."""
        cuda = self.device == "cuda"
        few: dict[str, Any] = {"checkpoints": self.checkpoints if cuda else 2, "dtype": dtype}
        some = max(2, self.pairs // 4) if cuda else None
        if self.has_one_thread:
            self.add(ONE_THREAD, self.processes["ours on one"], **few)
        self.add(DEFAULT_BATCH, self.ours, some, **few)
        for batch_tokens in OUR_BUDGETS[self.device]:
            self.add(f"{batch_tokens} tokens", self.ours, some, batch_tokens=batch_tokens, **few)

    @property
    def has_one_thread(self) -> bool:
        """Whether one thread is timed against several."""
        return self.device == "cpu" and self.threads > 1

    def check(self) -> None:
        """Warm up, and refuse to time float32 scores that are not ours; on CUDA, the CPU's."""
        if self.device == "cuda":
            pairs = min(self.pairs, CUDA_CPU_PAIRS)
            options = {"pairs": pairs, "checkpoints": self.checkpoints, "dtype": "float32"}
            exact = self.processes["cpu"].ask(**options).nll
        else:
            pairs = max(2, self.pairs // 8)
            exact = self.variants["pycat float32"].ask(pairs, self.checkpoints).nll
        for name, variant in self.variants.items():
            off = relative(variant.ask(pairs, variant.checkpoints).nll, exact).max()
            dtype = variant.options["dtype"]
            print(f"{name}: the nll of a sentence is at most {off:.1e} off", flush=True)
            if not off <= (TOLERANCE if dtype == "float32" else 0.05):
                sys.exit(f"{name}: the nll of a sentence is {off:.1e} from {dtype}")

    def run(self, rounds: int) -> dict[str, float]:
        """Time all in turn; operations a second of the large products, by type."""
        rates: dict[str, list[float]] = {dtype: [] for dtype in self.torch_dtypes}
        for round_, name in turns(self.variants, rounds):
            if len(rates["float32"]) == round_:  # once a round
                for dtype, found in rates.items():
                    found.append(self.product_rate(dtype))
            variant = self.variants[name]
            # OpenMP's threads spin on for up to 0.2 s: they would hold the next one's cores.
            time.sleep(0.25 if self.device == "cpu" else 0)
            answer = variant.ask(variant.pairs, variant.checkpoints)
            variant.answers.append(answer)
            # What is known should the rest be cut off.
            print(f"round {round_}, {name}: {answer.elapsed_s:.3f} s", flush=True)
        return {dtype: float(np.median(found)) for dtype, found in rates.items()}

    def product_rate(self, dtype: str) -> float:
        """Operations a second of the fastest large product."""
        return max(
            2 * size**3 / self.product.ask(dtype=dtype, size=size).elapsed_s
            for size in SQUARES[self.device] * 3
        )

    def peak_mb(self, dtype: str) -> float:
        """MB that scoring adds to the loaded checkpoints, where nothing was scored before."""
        return self.ours.ask(pairs=self.pairs, checkpoints=self.checkpoints, dtype=dtype).peak_mb

    def over(self, name: str, ours: str) -> float:
        """Their time over ours."""
        return ratio(self.variants[name].seconds, self.variants[ours].seconds)

    def close(self) -> None:
        for process in self.processes.values():
            process.close()
