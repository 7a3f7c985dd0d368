"""Sentence pairs of TMX, read as a stream: one translation unit at a time is in memory.

Entities that a document declares are refused, so none is expanded, and nothing outside of the file
is read. Content of the elements that stand for markup (`bpt`, `ept`, `it`, `ph`, `ut`) is no text.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from xml.parsers import expat

from pycat.data.spooled_text import listed, one_line
from pycat.errors import TextError

_BLOCK_BYTES = 1 << 16
_MAX_UNIT_CHARS = 1 << 26
_MARKUP = ("bpt", "ept", "it", "ph", "ut")


def tmx_pairs(
    file: BinaryIO,
    path: Path,
    languages: tuple[str, str],
    left_out: Counter[str] | None = None,
) -> Iterator[tuple[bytes, bytes]]:
    """Yield source and target of each unit that has both, as one line each.

    Of several variants of a unit in a language, one whose code is exactly that given goes before
    one with another country or script (`en` takes `en-US`), and the first before later ones.

    Args:
        file: the document, decompressed.
        path: names it in errors.
        languages: of source and target.
        left_out: counts the units that are not yielded, by the language that they lack.

    Raises:
        TextError: damaged, with entities of its own, or no unit has both languages; says which
            languages there are.
    """
    reader = _Reader(path)
    num_pairs = 0
    block = b"begin"
    while block:
        block = _read(file, path)
        for unit in reader.units(block):
            src, tgt = (_variant(unit, language) for language in languages)
            if src is not None and tgt is not None:
                num_pairs += 1
                yield src.encode(), tgt.encode()
            elif left_out is not None:
                texts = zip(languages, (src, tgt), strict=True)
                lacking = [language for language, text in texts if text is None]
                left_out[f"units without {' and '.join(lacking)}"] += 1
    if not num_pairs:
        raise TextError(
            f"{path}: no translation unit has both {languages[0]} and {languages[1]}; its "
            f"languages are {listed(reader.languages)}. Name source and target (--columns SRC,TGT)"
        )


def tmx_languages(file: BinaryIO, path: Path) -> list[str]:
    """Languages of the first units of a document, in the order of their first appearance."""
    reader = _Reader(path)
    while not reader.languages and (block := _read(file, path)):
        reader.units(block)
    return [*reader.languages]


def _read(file: BinaryIO, path: Path) -> bytes:
    try:
        return file.read(_BLOCK_BYTES)
    except OSError as error:
        raise TextError(
            f"{path}: reading failed ({error}); the file is damaged or incomplete: fetch it again"
        ) from None


class _Reader:
    """Takes a document in blocks, and gives its units: pairs of language and text.

    Attributes:
        languages: counts of variants, by the codes in the document.
    """

    def __init__(self, path: Path) -> None:
        self.languages: Counter[str] = Counter()
        self._path = path
        self._units: list[list[tuple[str, str]]] = []
        self._unit: list[tuple[str, str]] = []
        self._language = ""
        self._text: list[str] | None = None  # of the segment that is read
        self._num_chars = 0  # of the unit
        self._depth = 0  # of markup
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = self._entity
        self._parser.SkippedEntityHandler = self._skipped

    def units(self, block: bytes) -> list[list[tuple[str, str]]]:
        """The units that end in the next block; b"" ends the document."""
        try:
            self._parser.Parse(block, not block)
        except TextError:
            raise
        except (expat.ExpatError, LookupError, ValueError) as error:  # or an unknown encoding
            raise TextError(
                f"{self._path}: is no well-formed XML ({error}); the file is damaged or "
                "incomplete: fetch it again"
            ) from None
        units, self._units = self._units, []
        return units

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "tu":
            self._unit, self._num_chars = [], 0
        elif name == "tuv":
            self._language = attributes.get("xml:lang") or attributes.get("lang") or ""
        elif name == "seg":
            self._text, self._depth = [], 0
        elif name in _MARKUP:
            self._depth += 1

    def _end(self, name: str) -> None:
        if name == "tu":
            self._units.append(self._unit)
            self._unit = []
        elif name == "seg" and self._text is not None:
            self.languages[self._language] += 1
            self._unit.append((self._language, one_line("".join(self._text))))
            self._text = None
        elif name in _MARKUP:
            self._depth -= 1

    def _characters(self, text: str) -> None:
        if self._text is None or self._depth:
            return
        self._text.append(text)
        self._num_chars += len(text)
        if self._num_chars > _MAX_UNIT_CHARS:
            raise TextError(
                f"{self._path}: line {self._parser.CurrentLineNumber:,} is in a unit of more than "
                f"{_MAX_UNIT_CHARS:,} characters; expected a sentence: mend the file"
            )

    def _entity(self, name: str, *_: object) -> None:
        raise TextError(
            f"{self._path}: line {self._parser.CurrentLineNumber:,} declares the entity {name!r}, "
            "which is not expanded; write characters in place of entities"
        )

    def _skipped(self, name: str, _is_parameter: bool) -> None:
        raise TextError(
            f"{self._path}: line {self._parser.CurrentLineNumber:,} has the entity {name!r}, which "
            "is not known; write the character in its place"
        )


def _variant(unit: list[tuple[str, str]], language: str) -> str | None:
    """The text of a unit in a language, None if there is none."""
    wanted = _normal(language)
    for code, text in unit:
        if _normal(code) == wanted:
            return text
    for code, text in unit:
        if _normal(code).split("-")[0] == wanted:
            return text
    return None


def _normal(code: str) -> str:
    return code.strip().lower().replace("_", "-")
