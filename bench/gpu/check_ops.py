"""Check the fused kernels on a GPU against the CPU extension and against float64.

python bench/gpu/check_ops.py [--device cuda|cpu] [--only NAME ...] [--jobs N] [--json FILE]

The smallest case that fails is named last, with the command that repeats it. With `--device cpu`
small cases run in Triton's interpreter, so that the script itself is tested.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IGNORE = -100
# Nats a token, and the rounding of large values: the contract of the kernels' tests.
ABSOLUTE, RELATIVE = 2e-5, 1e-6
DTYPES = ("bfloat16", "float16", "float32")
# What a case has besides random numbers.
KINDS = ("plain", "bias", "ignored", "nan", "minus_inf", "ten_thousand", "wrong_target")


@dataclass(frozen=True)
class Case:
    """K checkpoints, T tokens, V ids, H wide; H is 0 for the function from logits."""

    function: str
    dtype: str
    kind: str
    k: int
    t: int
    v: int
    h: int = 0

    @property
    def name(self) -> str:
        width = f"-H{self.h}" if self.h else ""
        return f"{self.function}-{self.dtype}-{self.kind}-K{self.k}-T{self.t}-V{self.v}{width}"

    @property
    def work(self) -> int:
        return self.k * self.t * self.v * max(self.h, 1)


def cases(device: str) -> list[Case]:
    """All of them, the smallest first."""
    found = []
    shapes: list[tuple[int, int, int, int]]
    if device == "cpu":  # the interpreter takes seconds for what a GPU does in microseconds
        kinds: tuple[str, ...] = ("plain", "minus_inf")
        shapes = [(2, 9, 70, 24)]
    else:
        kinds = KINDS
        # Ragged and even V and H, one token, K = 1, 5, 8; more than one split of V.
        shapes = [
            (1, 1, 1, 1),
            (1, 33, 1101, 77),
            (5, 200, 9001, 500),
            (8, 130, 8000, 256),
            (5, 100, 32_000, 512),
            (1, 300, 32_001, 512),
        ]
    for (k, t, v, h), kind, dtype in itertools.product(shapes, kinds, DTYPES):
        # The large shapes hold what the small ones do, and take the CPU long.
        if v > 10_000 and kind not in ("plain", "ignored"):
            continue
        if v == 1 and kind != "plain":
            continue
        # The interpreter has no product of bfloat16.
        if device == "cuda" or dtype != "bfloat16":
            found.append(Case("linear", dtype, kind, k, t, v, h))
        if kind != "bias":
            found.append(Case("logits", dtype, kind, k, t, v))
    if device == "cuda":
        # Beyond 2^31: T V of logits, T V of what is never made, K V H of the weight.
        found += [
            Case("logits", "bfloat16", "large", 1, 68_000, 32_000),
            Case("logits", "float16", "large", 5, 14_000, 32_001),
            Case("linear", "bfloat16", "large", 1, 68_000, 32_000, 64),
            Case("linear", "float16", "large", 5, 300, 128_000, 4096),
        ]
    return sorted(found, key=lambda case: (case.kind == "large", case.work))


def make(case: Case) -> dict[str, Any]:
    """Inputs on the host: logits of spread 2 or so, and what the kind asks for."""
    import torch

    generator = torch.Generator().manual_seed(case.k * 1000 + case.t)
    dtype = getattr(torch, case.dtype)

    def random(*shape: int) -> Any:
        return torch.randn(shape, generator=generator)

    given: dict[str, Any] = {}
    kind, k, t, v, h = case.kind, case.k, case.t, case.v, case.h
    if h:
        given["hidden"] = random(k, t, h)
        given["weight"] = random(k, v, h) * 2 / h**0.5
        if kind == "bias":
            given["bias"] = random(k, v)
        elif kind == "minus_inf":  # whole tiles of ids, and single ones
            given["bias"] = torch.zeros(k, v)
            given["bias"][:, : v // 2] = given["bias"][:, -3] = -torch.inf
        elif kind == "ten_thousand":
            given["bias"] = 1e4 * random(k, v).sign()
        elif kind == "nan":
            given["hidden"][:, t // 2, h // 2] = torch.nan
    else:
        given["logits"] = 2 * random(k, t, v)
        if kind == "minus_inf":
            given["logits"][:, :, : v // 2] = given["logits"][:, :, -3] = -torch.inf
            given["logits"][0, t // 2] = -torch.inf  # nothing is left: NaN
        elif kind == "ten_thousand":
            given["logits"] += 1e4 * random(k, t, v).sign()
        elif kind == "nan":
            given["logits"][-1, t // 2, v // 3] = torch.nan
            given["logits"][0, t // 3, v // 3] = torch.inf
    given = {
        name: value.to(torch.float32 if name == "bias" else dtype) for name, value in given.items()
    }
    targets = torch.randint(v, (t,), generator=generator)
    if kind == "ignored":
        targets[::3] = IGNORE
        targets[: t // 4] = IGNORE
    elif kind == "wrong_target":
        targets[t // 2], targets[t - 1] = v, -7
    # Sequences of 1 to 40 tokens, and an empty one.
    lengths = torch.randint(1, 40, (t,), generator=generator).cumsum(0)
    ends = [0, 0, *lengths[lengths < t].tolist(), t]
    cu_seqlens = torch.tensor(ends, dtype=torch.int32)
    return given | {"targets": targets, "cu_seqlens": cu_seqlens}


def columns(stats: Any) -> dict[str, Any]:
    """What a SequenceStats holds, on the host."""
    return {name: value.cpu() for name, value in stats._asdict().items() if value is not None}


def call(module: Any, given: dict[str, Any], stats: str = "all", **options: Any) -> dict[str, Any]:
    """`module` is `ops` or `reference`: both have the same two functions."""
    linear = "hidden" in given
    names = ("hidden", "weight") if linear else ("logits",)
    function = module.cat_linear_cross_entropy if linear else module.cat_cross_entropy
    if "bias" in given:
        options["bias"] = given["bias"]
    operands = [given[name] for name in (*names, "targets", "cu_seqlens")]
    return columns(function(*operands, stats=stats, per_token=True, check=False, **options))


def interpreted(given: dict[str, Any]) -> dict[str, Any]:
    """The Triton kernels on tensors of the host."""
    from pycat.kernels import cross_entropy, linear_cross_entropy
    from pycat.kernels.stat_names import STAT_NAMES

    rest = given["targets"], given["cu_seqlens"]
    if "hidden" in given:
        operands = given["hidden"], given["weight"], given.get("bias")
        raw = linear_cross_entropy.linear_cross_entropy(*operands, *rest, IGNORE, True, True)
    else:
        raw = cross_entropy.cross_entropy(given["logits"], *rest, IGNORE, True, True)
    sums, num_tokens, ppl_mean, ppl_var, per_token, _ = raw
    return dict(zip(STAT_NAMES, sums, strict=False)) | {
        "num_tokens": num_tokens,
        "ppl_mean": ppl_mean,
        "ppl_var": ppl_var,
        "nll_per_token": per_token,
    }


def differences(
    found: dict[str, Any], right: dict[str, Any], lengths: Any, absolute: float
) -> dict[str, Any]:
    """Of each column the largest error over what is allowed, where that is above 1 or NaN.

    Columns of sums get so much a token; perplexities must follow from the nll found.
    """
    import torch

    wrong: dict[str, Any] = {}
    for name in right:
        ours, theirs = found[name].double(), right[name].double()
        if name in ("ppl_mean", "ppl_var"):
            ppl = torch.exp(found["nll"] / found["num_tokens"])
            follows = ppl.mean(0) if name == "ppl_mean" else ppl.var(0, correction=0)
            if not torch.allclose(ours, follows, rtol=1e-6, atol=1e-15, equal_nan=True):
                wrong[name] = "does not follow from nll"
            continue
        per = lengths if theirs.shape[-1] == len(lengths) and name != "nll_per_token" else 1.0
        allowed = absolute * per + RELATIVE * theirs.abs()
        off = torch.where((ours == theirs) | (ours.isnan() & theirs.isnan()), 0.0, ours - theirs)
        # `correct` counts: a margin of nothing but rounding may fall on either side.
        if name == "correct":
            off, allowed = (off.abs() - 1).clamp_min(0), allowed * 0 + 0.5
        # 0 tokens: nothing is allowed, and nothing may differ.
        over = torch.where(off == 0, 0.0, off.abs() / allowed)
        worst = float(over.max()) if over.numel() else 0.0
        if not worst <= 1:
            wrong[name] = worst
    return wrong


def max_error(found: dict[str, Any], right: dict[str, Any]) -> float:
    """Of nll, a token, where it is finite."""
    off = (found["nll_per_token"].double() - right["nll_per_token"].double()).abs()
    off = off[off.isfinite()]
    return float(off.max()) if off.numel() else 0.0


def check(case: Case, device: str) -> tuple[dict[str, Any], float]:
    """What is wrong with a case, by what it was compared with, and the largest error of an nll."""
    from pycat.kernels import ops, reference

    given = make(case)
    moved = {name: value.to(device) for name, value in given.items()}
    lengths = given["cu_seqlens"].diff().double()
    found = interpreted(given) if device == "cpu" else call(ops, moved)
    # Half a unit in the last place of a logit of 1e4 is 5e-4; on the CPU the bias is the first of
    # the terms that are added up, so each sum is rounded so.
    absolute = 1e-2 if case.h and case.kind == "ten_thousand" else ABSOLUTE
    # The device computes the float64 reference of large cases: the CPU would take minutes.
    exact = call(reference, moved if case.work > 10**8 else given)
    wrong: dict[str, Any] = {}
    # Both may be off, to either side. The CPU adds H terms to a large bias, each sum rounded.
    both = 2.0 * max(1.0, (case.h / 256) ** 0.5) if case.kind == "ten_thousand" else 2.0
    for name, right, factor in (
        ("float64", exact, 1.0),
        ("the CPU extension", call(ops, given), both),
    ):
        if off := differences(found, right, lengths, factor * absolute):
            wrong[name] = off
    if device != "cpu":
        if any(not same(found[name], value) for name, value in call(ops, moved).items()):
            wrong["a second run"] = "other bits"
        alone = call(ops, moved, stats="nll")
        if any(not same(found[name], value) for name, value in alone.items()):
            wrong['stats="nll"'] = "other bits"
    return wrong, max_error(found, exact)


def same(a: Any, b: Any) -> bool:
    import torch

    return torch.equal(a.nan_to_num(nan=-12345.0), b.nan_to_num(nan=-12345.0))


def check_large(case: Case) -> tuple[dict[str, Any], float]:
    """Inputs beyond 2^31 elements: the last tokens against float64 and against a small batch."""
    import torch
    from pycat.kernels import ops, reference

    generator = torch.Generator("cuda").manual_seed(1)
    dtype, (k, t, v, h) = getattr(torch, case.dtype), (case.k, case.t, case.v, case.h)

    def random(*shape: int, scale: float) -> Any:
        whole = torch.empty(shape, dtype=dtype, device="cuda")
        rows = whole.flatten(0, 1)
        for first in range(0, len(rows), 4096):  # little float32 at a time
            few = rows[first : first + 4096]
            few.copy_(scale * torch.randn(few.shape, generator=generator, device="cuda"))
        return whole

    given: dict[str, Any] = (
        {"hidden": random(k, t, h, scale=1.0), "weight": random(k, v, h, scale=2 / h**0.5)}
        if h
        else {"logits": random(k, t, v, scale=2.0)}
    )
    given["targets"] = torch.randint(v, (t,), generator=generator, device="cuda")
    last = 40
    given["cu_seqlens"] = torch.tensor([0, t - last, t], dtype=torch.int32, device="cuda")
    few = {name: value[:, -last:] for name, value in given.items() if name in ("hidden", "logits")}
    few = {**given, **few, "targets": given["targets"][-last:]}
    few["cu_seqlens"] = torch.tensor([0, last], dtype=torch.int32, device="cuda")
    found = call(ops, given)
    exact, alone = call(reference, few), call(ops, few)
    tail = {
        name: value[..., -last:] if name == "nll_per_token" else value[..., -1:]
        for name, value in found.items()
    }
    wrong: dict[str, Any] = {}
    lengths = torch.tensor([float(last)], dtype=torch.float64)
    # Products of 4096 terms round more than those of 512: by the root of their number.
    absolute = ABSOLUTE * max(1.0, (h / 512) ** 0.5)
    if off := differences(tail, exact, lengths, absolute):
        wrong["float64"] = off
    if any(not same(tail[name], value) for name, value in alone.items()):
        wrong["the same tokens alone"] = "other bits"
    return wrong, max_error(tail, exact)


def run(case: Case, device: str) -> dict[str, Any]:
    """The result of a case; an exception is one, too."""
    began = time.perf_counter()
    try:
        wrong, error = check_large(case) if case.kind == "large" else check(case, device)
    except Exception as exception:
        traceback.print_exc()
        wrong, error = {"exception": f"{type(exception).__name__}: {exception}"[:500]}, 0.0
    seconds = round(time.perf_counter() - began, 1)
    return {"case": case.name, "wrong": wrong, "max_error_nll": error, "seconds": seconds}


def run_group(group: list[Case], device: str, threads: int) -> list[dict[str, Any]]:
    import torch

    torch.set_num_threads(threads)
    return [run(case, device) for case in group]


def results(chosen: list[Case], device: str, jobs: int) -> Iterator[dict[str, Any]]:
    """As they come: in this process, or in several, each with kernels of its own to compile."""
    if jobs == 1:
        yield from (run(case, device) for case in chosen)
        return
    groups: dict[tuple[Any, ...], list[Case]] = {}
    for case in chosen:
        # Some cases a group, so that what is done is known should the rest be cut off.
        bias = case.h > 0 and case.kind in ("bias", "minus_inf", "ten_thousand")
        groups.setdefault((case.kind == "large", case.function, case.dtype, bias), []).append(case)
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed(
            pool.submit(run_group, group, device, threads) for group in groups.values()
        ):
            yield from done.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="cases by name")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, help="results so far, written after each case")
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

    known = cases(options.device)
    if unknown := set(options.only) - {case.name for case in known}:
        sys.exit(f"no case {sorted(unknown)[0]!r}; a run of all cases prints their names")
    chosen = [case for case in known if not options.only or case.name in options.only]
    order = [case.name for case in chosen]
    found: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for result in results(chosen, options.device, options.jobs):
        found.append(result)
        verdict = (
            f"WRONG {result['wrong']}"
            if result["wrong"]
            else f"nll off by {result['max_error_nll']:.1e} at most"
        )
        print(f"{result['case']:58} {verdict}  ({result['seconds']} s)", flush=True)
        failed = [result for result in found if result["wrong"]]
        failed.sort(key=lambda result: order.index(result["case"]))
        if options.json is not None:
            facts = {
                "cases": len(found),
                "of": len(chosen),
                "failed": failed,
                "max_error_nll": max(result["max_error_nll"] for result in found),
            }
            options.json.write_text(json.dumps(facts))
    if failed:
        first = failed[0]["case"]
        print(
            f"\n{len(failed)} of {len(found)} cases are wrong. The smallest: {first}\n"
            f"{failed[0]['wrong']}\n"
            f"python3 bench/gpu/check_ops.py --device {options.device} --only {first}"
        )
        sys.exit(1)
    print(f"all {len(found)} cases are right")


if __name__ == "__main__":
    main()
