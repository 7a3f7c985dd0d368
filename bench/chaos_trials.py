"""Trials of `chaos.py`: verbs, the processes that run them, the faults they meet, the judgement.

Faults are injected by `faults.c`, which is preloaded and sees every library.
"""

import ctypes
import hashlib
import importlib
import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_TIMEOUT_S = 300.0
_PROCESSOR_CLOCK = 2  # CLOCK_PROCESS_CPUTIME_ID: a kill is where it should be on a busy machine too
# Pairs of a part: the text has 300 pairs, and so every verb several parts.
PART_PAIRS = 120
# What differs from one run to the next: times and rates, and hashes over manifests that hold them.
_VOLATILE = (
    *("elapsed_s", "tokens_per_s", "flop_utilization", "made", "mtime_ns", "ledger"),
    "manifest_sha256",  # it follows those
    "report.html",  # the page has a table of times, and is compared without it
)
_TIMES = re.compile(
    rb"<h3>Time per stage</h3>.*?</table>|<h2>Where the time went</h2>.*?</table>"
    rb"|Pruning has paid for itself after .*?</p>",
    re.DOTALL,
)
# Temporary files have the id of their process in their name.
_OF_A_PROCESS = re.compile(r"\.[0-9]+\.tmp$")
_LOCK_FILE = ".pycat.lock"

# What may come of a trial.
GOOD = (
    *("same", "refused", "unaffected", "nothing written", "resumed before"),
    *("one done, one refused", "both done"),
)


class Verb(NamedTuple):
    """A verb on the inputs in `base`, which writes into `out`.

    Attributes:
        words: with {base} and {out}.
        reads: the folders and files of `base` that it reads.
        other: words appended for other options, in a race; empty for none.
        begins: folders of `base` of which `out` has a copy at first, for verbs that add to one.
    """

    words: str
    reads: tuple[str, ...] = ()
    other: str = ""
    begins: tuple[str, ...] = ()


_TOKENIZE = (
    "tokenize --src {base}/text.en --tgt {base}/text.de --out {out}/corpus "
    "--tokenizer {base}/corpus/tokenizer.model"
)
_MEASURE = "measure --corpus {base}/corpus --out {out}/measures"
_SCORE = "score --corpus {base}/corpus --checkpoints {base}/proxy --out {out}/scores --device cpu"
_CLUSTERS = (
    "clusters --scores {out}/scores --checkpoint {base}/proxy/step-0000004.safetensors "
    "--num-clusters 3 --device cpu"
)
_SMALL = "--preset mini --batch-tokens 256 --device cpu --dtype float32"

VERBS = {
    # Of the text that it reads nothing is on record, so no flipped bit can be told.
    "tokenize": Verb(_TOKENIZE, other="--max-tokens 9"),
    "tokenize-train": Verb(
        "tokenize --src {base}/text.en --tgt {base}/text.de --out {out}/corpus --vocab-size 340"
    ),
    "tokenize-2": Verb(f"{_TOKENIZE} --num-workers 2"),
    "measure": Verb(_MEASURE, ("corpus",)),
    "measure-2": Verb(f"{_MEASURE} --num-workers 2"),
    "train": Verb(
        "train --corpus {base}/corpus --out {out}/proxy --checkpoint-steps 1,2,4 " + _SMALL,
        ("corpus",),
        "--seed 7",
    ),
    "score": Verb(_SCORE, ("corpus", "proxy"), "--stats nll"),
    "score-2": Verb(f"{_SCORE} --num-workers 2"),
    "score-lines": Verb(
        "score --corpus {base}/corpus --checkpoints {base}/proxy --out {out}/lines.jsonl "
        "--format jsonl --device cpu --overwrite",
        ("corpus", "proxy"),
        "--per-token",
    ),
    "average": Verb(
        "average --scores {out}/scores {base}/scores --by cat_var --name mean",
        ("scores",),
        begins=("scores", "corpus"),
    ),
    "clusters": Verb(_CLUSTERS, ("corpus", "proxy"), begins=("scores", "corpus")),
    "clusters-2": Verb(f"{_CLUSTERS} --num-workers 2", begins=("scores", "corpus")),
    "cld": Verb(
        "cld --scores {out}/scores --checkpoints {base}/proxy "
        "--dev dev={base}/test.en,{base}/test.de --out {out}/cld --device cpu",
        begins=("scores", "corpus"),
    ),
    "trusted": Verb(
        "trusted --scores {out}/scores --checkpoint {base}/proxy/step-0000004.safetensors "
        "--trusted {base}/test.en,{base}/test.de --out {out}/trusted --updates 2 --device cpu",
        begins=("scores", "corpus"),
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
        "--out {out}/evaluation --seeds 1 --passes 1 --no-curve --arms random selected "
        f"--num-workers 2 {_SMALL}",
    ),
    "prune": Verb(
        "prune --src {base}/text.en --tgt {base}/text.de --out {out}/pruned --device cpu "
        "--tokenize-tokenizer {base}/corpus/tokenizer.model --train-checkpoint-steps 2,4 "
        "--train-preset mini --train-batch-tokens 256 --train-dtype float32",
        other="--keep 0.3 --seed 3",
    ),
}


class Trial(NamedTuple):
    """A trial: the verb, the kind of fault, and its place: a number, or a file and a number."""

    verb: str
    kind: str
    place: str


class Outcome(NamedTuple):
    """What came of a trial: one of `GOOD` or a fault, more of it, and the state it left."""

    found: str
    detail: str = ""
    state: str = ""


class Run(NamedTuple):
    """A finished process: its exit status, or minus the signal that ended it; and what it said."""

    status: int
    said: str

    @property
    def refused(self) -> bool:
        """Whether it ended with an error in one line, as for a user."""
        return self.status in (1, 2) and "Traceback" not in self.said and ": error: " in self.said


class Clean(NamedTuple):
    """An undisturbed run.

    Attributes:
        made: the files.
        calls: how many create, rename or remove a name.
        sums: bytes written, up to and with each write.
        span_ns: from the first change of a name or a file to the last.
    """

    made: dict[str, bytes]
    calls: int
    sums: list[int]
    span_ns: int


@dataclass
class Trials:
    """Trials of verbs in a folder, where `base` holds their inputs.

    Attributes:
        states: the states that a kill left and that were resumed, in this run or an earlier one:
            verb and hash.
    """

    work: Path
    num_threads: int
    seed: int
    states: set[tuple[str, str]]

    def __post_init__(self) -> None:
        self.shim = ctypes.CDLL(None)
        for name in ("faults_calls", "faults_writes", "faults_sum", "faults_span"):
            getattr(self.shim, name).restype = ctypes.c_long
        self.base = self.work / "base"
        self._clean: dict[tuple[str, str], Clean] = {}

    # Running.

    def _arm(self, *orders: int) -> None:
        self.shim.faults_arm(*(ctypes.c_long(order) for order in orders[:3]), orders[3])

    def start(
        self, words: Sequence[str], log: Path, at: int = -1, space: int = -1, moment: int = -1
    ) -> int:
        """Fork a process that runs a verb; returns its id, which is that of its group too.

        Args:
            words: of the command line.
            log: takes what it says. Beside it lie then its counts and the modules it loaded.
            at: the call at which it is killed.
            space: the bytes that fit on the disk.
            moment: nanoseconds after its first change at which it is killed: of its processor time,
                or of the day where other processes do the work.
        """
        log.unlink(missing_ok=True)
        pid = os.fork()
        if pid:
            return pid
        status = 70
        try:
            os.setsid()
            import torch

            torch.set_num_threads(self.num_threads)
            os.environ["OMP_NUM_THREADS"] = str(self.num_threads)
            # Workers are forked, since those that import everything take seconds to begin.
            forked = multiprocessing.get_context("fork")
            multiprocessing.get_context = lambda method=None: forked  # type: ignore[assignment]
            os.environ |= {"FAULTS_KILL_AT": str(at), "FAULTS_SPACE": str(space)}
            with log.open("w") as file:
                for descriptor in (1, 2):
                    os.dup2(file.fileno(), descriptor)
            from pycat.cli.main import main

            clock = time.CLOCK_MONOTONIC if "--num-workers" in words else _PROCESSOR_CLOCK
            self._arm(at, space, moment, clock)
            status = main(words)
            counts = {
                "calls": self.shim.faults_calls(),
                "sums": [self.shim.faults_sum(i) for i in range(self.shim.faults_writes())],
                "span_ns": self.shim.faults_span(),
                "modules": sorted(sys.modules),
            }
            self._arm(-1, -1, -1, clock)
            log.with_suffix(".counts").write_text(json.dumps(counts))
        except BaseException:
            import traceback

            log.write_text(traceback.format_exc())
        finally:
            os._exit(status)

    def wait(self, pid: int, log: Path) -> Run:
        """Wait for a process; one that hangs is killed."""
        began = time.monotonic()
        hung = False
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() - began > _TIMEOUT_S:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                hung = True
                break
            time.sleep(0.002)
        said = log.read_text("utf-8", "replace") if log.exists() else ""
        return Run(os.waitstatus_to_exitcode(status), f"hung: {said}" if hung else said)

    def run(self, words: Sequence[str], name: str = "run", **faults: int) -> Run:
        """Run a verb to its end."""
        log = self.work / f"{name}.log"
        return self.wait(self.start(words, log, **faults), log)

    def words(self, name: str, out: Path, base: Path | None = None, more: str = "") -> list[str]:
        """The words of a verb."""
        return f"{VERBS[name].words} {more}".format(base=base or self.base, out=out).split()

    def fresh(self, name: str, folder: str = "out") -> Path:
        """A new folder for the output of a verb, always of the same name."""
        out = self.work / folder
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        for begun_with in VERBS[name].begins:
            shutil.copytree(self.base / begun_with, out / begun_with)
        return out

    def make_base(self) -> None:
        """A small text, and what the verbs make of it; what is there already stays."""
        if (self.base / "complete").exists():
            return
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
        from helpers import toy_pairs, write_lines

        shutil.rmtree(self.base, ignore_errors=True)
        self.base.mkdir(parents=True)
        pairs = toy_pairs(400)
        write_lines(self.base, pairs[:300], "text")
        write_lines(self.base, pairs[300:], "test")
        for name in ("tokenize-train", "measure", "train", "score", "select"):
            run = self.run(self.words(name, self.base))
            if run.status != 0:
                raise RuntimeError(f"{name}: {run.said}")
        (self.base / "complete").touch()

    def clean(self, name: str, more: str = "") -> Clean:
        """What a verb does undisturbed; it is tried once, and kept for the next run."""
        kept = self.work / f"undisturbed-{name}{more}.pickle".replace(" ", "-")
        if kept.exists() and (name, more) not in self._clean:
            self._clean[name, more] = pickle.loads(kept.read_bytes())
        if (name, more) not in self._clean:
            # Twice: modules that the first run loads would be loaded in each trial.
            for _ in range(2):
                out = self.fresh(name, "clean")
                run = self.run(self.words(name, out, more=more), "clean")
                if run.status != 0:
                    raise RuntimeError(f"{name}: {run.said}")
                counts = json.loads((self.work / "clean.counts").read_text())
                load_modules(counts.pop("modules"))
            self._clean[name, more] = Clean(tree(out), **counts)
            partial = kept.with_suffix(".tmp")
            partial.write_bytes(pickle.dumps(self._clean[name, more]))
            partial.rename(kept)
        return self._clean[name, more]

    # Trials.

    def try_one(self, trial: Trial) -> Outcome:
        """Make a trial."""
        kinds: dict[str, Callable[[str, str, random.Random], Outcome]] = {
            "kill at call": self._kill_at_call,
            "kill at moment": self._kill_at_moment,
            "full disk": self._full_disk,
            "flipped bit": self._flipped_bit,
            "race": self._race,
        }
        return kinds[trial.kind](trial.verb, trial.place, random.Random(f"{self.seed} {trial}"))

    def files_read(self, name: str) -> list[Path]:
        """The files of `base` that a verb reads, relative to it."""
        read = [self.base / each for each in VERBS[name].reads]
        files = [file for each in read for file in ([each] if each.is_file() else each.rglob("*"))]
        return [file.relative_to(self.base) for file in sorted(files) if file.is_file()]

    def _kill_at_call(self, name: str, place: str, _: random.Random) -> Outcome:
        return self._killed(name, int(place), -1)

    def _kill_at_moment(self, name: str, _: str, rng: random.Random) -> Outcome:
        return self._killed(name, -1, rng.randrange(self.clean(name).span_ns))

    def _killed(self, name: str, at: int, moment: int) -> Outcome:
        self.clean(name)
        out, log = self.fresh(name), self.work / "killed.log"
        before = state_of(out)
        self.wait(self.start(self.words(name, out), log, at, moment=moment), log)
        state = state_of(out)
        if state == before:
            return Outcome("nothing written")
        if (name, state) in self.states:
            return Outcome("resumed before")
        outcome = self._again(name, out, f"at {at if moment < 0 else f'{moment} ns'}")
        self.states.add((name, state))
        return outcome._replace(state=state)

    def _full_disk(self, name: str, place: str, rng: random.Random) -> Outcome:
        step, num_sizes = map(int, place.split("/"))
        # So that any write may be the first that fails, large ones and small ones alike; the disk
        # has room for a part of it.
        sums = [0, *self.clean(name).sums]
        write = step * (len(sums) - 1) // num_sizes
        size = rng.randrange(sums[write], sums[write + 1])
        out = self.fresh(name)
        run = self.run(self.words(name, out), space=size)
        if not run.refused:
            return Outcome("no error" if run.status == 0 else "unclear error", run.said[-300:])
        return self._again(name, out, f"after {size} bytes")

    def _flipped_bit(self, name: str, place: str, rng: random.Random) -> Outcome:
        file = place.rpartition(" ")[0]
        damaged = self.work / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(self.base, damaged)
        content = bytearray((damaged / file).read_bytes())
        at = rng.randrange(len(content))
        content[at] ^= 1 << rng.randrange(8)
        (damaged / file).write_bytes(content)
        out = self.fresh(name)
        run = self.run(self.words(name, out, damaged))
        detail = f"byte {at}: {run.said[-200:]}"
        if run.refused:
            return Outcome("refused")
        if run.status != 0:
            return Outcome("crashed", detail)
        is_same = _same_but_hashes(tree(out), self.clean(name).made)
        return Outcome("unaffected") if is_same else Outcome("silent", detail)

    def _race(self, name: str, _: str, rng: random.Random) -> Outcome:
        """Two processes begin at once, with other options or with the same."""
        other = rng.choice((VERBS[name].other, ""))
        made_by_one = (self.clean(name).made, self.clean(name, other).made)
        out = self.fresh(name)
        logs = [self.work / f"race-{i}.log" for i in range(2)]
        pids = [
            self.start(self.words(name, out, more=more), log)
            for more, log in zip(("", other), logs, strict=True)
        ]
        runs = [self.wait(pid, log) for pid, log in zip(pids, logs, strict=True)]
        num_done = sum(run.status == 0 for run in runs)
        said = f"{other!r}: {[run.said[-150:] for run in runs]}"
        if tree(out) not in made_by_one:
            return Outcome("mixed", said)
        if num_done == 2:
            return Outcome("both done")
        if num_done == 1 and any(run.refused for run in runs):
            return Outcome("one done, one refused")
        return Outcome("crashed", said)

    def _again(self, name: str, out: Path, detail: str) -> Outcome:
        """Run the command once more, and judge what it makes."""
        run, expected = self.run(self.words(name, out)), self.clean(name).made
        if run.refused:
            return Outcome("refused", f"{detail}: {run.said[-300:]}")
        if run.status != 0:
            return Outcome("crashed", f"{detail}: {run.status} {run.said[-300:]}")
        made = tree(out)
        if made == expected:
            return Outcome("same")
        if made.keys() != expected.keys():
            return Outcome("other files", f"{detail}: {sorted(made.keys() ^ expected.keys())}")
        changed = [path for path in expected if made[path] != expected[path]]
        return Outcome("other bytes", f"{detail}: {changed}")


def load_modules(names: Sequence[str]) -> None:
    """Import what a trial imported, so that later ones need not."""
    for name in names:
        if name not in sys.modules:
            with suppress(Exception):  # those that others make have no file
                importlib.import_module(name)


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


def state_of(folder: Path) -> str:
    """A hash of names, modes and bytes below a folder; who held a lock does not count."""
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = _OF_A_PROCESS.sub(".tmp", str(path.relative_to(folder)))
        state.update(f"\0{name}\0{stat.S_IMODE(path.lstat().st_mode)}\0".encode())
        if path.is_file() and not name.endswith(_LOCK_FILE):
            content = path.read_bytes()
            if path.suffix == ".json":
                with suppress(ValueError):  # not whole: as it is
                    content = json.dumps(_steady(json.loads(content)), sort_keys=True).encode()
            state.update(hashlib.sha256(content).digest())
    return state.hexdigest()[:24]


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(item) for key, item in value.items() if key not in _VOLATILE}
    return [_steady(item) for item in value] if isinstance(value, list) else value


def _same_but_hashes(made: dict[str, bytes], clean: dict[str, bytes]) -> bool:
    """Whether two folders are alike but for their manifests, which name inputs and their hashes."""
    return all(
        made.get(path) == content for path, content in clean.items() if not path.endswith(".json")
    )
