"""Ranks: processes, started by torch's launcher, that train one model together.

`torchrun` tells each of them by environment variables who it is (RANK, LOCAL_RANK, WORLD_SIZE) and
where they meet (MASTER_ADDR, MASTER_PORT). So do the operators that start PyTorch's jobs on Slurm
and Kubernetes. They talk by gloo, and add up what lies on CUDA devices by nccl.
"""

import atexit
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pycat.errors import PycatError

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

_T = TypeVar("_T")

# How long a rank waits for the others before it gives up.
_PATIENCE = timedelta(minutes=30)

# How often rank 0 looks who has come.
_POLL_S = 0.02

_START = "start training by 'torchrun --nproc-per-node N -m pycat train …'"


class Launch(NamedTuple):
    """Who this process is: its rank of so many, and its rank among those of this machine."""

    rank: int = 0
    num_ranks: int = 1
    local_rank: int = 0


def launch(environ: Mapping[str, str] = os.environ) -> Launch:
    """Read who this process is; one that is alone needs no variables.

    Raises:
        PycatError: the variables speak of several ranks, and are incomplete or contradict.
    """
    num_ranks = _number(environ, "WORLD_SIZE", 1) or 1
    if num_ranks == 1:
        return Launch()
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not environ.get(name):
            raise PycatError(
                f"WORLD_SIZE is {num_ranks}, but {name} is not set; {_START}, or unset WORLD_SIZE "
                "to train in one process"
            )
    rank = _number(environ, "RANK", 0)
    if rank >= num_ranks:
        raise PycatError(
            f"RANK is {rank}, expected below WORLD_SIZE, which is {num_ranks}; {_START}"
        )
    return Launch(rank, num_ranks, _number(environ, "LOCAL_RANK", rank))


def refuse_ranks(verb: str) -> None:
    """Refuse to run a verb other than `train` once for each rank: all would write one output.

    Raises:
        PycatError: this process is one of several ranks.
    """
    num_ranks = None
    with suppress(PycatError):  # what is incomplete was not set by a launcher
        num_ranks = launch().num_ranks
    if num_ranks is not None and num_ranks > 1:
        raise PycatError(
            f"'pycat {verb}' was started {num_ranks} times, by torchrun or with its variables "
            "(WORLD_SIZE, RANK): only 'pycat train' runs so; start it once, without torchrun. "
            "To use several machines, pass --on ray to a verb that has it"
        )


class Ranks:
    """The ranks of a run, seen by one of them; alone it waits for nobody.

    Attributes:
        rank: that of this process, from 0.
        num_ranks: their number.
    """

    def __init__(self, rank: int = 0, num_ranks: int = 1) -> None:
        self.rank, self.num_ranks = rank, num_ranks

    @property
    def is_first(self) -> bool:
        """Whether this process is rank 0, which alone writes files."""
        return self.rank == 0

    def add_up(self, tensor: "torch.Tensor") -> None:
        """Replace a tensor by its sum over all ranks, the same bits on each.

        Raises:
            PycatError: another rank ended.
        """
        if self.num_ranks > 1:
            import torch.distributed as dist

            with self._others_may_end():
                dist.all_reduce(tensor)

    def from_first(self, make: Callable[[], _T]) -> _T:
        """What `make` returns on rank 0, which alone calls it.

        Raises:
            PycatError: another rank ended, or on rank 0 `make` failed: its error is raised there.
        """
        if self.num_ranks == 1:
            return make()
        import torch.distributed as dist

        sent: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.is_first:
            try:
                sent[0] = make()
            except Exception as error:
                failure, sent[1] = error, str(error)
        with self._others_may_end():
            dist.broadcast_object_list(sent, 0)
        if failure is not None:
            raise failure
        if sent[1] is not None:
            raise PycatError(f"rank {self.rank}: rank 0 failed: {sent[1]}")
        made: _T = sent[0]
        return made

    def check_equal(self, values: Mapping[str, Any]) -> None:
        """Refuse to go on where ranks differ in a value of that name.

        Raises:
            PycatError: names the first rank that differs from rank 0, on all ranks.
        """
        if self.num_ranks == 1:
            return
        import torch.distributed as dist

        gathered: list[Any] = [None] * self.num_ranks
        with self._others_may_end():
            dist.all_gather_object(gathered, dict(values))
        for rank, other in enumerate(gathered):
            for name in {**gathered[0], **other}:
                first, found = gathered[0].get(name), other.get(name)
                if found != first:
                    raise PycatError(
                        f"rank {rank} has {name} {found!r}, rank 0 has {first!r}; start all ranks "
                        "with the same options, corpus, versions and kind of device"
                    )

    @contextmanager
    def _others_may_end(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise PycatError(
                f"rank {self.rank} of {self.num_ranks} lost the others ({reason[:200]}); the first "
                "that ended says why. The same command goes on from the last state; torchrun "
                "--max-restarts does so by itself"
            ) from None


# A process by itself.
ALONE = Ranks()


def rank_device(device: str, started: Launch) -> str:
    """The name of this rank's device: of several on a machine, each has a CUDA device of its own.

    Args:
        device: as the user named it, for all ranks.
        started: who this process is.

    Raises:
        PycatError: the machine has too few devices, or one of them was named for all ranks.
    """
    if started.num_ranks == 1 or not device.startswith(("auto", "cuda")):
        return device
    import torch

    num_devices = torch.cuda.device_count()
    if num_devices == 0:
        return device
    if device not in ("auto", "cuda"):
        raise PycatError(
            f"device is {device!r} for all {started.num_ranks} ranks, expected 'cuda' or 'auto', "
            "of which each rank takes its own"
        )
    if started.local_rank >= num_devices:
        raise PycatError(
            f"LOCAL_RANK is {started.local_rank}, but this process sees {num_devices} CUDA "
            "devices, counted from 0; start as many ranks on each machine as it has devices "
            "(torchrun --nproc-per-node), all of which see all devices, or pass device 'cpu'"
        )
    torch.cuda.set_device(started.local_rank)
    return f"cuda:{started.local_rank}"


def join_ranks(started: Launch) -> Ranks:
    """Meet the other ranks, once in the life of this process.

    A process group that the caller has made is used. Another one is kept until the process ends:
    torch does not let the ranks of a launch meet twice.

    Args:
        started: who this process is.

    Raises:
        PycatError: they cannot be met.
    """
    if started.num_ranks == 1:
        return ALONE
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if dist.is_initialized():
        ranks = Ranks(dist.get_rank(), dist.get_world_size())
    else:
        has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
        try:
            store, rank, num_ranks = next(rendezvous("env://", timeout=_PATIENCE))
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if has_nccl else "gloo",
                store=PrefixStore(_meeting(store, rank, num_ranks), store),
                rank=rank,
                world_size=num_ranks,
                timeout=_PATIENCE,
            )
        except (RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise PycatError(
                f"rank {started.rank} of {started.num_ranks} cannot meet the others at "
                f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({reason[:200]}); see "
                f"that all of them are started and reach that address: {_START}"
            ) from None
        atexit.register(_leave)
        ranks = Ranks(rank, num_ranks)
    return ranks


def _meeting(store: "Store", rank: int, num_ranks: int) -> str:
    """A name for this meeting of all ranks, which no earlier one had.

    When torchrun starts ranks again, its store still has the addresses of those that died, and
    whoever reads them before they are replaced cannot connect. Counts of restarts differ between
    machines. So rank 0 makes up a name, and tells it to those who ask it now: each rank asks by a
    word of its own, and rank 0 answers whatever word it finds until all have come.
    """
    own = secrets.token_hex(8)
    if rank > 0:
        store.set(f"pycat/asks/{rank}", own)
        name = str(store.get(f"pycat/answer/{own}").decode())
        store.set(f"pycat/came/{name}/{rank}", "")
        return name
    missing = set(range(1, num_ranks))
    deadline = time.monotonic() + _PATIENCE.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"pycat/came/{own}/{other}"]):
                missing.remove(other)
            elif store.check([f"pycat/asks/{other}"]):
                store.set(f"pycat/answer/{store.get(f'pycat/asks/{other}').decode()}", own)
        if time.monotonic() > deadline:
            raise RuntimeError(f"rank {min(missing)} did not come")
        time.sleep(_POLL_S)
    return own


def _leave() -> None:
    """Part from the other ranks, which may be gone."""
    import torch.distributed as dist

    with suppress(RuntimeError, ValueError):
        if dist.is_initialized():
            dist.destroy_process_group()


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    """A variable that holds a count, from 0."""
    value = environ.get(name, "").strip()
    if not value:
        return default
    if not (value.isascii() and value.isdigit()):
        raise PycatError(f"{name} is {value!r}, expected a number from 0; {_START}, or unset it")
    return int(value)
