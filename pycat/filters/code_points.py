"""Tables of Unicode for C++, taken from Python: case folding, and what normalization changes."""

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Code points beyond have neither case nor a canonical form of their own (Unicode 14 to 17).
NUM_CODE_POINTS = 0x30000

_SMALL, _CAPITAL, _COMBINING, _UNSTABLE = 1, 2, 4, 8
_SURROGATES = range(0xD800, 0xE000)
_HANGUL = range(0xAC00, 0xD7A4)
# Vowels and final consonants of Hangul syllables. They join the character before them, which
# `unicodedata.decomposition` does not say.
_JAMO = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))


class CodePoints(NamedTuple):
    """Tables by code point, uint64 and uint8 (`NUM_CODE_POINTS`,); 0 for ASCII.

    Attributes:
        folded: the UTF-8 bytes of `chr(c).casefold()`, which has one to three code points: the
            first byte lowest, and their number in the highest byte; 0 where c stays as it is.
        kinds: sum of 1: small or title letter, 2: capital, 4: combining class other than 0, 8: NFC
            may change the character, or join it to the one before.
    """

    folded: NDArray[np.uint64]
    kinds: NDArray[np.uint8]


@cache
def code_points() -> CodePoints:
    """Make the tables once: 0.1 s, 2 MB."""
    folded = np.zeros(NUM_CODE_POINTS, np.uint64)
    kinds = np.zeros(NUM_CODE_POINTS, np.uint8)
    kinds[list(_JAMO)] |= _UNSTABLE
    for code in range(0x80, NUM_CODE_POINTS):
        # Surrogates and Hangul syllables have no case, and NFC changes none of them.
        if code in _SURROGATES or code in _HANGUL:
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
            # NFC may compose the parts again: the later ones then join the one before.
            for part in parts.split()[1:]:
                kinds[int(part, 16)] |= _UNSTABLE
    return CodePoints(folded, kinds)
