"""Noise scores: how likely it is that the sides of a pair are no translation of each other.

The variance of raw perplexity keeps copies, other languages and misaligned pairs, which a model
learns fast or never. Each signal below sees another kind of noise. All but one ask the corpus
itself rather than a proxy that trained for minutes:

    lexical    the sides' tokens rarely occur together elsewhere (`lexical.py`)
    gap        a run of tokens that nothing on the other side accounts for (`lexical.py`)
    order      tokens that seldom follow each other (`fluency.py`)
    ending     the sides do not end alike (`fluency.py`)
    length     one side is longer than translations are (`length_z`)
    pieces     words fall into many tokens, as misspelt and badly decoded ones do
    surprise   (nll - entropy) / tokens: the target is less likely than the model's own guesses are

Long pairs are harder than short ones without being noise, so each signal counts as a rank among
pairs of like length, its evidence. The evidence of all signals but surprise is measured with the
corpus; surprise is added from the score table when pairs are selected. docs/evidence.md has what
this finds and what not.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat.filters.rule_measures import length_z, usual_lengths
from pycat.scores.score_table import ScoreTable

Floats = NDArray[np.float64]
Evidence = NDArray[np.float32]

# Checkpoints at the end over which surprise is averaged: earlier ones know no language yet.
_NUM_LATE = 2
_NUM_STRATA = 20


def surprise(nll: Floats, entropy: Floats, num_tokens: NDArray[np.int32]) -> Floats:
    """How much less likely targets are than what the late checkpoints expect, nats a token (N,).

    The entropy is what they expect: a pair that is hard in a way the model knows of is at 0.

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
    ranked = np.empty(len(signal), np.float32)
    for rows in np.array_split(np.argsort(num_tokens, kind="stable"), _NUM_STRATA):
        order = np.argsort(-signal[rows], kind="stable")
        ranked[rows[order]] = -np.log((np.arange(len(rows)) + 0.5) / len(rows))
    return ranked


def combine_sides(one: Evidence, other: Evidence) -> Evidence:
    """The stronger evidence (N,) of two sides, less ln 2 since two were asked."""
    return np.maximum(np.maximum(one, other) - np.float32(np.log(2)), 0)


def corpus_signals(
    column: Callable[[str], NDArray[Any]],
    num_src_tokens: NDArray[np.int32],
    num_tokens: NDArray[np.int32],
    *,
    has_text: bool,
) -> Iterator[tuple[str, Evidence]]:
    """Name and evidence (N,) of each signal that needs no proxy, one at a time.

    Args:
        column: gives the measures (N,) of all pairs of a corpus, by name.
        num_src_tokens, num_tokens: source and target tokens (N,), EOS counted.
        has_text: whether the corpus was made from text, which "pieces" needs.
    """
    lengths = {"tgt": num_tokens, "src": num_src_tokens}
    for name, sign in (("lexical", -1), ("gap", 1), ("order", -1)):
        sides = (
            evidence(sign * column(f"{name}_{side}"), length) for side, length in lengths.items()
        )
        yield name, combine_sides(*sides)
    yield "ending", evidence(-column("ending"), num_tokens)
    z = length_z(num_src_tokens, num_tokens, *usual_lengths(num_src_tokens, num_tokens))
    yield "length", evidence(np.abs(z), num_tokens)
    if has_text:
        chars = {side: column(f"{side}_chars") for side in lengths}
        sides = (evidence((lengths[side] - 1) / chars[side], chars[side]) for side in lengths)
        yield "pieces", combine_sides(*sides)


def surprise_evidence(table: ScoreTable) -> Evidence | None:
    """Evidence (N,) of the signal surprise; None where the table has no entropy.

    What is not a number, of infinite sums, is as suspect as can be.
    """
    if "entropy" not in table.statistics:
        return None
    signal = np.empty(len(table), np.float32)
    for rows, chunk in table.chunks():
        with np.errstate(invalid="ignore"):
            values = surprise(chunk.nll, chunk.column("entropy"), chunk.num_tokens)
        signal[rows] = np.where(np.isnan(values), np.inf, values)
    return evidence(signal, table.num_tokens)


def sum_of_squares(signals: Iterable[Evidence], num_pairs: int) -> Evidence:
    """The sum (N,) of squares of the evidence of signals, which are asked for one at a time.

    One strong signal tells more than several weak ones, and two strong ones more than one.
    """
    total = np.zeros(num_pairs, np.float32)
    for ranked in signals:
        total += np.square(ranked)
    return total


def noise_score(total: Evidence) -> Floats:
    """How suspect each pair is: the share of pairs with a lower sum of squares, (N,) in [0, 1)."""
    score = np.empty(len(total))
    score[np.argsort(total, kind="stable")] = np.arange(len(total)) / max(1, len(total))
    return score
