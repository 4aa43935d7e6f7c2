"""Clients that connect and send nothing, or a part of a request: other clients do not wait for them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.conftest import VARIABLES
from tests.processes import Service, copy_home, eventually, send_until_answered, serving

pytestmark = pytest.mark.process

THREADS = 2
HEADER_TIMEOUT_S = 4
HEAD = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n"
Connect = Callable[[], socket.socket]


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one worker and two threads, which waits four seconds for the head of a request."""
    own = {"TIERCEL_WORKERS": "1", "TIERCEL_THREADS": "2", "TIERCEL_SERVER__HEADER_TIMEOUT_S": str(HEADER_TIMEOUT_S)}
    with serving(copy_home(initialised, tmp_path_factory.mktemp("connections")), **{**VARIABLES, **own}) as started:
        yield started


@pytest.fixture
def connect(service: Service) -> Iterator[Connect]:
    """Open connections that the end of the test closes."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=10))


def read_response(connection: socket.socket) -> bytes:
    """Read until the service closes the connection."""
    parts = iter(lambda: connection.recv(4096), b"")
    return b"".join(parts)


@pytest.mark.parametrize("times", [1, 10])
@pytest.mark.parametrize("sent", [b"", b"GET", HEAD, b"\r\n"], ids=["nothing", "method", "headers", "blank line"])
def test_incomplete_heads_do_not_delay_other_clients(
    service: Service, connect: Connect, sent: bytes, times: int
) -> None:
    for _ in range(THREADS * times):
        connect().sendall(sent)
    started = time.monotonic()

    for path in ("/livez", "/readyz", "/api/requests/"):
        assert service.get(path).status_code == 200

    assert time.monotonic() - started < HEADER_TIMEOUT_S / 2


def test_sending_a_byte_now_and_then_does_not_extend_the_time_limit_of_a_head(connect: Connect) -> None:
    started = time.monotonic()
    answer = send_until_answered(connect(), b"G", timeout_s=4 * HEADER_TIMEOUT_S)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started < HEADER_TIMEOUT_S + 2


def test_a_client_that_sends_nothing_is_disconnected_without_a_response(connect: Connect) -> None:
    connection = connect()
    started = time.monotonic()

    assert read_response(connection) == b""
    assert HEADER_TIMEOUT_S - 0.5 < time.monotonic() - started < HEADER_TIMEOUT_S + 2


def test_a_head_that_arrives_in_parts_is_served(connect: Connect) -> None:
    connection = connect()
    for part in (HEAD[:10], HEAD[10:], b"Connection: close\r\n", b"\r\n"):
        connection.sendall(part)
        time.sleep(0.05)  # send each in a separate packet

    assert read_response(connection).startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_are_answered_in_order(connect: Connect) -> None:
    connection = connect()
    connection.sendall(HEAD + b"\r\n" + HEAD.replace(b"/livez", b"/none") + b"Connection: close\r\n\r\n")

    answer = read_response(connection)

    assert answer.index(b"HTTP/1.1 200 ") < answer.index(b"HTTP/1.1 404 ")


def test_an_incomplete_second_request_on_a_kept_alive_connection_times_out(connect: Connect) -> None:
    connection = connect()
    connection.sendall(HEAD + b"\r\n")
    first = b""
    while not first.endswith(b'{"status":"ok"}'):  # head and body may arrive separately
        first += connection.recv(4096)

    connection.sendall(HEAD)

    assert read_response(connection).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_disconnects_during_the_head_leaves_no_connection_open(
    service: Service, connect: Connect
) -> None:
    for _ in range(50):
        connection = connect()
        connection.sendall(HEAD)
        connection.close()

    (worker,) = service.workers()
    assert eventually(lambda: len(worker.net_connections("tcp")) <= 3)
    assert service.get("/livez").status_code == 200
    assert "Traceback" not in service.errors


def test_a_worker_that_waits_for_heads_is_idle(service: Service, connect: Connect) -> None:
    for _ in range(20):
        connect().sendall(HEAD)
    (worker,) = service.workers()
    before_s = sum(worker.cpu_times()[:2])
    time.sleep(1)

    assert sum(worker.cpu_times()[:2]) - before_s < 0.3


def test_clients_that_do_not_close_their_side_do_not_delay_others(service: Service, connect: Connect) -> None:
    for sent in (HEAD + b"Connection: close\r\n\r\n", b"malformed\r\n\r\n") * 2:
        connection = connect()
        connection.sendall(sent)
        assert read_response(connection).startswith(b"HTTP/1.1 ")
    started = time.monotonic()

    assert service.get("/livez").status_code == 200

    assert time.monotonic() - started < 1
    (worker,) = service.workers()
    assert eventually(lambda: len(worker.net_connections("tcp")) <= 3)


def test_silent_clients_do_not_delay_a_stop(home: Path) -> None:
    with serving(home, **VARIABLES) as service, ExitStack() as stack:
        for sent in (b"", HEAD) * 10:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            connection.sendall(sent)
        assert service.get("/livez").status_code == 200
        started = time.monotonic()

        assert service.stop() == 0
        assert time.monotonic() - started < 6
