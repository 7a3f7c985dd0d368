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
                share of so many bytes. Lines of at least twice as many bytes are sure.
        """
        normalized = list(lines)
        for row in range(len(lines)) if forms is None else np.flatnonzero(forms).tolist():
            normalized[row] = _normalized(normalized[row])
        columns = [column for code in codes for column in self._columns[code]]
        found: NDArray[np.float32] = self._tables.probability(normalized, columns)
        for row in np.flatnonzero(found < 0.5).tolist() if sure_bytes else ():
            if len(line := normalized[row]) < 2 * sure_bytes:
                share = len(line.translate(None, _NO_LETTERS)) / sure_bytes
                odds = (found[row] / (1 - found[row])) ** min(share, 1)
                found[row] = odds / (1 + odds)
        return found


@cache
def language_model() -> LanguageModel:
    """The model, loaded once: 0.6 s, 120 MB."""
    return LanguageModel()


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
