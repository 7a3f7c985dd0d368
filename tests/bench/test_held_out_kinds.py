"""Each kind of held-out noise does what it is named for, and leaves text that can be read."""

import random
import re
import unicodedata
from collections.abc import Callable
from difflib import SequenceMatcher

import pytest
from held_out_kinds import HELD_OUT_KINDS, changed_share, glossary, held_out_kinds
from invented_sentences import sentences
from noise_kinds import OTHER_KINDS, Pair, spoil

FOREIGN = [f"elle compte {number} oiseaux le soir" for number in ("deux", "vingt", "cent")]


PAIRS = sentences(1500)
OTHERS = PAIRS[20:]
KINDS = held_out_kinds(OTHERS, FOREIGN)


def is_part(some: list[str], words: list[str]) -> bool:
    """Whether `some` are among the words, in that order."""
    rest = iter(words)
    return all(word in rest for word in some)


def bare(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def lower_words(text: str) -> list[str]:
    return re.findall(r"\b[a-zü]\w*", text)


def is_shifted(before: str, after: str) -> bool:
    """Whether the first half of the words comes later, or the last half earlier."""
    words, half = before.split(), len(before.split()) // 2
    first, last = " ".join(words[:half]), " ".join(words[-half:])
    return after.find(first) > 0 or (last in after and not after.endswith(last))


# What is true of (src, tgt) and what becomes of it.
EFFECTS: dict[str, Callable[[str, str, str, str], bool]] = {
    "names-swapped": lambda s, t, s2, t2: s2 == s and lower_words(t2) == lower_words(t),
    "one-sentence": lambda s, t, s2, t2: (
        (t2 == t and s2 in re.findall("[A-Z][^.]+[.]", s))
        or (s2 == s and t2 in re.findall("[A-Z][^.]+[.]", t))
    ),
    "hyphenated": lambda s, t, s2, t2: s2 == s and t2.replace("- ", "") == t,
    "boundary-shifted": lambda s, t, s2, t2: (
        (t2 == t and is_shifted(s, s2)) or (s2 == s and is_shifted(t, t2))
    ),
    "words-dropped": lambda s, t, s2, t2: s2 == s and is_part(t2.split(), t.split()),
    "words-inserted": lambda s, t, s2, t2: t2 == t and is_part(s.split(), s2.split()),
    "source-truncated": lambda s, t, s2, t2: t2 == t and s.startswith(s2),
    "markup": lambda s, t, s2, t2: s2 == s and is_part(t.split(), t2.split()),
    "menu-text": lambda s, t, s2, t2: t2 == t and (s2.startswith(s) or s2.endswith(s)),
    "spacing": lambda s, t, s2, t2: t2 == t and s2.replace(" ", "") == s.replace(" ", ""),
    "misread": lambda s, t, s2, t2: t2 == t and len(s2.split()) == len(s.split()),
    "wrong-diacritics": lambda s, t, s2, t2: s2 == s and bare(t2) == bare(t),
    "near-copy": lambda s, t, s2, t2: (
        s2 == s and SequenceMatcher(None, s, t2).ratio() > 0.8 and t2 != s
    ),
    "interleaved": lambda s, t, s2, t2: (
        s2 == s
        and {*t2.split()} <= {*s.split(), *t.split()}
        and bool({*t2.split()} - {*s.split()} and {*t2.split()} - {*t.split()})
    ),
    "gloss": lambda s, t, s2, t2: s2 == s and len(t2.split()) == len(s.split()),
    "foreign-source": lambda s, t, s2, t2: t2 == t and s2 in FOREIGN,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_changes_a_pair_as_it_says(name: str) -> None:
    done = 0
    for seed, (src, tgt, _) in enumerate(PAIRS[:20]):
        spoilt = KINDS[name](src, tgt, OTHERS, random.Random(seed))
        assert spoilt == KINDS[name](src, tgt, OTHERS, random.Random(seed))
        if spoilt is None:
            continue
        done += 1
        assert EFFECTS[name](src, tgt, *spoilt), (src, tgt, *spoilt)
        assert max(changed_share(src, spoilt[0]), changed_share(tgt, spoilt[1])) >= 0.2
        for side in spoilt:
            assert side == " ".join(side.split()) != ""
            assert side.isprintable()
            assert side == unicodedata.normalize("NFC", side)
    assert done >= 10


def test_worked_cases() -> None:
    texts = [("The dog.", "Le chien."), ("the cat", "la chatte"), ("the bull", "le taureau")]
    texts += [("the dog", "le chien")] * 2
    pairs = [Pair(src, tgt, "clean") for src, tgt in texts]
    # Five pairs have "the", four "le": 2 x 4 / 9. "dog" has "le" beside it each time, but so have
    # others: 2 x 3 / 7, under 2 x 3 / 6 with "chien".
    assert glossary(pairs) == {"the": "le", "dog": "chien"}
    spoilt = held_out_kinds(pairs)["gloss"]("Dog the barks!", "Un chien !", [], random.Random(0))
    assert spoilt == ("Dog the barks!", "chien le barks!")
    assert changed_share("a b c d", "d c b a") == 0
    assert changed_share("a b c d", "a b c") == 0.25
    assert changed_share("a a", "a b c d") == 0.75


@pytest.mark.parametrize(
    ("name", "src", "tgt"),
    [
        ("names-swapped", "it rains", "es regnet heute"),
        ("one-sentence", "It rains. It pours.", "Es regnet und gießt."),
        ("hyphenated", "he came here", "er kam hier an"),
        ("words-dropped", "bird", "Vogel"),
        ("source-truncated", "bird", "Vogel"),
        ("spacing", "a", "ein"),
        ("near-copy", "1 2 3", "1 2 3"),
    ],
)
def test_a_pair_that_a_kind_does_not_suit_is_refused(name: str, src: str, tgt: str) -> None:
    for seed in range(20):
        assert KINDS[name](src, tgt, OTHERS, random.Random(seed)) is None


def test_a_third_language_is_an_option() -> None:
    assert set(KINDS) == {*HELD_OUT_KINDS, "gloss", "foreign-source"}
    assert set(held_out_kinds(OTHERS)) == {*HELD_OUT_KINDS, "gloss"}
    assert not set(KINDS) & set(OTHER_KINDS)


def test_noise_is_in_equal_parts_and_the_rest_is_left_alone() -> None:
    pairs = spoil(PAIRS, 400, 0.4, kinds=KINDS)
    labels = [pair.label for pair in pairs]
    assert {name: labels.count(name) for name in KINDS} == dict.fromkeys(KINDS, 10)
    assert labels.count("clean") == 400 - 10 * len(KINDS)
    for before, after in zip(PAIRS, pairs, strict=False):
        assert (before[:2] == after[:2]) == (after.label == "clean")
    assert pairs == spoil(PAIRS, 400, 0.4, kinds=KINDS)
    assert pairs != spoil(PAIRS, 400, 0.4, seed=1, kinds=KINDS)


def test_a_kind_that_suits_too_few_pairs_gets_fewer() -> None:
    short = [Pair("bird", "Vogel", "clean")] * 90 + PAIRS
    kinds = {name: HELD_OUT_KINDS[name] for name in ("one-sentence", "words-dropped")}
    labels = [pair.label for pair in spoil(short, 100, 0.8, kinds=kinds)]
    assert labels.count("one-sentence") == 10
    assert labels.count("words-dropped") == 0


def test_too_few_pairs_to_borrow_from_are_refused() -> None:
    with pytest.raises(ValueError, match="1500 clean pairs; expected at least 1501"):
        spoil(PAIRS, 501, 0.3)
