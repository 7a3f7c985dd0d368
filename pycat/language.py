"""How likely lines are in a language: py3langid's model, many lines at a time.

The model is a naive Bayes classifier over byte n-grams, which an automaton finds (Lui and Baldwin
2012, "langid.py"). py3langid walks it a byte at a time in Python; here all lines take each step
together, several times as fast, and other threads may run meanwhile.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from py3langid.langid import MODEL_DIR, MODEL_FILE
from py3langid.modelio import load_model

# What says the language of a line is said by then, and long lines would hold up the others.
_MAX_BYTES = 256


class LanguageModel:
    """The classifier; get the one there is from `language_model`.

    Attributes:
        codes: the ISO 639 codes it knows, such as "en" and "sw".
    """

    def __init__(self) -> None:
        """Load the model that lies in the py3langid package."""
        weights, prior, names, moves, rows, features = load_model(MODEL_DIR / MODEL_FILE)
        self.codes: list[str] = list(dict.fromkeys(names))
        self._weights = torch.from_numpy(np.asarray(weights, dtype=np.float32))
        self._prior = np.asarray(prior, dtype=np.float32)
        # Scripts and dialects may share a code: their probabilities are added up.
        self._columns = {
            code: [i for i, name in enumerate(names) if name == code] for code in self.codes
        }
        self._moves = np.asarray(moves).astype(np.int32)
        self._row_starts = np.asarray(rows, dtype=np.int32) << 8
        self._features = np.asarray(features).astype(np.int32)

    def probability(self, lines: Sequence[bytes], code: str) -> NDArray[np.float32]:
        """Probability (N,) that each UTF-8 line is in this language, 1 where nothing tells.

        Of a line only the first 256 bytes count.
        """
        texts = [_normalized(line) for line in lines]
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        found, counts = self._count_features(texts, lengths)
        rows, features = np.divmod(found, len(self._features))
        bags = torch.from_numpy(np.searchsorted(rows, np.arange(len(texts))))
        scores = F.embedding_bag(
            torch.from_numpy(features),
            self._weights,
            bags,
            mode="sum",
            per_sample_weights=torch.from_numpy(np.log1p(counts, dtype=np.float32)),
        ).numpy()
        # As py3langid does: the square root keeps it calibrated over lengths.
        scores = (scores + self._prior) / np.sqrt(np.maximum(lengths, 1), dtype=np.float32)[:, None]
        scores = np.exp(scores - scores.max(1, keepdims=True))
        probability: NDArray[np.float32] = scores[:, self._columns[code]].sum(1) / scores.sum(1)
        probability[np.bincount(rows, minlength=len(texts)) == 0] = 1.0
        return probability

    def _count_features(
        self, texts: Sequence[bytes], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The distinct row * F + feature of all texts, ascending, and how often each occurs."""
        letters = np.frombuffer(b"".join(texts), np.uint8)
        order = np.argsort(-lengths, kind="stable")
        at = (np.cumsum(lengths) - lengths)[order]
        falling = -lengths[order]
        state = np.zeros(len(texts), np.int32)
        found = [np.empty(0, np.int64)]
        for step in range(int(lengths.max(initial=0))):
            num_left = int(np.searchsorted(falling, -step, side="left"))
            at, state = at[:num_left], state[:num_left]
            state = self._moves.take(self._row_starts.take(state) + letters.take(at + step))
            feature = self._features.take(state)
            hit = np.flatnonzero(feature >= 0)
            found.append(order.take(hit) * len(self._features) + feature.take(hit))
        return np.unique(np.concatenate(found), return_counts=True)


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
    return line[:_MAX_BYTES]
