"""What Python knows of Unicode, as tables for C++: case folding, and what normalizing changes."""

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# What is beyond has neither case nor a canonical form of its own (Unicode 14 to 17).
NUM_CODE_POINTS = 0x30000

_SMALL, _CAPITAL, _COMBINING, _UNSTABLE = 1, 2, 4, 8
_SURROGATES = range(0xD800, 0xE000)
_HANGUL = range(0xAC00, 0xD7A4)
# The vowels and ends of Hangul syllables, which no decomposition of a single character names.
_JAMO = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))


class CodePoints(NamedTuple):
    """Of the first code points beyond ASCII.

    Attributes:
        folded: uint64, the UTF-8 bytes of `chr(c).casefold()`, of one to three code points, lowest
            first and their number in the highest byte; 0 where c stays as it is.
        kinds: uint8, a sum of 1: small or title letter, 2: capital, 4: of a combining class other
            than 0, 8: its form NFC may differ, or it may join what is before it.
    """

    folded: NDArray[np.uint64]
    kinds: NDArray[np.uint8]


@cache
def code_points() -> CodePoints:
    """The tables: 0.1 s, 2 MB."""
    folded = np.zeros(NUM_CODE_POINTS, np.uint64)
    kinds = np.zeros(NUM_CODE_POINTS, np.uint8)
    kinds[list(_JAMO)] |= _UNSTABLE
    for code in range(0x80, NUM_CODE_POINTS):
        if code in _SURROGATES or code in _HANGUL:  # those are stable, and all but all there are
            continue
        letter = chr(code)
        if (small := letter.casefold()) != letter:
            utf8 = small.encode()
            folded[code] = int.from_bytes(utf8, "little") | len(utf8) << 56
        if letter.islower() or unicodedata.category(letter) == "Lt":
            kinds[code] |= _SMALL
        elif letter.isupper():
            kinds[code] |= _CAPITAL
        if unicodedata.combining(letter):
            kinds[code] |= _COMBINING
        parts = unicodedata.decomposition(letter)
        if parts and not parts.startswith("<"):
            if unicodedata.normalize("NFC", letter) != letter:
                kinds[code] |= _UNSTABLE
            # A pair may be composed again: then its second part joins what stands before it.
            for part in parts.split()[1:]:
                kinds[int(part, 16)] |= _UNSTABLE
    return CodePoints(folded, kinds)
