"""Known noise for the demonstration: clean pairs spoilt in five ways.

Only the German side changes. Each kind of noise is common in text from the web, and the label of
each line says what was done to it, so that what pycat drops can be counted against the truth.
"""

import random
from collections.abc import Sequence

CLEAN = "clean"

# What stands in place of the German, by label. Kinds that suit fewer pairs come first.
KINDS = {
    "french": "the French translation of the same message",
    "cut": "the first half of the German words",
    "shuffled": "the German words in random order",
    "misaligned": "the German of another line",
    "copied": "the English text once more",
}

# Fewer words have next to no first half, or no other order.
_MIN_WORDS = 4


def spoil(
    english: Sequence[str],
    german: Sequence[str],
    french: Sequence[str],
    share: float,
    seed: int = 0,
) -> tuple[list[str], list[str]]:
    """Spoil a share of N pairs, a fifth of it in each of five ways.

    Args:
        english, german: the sides of the pairs, N each.
        french: N translations of the English, "" where there is none.
        share: of the pairs to spoil, from 0 to 1.
        seed: seed of the draw of pairs and of the order of shuffled words.

    Returns:
        The N German sides, and the N labels: "clean", or a name of `KINDS`. A kind that too few
        pairs can be spoilt by has fewer.
    """
    rng = random.Random(seed)
    target, labels = list(german), [CLEAN] * len(german)
    free = list(range(len(german)))
    rng.shuffle(free)
    num_each = round(share * len(german) / len(KINDS))
    for kind in KINDS:
        if kind == "misaligned":
            chosen = _exchanged(free, german, num_each)
        else:
            chosen = {}
            for row in free:
                if len(chosen) == num_each:
                    break
                spoilt = _spoilt(kind, english[row], german[row], french[row], rng)
                if spoilt not in ("", german[row]):
                    chosen[row] = spoilt
        for row, spoilt in chosen.items():
            target[row], labels[row] = spoilt, kind
        free = [row for row in free if row not in chosen]
    return target, labels


def _spoilt(kind: str, english: str, german: str, french: str, rng: random.Random) -> str:
    """The text in place of the German; "" where the kind does not suit the pair."""
    if kind == "french":
        return french
    if kind == "copied":
        return english
    words = german.split()
    if len(words) < _MIN_WORDS:
        return ""
    if kind == "cut":
        return " ".join(words[: len(words) // 2])
    rng.shuffle(words)
    return " ".join(words)


def _exchanged(rows: Sequence[int], german: Sequence[str], count: int) -> dict[int, str]:
    """The German of the next of `count` rows, for each of them; the last gets that of the first.

    Rows are left out whose German is that of the row before or of the first.
    """
    chosen: list[int] = []
    for row in rows:
        if len(chosen) == count:
            break
        if not chosen or german[row] not in (german[chosen[-1]], german[chosen[0]]):
            chosen.append(row)
    if len(chosen) < 2:
        return {}
    return {
        row: german[following]
        for row, following in zip(chosen, [*chosen[1:], chosen[0]], strict=True)
    }
