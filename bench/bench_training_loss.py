"""Output layer and smoothed cross-entropy with gradients on one core: time and memory.

python bench/bench_training_loss.py [--tokens N] [--vocab N] [--width N] [--rounds N] [--quick]
                                    [--json FILE]

The rival is `F.linear` + `F.cross_entropy` + backward, in the same dtype. Processor seconds of one
thread, in turns: the median, and the ratio by rounds. Gradients are compared first. Memory is the
peak beyond what was resident before the call, in a process of its own for each: the inputs were
there, and so was the code, which a small call had read. It is given with the two gradients, which
any way has to make, and without them.
"""

import argparse
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from harness import (
    processor_name,
    ratio,
    resident_mb,
    restart_peak,
    spread,
    time_in_turn,
    torch_multiplies_bfloat16,
)
from pycat.kernels.training_loss import linear_smoothed_cross_entropy

SMOOTHING = 0.1
DTYPES = ("float32", "bfloat16")
Grads = tuple[torch.Tensor, torch.Tensor]


def variants(options: argparse.Namespace, dtype: torch.dtype) -> dict[str, Callable[[], Grads]]:
    """Both ways to the gradients of hidden states (T, D) and of the weight (V, D)."""
    torch.manual_seed(0)
    h = torch.randn(options.tokens, options.width).requires_grad_()
    w = (torch.randn(options.vocab, options.width) / options.width**0.5).requires_grad_()
    targets = torch.randint(0, options.vocab, (options.tokens,))
    token_weights = torch.full((1, options.tokens), 1 / options.tokens)

    def gradients() -> Grads:
        assert h.grad is not None
        assert w.grad is not None
        made = h.grad, w.grad
        h.grad = w.grad = None
        return made

    def ours() -> Grads:
        losses, _ = linear_smoothed_cross_entropy(
            h[None], w[None], targets[None], token_weights, smoothing=SMOOTHING, dtype=dtype
        )
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return gradients()

    def torchs() -> Grads:
        logits = F.linear(h.to(dtype), w.to(dtype))
        F.cross_entropy(logits, targets, label_smoothing=SMOOTHING).backward()  # type: ignore[no-untyped-call]
        return gradients()

    return {"torch": torchs, "pycat": ours}


def peak_mb(options: argparse.Namespace, dtype_name: str, name: str, queue: Any) -> None:
    """Put MiB that one call needs at most into the queue."""
    torch.set_num_threads(1)
    dtype = getattr(torch, dtype_name)
    small = argparse.Namespace(tokens=64, vocab=512, width=options.width)
    variants(small, dtype)[name]()
    work = variants(options, dtype)[name]
    before = resident_mb()
    restart_peak()
    gradients = work()
    queue.put(resident_mb("VmHWM") - before)
    del gradients


def measure(options: argparse.Namespace, dtype_name: str) -> dict[str, Any]:
    dtype = getattr(torch, dtype_name)
    ways = variants(options, dtype)
    theirs, ours = (ways[name]() for name in ("torch", "pycat"))
    allowed = {"float32": 1e-5, "bfloat16": 3e-2}[dtype_name]
    for one, other in zip(ours, theirs, strict=True):
        error = (one - other).norm() / other.norm()
        assert error < allowed, f"{dtype_name}: gradients differ by {error:.2g} of their norm"
    seconds = {name: own[1] for name, own in time_in_turn(ways, options.rounds).items()}
    row: dict[str, Any] = {"dtype": dtype_name, "torch_over_pycat": ratio(*seconds.values())}
    context = multiprocessing.get_context("spawn")
    for name, own in seconds.items():
        queue = context.Queue()
        process = context.Process(target=peak_mb, args=(options, dtype_name, name, queue))
        process.start()
        row[f"{name}_mb"] = round(queue.get(), 1)
        process.join()
        row[f"{name}_ms"] = round(1e3 * spread(own)[1], 1)
    gradients_mb = 4 * options.width * (options.tokens + options.vocab) / 2**20
    for key, own in (("", 0.0), ("_beside_gradients", gradients_mb)):
        both = [row[f"{name}_mb"] - own for name in ("torch", "pycat")]
        row[f"memory{key}_torch_over_pycat"] = round(both[0] / max(both[1], 1e-9), 1)
    row["gradients_mb"] = round(gradients_mb, 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=8000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="Three rounds.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.rounds = 3
    torch.set_num_threads(1)
    rows = []
    for dtype_name in DTYPES:
        if dtype_name == "bfloat16" and not torch_multiplies_bfloat16("cpu"):
            print("left out: bfloat16 (torch lacks the instructions)")
            continue
        rows.append(measure(options, dtype_name))
        print(rows[-1], flush=True)
    result = {
        "bench": "training_loss",
        "tokens": options.tokens,
        "vocab": options.vocab,
        "width": options.width,
        "processor": processor_name(),
        "torch": torch.__version__,
        "rows": rows,
    }
    if options.json is not None:
        options.json.write_text(json.dumps(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
