"""A corpus as another process opens it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus, reopen_corpus
from pycat.errors import CorpusError


@dataclass(frozen=True)
class CorpusAddress:
    """Where a corpus lies and what of it is meant; it can be pickled.

    Attributes:
        path, options: what `reopen_corpus` takes.
        view: int64 (N,), the pair ids of a subset; None for all pairs.
        id: of the corpus or subset.
    """

    path: Path
    options: dict[str, Any]
    view: NDArray[np.int64] | None
    id: str

    @classmethod
    def of(cls, corpus: Corpus) -> "CorpusAddress":
        """The address of an open corpus."""
        return cls(corpus.path.resolve(), dict(corpus.options), corpus.files[2], corpus.id)

    def open(self) -> Corpus:
        """The corpus.

        Raises:
            CorpusError: it is not there, damaged, or another one by now.
        """
        corpus = reopen_corpus(self.path, self.options)
        if self.view is not None:
            corpus = corpus.subset(self.view)
        if corpus.id != self.id:
            raise CorpusError(
                f"{self.path}: found another corpus than the one this run began with; leave a "
                "corpus alone while it is read, and let every node see the same one"
            )
        return corpus
