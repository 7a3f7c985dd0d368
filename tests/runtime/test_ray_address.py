"""Addresses where no Ray answers: one clear line, within ten seconds."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from ray_settings import SETTINGS

from pycat.errors import PycatError
from pycat.runtime import ray_address
from pycat.runtime.ray_address import reached_address

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        not __import__("importlib").util.find_spec("ray"), reason="Ray is not installed"
    ),
]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Somebody listens, and says nothing."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield one.getsockname()[1]


@pytest.fixture
def web_port() -> Iterator[int]:
    class Silently(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Silently) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def refusal(on: str) -> str:
    with pytest.raises(PycatError) as error:
        reached_address(on)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nobody_listens(closed_port: int, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{scheme}127.0.0.1:{closed_port}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert refusal("auto").startswith(
        f"auto, RAY_ADDRESS '{address}': no connection to Ray (Connection refused); see that"
    )


def test_nobody_listens_at_the_address_that_is_named(closed_port: int) -> None:
    address = f"ray://127.0.0.1:{closed_port}"
    assert refusal(address).startswith(f"{address}: no connection to Ray (Connection refused)")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_silent_server(silent_port: int, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "PATIENCE_S", 0.5)
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{silent_port}")
    assert "(no answer within 0.5 s)" in refusal("auto")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_web_server(web_port: int, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{web_port}")
    assert "no connection to Ray (Failed parsing HTTP/2" in refusal("auto")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_host_that_is_unknown(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}no-such-host.invalid:6379")
    assert "no connection to Ray (" in refusal("auto")


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("local", "names no cluster; expected HOST:PORT"),
        ("http://127.0.0.1:8265", "the address of a dashboard"),
        ("host", "found 'host', expected HOST:PORT"),
        ("host:x", "found 'host:x', expected HOST:PORT"),
        ("host:0", "expected HOST:PORT with a port from 1 to 65535"),
        ("host:65536", "expected HOST:PORT with a port from 1 to 65535"),
        ("::1:6379", "found '::1:6379', expected HOST:PORT"),
        ("ray://", "found '', expected HOST:PORT"),
        ("ray://host", "found 'host', expected HOST:PORT"),
        ("ray://host:10001/x", "found 'host:10001/x', expected HOST:PORT"),
    ],
)
def test_no_address(named: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", named)
    said = refusal("auto")
    assert said.startswith(f"auto, RAY_ADDRESS {named!r}: ")
    assert says in said


@pytest.mark.parametrize("named", [None, "", "auto"])
def test_no_cluster_on_this_machine(named: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray._private.services as services

    if named is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", named)
    monkeypatch.setattr(services, "find_gcs_addresses", frozenset)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: None)
    assert "no connection to Ray (Could not find any running Ray instance)" in refusal("auto")


def test_a_cluster_that_ended_without_a_word(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray keeps the address of the last cluster in a file, which outlives it."""
    import ray._private.services as services

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_gcs_addresses", frozenset)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: f"127.0.0.1:{closed_port}")
    assert refusal("auto").startswith(
        f"auto, 127.0.0.1:{closed_port}: no connection to Ray (Connection refused)"
    )
