"""Chaos: each verb is killed, runs out of disk, meets damage and rivals; then it is run once more.

    python bench/chaos.py [--kills N] [--sizes N] [--flips N] [--races N] [--verbs …]

Afterwards the same command has to end in the bytes of an undisturbed run, with no other file beside
them, or in a clear refusal. Faults are injected by `faults.c`, which sees every library:

    kills    SIGKILL at each call that creates, renames or removes a name, and at N random moments
    disk     the disk is full after so many bytes, for N sizes up to what the verb writes
    flips    one bit of an input file is flipped, at N places of each file
    races    two processes with different options begin at once, N times over all verbs

A process that has imported everything forks one for each trial, so that a trial takes as long as
its work. The last line is one JSON object.
"""

import argparse
import ctypes
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

_SHIM = Path(__file__).with_name("faults.c")
_TIMEOUT_S = 300.0
# What differs from one run to the next: times and rates, and hashes over manifests that hold them.
_VOLATILE = (
    *("elapsed_s", "tokens_per_s", "flop_utilization", "made", "mtime_ns", "ledger"),
    "manifest_sha256",  # it follows those
)
_TIMES = re.compile(rb"<h3>Time per stage</h3>.*?</table>", re.DOTALL)


class Verb(NamedTuple):
    """A verb on the inputs in `base`, which writes into `out`.

    Attributes:
        words: with {base} and {out}.
        reads: the folders and files of `base` that it reads.
        other: words appended for other options, in a race; empty for none.
    """

    words: str
    reads: tuple[str, ...]
    other: str = ""


VERBS = {
    "tokenize": Verb(
        "tokenize --src {base}/text.en --tgt {base}/text.de --out {out}/corpus "
        "--tokenizer {base}/corpus/tokenizer.model",
        ("text.en",),
        "--max-tokens 9",
    ),
    "tokenize-train": Verb(
        "tokenize --src {base}/text.en --tgt {base}/text.de --out {out}/corpus --vocab-size 340",
        (),
    ),
    "measure": Verb("measure --corpus {base}/corpus --out {out}/measures", ("corpus",)),
    "train": Verb(
        "train --corpus {base}/corpus --out {out}/proxy --checkpoint-steps 2,4 --preset mini "
        "--batch-tokens 256 --device cpu --dtype float32",
        ("corpus",),
        "--seed 7",
    ),
    "score": Verb(
        "score --corpus {base}/corpus --checkpoints {base}/proxy --out {out}/scores --device cpu",
        ("corpus", "proxy"),
        "--stats nll",
    ),
    "score-lines": Verb(
        "score --corpus {base}/corpus --checkpoints {base}/proxy --out {out}/lines.jsonl "
        "--format jsonl --device cpu --overwrite",
        ("corpus", "proxy"),
        "--per-token",
    ),
    "select": Verb(
        "select --scores {base}/scores --measures {base}/measures --out {out}/selection "
        "--text {out}/half.en {out}/half.de",
        ("scores", "measures"),
        "--seed 3 --keep 0.3",
    ),
    "apply": Verb(
        "apply --selection {base}/selection --text {out}/half.en {out}/half.de",
        ("selection",),
    ),
    "report": Verb(
        "report --selection {base}/selection --scores {base}/scores --proxy {base}/proxy "
        "--measures {base}/measures --out {out}/report.html",
        ("selection", "scores"),
    ),
    "evaluate": Verb(
        "evaluate --selection {base}/selection --test toy={base}/test.en,{base}/test.de "
        "--out {out}/evaluation --seeds 1 --passes 1 --no-curve --preset mini --batch-tokens 256 "
        "--device cpu --dtype float32 --arms random selected --num-workers 2",
        (),
    ),
    "prune": Verb(
        "prune --src {base}/text.en --tgt {base}/text.de --out {out}/pruned --device cpu "
        "--tokenize-tokenizer {base}/corpus/tokenizer.model --train-checkpoint-steps 2,4 "
        "--train-preset mini --train-batch-tokens 256 --train-dtype float32",
        (),
        "--keep 0.3 --seed 3",
    ),
}
# Those whose trials take seconds are tried less often.
_SLOW = ("tokenize-train", "evaluate", "prune")


@dataclass
class Trial:
    """A finished process: its exit status, or minus the signal that ended it; and what it said."""

    status: int
    said: str

    @property
    def refused(self) -> bool:
        """Whether it ended with an error in one line, as for a user."""
        return self.status in (1, 2) and "Traceback" not in self.said and ": error: " in self.said


@dataclass
class Chaos:
    """Trials of verbs in a folder, and what came of them."""

    work: Path
    threads: int
    seed: int
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shim = ctypes.CDLL(None)
        self.rng = random.Random(self.seed)
        self.base = self.work / "base"

    def start(self, words: Sequence[str], log: Path, at: int = -1, space: int = -1) -> int:
        """Fork a process that runs a verb; returns its id, which is that of its group too."""
        pid = os.fork()
        if pid:
            return pid
        status = 70
        try:
            os.setsid()
            import torch

            torch.set_num_threads(self.threads)
            os.environ["OMP_NUM_THREADS"] = str(self.threads)
            os.environ |= {"FAULTS_KILL_AT": str(at), "FAULTS_SPACE": str(space)}
            with log.open("w") as file:
                for descriptor in (1, 2):
                    os.dup2(file.fileno(), descriptor)
            from pycat.cli.main import main

            self.shim.faults_arm(ctypes.c_long(at), ctypes.c_long(space))
            try:
                status = main(words)
            finally:
                calls, written = self.shim.faults_calls(), self.shim.faults_bytes()
                self.shim.faults_arm(ctypes.c_long(-1), ctypes.c_long(-1))
            log.with_suffix(".counts").write_text(f"{calls} {written}")
        except BaseException:
            import traceback

            log.write_text(traceback.format_exc())
        finally:
            os._exit(status)

    def wait(self, pid: int, log: Path, kill_after: float | None = None) -> Trial:
        """Wait for a process, and end what it left running; kill it after so many seconds."""
        began = time.monotonic()
        limit = _TIMEOUT_S if kill_after is None else kill_after
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() - began > limit:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                break
            time.sleep(0.002)
        code = os.waitstatus_to_exitcode(status)
        if kill_after is None and time.monotonic() - began > _TIMEOUT_S:
            self.faults.append(f"hung: {log.read_text()[-200:]}")
        return Trial(code, log.read_text("utf-8", "replace") if log.exists() else "")

    def run(self, words: Sequence[str], name: str = "run", **faults: int) -> Trial:
        """Run a verb to its end."""
        log = self.work / f"{name}.log"
        return self.wait(self.start(words, log, **faults), log)

    def words(self, verb: Verb, out: Path, base: Path | None = None, more: str = "") -> list[str]:
        """The words of a verb."""
        text = f"{verb.words} {more}".format(base=base or self.base, out=out)
        return text.split()

    def count(self, kind: str, verb: str, found: str, detail: str = "") -> None:
        """Count what a trial found; what must not be is listed."""
        self.counts.setdefault(kind, Counter())[found] += 1
        if found not in ("same", "refused", "one done, one refused", "both done", "unaffected"):
            self.faults.append(f"{kind} {verb}: {found} {detail}"[:400])

    def make_base(self) -> None:
        """A small text, and what the verbs make of it."""
        from helpers import toy_pairs, write_lines

        self.base.mkdir(parents=True)
        pairs = toy_pairs(400)
        write_lines(self.base, pairs[:300], "text")
        write_lines(self.base, pairs[300:], "test")
        stages = {
            "corpus": VERBS["tokenize-train"],
            "measures": VERBS["measure"],
            "proxy": VERBS["train"],
            "scores": VERBS["score"],
            "selection": VERBS["select"],
        }
        for verb in stages.values():
            trial = self.run(self.words(verb, self.base))
            if trial.status != 0:
                raise RuntimeError(f"{verb.words}: {trial.said}")

    def undisturbed(self, name: str, more: str = "") -> tuple[dict[str, bytes], int, int, float]:
        """What a verb makes, and its calls, bytes and seconds."""
        out = self.work / "clean"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        began = time.monotonic()
        trial = self.run(self.words(VERBS[name], out, more=more), "clean")
        seconds = time.monotonic() - began
        if trial.status != 0:
            raise RuntimeError(f"{name}: {trial.said}")
        calls, written = map(int, (self.work / "clean.counts").read_text().split())
        return tree(out), calls, written, seconds

    def after(self, kind: str, name: str, out: Path, clean: dict[str, bytes], detail: str) -> None:
        """Run the command once more, and judge what it makes."""
        trial = self.run(self.words(VERBS[name], out))
        if trial.refused:
            self.count(kind, name, "refused", detail)
        elif trial.status != 0:
            self.count(kind, name, "crashed", f"{detail}: {trial.status} {trial.said[-250:]}")
        elif (made := tree(out)) == clean:
            self.count(kind, name, "same")
        elif made.keys() != clean.keys():
            self.count(kind, name, "other files", f"{detail}: {made.keys() ^ clean.keys()}")
        else:
            changed = [path for path in clean if made[path] != clean[path]]
            self.count(kind, name, "other bytes", f"{detail}: {changed}")

    def kills(self, name: str, num_random: int, every: int) -> None:
        """SIGKILL at calls that change names, and at random moments."""
        clean, calls, _, seconds = self.undisturbed(name)
        moments: list[tuple[str, int, float | None]] = [
            ("kill at call", at, None) for at in range(1, calls + 1, every)
        ]
        moments += [("kill at moment", -1, self.rng.uniform(0, seconds)) for _ in range(num_random)]
        for kind, at, moment in moments:
            with self.fresh() as out:
                log = self.work / "killed.log"
                self.wait(self.start(self.words(VERBS[name], out), log, at), log, moment)
                self.after(kind, name, out, clean, f"at {at if moment is None else moment}")

    def disk(self, name: str, num_sizes: int) -> None:
        """The disk is full after so many bytes."""
        clean, _, written, _ = self.undisturbed(name)
        for step in range(num_sizes):
            with self.fresh() as out:
                size = written * step // num_sizes
                trial = self.run(self.words(VERBS[name], out), space=size)
                if not trial.refused:
                    found = "no error" if trial.status == 0 else "unclear error"
                    self.count("full disk, said", name, found, trial.said[-300:])
                else:
                    self.count("full disk, said", name, "refused")
                self.after("full disk, again", name, out, clean, f"after {size} bytes")

    def flips(self, name: str, num_places: int) -> None:
        """One bit of an input file is flipped."""
        clean, *_ = self.undisturbed(name)
        files = [
            file.relative_to(self.base)
            for read in VERBS[name].reads
            for file in (
                [self.base / read]
                if (self.base / read).is_file()
                else (self.base / read).rglob("*")
            )
            if file.is_file()
        ]
        for file in files:
            for _ in range(num_places):
                damaged = self.work / "damaged"
                shutil.rmtree(damaged, ignore_errors=True)
                shutil.copytree(self.base, damaged)
                content = bytearray((damaged / file).read_bytes())
                place = self.rng.randrange(len(content))
                content[place] ^= 1 << self.rng.randrange(8)
                (damaged / file).write_bytes(content)
                with self.fresh() as out:
                    trial = self.run(self.words(VERBS[name], out, damaged))
                    kind = f"flipped bit in {file.parts[0]}"
                    detail = f"{file} byte {place}: {trial.said[-200:]}"
                    if trial.refused:
                        self.count(kind, name, "refused")
                    elif trial.status != 0:
                        self.count(kind, name, "crashed", detail)
                    else:
                        found = "unaffected" if _same_but_hashes(tree(out), clean) else "silent"
                        self.count(kind, name, found, detail)

    def race(self, name: str) -> None:
        """Two processes begin at once, with other options or with the same."""
        verb = VERBS[name]
        first, *_ = self.undisturbed(name)
        other = self.rng.choice((verb.other, ""))
        second = self.undisturbed(name, other)[0] if other else first
        with self.fresh() as out:
            logs = [self.work / f"race-{i}.log" for i in range(2)]
            pids = [
                self.start(self.words(verb, out, more=more), log)
                for more, log in zip(("", other), logs, strict=True)
            ]
            trials = [self.wait(pid, log) for pid, log in zip(pids, logs, strict=True)]
            done = sum(trial.status == 0 for trial in trials)
            made = tree(out)
            if made != first and made != second:
                self.count("race", name, "mixed", f"{other!r}: {[t.said[-150:] for t in trials]}")
            elif done == 2:
                self.count("race", name, "both done")
            elif done == 1 and any(trial.refused for trial in trials):
                self.count("race", name, "one done, one refused")
            else:
                self.count("race", name, "crashed", str([t.said[-150:] for t in trials]))

    def fresh(self) -> "_Fresh":
        """A new folder for a trial's output, always of the same name."""
        return _Fresh(self.work / "out")


class _Fresh:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Path:
        shutil.rmtree(self._path, ignore_errors=True)
        self._path.mkdir()
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def tree(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder, without times, rates and the folder's own name."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        content = path.read_bytes().replace(str(folder).encode(), b"OUT")
        if path.suffix == ".json":
            content = json.dumps(_steady(json.loads(content)), sort_keys=True).encode()
        files[str(path.relative_to(folder))] = _TIMES.sub(b"", content)
    return files


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(item) for key, item in value.items() if key not in _VOLATILE}
    return [_steady(item) for item in value] if isinstance(value, list) else value


def _same_but_hashes(made: dict[str, bytes], clean: dict[str, bytes]) -> bool:
    """Whether all but the manifests is alike: those name the inputs and their hashes."""
    return all(
        made.get(path) == content for path, content in clean.items() if not path.endswith(".json")
    )


def _preloaded(work: Path) -> Iterator[str]:
    """Compile the faults, and yield the environment's entry that preloads them."""
    library = work / "faults.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, _SHIM, "-ldl"], check=True)
    yield str(library)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials, and print the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="random moments for each verb")
    parser.add_argument("--every", type=int, default=1, help="kill at each n-th call only")
    parser.add_argument("--sizes", type=int, default=20, help="sizes of the disk")
    parser.add_argument("--flips", type=int, default=10, help="places in each file")
    parser.add_argument("--races", type=int, default=100, help="pairs of processes")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--slow", type=int, default=5, help="so many times fewer trials of slow verbs"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if "FAULTS_WORK" not in os.environ:
        with tempfile.TemporaryDirectory(prefix="pycat-chaos-") as work:
            library = next(_preloaded(Path(work)))
            environment = os.environ | {
                "LD_PRELOAD": library,
                "FAULTS_WORK": work,
                "OMP_NUM_THREADS": "1",
            }
            command = [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv)]
            return subprocess.run(command, env=environment).returncode
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    _import_everything()
    from pycat.runtime.children import end_with_parent

    end_with_parent(os.getppid())
    chaos = Chaos(Path(os.environ["FAULTS_WORK"]), options.threads, options.seed)
    began = time.monotonic()
    chaos.make_base()
    for name in options.verbs:
        share = options.slow if name in _SLOW else 1
        chaos.kills(name, options.kills // share, options.every * share)
        chaos.disk(name, max(1, options.sizes // share))
        if options.flips:
            chaos.flips(name, options.flips)
        print(
            f"{name}: {time.monotonic() - began:,.0f} s, so far {_said(chaos.counts)}", flush=True
        )
    racing = [name for name in options.verbs if VERBS[name].other]
    for i in range(options.races if racing else 0):
        chaos.race(racing[i % len(racing)])
    for kind, found in sorted(chaos.counts.items()):
        print(f"{kind:<32} " + ", ".join(f"{what} {n:,}" for what, n in sorted(found.items())))
    for fault in chaos.faults[:40]:
        print(f"  {fault}")
    result = {
        "bench": "chaos",
        "seconds": round(time.monotonic() - began),
        "threads": options.threads,
        "verbs": options.verbs,
        "counts": {kind: dict(found) for kind, found in sorted(chaos.counts.items())},
        "num_faults": len(chaos.faults),
    }
    print(json.dumps(result))
    return 0


def _said(counts: dict[str, Counter[str]]) -> str:
    return "; ".join(f"{kind}: {dict(found)}" for kind, found in sorted(counts.items()))


def _import_everything() -> None:
    """Import what the verbs import late, so that each trial begins with its work."""
    import importlib

    import pycat

    for name in pycat.__all__:
        getattr(pycat, name)
    for module in ("pycat.cli.main", "pycat.report.page", "pycat.cli.pair_view", "multiprocessing"):
        importlib.import_module(module)


if __name__ == "__main__":
    sys.exit(main())
