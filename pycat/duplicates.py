"""Groups of equal and of nearly equal lines, from a few numbers per line."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Of a line, so many bins hold the least hash of its n-grams (one permutation hashing, Li et al.
# 2012); so many bands of bins are compared (Leskovec et al., "Mining of Massive Datasets", ch. 3).
_NUM_BINS = 32
NUM_BANDS = 4
_GRAM_BYTES = 8
# Shorter lines would share bands by a single n-gram: they must be equal.
_MIN_GRAMS = 64

_ODD = np.uint64(0x9E3779B97F4A7C15)
_ODD_TOO = np.uint64(0xD6E8FEB86659FD93)


def band_hashes(lines: Sequence[bytes]) -> NDArray[np.uint64]:
    """Hashes (N, 4) of each line's 8-byte n-grams.

    Two lines with Jaccard similarity s of their sets of n-grams share at least one with a
    probability of about 1 - (1 - s^8)^4: 0.9 at s = 0.9, 0.5 at 0.8, 0.02 at 0.5. Lines below 64
    bytes share all or none, as they are equal or not.
    """
    # Behind its padding even the shortest line has an n-gram, and none reaches into the next line.
    padding = b"\0" * _GRAM_BYTES
    letters = np.frombuffer(b"".join(line + padding for line in lines), np.uint8)
    lengths = np.fromiter(map(len, lines), np.int64, len(lines))
    rows = np.repeat(np.arange(len(lines)), lengths)
    starts = np.arange(len(rows)) + _GRAM_BYTES * rows
    grams = np.lib.stride_tricks.sliding_window_view(letters, _GRAM_BYTES)[starts]
    hashes = _mix(np.ascontiguousarray(grams).view("<u8")[:, 0])
    bins = rows * _NUM_BINS + (hashes >> np.uint64(59)).astype(np.int64)
    least = np.full(len(lines) * _NUM_BINS, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, bins, hashes)
    signature = _filled(least.reshape(len(lines), _NUM_BINS))
    bands = np.zeros((len(lines), NUM_BANDS), np.uint64)
    for column in np.moveaxis(signature.reshape(len(lines), NUM_BANDS, -1), 2, 0):
        bands = _mix(bands ^ column)
    total = np.zeros(len(lines), np.uint64)
    np.add.at(total, rows, hashes)
    short = lengths < _MIN_GRAMS
    bands[short] = total[short, None]
    return bands


def first_of_equal(hashes: NDArray[np.uint64] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Row (N,) of the first element that equals each; holds 24 bytes an element meanwhile."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    begins = np.ones(len(hashes), bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    first = np.empty(len(hashes), np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return first


def connected(links: Sequence[NDArray[np.int64]], count: int) -> NDArray[np.int64]:
    """Least row (N,) of each row's component, where each of `links` (N,) points to a lower row."""
    root = np.arange(count)
    while True:
        before = root
        for link in links:
            lower = np.minimum(root, root[link])
            np.minimum.at(lower, link, lower)
            root = lower
        root = np.minimum(root, root[root])
        if np.array_equal(root, before):
            return root


def _filled(least: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Empty bins get the value of the next full one, round the end (Shrivastava and Li 2014)."""
    empty = least == np.iinfo(np.uint64).max
    twice = np.concatenate((empty, empty), axis=1)
    columns = np.where(twice, 2 * _NUM_BINS, np.arange(2 * _NUM_BINS))
    nearest = np.minimum.accumulate(columns[:, ::-1], axis=1)[:, ::-1][:, :_NUM_BINS]
    # How far it was fetched tells apart bins that were filled from one.
    distance = (nearest - np.arange(_NUM_BINS)).astype(np.uint64)
    values = np.take_along_axis(least, nearest % _NUM_BINS, axis=1)
    with np.errstate(over="ignore"):
        return values + distance * _ODD_TOO


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash of each number."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(32))) * _ODD
        x = (x ^ (x >> np.uint64(29))) * _ODD_TOO
    return x ^ (x >> np.uint64(32))
