"""Parts are mapped in this process or in others, with the same results; none is lost unsaid."""

import multiprocessing
import os
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from part_work import damaged, ending, squares, writing

from pycat.errors import CorpusError, PycatError
from pycat.runtime import parts, parts_on_ray
from pycat.runtime.parts import is_here, map_parts


def test_this_process_maps_in_order() -> None:
    assert list(map_parts(squares, [3, 1, 2])) == [(3, 9), (1, 1), (2, 4)]
    assert not list(map_parts(damaged, []))  # nothing is loaded for nothing
    with pytest.raises(CorpusError, match="damaged"):
        list(map_parts(damaged, [1]))


def test_processes_map_every_part_once_and_end(tmp_path: Path) -> None:
    results = dict(map_parts(partial(writing, tmp_path), range(7), num_workers=2))
    assert sorted(results) == list(range(7))
    assert {int(path.name): path.read_text() for path in tmp_path.iterdir()} == {
        part: f"{part}" for part in range(7)
    }
    assert os.getpid() not in results.values()
    assert not multiprocessing.active_children()


def test_processes_end_when_the_caller_stops(tmp_path: Path) -> None:
    with closing(map_parts(partial(writing, tmp_path), range(50), num_workers=2)) as results:
        next(results)
    assert not multiprocessing.active_children()


def test_errors_of_processes_reach_the_caller() -> None:
    with pytest.raises(CorpusError, match=r"^c: damaged$"):
        list(map_parts(damaged, [1, 2], num_workers=2))
    with pytest.raises(PycatError, match=r"a worker process was killed, most likely for lack of"):
        list(map_parts(ending, range(6), num_workers=2))


@pytest.mark.parametrize("on", ["", "cloud", "ray:/x", "Ray", "10.0.0.1:10001"])
def test_an_unknown_place_is_refused(on: str) -> None:
    with pytest.raises(PycatError, match=r"expected local, ray, ray://HOST:PORT or auto"):
        is_here(on, None)


def test_the_number_of_workers_is_at_least_one() -> None:
    with pytest.raises(PycatError, match="num_workers is 0; expected"):
        is_here("local", 0)
    assert is_here("local", None) and is_here("local", 1) and not is_here("local", 2)
    assert not is_here("auto", 1)


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PycatError, match=r"pip install 'pycat-nmt\[ray\]'"):
        list(map_parts(squares, [1], on="auto"))
    with pytest.raises(PycatError, match="Ray is not installed"), parts.connected("auto"):
        pass


def test_workers_must_give_the_results_of_the_driver() -> None:
    versions = parts_on_ray.versions()
    assert parts_on_ray.begin(squares, 1, versions, None)(3) == 9
    with pytest.raises(PycatError, match=r"found numpy .*, expected 0\.1 as where the command"):
        parts_on_ray.begin(squares, 1, {**versions, "numpy": "0.1"}, None)
    with pytest.raises(PycatError, match=r"lacks avx9000, .* PYCAT_CPU_ISA"):
        parts_on_ray.begin(squares, 1, versions, "avx9000")
    with pytest.raises(CorpusError, match=r"c: damaged .*every node"):
        parts_on_ray.begin(damaged, 1, versions, None)


def test_what_cannot_be_sent_to_a_process_is_an_error() -> None:
    with pytest.raises(PycatError, match=r"cannot be sent to them \(.*local.*\); define"):
        list(map_parts(lambda num_threads: lambda part: part, [1, 2], num_workers=2))


@pytest.mark.parametrize(
    ("nodes", "num_workers", "max_threads", "expected"),
    [
        ([2], None, 8, 2),
        ([2], 2, 8, 1),  # both have room
        ([2], 5, 8, 1),
        ([64, 16], None, 8, 8),
        ([64, 3], None, 8, 3),
        ([64], 16, 8, 4),
        ([64], None, 1, 1),
        ([0], None, 8, 1),  # a head without cores, and nodes that come later
    ],
)
def test_a_worker_has_cores_that_every_node_has(
    nodes: list[int], num_workers: int | None, max_threads: int, expected: int
) -> None:
    class Ray:
        @staticmethod
        def nodes() -> list[dict[str, Any]]:
            found = [{"Alive": True, "Resources": {"CPU": float(n)} if n else {}} for n in nodes]
            return [*found, {"Alive": False, "Resources": {"CPU": 1.0}}]

    needs = parts_on_ray._needs(Ray, num_workers, max_threads, uses_gpu=False)
    assert needs == {"CPU": expected}
    needs = parts_on_ray._needs(Ray, num_workers, max_threads, uses_gpu=True)
    assert needs == {"CPU": expected, "GPU": 1}
    assert parts_on_ray._num_places(Ray, needs) == 0
