"""Time measuring the rules of a text against tokenizing it, and what it holds in memory.

python bench/bench_rules.py [--pairs N | --tsv TEXT --languages en de] [--quick]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from bench_tokenizing import VOCAB_SIZE, synthesise
from corpus_memory import peak_while
from harness import processor_name, ratio, spread, time_in_turn

import pycat
from pycat.filters.code_points import code_points
from pycat.filters.language import language_model
from pycat.filters.rule_measures import measure_text

# The text is repeated so often that its memory exceeds a few MB of buffers by far.
NUM_COPIES = 16


def measured(corpus: pycat.Corpus, num_threads: int | None) -> bytes:
    """What the rules compare of a corpus, as bytes of the file, which is written beside it."""
    file = corpus.path.with_name("rules.parquet")
    measure_text(corpus, file, num_threads=num_threads)
    return file.read_bytes()


def bytes_a_pair(corpus: pycat.Corpus) -> float:
    """Peak of private memory that a process which only measures gains, for each pair."""
    command = [sys.executable, __file__, "--memory-of", str(corpus.path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return float(json.loads(done.stdout)["private_mb"]) * 2**20 / len(corpus)


def memory_of(folder: str) -> None:
    """Print what measuring gains in a process whose tables and libraries are loaded."""
    corpus = pycat.open_corpus(folder)
    corpus.text()
    language_model()
    code_points()
    print(
        json.dumps(peak_while(lambda: measure_text(corpus, corpus.path.with_name("rules.parquet"))))
    )


def repeated(path: Path, times: int, out: Path) -> Path:
    """A plain text several times over."""
    with out.open("wb") as file:
        for _ in range(times):
            file.write(path.read_bytes())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200_000, help="pairs to synthesise")
    parser.add_argument("--tsv", type=Path, help="measure this text instead")
    parser.add_argument("--languages", nargs=2, default=("en", "de"), help="its codes")
    parser.add_argument("--quick", action="store_true", help="20,000 pairs, few rounds")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        memory_of(options.memory_of)
        return
    languages = tuple(options.languages)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        src, tgt = synthesise(folder, 20_000 if options.quick else options.pairs)
        text = {"tsv": options.tsv} if options.tsv else {"src": src, "tgt": tgt}
        corpus = pycat.tokenize(
            **text, out=folder / "corpus", languages=languages, vocab_size=VOCAB_SIZE
        )
        tokenizer = corpus.path / "tokenizer.model"
        if measured(corpus, 1) != measured(corpus, 3):
            sys.exit("the rules differ with the number of threads")

        calls = iter(range(1_000_000))

        def tokenize() -> pycat.Corpus:
            out = folder / f"corpus{next(calls)}"
            return pycat.tokenize(
                **text, out=out, languages=languages, tokenizer=tokenizer, num_threads=1
            )

        elapsed_s = time_in_turn(
            {"rules": lambda: measured(corpus, 1), "tokenizing": tokenize},
            2 if options.quick else 5,
        )
        large = pycat.tokenize(
            repeated(src, NUM_COPIES, folder / "large.aa"),
            repeated(tgt, NUM_COPIES, folder / "large.bb"),
            out=folder / "large",
            languages=languages,
            tokenizer=tokenizer,
        )
        private_bytes = bytes_a_pair(large)
        num_large = len(large)

    num_pairs = len(corpus)
    print(f"{num_pairs:,} pairs, one thread; {len(os.sched_getaffinity(0))} cores")
    print(f"{'':12}{'CPU s per 100,000 pairs':>25}{'p10':>8}{'p90':>8}")
    for what, (_, cpu) in elapsed_s.items():
        p10, median, p90 = spread(cpu / num_pairs * 1e5)
        print(f"{what:12}{median:25.3f}{p10:8.3f}{p90:8.3f}")
    print(f"memory: {private_bytes:.0f} bytes a pair of {num_large:,}")
    rules, tokenizing = (cpu for _, cpu in elapsed_s.values())
    result = {
        "bench": "rules",
        "machine": processor_name(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "num_pairs": num_pairs,
        "cpu_s_per_100k": round(float(np.median(rules)) / num_pairs * 1e5, 3),
        "cpu_over_tokenizing": ratio(rules, tokenizing),
        "bytes_a_pair": round(private_bytes),
        "bytes_a_pair_of": num_large,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
