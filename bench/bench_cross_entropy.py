"""Time the fused cross-entropy kernels against the bare matrix product and against its rivals.

python bench/bench_cross_entropy.py [--device cpu|cuda] [--quick] [--threads N] [--rounds N]
"""

import argparse
import importlib
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycat.kernels import ops, reference
from torch import Tensor

from pycat import _core

VOCAB_SIZES = (8_000, 32_000, 32_001, 128_000)
WIDTHS = (256, 512, 1024, 2048)
DTYPES = (torch.float32, torch.bfloat16)
SENTENCE_TOKENS = 32
# A rival may round its logits to the inputs' type: 8 bits of a logit of 8 are 0.03.
RIVAL_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
MEGA = 1 << 20

BOUNDS = ("product", "product_in_place", "read")

Variant = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """K checkpoints, T tokens, H wide, V vocabulary; H is 0 for the function from logits."""

    function: str
    dtype: torch.dtype
    k: int
    t: int
    h: int
    v: int


def cases(device: str, quick: bool) -> Iterator[Case]:
    # So many products, or logits, at most, where T can be lowered: a round then takes seconds.
    most = 50e9 if device == "cpu" else 4e12
    most_logits = 1e8 if device == "cpu" else 1e9
    for dtype in DTYPES:
        for k, h, v in sizes(quick):
            t = int(min(4096, max(256, most / (k * h * v))))
            yield Case("linear", dtype, k, t // 256 * 256, h, v)
        for k in (1,) if quick else (1, 5):
            for v in (8_000, 32_000) if quick else VOCAB_SIZES:
                t = int(min(4096, max(128, most_logits / (k * v))))
                yield Case("logits", dtype, k, t // 128 * 128, 0, v)


def sizes(quick: bool) -> list[tuple[int, int, int]]:
    if quick:
        return [(1, 512, 32_000), (1, 256, 8_000)]
    return [(k, h, v) for k in (1, 5) for v in VOCAB_SIZES for h in WIDTHS]


def compiled_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def compiled_linear(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), targets, reduction="none")


def installed(**functions: tuple[str, str]) -> Iterator[tuple[str, Callable[..., Tensor]]]:
    """Functions (module, name) of packages that may not be installed."""
    for label, (module, name) in functions.items():
        try:
            yield label, getattr(importlib.import_module(module), name)
        except ImportError:
            continue


def rival_from_logits(loss: Callable[..., Tensor], z: Tensor, y: Tensor, k: int) -> Tensor:
    # A copy: Liger writes the gradient over its input.
    return loss(z[k].clone(), y, reduction="none")


def rival_from_hidden(
    loss: Callable[..., Tensor], h: Tensor, w: Tensor, rest: tuple[Tensor | None, ...], k: int
) -> Tensor:
    return loss(h[k], w[k], *rest, reduction="none")


class Inputs:
    """Logits of standard deviation 2, targets uniform."""

    def __init__(self, case: Case, device: str, with_compile: bool) -> None:
        generator = torch.Generator(device).manual_seed(0)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            made = torch.empty(shape, dtype=case.dtype, device=device)
            for part in made:  # one float32 copy at a time
                part.copy_(torch.randn(shape[1:], generator=generator, device=device) * scale)
            return made

        self.case = case
        self.device = device
        self.with_compile = with_compile
        self.targets = torch.randint(case.v, (case.t,), generator=generator, device=device)
        steps = range(0, case.t + 1, SENTENCE_TOKENS)
        self.cu_seqlens = torch.tensor(steps, dtype=torch.int32, device=device)
        if case.h:
            self.hidden = normal(case.k, case.t, case.h)
            self.weight = normal(case.k, case.v, case.h, scale=2 / case.h**0.5)
        else:
            self.logits = normal(case.k, case.t, case.v, scale=2.0)

    def heads(self, one: Callable[[int], Tensor]) -> Variant:
        """A rival that knows no checkpoints, once for each; the last result stands for all."""
        return lambda: [one(k) for k in range(self.case.k)][-1]

    def ours(self, stats: str = "nll", packed: ops.PackedWeight | None = None) -> Variant:
        """The last checkpoint's nll of each token."""
        rest = (self.targets, self.cu_seqlens)
        options = {"stats": stats, "per_token": True, "check": False}
        if self.case.h:
            weight = self.weight if packed is None else packed
            call = ops.cat_linear_cross_entropy
            return lambda: last_nll(call(self.hidden, weight, *rest, **options))  # type: ignore[arg-type]
        return lambda: last_nll(ops.cat_cross_entropy(self.logits, *rest, **options))  # type: ignore[arg-type]

    def variants(self) -> dict[str, Variant]:
        """Ours first. Those of BOUNDS compute no loss: they are no rivals."""
        found = {"ours": self.ours(), "all": self.ours("all")}
        if not self.case.h:
            z, y = self.logits, self.targets
            found["read"] = self.heads(lambda k: z[k].amax())
            found["torch"] = self.heads(lambda k: F.cross_entropy(z[k], y, reduction="none"))
            if self.with_compile:
                compiled = torch.compile(compiled_cross_entropy, dynamic=True)
                found["compile"] = self.heads(lambda k: compiled(z[k], y))
            if self.device == "cuda":
                rivals = installed(
                    liger=("liger_kernel.transformers.functional", "liger_cross_entropy"),
                    quack=("quack.cross_entropy", "cross_entropy"),
                )
                for label, loss in rivals:
                    found[label] = self.heads(partial(rival_from_logits, loss, z, y))
            return found
        if self.device == "cpu":
            found["packed"] = self.ours(packed=ops.pack_weight(self.weight))
        h, w, y = self.hidden, self.weight, self.targets
        found["product"] = self.heads(lambda k: F.linear(h[k], w[k]))
        # Into memory that is there already: on the CPU fresh pages cost up to a third of it.
        space = h.new_empty(self.case.t, self.case.v)
        found["product_in_place"] = self.heads(lambda k: torch.mm(h[k], w[k].T, out=space))
        found["torch"] = self.heads(
            lambda k: F.cross_entropy(F.linear(h[k], w[k]), y, reduction="none")
        )
        if hasattr(F, "linear_cross_entropy"):  # since torch 2.13
            fused = F.linear_cross_entropy
            found["linear_ce"] = self.heads(lambda k: fused(h[k], w[k], y, reduction="none"))
        if self.with_compile:
            compiled_pair = torch.compile(compiled_linear, dynamic=True)
            found["compile"] = self.heads(lambda k: compiled_pair(h[k], w[k], y))
        if self.device == "cuda":
            rivals = installed(
                liger=("liger_kernel.transformers.functional", "liger_fused_linear_cross_entropy"),
                cut=("cut_cross_entropy", "linear_cross_entropy"),
                quack=("quack.linear_cross_entropy", "linear_cross_entropy_func"),
            )
            for label, loss in rivals:
                # QuACK takes the bias before the targets.
                rest = (None, y) if label == "quack" else (y,)
                found[label] = self.heads(partial(rival_from_hidden, loss, h, w, rest))
        return found

    def max_abs_err(self, nll: Tensor) -> float:
        """Of our nll (last checkpoint), against float64 on a few tokens."""
        rows = torch.linspace(0, self.case.t - 1, 16, device=self.device).long()
        ends = torch.tensor([0, len(rows)], dtype=torch.int32, device=self.device)
        if self.case.h:
            exact = reference.cat_linear_cross_entropy(
                self.hidden[-1:, rows], self.weight[-1:], self.targets[rows], ends, per_token=True
            )
        else:
            exact = reference.cat_cross_entropy(
                self.logits[-1:, rows], self.targets[rows], ends, per_token=True
            )
        return float((nll[rows].double() - last_nll(exact).double()).abs().max())


def last_nll(stats: reference.SequenceStats) -> Tensor:
    assert stats.nll_per_token is not None
    return stats.nll_per_token[-1]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def time_interleaved(
    variants: dict[str, Variant], num_rounds: int, device: str
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each variant in each round, the order changing from round to round."""
    elapsed_ms = {name: np.zeros(num_rounds) for name in variants}
    names = list(variants)
    for round_ in range(num_rounds):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            # OpenMP's threads spin on after a rival: they would hold a core of the next variant's.
            time.sleep(0.03)
            synchronize(device)
            start = time.perf_counter()
            variants[name]()
            synchronize(device)
            elapsed_ms[name][round_] = (time.perf_counter() - start) * 1e3
    return elapsed_ms


def extra_megabytes(call: Variant, device: str) -> float:
    """Peak memory of a call beyond what was there before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / MEGA
    Path("/proc/self/clear_refs").write_text("5")  # restarts the peak
    before = resident_bytes("VmRSS")
    call()
    return max(0, resident_bytes("VmHWM") - before) / MEGA


def resident_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0


def run(case: Case, device: str, num_rounds: int, with_compile: bool) -> dict[str, object]:
    inputs = Inputs(case, device, with_compile)
    variants = inputs.variants()
    nll = variants["ours"]()
    error = inputs.max_abs_err(nll)
    if not error <= 2e-5:
        sys.exit(f"{case}: nll is {error:.2e} from float64, more than 2e-5")
    for name, call in variants.items():  # warms up, too
        if name in BOUNDS:
            call()
        elif (off := float((call().float() - nll).abs().max())) > RIVAL_TOLERANCE[case.dtype]:
            sys.exit(f"{case}: nll by {name} is {off:.2e} from ours")
    peak_mb = extra_megabytes(variants["ours"], device)
    elapsed_ms = time_interleaved(variants, num_rounds, device)
    median_ms = {name: float(np.median(ms)) for name, ms in elapsed_ms.items()}

    def over(name: str, ours: str = "ours") -> float:
        # Of each round: what slows a moment of the machine slows both.
        return round(float(np.median(elapsed_ms[name] / elapsed_ms[ours])), 3)

    peers = [name for name in variants if name not in ("ours", "all", "packed", *BOUNDS)]
    best = min(peers, key=over)
    result: dict[str, object] = {
        "function": case.function,
        "dtype": str(case.dtype).removeprefix("torch."),
        "K": case.k,
        "T": case.t,
        "H": case.h or None,
        "V": case.v,
        "over_gemm": over("product") if case.h else None,
        "over_best_peer": over(best),
        "best_peer": best,
        "over_peers": {name: over(name) for name in peers},
        "all_over_nll": over("all"),
        "peak_mb": round(peak_mb, 1),
        "max_abs_err": float(f"{error:.1e}"),
        "ms": round(median_ms["ours"], 3),
        "tokens_per_s": round(case.k * case.t / median_ms["ours"] * 1e3),
    }
    if case.h:
        # Two operations for each of K T H V products.
        result["gflop_per_s"] = round(2e-6 * case.k * case.t * case.h * case.v / median_ms["ours"])
        result["over_gemm_in_place"] = over("product_in_place")
        if "packed" in variants:
            result["packed_over_gemm"] = over("product", "packed")
    else:
        # Every logit is read once.
        num_bytes = case.k * case.t * case.v * case.dtype.itemsize
        result["gb_per_s"] = round(num_bytes / median_ms["ours"] / 1e6, 1)
        result["over_read"] = over("read")
    spread = np.percentile(elapsed_ms["ours"], [10, 90])
    print(
        f"{case.function:7}{result['dtype']:>9}{case.k:3}{case.t:6}{case.h:6}{case.v:8}"
        f"{median_ms['ours']:10.2f} ({spread[0]:.1f}-{spread[1]:.1f})"
        + "".join(f"  {name} {over(name):.2f}" for name in variants if name != "ours")
        + f"  {peak_mb:.0f} MB  err {error:.0e}",
        flush=True,
    )
    return result


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="two sizes of each function")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{machine(options.device)}, torch {torch.__version__}, {options.threads} threads, "
        f"{_core.cpu_isa()}; medians of {options.rounds} rounds, then time over ours"
    )
    print(f"{'':7}{'dtype':>9}{'K':>3}{'T':>6}{'H':>6}{'V':>8}{'ms (p10-p90)':>18}")
    with torch.inference_mode():
        results = [
            run(case, options.device, options.rounds, not options.no_compile)
            for case in cases(options.device, options.quick)
        ]
    print(
        json.dumps(
            {
                "bench": "cross_entropy",
                "device": options.device,
                "machine": machine(options.device),
                "isa": _core.cpu_isa() if options.device == "cpu" else None,
                "threads": options.threads,
                "torch": torch.__version__,
                "cases": results,
            }
        )
    )


if __name__ == "__main__":
    main()
