"""Clients that connect and say nothing, or only a part: the others do not wait for them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.conftest import VARIABLES
from tests.processes import Service, copy_home, eventually, serving

pytestmark = pytest.mark.process

THREADS = 2
HEADER_TIMEOUT_S = 2
HEAD = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n"
Connect = Callable[[], socket.socket]


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of one worker with two threads, which waits two seconds for a head."""
    own = {"TIERCEL_WORKERS": "1", "TIERCEL_THREADS": "2", "TIERCEL_SERVER__HEADER_TIMEOUT_S": str(HEADER_TIMEOUT_S)}
    with serving(copy_home(initialised, tmp_path_factory.mktemp("connections")), **{**VARIABLES, **own}) as started:
        yield started


@pytest.fixture
def connect(service: Service) -> Iterator[Connect]:
    """Open connections that are closed at the end."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=10))


def answer_to(connection: socket.socket) -> bytes:
    """Read until the service hangs up."""
    parts = iter(lambda: connection.recv(4096), b"")
    return b"".join(parts)


@pytest.mark.parametrize("times", [1, 10])
@pytest.mark.parametrize("sent", [b"", b"GET", HEAD, b"\r\n"], ids=["nothing", "a word", "half a head", "a blank"])
def test_clients_that_do_not_finish_a_head_keep_nobody_waiting(
    service: Service, connect: Connect, sent: bytes, times: int
) -> None:
    for _ in range(THREADS * times):
        connect().sendall(sent)
    started = time.monotonic()

    for path in ("/livez", "/readyz", "/api/requests/"):
        assert service.get(path).status_code == 200

    assert time.monotonic() - started < HEADER_TIMEOUT_S / 2


def test_a_client_that_sends_a_byte_now_and_then_has_one_time_limit_for_its_head(connect: Connect) -> None:
    connection = connect()
    connection.settimeout(0.2)
    started = time.monotonic()
    answer = b""
    while not answer and time.monotonic() - started < 4 * HEADER_TIMEOUT_S:
        connection.sendall(b"G")
        try:
            answer = connection.recv(4096)
        except TimeoutError:
            continue

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started < HEADER_TIMEOUT_S + 2


def test_a_client_that_says_nothing_is_dropped_in_silence(connect: Connect) -> None:
    connection = connect()
    started = time.monotonic()

    assert answer_to(connection) == b""
    assert HEADER_TIMEOUT_S - 0.5 < time.monotonic() - started < HEADER_TIMEOUT_S + 2


def test_a_head_that_comes_in_parts_is_served(connect: Connect) -> None:
    connection = connect()
    for part in (HEAD[:10], HEAD[10:], b"Connection: close\r\n", b"\r\n"):
        connection.sendall(part)
        time.sleep(0.05)  # each in a packet of its own

    assert answer_to(connection).startswith(b"HTTP/1.1 200 ")


def test_requests_sent_in_one_go_are_answered_in_order(connect: Connect) -> None:
    connection = connect()
    connection.sendall(HEAD + b"\r\n" + HEAD.replace(b"/livez", b"/none") + b"Connection: close\r\n\r\n")

    answer = answer_to(connection)

    assert answer.index(b"HTTP/1.1 200 ") < answer.index(b"HTTP/1.1 404 ")


def test_half_a_second_request_on_a_kept_alive_connection_is_dropped_in_time(connect: Connect) -> None:
    connection = connect()
    connection.sendall(HEAD + b"\r\n")
    first = b""
    while not first.endswith(b'{"status":"ok"}'):  # head and body may come apart
        first += connection.recv(4096)

    connection.sendall(HEAD)

    assert answer_to(connection).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_hangs_up_half_way_costs_nothing(service: Service, connect: Connect) -> None:
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


def test_silent_clients_do_not_hold_up_a_stop(home: Path) -> None:
    with serving(home, **VARIABLES) as service, ExitStack() as stack:
        for sent in (b"", HEAD) * 10:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            connection.sendall(sent)
        assert service.get("/livez").status_code == 200
        started = time.monotonic()

        assert service.stop() == 0
        assert time.monotonic() - started < 6
