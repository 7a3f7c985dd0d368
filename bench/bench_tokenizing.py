"""Time tokenizing a text into a corpus folder against SentencePiece alone, all lines in memory.

python bench/bench_tokenizing.py [--pairs N] [--quick]
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
import sentencepiece
from harness import processor_name, ratio, spread, time_in_turn
from numpy.typing import NDArray

import pycat
from pycat.data.parallel_text import ParallelText
from pycat.data.tokenizer import train_tokenizer

NUM_WORDS = 50_000
MEAN_WORDS = 13
VOCAB_SIZE = 8000
SYLLABLES = (
    "ba be bi da der di en er fu ge gö hi in ka ku le li ma mi na ni or pa ri sch ta ti ü ver wa"
)


def synthesise(folder: Path, num_pairs: int) -> tuple[Path, Path]:
    """Words of a few syllables with Zipf's frequencies, log-normally many a line, as text has."""
    rng = np.random.default_rng(1)
    syllables = np.array(SYLLABLES.split())
    words = np.array(
        [
            "".join(syllables[rng.integers(0, len(syllables), n)])
            for n in rng.integers(1, 5, NUM_WORDS)
        ]
    )
    share = 1 / np.arange(1, NUM_WORDS + 1)
    paths = folder / "text.aa", folder / "text.bb"
    for path in paths:
        with path.open("w", encoding="utf-8") as file:
            for begin in range(0, num_pairs, 10_000):
                num_lines = min(10_000, num_pairs - begin)
                lengths = np.clip(rng.lognormal(np.log(MEAN_WORDS) - 0.2, 0.6, num_lines), 1, 120)
                ends = np.cumsum(lengths.astype(np.int64))
                drawn = words[rng.choice(NUM_WORDS, ends[-1], p=share / share.sum())]
                file.writelines(" ".join(line) + "\n" for line in np.split(drawn, ends[:-1]))
    return paths


def bare_lines(paths: tuple[Path, Path]) -> list[list[str]]:
    return [path.read_text("utf-8").split("\n")[:-1] for path in paths]


def check_equal(
    corpus: pycat.Corpus, model: sentencepiece.SentencePieceProcessor, lines: list[list[str]]
) -> None:
    """Every id of the first and last thousand pairs, and the length of all."""
    for side, lengths in ((0, corpus.num_src_tokens), (1, corpus.num_tokens)):
        rows = model.encode(lines[side], num_threads=os.cpu_count(), add_eos=True)
        if lengths.tolist() != [len(row) for row in rows]:
            sys.exit("pycat.tokenize gives other lengths than SentencePiece")
        for ids in (corpus.pair_ids[:1000], corpus.pair_ids[-1000:]):
            batch = corpus.read(ids)
            found = (batch.src_tokens, batch.tgt_tokens)[side].tolist()
            if found != [token for i in ids for token in rows[i]]:
                sys.exit("pycat.tokenize gives other ids than SentencePiece")


def peak_mb(paths: tuple[Path, Path], model: Path, folder: Path) -> list[float]:
    """Peak memory of a fresh process after importing pycat, and after tokenizing as well."""
    script = (
        "import sys, pycat\n"
        "sys.path.append(sys.argv[5])\n"
        "from harness import resident_mb\n"
        "before = resident_mb('VmHWM')\n"
        "pycat.tokenize(*sys.argv[1:3], tokenizer=sys.argv[3], out=sys.argv[4])\n"
        "print(before, resident_mb('VmHWM'))\n"
    )
    arguments = (*paths, model, folder, Path(__file__).parent)
    command = [sys.executable, "-P", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(number) for number in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400_000, help="pairs to synthesise")
    parser.add_argument("--quick", action="store_true", help="40,000 pairs, few rounds")
    options = parser.parse_args()
    num_pairs = 40_000 if options.quick else options.pairs
    num_threads = len(os.sched_getaffinity(0))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = synthesise(folder, num_pairs)
        lines = bare_lines(paths)
        sample = (line.encode() for side in lines for line in side[:20_000])
        model_path = train_tokenizer(
            sample, folder / "given.model", vocab_size=VOCAB_SIZE, model_type="unigram"
        ).path
        model = sentencepiece.SentencePieceProcessor(model_file=str(model_path))
        check_equal(
            pycat.tokenize(*paths, out=folder / "check", tokenizer=model_path), model, lines
        )

        calls = iter(range(1_000_000))

        def tokenize(threads: int | None = None) -> pycat.Corpus:
            out = folder / f"corpus{next(calls)}"
            return pycat.tokenize(*paths, out=out, tokenizer=model_path, num_threads=threads)

        elapsed_s = time_in_turn(
            {
                "pycat": tokenize,
                "pycat, 1 thread": lambda: tokenize(1),
                "sentencepiece": lambda: [
                    model.encode(side, num_threads=num_threads) for side in lines
                ],
                "reading alone": lambda: sum(
                    len(chunk) for chunk in ParallelText.of(*paths, None).chunks()
                ),
            },
            3 if options.quick else 7,
        )
        import_mb, tokenize_mb = peak_mb(paths, model_path, folder / "memory")
    report(num_pairs, num_threads, elapsed_s, import_mb, tokenize_mb)


def report(
    num_pairs: int,
    num_threads: int,
    elapsed_s: dict[str, NDArray[np.float64]],
    import_mb: float,
    tokenize_mb: float,
) -> None:
    print(f"{num_pairs:,} pairs, {num_threads} cores; sentencepiece: ids as lists, lines in memory")
    print(f"{'':16}{'seconds':>9}{'p10':>8}{'p90':>8}{'CPU s':>8}{'pairs/s':>10}")
    for name, (wall, cpu) in elapsed_s.items():
        p10, median, p90 = spread(wall)
        print(
            f"{name:16}{median:9.3f}{p10:8.3f}{p90:8.3f}{np.median(cpu):8.3f}"
            f"{num_pairs / median:10,.0f}"
        )
    print(f"peak memory: {import_mb:.0f} MB after import, {tokenize_mb:.0f} MB after tokenizing")
    ours, bare = elapsed_s["pycat"], elapsed_s["sentencepiece"]
    result = {
        "bench": "tokenizing",
        "machine": processor_name(),
        "python": platform.python_version(),
        "sentencepiece": sentencepiece.__version__,
        "num_pairs": num_pairs,
        "num_cores": num_threads,
        "pairs_per_s": round(num_pairs / float(np.median(ours[0]))),
        "over_sentencepiece": ratio(bare[0], ours[0]),
        "cpu_over_sentencepiece": ratio(bare[1], ours[1]),
        "import_mb": round(import_mb),
        "peak_mb": round(tokenize_mb),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
