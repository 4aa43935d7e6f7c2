"""gunicorn: the settings in config/gunicorn.conf.py, and the headers of its response class."""

from __future__ import annotations

import runpy
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import InvalidHeader, InvalidHeaderName

from kernel.errors import BootError
from kernel.server.client_socket import ClientLimits, ClientSocket, SlowClientError
from kernel.server.response import ServerResponse
from kernel.server.wsgi import ensure_supported
from tests.processes import ROOT


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("TIERCEL_BIND", "127.0.0.1:9000", "bind", ["127.0.0.1:9000"]),
        ("TIERCEL_BIND", "unix:/run/t.sock, [::1]:9000", "bind", ["unix:/run/t.sock", "[::1]:9000"]),
        ("TIERCEL_WORKERS", "5", "workers", 5),
        ("TIERCEL_THREADS", "3", "threads", 3),
        ("TIERCEL_SERVER__TIMEOUT_S", "17", "timeout", 17),
        ("TIERCEL_SERVER__GRACEFUL_TIMEOUT_S", "4", "graceful_timeout", 4),
        ("TIERCEL_SERVER__KEEPALIVE_S", "21", "keepalive", 21),
        ("TIERCEL_HOME", "elsewhere", "worker_tmp_dir", "elsewhere"),
    ],
)
def test_gunicorn_gets_its_settings_from_ours(
    variable: str, text: str, name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, text)

    assert runpy.run_path(str(ROOT / "config" / "gunicorn.conf.py"))[name] == value


def test_the_service_boots_once_before_the_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert runpy.run_path(str(ROOT / "config" / "gunicorn.conf.py"))["preload_app"] is True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reuse_port", True),
        ("protocol", "uwsgi"),
        ("proxy_protocol", "auto"),
        ("http_protocols", "h1,h2"),
        ("header_map", "dangerous"),
        ("worker_class", "gthread"),
    ],
)
def test_options_of_gunicorn_that_would_trust_somebody_else_are_refused(name: str, value: object) -> None:
    cfg = Config()
    cfg.set("worker_class", "kernel.server.worker.TiercelWorker")
    ensure_supported(cfg)
    cfg.set(name, value)

    with pytest.raises(BootError, match=r"gunicorn's options are not supported: .* not "):
        ensure_supported(cfg)


# --- headers of responses ---------------------------------------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The sockets of server and client of a connection."""
    server, client = socket.socketpair()
    with server, client:
        yield server, client


@pytest.fixture
def response(ends: tuple[socket.socket, socket.socket]) -> Any:
    """A response to a GET."""
    request: Any = SimpleNamespace(method="GET", version=(1, 1), should_close=lambda: False)
    return ServerResponse(request, ends[0], Config())


def test_headers_are_sent_unchanged_and_in_order(response: Any, ends: tuple[socket.socket, socket.socket]) -> None:
    response.start_response("200 OK", [("ETag", '"a"'), ("Content-Length", "2"), ("X-Empty", ""), ("Vary", "Origin")])
    response.write(b"ok")
    sent = ends[1].recv(4096)
    assert b'ETag: "a"\r\nContent-Length: 2\r\nX-Empty: \r\nVary: Origin\r\n\r\n' in sent


@pytest.mark.parametrize("name", ["Connection", "transfer-encoding", "Server", "Date"])
def test_hop_by_hop_headers_are_set_by_the_server_only(name: str, response: Any) -> None:
    response.start_response("200 OK", [(name, "close"), ("Vary", "Origin")])
    assert response.headers == [("Vary", "Origin")]


@pytest.mark.parametrize("name", ["content-length", "Content-Length"])
def test_no_more_is_sent_than_content_length(name: str, response: Any) -> None:
    response.start_response("200 OK", [(name, "2")])
    response.write(b"okay")
    assert response.sent == 2
    assert not response.chunked


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b=1", "a\nb", "a\0b", "a\x7fb", "€"])
def test_an_invalid_header_value_is_rejected(value: str, response: Any) -> None:
    with pytest.raises(InvalidHeader):
        response.start_response("200 OK", [("X-Name", value)])


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb"])
def test_an_invalid_header_name_is_rejected(name: str, response: Any) -> None:
    with pytest.raises(InvalidHeaderName):
        response.start_response("200 OK", [(name, "value")])


@pytest.mark.parametrize("value", ["caf\xe9", "a\tb"])
def test_a_header_value_beyond_ascii_is_accepted_if_http_allows_it(value: str, response: Any) -> None:
    response.start_response("200 OK", [("X-Name", value)])
    assert response.headers == [("X-Name", value)]


# --- waiting for a body -----------------------------------------------------------------------------------------------


@pytest.fixture
def connection() -> Iterator[tuple[ClientSocket, socket.socket]]:
    """The sockets of server and client of a TCP connection; the server waits a second, or for 500 bytes a second."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client, ClientSocket(listener.accept()[0], ClientLimits(1.0, 1.0, 500)) as server:
            server.setblocking(True)
            yield server, client


class SlowSender:
    """Sends parts a moment apart, from when the server waits: what it had before would be received without."""

    def __init__(self, client: socket.socket, *parts: bytes) -> None:
        self._client = client
        self._parts = parts
        self._thread = threading.Thread(target=self._send)
        self.waits = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self.waits += 1
        if self.waits == 1:
            self._thread.start()
        yield

    def join(self) -> None:
        self._thread.join()

    def _send(self) -> None:
        for part in self._parts:
            time.sleep(0.05)
            self._client.sendall(part)


def test_a_body_whose_length_is_known_is_waited_for_as_a_whole(
    connection: tuple[ClientSocket, socket.socket],
) -> None:
    server, client = connection
    sender = SlowSender(client, b"a", b"b", b"c", b"d")
    server.begin_request(sender.waiting)

    assert server.receive(8192, 4) == b"abcd"
    assert sender.waits == 1
    sender.join()
    # What is polled next is the next request, of which any byte counts.
    client.sendall(b"e")
    assert select.select([server], [], [], 5)[0] == [server]
    assert server.receive(8192, 1) == b"e"


def test_what_has_arrived_when_the_time_is_up_is_received_and_counts(
    connection: tuple[ClientSocket, socket.socket],
) -> None:
    server, client = connection
    sender = SlowSender(client, b"y" * 250)
    server.begin_request(sender.waiting)
    client.sendall(b"x" * 100)
    assert server.receive(8192, 5000) == b"x" * 100
    # A second without enough bytes, which are worth half a second more.
    assert server.receive(8192, 5000) == b"y" * 250
    started = time.monotonic()
    with pytest.raises(SlowClientError):
        server.receive(8192, 5000)
    assert 0.4 < time.monotonic() - started < 0.9
    sender.join()


def test_a_client_that_hangs_up_is_noticed_at_once(connection: tuple[ClientSocket, socket.socket]) -> None:
    server, client = connection
    client.sendall(b"x")
    assert server.receive(8192, 5000) == b"x"
    client.shutdown(socket.SHUT_WR)
    assert server.receive(8192, 5000) == b""
