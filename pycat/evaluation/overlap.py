"""Test sentences that were trained on: what is measured with them says little."""

from collections.abc import Iterator, Mapping

from pycat.data.corpus import Corpus
from pycat.data.parallel_text import ParallelText
from pycat.errors import TextError


def trained_on(tests: Mapping[str, ParallelText], corpus: Corpus) -> list[str]:
    """A warning for each test set that has pairs of the corpus's text, source and target alike.

    Reads the text once. A corpus without text, or one whose text is gone, gives no warning.
    """
    if not corpus.has_text:
        return []
    pairs = {name: set(_pairs(text)) for name, text in tests.items()}
    seen = dict.fromkeys(tests, 0)
    wanted = set().union(*pairs.values())
    try:
        for pair in _pairs(corpus.text()):
            if pair in wanted:
                wanted.remove(pair)
                for name, own in pairs.items():
                    seen[name] += pair in own
    except TextError:
        return []
    return [
        f"{name}: {count:,} of {len(pairs[name]):,} distinct test pairs are in the text that the "
        "models train on, so their loss there is no held-out loss; take them out of the text or "
        "of the test set"
        for name, count in seen.items()
        if count
    ]


def _pairs(text: ParallelText) -> Iterator[tuple[bytes, ...]]:
    for number, row in enumerate(text.rows(), 1):
        yield tuple(side.strip() for side in text.sides(row, number))
