"""What the benches share, against cases worked by hand."""

import platform
from pathlib import Path

import numpy as np
import pytest
from harness import (
    processor_flags,
    processor_name,
    ratio,
    resident_mb,
    restart_peak,
    spread,
    time_in_turn,
    turns,
)


def test_each_round_begins_with_another_name() -> None:
    names = ["a", "b", "c"]
    assert [*turns(names, 2, warm_up=True)] == [
        *((-1, "c"), (-1, "a"), (-1, "b")),
        *((0, "a"), (0, "b"), (0, "c")),
        *((1, "b"), (1, "c"), (1, "a")),
    ]
    # Few rounds begin far apart.
    first = [name for round_, name in turns("abcdefgh", 2)][::8]
    assert first == ["a", "e"]


def test_every_variant_is_timed_in_every_round() -> None:
    calls: list[str] = []
    busy = np.random.default_rng(0).random(200_000)

    def work() -> None:
        calls.append("work")
        np.sort(busy)

    found = time_in_turn({"work": work, "nothing": lambda: calls.append("nothing")}, 3)
    assert calls.count("work") == calls.count("nothing") == 4  # one to warm up
    assert {name: times.shape for name, times in found.items()} == {
        "work": (2, 3),
        "nothing": (2, 3),
    }
    assert (found["work"][0] > found["nothing"][0]).all()
    assert (found["work"][1] > 0).all()


def test_spread_and_ratio_by_hand() -> None:
    assert spread(np.arange(11.0)) == (1.0, 5.0, 9.0)
    # Of each round, 2, 4 and 3: their median, not the ratio of medians.
    assert ratio([2, 8, 30], [1, 2, 10]) == 3.0
    assert ratio([1, 1], [3, 3], digits=2) == 0.33


def test_peak_of_resident_memory_begins_anew() -> None:
    np.ones(8 << 20)  # 64 MiB, freed at once
    assert resident_mb("VmHWM") > resident_mb() + 32
    restart_peak()
    assert resident_mb("VmHWM") < resident_mb() + 32
    assert 0 < resident_mb("RssAnon") <= resident_mb()
    with pytest.raises(ValueError, match="no VmSomething"):
        resident_mb("VmSomething")


def test_the_processor_is_named() -> None:
    assert processor_name() in Path("/proc/cpuinfo").read_text() + platform.machine()
    if platform.machine() == "x86_64":
        assert "sse2" in processor_flags()
