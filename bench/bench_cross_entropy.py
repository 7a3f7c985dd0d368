"""Time the fused cross-entropy kernels against the bare matrix product and against its rivals.

python bench/bench_cross_entropy.py [--device cpu|cuda] [--quick] [--threads N] [--rounds N]
                                    [--tokens N] [--no-compile] [--json FILE]

A rival that fails, or whose result is off, is left out with a note. A result of ours that is off is
timed all the same, but the script ends with an error.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from harness import (
    device_name,
    ratio,
    resident_mb,
    restart_peak,
    spread,
    torch_multiplies_bfloat16,
    turns,
)
from numpy.typing import NDArray
from pycat.kernels import ops, reference
from torch import Tensor

from pycat import _core

VOCAB_SIZES = (8_000, 32_000, 32_001, 128_000)
WIDTHS = (256, 512, 1024, 2048)
DTYPES = (torch.float32, torch.bfloat16)
SENTENCE_TOKENS = 32
# A rival may round to the inputs' type: half of the last of 8 bits is 0.06 of a loss of 16 to 32,
# and 0.03 of a logit of 8 to 16.
RIVAL_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.125}
ALLOWED = 2e-5  # of our nll, a token, for H up to 512
MEGA = 1 << 20
NO_BFLOAT16 = "torch's product and the rivals are left out: no bfloat16 instructions for torch here"

BOUNDS = ("product", "product_in_place", "read")
# Ours in other forms: as many launches as checkpoints.
OURS = ("ours", "all", "packed", "launches")

# On a GPU a measurement lasts so long, in as many calls as that takes; a call of its own would
# measure how fast Python launches it.
MEASURE_MS = 12.0

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


def allowed(case: Case) -> float:
    """Error of our nll from float64, a token: a sum of H products rounds more by the root of H."""
    return ALLOWED * float(max(1.0, (case.h / 512) ** 0.5))


def cases(device: str, quick: bool) -> Iterator[Case]:
    if device == "cuda" and quick:
        yield from few_cuda_cases()
        return
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


def few_cuda_cases() -> Iterator[Case]:
    """The most telling first: a run may be cut. Logits are 2 GB, far beyond any cache."""
    bfloat16, tokens, logits = torch.bfloat16, 16_384, 1 << 30
    for h in (512, 1024, 2048, 4096):
        yield Case("linear", bfloat16, 1, tokens, h, 32_000)
    for v in (8_000, 32_000, 128_000):
        yield Case("logits", bfloat16, 1, logits // v // 128 * 128, 0, v)
    yield Case("linear", bfloat16, 5, tokens, 512, 32_000)
    yield Case("linear", bfloat16, 5, tokens, 256, 8_000)
    yield Case("logits", bfloat16, 5, 6_656, 0, 32_000)
    yield Case("linear", bfloat16, 1, tokens, 512, 32_001)
    yield Case("logits", bfloat16, 1, 33_536, 0, 32_001)
    yield Case("logits", torch.float32, 1, 16_768, 0, 32_000)
    yield Case("linear", torch.float32, 1, 4096, 512, 32_000)


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
            function = getattr(importlib.import_module(module), name)
        except ImportError:
            continue
        except Exception as error:  # made for another torch or Triton
            print(f"{label} is left out: {type(error).__name__}: {error}", flush=True)
            continue
        yield label, function


def rival_from_logits(loss: Callable[..., Tensor], z: Tensor, y: Tensor, k: int) -> Tensor:
    # Liger writes the gradient over its input, but only where one is asked for.
    return loss(z[k], y, reduction="none")


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

    def launches(self) -> Variant:
        """Ours, but once for each checkpoint."""
        rest = (self.targets, self.cu_seqlens)
        options = {"stats": "nll", "per_token": True, "check": False}
        if self.case.h:
            h, w = self.hidden, self.weight
            call = ops.cat_linear_cross_entropy
            return self.heads(lambda k: last_nll(call(h[k, None], w[k, None], *rest, **options)))  # type: ignore[arg-type]
        z = self.logits
        return self.heads(lambda k: last_nll(ops.cat_cross_entropy(z[k, None], *rest, **options)))  # type: ignore[arg-type]

    def variants(self) -> dict[str, Variant]:
        """Ours first. Those of BOUNDS compute no loss: they are no rivals."""
        found = {"ours": self.ours(), "all": self.ours("all")}
        if self.case.k > 1:
            found["launches"] = self.launches()
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
        if self.case.dtype == torch.bfloat16 and not torch_multiplies_bfloat16(self.device):
            print(f"{self.case}: {NO_BFLOAT16}", flush=True)
            return found
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


def queued_ms(call: Variant, num_calls: int) -> float:
    """Milliseconds a call between two events of the device, which never waits for the next one."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    # The device sleeps for about a millisecond while the first calls are queued.
    torch.cuda._sleep(2_000_000)  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(num_calls):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / num_calls


def time_ms(
    variants: dict[str, Variant], num_rounds: int, device: str
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each variant in each round."""
    elapsed_ms = {name: np.zeros(num_rounds) for name in variants}
    num_calls = {}
    if device == "cuda":
        for name, call in variants.items():
            num_calls[name] = min(50, max(2, round(MEASURE_MS / queued_ms(call, 2))))
    for round_, name in turns(variants, num_rounds):
        if device == "cuda":
            elapsed_ms[name][round_] = queued_ms(variants[name], num_calls[name])
            continue
        # OpenMP's threads spin on after a rival: they would hold a core of the next variant's.
        time.sleep(0.03)
        start = time.perf_counter()
        variants[name]()
        elapsed_ms[name][round_] = (time.perf_counter() - start) * 1e3
    return elapsed_ms


def extra_megabytes(call: Variant, device: str) -> float:
    """Peak memory of a call beyond what was there before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / MEGA
    restart_peak()
    resident = resident_mb()
    call()
    return max(0.0, resident_mb("VmHWM") - resident)


def why_not(name: str, call: Variant, nll: Tensor, tolerance: float) -> str | None:
    """Call it once, which warms it up; why it cannot be timed, if so."""
    try:
        result = call()
        off = 0.0 if name in BOUNDS else float((result.float() - nll).abs().max())
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return None if off <= tolerance else f"nll is {off:.2e} from ours"


def run(case: Case, device: str, num_rounds: int, with_compile: bool) -> dict[str, object]:
    inputs = Inputs(case, device, with_compile)
    variants = inputs.variants()
    nll = variants["ours"]()
    error = inputs.max_abs_err(nll)
    left_out = {}
    for name, call in list(variants.items())[1:]:
        reason = why_not(name, call, nll, RIVAL_TOLERANCE[case.dtype])
        if reason is not None:
            print(f"{case}: {name} is left out: {reason}", flush=True)
            left_out[name] = reason
            del variants[name]
    peak_mb = extra_megabytes(variants["ours"], device)
    elapsed_ms = time_ms(variants, num_rounds, device)
    median_ms = {name: float(np.median(ms)) for name, ms in elapsed_ms.items()}

    def over(name: str, ours: str = "ours") -> float:
        return ratio(elapsed_ms[name], elapsed_ms[ours])

    peers = [name for name in variants if name not in (*OURS, *BOUNDS)]
    best = min(peers, key=over, default=None)
    known = {name: over(name) for name in variants}
    result: dict[str, object] = {
        "function": case.function,
        "dtype": str(case.dtype).removeprefix("torch."),
        "K": case.k,
        "T": case.t,
        "H": case.h or None,
        "V": case.v,
        "over_gemm": known.get("product"),
        "over_best_peer": None if best is None else known[best],
        "best_peer": best,
        "over_peers": {name: known[name] for name in peers},
        "left_out": left_out,
        "launches_over_one": known.get("launches"),
        "all_over_nll": known.get("all"),
        "peak_mb": round(peak_mb, 1),
        "max_abs_err": float(f"{error:.1e}"),
        "is_right": error <= allowed(case),
        "ms": round(median_ms["ours"], 3),
        "tokens_per_s": round(case.k * case.t / median_ms["ours"] * 1e3),
    }
    if case.h:
        # Two operations for each of K T H V products.
        result["gflop_per_s"] = round(2e-6 * case.k * case.t * case.h * case.v / median_ms["ours"])
        result["over_gemm_in_place"] = known.get("product_in_place")
        if "packed" in variants and "product" in variants:
            result["packed_over_gemm"] = over("product", "packed")
    else:
        # Every logit is read once.
        num_bytes = case.k * case.t * case.v * case.dtype.itemsize
        result["gb_per_s"] = round(num_bytes / median_ms["ours"] / 1e6, 1)
        result["over_read"] = known.get("read")
    p10, _, p90 = spread(elapsed_ms["ours"])
    print(
        f"{case.function:7}{result['dtype']:>9}{case.k:3}{case.t:6}{case.h:6}{case.v:8}"
        f"{median_ms['ours']:10.2f} ({p10:.1f}-{p90:.1f})"
        + f"  {rate(result)}"
        + "".join(f"  {name} {known[name]:.2f}" for name in variants if name != "ours")
        + f"  {peak_mb:.0f} MB  err {error:.0e}"
        + ("" if error <= allowed(case) else f": WRONG, more than {allowed(case):.0e}"),
        flush=True,
    )
    return result


def rate(result: dict[str, object]) -> str:
    if "gb_per_s" in result:
        return f"{result['gb_per_s']:,} GB/s"
    return f"{result['gflop_per_s']:,} GFLOP/s"


def bare_rates() -> dict[str, float]:
    """What this card does: products in TFLOP/s, copies in TB/s, bytes read and written counted."""
    size = 8192
    a = torch.randn(size, size, device="cuda").bfloat16()
    product = torch.empty_like(a)
    # Beyond any cache.
    source = torch.empty(1 << 30, dtype=torch.bfloat16, device="cuda").normal_()
    copy = torch.empty_like(source)

    def best(call: Variant) -> float:
        call()
        return min(queued_ms(call, 5) for _ in range(6))

    return {
        "bf16_tflop_per_s": round(2e-9 * size**3 / best(lambda: torch.mm(a, a, out=product)), 1),
        "copy_tb_per_s": round(2e-9 * copy.nbytes / best(lambda: copy.copy_(source)), 3),
        "read_tb_per_s": round(1e-9 * source.nbytes / best(lambda: source.amax()), 3),
    }


def headlines(rates: dict[str, float], results: list[dict[str, object]]) -> list[str]:
    """A line a case, without the rivals but for the best."""
    lines = [", ".join(f"{name} {value}" for name, value in rates.items())] if rates else []
    for result in results:
        sizes = "".join(f" {name}={result[name]}" for name in "KTHV" if result[name])
        notes = [f"{result['best_peer'] or 'no peer'} {result['over_best_peer']} x"]
        if result["launches_over_one"]:
            notes.append(f"K launches {result['launches_over_one']} x")
        if result["over_gemm"]:
            notes.append(f"product {result['over_gemm']} x")
        notes.append(f"all stats {result['all_over_nll']}")
        if not result["is_right"]:
            notes.append(f"WRONG by {result['max_abs_err']}")
        name = f"{result['function']} {result['dtype']}{sizes}"
        lines.append(f"{name}: {result['ms']} ms, {rate(result)}; " + ", ".join(notes))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="two sizes of each function")
    parser.add_argument("--tokens", type=int, help="at most so many in a case")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", type=Path, help="results so far, written after each case")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{device_name(options.device)}, torch {torch.__version__}, {options.threads} threads, "
        f"{_core.cpu_isa()}; medians of {options.rounds} rounds, then time over ours"
    )
    print(f"{'':7}{'dtype':>9}{'K':>3}{'T':>6}{'H':>6}{'V':>8}{'ms (p10-p90)':>18}")
    results: list[dict[str, object]] = []
    facts: dict[str, object] = {
        "bench": "cross_entropy",
        "device": options.device,
        "machine": device_name(options.device),
        "isa": _core.cpu_isa() if options.device == "cpu" else None,
        "threads": options.threads,
        "torch": torch.__version__,
    }
    with torch.inference_mode():
        rates = bare_rates() if options.device == "cuda" else {}
        if rates:
            print(", ".join(f"{name} {value}" for name, value in rates.items()), flush=True)
        for case in cases(options.device, options.quick):
            if options.tokens is not None:
                case = replace(case, t=min(case.t, options.tokens))
            results.append(run(case, options.device, options.rounds, not options.no_compile))
            facts |= {"rates": rates, "cases": results}
            if options.json is not None:
                found = {**facts, "headlines": headlines(rates, results)}
                options.json.write_text(json.dumps(found))
            if options.device == "cuda":
                torch.cuda.empty_cache()
    print(json.dumps(facts))
    if wrong := [result for result in results if not result["is_right"]]:
        sys.exit(f"nll of {len(wrong)} cases is more than allowed from float64")


if __name__ == "__main__":
    main()
