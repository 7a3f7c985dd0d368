"""Fixtures of several test modules: a language pair small enough to learn, and scores of it."""

import os
import random
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import pycat
from pycat.output import OutputFolder
from pycat.score_table import part_path, write_part

EN_UNITS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
]
DE_UNITS = [
    *("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn"),
    *("elf", "zwölf", "dreizehn", "vierzehn", "fünfzehn", "sechzehn", "siebzehn", "achtzehn"),
    "neunzehn",
]
EN_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
DE_TENS = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]


class ToyText(Protocol):
    """Writes `num_pairs` distinct pairs as `name`.en and `name`.de, and returns both paths."""

    def __call__(
        self, num_pairs: int = 300, *, seed: int = 0, name: str = "toy"
    ) -> tuple[Path, Path]: ...


class MakeScores(Protocol):
    """A score table of `corpus` with these nll (N, K): in the folder `out`, or in memory."""

    def __call__(
        self, corpus: pycat.Corpus, nll: NDArray[np.float64], out: Path | None = None
    ) -> pycat.ScoreTable: ...


SmallDisk = Callable[[int], Path]
FileSizeLimit = Callable[[int], AbstractContextManager[None]]


def number_pair(number: int) -> tuple[str, str]:
    """A number from 0 to 9,999 in English words and as one German word."""
    en, de = [], ""
    for size, en_name, de_name in ((1000, "thousand", "tausend"), (100, "hundred", "hundert")):
        if number >= size and (count := number // size % 10):
            en += [EN_UNITS[count], en_name]
            de += DE_UNITS[count].removesuffix("s" if count == 1 else "") + de_name
    rest = number % 100
    if rest >= 20:
        tens, unit = divmod(rest, 10)
        en.append(EN_TENS[tens - 2])
        en += [EN_UNITS[unit]] if unit else []
        de += (DE_UNITS[unit].removesuffix("s" if unit == 1 else "") + "und") if unit else ""
        de += DE_TENS[tens - 2]
    elif rest or not en:
        en.append(EN_UNITS[rest])
        de += DE_UNITS[rest]
    return " ".join(en), de


def toy_pairs(num_pairs: int, seed: int = 0) -> list[tuple[str, str]]:
    """Distinct pairs of the invented language pair; the same for the same arguments."""
    return [number_pair(n) for n in random.Random(seed).sample(range(10_000), num_pairs)]


def corpus_of(folder: Path, pairs: list[tuple[str, str]], tokenizer: Path) -> pycat.Corpus:
    """A corpus of these pairs in `folder`, with its text."""
    folder.mkdir(exist_ok=True)
    text = folder / "text.tsv"
    text.write_text("".join(f"{src}\t{tgt}\n" for src, tgt in pairs), "utf-8", newline="\n")
    return pycat.tokenize(
        tsv=text, out=folder / "corpus", tokenizer=tokenizer, languages=("en", "de")
    )


def write_lines(folder: Path, pairs: list[tuple[str, str]], name: str) -> tuple[Path, Path]:
    src, tgt = folder / f"{name}.en", folder / f"{name}.de"
    src.write_text("".join(f"{pair[0]}\n" for pair in pairs), "utf-8")
    tgt.write_text("".join(f"{pair[1]}\n" for pair in pairs), "utf-8")
    return src, tgt


@pytest.fixture
def toy_text(tmp_path: Path) -> ToyText:
    def write(num_pairs: int = 300, *, seed: int = 0, name: str = "toy") -> tuple[Path, Path]:
        return write_lines(tmp_path, toy_pairs(num_pairs, seed), name)

    return write


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> pycat.Corpus:
    """300 pairs; read only, shared by all tests."""
    folder = tmp_path_factory.mktemp("toy")
    src, tgt = write_lines(folder, toy_pairs(300), "toy")
    return pycat.tokenize(src, tgt, out=folder / "corpus", vocab_size=340)


@pytest.fixture(scope="session")
def toy_tokenizer(toy_corpus: pycat.Corpus) -> Path:
    """A model file to pass as `tokenizer`, which spares training one."""
    return toy_corpus.path / "tokenizer.model"


@pytest.fixture
def make_scores() -> MakeScores:
    def make(
        corpus: pycat.Corpus, nll: NDArray[np.float64], out: Path | None = None
    ) -> pycat.ScoreTable:
        columns = {
            "pair": corpus.pair_ids,
            "num_src_tokens": corpus.num_src_tokens,
            "num_tokens": corpus.num_tokens,
            **{f"nll_{k}": nll[:, k] for k in range(nll.shape[1])},
        }
        facts = {
            "corpus": corpus.manifest["id"],
            "num_pairs": len(corpus),
            "num_tokens": int(corpus.num_tokens.sum()),
            "steps": [10 * (k + 1) for k in range(nll.shape[1])],
        }
        recipe = {"corpus": corpus.id}
        if out is None:
            manifest = {"recipe": recipe, **facts, "corpus_path": str(corpus.path.resolve())}
            return pycat.ScoreTable.from_arrow(pa.table(columns), manifest)
        folder = OutputFolder(out, "scores", recipe, ("part-*.parquet",), overwrite=True)
        write_part(pa.table(columns), part_path(out, 0))
        corpus_path = os.path.relpath(corpus.path.resolve(), out.resolve())
        folder.finish(**facts, num_parts=1, corpus_path=corpus_path)
        return pycat.ScoreTable.open(out)

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real parallel text that lies beside the repository on some machines; none of it is in it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real parallel text is not on this machine")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mounts a file system of so many KiB, which can truly be full."""
    mounted: list[Path] = []

    def mount(kibibytes: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("needs the right to mount a tmpfs")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        # Lazily: a failed test may still hold a file of it open.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def file_size_limit() -> FileSizeLimit:
    """Inside the block no file can grow beyond so many bytes: write() fails with EFBIG."""

    @contextmanager
    def limit(num_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
