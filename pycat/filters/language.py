"""Language probabilities of many lines at a time, by py3langid's model.

The model is a naive Bayes classifier over byte n-grams, which an automaton finds (Lui and Baldwin
2012, "langid.py"). py3langid walks the automaton a byte at a time in Python. Here
csrc/filters/language.cpp walks it without the GIL.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from py3langid.langid import MODEL_DIR, MODEL_FILE
from py3langid.modelio import load_model

from pycat import _core

# Bits of the forms of a line that `_core.measure_pairs` tells.
CAPITALS, COMPOSITION, MARKUP = 1, 2, 4

# `sure_bytes` of the rules. With it, a threshold of 0.03 finds about as much as 0.02 without, and
# drops a sixth as much of interface text with single words.
SURE_BYTES = 18
_NO_LETTERS = bytes(byte for byte in range(0x80) if not chr(byte).isalpha())

# The identifier reads half as many.
_MAX_BYTES = 512

_MARKUP = re.compile(
    rb"%\(\w+\)[-#0-9 .]*\w|%[-0-9.]*(?:\d\$)?\w|\$?\{[^{}]*\}|\$\w+|\w+://\S*|[\w.+-]+@\S+|&#?\w+;"
    rb"|</?[A-Za-z][^<>]*>|\w*[_/\\]\S*"
)


class LanguageModel:
    """The classifier; `language_model` gives the one instance.

    Attributes:
        codes: the ISO 639 codes of its languages, such as "en" and "sw".
    """

    def __init__(self) -> None:
        """Load the model from the py3langid package."""
        weights, prior, names, moves, rows, features = load_model(MODEL_DIR / MODEL_FILE)
        self.codes: list[str] = list(dict.fromkeys(names))
        # Scripts and dialects may share a code: their probabilities are summed.
        self._columns = {
            code: [i for i, name in enumerate(names) if name == code] for code in self.codes
        }
        # The extension reads blocks of `LANGUAGE_BLOCK` languages: the last one is padded with
        # languages of probability 0.
        missing = -len(names) % _core.LANGUAGE_BLOCK
        # np.array copies the tables: memory of numpy's own lies in huge pages, which makes reading
        # at random faster.
        self._tables = _core.LanguageModel(
            moves=np.array(moves, np.uint32).ravel(),
            rows=np.array(rows, np.uint16),
            features=np.array(features, np.int32),
            weights=np.pad(np.asarray(weights, np.float16), ((0, 0), (0, missing)))
            .view(np.uint16)
            .ravel(),
            prior=np.pad(np.asarray(prior, np.float32), (0, missing), constant_values=-np.inf),
        )

    def probability(
        self,
        lines: Sequence[bytes],
        codes: Sequence[str],
        forms: NDArray[np.uint8] | None = None,
        *,
        sure_bytes: int = 0,
    ) -> NDArray[np.float32]:
        """Probability (N,) that each line is in one of these languages; 1 where no n-gram is known.

        The first 256 bytes of a line count. Placeholders, tags and addresses do not.

        Args:
            lines: N lines of UTF-8.
            codes: some of `codes`, whose probabilities are summed.
            forms: which lines (N,) may be all in capitals or not in NFC, or hold markup: sums of
                `CAPITALS`, `COMPOSITION`, `MARKUP`; None if not known.
            sure_bytes: lines with fewer bytes of letters say less of their language than the
                model's probabilities do: odds below 1 are raised to the power of the letters'
                share of so many bytes. Lines of at least twice as many bytes are sure. Titles
                are read in small letters too, and the root of their higher odds counts: the model
                was trained on sentences, and most titles hold names.
        """
        normalized = list(lines)
        for row in range(len(lines)) if forms is None else np.flatnonzero(forms).tolist():
            normalized[row] = _normalized(normalized[row])
        columns = [column for code in codes for column in self._columns[code]]
        found: NDArray[np.float32] = self._tables.probability(normalized, columns)
        if sure_bytes:
            self._doubt(found, normalized, columns, sure_bytes)
        return found

    def _doubt(
        self,
        found: NDArray[np.float32],
        lines: Sequence[bytes],
        columns: Sequence[int],
        sure_bytes: int,
    ) -> None:
        """Raise probabilities (N,) below 1/2 of short lines and titles as `probability` says."""
        unlikely = np.flatnonzero(found < 0.5).tolist()
        exponents = dict.fromkeys(unlikely, 1.0)
        for row in unlikely:
            if len(line := lines[row]) < 2 * sure_bytes:
                share = len(line.translate(None, _NO_LETTERS)) / sure_bytes
                exponents[row] = min(share, 1)
        if titles := [row for row in unlikely if _is_title(lines[row])]:
            lower = [lines[row].decode("utf-8", "ignore").lower().encode() for row in titles]
            found[titles] = np.maximum(found[titles], self._tables.probability(lower, [*columns]))
            for row in titles:
                exponents[row] /= 2
        for row, exponent in exponents.items():
            if found[row] < 0.5 and exponent < 1:
                odds = (found[row] / (1 - found[row])) ** exponent
                found[row] = odds / (1 + odds)


@cache
def language_model() -> LanguageModel:
    """The model, loaded once: 0.6 s, 120 MB."""
    return LanguageModel()


def _is_title(line: bytes) -> bool:
    """Whether all words of four letters or more, and two at least, begin with a capital."""
    words = re.findall(r"[^\W\d_]{4,}", line.decode("utf-8", "ignore"))
    return len(words) > 1 and all(word[0].isupper() for word in words)


def _normalized(line: bytes) -> bytes:
    """The line without markup, in NFC, and in small letters if all in capitals."""
    line = _MARKUP.sub(b" ", line[:_MAX_BYTES])
    if not line.isascii():
        text = line.decode("utf-8", "ignore")
        text = text.lower() if text.isupper() else text
        line = unicodedata.normalize("NFC", text).encode()
    elif line.isupper():
        line = line.lower()
    return line
