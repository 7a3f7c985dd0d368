"""Parts mapped over actors of Ray, which places them, starts them again and repeats their calls.

The driver hands each actor its next part, and no more: which nodes there are, where an actor runs
and what follows when it or its node dies is Ray's. An actor that has no part left is ended, which
makes room for one that died elsewhere.
"""

import os
import secrets
import signal
import socket
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pycat import _core
from pycat.errors import PycatError
from pycat.runtime.locks import scratch_folder
from pycat.runtime.ray_address import reached_address

# How often Ray starts a worker again, whose part is then repeated.
_MAX_RESTARTS = 5
# How long no node may have room for a worker; a cluster that grows takes minutes to start one.
PATIENCE_S = 300.0
_POLL_S = 2.0
# Parts and results are small: what is large lies in files.
_OBJECT_STORE_BYTES = 100 << 20

# Packages whose versions decide what a part holds.
_PACKAGES = ("pycat-nmt", "numpy", "pyarrow", "sentencepiece", "torch")


@contextmanager
def connected(on: str) -> Iterator[None]:
    """A connection to Ray, as `parts.connected`; where there is one already, it is used and kept.

    Raises:
        PycatError: Ray is not installed, or there is no cluster.
    """
    ray = _import_ray(on)
    if ray.is_initialized():
        yield
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    with scratch_folder() as folder:
        try:
            _connect(ray, on, folder, quiet)
            yield
        finally:
            ray.shutdown()
            with suppress(ValueError, TypeError):  # set outside of Python, or not the main thread
                signal.signal(signal.SIGTERM, on_sigterm)


def _connect(ray: Any, on: str, folder: Path, quiet: dict[str, Any]) -> None:
    """Go to a cluster, or start one whose own files lie in `folder`."""
    address = "local" if on == "ray" else reached_address(on)
    try:
        if on == "ray":
            ray.init(
                address,
                include_dashboard=False,
                num_cpus=len(os.sched_getaffinity(0)),
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=str(folder),
                **quiet,
            )
        else:
            with warnings.catch_warnings():  # one of them says less than the error that follows it
                warnings.simplefilter("ignore", UserWarning)
                ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise PycatError(
            f"{on}: no connection to Ray ({_first_line(error)}); see that the cluster runs (ray "
            "status) and RAY_ADDRESS or --on names it, or start one here with --on ray"
        ) from None


def map_parts(
    load: Callable[[int], Any],
    parts: Iterable[Any],
    on: str,
    num_workers: int | None,
    *,
    uses_gpu: bool,
    max_threads: int,
) -> Generator[tuple[Any, Any], None, None]:
    """As `parts.map_parts`."""
    todo = iter(parts)
    ahead = list(islice(todo, 1))
    if not ahead:  # nothing is started for nothing
        return
    todo = chain(ahead, todo)
    with connected(on):
        ray = _import_ray(on)
        needs = _needs(ray, num_workers, max_threads, uses_gpu=uses_gpu)
        actor_class: Any = ray.remote(
            num_cpus=needs["CPU"],
            num_gpus=needs.get("GPU", 0),
            max_restarts=_MAX_RESTARTS,
            # Without a bound: calls of an actor that is about to be started again fail at once.
            max_task_retries=-1,
        )(_worker_class())
        isa = None if uses_gpu else _core.cpu_isa()
        beginning = (load, needs["CPU"], versions(), isa)
        # Pickled twice: a worker looks for modules only after it has put its paths in order.
        dumps: Any = ray.cloudpickle.dumps
        begun_with = ray.put((dumps(beginning), str(Path.cwd())))
        # Each call under way: its actor, and its part; no part while the actor starts.
        calls: dict[Any, tuple[Any, list[Any]]] = {}

        def start() -> None:
            actor = actor_class.remote()
            calls[actor.load.remote(begun_with)] = actor, []

        try:
            # One more than has room waits for a node that comes later, and asks for one.
            for _ in range(num_workers or _num_places(ray, needs) + 1):
                start()
            while calls:
                for call in _finished(ray, list(calls), needs):
                    actor, done = calls.pop(call)
                    result = _result(ray, call, done)
                    if following := list(islice(todo, 1)):
                        # Pickled twice too: an actor that Ray started again has not loaded yet.
                        given = dumps(following[0])
                        calls[actor.run.remote(begun_with, given)] = actor, following
                        if not done and num_workers is None:
                            start()
                    else:
                        # Every part is given out: whoever has none makes room.
                        ray.kill(actor)
                        for unneeded in [call for call, (_, part) in calls.items() if not part]:
                            ray.kill(calls.pop(unneeded)[0])
                    if done:
                        yield done[0], result
        finally:
            for actor, _ in calls.values():
                with suppress(Exception):  # the connection may be lost
                    ray.kill(actor)


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a part holds."""
    found = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def begin(
    load: Callable[[int], Any], num_threads: int, driver_versions: dict[str, str], isa: str | None
) -> Any:
    """In a worker: load what parts need, and return what it does to one.

    Raises:
        PycatError: its packages or its processor would make other parts than the driver's, or what
            it should load is not there.
    """
    host = socket.gethostname()
    for package, there in driver_versions.items():
        if (here := versions().get(package)) != there:
            raise PycatError(
                f"{host}: found {package} {here or 'missing'}, expected {there} as where the "
                "command runs: other versions may give other results; install the same everywhere"
            )
    if isa is not None and isa not in _core.supported_cpu_isas():
        raise PycatError(
            f"{host}: this processor lacks {isa}, which the one where the command runs has, and "
            "would give other results; set PYCAT_CPU_ISA there to one of "
            f"{', '.join(_core.supported_cpu_isas())}"
        )
    if isa is not None:
        os.environ["PYCAT_CPU_ISA"] = isa
    try:
        return load(num_threads)
    except PycatError as error:
        raise type(error)(
            f"{error} (found on {host}: corpus, checkpoints and --out must lie where every node "
            "reads and writes them under the same names)"
        ) from None


def _worker_class() -> type:
    """The class of the actors.

    It is made inside of a function, so that Ray sends it by value: Ray puts the driver's folder
    before all packages, and in a checkout of pycat that would hide the one that is installed.
    """

    class Worker:
        def __init__(self) -> None:
            self._work: Any = None

        def load(self, begun_with: tuple[bytes, str]) -> None:
            import importlib
            import pickle
            import sys

            content, folder = begun_with
            while folder in sys.path:
                sys.path.remove(folder)
            sys.path.append(folder)
            module = importlib.import_module("pycat.runtime.parts_on_ray")
            self._work = module.begin(*pickle.loads(content))

        def run(self, begun_with: tuple[bytes, str], part: bytes) -> Any:
            import pickle

            if self._work is None:  # Ray started this actor again
                self.load(begun_with)
            return self._work(pickle.loads(part))

    return Worker


def _import_ray(on: str) -> Any:
    """The module; a Ray that is started here listens to this machine alone."""
    # These variables are read where Ray is imported. What it says of each repeated part would
    # stand between the lines that a verb prints.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    if on == "ray":
        # Without a cluster, its servers bind to 127.0.0.1.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # And only this process knows the token that they ask for.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError:
        raise PycatError(
            f"{on}: Ray is not installed, which it needs; pip install 'pycat-nmt[ray]', or work on "
            "this machine alone with --on local"
        ) from None
    return ray


def _needs(
    ray: Any, num_workers: int | None, max_threads: int, *, uses_gpu: bool
) -> dict[str, int]:
    """What each actor needs: cores that every node has and that leave room for all, and a GPU."""
    cores = [int(place["CPU"]) for place in _places(ray) if place.get("CPU", 0) >= 1]
    wanted = min([*cores, max_threads]) if cores else 1
    needs = {"CPU": max(1, min(wanted, sum(cores) // (num_workers or 1)))}
    return {**needs, "GPU": 1} if uses_gpu else needs


def _places(ray: Any) -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _num_places(ray: Any, needs: dict[str, int]) -> int:
    """How many actors the nodes have room for, if nothing else runs on them."""
    return sum(
        int(min(place.get(name, 0) // count for name, count in needs.items()))
        for place in _places(ray)
    )


def _finished(ray: Any, calls: list[Any], needs: dict[str, int]) -> list[Any]:
    """Those of the calls that have ended; waits for one.

    Raises:
        PycatError: no node has had room for an actor for a while.
    """
    alone_since = time.monotonic()
    while True:
        ended: list[Any] = ray.wait(calls, num_returns=1, timeout=_POLL_S)[0]
        if ended:
            return ended
        if _num_places(ray, needs):
            alone_since = time.monotonic()
        elif time.monotonic() - alone_since > PATIENCE_S:
            wanted = " and ".join(f"{count} {name}" for name, count in needs.items())
            raise PycatError(
                f"Ray: no node with {wanted} for a worker in {PATIENCE_S:.0f} s; add one to the "
                "cluster, and run the same command again: finished work is kept"
            )


def _result(ray: Any, call: Any, part: list[Any]) -> Any:
    """What a call returned.

    Raises:
        PycatError: its worker died too often, or cannot import what it needs.
        Exception: that of the work.
    """
    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ImportError):
            raise PycatError(
                f"Ray: a worker cannot import what it needs ({_first_line(cause)}); install pycat "
                "and what goes with it on every node, in the same versions"
            ) from None
        raise cause from None
    except ray.exceptions.RayError as error:
        when = "with a part" if part else "before its first part"
        raise PycatError(
            f"Ray: a worker was lost {when}, and so were the {_MAX_RESTARTS} that followed it "
            f"({_first_line(error)}); nodes may lack memory. Run the same command again: finished "
            "work is kept"
        ) from None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()[:200]
