"""A corpus of random tokens on the disk, with lengths as text has them."""

import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from pycat import _core
from pycat.data.corpus import Corpus

VOCAB_SIZE = 8000
MEAN_LENGTH = 25
CHUNK = 200_000  # pairs synthesised at a time


def synthesise(folder: str, num_pairs: int) -> float:
    """Write log-normal lengths, correlated as in translations; the seconds spent writing."""
    rng = np.random.Generator(np.random.SFC64(1))
    sigma, correlation = 0.7, 0.9
    mu = np.log(MEAN_LENGTH) - sigma**2 / 2  # the mean of exp(normal) is exp(mu + sigma²/2)
    elapsed_s = 0.0
    with ExitStack() as stack:
        writers = [
            stack.enter_context(_core.IndexedWriter(f"{folder}/{side}", dtype="uint16"))
            for side in ("src", "tgt")
        ]
        for begin in range(0, num_pairs, CHUNK):
            normal = rng.standard_normal((2, min(CHUNK, num_pairs - begin)))
            normal[1] = correlation * normal[0] + np.sqrt(1 - correlation**2) * normal[1]
            for writer, row in zip(writers, normal, strict=True):
                lengths = np.exp(mu + sigma * row).clip(1, 250).astype(np.int32)
                tokens = rng.integers(4, VOCAB_SIZE, lengths.sum(), dtype=np.int32)
                start = time.perf_counter()
                writer.append(tokens, lengths)
                elapsed_s += time.perf_counter() - start
        start = time.perf_counter()
        for writer in writers:
            writer.close()
    return elapsed_s + time.perf_counter() - start


def open_both(
    folder: str, *, checksums: bool = False
) -> tuple[_core.IndexedFile, _core.IndexedFile]:
    """Open both sides, with the `checksums` of their blocks where `write_checksums` wrote them."""
    src, tgt = (
        _core.IndexedFile(
            f"{folder}/{side}",
            vocab_size=VOCAB_SIZE,
            checksums=f"{folder}/{side}.sums" if checksums else None,
        )
        for side in ("src", "tgt")
    )
    return src, tgt


def write_checksums(folder: str) -> None:
    """Write the checksums of the blocks of both sides."""
    for side in ("src", "tgt"):
        _core.block_checksums(f"{folder}/{side}.bin").tofile(f"{folder}/{side}.sums")


def open_corpus(folder: str) -> Corpus:
    src, tgt = open_both(folder)
    facts = {"languages": ["src", "tgt"], "vocab_size": VOCAB_SIZE, "eos_id": 2}
    return Corpus(Path(folder), {**facts, "num_pairs": len(src)}, src, tgt)
