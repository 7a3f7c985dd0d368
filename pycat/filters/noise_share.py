"""The share of noise in a corpus, estimated from pairs that are spoilt on purpose.

Some pairs of a sample are spoilt, each in one way: given the target of another pair, cut, or with
their target's tokens in another order. All signals that need no proxy are measured on the sample as
it is then. For each kind a logistic regression tells its spoilt pairs from the pairs as they were,
and ranks both. A region of high ranks that holds the share q of the spoilt pairs holds at least q
times the share of that kind in the corpus, and little else if it is high enough. So

    share of a kind = the lowest, over regions, of (share of the corpus in it) / (share of the
                      spoilt pairs in it)

The kinds add up, since each regression finds few pairs of the others. Kinds of noise that resemble
none of the three are not counted. The regressions also rank pairs: the odds that a pair is noise
are the sum over kinds of share times odds (`fitted_noise`). Source: estimation of a mixture's
proportion from samples of the mixture and of one component, Scott 2015 (AISTATS), and Garg et al.
2021 (NeurIPS).
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycat._core import IndexedWriter
from pycat.data.corpus import Corpus
from pycat.data.opening import open_corpus
from pycat.data.token_chunks import token_chunks
from pycat.errors import PycatError
from pycat.filters.fluency import fluency
from pycat.filters.lexical import lexical_scores
from pycat.filters.noise import evidence
from pycat.filters.rule_measures import length_z, usual_lengths
from pycat.scores.parts import PART_PAIRS

Tokens = NDArray[np.int64]

KINDS = ("misaligned", "cut", "shuffled")

_MAX_SAMPLE = 100_000
# Fewer pairs than this, of which some 50 of each kind are spoilt, tell nothing.
_MIN_SAMPLE = 1000
_SPOILT_SHARE = 1 / 20
# The share of a target that is left when it is cut.
_CUT_SHARE = (0.2, 0.7)
# Targets are shuffled in pieces of so many tokens: words fall into more than one.
_PIECE = 2
# Spoilt pairs are left out whose lengths differ more than those of nearly all pairs do, since rules
# or the tokenizer dropped their like.
_LENGTH_QUANTILE = 0.999
_REGIONS = np.arange(0.2, 0.81, 0.05)
_Z_95 = 1.96


@dataclass(frozen=True)
class NoiseShare:
    """An estimate of the share of noise.

    Attributes:
        share: of all kinds together, 0 to 1.
        low, high: 95 % interval of the sampling error.
        kinds: the share of each kind.
        num_pairs: pairs that were sampled.
    """

    share: float
    low: float
    high: float
    kinds: Mapping[str, float]
    num_pairs: int


def noise_share(
    corpus: Corpus,
    rows: NDArray[np.int64] | None = None,
    *,
    max_sample: int = _MAX_SAMPLE,
    seed: int = 0,
    num_threads: int | None = None,
) -> NoiseShare:
    """Estimate how much of a corpus is noise.

    Memory holds the tokens of the sample, and the tables of `lexical_scores` and `fluency`; a
    temporary folder holds the sample.

    Args:
        corpus: N pairs, or a view.
        rows: ascending rows of it that are asked about; all by default.
        max_sample: at most so many pairs are sampled.
        seed: of the sample and of what is spoilt.
        num_threads: cores to use, None for all this process may use; the estimate is the same.

    Raises:
        PycatError: fewer than 1,000 pairs.
        CorpusError: the corpus is damaged.
    """
    return _fit(corpus, rows, max_sample, seed, num_threads)[0]


def fitted_noise(
    corpus: Corpus,
    rows: NDArray[np.int64],
    column: Callable[[str], NDArray[Any]],
    *,
    max_sample: int = _MAX_SAMPLE,
    seed: int = 0,
    num_threads: int | None = None,
) -> tuple[NoiseShare, NDArray[np.float64]]:
    """The estimate of `noise_share`, and by the same regressions how likely each pair is noise.

    Memory holds 44 bytes a pair beside that of `noise_share`.

    Args:
        corpus, rows, max_sample, seed, num_threads: as for `noise_share`.
        column: gives the measures (N,) of the corpus, by name.

    Returns:
        The estimate, and for each of `rows` ln of the sum over kinds of share times odds, (n,).

    Raises:
        As `noise_share`.
    """
    share, regressions = _fit(corpus, rows, max_sample, seed, num_threads)
    num_src, num_tgt = (lengths[rows] for lengths in corpus.lengths)
    evidence_of, _ = _evidence([column(name)[rows] for name in _COLUMNS], num_src, num_tgt)
    likely = np.full(len(rows), -np.inf)
    for kind, regression in zip(share.kinds.values(), regressions, strict=True):
        for first in range(0, len(rows), PART_PAIRS):
            part = slice(first, first + PART_PAIRS)
            features = _with_squares(np.stack([values[part] for values in evidence_of], axis=1))
            with np.errstate(divide="ignore"):
                odds = np.log(kind) + regression.log_odds(features)
            likely[part] = np.logaddexp(likely[part], odds)
    return share, likely


def check_num_pairs(corpus: Corpus, num_pairs: int) -> None:
    """Refuse to estimate the share of noise among too few pairs.

    Raises:
        PycatError: there are below 1,000.
    """
    if num_pairs < _MIN_SAMPLE:
        raise PycatError(
            f"{corpus.path}: the share of noise is to be estimated among {num_pairs:,} pairs, "
            f"expected at least {_MIN_SAMPLE:,}; give guard a fraction in place of auto, and rank "
            "by noise in place of fitted_noise"
        )


def _fit(
    corpus: Corpus,
    rows: NDArray[np.int64] | None,
    max_sample: int,
    seed: int,
    num_threads: int | None,
) -> tuple[NoiseShare, "list[_Regression]"]:
    """The estimate, and a regression for each kind."""
    rows = np.arange(len(corpus)) if rows is None else rows
    check_num_pairs(corpus, len(rows))
    rng = np.random.default_rng(seed)
    if len(rows) > max_sample:
        rows = np.sort(rng.choice(rows, max_sample, replace=False))
    src, tgt = _sides(corpus, rows)
    kind = _spoil(tgt, rng)
    signals, z = _signals(corpus, src, tgt, num_threads)
    usual = np.abs(z) <= np.quantile(np.abs(z[kind < 0]), _LENGTH_QUANTILE)
    shares, errors, regressions = {}, [], []
    for index, name in enumerate(KINDS):
        spoilt, untouched = (kind == index) & usual, kind < 0
        regressions.append(_Regression(signals[untouched], signals[spoilt]))
        odds = regressions[-1].log_odds(signals)
        shares[name], error = component_share(odds[untouched], odds[spoilt])
        errors.append(error)
    share, spread = sum(shares.values()), _Z_95 * float(np.linalg.norm(errors))
    estimate = NoiseShare(
        min(share, 1.0), max(0.0, share - spread), min(1.0, share + spread), shares, len(rows)
    )
    return estimate, regressions


def component_share(
    of_mixture: NDArray[np.float64], of_component: NDArray[np.float64]
) -> tuple[float, float]:
    """The largest share of a component that a mixture allows, and its standard error.

    Args:
        of_mixture: scores (N,) of a sample of the mixture; the component's are high.
        of_component: scores (M,) of a sample of the component.
    """
    found = []
    for region in _REGIONS:
        threshold = np.quantile(of_component, 1 - region)
        inside = int(np.count_nonzero(of_mixture >= threshold))
        spoilt = int(np.count_nonzero(of_component >= threshold))
        ratio = inside / len(of_mixture) / (spoilt / len(of_component))
        found.append((ratio, ratio * np.sqrt(1 / max(inside, 1) + 1 / spoilt)))
    share, error = min(found)
    return float(share), float(error)


def _sides(corpus: Corpus, rows: NDArray[np.int64]) -> tuple[list[Tokens], list[Tokens]]:
    """Tokens of both sides of some rows, without the special ones at the end."""
    sides: tuple[list[Tokens], list[Tokens]] = ([], [])
    for _, *pair in token_chunks(corpus, rows):
        for tokens, side in zip(sides, pair, strict=True):
            tokens += np.split(side.tokens, np.cumsum(side.lengths)[:-1])
    return sides


def _spoil(tgt: list[Tokens], rng: np.random.Generator) -> NDArray[np.int8]:
    """Spoil the targets of some pairs; returns the kind of each pair, -1 where it is untouched.

    What is spoilt replaces the pair, so that no sentence is in the sample twice.
    """
    count = max(1, int(_SPOILT_SHARE * len(tgt)))
    misaligned, cut, shuffled = rng.permutation(len(tgt))[: 3 * count].reshape(3, count)
    kind = np.full(len(tgt), -1, np.int8)
    for index, rows in enumerate((misaligned, cut, shuffled)):
        kind[rows] = index
    # Half of the targets come from anywhere, half from a pair of like length.
    half = count // 2
    by_length = sorted(misaligned[half:].tolist(), key=lambda row: len(tgt[row]))
    for group in (misaligned[:half].tolist(), by_length):
        targets = [tgt[row] for row in group]
        for row, target in zip(group, targets[1:] + targets[:1], strict=True):
            tgt[row] = target
    for row in cut.tolist():
        length = len(tgt[row])
        tgt[row] = tgt[row][: max(1, int(length * rng.uniform(*_CUT_SHARE)))]
    for row in shuffled.tolist():
        pieces = np.split(tgt[row], np.arange(_PIECE, len(tgt[row]), _PIECE))
        tgt[row] = np.concatenate([pieces[i] for i in rng.permutation(len(pieces))])
    return kind


def _signals(
    corpus: Corpus, src: list[Tokens], tgt: list[Tokens], num_threads: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Features (N, F) of pairs: evidence of each signal and its square; and their `length_z`."""
    with tempfile.TemporaryDirectory(prefix="pycat-") as folder:
        for name, side in (("src", src), ("tgt", tgt)):
            with IndexedWriter(str(Path(folder) / name), dtype="int32") as writer:
                rows = [np.append(tokens, corpus.eos_id).astype(np.int32) for tokens in side]
                writer.append(np.concatenate(rows), np.array([len(row) for row in rows], np.int32))
        sample = open_corpus(
            (Path(folder) / "src", Path(folder) / "tgt"),
            vocab_size=max(corpus.vocab_size, corpus.src_vocab_size or 0),
            eos_id=corpus.eos_id,
        )
        lexical = lexical_scores(sample, num_threads=num_threads)
        order = fluency(sample)
        num_src, num_tgt = (np.array(lengths) for lengths in sample.lengths)
    columns = [*lexical, *order]
    evidence_of, z = _evidence(columns, num_src, num_tgt)
    return _with_squares(np.stack(evidence_of, axis=1)), z


# Measures in the order of LexicalScores and Fluency.
_COLUMNS = (
    *("lexical_tgt", "lexical_src", "gap_tgt", "gap_src"),
    *("order_tgt", "order_src", "ending"),
)
# Low values of the others are suspect.
_HIGH_IS_SUSPECT = ("gap_tgt", "gap_src")


def _evidence(
    columns: Sequence[NDArray[Any]], num_src: NDArray[np.int32], num_tgt: NDArray[np.int32]
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """Evidence (N,) of each of `_COLUMNS` and of the lengths, and `length_z` (N,)."""
    found = []
    for name, values in zip(_COLUMNS, columns, strict=True):
        sign = 1 if name in _HIGH_IS_SUSPECT else -1
        found.append(evidence(sign * values, num_src if name.endswith("_src") else num_tgt))
    z = length_z(num_src, num_tgt, *usual_lengths(num_src, num_tgt))
    found.append(evidence(np.abs(z), num_tgt))
    return [*found, np.sign(z) * found[-1]], z


def _with_squares(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Values (N, F) and their squares: (N, 2 F)."""
    features = values.astype(np.float64)
    return np.concatenate([features, features**2], axis=1)


class _Regression:
    """A logistic regression of a component against a mixture, which weigh the same.

    Newton's method; a penalty of 0.001 keeps weights finite where the samples part completely.
    """

    def __init__(self, mixture: NDArray[np.float64], component: NDArray[np.float64]) -> None:
        """Fit it to features (N, F) and (M, F)."""
        features = np.concatenate([mixture, component])
        self._mean, self._scale = features.mean(0), np.maximum(features.std(0), 1e-9)
        design = self._design(features)
        is_component = np.arange(len(design)) >= len(mixture)
        weight = np.where(is_component, 0.5 / len(component), 0.5 / len(mixture))
        penalty = 1e-3 * np.eye(design.shape[1])
        self._weights = np.zeros(design.shape[1])
        for _ in range(20):
            p = 1 / (1 + np.exp(-np.clip(design @ self._weights, -30, 30)))
            gradient = design.T @ (weight * (p - is_component)) + penalty @ self._weights
            curvature = (design.T * (weight * p * (1 - p))) @ design + penalty
            self._weights -= np.linalg.solve(curvature, gradient)

    def log_odds(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log of the density of the component over that of the mixture (N,)."""
        odds: NDArray[np.float64] = self._design(features) @ self._weights
        return odds

    def _design(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = (features - self._mean) / self._scale
        return np.concatenate([np.ones((len(scaled), 1)), scaled], axis=1)
