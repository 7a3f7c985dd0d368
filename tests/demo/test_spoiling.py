"""Each kind of noise by hand, its share, and that the draw repeats."""

from collections import Counter

import pytest

from pycat.demo.spoiling import CLEAN, KINDS, spoil

NUMBERS = range(100)
ENGLISH = [f"the old fern number {i} grows" for i in NUMBERS]
GERMAN = [f"der alte Farn Nummer {i} wächst" for i in NUMBERS]
FRENCH = [f"la vieille fougère numéro {i} pousse" for i in NUMBERS]


def test_each_kind_replaces_the_german_as_it_says() -> None:
    target, labels = spoil(ENGLISH, GERMAN, FRENCH, 0.5)
    assert Counter(labels) == {CLEAN: 50, **dict.fromkeys(KINDS, 10)}
    moved = [row for row in NUMBERS if labels[row] == "misaligned"]
    assert sorted(target[row] for row in moved) == sorted(GERMAN[row] for row in moved)
    for row, (text, label) in enumerate(zip(target, labels, strict=True)):
        if label == "clean":
            assert text == GERMAN[row]
        elif label == "french":
            assert text == FRENCH[row]
        elif label == "copied":
            assert text == ENGLISH[row]
        elif label == "cut":
            assert text == "der alte Farn"
        elif label == "shuffled":
            assert text != GERMAN[row]
            assert sorted(text.split()) == sorted(GERMAN[row].split())
        else:
            assert label == "misaligned"
            assert text != GERMAN[row]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_share(share: float) -> None:
    _, labels = spoil(ENGLISH, GERMAN, FRENCH, share)
    assert labels.count(CLEAN) == 100 - round(100 * share)


def test_draw_repeats_by_seed() -> None:
    assert spoil(ENGLISH, GERMAN, FRENCH, 0.3) == spoil(ENGLISH, GERMAN, FRENCH, 0.3)
    other = spoil(ENGLISH, GERMAN, FRENCH, 0.3, seed=1)
    assert other[1] != spoil(ENGLISH, GERMAN, FRENCH, 0.3)[1]


def test_pairs_that_a_kind_does_not_suit_are_left_to_others() -> None:
    # Two pairs have French, and ten have the four words that a cut or another order needs.
    french = ["la fougère", "la mousse", *[""] * 98]
    german = [f"vier Wörter und {i}" if i < 10 else f"Farn {i}" for i in NUMBERS]
    target, labels = spoil(ENGLISH, german, french, 0.5)
    counts = Counter(labels)
    assert counts["french"] == 2
    assert counts["cut"] + counts["shuffled"] == 8  # the pairs of four words without French
    assert counts["misaligned"] == counts["copied"] == 10
    assert [target[row] for row in NUMBERS if labels[row] == "cut"] == ["vier Wörter"] * counts[
        "cut"
    ]


def test_a_pair_that_would_stay_as_it_is_is_not_called_spoilt() -> None:
    same = ["ein und dasselbe Wort"] * 20
    target, labels = spoil(same, same, same, 1.0)
    changed = {row for row in range(20) if target[row] != same[row]}
    assert changed == {row for row in range(20) if labels[row] != CLEAN}
    assert set(labels) == {CLEAN, "cut", "shuffled"}
