"""Further noise, as in crawls, subtitles, dumps and scanned pages: for a test, not for tuning.

Nothing of this may be looked at while signals are chosen. Each kind is a function as in
`noise_kinds`; it gives None where it leaves a side empty or changes less than a fifth of the words
on both sides, for such a pair is hardly noise.
"""

import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import partial, wraps

from noise_kinds import Kind, Pair

LEAST_CHANGE = 0.2
WORD = re.compile(r"[^\W\d_][\w'’-]*")
NAME = re.compile(r"(?<=[^.!?:…»”\"\s] )[^\W\d_][\w'’-]*")
SENTENCE_END = re.compile(r"(?<=[.!?…]) ")
# What recognisers take for what.
SHAPES = (
    "rn:m cl:d li:h vv:w m:rn d:cl h:b w:vv l:1 i:l o:0 e:c u:ii g:9 s:5 t:f B:8 I:l O:0 S:5 Z:2"
)
# Those that every vowel has a letter with.
MARKS = "\u0300\u0301\u0302\u0304\u0308\u030c"
MARKUP = (
    "<b> </b> <br/> </p> <li> <span> </a> &nbsp; &amp;quot; &lt;i&gt; {{name}} {0} %1$s [[ ]] \\n "
    "/node/{} http://www.example.com/index.php?id={} [/quote] {{cite|url= $(this).hide();"
)


def changed_share(before: str, after: str) -> float:
    """Share of words, in any order, that only one of the texts has; of the longer text."""
    old, new = Counter(before.split()), Counter(after.split())
    longer = max(old.total(), new.total())
    return 1 - (old & new).total() / longer if longer else 0.0


def _noticeable(kind: Kind) -> Kind:
    @wraps(kind)
    def checked(
        src: str, tgt: str, others: list[Pair], rng: random.Random
    ) -> tuple[str, str] | None:
        spoilt = kind(src, tgt, others, rng)
        if spoilt is None or not all(side.strip() for side in spoilt):
            return None
        most = max(changed_share(src, spoilt[0]), changed_share(tgt, spoilt[1]))
        return spoilt if most >= LEAST_CHANGE else None

    return checked


@_noticeable
def _names_swapped(
    src: str, tgt: str, others: list[Pair], rng: random.Random
) -> tuple[str, str] | None:
    """Words capitalised within the sentence, or on both sides, become those of other pairs."""
    found = sorted(_names(src, tgt))
    if not found:
        return None
    some = sorted({name for pair in rng.sample(others, 100) for name in _names(*pair[:2])})
    some = [name for name in some if name not in found]
    if len(some) < len(found):
        return None
    instead = dict(zip(found, rng.sample(some, len(found)), strict=True))
    return src, WORD.sub(lambda word: instead.get(word[0], word[0]), tgt)


def _names(src: str, tgt: str) -> set[str]:
    """The target's words that look like names."""
    both = set(WORD.findall(src)) & set(WORD.findall(tgt))
    return {word for word in both.union(NAME.findall(tgt)) if word[0].isupper()}


@_noticeable
def _one_sentence(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str] | None:
    """Of several sentences, one side has only the first or the last."""
    sentences = [SENTENCE_END.split(side) for side in (src, tgt)]
    if min(map(len, sentences)) < 2:
        return None
    kept = rng.choice((0, -1))
    return (sentences[0][kept], tgt) if rng.random() < 0.5 else (src, sentences[1][kept])


@_noticeable
def _hyphenated(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str]:
    """Long words broken at line ends that are no more."""

    def broken(word: re.Match[str]) -> str:
        if len(word[0]) < 6 or rng.random() < 0.2:
            return word[0]
        place = rng.randrange(2, len(word[0]) - 2)
        return f"{word[0][:place]}- {word[0][place:]}"

    return src, WORD.sub(broken, tgt)


@_noticeable
def _boundary_shifted(
    src: str, tgt: str, others: list[Pair], rng: random.Random
) -> tuple[str, str]:
    """One side begins with the end of another sentence and lacks its own end, or the reverse."""
    on_source = rng.random() < 0.5
    other = rng.choice(others)
    words, foreign = (
        (src.split(), other.src.split()) if on_source else (tgt.split(), other.tgt.split())
    )
    count = math.ceil(len(words) * rng.uniform(0.25, 0.5))
    if rng.random() < 0.5:
        shifted = " ".join(foreign[-count:] + words[:-count])
    else:
        shifted = " ".join(words[count:] + foreign[:count])
    return (shifted, tgt) if on_source else (src, shifted)


@_noticeable
def _words_dropped(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str]:
    """A quarter to a half of the target's words missing, here and there."""
    words = tgt.split()
    count = len(words) - math.ceil(len(words) * rng.uniform(0.25, 0.5))
    return src, " ".join(words[i] for i in sorted(rng.sample(range(len(words)), count)))


@_noticeable
def _words_inserted(src: str, tgt: str, others: list[Pair], rng: random.Random) -> tuple[str, str]:
    """Words of other sources strewn into this one: half as many as it has, or up to as many."""
    words = src.split()
    more = [word for pair in rng.sample(others, 5) for word in pair.src.split()]
    for word in more[: math.ceil(len(words) * rng.uniform(0.5, 1))]:
        words.insert(rng.randint(0, len(words)), word)
    return " ".join(words), tgt


@_noticeable
def _source_truncated(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str]:
    """The first 20 to 60 % of the source's words."""
    words = src.split()
    return " ".join(words[: math.ceil(len(words) * rng.uniform(0.2, 0.6))]), tgt


@_noticeable
def _markup(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str]:
    """Mark-up left in the target, such as tags and `{0}`: one piece for every two words."""
    words = tgt.split()
    for _count in range(math.ceil(len(words) / 2)):
        piece = rng.choice(MARKUP.split()).replace("{}", str(rng.randrange(10_000)))
        words.insert(rng.randint(0, len(words)), piece)
    return src, " ".join(words)


@_noticeable
def _menu_text(src: str, tgt: str, others: list[Pair], rng: random.Random) -> tuple[str, str]:
    """A line of a page's navigation before or after the source."""
    count = max(3, math.ceil(len(src.split()) / 3))
    entries = [
        " ".join(pair.src.split()[: rng.randint(1, 2)]) for pair in rng.sample(others, count)
    ]
    menu = rng.choice((" | ", " > ", " » ", " · ")).join(entries)
    return (f"{menu} {src}" if rng.random() < 0.5 else f"{src} {menu}"), tgt


@_noticeable
def _spacing(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str]:
    """Blanks of the source lost, or the letters of a part of it spaced out."""
    words = src.split()
    if rng.random() < 0.5:
        blanks = ["" if rng.random() < 0.6 else " " for _ in words[1:]]
        return "".join(map("".join, zip(words, [*blanks, ""], strict=True))), tgt
    count = math.ceil(len(words) * rng.uniform(0.3, 1))
    start = rng.randint(0, len(words) - count)
    spaced = [" ".join(word) for word in words[start : start + count]]
    return " ".join(words[:start] + spaced + words[start + count :]), tgt


@_noticeable
def _misread(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str]:
    """Letters of the source taken for others of like shape, as by poor character recognition."""
    instead = dict(shape.split(":") for shape in SHAPES.split())

    def misread(found: re.Match[str]) -> str:
        return instead[found[0]] if rng.random() < 0.25 else found[0]

    return re.sub("|".join(instead), misread, src), tgt


@_noticeable
def _wrong_diacritics(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str]:
    """Marks on the target's vowels put at random, or moved to others that had none."""

    def marked(vowel: re.Match[str]) -> str:
        plain = vowel[0][0]
        if plain == vowel[0] and rng.random() < 0.7:
            return vowel[0]
        return plain + rng.choice(MARKS)

    letters = unicodedata.normalize("NFD", tgt)
    letters = re.sub(r"[aeiouAEIOU][\u0300-\u036f]*", marked, letters)
    return src, unicodedata.normalize("NFC", letters)


@_noticeable
def _near_copy(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str] | None:
    """The source as target, with one letter in twelve lost, doubled or become the next one."""
    letters = list(src)
    # Not the first of a word: a word of one letter would be lost.
    places = [found.start() for found in re.finditer(r"(?<=\w)[a-yA-Y]", src)]
    for place in rng.sample(places, math.ceil(len(places) / 12)):
        letter = letters[place]
        letters[place] = rng.choice(("", letter * 2, chr(ord(letter) + 1)))
    return (src, "".join(letters)) if places else None


@_noticeable
def _interleaved(src: str, tgt: str, _: list[Pair], rng: random.Random) -> tuple[str, str]:
    """One to three words of the target, as many of the source's next ones, and so on."""
    width, first = rng.randint(1, 3), rng.randrange(2)
    sides = tgt.split(), src.split()
    mixed = []
    for start in range(0, len(sides[0]), width):
        mixed += sides[(start // width + first) % 2][start : start + width]
    return src, " ".join(mixed)


HELD_OUT_KINDS: dict[str, Kind] = {
    # Those that suit few pairs first.
    "names-swapped": _names_swapped,
    "one-sentence": _one_sentence,
    "hyphenated": _hyphenated,
    "boundary-shifted": _boundary_shifted,
    "words-dropped": _words_dropped,
    "words-inserted": _words_inserted,
    "source-truncated": _source_truncated,
    "markup": _markup,
    "menu-text": _menu_text,
    "spacing": _spacing,
    "misread": _misread,
    "wrong-diacritics": _wrong_diacritics,
    "near-copy": _near_copy,
    "interleaved": _interleaved,
}


def held_out_kinds(pairs: Sequence[Pair], foreign: Sequence[str] = ()) -> dict[str, Kind]:
    """`HELD_OUT_KINDS`, a gloss by the words of `pairs`, and sources out of `foreign` if given."""
    kinds = HELD_OUT_KINDS | {"gloss": _noticeable(partial(_gloss, glossary(pairs)))}
    if foreign:
        kinds["foreign-source"] = _noticeable(partial(_foreign_source, foreign))
    return kinds


def glossary(pairs: Sequence[Pair]) -> dict[str, str]:
    """For each source word seen three times, the target word that keeps it company most (Dice)."""
    texts = [[set(WORD.findall(side.lower())) for side in pair[:2]] for pair in pairs]
    num_src = Counter(word for src, _ in texts for word in src)
    num_tgt = Counter(word for _, tgt in texts for word in tgt)
    together: dict[str, Counter[str]] = {w: Counter() for w, n in num_src.items() if n >= 3}
    for src, tgt in texts:
        for word in src & together.keys():
            together[word].update(tgt)
    # The word itself settles ties: the order of sets differs from run to run.
    return {
        word: max(beside, key=lambda w: (2 * beside[w] / (num_src[word] + num_tgt[w]), w))
        for word, beside in together.items()
        if beside
    }


def _gloss(
    words: dict[str, str], src: str, tgt: str, _: list[Pair], rng: random.Random
) -> tuple[str, str]:
    """The source word by word through a small dictionary; what it lacks stays."""
    return src, WORD.sub(lambda word: words.get(word[0].lower(), word[0]), src)


def _foreign_source(
    foreign: Sequence[str], src: str, tgt: str, _: list[Pair], rng: random.Random
) -> tuple[str, str]:
    """Text of nearly this length in a third language as source."""
    some = rng.choices(foreign, k=200)
    return min(some, key=lambda text: abs(len(text) - len(src))), tgt
