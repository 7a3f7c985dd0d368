"""Parts on a Ray of three nodes: whatever dies, they are the same, or the error is clear.

All nodes are of this machine and listen to it alone. The work is a closure, which Ray sends by
value: its workers need no module of the tests.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from helpers import ToyText
from ray_settings import SETTINGS

from pycat.errors import CorpusError, PycatError
from pycat.runtime import parts_on_ray
from pycat.runtime.parts import connected, map_parts
from pycat.runtime.publishing import NewFile
from pycat.runtime.ray_address import reached_address

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        not __import__("importlib").util.find_spec("ray"), reason="Ray is not installed"
    ),
]

_STORE_BYTES = 80 << 20
_PARTS = range(9)


class ThreeNodes:
    """A cluster of a node with the driver, and two that may be killed, of a core each."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster()
        self._first: dict[str, Any] = {"temp_dir": str(folder), "include_dashboard": False}
        self.nodes = [self.add() for _ in range(3)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> Any:
        settings, self._first = self._first, {}
        return self._cluster.add_node(
            num_cpus=1,
            object_store_memory=_STORE_BYTES,
            node_ip_address="127.0.0.1",
            **settings,
        )

    def kill(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeNodes]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        import tempfile

        with tempfile.TemporaryDirectory(prefix="r") as folder:
            nodes = ThreeNodes(Path(folder))
            patch.setenv("RAY_ADDRESS", nodes.address)
            try:
                with connected("auto"):
                    yield nodes
            finally:
                nodes.close()


def writing(folder: Path, seconds: float = 0.3) -> Callable[[int], Callable[[int], Any]]:
    """Work that takes a while, writes a file and says which process and node it was."""

    def load(num_threads: int) -> Callable[[int], Any]:
        def work(part: int) -> tuple[int, str]:
            import ray

            time.sleep(seconds)
            with NewFile(folder / f"{part}") as new:
                new.path.write_text("the same " * part)
                new.prepare()
                new.publish()
            return os.getpid(), str(ray.get_runtime_context().get_node_id())

        return work

    return load


def assert_complete(folder: Path) -> None:
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert found == {f"{part}": "the same " * part for part in _PARTS}


def parts_until_three(nodes: set[str]) -> Iterator[int]:
    """Parts until three nodes have worked: on a busy machine a worker takes long to start."""
    deadline = time.monotonic() + 120
    for part in count():
        if len(nodes) == 3 or time.monotonic() > deadline:
            return
        yield part


def test_a_client_at_the_port_of_the_store_is_told(cluster: ThreeNodes) -> None:
    with pytest.raises(PycatError, match="something else; a cluster may also be at HOST:6379"):
        reached_address(f"ray://{cluster.address}")


def test_a_wrong_token_is_an_error(cluster: ThreeNodes) -> None:
    code = "from pycat.runtime.ray_address import reached_address; reached_address('auto')"
    refused = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"RAY_AUTH_TOKEN": "2" * 64},
        capture_output=True,
        text=True,
    )
    assert "the cluster refuses the token of this process" in refused.stderr.splitlines()[-1]


def test_all_nodes_work_and_an_error_reaches_the_driver(
    cluster: ThreeNodes, tmp_path: Path
) -> None:
    assert sorted(dict(map_parts(writing(tmp_path), _PARTS, on="auto"))) == list(_PARTS)
    assert_complete(tmp_path)
    nodes: set[str] = set()
    for _, (_, node) in map_parts(writing(tmp_path), parts_until_three(nodes), on="auto"):
        nodes.add(node)
    assert len(nodes) == 3

    def damaged(num_threads: int) -> Callable[[int], int]:
        raise CorpusError("c: damaged")

    with pytest.raises(CorpusError, match=r"c: damaged \(found on .* every node"):
        list(map_parts(damaged, _PARTS, on="auto"))


def test_a_killed_worker_costs_only_time(cluster: ThreeNodes, tmp_path: Path) -> None:
    with closing(map_parts(writing(tmp_path), _PARTS, on="auto", num_workers=2)) as results:
        _, (pid, _) = next(results)
        time.sleep(0.1)  # it is in the middle of another part
        os.kill(pid, signal.SIGKILL)
        rest = dict(results)
    assert len(rest) == len(_PARTS) - 1
    assert pid not in {own for own, _ in rest.values()}
    assert_complete(tmp_path)


def test_a_part_that_kills_every_worker_is_an_error(cluster: ThreeNodes, tmp_path: Path) -> None:
    def load(num_threads: int) -> Callable[[int], int]:
        def work(part: int) -> int:
            if part == 1:
                (tmp_path / f"{os.getpid()}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return part

        return work

    with pytest.raises(PycatError, match="lost with a part, and so were the 5 that followed"):
        list(map_parts(load, range(3), on="auto"))
    assert len(list(tmp_path.iterdir())) == 6


def test_a_killed_node_costs_only_time(cluster: ThreeNodes, tmp_path: Path) -> None:
    with closing(map_parts(writing(tmp_path), _PARTS, on="auto")) as results:
        next(results)
        cluster.kill(cluster.nodes.pop())
        assert len(dict(results)) == len(_PARTS) - 1
    assert_complete(tmp_path)


def test_text_is_tokenized_and_measured_alike_though_nodes_die(
    cluster: ThreeNodes, toy_text: ToyText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pycat
    from pycat.data import text_parts
    from pycat.filters import measure_steps, measures, rule_measures
    from pycat.runtime import part_files

    src, tgt = toy_text(300)
    monkeypatch.setattr(text_parts, "PART_LINES", 60)
    for module in (measure_steps, measures, rule_measures):
        monkeypatch.setattr(module, "PART_PAIRS", 60)
    deaths = ["tokenize", "measure"]

    def with_a_death(*given: Any, **place: Any) -> Iterator[tuple[Any, Any]]:
        """Parts, of which the first is followed by the death of a node, while others are made."""
        with closing(map_parts(*given, **place)) as results:
            yield next(results)
            if deaths and place["on"] == "auto":
                deaths.pop()
                cluster.kill(cluster.nodes.pop())
                cluster.nodes.append(cluster.add())
            yield from results

    monkeypatch.setattr(part_files, "map_parts", with_a_death)
    corpora = [pycat.tokenize(src, tgt, out=tmp_path / "here", vocab_size=340)]
    tokenizer = corpora[0].path / "tokenizer.model"
    corpora += [
        pycat.tokenize(
            src, tgt, out=tmp_path / "there", tokenizer=tokenizer, on="auto", num_workers=2
        )
    ]
    assert deaths == ["tokenize"]
    for name in ("src.bin", "src.idx", "tgt.bin", "tgt.idx", "src.sums", "skipped.tsv"):
        first, second = ((corpus.path / name).read_bytes() for corpus in corpora)
        assert first == second, name
    places: list[dict[str, Any]] = [{}, {"on": "auto", "num_workers": 2, "stage": tmp_path}]
    here, there = (
        pycat.measure(corpora[0], out=tmp_path / f"measures-{place.get('on')}", **place)
        for place in places
    )
    assert not deaths
    assert here.manifest["num_parts"] == 5
    assert list(here.manifest["files"]) == list(there.manifest["files"])
    for name in here.manifest["files"]:
        assert (here.path / name).read_bytes() == (there.path / name).read_bytes(), name


def test_a_node_that_joins_late_works_too(cluster: ThreeNodes, tmp_path: Path) -> None:
    nodes: set[str] = set()
    with closing(map_parts(writing(tmp_path), parts_until_three(nodes), on="auto")) as results:
        for part, (_, node) in results:
            nodes.add(node)
            if part == 0:
                assert len(nodes) < 3
                cluster.nodes.append(cluster.add())
    assert len(nodes) == 3


def test_no_room_for_a_worker_is_an_error(
    cluster: ThreeNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_on_ray, "PATIENCE_S", 1.0)
    with pytest.raises(PycatError, match="no node with 1 CPU and 1 GPU for a worker in 1 s"):
        list(map_parts(writing(tmp_path), _PARTS, on="auto", uses_gpu=True))


_DRIVER = """
import sys
import pycat
from pycat.scoring import engine

engine.PART_PAIRS = 15
corpus, proxy, out = sys.argv[1:]
pycat.score(corpus, proxy, out=out, device="cpu", on="auto", num_workers=1)
"""


def test_a_killed_driver_goes_on_to_the_same_scores(
    cluster: ThreeNodes, toy_corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pycat
    from pycat.scoring import engine

    proxy = pycat.train(
        toy_corpus, out=tmp_path / "proxy", checkpoint_steps=[1, 2], batch_tokens=512
    )
    monkeypatch.setattr(engine, "PART_PAIRS", 15)
    here = pycat.score(toy_corpus, proxy.checkpoints, out=tmp_path / "here", device="cpu")
    words = [str(toy_corpus.path), str(proxy.path), str(tmp_path / "there")]
    driver = subprocess.Popen([sys.executable, "-P", "-c", _DRIVER, *words])
    deadline = time.monotonic() + 180
    while not list((tmp_path / "there").glob("part-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    first = next((tmp_path / "there").glob("part-*"))
    made = first.stat().st_mtime_ns
    there = pycat.score(
        *(toy_corpus, proxy.checkpoints),
        out=tmp_path / "there",
        device="cpu",
        on="auto",
        num_workers=2,
    )
    assert first.stat().st_mtime_ns == made  # not made again
    assert here.path is not None and there.path is not None
    assert [path.name for path in here.path.glob("part-*")]
    for path in here.path.glob("part-*"):
        assert (there.path / path.name).read_bytes() == path.read_bytes(), path.name


def test_arms_become_the_same_models(cluster: ThreeNodes, toy_corpus: Any, tmp_path: Path) -> None:
    from pycat.evaluation.retraining import retrain
    from pycat.proxy.trainer import Arm

    options: dict[str, Any] = {
        "checkpoint_steps": [4, 8],
        "preset": "mini",
        "batch_tokens": 512,
        "device": "cpu",
        "dtype": "float32",
    }
    view = toy_corpus.subset(toy_corpus.pair_ids[::2])
    [here] = retrain([Arm(view, 3, tmp_path / "here")], num_workers=1, **options)  # one thread
    [there] = retrain([Arm(view, 3, tmp_path / "there")], on="auto", num_workers=1, **options)
    for one, other in zip(here.checkpoints, there.checkpoints, strict=True):
        assert one.read_bytes() == other.read_bytes()
