"""Strata: groups of pairs, each of which keeps a share of its own.

A pair's code, int16, is 0 or more while the pair is left, and negative where an earlier step left
it out. The functions `by_…` replace the codes of the pairs that are left by their strata.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pycat.errors import PycatError
from pycat.ranking.criteria import random
from pycat.ranking.top_k import chunked
from pycat.scores.score_table import ScoreTable

Codes = NDArray[np.int16]

_MAX_STRATA = int(np.iinfo(np.int16).max)


def by_score(scores: NDArray[np.float64], codes: Codes, num_strata: int) -> None:
    """Strata of equal width between the lowest and the highest finite score.

    Infinite scores fall into the first stratum and the last.
    """
    low, high = np.inf, -np.inf
    for rows in chunked(len(scores)):
        finite = scores[rows][(codes[rows] >= 0) & np.isfinite(scores[rows])]
        low, high = finite.min(initial=low), finite.max(initial=high)
    # Halves, because the difference of two float64 may overflow.
    width = high / 2 - low / 2
    for rows in chunked(len(scores)):
        inside = codes[rows] >= 0
        values = np.clip(scores[rows][inside], low, high)
        share = (values / 2 - low / 2) / width if width > 0 else np.zeros(len(values))
        codes[rows][inside] = np.minimum(share * num_strata, num_strata - 1).astype(np.int16)


def by_length(num_tokens: NDArray[np.int32], codes: Codes, num_strata: int) -> None:
    """Strata of about equally many pairs, from the shortest target to the longest.

    Equal lengths stay together, so there may be fewer strata.
    """
    counts = np.zeros(int(num_tokens.max()) + 1, dtype=np.int64)
    for rows in chunked(len(codes)):
        counts += np.bincount(num_tokens[rows][codes[rows] >= 0], minlength=len(counts))
    below = np.cumsum(counts) - counts
    stratum = (below * num_strata // max(1, counts.sum())).astype(np.int16)
    stratum = np.minimum(stratum, num_strata - 1)
    for rows in chunked(len(codes)):
        codes[rows] = np.where(codes[rows] >= 0, stratum[num_tokens[rows]], codes[rows])


def by_column(table: ScoreTable, name: str, codes: Codes) -> int:
    """A stratum for each value of a column, NaN included; returns how many there are.

    Raises:
        PycatError: no such column, or it has more than 32,767 values.
    """
    check_column(table, name)
    known: dict[object, int] = {}
    for rows, chunk in table.chunks():
        encoded = pa.array(chunk.column(name)).dictionary_encode(null_encoding="encode")
        # NaN does not equal itself; as None all NaN are one value.
        values = [value if value == value else None for value in encoded.dictionary.to_pylist()]
        for value in values:
            known.setdefault(value, len(known))
        if len(known) > _MAX_STRATA:
            raise PycatError(
                f"strata: column {name} has more than {_MAX_STRATA:,} values, expected a few, such "
                "as domains; choose another column"
            )
        stratum = np.array([known[value] for value in values])
        codes[rows] = np.where(codes[rows] >= 0, stratum[encoded.indices.to_numpy()], codes[rows])
    return len(known)


def by_names(
    table: ScoreTable,
    names: Sequence[str],
    num_tokens: NDArray[np.int32],
    codes: Codes,
    num_lengths: int,
) -> int:
    """Strata by "length" and by columns: one for each combination; returns how many there may be.

    Raises:
        PycatError: no such column, or more than 32,767 combinations.
    """
    total = 1
    combined = np.where(codes >= 0, np.int16(0), codes).astype(np.int16)
    for name in names:
        own = codes.copy()
        if name == "length":
            by_length(num_tokens, own, num_lengths)
            count = num_lengths
        else:
            count = by_column(table, name, own)
        total *= count
        if total > _MAX_STRATA:
            raise PycatError(
                f"strata: {', '.join(names)} make more than {_MAX_STRATA:,} combinations, expected "
                "a few; choose other columns, or fewer num_strata"
            )
        for rows in chunked(len(codes)):
            left = codes[rows] >= 0
            combined[rows][left] = combined[rows][left] * count + own[rows][left]
    codes[:] = combined
    return total


def check_column(table: ScoreTable, name: str) -> None:
    """Refuse the name of a column that the table does not have.

    Raises:
        PycatError: the message names its columns.
    """
    if name not in table.names:
        raise PycatError(
            f"{table.path or 'score table'}: has no column {name!r}, expected one of "
            f"{', '.join(table.names)}; add it with ScoreTable.add"
        )


def sizes(codes: Codes, num_strata: int, weights: NDArray[np.int32] | None) -> NDArray[np.int64]:
    """Number of pairs that are left in each stratum, or their weight: (G,)."""
    total = np.zeros(num_strata)
    for rows in chunked(len(codes)):
        inside = codes[rows] >= 0
        costs = None if weights is None else weights[rows][inside]
        total += np.bincount(codes[rows][inside], costs, num_strata)
    return total.astype(np.int64)


def proportional(sizes: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Split `budget` in proportion to sizes (G,); the quotas (G,) sum to it.

    The largest remainders are rounded up, among equal ones that of the lower stratum. Source:
    Hamilton's method of apportionment.
    """
    # Plain integers: a budget of tokens times a size of tokens does not fit into 64 bits.
    total = max(1, int(sizes.sum()))
    shares = [divmod(budget * int(size), total) for size in sizes]
    quotas = np.array([quota for quota, _ in shares], dtype=np.int64)
    order = sorted(range(len(sizes)), key=lambda stratum: (-shares[stratum][1], stratum))
    quotas[order[: budget - int(quotas.sum())]] += 1
    return quotas


def coverage_centric(sizes: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Split `budget` evenly over strata of sizes (G,); what small strata lack goes to the others.

    Source: coverage-centric coreset selection, Zheng et al. 2023 (ICLR), Algorithm 1.
    """
    quotas = np.zeros(len(sizes), dtype=np.int64)
    left = budget
    order = np.argsort(sizes, kind="stable")
    for done, stratum in enumerate(order):
        quotas[stratum] = min(int(sizes[stratum]), left // (len(sizes) - done))
        left -= int(quotas[stratum])
    return quotas


class Drawn:
    """The scores of the criterion "random", computed when they are read.

    They depend on pair ids, and so on the order of the text. A hash of the tokens would not,
    but takes reading all tokens, and has to tell equal lines apart.

    Memory holds 8 bytes a pair, its id.
    """

    def __init__(self, table: ScoreTable, seed: int) -> None:
        self._pair_ids, self._seed = table.pair_ids, seed

    def __len__(self) -> int:
        return len(self._pair_ids)

    def __getitem__(self, rows: slice) -> NDArray[np.float64]:
        return random(self._pair_ids[rows], self._seed)
