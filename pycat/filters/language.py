"""Language probabilities of many lines at a time, by py3langid's model.

The model is a naive Bayes classifier over byte n-grams, which an automaton finds (Lui and Baldwin
2012, "langid.py"). py3langid walks the automaton a byte at a time in Python. Here
csrc/filters/language.cpp walks it without the GIL.
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
        self, lines: Sequence[bytes], code: str, unusual: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """Probability (N,) that each line is in this language; 1 where no n-gram is known.

        The first 256 bytes of a line count.

        Args:
            lines: N lines of UTF-8.
            code: one of `codes`.
            unusual: which lines (N,) may be all in capitals or not in NFC; None if not known.
        """
        normalized = list(lines)
        for row in range(len(lines)) if unusual is None else np.flatnonzero(unusual).tolist():
            normalized[row] = _normalized(normalized[row])
        return self._tables.probability(normalized, self._columns[code])


@cache
def language_model() -> LanguageModel:
    """The model, loaded once: 0.6 s, 120 MB."""
    return LanguageModel()


def _normalized(line: bytes) -> bytes:
    """The line as in py3langid's training: in NFC, and in small letters if all in capitals."""
    if not line.isascii():
        text = line.decode()
        text = text.lower() if text.isupper() else text
        line = unicodedata.normalize("NFC", text).encode()
    elif line.isupper():
        line = line.lower()
    return line
