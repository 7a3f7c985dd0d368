"""Chaos: each verb is killed, runs out of disk, meets damage and rivals; then it is run once more.

    python bench/chaos.py [--work FOLDER] [--minutes X] [--kills N] [--sizes N] [--flips N] …

Afterwards the same command has to end in the bytes of an undisturbed run, with no other file beside
them, or in a clear refusal.

    kill at call    SIGKILL at each call that creates, renames or removes a name
    kill at moment  SIGKILL at N random moments between the first and the last change
    full disk       the disk is full in the midst of a write, for N of the verb's writes
    flipped bit     one bit of an input file is flipped, at N places of each file
    race            two processes, with other options or the same, begin at once, N times in all

A process that has imported everything forks one for each trial, and that one its workers, so that
a trial takes as long as its work; the proxy is a small one. A kill which leaves a state of the
output that was resumed before is not followed by another run; the table counts such kills apart.

`--work` keeps a log of finished trials, `trials.jsonl`: the same command goes on with the others.
With `--minutes`, it stops after a while; verbs get the same time each. The last line is one JSON
object, and the exit status is 1 where a trial found a fault.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any
from unittest.mock import patch

from chaos_trials import GOOD, PART_PAIRS, VERBS, Outcome, Trial, Trials, load_modules
from small_parts import small_parts

_SHIM = Path(__file__).with_name("faults.c")
KINDS = ("kill at call", "kill at moment", "full disk", "flipped bit", "race")


class Log:
    """Finished trials, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: dict[Trial, Outcome] = {}
        self.seconds: Counter[str] = Counter()
        path.touch()
        # The last line of a killed run may be half of one.
        whole, end, _ = path.read_text().rpartition("\n")
        path.write_text(whole + end)
        for line in whole.splitlines():
            self._take(json.loads(line))

    def _take(self, entry: dict[str, Any]) -> None:
        trial = Trial(entry["verb"], entry["kind"], entry["place"])
        self.outcomes[trial] = Outcome(entry["found"], entry["detail"], entry["state"])
        self.seconds[trial.verb] += entry["seconds"]

    def add(self, trial: Trial, outcome: Outcome, seconds: float) -> None:
        """Write what came of a trial."""
        entry = {**trial._asdict(), **outcome._asdict(), "seconds": round(seconds, 3)}
        with self.path.open("a") as file:
            file.write(f"{json.dumps(entry)}\n")
        self._take(entry)

    @property
    def states(self) -> set[tuple[str, str]]:
        """States that were resumed: verb and hash."""
        return {(trial.verb, done.state) for trial, done in self.outcomes.items() if done.state}


def planned(trials: Trials, options: argparse.Namespace) -> dict[str, list[Trial]]:
    """All trials of each verb: of each kind in turn, at a random place."""
    plan: dict[str, list[Trial]] = {}
    racing = [name for name in options.verbs if VERBS[name].other]
    for name in options.verbs:
        places = {
            "kill at call": range(1, trials.clean(name).calls + 1, options.every),
            "kill at moment": range(options.kills),
            "full disk": [f"{step}/{options.sizes}" for step in range(options.sizes)],
            "flipped bit": [
                f"{file} {place}"
                for file in trials.files_read(name)
                for place in range(options.flips)
            ],
            "race": [i for i in range(options.races) if racing and racing[i % len(racing)] == name],
        }
        rng, of_kinds = random.Random(options.seed), []
        for kind in KINDS:
            of_kinds.append([Trial(name, kind, str(place)) for place in places[kind]])
            rng.shuffle(of_kinds[-1])
        plan[name] = [trial for row in zip_longest(*of_kinds) for trial in row if trial]
    return plan


def make_trials(
    trials: Trials, plan: dict[str, list[Trial]], log: Log, minutes: float | None
) -> None:
    """Make those that are not in the log; next comes the verb that has had the least time."""
    left = {
        name: [trial for trial in reversed(planned_ones) if trial not in log.outcomes]
        for name, planned_ones in plan.items()
    }
    began = time.monotonic()
    while names := [name for name in left if left[name]]:
        if minutes is not None and time.monotonic() - began > 60 * minutes:
            return
        trial = left[min(names, key=lambda name: log.seconds[name])].pop()
        before = _processor_time()
        outcome = trials.try_one(trial)
        log.add(trial, outcome, _processor_time() - before)
        if outcome.found not in GOOD:
            print(f"{' '.join(trial)}: {outcome.found} {outcome.detail}"[:600], flush=True)


def _processor_time() -> float:
    """Seconds of this process, and of those that it has waited for."""
    return sum(os.times()[:4])


def table(plan: dict[str, list[Trial]], log: Log) -> list[str]:
    """A row for each verb and kind of fault: trials made and planned, and what came of them."""
    rows = ["| verb | fault | trials | of | came of it |", "|---|---|---|---|---|"]
    for name, trials in plan.items():
        for kind in KINDS:
            of_kind = [trial for trial in trials if trial.kind == kind]
            found = Counter(log.outcomes[trial].found for trial in of_kind if trial in log.outcomes)
            if of_kind:
                rows.append(
                    f"| {name} | {kind} | {found.total():,} | {len(of_kind):,} | {_said(found)} |"
                )
    return rows


def _said(found: Counter[str]) -> str:
    return ", ".join(f"{num:,} {what}" for what, num in found.most_common())


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="keep inputs and finished trials here")
    parser.add_argument("--minutes", type=float, help="stop after so many")
    parser.add_argument("--kills", type=int, default=1000, help="random moments for each verb")
    parser.add_argument("--every", type=int, default=1, help="kill at each n-th call only")
    parser.add_argument("--sizes", type=int, default=20, help="sizes of the disk")
    parser.add_argument("--flips", type=int, default=10, help="places in each file")
    parser.add_argument("--races", type=int, default=100, help="pairs of processes")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def _preloaded(argv: Sequence[str], options: argparse.Namespace) -> int:
    """Run this file again, with the faults preloaded."""
    with tempfile.TemporaryDirectory(prefix="pycat-chaos-") as scratch:
        library = Path(scratch) / "faults.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, _SHIM, "-ldl"], check=True)
        work = (options.work or Path(scratch) / "work").absolute()
        work.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "LD_PRELOAD": str(library),
            "FAULTS_WORK": str(work),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run([sys.executable, __file__, *argv], env=environment).returncode


def _import_everything() -> None:
    """Import what verbs import late, and make the tables that they keep."""
    import pycat
    from pycat.filters.code_points import code_points
    from pycat.filters.language import language_model

    load_modules([f"pycat.{name}" for name in ("cli.main", "report.page", "cli.pair_view")])
    for name in pycat.__all__:
        getattr(pycat, name)
    code_points()
    language_model()


@contextmanager
def _small_work() -> Iterator[None]:
    """Small parts of all verbs, and small proxies."""
    from pycat.proxy.transformer import PRESETS
    from pycat.scoring import clusters

    shape = {"d_model": 32, "num_heads": 2, "d_ff": 64, "num_layers": 1}
    with (
        small_parts(PART_PAIRS),
        patch.multiple(clusters, _SAMPLE=200, _BATCH_TOKENS=512, _PART_BATCHES=2),
        patch.dict(PRESETS, mini=shape),
    ):
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials, and print the counts."""
    options = _options(argv)
    if "FAULTS_WORK" not in os.environ:
        return _preloaded(sys.argv[1:] if argv is None else argv, options)
    work = Path(os.environ["FAULTS_WORK"])
    _import_everything()
    from pycat.runtime.children import end_with_parent

    end_with_parent(os.getppid())
    began = time.monotonic()
    log = Log(work / "trials.jsonl")
    with _small_work():
        trials = Trials(work, options.threads, options.seed, log.states)
        trials.make_base()
        plan = planned(trials, options)
        make_trials(trials, plan, log, options.minutes)
    print("\n".join(table(plan, log)))
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    faults = []
    for trial in (trial for planned_ones in plan.values() for trial in planned_ones):
        if outcome := log.outcomes.get(trial):
            counts[trial.kind][outcome.found] += 1
            if outcome.found not in GOOD:
                faults.append(f"{' '.join(trial)}: {outcome.found} {outcome.detail}"[:600])
    print("\n".join(f"  {fault}" for fault in faults[:40]))
    result = {
        "bench": "chaos",
        "seconds": round(time.monotonic() - began),
        "threads": options.threads,
        "verbs": options.verbs,
        "num_trials": sum(map(Counter.total, counts.values())),
        "num_planned": sum(map(len, plan.values())),
        "counts": {kind: dict(found) for kind, found in counts.items()},
        "num_faults": len(faults),
    }
    print(json.dumps(result))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
