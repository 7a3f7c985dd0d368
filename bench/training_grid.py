"""Rate, batch, dropout, warm-up and optimizer, chosen by dev loss on random pairs.

python bench/training_grid.py --tsv train.tsv.gz --dev dev.tsv.gz --work DIR
                              [--languages en,de] [--pairs N] [--passes X ...] [--preset NAME]
                              [--seeds N] [--json FILE]

A sweep tries the values of one option beside the best of the others so far, and keeps the one of
the lowest dev loss after the most passes. The pairs are drawn at random: no selection has a part
in the choice. One run serves all numbers of passes: its rate falls in a branch for each. Finished
runs in DIR are not made again, and an interrupted one goes on where it was. Rows have milliseconds
of processor time an update, over the runs that were made in this call.
"""

import argparse
import gzip
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import processor_name

import pycat
from pycat.data.same_tokenizer import text_beside, tokenize_alike
from pycat.evaluation.held_out import held_out_nll
from pycat.proxy.packing import PackedBatches
from pycat.proxy.schedules import num_updates
from pycat.proxy.trainer import Arm
from pycat.proxy.training import count_updates_done, train_together

START: dict[str, Any] = {
    "batch_tokens": 2048,
    "learning_rate": 2e-3,
    "dropout": 0.1,
    "warmup_share": 0.1,
    "optimizer": "adam",
}
SWEEPS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("learning_rate", (1e-3, 2e-3, 4e-3)),
    ("batch_tokens", (2048, 1024, 512)),
    ("dropout", (0.1, 0.0, 0.3)),
    ("learning_rate", (2e-3, 4e-3, 8e-3)),
    ("warmup_share", (0.1, 0.05, 0.2)),
    ("optimizer", ("adam", "muon")),
)


def random_pairs(path: Path, count: int, out: Path) -> Path:
    """A file of so many pairs of the text, drawn at random."""
    if not out.is_file():
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            lines = file.read().split("\n")[:-1]
        rows = [line.split("\t")[:2] for line in random.Random(0).sample(lines, count)]
        made = out.with_suffix(".tmp")
        made.write_text("".join("\t".join(row) + "\n" for row in rows), "utf-8", newline="\n")
        made.replace(out)
    return out


class Grid:
    """Runs of a grid in a folder: each point is trained and measured once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        work: Path = options.work
        work.mkdir(parents=True, exist_ok=True)
        languages = tuple(options.languages.split(","))
        text = random_pairs(options.tsv, options.pairs, work / "pairs.tsv")
        self.corpus = pycat.tokenize(tsv=text, out=work / "corpus", languages=languages)
        dev = text_beside(options.dev, self.corpus)
        self.dev = tokenize_alike(dev, self.corpus, work / "dev", overwrite=True)
        self.rows: list[dict[str, Any]] = []

    def loss(self, point: dict[str, Any]) -> float:
        """Dev loss after the most passes, mean over seeds; a row is added for a new point."""
        for row in self.rows:
            if all(row[name] == value for name, value in point.items()):
                return float(row["dev_loss"][-1])
        batches = PackedBatches(self.corpus, point["batch_tokens"]).num_batches
        budgets = [max(2, round(passes * batches)) for passes in self.options.passes]
        # Adam has no name in it: its runs of before there was a choice are found again.
        named = {key: value for key, value in point.items() if value != "adam"}
        name = "-".join(
            f"{key}={value}" if isinstance(value, str) else f"{key}={value:g}"
            for key, value in named.items()
        )
        options: dict[str, Any] = {
            "checkpoint_steps": budgets,
            "anneal_each": True,
            "preset": self.options.preset,
            "warmup": max(1, round(point["warmup_share"] * budgets[-1])),
            "device": "cpu",
            **{key: value for key, value in point.items() if key != "warmup_share"},
        }
        losses, seconds, update_ms = [], [], []
        for seed in range(self.options.seeds):
            arm = Arm(self.corpus, seed, self.options.work / name / f"seed-{seed}")
            updates = num_updates(budgets, anneal_each=True)
            is_new = count_updates_done([arm], **options) == 0
            started = time.process_time()
            (run,) = train_together([arm], **options)
            spent_ms = 1e3 * (time.process_time() - started)
            if is_new:
                update_ms.append(spent_ms / updates)
            nll = held_out_nll(self.dev, [run], "cpu")[0].sum(axis=1)  # (budgets,)
            losses.append(nll / self.dev.num_tokens.sum())
            seconds.append(run.manifest["elapsed_s"])
        row = {
            **point,
            "updates": budgets,
            "dev_loss": [round(float(loss), 4) for loss in np.mean(losses, axis=0)],
            "by_seed": [[round(float(loss), 4) for loss in own] for own in losses],
            "elapsed_s": round(float(np.mean(seconds)), 1),
            "update_ms": round(float(np.mean(update_ms)), 1) if update_ms else None,
        }
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        return float(row["dev_loss"][-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tsv", type=Path, required=True)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--languages", default="en,de")
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--passes", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    grid, best = Grid(options), dict(START)
    for name, values in SWEEPS:
        losses = {value: grid.loss({**best, name: value}) for value in values}
        best[name] = min(losses, key=lambda value: losses[value])
    result = {
        "bench": "training_grid",
        "preset": options.preset,
        "pairs": len(grid.corpus),
        "target_tokens": int(grid.corpus.num_tokens.sum()),
        "passes": options.passes,
        "best": best,
        "rows": grid.rows,
        "processor": processor_name(),
        "torch": torch.__version__,
    }
    if options.json is not None:
        options.json.write_text(json.dumps(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
