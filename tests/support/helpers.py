"""The invented language pair of the tests, and the types of their fixtures."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

import pycat

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


# The paper's method: the criterion alone, without what drops likely noise first.
PLAIN: dict[str, Any] = {"by": "cat_var", "rules": "none", "guard": 0.0}
plain_select = partial(pycat.select, by="cat_var", rules="none", guard=0.0)

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


def bpe_corpus(folder: Path, pairs: list[tuple[str, str]]) -> pycat.Corpus:
    """A corpus of these pairs as folder/corpus, with a small BPE vocabulary of its own."""
    src, tgt = write_lines(folder, pairs, "text")
    return pycat.tokenize(src, tgt, out=folder / "corpus", vocab_size=400, model_type="bpe")


def write_lines(folder: Path, pairs: list[tuple[str, str]], name: str) -> tuple[Path, Path]:
    src, tgt = folder / f"{name}.en", folder / f"{name}.de"
    src.write_text("".join(f"{pair[0]}\n" for pair in pairs), "utf-8")
    tgt.write_text("".join(f"{pair[1]}\n" for pair in pairs), "utf-8")
    return src, tgt


def damage_column(file: Path, name: str) -> None:
    """Change the last byte that a Parquet file of one row group holds of a column."""
    group = pq.read_metadata(file).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    content = bytearray(file.read_bytes())
    content[columns[name].data_page_offset + columns[name].total_compressed_size - 1] ^= 1
    file.write_bytes(content)
