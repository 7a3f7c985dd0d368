"""How likely lines are in a language: py3langid's model, many lines at a time.

The model is a naive Bayes classifier over byte n-grams, which an automaton finds (Lui and Baldwin
2012, "langid.py"). py3langid walks it a byte at a time in Python; csrc/language.cpp does it here,
while other threads run.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from py3langid.langid import MODEL_DIR, MODEL_FILE
from py3langid.modelio import load_model

from pycat import _core


class LanguageModel:
    """The classifier; get the one there is from `language_model`.

    Attributes:
        codes: the ISO 639 codes it knows, such as "en" and "sw".
    """

    def __init__(self) -> None:
        """Load the model that lies in the py3langid package."""
        weights, prior, names, moves, rows, features = load_model(MODEL_DIR / MODEL_FILE)
        self.codes: list[str] = list(dict.fromkeys(names))
        # Scripts and dialects may share a code: their probabilities are added up.
        self._columns = {
            code: [i for i, name in enumerate(names) if name == code] for code in self.codes
        }
        # Languages that there are not fill the last block of `LANGUAGE_BLOCK` up.
        missing = -len(names) % _core.LANGUAGE_BLOCK
        # Copied, since large arrays of numpy's own lie in huge pages, and these are read at random.
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
        self, lines: Sequence[bytes], code: str, unusual: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """Probability (N,) that each UTF-8 line is in this language, 1 where nothing tells.

        Of a line only the first 256 bytes count.

        Args:
            lines: N lines.
            code: one of `codes`.
            unusual: which lines (N,) may be all in capitals or not in NFC; None if not known.
        """
        plain = list(lines)
        for row in range(len(plain)) if unusual is None else np.flatnonzero(unusual).tolist():
            plain[row] = _normalized(plain[row])
        return self._tables.probability(plain, self._columns[code])


@cache
def language_model() -> LanguageModel:
    """The model, loaded once: 0.6 s, 120 MB."""
    return LanguageModel()


def _normalized(line: bytes) -> bytes:
    """As py3langid was trained on: NFC, and lines all in capitals in small letters."""
    if not line.isascii():
        text = line.decode()
        text = text.lower() if text.isupper() else text
        line = unicodedata.normalize("NFC", text).encode()
    elif line.isupper():
        line = line.lower()
    return line
