"""Data that fairseq binarised: a folder of MMIDIDX files with a dictionary for each language.

Of each split and direction the files are `train.de-en.de.idx`, `.bin` and `train.de-en.en.idx`,
`.bin`, and of each language `dict.de.txt`. Ids 0 to 3 are `<s>`, `<pad>`, `</s>` and `<unk>`, which
the dictionary does not list; line k of it, from 0, is id k + 4. EOS ends every sequence.
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
    """What the name of a file says: its split, and source and target of that split."""

    split: str
    src: str
    tgt: str


def is_data_bin(folder: Path) -> bool:
    """Whether there is anything of fairseq's in the folder."""
    return bool(_directions(folder)) or any(folder.glob("dict.*.txt"))


def open_data_bin(
    folder: Path, split: str, languages: tuple[str, str] | None
) -> tuple[dict[str, Any], IndexedFile, IndexedFile]:
    """One split of a folder, and the facts that a corpus needs.

    Args:
        split: the first part of the file names. A further shard such as `train1` is a split.
        languages: source and target, either way round; None where the folder leaves no choice.

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
    facts = {
        "languages": (src_language, tgt_language),
        "num_pairs": len(src),
        "vocab_size": dictionaries[1].vocab_size,
        "src_vocab_size": None if hashes[0] == hashes[1] else dictionaries[0].vocab_size,
        "eos_id": EOS_ID,
        "pad_id": PAD_ID,
        "tokenizer_sha256": digest(hashes),
        "options": {"split": split, "languages": (src_language, tgt_language)},
    }
    return facts, src, tgt


def _directions(folder: Path) -> set[Direction]:
    """All that the names of the index files tell; one of the two sides is enough."""
    found = set()
    for path in folder.glob("*.*-*.*.idx"):
        if len(parts := path.name.split(".")) != 4:
            continue
        split, pair, language, _ = parts
        if pair.startswith(f"{language}-"):
            found.add(Direction(split, language, pair.removeprefix(f"{language}-")))
        elif pair.endswith(f"-{language}"):
            found.add(Direction(split, pair.removesuffix(f"-{language}"), language))
    return found


def _choose(folder: Path, split: str, languages: tuple[str, str] | None) -> Direction:
    """The files to open: those of `languages`, as named or else the other way round."""
    found = _directions(folder)
    of_split = sorted(direction for direction in found if direction.split == split)
    if not of_split:
        splits = ", ".join(sorted({direction.split for direction in found})) or "none"
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
        vocab_size: ids lie below it: four, and one for each line.
        sha256: of the pieces alone; their counts mean nothing to the ids.
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
    """The piece of one line; notes in `places` where it stands."""
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
