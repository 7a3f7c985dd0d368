"""What the benches share: names of machines, timing in turn, medians of ratios, and memory."""

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray


def processor_name() -> str:
    """The processor as Linux names it, or at least its architecture."""
    return _cpuinfo("model name") or platform.machine()


def processor_flags() -> set[str]:
    """Extensions of the instruction set, as Linux names them: "avx512f" and others."""
    return set(_cpuinfo("flags").split())


def _cpuinfo(field: str) -> str:
    """What /proc/cpuinfo says of the first core; empty where it says nothing."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def torch_multiplies_bfloat16(device: str) -> bool:
    """Whether torch has fast products of bfloat16.

    On a CPU without the instructions, or told not to use them, one of 2048 x 2048 takes minutes.
    """
    if device == "cuda":
        return True
    limits = (
        os.environ.get(name, "").lower() for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    )
    allowed = all(
        limit in ("", "all", "default") or "bf16" in limit or "fp16" in limit or "amx" in limit
        for limit in limits
    )
    return allowed and bool(processor_flags() & {"avx512_bf16", "amx_bf16"})


def device_name(device: str) -> str:
    """The GPU's name for "cuda", else the processor's."""
    if device != "cuda":
        return processor_name()
    import torch

    name: str = torch.cuda.get_device_name()
    return name


def turns(
    names: Iterable[str], num_rounds: int, *, warm_up: bool = False
) -> Iterator[tuple[int, str]]:
    """Each name once a round, with the number of the round.

    Each round begins with another name, so that no variant always follows the same one. A round to
    warm up has number -1.
    """
    names = list(names)
    step = max(1, len(names) // num_rounds)
    for round_ in range(-1 if warm_up else 0, num_rounds):
        first = round_ * step % len(names)
        for name in names[first:] + names[:first]:
            yield round_, name


def time_in_turn(
    variants: Mapping[str, Callable[[], object]], num_rounds: int
) -> dict[str, NDArray[np.float64]]:
    """Seconds by the clock and of the processor, (2, num_rounds), of each variant; warmed up."""
    elapsed_s = {name: np.zeros((2, num_rounds)) for name in variants}
    for round_, name in turns(variants, num_rounds, warm_up=True):
        start = np.array([time.perf_counter(), time.process_time()])
        made = variants[name]()
        spent = np.array([time.perf_counter(), time.process_time()]) - start
        del made  # outside of the time
        if round_ >= 0:
            elapsed_s[name][:, round_] = spent
    return elapsed_s


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Milliseconds of one call, the median of `repeats`."""
    elapsed_s = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        elapsed_s.append(time.perf_counter() - start)
    return float(np.median(elapsed_s)) * 1e3


def spread(values: ArrayLike) -> tuple[float, float, float]:
    """The tenth percentile, the median, and the ninetieth percentile."""
    p10, median, p90 = np.percentile(np.asarray(values), [10, 50, 90])
    return float(p10), float(median), float(p90)


def ratio(theirs: ArrayLike, ours: ArrayLike, digits: int = 3) -> float:
    """Times of theirs over ours in the same rounds: the median.

    What runs in the same round runs soon one after the other, so that other load on the machine
    slows both and cancels out.
    """
    return round(float(np.median(np.asarray(theirs) / np.asarray(ours))), digits)


def resident_mb(field: str = "VmRSS") -> float:
    """Resident memory of this process in MiB: "VmRSS" now, "VmHWM" its peak, "RssAnon" private.

    `ru_maxrss` would begin at the peak of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {field}")


def restart_peak() -> None:
    """Begin the peak of resident memory anew, at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
