"""Known noise: labelled pairs as they are, or clean pairs spoilt in ways of our own.

Each kind is a function (source, target, others, random) -> (source, target), or None where it does
not apply to the pair; `others` are clean pairs to borrow from.
"""

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Pair(NamedTuple):
    """A sentence pair and what is known of it: "clean", or the kind of its noise."""

    src: str
    tgt: str
    label: str


Kind = Callable[[str, str, list[Pair], random.Random], tuple[str, str] | None]


def _half_copied(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str]:
    """The second half left in the source language."""
    tgt_words, src_words = tgt.split(), src.split()
    first, last = tgt_words[: len(tgt_words) // 2], src_words[len(src_words) // 2 :]
    return src, " ".join(first + last)


def _swapped(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str]:
    return tgt, src


def _source_language(src: str, tgt: str, others: list[Pair], rng: random.Random) -> tuple[str, str]:
    """Another sentence of the source language as target."""
    return src, rng.choice(others).src


def _word_salad(src: str, tgt: str, others: list[Pair], rng: random.Random) -> tuple[str, str]:
    """As many words, each from another target."""
    return src, " ".join(rng.choice(rng.choice(others).tgt.split()) for _ in tgt.split())


def _repeated(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str]:
    """The translation falls into a loop, as a decoder does."""
    words = tgt.split()
    start, width = rng.randrange(len(words)), rng.choice((1, 2, 3))
    loop = words[start : start + width]
    return src, " ".join(words[:start] + loop * (2 + (len(words) - start) // len(loop)))


def _boilerplate(src: str, tgt: str, others: list[Pair], rng: random.Random) -> tuple[str, str]:
    """One of twenty targets that stand beside any source."""
    return src, others[rng.randrange(20)].tgt


def _mojibake(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str] | None:
    """UTF-8 read as Windows-1252, or what is not ASCII lost."""
    if tgt.isascii():
        return None
    if rng.random() < 0.5:
        return src, tgt.encode().decode("cp1252", "replace").replace("\t", " ")
    return src, tgt.encode("ascii", "replace").decode()


def _over_translated(src: str, tgt: str, others: list[Pair], rng: random.Random) -> tuple[str, str]:
    """Another target behind it."""
    return src, f"{tgt} {rng.choice(others).tgt}"


def _under_translated(
    src: str, tgt: str, others: list[Pair], rng: random.Random
) -> tuple[str, str]:
    """Another source behind it, left untranslated."""
    return f"{src} {rng.choice(others).src}", tgt


def _wrong_numbers(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str] | None:
    if not any(letter.isdigit() for letter in tgt):
        return None
    return src, "".join(str(rng.randrange(10)) if c.isdigit() else c for c in tgt)


def _reversed(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str]:
    return src, " ".join(reversed(tgt.split()))


def _locally_shuffled(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str]:
    """Each word moves by at most three places or so."""
    words = tgt.split()
    order = sorted(range(len(words)), key=lambda i: i + rng.uniform(0, 4))
    return src, " ".join(words[i] for i in order)


def _similar_length(src: str, tgt: str, others: list[Pair], rng: random.Random) -> tuple[str, str]:
    """Misaligned, with the target of a source of nearly this length."""
    some = rng.sample(others, 200)
    return src, min(some, key=lambda other: abs(len(other.src) - len(src))).tgt


def _typos(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str]:
    """One letter in five replaced, as by poor character recognition."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return src, "".join(
        rng.choice(letters) if c.isalpha() and rng.random() < 0.2 else c for c in tgt
    )


OTHER_KINDS: dict[str, Kind] = {
    # Those that suit few pairs first.
    "mojibake": _mojibake,
    "wrong-numbers": _wrong_numbers,
    "half-copied": _half_copied,
    "swapped-sides": _swapped,
    "source-language": _source_language,
    "word-salad": _word_salad,
    "repeated": _repeated,
    "boilerplate": _boilerplate,
    "over-translated": _over_translated,
    "under-translated": _under_translated,
    "reversed": _reversed,
    "locally-shuffled": _locally_shuffled,
    "similar-length": _similar_length,
    "typos": _typos,
}


def spoil(
    clean: list[Pair],
    count: int,
    share: float,
    seed: int = 0,
    kinds: Mapping[str, Kind] = OTHER_KINDS,
) -> list[Pair]:
    """`count` pairs, `share` of them spoilt by the `kinds` in equal parts.

    Kinds take their pairs in turn, so those that suit few pairs should come first; one that suits
    too few gets fewer. Borrowed text comes from clean pairs beyond the first `count`.

    Raises:
        ValueError: there are too few pairs to borrow from.
    """
    rng = random.Random(seed)
    pairs, others = list(clean[:count]), clean[count:]
    if len(others) < 1000:
        raise ValueError(f"{len(clean)} clean pairs; expected at least {count + 1000}")
    each = round(count * share / len(kinds))
    free = list(range(count))
    rng.shuffle(free)
    for name, kind in kinds.items():
        done, left = 0, []
        for row in free:
            spoilt = None
            if done < each:
                spoilt = kind(pairs[row].src, pairs[row].tgt, others, rng)
            if spoilt is None or spoilt == (pairs[row].src, pairs[row].tgt):
                left.append(row)
            else:
                pairs[row] = Pair(*spoilt, name)
                done += 1
        free = left
    return pairs
