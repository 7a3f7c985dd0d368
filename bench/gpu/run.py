"""Everything that only a GPU can show, in one bounded run.

python3 bench/gpu/run.py [--device cuda|cpu] [--budget SECONDS] [--parts NAME ...] [--out DIR]
                         [--keep-going]

Parts run in their order, each as processes of its own with a hard time limit, whose output goes to
a log in DIR. `results.json` there is written anew after each part: a run that is cut leaves what
was finished. With `--device cpu` the same parts run small, the kernels in Triton's interpreter, so
that the script itself is tested. Needs no environment but torch's own; `make gpu` calls it.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# For the table at the end, and for the files.
RESERVE_S = 5
# What a process may take to end once it is asked to.
GRACE_S = 5
PACKAGES = (
    *("pycat-nmt", "torch", "triton", "numpy", "transformers"),
    *("liger-kernel", "cut-cross-entropy", "quack-kernels"),
)
# Two small cases, of each kernel one: the checker slows programs down by orders of magnitude.
SANITIZED = ("linear-bfloat16-bias-K1-T33-V1101-H77", "logits-bfloat16-ignored-K1-T33-V1101")


@dataclass
class Command:
    """One process of a part; what it prints goes to `<log>.log`, by default that of its name."""

    name: str
    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    limit_s: float = float("inf")  # besides the part's
    writes_json: bool = False  # takes `--json FILE`
    log: str = ""

    def __post_init__(self) -> None:
        self.log = self.log or self.name


@dataclass
class Part:
    """Commands in turn, or all at once; or, without any, what it waits for."""

    name: str
    limit_s: int
    about: str
    commands: list[Command] = field(default_factory=list)
    at_once: bool = False
    missing: str = ""


def module(*argv: str) -> list[str]:
    # -P: the checkout must not hide the installed package.
    return [sys.executable, "-P", "-m", *argv]


def gpu_tests() -> list[str]:
    """Modules with tests marked `gpu`: others may need packages that are not there."""
    return sorted(
        str(path.relative_to(ROOT))
        for path in ROOT.glob("tests/*/test_*.py")
        if "pytest.mark.gpu" in path.read_text()
    )


def parts_for(device: str) -> list[Part]:
    cuda = device == "cuda"
    presets: list[tuple[str, list[str]]]
    build = module("pip", "install", "--disable-pip-version-check", "--no-build-isolation")
    build += ["--no-deps", "--force-reinstall", "-v", "."]

    # A warning of another version of torch or NumPy must not cost the run: `-W default`.
    pytest = module("pytest", "-q", "-p", "no:cacheprovider", "-W", "default")
    check = [sys.executable, "bench/gpu/check_ops.py", "--device", device]
    cross_entropy = [sys.executable, "bench/bench_cross_entropy.py", "--device", device, "--quick"]
    scoring = [sys.executable, "bench/bench_scoring.py", "--device", device]
    if cuda:
        pytest += ["-m", "gpu and not slow", "--timeout", "120", "--durations", "5"]
        if importlib.util.find_spec("xdist") is not None:
            pytest += ["-n", "6"]
        tests = Command("tests", pytest + gpu_tests(), {"OMP_NUM_THREADS": "2"})
        checks = [
            tests,
            Command("ops", [*check, "--jobs", "6"], writes_json=True),
        ]
        sanitizer, memcheck = find_sanitizer(), ["--tool", "memcheck", "--error-exitcode", "9"]
        if sanitizer is not None:
            checks.append(
                Command(
                    "sanitizer",
                    [sanitizer, *memcheck, *check, "--only", *SANITIZED],
                    # Blocks of its own for each tensor: a read beyond one is seen.
                    {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
                    limit_s=90,
                )
            )
        presets = [(preset, ["--threads", "4", "--rounds", "2"]) for preset in ("base", "tiny")]
        training = [sys.executable, "bench/bench_training.py"]
    else:
        pytest += ["-k", "vocabulary_of_one or no_tokens", "tests/kernels/test_triton_kernels.py"]
        checks = [
            Command("tests", pytest, {"TRITON_INTERPRET": "1"}),
            Command("ops", check, writes_json=True),
        ]
        sanitizer = None
        cross_entropy += ["--tokens", "64", "--rounds", "1", "--no-compile"]
        presets = [("tiny", ["--quick", "--pairs", "8", "--rounds", "1"])]
        training = [sys.executable, "bench/bench_training.py", "--device", "cpu"]
        training += ["--preset", "mini", "--models", "1", "2", "--batch-tokens", "256"]
    parts = [
        Part("build", 60, "install pycat from this checkout", [Command("build", build)]),
        Part(
            "correctness",
            180,
            "the tests marked gpu; the kernels against the CPU extension and float64"
            + ("; compute-sanitizer on two cases" if sanitizer else "; compute-sanitizer left out"),
            checks,
            at_once=True,
        ),
        Part(
            "kernels",
            120,
            "fused cross-entropy against the bare product, the bare copy and rivals",
            [Command("kernels", cross_entropy, writes_json=True)],
        ),
        Part(
            "scoring",
            150,
            "pycat.score against Hugging Face, and the same corpus scored by the CPU",
            [
                Command(
                    f"scoring-{preset}",
                    [*scoring, "--preset", preset, *more],
                    writes_json=True,
                    log="scoring",
                )
                for preset, more in presets
            ],
        ),
        Part(
            "training",
            90,
            "proxies trained one at a time, and stacked",
            [Command("training", training, writes_json=True)],
        ),
        Part("study", 0, "what pruning is worth", missing="the study"),
    ]
    if not cuda:
        # A CPU that is shared with others may be slow; only that the parts run is of interest.
        for part in parts:
            part.limit_s *= 4
    return parts


def find_sanitizer() -> str | None:
    return shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin:/opt/cuda/bin"
    )


def run_part(part: Part, limit_s: float, out: Path) -> dict[str, Any]:
    """Run a part's commands within a limit; what it took, how each ended and what it wrote."""
    began = time.perf_counter()
    ends_at = began + limit_s
    exits: dict[str, int | str] = {}
    batches = [part.commands] if part.at_once else [[command] for command in part.commands]
    for batch in batches:
        if time.perf_counter() >= ends_at:
            exits |= {command.name: "not begun" for command in batch}
            continue
        running = [(command, start(command, out)) for command in batch]
        try:
            for command, process in running:
                exits[command.name] = end(process, min(ends_at, began + command.limit_s))
        finally:
            for _, process in running:
                kill(process)
    results = {}
    for command in part.commands:
        written = out / f".{command.name}.json"
        if written.is_file():
            with contextlib.suppress(ValueError):  # cut off while it was written
                results[command.name] = json.loads(written.read_text())
            written.unlink()
    return {
        "status": "done" if all(code == 0 for code in exits.values()) else "failed",
        "seconds": round(time.perf_counter() - began, 1),
        "limit_s": round(limit_s),
        "exits": exits,
        "results": results,
    }


def start(command: Command, out: Path) -> subprocess.Popen[bytes]:
    argv = list(command.argv)
    if command.writes_json:
        written = out / f".{command.name}.json"
        written.unlink(missing_ok=True)  # of an earlier run that was cut
        argv += ["--json", str(written)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **command.environment}
    with (out / f"{command.log}.log").open("ab") as log:
        log.write(f"$ {' '.join(argv)}\n".encode())
        log.flush()
        return subprocess.Popen(
            argv,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # with all that it starts it is killed
        )


def end(process: subprocess.Popen[bytes], ends_at: float) -> int | str:
    """Its exit code, or that it was killed at `ends_at`."""
    try:
        return process.wait(timeout=max(0.0, ends_at - time.perf_counter()))
    except subprocess.TimeoutExpired:
        kill(process)
        return "killed at its time limit"


def kill(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started: asked first, then by force."""
    for sent, wait_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        if process.poll() is not None and not in_group(process.pid):
            return
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=wait_s)
        except subprocess.TimeoutExpired:
            continue


def in_group(group: int) -> bool:
    """Whether a process group has members."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def machine(device: str) -> dict[str, Any]:
    """Card, driver and versions; the date in UTC."""
    import torch

    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {
            "card": card.name,
            "memory_gib": round(card.total_memory / 2**30, 1),
            "multiprocessors": card.multi_processor_count,
            "cuda": torch.version.cuda,
            "driver": smi("driver_version"),
        }
    return found


def smi(field_name: str) -> str | None:
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={field_name}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()[0].strip() if done.stdout.strip() else None


def require_device(device: str) -> None:
    """End with a clear error where CUDA is asked for and is not there."""
    try:
        import torch
    except ImportError:
        sys.exit(f"{sys.executable} has no torch; expected the interpreter that torch is in")
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            f"no CUDA device here (torch {torch.__version__}); expected one: run on a machine "
            "that has one, or try the script itself with --device cpu (make gpu DEVICE=cpu)"
        )


def tail(path: Path, num_lines: int) -> str:
    lines = path.read_text(errors="replace").splitlines()[-num_lines:]
    return "\n".join(f"    {line[:300]}" for line in lines)


def figures(results: dict[str, Any]) -> list[str]:
    """The figures of each command that wrote some, a line each."""
    lines = []
    for name, found in results.items():
        if name == "ops":
            verdict = f"{len(found['failed'])} wrong" if found["failed"] else "all right"
            lines.append(f"ops: {found['cases']} of {found['of']} cases, {verdict}")
        lines += [f"{name}: {line}" for line in found.get("headlines", [])]
    return lines


def run(options: argparse.Namespace) -> int:
    began = time.perf_counter()
    require_device(options.device)
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    known = parts_for(options.device)
    chosen = [part for part in known if part.name in options.parts]
    print(f"{options.device}, at most {options.budget} s in all; logs and results.json in {out}")
    for part in known:
        if part not in chosen:
            print(f"  {part.name:12} left out")
        elif part.missing:
            print(f"  {part.name:12} waits for {part.missing}: nothing to run yet")
        else:
            print(f"  {part.name:12} at most {part.limit_s:3} s: {part.about}")
    sys.stdout.flush()
    found: dict[str, Any] = {"machine": machine(options.device), "parts": {}}
    stopped = ""

    def write() -> None:
        made = out / ".results.json"
        made.write_text(json.dumps(found, indent=1) + "\n")
        made.replace(out / "results.json")

    write()
    for part in chosen:
        left_s = options.budget - RESERVE_S - (time.perf_counter() - began)
        if part.missing:
            outcome: dict[str, Any] = {"status": f"waits for {part.missing}"}
        elif stopped:
            outcome = {"status": f"not run: {stopped}"}
        elif left_s < 10:
            outcome = {"status": "not run: the budget is spent"}
        else:
            for command in part.commands:  # of an earlier run
                (out / f"{command.log}.log").unlink(missing_ok=True)
            outcome = run_part(part, min(part.limit_s, left_s), out)
            print(f"{part.name}: {outcome['status']} in {outcome['seconds']} s", flush=True)
            for command in part.commands:
                code = outcome["exits"][command.name]
                if code == "not begun":
                    print(f"  {command.name}: {code}", flush=True)
                elif code != 0:
                    print(f"  {command.name}: {code}; the end of {command.log}.log:")
                    print(tail(out / f"{command.log}.log", 25), flush=True)
            if outcome["status"] == "failed" and part.name in ("build", "correctness"):
                stopped = "" if options.keep_going else f"{part.name} failed (see --keep-going)"
        found["parts"][part.name] = outcome
        if part.name == "build":  # now it has a version
            found["machine"] = machine(options.device)
        write()
    found["seconds"] = round(time.perf_counter() - began, 1)
    write()

    print(f"\n{'part':12} {'status':30} {'seconds':>8} {'of':>5}")
    for name, outcome in found["parts"].items():
        times = f"{outcome['seconds']:8} {outcome['limit_s']:5}" if "seconds" in outcome else ""
        print(f"{name:12} {outcome['status']:30} {times}")
    for outcome in found["parts"].values():
        for line in figures(outcome.get("results", {})):
            print(f"  {line}")
    ran = [outcome for outcome in found["parts"].values() if not is_waiting(outcome)]
    print(f"{found['seconds']} s in all; {found['machine'].get('card', 'no card')}")
    return 0 if all(outcome["status"] == "done" for outcome in ran) else 1


def is_waiting(outcome: dict[str, Any]) -> bool:
    status: str = outcome["status"]
    return status.startswith("waits for")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [part.name for part in parts_for("cpu")]
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--budget", type=int, default=480, help="seconds for all parts")
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument(
        "--keep-going", action="store_true", help="measure even where correctness failed"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    # Ended from outside, it ends what it runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    sys.exit(run(parse()))
