"""Pairs of two sentences with names and places, for kinds of noise that need some to change."""

import random

from helpers import toy_pairs
from noise_kinds import Pair

NAMES = ("Ann", "Ben", "Carla", "Dora", "Emil", "Fritz", "Gina", "Hugo", "Ida", "Jan", "Kurt")
PLACES = ("Aachen", "Berlin", "Coburg", "Dresden", "Essen", "Fulda", "Gera", "Halle", "Kiel")
FIRST = (
    ("{} has counted {} birds over {}.", "{} hat {} Vögel über {} gezählt."),
    ("{} would buy {} apples from {}.", "{} würde {} Äpfel aus {} kaufen."),
    ("Yesterday {} heard {} bells of {}.", "Gestern hörte {} {} Glocken von {}."),
)
SECOND = (
    ("Now {} walks to {}.", "Nun geht {} nach {}."),
    ("Then {} saw none near {} again.", "Dann sah {} bei {} keine mehr."),
    ("Only {} left {} early.", "Nur {} verließ {} früh."),
    ("Nobody told {} about {} yet.", "Niemand erzählte {} bisher von {}."),
)


def sentences(num_pairs: int) -> list[Pair]:
    """Pairs of two sentences each, with names."""
    rng = random.Random(0)
    pairs = []
    for src, tgt in toy_pairs(num_pairs):
        (name, other), (place, home) = rng.sample(NAMES, 2), rng.sample(PLACES, 2)
        first, second = rng.choice(FIRST), rng.choice(SECOND)
        src = f"{first[0].format(name, src, place)} {second[0].format(other, home)}"
        tgt = f"{first[1].format(name, tgt, place)} {second[1].format(other, home)}"
        pairs.append(Pair(src, tgt, "clean"))
    return pairs
