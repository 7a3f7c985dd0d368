"""Time `pycat.score` against Hugging Face loops, CTranslate2 and the bound of its matrix products.

python bench/bench_scoring.py [--device cpu|cuda] [--preset tiny|base] [--pairs N]
                              [--checkpoints K] [--threads N] [--rounds N] [--quick] [--json FILE]
                              [--only float32|int8|ours]

With --only TYPE, ours against tuned CTranslate2 in that type, and nothing else: minutes less. With
--only ours, the speed of threads and of batch sizes alone.
On CUDA without CTranslate2; scores of the first pairs must then be those of the CPU.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    device_name,
    spread,
    turns,
)
from numpy.typing import NDArray
from proxies import random_proxy, save_ctranslate2, translation_lengths, write_corpus
from scoring_variants import CUDA_PAIRS, DEFAULT_BATCH, ONE_THREAD, OUR_BUDGETS, Bench, relative

from pycat import _core
from pycat.proxy.checkpoint import save_checkpoint
from pycat.proxy.transformer import PRESETS, ModelConfig
from pycat.ranking.criteria import cat_var

VOCAB_SIZES = {"tiny": 8_000, "base": 32_000}
NUM_PAIRS = {
    "cpu": {"tiny": 1000, "base": 192},
    "cuda": {"tiny": 98_304, "base": 32_768},
}
ROUNDS = {"tiny": 3, "base": 2}
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


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    ranks = np.stack([x.argsort().argsort() for x in (a, b)])
    return float(np.corrcoef(*ranks)[0, 1])


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
        "--only",
        choices=("float32", "int8", "ours"),
        help="ours and tuned CTranslate2 in this type, or ours alone: threads and batches",
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
            if device == "cpu" and options.only != "ours":
                save_ctranslate2(model, folder / str(k))
        bench = Bench(folder, config, corpus, checkpoints, options.threads, device, options.only)
        try:
            facts = {"bench": "scoring", "preset": options.preset, "device": device}
            if options.only == "ours":
                result = facts | compare_batches(bench, rounds)
            elif options.only is not None:
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


def fastest_exact_dtype(device: str) -> str:
    """What `pycat.score` takes by itself."""
    if device == "cuda" or _core.cpu_isa().endswith("_bf16"):
        return "bfloat16"
    print(f"left out: pycat bfloat16 (the instruction set {_core.cpu_isa()} lacks it)")
    return "float32"


def compare_batches(bench: Bench, rounds: int) -> dict[str, Any]:
    """Threads and batch sizes of ours, in turns."""
    best = fastest_exact_dtype(bench.device)
    bench.add_batches(best)
    for variant in bench.variants.values():
        variant.ask(bench.pairs, variant.checkpoints)  # warms up
    for _, name in turns(bench.variants, rounds):
        variant = bench.variants[name]
        variant.answers.append(variant.ask(variant.pairs, variant.checkpoints))
    result = batches_and_threads(bench, best)
    print(f"default batch over the best {result['default_over_best_batch']}")
    print(f"{bench.threads} threads over one {result['two_over_one_thread']}")
    return result | {
        "only": "ours",
        "isa": _core.cpu_isa(),
        "best_dtype": best,
        "pairs": bench.pairs,
        "threads": bench.threads,
        "rounds": rounds,
        "machine": device_name("cpu"),
    }


def batches_and_threads(bench: Bench, dtype: str) -> dict[str, Any]:
    """Print what batches of several sizes take, and one thread; return the ratios."""
    sizes = [DEFAULT_BATCH, *(f"{size} tokens" for size in OUR_BUDGETS[bench.device])]
    tried = [*sizes, *([ONE_THREAD] if bench.has_one_thread else [])]
    median_s = {name: float(np.median(bench.variants[name].seconds)) for name in tried}
    print(
        f"\npycat {dtype}, {bench.variants[DEFAULT_BATCH].checkpoints} checkpoints, seconds: "
        + ", ".join(f"{name} {spent:.3f}" for name, spent in median_s.items())
    )
    fastest = min(sizes, key=lambda name: median_s[name])
    return {
        "default_over_best_batch": bench.over(fastest, DEFAULT_BATCH),
        "two_over_one_thread": (
            bench.over(ONE_THREAD, DEFAULT_BATCH) if bench.has_one_thread else None
        ),
        "batch_s": {name: round(median_s[name], 4) for name in sizes},
    }


def run(bench: Bench, config: ModelConfig, rounds: int) -> dict[str, Any]:
    machine = device_name(bench.device)
    best = fastest_exact_dtype(bench.device)
    has_bfloat16 = best == "bfloat16"
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
    ours = scored[f"pycat {best}"].answers
    faults_per_s = float(np.median([answer.faults_per_s for answer in ours]))
    system_share = float(np.median([answer.system_share for answer in ours]))
    batches = batches_and_threads(bench, best)
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
        **batches,
        "peak_mb": None if peak_mb is None else round(peak_mb),
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
