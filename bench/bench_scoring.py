"""Time `pycat.score` against Hugging Face loops, CTranslate2 and the bound of its matrix products.

python bench/bench_scoring.py [--device cpu|cuda] [--preset tiny|base] [--pairs N]
                              [--checkpoints K] [--threads N] [--rounds N] [--quick] [--json FILE]
                              [--only float32|int8]

With --only, ours against tuned CTranslate2 in that type, and nothing else: minutes less.
On CUDA without CTranslate2; scores of the first pairs must then be those of the CPU.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    device_name,
    processor_flags,
    ratio,
    spread,
    torch_multiplies_bfloat16,
    turns,
)
from numpy.typing import NDArray
from proxies import random_proxy, save_ctranslate2, translation_lengths, write_corpus
from scorers import (
    NAIVE_BATCH,
    Answer,
    CTranslate2,
    HuggingFace,
    Process,
    Product,
    Pycat,
)

from pycat import _core
from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.proxy.checkpoint import save_checkpoint
from pycat.proxy.transformer import PRESETS, ModelConfig
from pycat.ranking.criteria import cat_var

VOCAB_SIZES = {"tiny": 8_000, "base": 32_000}
NUM_PAIRS = {
    "cpu": {"tiny": 1000, "base": 192},
    "cuda": {"tiny": 98_304, "base": 32_768},
}
ROUNDS = {"tiny": 3, "base": 2}
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

# Keys of the result.
RIVALS = {
    "hf_naive": "Hugging Face naive",
    "hf_sorted": "Hugging Face sorted float32",
    "hf_sorted_bf16": "Hugging Face sorted bfloat16",
    "ct2_float32": "CTranslate2 float32 tuned",
    "ct2_int8": "CTranslate2 int8 tuned",
    "ct2_float32_untuned": "CTranslate2 float32",
    "ct2_int8_untuned": "CTranslate2 int8",
}


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


def forward_flops(config: ModelConfig, src: NDArray[Any], tgt: NDArray[Any]) -> float:
    """Operations in the matrix products of one forward pass over pairs of these lengths.

    Two for each multiplication. A causal position sees only what is before it, and itself.
    """
    d, layers = config.d_model, config.num_layers
    s, t = src.astype(np.float64), tgt.astype(np.float64)
    feed_forward = 2 * d * config.d_ff
    encoder = (4 * d * d + feed_forward) * s + 2 * d * s * s
    decoder = (6 * d * d + feed_forward) * t + 2 * d * d * s + d * t * (t + 1) + 2 * d * s * t
    return float(2 * (layers * (encoder + decoder) + d * config.vocab_size * t).sum())


def relative(nll: NDArray[np.float64], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each error over the exact value, of the pairs and checkpoints that both have."""
    pairs, checkpoints = np.minimum(nll.shape, exact.shape)
    ratio = nll[:pairs, :checkpoints] / exact[:pairs, :checkpoints]
    found: NDArray[np.float64] = np.abs(ratio - 1)
    return found


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    ranks = np.stack([x.argsort().argsort() for x in (a, b)])
    return float(np.corrcoef(*ranks)[0, 1])


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
        self.product = Process(Product, device, threads=threads)
        self.processes = {"ours": self.ours, "product": self.product}
        self.variants: dict[str, Variant] = {}
        if only is not None:
            self._add_ctranslate2(*given)
            return
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
        """Whether `pycat.score` computes in this type."""
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
        few: dict[str, Any] = {"checkpoints": self.checkpoints if cuda else 2, "dtype": best}
        some = max(2, self.pairs // 4) if cuda else None
        if self.has_one_thread:
            self.add(ONE_THREAD, self.processes["ours on one"], **few)
        self.add(DEFAULT_BATCH, self.ours, some, **few)
        for batch_tokens in OUR_BUDGETS[self.device]:
            self.add(f"{batch_tokens} tokens", self.ours, some, batch_tokens=batch_tokens, **few)
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
        """Memory that scoring adds to a process with its checkpoints loaded, if asked first."""
        return self.ours.ask(pairs=self.pairs, checkpoints=self.checkpoints, dtype=dtype).peak_mb

    def over(self, name: str, ours: str) -> float:
        """Their time over ours."""
        return ratio(self.variants[name].seconds, self.variants[ours].seconds)

    def close(self) -> None:
        for process in self.processes.values():
            process.close()


def describe(options: dict[str, Any]) -> str:
    workers = f", {options['workers']} workers" if options.get("workers", 1) > 1 else ""
    return f"{options['batch_tokens']} tokens{workers}" if options.get("batch_tokens") else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--preset", choices=tuple(VOCAB_SIZES), default="tiny")
    parser.add_argument("--pairs", type=int, help="by default 1000 (tiny), 192 (base)")
    parser.add_argument("--checkpoints", type=int, help="5 by default, at least 2")
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--json", type=Path, help="the result, as on the last line")
    parser.add_argument("--rounds", type=int, help="3 (tiny) or 2 (base) by default")
    parser.add_argument(
        "--only", choices=("float32", "int8"), help="ours and tuned CTranslate2 in this type"
    )
    parser.add_argument("--quick", action="store_true", help="2 checkpoints, few pairs, 2 rounds")
    options = parser.parse_args()
    if (options.checkpoints or 2) < 2 or (options.pairs or 2) < 2:
        parser.error("expected at least 2 pairs and 2 checkpoints")
    device = options.device
    if options.only is not None and device == "cuda":
        parser.error("--only compares with CTranslate2, which is timed on the CPU")
    pairs = options.pairs or NUM_PAIRS[device][options.preset] // (10 if options.quick else 1)
    checkpoints = options.checkpoints or (2 if options.quick else 5)
    rounds = options.rounds or (2 if options.quick else ROUNDS[options.preset])
    config = ModelConfig(VOCAB_SIZES[options.preset], **PRESETS[options.preset])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = write_corpus(folder, translation_lengths(pairs), config.vocab_size)
        for k in range(checkpoints):
            model = random_proxy(config, seed=k, learned=(k + 1) / checkpoints)
            path = folder / f"{k}.safetensors"
            save_checkpoint(path, model, step=k + 1, tokenizer_sha256="none")
            if device == "cpu":
                save_ctranslate2(model, folder / str(k))
        bench = Bench(folder, config, corpus, checkpoints, options.threads, device, options.only)
        try:
            facts = {"bench": "scoring", "preset": options.preset, "device": device}
            if options.only is not None:
                result = facts | compare(bench, options.only, rounds)
            else:
                result = facts | run(bench, config, rounds)
            if options.json is not None:
                options.json.write_text(json.dumps(result))
            if device == "cuda":
                # Last, and for the log alone. The float32 sample behind the rank agreement is in.
                some = {"pairs": min(pairs, CUDA_PAIRS), "checkpoints": checkpoints}
                bench.ours.ask(**some, dtype="bfloat16", profiled=True)
            print(json.dumps(result))
        finally:
            bench.close()


def compare(bench: Bench, dtype: str, rounds: int) -> dict[str, Any]:
    """Ours against tuned CTranslate2 in one type, in turns."""
    pairs, checkpoints = bench.pairs, bench.checkpoints
    exact = bench.ours.ask(pairs=pairs, checkpoints=checkpoints, dtype="float32").nll
    ours, theirs = f"pycat {dtype}", f"CTranslate2 {dtype} tuned"
    bench.add(ours, bench.ours, dtype=dtype)
    bench.add_tuned(dtype)
    for variant in bench.variants.values():
        variant.ask(max(2, pairs // 8), checkpoints)  # warms up
    for _, name in turns(bench.variants, rounds):
        variant = bench.variants[name]
        time.sleep(0.25)
        variant.answers.append(variant.ask(pairs, checkpoints))
    isa = _core.cpu_isa()
    tokens = checkpoints * int(bench.corpus.num_tokens.sum())
    print(
        f"{device_name('cpu')}, {bench.threads} threads, {isa}; {pairs:,} pairs, {checkpoints} "
        f"checkpoints, {tokens:,} target tokens in all; medians of {rounds} rounds\n"
        f"{'':30}{'seconds':>9}{'p10':>8}{'p90':>8}{'tokens/s':>10}{'mean off':>10}{'max off':>9}"
    )
    result: dict[str, Any] = {"only": dtype, "isa": isa, "pairs": pairs, "threads": bench.threads}
    for key, name in (("pycat", ours), ("ct2", theirs)):
        variant = bench.variants[name]
        p10, median, p90 = spread(variant.seconds)
        off = relative(variant.answers[0].nll, exact)
        print(
            f"{name:30}{median:9.3f}{p10:8.3f}{p90:8.3f}{tokens / median:10,.0f}{off.mean():10.1e}"
            f"{off.max():9.1e}  {describe(variant.options)}"
        )
        result[f"{key}_s"], result[f"{key}_mean_off"] = round(median, 4), float(off.mean())
    return result | {
        "over_ct2": bench.over(theirs, ours),
        "checkpoints": checkpoints,
        "rounds": rounds,
        "machine": device_name("cpu"),
        "versions": {name: version(name) for name in ("pycat-nmt", "torch", "ctranslate2")},
    }


def run(bench: Bench, config: ModelConfig, rounds: int) -> dict[str, Any]:
    machine = device_name(bench.device)
    has_bfloat16 = bench.device == "cuda" or _core.cpu_isa().endswith("_bf16")
    if not has_bfloat16:
        print(f"left out: pycat bfloat16 (the instruction set {_core.cpu_isa()} lacks it)")
    best = "bfloat16" if has_bfloat16 else "float32"
    peak_mb = bench.peak_mb(best) if bench.device == "cpu" else None
    has_int8 = bench.device == "cpu" and bench.takes("int8")
    dtypes = ["float32", *(["bfloat16"] if has_bfloat16 else []), *(["int8"] if has_int8 else [])]
    bench.add_all(dtypes, best)
    bench.check()
    rates = bench.run(rounds)

    flops = bench.checkpoints * forward_flops(config, *bench.corpus.lengths)
    floor_s = {dtype: flops / rate for dtype, rate in rates.items()}
    tokens = bench.checkpoints * int(bench.corpus.num_tokens.sum())
    scored = {
        name: variant
        for name, variant in bench.variants.items()
        if name.startswith(("pycat", "Hugging Face", "CTranslate2"))
    }
    median_s = {name: float(np.median(variant.seconds)) for name, variant in bench.variants.items()}
    print(
        f"{machine}, {bench.threads} threads; d={config.d_model}, {config.num_layers} layers, "
        f"V={config.vocab_size:,}; {bench.pairs:,} pairs, {bench.checkpoints} checkpoints, "
        f"{tokens:,} target tokens in all; medians of {rounds} rounds\n"
        "large products at "
        + ", ".join(f"{rate / 1e9:.0f} GFLOP/s ({dtype})" for dtype, rate in rates.items())
        + f"; the forward's are {flops / 1e9:.0f} GFLOP\n"
        f"{'':30}{'seconds':>9}{'p10':>8}{'p90':>8}{'tokens/s':>10}{'x naive':>9}"
        + "".join(f"{f'of {dtype}':>12}" for dtype in rates)
        + f"{'mean off':>10}{'max off':>9}"
    )
    exact = scored["pycat float32"].answers[0].nll
    rivals = {key: name for key, name in RIVALS.items() if name in scored}
    for name, variant in scored.items():
        p10, _, p90 = spread(variant.seconds)
        off = relative(variant.answers[0].nll, exact)
        print(
            f"{name:30}{median_s[name]:9.3f}{p10:8.3f}{p90:8.3f}{tokens / median_s[name]:10,.0f}"
            f"{bench.over('Hugging Face naive', name):9.2f}"
            + "".join(f"{seconds / median_s[name]:12.3f}" for seconds in floor_s.values())
            + f"{off.mean():10.1e}{off.max():9.1e}  {describe(variant.options)}"
        )
    budgets = OUR_BUDGETS[bench.device]
    tried = [DEFAULT_BATCH, *(f"{batch_tokens} tokens" for batch_tokens in budgets)]
    fastest = min(tried, key=lambda name: median_s[name])
    ours = scored[f"pycat {best}"].answers
    faults_per_s = float(np.median([answer.faults_per_s for answer in ours]))
    system_share = float(np.median([answer.system_share for answer in ours]))
    others = [*tried, *([ONE_THREAD] if bench.has_one_thread else [])]
    of_batches = bench.variants[DEFAULT_BATCH].checkpoints
    print(
        f"\npycat {best}, {of_batches} checkpoints, seconds: "
        + ", ".join(f"{name} {median_s[name]:.3f}" for name in others)
    )
    if peak_mb is not None:
        print(
            f"pycat {best} adds {peak_mb:.0f} MB to a process; {faults_per_s:,.0f} page faults a "
            f"second, {100 * system_share:.1f} % of the processor's time in the kernel"
        )
    some = min(bench.variants[f"pycat {dtype}"].pairs for dtype in dtypes)
    lengths = bench.corpus.num_tokens[:some, None]
    var = {
        dtype: cat_var(np.exp(scored[f"pycat {dtype}"].answers[0].nll[:some] / lengths))
        for dtype in dtypes
    }
    result: dict[str, Any] = {
        "pairs": bench.pairs,
        "checkpoints": bench.checkpoints,
        "threads": bench.threads,
        "rounds": rounds,
        "best_dtype": best,
    }
    for prefix, dtype in (("", best), ("float32_", "float32"), ("int8_", "int8")):
        if dtype in dtypes:
            for key, name in rivals.items():
                result[f"{prefix}over_{key}"] = bench.over(name, f"pycat {dtype}")
    over_floor = {
        # A reduced precision is held against the bound of bfloat16, where torch has it.
        dtype: round(
            floor_s["float32" if dtype == "float32" else bench.torch_dtypes[-1]]
            / median_s[f"pycat {dtype}"],
            3,
        )
        for dtype in dtypes
    }
    tokens_per_s = {dtype: round(tokens / median_s[f"pycat {dtype}"]) for dtype in dtypes}
    headlines = []
    for dtype in dtypes:
        theirs = ", ".join(
            f"{over} x in {other}"
            for other in bench.torch_dtypes
            for over in [bench.over(f"Hugging Face sorted {other}", f"pycat {dtype}")]
        )
        headlines.append(
            f"{dtype}: {tokens_per_s[dtype]:,} tokens x checkpoints/s, {over_floor[dtype]} of the "
            f"large product's rate; sorted Hugging Face takes {theirs}"
        )
    return result | {
        "headlines": headlines,
        "over_floor": over_floor,
        **{
            f"spearman_{short}": round(spearman(var["float32"], var[dtype]), 6)
            for short, dtype in (("bf16", "bfloat16"), ("int8", "int8"))
            if dtype in dtypes
        },
        "default_over_best_batch": bench.over(fastest, DEFAULT_BATCH),
        "two_over_one_thread": (
            bench.over(ONE_THREAD, DEFAULT_BATCH) if bench.has_one_thread else None
        ),
        "peak_mb": None if peak_mb is None else round(peak_mb),
        "batch_s": {name: round(median_s[name], 4) for name in tried},
        "tflop_per_s": {dtype: round(rate / 1e12, 2) for dtype, rate in rates.items()},
        "tokens_per_s": tokens_per_s,
        "faults_per_s": round(faults_per_s),
        "system_share": round(system_share, 4),
        "machine": machine,
        "versions": {"python": platform.python_version()}
        | {
            name: version(name)
            for name in ("pycat-nmt", "torch", "transformers", "numpy")
            + (("ctranslate2",) if bench.device == "cpu" else ("triton",))
        },
    }


if __name__ == "__main__":
    main()
