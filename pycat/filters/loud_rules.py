"""Rules that drop much of a corpus: counted, with examples, so that a reader sees why.

A rule knows what is usual in most corpora. Where it hits more than a tenth of one, either the text
is poor or the rule does not suit it, and only a reader can tell which.
"""

from collections.abc import Iterable, Mapping
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.errors import PycatError

# A rule that hits a larger share of the pairs is loud.
LOUD_SHARE = 0.1
_NUM_EXAMPLES = 3
_MAX_CHARS = 80


class Example(TypedDict):
    """A pair that a rule hits: its line, counted from 1, and the beginnings of its sides.

    Without `src` and `tgt` where the text is gone.
    """

    line: int
    src: NotRequired[str]
    tgt: NotRequired[str]


class LoudRule(TypedDict):
    """How many pairs a rule hits, and some of them, spread evenly."""

    hits: int
    examples: list[Example]


def loud_rules(
    corpus: Corpus, hits: Iterable[tuple[str, NDArray[np.bool_]]]
) -> dict[str, LoudRule]:
    """The rules that hit more than a tenth of the pairs of a corpus that was made from text.

    Args:
        corpus: N pairs, or a subset.
        hits: rules, and which pairs (N,) each hits.
    """
    found: dict[str, LoudRule] = {}
    rows_of: dict[str, list[int]] = {}
    for rule, hit in hits:
        if (count := int(np.count_nonzero(hit))) > LOUD_SHARE * len(hit):
            places = np.linspace(0, count - 1, min(count, _NUM_EXAMPLES)).astype(int)
            rows_of[rule] = np.flatnonzero(hit)[places].tolist()
            found[rule] = {"hits": count, "examples": []}
    if found:
        examples = _examples(corpus, sorted({row for rows in rows_of.values() for row in rows}))
        for rule, rows in rows_of.items():
            found[rule]["examples"] = [examples[row] for row in rows]
    return found


def _examples(corpus: Corpus, rows: list[int]) -> dict[int, Example]:
    """What is said of the pairs in these rows."""
    lines = (corpus.lines[rows] + 1).tolist()
    view = corpus.files[2]
    try:
        sentences = corpus.sentences(rows if view is None else view[rows].tolist())
    except (PycatError, OSError):
        return {row: {"line": line} for row, line in zip(rows, lines, strict=True)}
    return {
        row: {"line": line, "src": _beginning(src), "tgt": _beginning(tgt)}
        for row, line, (src, tgt) in zip(rows, lines, sentences, strict=True)
    }


def loud_rules_in_words(loud: Mapping[str, LoudRule], num_pairs: int) -> list[str]:
    """Lines that name each loud rule and its examples."""
    lines = []
    for rule, said in loud.items():
        lines.append(
            f"  CAUTION: rule {rule} hits {said['hits']:,} of {num_pairs:,} pairs "
            f"({said['hits'] / num_pairs:.0%}). If they are good, loosen it or switch it off: "
            f'--rules FILE with {{"{rule}": null}}:'
        )
        for example in said["examples"]:
            text = f": {example['src']!r} -> {example['tgt']!r}" if "src" in example else ""
            lines.append(f"    line {example['line']:,}{text}")
    return lines


def _beginning(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 1] + "…"
