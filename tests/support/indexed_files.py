"""fairseq's binarised files, written field by field."""

import struct
from collections.abc import Sequence
from pathlib import Path

from pycat.data.corpus import Corpus

DE = [[4, 5, 2], [6, 2], [7, 4, 8, 2], [5, 2]]
EN = [[5, 2], [4, 5, 6, 2], [8, 2], [7, 7, 2]]
# Two lines of text and six that fill the size up to a multiple of 8.
DICT = "".join(f"{row}\n" for row in ("a 9", "b 3", *(f"madeupword{i:04} 0" for i in range(6))))
CODES = {8: "H", 4: "i", 9: "I"}


def write_indexed(prefix: Path, rows: Sequence[Sequence[int]], code: int = 8) -> None:
    """Write a pair of files as fairseq does, field by field."""
    size = struct.calcsize(CODES[code])
    lengths = [len(row) for row in rows]
    pointers = [size * sum(lengths[:i]) for i in range(len(rows))]
    tokens = [token for row in rows for token in row]
    Path(f"{prefix}.bin").write_bytes(struct.pack(f"<{len(tokens)}{CODES[code]}", *tokens))
    Path(f"{prefix}.idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQ", 1, code, len(rows))
        + struct.pack(f"<{len(rows)}i", *lengths)
        + struct.pack(f"<{len(rows)}q", *pointers)
    )


def write_split(folder: Path, name: str, *, code: int = 8, pairs: int = 4) -> None:
    """Write both sides of a split and their dictionaries; `name` is such as "train.de-en"."""
    folder.mkdir(exist_ok=True)
    for language, rows in zip(name.split(".")[1].split("-"), (DE, EN), strict=True):
        write_indexed(folder / f"{name}.{language}", rows[:pairs], code)
        (folder / f"dict.{language}.txt").write_text(DICT)


def rows_of(corpus: Corpus) -> list[tuple[list[int], list[int]]]:
    return [(src.tolist(), tgt.tolist()) for src, tgt in (corpus[i] for i in range(len(corpus)))]
