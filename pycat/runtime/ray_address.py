"""The address of a Ray cluster, and a short call there before Ray itself goes to it.

Ray tries an address where nothing answers for minutes, and then ends the process or says little.
"""

import os
import re
from typing import Any

from pycat.errors import PycatError

# How long the call may take, its connection included.
PATIENCE_S = 10

# The smallest calls of the two services that a driver can go to, by gRPC. Both take no arguments.
_STORE_CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_CLIENT_CALL = "/ray.rpc.RayletDriver/ClusterInfo"

_HOST_AND_PORT = re.compile(r"(\[[^][]+\]|[^][:/?#\s]+):([0-9]{1,5})")

_REMEDY = (
    "see that the cluster runs (ray status) and RAY_ADDRESS or --on names it, or start one here "
    "with --on ray"
)


def reached_address(on: str) -> str:
    """The address for `ray.init`, where a Ray has just answered.

    Args:
        on: "ray://HOST:PORT", of Ray's client server; or "auto": what RAY_ADDRESS names, else the
            cluster that runs on this machine.

    Raises:
        PycatError: it is no address of Ray, or no Ray answers there within ten seconds.
    """
    named = os.environ.get("RAY_ADDRESS", "").strip() if on == "auto" else on
    of = f"auto, RAY_ADDRESS {named!r}" if on == "auto" and named else on
    if named == "local":
        raise PycatError(
            f"{of}: names no cluster; expected HOST:PORT or ray://HOST:PORT. Unset it to look for "
            "one on this machine, or start one here with --on ray"
        )
    if "://" in named:
        scheme, _, place = named.partition("://")
        if scheme in ("http", "https"):
            raise PycatError(
                f"{of}: is the address of a dashboard, where jobs are submitted; expected that of "
                "the cluster, HOST:6379 on one of its nodes, or ray://HOST:10001 elsewhere"
            )
        if scheme == "ray":
            _check_form(of, place)
            _call(of, place, _CLIENT_CALL, "HOST:6379 without ray:// on one of its nodes")
        return named  # other schemes are of modules that Ray imports
    if named not in ("", "auto"):
        _check_form(of, named)
    from ray._private.services import canonicalize_bootstrap_address

    try:
        # Ray replaces loopback by the address of this node, as `ray.init` would.
        found = canonicalize_bootstrap_address(named or "auto")
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise PycatError(f"{of}: no connection to Ray ({reason[:200]}); {_REMEDY}") from None
    assert found is not None
    _call(of if named else f"{of}, {found}", found, _STORE_CALL, "ray://HOST:10001")
    return found


def _check_form(of: str, place: str) -> None:
    match = _HOST_AND_PORT.fullmatch(place)
    if match is None or not 0 < int(match[2]) < 1 << 16:
        raise PycatError(
            f"{of}: found {place!r}, expected HOST:PORT with a port from 1 to 65535; {_REMEDY}"
        )


def _call(of: str, place: str, method: str, other_form: str) -> None:
    """Call a method there without arguments.

    Raises:
        PycatError: no Ray answers, or it lets nobody in without a token.
    """
    try:
        import grpc
        from ray._private.grpc_utils import init_grpc_channel  # knows of Ray's TLS and tokens
    except ImportError as error:
        raise PycatError(
            f"{of}: a part of Ray is missing ({error}); pip install 'pycat-nmt[ray]'"
        ) from None
    options: Any = [("grpc.enable_http_proxy", 0)]
    channel = init_grpc_channel(place, options=options)
    try:
        channel.unary_unary(method)(b"", timeout=PATIENCE_S)
    except grpc.RpcError as error:
        code = error.code()
        reason = (error.details() or code.name).strip().splitlines()[0].rpartition(": ")[2]
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            problem = f"no answer within {PATIENCE_S} s"
        elif code == grpc.StatusCode.UNIMPLEMENTED:
            problem = f"what answers there is something else; a cluster may also be at {other_form}"
        elif code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise PycatError(
                f"{of}: the cluster refuses the token of this process ({reason[:200]}); set "
                "RAY_AUTH_MODE=token and the RAY_AUTH_TOKEN of the cluster"
            ) from None
        elif code == grpc.StatusCode.UNAVAILABLE:
            problem = reason[:200].rstrip("]")
        else:  # it answers, and Ray will say what is wrong
            return
        raise PycatError(f"{of}: no connection to Ray ({problem}); {_REMEDY}") from None
    finally:
        channel.close()
