"""The rooms of csrc/ include each other in one direction."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
# A room may include itself and rooms of the lines below its own.
LEVELS = (
    {"bindings"},
    {"filters", "training", "transformer"},
    {"corpus", "cross_entropy"},
    {"base", "simd", "ranking", "command"},
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def included(text: str) -> list[str]:
    """Paths of the `#include "..."` lines of a source."""
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE)


def refused(room: str, text: str) -> list[str]:
    """Paths that a source of `room` includes against the direction."""
    return [
        path
        for path in included(text)
        if (other := path.split("/")[0]) != room and LEVEL_OF[other] <= LEVEL_OF[room]
    ]


@pytest.mark.parametrize(
    ("room", "path", "is_refused"),
    [
        ("bindings", "filters/language.h", False),
        ("corpus", "base/errors.h", False),
        ("corpus", "corpus/batch.h", False),
        ("corpus", "bindings/bind.h", True),
        ("filters", "transformer/kernel.h", True),
        ("base", "simd/cpu_isa.h", True),
    ],
)
def test_direction(room: str, path: str, is_refused: bool) -> None:
    text = f'#include <vector>\n\n  # include "{path}"\n'
    assert refused(room, text) == [path] * is_refused


def test_every_room_has_a_level() -> None:
    assert {path.name for path in CSRC.iterdir()} == set(LEVEL_OF)


def test_sources_include_downward_only() -> None:
    sources = [path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp")]
    assert len(sources) > len(LEVEL_OF)
    wrong = {
        str(path.relative_to(CSRC)): paths
        for path in sources
        if (paths := refused(path.parent.name, path.read_text()))
    }
    assert wrong == {}


def test_included_files_are_named_from_csrc() -> None:
    missing = {
        str(path.relative_to(CSRC)): name
        for path in CSRC.rglob("*.*")
        for name in included(path.read_text())
        if not (CSRC / name).is_file()
    }
    assert missing == {}
