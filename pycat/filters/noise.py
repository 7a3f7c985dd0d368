"""Hard or noisy: what flags the pairs that are likely not translations of each other.

Raw variance of perplexity keeps copies, other languages and misaligned pairs, which a model learns
fast or never. Signals see different kinds of noise, and most of them ask the corpus rather than a
proxy that trained for minutes:

    lexical    the sides' tokens rarely keep each other's company elsewhere (`lexical.py`)
    gap        a run of tokens that nothing on the other side accounts for (`lexical.py`)
    order      tokens that seldom follow each other (`fluency.py`)
    ending     the sides do not end alike (`fluency.py`)
    length     one side is longer than translations are (`length_z`)
    pieces     words fall into many tokens, as misspelt and badly read ones do
    surprise   (nll - entropy) / tokens: the target is less likely than the model's own guesses are

Long pairs are harder than short ones without being noise, so each signal counts as a rank among
pairs of like length. The guard of a selection drops those of the highest `noise_score` that the
rules left. docs/evidence.md has what this finds and what not.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.filters.fluency import fluency
from pycat.filters.lexical import lexical_scores
from pycat.filters.rule_measures import length_z, measure_rules, usual_lengths
from pycat.scores.score_table import ScoreTable

# Columns that `measure_noise` adds to a score table.
NOISE_SCORE = "noise_score"
_LEXICAL = ("lexical_tgt", "lexical_src", "gap_tgt", "gap_src")
_FLUENCY = ("order_tgt", "order_src", "ending")

Floats = NDArray[np.float64]
Evidence = NDArray[np.float32]

# Checkpoints at the end over which a signal is averaged: earlier ones know no language yet.
_NUM_LATE = 2
_NUM_STRATA = 20


def surprise(nll: Floats, entropy: Floats, num_tokens: NDArray[np.int32]) -> Floats:
    """How much less likely targets are than what the late checkpoints expect, nats a token (N,).

    Expected is the entropy: a pair that is hard in a way the model knows of is at 0.

    Args:
        nll, entropy: sums over target tokens (N, K), checkpoints in training order.
        num_tokens: (N,).
    """
    return late_mean(nll - entropy, num_tokens)


def late_mean(sums: Floats, num_tokens: NDArray[np.int32]) -> Floats:
    """Mean (N,) over target tokens and the last two checkpoints, of sums over tokens (N, K)."""
    mean: Floats = sums[:, -_NUM_LATE:].mean(axis=1) / num_tokens
    return mean


def evidence(signal: NDArray[np.floating], num_tokens: NDArray[np.int32]) -> Evidence:
    """-ln of the share of pairs of like length whose signal is as high or higher: (N,), from 0.

    Args:
        signal: (N,), higher where noise is likelier.
        num_tokens: (N,), by which pairs are parted into 20 equal strata; ties rank by row.
    """
    found = np.empty(len(signal), np.float32)
    for rows in np.array_split(np.argsort(num_tokens, kind="stable"), _NUM_STRATA):
        order = np.argsort(-signal[rows], kind="stable")
        found[rows[order]] = -np.log((np.arange(len(rows)) + 0.5) / len(rows))
    return found


def of_either(one: Evidence, other: Evidence) -> Evidence:
    """The stronger evidence (N,) of two sides, less ln 2 since two were asked."""
    return np.maximum(np.maximum(one, other) - np.float32(np.log(2)), 0)


def noise_score(signals: Iterator[tuple[str, Evidence]], num_pairs: int) -> Floats:
    """How suspect each pair is: the share of pairs that are less so, (N,) in [0, 1).

    Pairs are ordered by the sum of squares of their evidence: one strong signal tells more than
    several weak ones, and two strong ones more than one.

    Args:
        signals: name and evidence (N,) of each, asked for one at a time.
        num_pairs: N.
    """
    total = np.zeros(num_pairs, np.float32)
    for _, found in signals:
        total += np.square(found)
    score = np.empty(num_pairs)
    score[np.argsort(total, kind="stable")] = np.arange(num_pairs) / max(1, num_pairs)
    return score


def measure_noise(table: ScoreTable, corpus: Corpus) -> None:
    """Add `noise_score` and what it is made of to a table, but what it has.

    The columns `lexical_tgt` and `lexical_src`, `gap_tgt` and `gap_src`, `order_tgt` and
    `order_src`, and `ending` are those of `lexical_scores` and `fluency`. Surprise counts where the
    table has the statistics for it, pieces where the corpus was made from text, which the rules
    are then measured of. Ranks are those among all pairs of the table, so the score is the same
    whatever rules drop.

    Args:
        table: N pairs.
        corpus: of those N pairs.

    Raises:
        TextError: the text is gone or changed.
        OSError: a column or the rules cannot be written.
    """
    if NOISE_SCORE in table.names:
        return
    if corpus.has_text:
        measure_rules(corpus)  # first of all: it fails where the text is gone
    for names, measure in ((_LEXICAL, lexical_scores), (_FLUENCY, fluency)):
        if not {*names} <= {*table.names}:
            for name, values in zip(names, measure(corpus), strict=True):
                if name not in table.names:
                    table.add(name, values)
    table.add(NOISE_SCORE, noise_score(noise_signals(table, corpus), len(table)))


def has_signals(table: ScoreTable) -> bool:
    """Whether a table has the columns that `noise_signals` needs."""
    return {*_LEXICAL, *_FLUENCY} <= {*table.names}


def noise_signals(table: ScoreTable, corpus: Corpus) -> Iterator[tuple[str, Evidence]]:
    """Name and evidence (N,) of each signal, of a table with the columns of `measure_noise`."""
    lengths = {"tgt": table.num_tokens, "src": table.num_src_tokens}
    for name, sign in (("lexical", -1), ("gap", 1), ("order", -1)):
        sides = (
            evidence(sign * table.column(f"{name}_{side}"), length)
            for side, length in lengths.items()
        )
        yield name, of_either(*sides)
    yield "ending", evidence(-table.column("ending"), lengths["tgt"])
    src, tgt = lengths["src"], lengths["tgt"]
    z = length_z(src, tgt, *usual_lengths(src, tgt))
    yield "length", evidence(np.abs(z), lengths["tgt"])
    if corpus.has_text:
        rules = measure_rules(corpus)
        chars = {side: rules.columns[f"{side}_chars"] for side in lengths}
        sides = (evidence((lengths[side] - 1) / chars[side], chars[side]) for side in lengths)
        yield "pieces", of_either(*sides)
    if "entropy" in table.statistics:
        signal = np.empty(len(table), np.float32)
        for rows, chunk in table.chunks():
            with np.errstate(invalid="ignore"):
                found = surprise(chunk.nll, chunk.column("entropy"), chunk.num_tokens)
            signal[rows] = np.where(np.isnan(found), np.inf, found)
        yield "surprise", evidence(signal, lengths["tgt"])
