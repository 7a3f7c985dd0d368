"""What the columns of a tab-separated text hold: sentences, scores, addresses, dates or labels."""

import re
from collections.abc import Sequence

import numpy as np

from pycat.data.corpus import Corpus
from pycat.data.parallel_text import ParallelText
from pycat.errors import TextError

_NUMBER = re.compile(rb"\s*[-+]?(\d+([.,]\d+)*|\d*\.\d+)([eE][-+]?\d+)?\s*%?\s*|\s*(nan|-?inf)\s*")
_ADDRESS = re.compile(rb"\s*(https?://|www\.|file:|s3://)\S*\s*")
_DATE = re.compile(rb"\s*\d{4}-\d\d?-\d\d?([T ][\d:.+Z-]*)?\s*")
_LABEL = re.compile(rb"\s*[^\s]{1,40}\s*")
_MIN_SHARE = 0.9
# Of fewer lines, most may be the same by chance, such as names.
_MIN_SAME = 100
# Labels, such as domains, are words of which so many lines share each.
_LINES_OF_A_LABEL = 50
_SAMPLE = 200


def check_first_columns(text: ParallelText) -> None:
    """Refuse a TSV file whose first or second column holds no sentences, or both hold the same.

    Raises:
        TextError: names the columns that seem to hold sentences.
    """
    rows = [
        row[0].rstrip(b"\r\n").split(b"\t")
        for row in zip(*next(text.chunks()).columns, strict=True)
    ]
    num_columns = min(map(len, rows))
    if num_columns < 2:
        return
    kinds = [kind_of([row[place] for row in rows]) for place in range(num_columns)]
    if num_columns == 2:  # then few words are those of a small text, not labels beside sentences
        kinds = [None if kind == "labels" else kind for kind in kinds]
    wrong = next((place for place in (0, 1) if kinds[place] is not None), None)
    if wrong is None:
        num_same = sum(row[0].strip() == row[1].strip() for row in rows)
        if len(rows) >= _MIN_SAME and num_same >= _MIN_SHARE * len(rows):
            raise TextError(
                f"{text.paths[0]}: columns 1 and 2 hold the same text in {num_same:,} of the first "
                f"{len(rows):,} lines; expected source and target: name theirs with --columns "
                "SRC,TGT (columns), or with --columns 1,2 if this is right"
            )
        return
    sentences = [place + 1 for place, kind in enumerate(kinds) if kind is None]
    advice = ",".join(map(str, sentences[:2])) if len(sentences) > 1 else "SRC,TGT"
    column = (row[wrong] for row in rows)
    example = next(value for value in column if kinds[wrong] in ("labels", kind_of([value])))
    shown = example[:40].decode("utf-8", "replace")
    remedy = f"name theirs with --columns {advice} (columns), or with --columns 1,2"
    if num_columns == 2:
        remedy = "give a file that has both, or name them with --columns 1,2 (columns)"
    raise TextError(
        f"{text.paths[0]}: column {wrong + 1} holds {kinds[wrong]}, such as {shown!r}, not "
        f"sentences; expected source and target in columns 1 and 2: {remedy} if this is right"
    )


def wrong_column(corpus: Corpus) -> str:
    """A sentence that names a side of a corpus which holds no sentences, else ""."""
    pairs = corpus.pair_ids[np.linspace(0, len(corpus) - 1, min(len(corpus), _SAMPLE)).astype(int)]
    try:
        sides = zip(*corpus.sentences(pairs.tolist()), strict=True)
    except TextError:  # the text is gone or changed
        return ""
    for name, lines in zip(("source", "target"), sides, strict=True):
        if (kind := kind_of([line.encode() for line in lines])) is not None:
            return (
                f"The {name} lines hold {kind}, such as {lines[0][:40]!r}: most likely a wrong "
                "column; name those of source and target with --columns (columns). "
            )
    return ""


def kind_of(values: Sequence[bytes]) -> str | None:
    """What most of these lines are; None if they may be sentences.

    "numbers", "addresses", "dates" or "labels", which are words that many lines share.
    """
    filled = [value for value in values if value.strip()]
    for name, pattern in (("numbers", _NUMBER), ("addresses", _ADDRESS), ("dates", _DATE)):
        if _are_mostly(pattern, filled):
            return name
    num_labels = len(filled) // _LINES_OF_A_LABEL
    if num_labels > 1 and len(set(filled)) <= num_labels and _are_mostly(_LABEL, filled):
        return "labels"
    return None


def _are_mostly(pattern: re.Pattern[bytes], values: Sequence[bytes]) -> bool:
    matched = sum(pattern.fullmatch(value) is not None for value in values)
    return bool(values) and matched >= _MIN_SHARE * len(values)
