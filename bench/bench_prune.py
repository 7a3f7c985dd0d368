"""`prune` end to end: seconds of each stage, their shares, and pairs a second.

python bench/bench_prune.py [--tsv FILE | --pairs N] [--languages en,de] [--device cpu|cuda]
                            [--train-dtype D] [--score-dtype D] [--quick] [--json FILE]

Without `--tsv` the text is made of random words, of lengths as in translations: times are those of
real text of that size, but what is kept means nothing. Each run begins with an empty folder.
"""

import argparse
import gzip
import json
import os
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from harness import device_name, resident_mb
from proxies import translation_lengths, word_frequencies

import pycat

NUM_WORDS = 20_000
SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]


def make_text(num_pairs: int, out: Path) -> None:
    """Random pairs: words of two to four syllables, as frequent as Zipf says, marked by side."""
    rng = np.random.default_rng(0)
    words = [
        "".join(SYLLABLES[i] for i in rng.integers(len(SYLLABLES), size=rng.integers(2, 5)))
        for _ in range(NUM_WORDS)
    ]
    shares = word_frequencies(NUM_WORDS)
    # A word is about 1.5 pieces.
    lengths = np.maximum(1, translation_lengths(num_pairs) * 2 // 3)
    with out.open("w", encoding="utf-8", newline="\n") as file:
        for src, tgt in lengths.T.tolist():
            drawn = rng.choice(NUM_WORDS, size=max(src, tgt), p=shares).tolist()
            left = " ".join(words[i] for i in drawn[:src])
            file.write(left + "\t" + " ".join(words[i] + "en" for i in drawn[:tgt]) + "\n")


def take_text(path: Path, num_pairs: int, out: Path) -> None:
    """The first pairs of a file, without further columns."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="\n") as file:
        rows = [line.rstrip("\n").split("\t")[:2] for line in islice(file, num_pairs)]
    out.write_text("".join("\t".join(row) + "\n" for row in rows), "utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tsv", type=Path)
    parser.add_argument("--pairs", type=int, default=16_000)
    parser.add_argument("--languages", default="en,de")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--train-dtype", default="auto")
    parser.add_argument("--score-dtype", default="auto")
    parser.add_argument("--quick", action="store_true", help="2,000 pairs.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.pairs = 2000
    with tempfile.TemporaryDirectory(prefix="pycat-") as folder:
        text = Path(folder) / "text.tsv"
        if options.tsv is None:
            make_text(options.pairs, text)
        else:
            take_text(options.tsv, options.pairs, text)
        started, cpu = time.perf_counter(), os.times()
        pruned = pycat.prune(
            tsv=text,
            out=Path(folder) / "work",
            tokenize_options={"languages": tuple(options.languages.split(","))},
            train_options={"device": options.device, "dtype": options.train_dtype},
            score_options={"device": options.device, "dtype": options.score_dtype},
            rules="default" if options.tsv is not None else "none",
        )
        elapsed_s = time.perf_counter() - started
        after = os.times()
        cpu_s = sum(after[:4]) - sum(cpu[:4])
    stages: dict[str, float] = dict(pruned.timings)
    stages["clusters, text and report"] = elapsed_s - sum(stages.values())
    width = max(map(len, stages))
    for stage, seconds in stages.items():
        print(f"{stage:<{width}} {seconds:9.1f} s {seconds / elapsed_s:6.1%}")
    num_pairs = len(pruned.corpus)
    assert pruned.run is not None
    result: dict[str, Any] = {
        "bench": "prune",
        "pairs": num_pairs,
        "target_tokens": int(pruned.corpus.num_tokens.sum()),
        "preset": pruned.run.manifest["recipe"]["preset"],
        "updates": pruned.run.steps[-1],
        "dtypes": [pruned.run.manifest["recipe"]["dtype"], options.score_dtype],
        "stages_s": {stage: round(seconds, 2) for stage, seconds in stages.items()},
        "elapsed_s": round(elapsed_s, 1),
        "processor_s": round(cpu_s, 1),
        "pairs_per_s": round(num_pairs / elapsed_s, 1),
        "peak_mb": round(resident_mb("VmHWM")),
        "device": device_name("cuda" if options.device == "cuda" else "cpu"),
    }
    if options.json is not None:
        options.json.write_text(json.dumps(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
