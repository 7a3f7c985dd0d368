"""Tables of Unicode for C++, taken from Python: what characters are folded to, and their kinds."""

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Code points beyond have neither case nor a canonical form of their own (Unicode 14 to 17).
NUM_CODE_POINTS = 0x30000

_SMALL, _CAPITAL, _COMBINING, _UNSTABLE, _MARK, _FORM, _WIDE = 1, 2, 4, 8, 16, 32, 64
_IDEOGRAPH = 128
_SURROGATES = range(0xD800, 0xE000)
_HANGUL = range(0xAC00, 0xD7A4)
_KANA = range(0x3041, 0x3100)
_IDEOGRAPHS = (range(0x3400, 0x4DC0), range(0x4E00, 0xA000), range(0x20000, NUM_CODE_POINTS))
# Vowels and final consonants of Hangul syllables. They join the character before them, which
# `unicodedata.decomposition` does not say.
_JAMO = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))
# Signs that enclose the digits behind them: format characters that are seen.
_VISIBLE_FORMATS = (*range(0x600, 0x606), 0x6DD, 0x8E2, 0x890, 0x891, 0x110BD, 0x110CD)
# Invisible characters that are no format characters: fillers, and selectors of variants.
_FILLERS = (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0)
_VARIANTS = (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10))


class CodePoints(NamedTuple):
    """Tables by code point, uint64 and uint8 (`NUM_CODE_POINTS`,); 0 for ASCII.

    Attributes:
        folded: the UTF-8 bytes of what `chr(c)` counts as: `chr(c).casefold()`, which has one to
            three code points; the ASCII digit of a decimal digit of any script; the ASCII letter of
            a full-width one; a blank for other blanks and punctuation. The first byte is lowest,
            and their number in the highest byte; 0 where c stays as it is.
        kinds: sum of 1: small or title letter, 2: capital, 4: combining class other than 0, 8: NFC
            may change the character, or join it to the one before, 16: a mark that is part of the
            letter before, 32: invisible, or a blank other than U+0020, 64: an ideograph, kana or
            Hangul syllable, 128: an ideograph.
    """

    folded: NDArray[np.uint64]
    kinds: NDArray[np.uint8]


@cache
def code_points() -> CodePoints:
    """Make the tables once: 0.15 s, 2 MB."""
    folded = np.zeros(NUM_CODE_POINTS, np.uint64)
    kinds = np.zeros(NUM_CODE_POINTS, np.uint8)
    kinds[list(_JAMO)] |= _UNSTABLE | _MARK
    for script in (_HANGUL, _KANA, *_IDEOGRAPHS):
        kinds[script.start : script.stop] |= _WIDE
    for script in _IDEOGRAPHS:
        kinds[script.start : script.stop] |= _IDEOGRAPH
    for code in range(0x80, NUM_CODE_POINTS):
        # Surrogates and Hangul syllables have no case, and NFC changes none of them.
        if code in _SURROGATES or code in _HANGUL:
            continue
        letter = chr(code)
        if (small := _folded(letter)) != letter:
            utf8 = small.encode()
            folded[code] = int.from_bytes(utf8, "little") | len(utf8) << 56
        category = unicodedata.category(letter)
        if letter.islower() or category == "Lt":
            kinds[code] |= _SMALL
        elif letter.isupper():
            kinds[code] |= _CAPITAL
        if unicodedata.combining(letter):
            kinds[code] |= _COMBINING
        if category[0] == "M":
            kinds[code] |= _MARK
        if category == "Zs" or is_invisible(letter):
            kinds[code] |= _FORM
        parts = unicodedata.decomposition(letter)
        if parts and not parts.startswith("<"):
            if unicodedata.normalize("NFC", letter) != letter:
                kinds[code] |= _UNSTABLE
            # NFC may compose the parts again: the later ones then join the one before.
            for part in parts.split()[1:]:
                kinds[int(part, 16)] |= _UNSTABLE
    return CodePoints(folded, kinds)


def is_invisible(letter: str) -> bool:
    """Whether a character only says how others are written: joiners, direction marks and others."""
    code = ord(letter)
    if unicodedata.category(letter) == "Cf":
        return code not in _VISIBLE_FORMATS
    return code in _FILLERS or code in _VARIANTS


def plain_form(line: bytes) -> bytes:
    """A line of UTF-8 in NFC, without invisible characters, and with U+0020 for other blanks.

    Lines that readers cannot tell apart become equal. Persian and Indic joiners are invisible too.
    """
    text = line.decode("utf-8", "surrogateescape").translate(_plain_characters())
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape")


@cache
def _plain_characters() -> dict[int, str]:
    """What `plain_form` makes of characters."""
    forms = np.flatnonzero(code_points().kinds & _FORM).tolist()
    return {code: "" if is_invisible(chr(code)) else " " for code in forms}


def _folded(letter: str) -> str:
    """What a character beyond ASCII counts as where texts are compared."""
    category = unicodedata.category(letter)
    if category == "Nd":
        return str(unicodedata.decimal(letter))
    if category[0] in "PZ":
        return " "
    if 0xFF01 <= ord(letter) <= 0xFF5E:
        return chr(ord(letter) - 0xFEE0).casefold()
    return letter.casefold()
