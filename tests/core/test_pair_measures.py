"""What C++ measures of a pair is what plain Python measures, bit for bit."""

import random
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pycat import _core
from pycat.data.parallel_text import ParallelText
from pycat.filters.code_points import NUM_CODE_POINTS, code_points

Columns = dict[str, np.ndarray[Any, Any]]

BLANKS = rb"[\x00-\x20]"
WORD = 1 << 64
DAMAGE = re.compile(
    rb"\xef\xbf\xbd|\xc3[\x82\x83](?:\xc2[\x80-\xbf]|\xc5[\x92\x93\xa0\xa1\xb8\xbd\xbe]|\xe2[\x80-\x84])"
)
# A word in capitals before a quotation mark, an ellipsis or a blank.
NO_DAMAGE = re.compile(
    rb"(?<=[A-Z])\xc3[\x82\x83](?:\xc2.|\xc5.|\xe2..)(?![A-Za-z\x80-\xff])", re.DOTALL
)
MARKUP = re.compile(rb"[%$&<@_{/\\]")
PUNCTUATION = bytes(range(33)) + b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
JAMO = [chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))]
BANDS = [f"band_{band}" for band in range(2)]

LINES = [
    *("", "a", "A", "ab", "The cat", "  ", "1,234.5", "ß", "ŒUVRE ßẞ", "İstanbul ΑΣ ΐ ﬃ", "Ǆ ǅ ǆ"),
    *(
        "fÃ¼rchterlich Ã¢â‚¬",
        "f\ufffdr\ufffd",
        "\ufffd",
        "Ã",
        "Ã\u0083Â",
        "日本語のテキスト",
        "\U0001f600 x",
    ),
    *(
        "schla\u0308ft",
        "한국어 \u1112\u1161\u11ab",
        "न\u093cमस्ते",
        "ÜBER ALLEN 12 GIPFELN",
        "\u212b K",
    ),
    *("the cat sat " * 9, "=" * 70, "a" * 63, "a" * 64, "x" * 65, "ä" * 40, "\t a \u00a0\u2028"),
]


def measure(pairs: list[tuple[bytes, bytes]]) -> Columns:
    src, tgt = ([pair[side] for pair in pairs] for side in (0, 1))
    return _core.measure_pairs(src, tgt, **code_points()._asdict())


def grams(line: bytes, size: int) -> list[bytes]:
    return [line[i : i + size] for i in range(len(line) - size + 1)]


def letter_grams(letters: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(letters[i : i + size]) for i in range(len(letters) - size + 1)]


def folded(line: bytes) -> bytes:
    return "".join(map(folded_letter, line.decode())).encode()


def folded_letter(letter: str) -> str:
    category = unicodedata.category(letter)
    if letter.isascii():
        return letter.lower()
    if category == "Nd":
        return str(int(letter))
    if category[0] in "PZ":
        return " "
    return letter.casefold()


def clusters(line: bytes) -> list[str]:
    """The letters of a line: code points with the marks behind them."""
    found: list[str] = []
    for letter in folded(line).decode():
        if (found and unicodedata.category(letter)[0] == "M") or (letter in JAMO and found):
            found[-1] += letter
        else:
            found.append(letter)
    return found


def ideographs(line: bytes) -> int:
    return len(re.findall("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002ffff]", line.decode()))


def wide_letters(line: bytes) -> int:
    return ideographs(line) + len(re.findall("[\u3041-\u30ff\uac00-\ud7a3]", line.decode()))


def extra(line: bytes) -> int:
    """What wide letters count beyond one."""
    return wide_letters(line) + ideographs(line)


def is_wide(line: bytes) -> bool:
    return not line.isascii() and 2 * wide_letters(line) >= len(clusters(line))


def names(line: bytes) -> float:
    """Share of letters in words with a capital, where a letter is from another script."""
    text = line.decode()
    if not re.search("[\u0370-\u1fff]", text) and not wide_letters(line):
        return 0
    words = re.findall("[A-Za-z0-9]+", text)
    return sum(len(word) for word in words if word != word.lower()) / len(clusters(line))


def letters(line: bytes) -> float:
    count = sum(byte >= 0x80 or bytes([byte]).isalpha() for byte in line)
    return count / max(sum(byte > 32 for byte in line), 1)


def repetition(line: bytes) -> float:
    all_ = letter_grams(clusters(line), 4 if is_wide(line) else 8)
    return (len(all_) - len(set(all_))) / max(len(all_), 1)


def short_digits(line: bytes) -> int:
    """How many digits are numbers of one or two digits that stand behind no letter of ASCII."""
    numbers = re.finditer(rb"([a-z]?)(\d+(?:[,.' ]\d{3}(?!\d))*)", line)
    return sum(len(number[2]) for number in numbers if len(number[2]) <= 2 and not number[1])


def number_mismatch(src: bytes, tgt: bytes) -> float:
    lines = [folded(line) for line in (src, tgt)]
    one, other = (Counter(re.findall(rb"\d", line)) for line in lines)
    if not one or not other:
        return 0
    apart = [one - other, other - one]
    fewer, more = sorted((0, 1), key=lambda side: apart[side].total())
    excess = apart[more].total() - apart[fewer].total()
    if excess:
        short = [short_digits(line) for line in lines]
        in_words = max(short[more] - short[fewer], 0)
        excess = max(excess - apart[more][b"0"] - in_words, 0)
    return (2 * apart[fewer].total() + excess) / (one.total() + other.total())


def lost_letters(word: bytes) -> int:
    """Question marks between letters of a word that is no address."""
    if re.search(rb"[/=&]", word):
        return 0
    before_mark = re.split(rb"[.:]", word)[0]
    letter = (
        "[A-Za-z\u00c0-\u0dff\u10a0-\u177f\u1800-\u194f\u1a00-\u1a1f\u1ab0-\u1aff\u1c00-\u1fff]"
    )
    marks = re.finditer(rf"(?<={letter})\?(?={letter})", word.decode("utf-8", "surrogateescape"))
    sound = before_mark.decode("utf-8", "surrogateescape")
    return sum(mark.start() < len(sound) for mark in marks)


def mix(x: int) -> int:
    x = ((x ^ (x >> 32)) * 0x9E3779B97F4A7C15) % WORD
    x = ((x ^ (x >> 29)) * 0xD6E8FEB86659FD93) % WORD
    return x ^ (x >> 32)


def number(letter: str) -> int:
    """The 16 bits of a letter and its marks."""
    value = 0
    for place, code in enumerate(map(ord, letter)):
        value = (value * 31 + (code ^ (code >> 16) * 0x9E37)) % (1 << 16)
        if place > 0:
            value |= 0x8000
    return value


def bands(src: bytes, tgt: bytes) -> list[int]:
    plain = [[c for c in clusters(line) if c not in PUNCTUATION.decode()] for line in (src, tgt)]
    numbers = [*map(number, plain[0]), ord("\t"), *map(number, plain[1]), *[0] * 4]
    hashes = []
    for i in range(len(numbers) - 4):
        gram = sum(letter << 16 * place for place, letter in enumerate(numbers[i : i + 4]))
        hashes.append(mix(gram))
    if len(hashes) + extra(src) + extra(tgt) < 128:
        return [sum(hashes) % WORD] * 2
    least = [min((h for h in hashes if h >> 59 == bin_), default=None) for bin_ in range(32)]
    seed = 0
    for line in (src, tgt):
        for digit in b"0123456789":
            seed = mix(seed ^ (folded(line).count(digit) + 1))
    found = [seed, seed]
    for bin_ in range(32):
        distance = next(d for d in range(32) if least[(bin_ + d) % 32] is not None)
        value = least[(bin_ + distance) % 32]
        assert value is not None
        found[bin_ // 16] = mix(found[bin_ // 16] ^ (value + distance * 0xD6E8FEB86659FD93) % WORD)
    return found


def is_plain(line: bytes) -> bool:
    text = line.decode()
    return not text.isupper() and unicodedata.is_normalized("NFC", text)


def in_python(src: bytes, tgt: bytes) -> dict[str, Any]:
    one, other = (set(letter_grams([*"  ", *clusters(line), *"  "], 4)) for line in (src, tgt))
    lines = {"src": src, "tgt": tgt}
    are_wide = is_wide(src) and is_wide(tgt)
    return {
        "src_chars": len(src.decode()),
        "tgt_chars": len(tgt.decode()),
        **{
            f"{side}_letters": len(clusters(line)) + (not are_wide and extra(line))
            for side, line in lines.items()
        },
        **{f"{side}_names": np.float32(names(line)) for side, line in lines.items()},
        "overlap": np.float32(len(one & other) / len(other)),
        "num_grams": len(other),
        "letters": np.float32(min(letters(src), letters(tgt))),
        "number_mismatch": np.float32(number_mismatch(src, tgt)),
        "num_damaged": sum(
            len(DAMAGE.findall(NO_DAMAGE.sub(b"", line)))
            + sum(lost_letters(word) for word in re.split(BLANKS, line))
            for line in (src, tgt)
        ),
        "repetition": np.float32(abs(repetition(tgt) - repetition(src))),
        **dict(zip(BANDS, bands(src, tgt), strict=True)),
    }


def check(pairs: list[tuple[bytes, bytes]]) -> None:
    found = measure(pairs)
    for row, pair in enumerate(pairs):
        for name, value in in_python(*pair).items():
            assert found[name][row] == value, (name, pair)
        # Text that C++ calls usual stays as it is: normalizing it in Python would change nothing.
        for side, name in enumerate(("src_forms", "tgt_forms")):
            assert found[name][row] & 3 or is_plain(pair[side]), pair
    for side, name in ((0, "src_hash"), (1, "tgt_hash")):
        assert len(set(found[name].tolist())) == len({pair[side] for pair in pairs})
    assert len(set(found["pair_hash"].tolist())) == len(set(pairs))


def test_every_line_beside_every_other() -> None:
    lines = [line.encode() for line in LINES]
    check([(src, tgt) for src in lines for tgt in lines])


def test_random_text() -> None:
    rng = random.Random(0)
    letters = "aAbB 1.,äÄßẞéè\u0301\u0323日ﬃİ\ufffdÃÂ¼Å’â\u1161\u11a8가ǅ\u00ad"
    texts = ["".join(rng.choices(letters, k=rng.randrange(120))) for _ in range(600)]
    lines = [text.encode() for text in texts]
    check(list(zip(lines[::2], lines[1::2], strict=True)))


def test_real_text(shared_data: Path) -> None:
    for languages in ("en-de", "en-fr", "en-sw"):
        text = ParallelText.of(None, None, shared_data / languages / "dev.tsv.gz")
        pairs = [pair for pair in text.pairs() if not MARKUP.search(b"\t".join(pair))]
        check(list(dict.fromkeys(pairs))[:300])


def test_few_usual_lines_are_taken_for_unusual() -> None:
    usual = [
        "Die Katze schläft – „auf“ dem Tisch.",
        "Кошка спит",
        "日本語",
        "한국어",
        "thĕ cát",
        "ไม่",
    ]
    unusual = ["DIE KÄTZE", "ABC", "schla\u0308ft", "\u1112\u1161", "a\u0323\u0307", "\u212b"]
    found = measure([(a.encode(), b.encode()) for a, b in zip(usual, unusual, strict=True)])
    assert found["src_forms"].tolist() == [0] * 6
    assert found["tgt_forms"].tolist() == [1, 1, 2, 2, 2, 3]


def test_equal_hashes_in_every_process() -> None:
    # Pinned: groups of two corpora, or two runs, may be compared.
    found = measure([(b"The cat sleeps.", b"Die Katze")])
    hashes = [int(found[name][0]) for name in ("src_hash", "tgt_hash", "pair_hash", "band_0")]
    assert hashes == [
        0x292DA4E0EA59390E,
        0x18D9CFCCDF66DE68,
        0x80988A4700096F28,
        0x316035CD5CC3DBD8,
    ]


def similar_share(edit: float) -> float:
    """How often a line and one that differs in this share of its letters share a band."""
    rng = random.Random(0)
    lines = ["".join(rng.choices("abcdefghij", k=200)) for _ in range(400)]
    changed = ["".join("x" if rng.random() < edit else c for c in line) for line in lines]
    one, other = (measure([(line.encode(), b"") for line in side]) for side in (lines, changed))
    return float(np.any([one[band] == other[band] for band in BANDS], axis=0).mean())


def test_near_lines_share_a_band_and_others_do_not() -> None:
    assert similar_share(0.0) == 1.0
    # One letter in 400 spoils 4 n-grams in 200 or none: a Jaccard similarity of 0.96 or 1.
    assert similar_share(1 / 400) > 0.85
    assert similar_share(0.1) < 0.05  # half of the n-grams are gone


def test_random_bytes_and_long_lines_are_read_within_bounds() -> None:
    rng = np.random.default_rng(0)
    cut = "aä日\U0001f600ﬃ".encode()
    lines = [rng.bytes(int(size)) for size in rng.integers(0, 40, 2000)]
    lines += [cut[first:last] for first in range(len(cut)) for last in range(first, len(cut) + 1)]
    lines += [rng.bytes(1 << 20), b"a" * (1 << 20), "ﬃ".encode() * 300_000, b"\xff" * (1 << 20)]
    found = measure(list(zip(lines, lines, strict=True)))
    assert (found["overlap"] == 1).all()
    assert (found["repetition"] == 0).all()
    assert found["src_chars"][-3:].tolist() == [1 << 20, 300_000, 1 << 20]
    alone = [measure([(line, line)])["band_1"][0] for line in lines[-5:]]
    assert found["band_1"][-5:].tolist() == alone


def test_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 sources, 2 targets, .*expected two of each length"):
        _core.measure_pairs([b"a"], [b"b", b"c"], **code_points()._asdict())


def test_no_code_point_beyond_the_tables_matters() -> None:
    for code in range(NUM_CODE_POINTS, sys.maxunicode + 1):
        letter = chr(code)
        assert letter.casefold() == letter and not unicodedata.combining(letter)
        assert not unicodedata.decomposition(letter)


def test_the_tables_know_all_that_normalizing_changes() -> None:
    kinds = code_points().kinds
    for code in range(0x80, NUM_CODE_POINTS):
        if not 0xD800 <= code < 0xE000:
            letter = chr(code)
            assert kinds[code] & 8 or unicodedata.is_normalized("NFC", letter), hex(code)
            assert bool(kinds[code] & 2) == letter.isupper(), hex(code)
            # A character that may compose with the one before it counts as unusual.
            for before in "aeo\u1100가कあ":
                text = before + letter
                assert kinds[code] & 8 or unicodedata.is_normalized("NFC", text), hex(code)
