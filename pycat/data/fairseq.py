"""Data that fairseq binarised: a folder of MMIDIDX files with a dictionary for each language.

Each split and direction has the files `train.de-en.de.idx`, `.bin` and `train.de-en.en.idx`,
`.bin`; each language has a dictionary `dict.de.txt`. Ids 0 to 3 are `<s>`, `<pad>`, `</s>` and
`<unk>`, which the dictionary does not list; its line k, counted from 0, is id k + 4. EOS ends every
sequence.
"""

import hashlib
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

from pycat._core import IndexedFile
from pycat.errors import CorpusError
from pycat.runtime.output import digest

PAD_ID, EOS_ID = 1, 2
_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
_OVERWRITE = " #fairseq:overwrite"


class Direction(NamedTuple):
    """The parts of a file name: a split, and its source and target languages."""

    split: str
    src: str
    tgt: str


def is_data_bin(folder: Path) -> bool:
    """Whether the folder holds any file of fairseq's."""
    return bool(_directions(folder)) or any(folder.glob("dict.*.txt"))


def open_data_bin(
    folder: Path, split: str, languages: tuple[str, str] | None
) -> tuple[dict[str, Any], IndexedFile, IndexedFile]:
    """Open one split of a folder: the manifest that a corpus needs, source and target.

    Args:
        split: the first part of the file names; a shard such as `train1` is a split.
        languages: source and target, either way round; None if the folder has one direction.

    Raises:
        CorpusError: the folder lacks that split, those languages or a dictionary, holds more
            than one direction, or a file is damaged.
    """
    named = _choose(folder, split, languages)
    src_language, tgt_language = languages or (named.src, named.tgt)
    dictionaries = [_Dictionary(folder, name) for name in (src_language, tgt_language)]
    src, tgt = (
        IndexedFile(
            str(folder / f"{split}.{named.src}-{named.tgt}.{dictionary.language}"),
            vocab_size=dictionary.vocab_size,
        )
        for dictionary in dictionaries
    )
    hashes = [dictionary.sha256 for dictionary in dictionaries]
    manifest = {
        "languages": (src_language, tgt_language),
        "num_pairs": len(src),
        "vocab_size": dictionaries[1].vocab_size,
        "src_vocab_size": None if hashes[0] == hashes[1] else dictionaries[0].vocab_size,
        "eos_id": EOS_ID,
        "pad_id": PAD_ID,
        "tokenizer_sha256": digest(hashes),
        "options": {"split": split, "languages": (src_language, tgt_language)},
    }
    return manifest, src, tgt


def _directions(folder: Path) -> set[Direction]:
    """Splits and directions of the index files, of which either side is enough."""
    directions = set()
    for path in folder.glob("*.*-*.*.idx"):
        if len(parts := path.name.split(".")) != 4:
            continue
        split, pair, language, _ = parts
        if pair.startswith(f"{language}-"):
            directions.add(Direction(split, language, pair.removeprefix(f"{language}-")))
        elif pair.endswith(f"-{language}"):
            directions.add(Direction(split, pair.removesuffix(f"-{language}"), language))
    return directions


def _choose(folder: Path, split: str, languages: tuple[str, str] | None) -> Direction:
    """The direction to open: that of `languages`, or else the reverse."""
    directions = _directions(folder)
    of_split = sorted(direction for direction in directions if direction.split == split)
    if not of_split:
        splits = ", ".join(sorted({direction.split for direction in directions})) or "none"
        raise CorpusError(
            f"{folder}: holds no split {split!r} ({split}.SRC-TGT.SRC.idx); it holds {splits}: "
            "name one with split"
        )
    if languages is None:
        if len(of_split) == 1:
            return of_split[0]
        expected = "one direction, or languages that say which"
    else:
        src, tgt = languages
        for wanted in (Direction(split, src, tgt), Direction(split, tgt, src)):
            if wanted in of_split:
                return wanted
        expected = f"{src}-{tgt}"
    names = ", ".join(f"{direction.src}-{direction.tgt}" for direction in of_split)
    raise CorpusError(
        f"{folder}: split {split!r} holds {names}, expected {expected}; pass languages of these"
    )


class _Dictionary:
    """The pieces of one language, in the order of their ids.

    Attributes:
        vocab_size: bound on the ids: four, and one a line.
        sha256: of the pieces without their counts, which do not affect the ids.
    """

    def __init__(self, folder: Path, language: str) -> None:
        """Read `dict.<language>.txt`.

        Raises:
            CorpusError: it is missing, or a line is not one of a dictionary.
        """
        self.language = language
        path = folder / f"dict.{language}.txt"
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            raise CorpusError(
                f"{path}: no such dictionary, expected the one that {language} was binarised with; "
                "copy it there"
            ) from None
        try:
            lines = io.StringIO(text.decode("utf-8"), newline=None)
        except UnicodeDecodeError as error:
            number = text.count(b"\n", 0, error.start) + 1
            raise CorpusError(
                f"{path}: line {number:,} is not UTF-8 (byte {text[error.start]:#04x}); copy the "
                "dictionary there again"
            ) from None
        places = dict.fromkeys(_SPECIALS, 0)
        pieces = hashlib.sha256()
        self.vocab_size = len(_SPECIALS)
        for number, line in enumerate(lines, start=1):
            piece = _piece(path, number, line.rstrip(), places)
            pieces.update(piece.encode() + b"\n")
            self.vocab_size += 1
        self.sha256 = pieces.hexdigest()


def _piece(path: Path, number: int, line: str, places: dict[str, int]) -> str:
    """The piece of one line; records its line in `places`."""
    entry = line.removesuffix(_OVERWRITE)
    match = re.fullmatch(r"(.*) (-?\d+)", entry, re.DOTALL)
    if match is None:
        raise CorpusError(
            f"{path}: line {number:,} is {line[:60]!r}, expected a token, a space and a count, "
            f"then at most{_OVERWRITE!r}; copy the dictionary there again"
        )
    piece = match[1]
    if piece in places and entry == line:
        where = f"on line {places[piece]:,}" if places[piece] else "among the ids 0 to 3"
        raise CorpusError(
            f"{path}: line {number:,} is {line[:60]!r}, but {piece[:60]!r} stands {where} already; "
            f"expected each token once, unless{_OVERWRITE!r} ends the line"
        )
    places[piece] = number
    return piece
