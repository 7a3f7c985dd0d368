"""A corpus as another process opens it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.data.opening import reopen_corpus
from pycat.data.staging import staged_corpus
from pycat.errors import CorpusError


@dataclass(frozen=True)
class CorpusAddress:
    """Where a corpus lies and what of it is meant; it can be pickled.

    Attributes:
        path, options: what `reopen_corpus` takes.
        view: int64 (N,), the pair ids of a subset; None for all pairs.
        id: of the corpus or subset.
        stage: a folder on the own disk of that process's machine, where it reads a copy of the
            tokens, which it makes unless there is one; None to read the original.
    """

    path: Path
    options: dict[str, Any]
    view: NDArray[np.int64] | None
    id: str
    stage: Path | None

    @classmethod
    def of(cls, corpus: Corpus) -> "CorpusAddress":
        """The address of an open corpus."""
        view = corpus.files[2]
        return cls(corpus.path.resolve(), dict(corpus.options), view, corpus.id, corpus.stage)

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
        return corpus if self.stage is None else staged_corpus(corpus, self.stage)
