"""Rate of training M stacked proxies: target tokens a second, and the share of the product rate.

python bench/bench_training.py [--device cuda|cpu] [--preset NAME] [--models 1 4 16]
                               [--dtype NAME] [--threads N] [--quick] [--json FILE]

Every model reads batches of its own of random tokens, of sentence lengths as of translation. FLOPs:
`scoring.flops.model_flops` of the forward pass, three times (backward is twice forward). The rivals
on a CPU, timed in turn, are plain loops over a Hugging Face MarianMTModel and over a model of
JoeyNMT, each of the same shape and where it is installed, with batches of sentences of like lengths
(`training_rivals.py`). One thread is timed in processor time.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from harness import device_name, torch_multiplies_bfloat16
from proxies import translation_lengths
from training_rivals import MarianLoop, installed_loops

from pycat.data.batches import Batch
from pycat.proxy.flops import proxy_products
from pycat.proxy.packing import cut_batches
from pycat.proxy.stacked_step import Capacity, StackedStep
from pycat.proxy.stacked_transformer import StackedTransformer
from pycat.proxy.transformer import PRESETS, ModelConfig, Transformer
from pycat.scoring.flops import product_rate

VOCAB_SIZE = 8000
EOS = 2
BATCH_PAIRS = 170
ROUND_S = 1.5


def make_batches(count: int, batch_tokens: int, seed: int) -> list[Batch]:
    generator = np.random.default_rng(seed)
    src, tgt = translation_lengths(count * batch_tokens // 20, seed=seed)
    batches, first = [], 0
    for end in cut_batches(src, tgt, batch_tokens, BATCH_PAIRS)[:count]:
        sides: list[torch.Tensor] = []
        for lengths in (src[first:end], tgt[first:end]):
            tokens = generator.integers(3, VOCAB_SIZE, lengths.sum())
            ends = np.concatenate(([0], np.cumsum(lengths)))
            tokens[ends[1:] - 1] = EOS
            sides += [torch.from_numpy(tokens), torch.from_numpy(ends.astype(np.int32))]
        batches.append(Batch._make([*sides, torch.arange(end - first)]))
        first = end
    return batches


def clock(device: str) -> float:
    """Seconds: of the processor for one thread on it, else on the wall."""
    if device == "cpu" and torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def measure(
    num_models: int,
    config: ModelConfig,
    dtype: torch.dtype,
    device: str,
    batch_tokens: int,
    rivals: Sequence[MarianLoop],
) -> dict[str, Any]:
    torch.manual_seed(0)
    models = [Transformer(config).to(device) for _ in range(num_models)]
    batches = [make_batches(8, batch_tokens, seed) for seed in range(num_models)]
    everything = [batch for own in batches for batch in own]
    longest = max(
        int(ends.diff().max())
        for batch in everything
        for ends in (batch.src_cu_seqlens, batch.tgt_cu_seqlens)
    )
    step = StackedStep(
        StackedTransformer(models, dropout=0.1),
        eos_id=EOS,
        label_smoothing=0.1,
        dtype=dtype,
        capacity=Capacity(batch_tokens, batch_tokens, BATCH_PAIRS, longest),
    )

    def run(updates: int) -> None:
        for i in range(updates):
            step.update([own[i % len(own)] for own in batches], 1e-3)
        step.loss_sums.sum().item()  # waits for the device

    def timed(work: Callable[[], None]) -> float:
        started = clock(device)
        work()
        return clock(device) - started

    run(2)
    # Whole rounds of the batches on a CPU, so that the rivals read as many tokens.
    updates = 8 if rivals else max(2, round(ROUND_S / 3 / (timed(lambda: run(2)) / 2)))
    times: list[float] = []
    rival_times: dict[str, list[float]] = {rival.name: [] for rival in rivals}
    for _ in range(3):
        times.append(timed(lambda: run(updates)) / updates)
        for rival in rivals:
            rival_times[rival.name].append(timed(rival.run) / updates)
    seconds = median(times)
    tokens = sum(len(batch.tgt_tokens) for batch in everything) / len(batches[0])
    flops = 0.0
    for batch in everything:
        lengths = [
            ends.diff().numpy().astype(float)
            for ends in (batch.src_cu_seqlens, batch.tgt_cu_seqlens)
        ]
        flops += 6 * proxy_products(config, lengths[0], lengths[1]) / len(batches[0])
    return {
        "models": num_models,
        "update_ms": round(1e3 * seconds, 3),
        "tokens_per_s": round(tokens / seconds),
        "tflops": round(flops / seconds / 1e12, 3),
        "finite": bool(step.loss_sums.isfinite().all()),
        **{
            key: value
            for name, own in rival_times.items()
            for key, value in (
                (f"{name}_update_ms", round(1e3 * median(own), 3)),
                (
                    f"over_{name}",
                    round(median(b / a for a, b in zip(times, own, strict=True)), 2),
                ),
            )
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    has_cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if has_cuda else "cpu")
    parser.add_argument("--preset", choices=sorted(PRESETS))
    parser.add_argument("--models", type=int, nargs="+")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--quick", action="store_true", help="a small model alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    on_cpu = options.device == "cpu"
    if on_cpu:
        torch.set_num_threads(options.threads)
    if options.preset is None:
        options.preset = "mini" if on_cpu or options.quick else "tiny"
    if options.models is None:
        options.models = [1] if on_cpu or options.quick else [1, 4, 16]
    if options.dtype is None:
        options.dtype = "float32" if on_cpu else "bfloat16"
    if on_cpu and options.dtype == "bfloat16" and not torch_multiplies_bfloat16("cpu"):
        print("bfloat16: skipped, this processor has no products of it; float32 instead")
        options.dtype = "float32"
    dtype = getattr(torch, options.dtype)
    config = ModelConfig(VOCAB_SIZE, **PRESETS[options.preset])
    rate = product_rate(torch.device(options.device), dtype)
    print(f"{options.preset}, {options.batch_tokens} tokens a batch, {dtype}; ", end="")
    print(f"large products: {rate / 1e12:.1f} TFLOP/s")
    rows = []
    for num_models in options.models:
        rivals = []
        if on_cpu and num_models == 1:
            batches = make_batches(8, options.batch_tokens, 0)
            arguments = config, dtype, batches, options.batch_tokens, EOS
            rivals = [loop(*arguments) for loop in installed_loops()]
            for rival in rivals:
                rival.run()
        row = measure(num_models, config, dtype, options.device, options.batch_tokens, rivals)
        row["share_of_rate"] = round(row["tflops"] * 1e12 / rate, 4)
        rows.append(row)
        print(row, flush=True)
    result = {
        "bench": "training",
        "preset": options.preset,
        "dtype": options.dtype,
        "threads": options.threads if on_cpu else None,
        "device": device_name(options.device),
        "torch": torch.__version__,
        "product_tflops": round(rate / 1e12, 1),
        "rows": rows,
        "stacked_over_one": round(rows[-1]["tokens_per_s"] / rows[0]["tokens_per_s"], 2),
        "headlines": [
            f"{row['models']:2} x {options.preset}: {row['tokens_per_s']:,} target tokens/s, "
            f"{row['share_of_rate']:.1%} of the product rate"
            for row in rows
        ],
    }
    if options.json is not None:
        options.json.write_text(json.dumps(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
