"""Equal and nearly equal lines find each other."""

import random

import numpy as np

from pycat.duplicates import NUM_BANDS, band_hashes, connected, first_of_equal


def test_first_of_equal_is_the_lowest_row() -> None:
    assert first_of_equal(np.array([7, 3, 7, 3, 9])).tolist() == [0, 1, 0, 1, 4]
    assert first_of_equal(np.array([], np.int64)).tolist() == []


def test_connected_follows_links_of_every_kind() -> None:
    # 0-3 by the first, 3-4 by the second, 4-5 by the first, 1-2 by the second.
    links = [np.array([0, 1, 2, 0, 4, 4]), np.array([0, 1, 1, 3, 3, 5])]
    assert connected(links, 6).tolist() == [0, 1, 1, 0, 0, 0]


def test_connected_on_long_chains_and_random_graphs() -> None:
    chain = np.maximum(np.arange(5000) - 1, 0)
    assert connected([chain], 5000).tolist() == [0] * 5000
    rng = np.random.default_rng(0)
    links = [np.minimum(np.arange(200), rng.integers(0, 5000, 200)) for _ in range(3)]
    parent = list(range(200))
    for link in links:
        for row, other in enumerate(link.tolist()):
            low, high = sorted((parent[row], parent[other]))
            parent = [low if root == high else root for root in parent]
    assert connected(links, 200).tolist() == parent


def similar_share(edit: float, seed: int = 0) -> float:
    """How often a line and one that differs in this share of its letters share a band."""
    rng = random.Random(seed)
    lines = ["".join(rng.choices("abcdefghij ", k=200)) for _ in range(400)]
    changed = ["".join("#" if rng.random() < edit else c for c in line) for line in lines]
    one, other = (band_hashes([line.encode() for line in side]) for side in (lines, changed))
    return float((one == other).any(axis=1).mean())


def test_near_lines_share_a_band_and_others_do_not() -> None:
    assert similar_share(0.0) == 1.0
    # One letter in 400 spoils 8 in 200 or none: a Jaccard similarity of about 0.96.
    assert similar_share(1 / 400) > 0.85
    assert similar_share(0.1) < 0.05  # half of the n-grams are gone


def test_bands_do_not_depend_on_other_lines() -> None:
    lines = [b"", b"a", b"abcdefgh", b"abcdefghi", b"another line altogether"]
    together = band_hashes(lines)
    assert together.shape == (5, NUM_BANDS)
    for line, bands in zip(lines, together, strict=True):
        assert band_hashes([line])[0].tolist() == bands.tolist()
    assert len({tuple(bands) for bands in together.tolist()}) == 5


def test_short_lines_must_be_equal() -> None:
    lines = [b"leftmargin\tvonlinks", b"yesorcs\tjaorks", b"yesorcs\tjaork", b"yesorcs\tjaorks"]
    bands = band_hashes(lines)
    assert not (bands[0] == bands[1]).any()
    assert not (bands[1] == bands[2]).any()
    assert (bands[1] == bands[3]).all()
