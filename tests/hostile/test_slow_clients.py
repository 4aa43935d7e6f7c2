"""Clients that send or read slowly, hang on to connections or hang up: other clients do not notice."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.conftest import VARIABLES
from tests.processes import Service, copy_home, send_until_answered, serving

pytestmark = pytest.mark.process

INGEST = "/api/requests/ingest/"
PAGE = "/api/requests/?page_size=500"
HOST = "Host: 127.0.0.1\r\n"
SLOW_CLIENTS = 150
# Without slow clients it takes a few milliseconds, and behind one of them a minute; machines that run tests are busy.
PROBE_S = 5.0
Connect = Callable[..., socket.socket]


def make_event(**values: object) -> dict[str, object]:
    """Return an event as a client sends it."""
    event = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "service": "slow", "endpoint": "/"}
    return {**event, "method": "GET", "status_code": 200, "latency_ms": 1, **values}


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker with two threads, which is patient, and whose list has pages of some megabytes."""
    own = {
        "TIERCEL_WORKERS": "1",
        "TIERCEL_THREADS": "2",
        "TIERCEL_SERVER__RECEIVE_TIMEOUT_S": "60",
        "TIERCEL_SERVER__SEND_TIMEOUT_S": "60",
        "TIERCEL_SERVER__HEADER_TIMEOUT_S": "60",
    }
    with serving(copy_home(initialised, tmp_path_factory.mktemp("slow")), **{**VARIABLES, **own}) as started:
        events = [make_event(tags={"text": "x" * 20_000}) for _ in range(500)]
        assert started.post(INGEST, events, timeout_s=60).json()["inserted"] == 500
        yield started


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Open connections that the end of the test closes."""
    with ExitStack() as stack:

        def open_connection(service: Service, sent: str = "") -> socket.socket:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=20))
            connection.sendall(sent.encode())
            return connection

        yield open_connection


def send_slowly(service: Service, connect: Connect) -> None:
    head = f"POST {INGEST} HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n["
    for _ in range(SLOW_CLIENTS):
        connect(service, head)


def send_slowly_to_nobody(service: Service, connect: Connect) -> None:
    for _ in range(SLOW_CLIENTS):
        connect(service, f"POST /none/ HTTP/1.1\r\n{HOST}Content-Length: 1000\r\n\r\n[")


def read_slowly(service: Service, connect: Connect) -> None:
    for _ in range(SLOW_CLIENTS // 10):
        connect(service, f"GET {PAGE} HTTP/1.1\r\n{HOST}\r\n").recv(10)


def close_slowly(service: Service, connect: Connect) -> None:
    for _ in range(SLOW_CLIENTS):
        assert connect(service, f"GET /none/ HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n").recv(10)


def send_tiny_chunks(service: Service, connect: Connect) -> None:
    head = f"POST {INGEST} HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    clients = [connect(service, head) for _ in range(SLOW_CLIENTS)]
    for _ in range(10):
        for client in clients:
            client.sendall(b"1\r\n \r\n")


def follow_a_job_that_waits(service: Service, connect: Connect) -> None:
    job = service.post("/api/v1/jobs/", {"name": "club.refresh"}).json()["data"]
    for _ in range(SLOW_CLIENTS):
        connect(service, f"GET /api/v1/jobs/{job['id']}/events/ HTTP/1.1\r\n{HOST}\r\n")


@pytest.mark.parametrize(
    "attack",
    [send_slowly, send_slowly_to_nobody, send_tiny_chunks, read_slowly, close_slowly, follow_a_job_that_waits],
)
def test_slow_clients_delay_nobody(
    service: Service, connect: Connect, attack: Callable[[Service, Connect], None]
) -> None:
    attack(service, connect)

    for path in ("/livez", "/readyz") * 5:
        started = time.monotonic()
        assert service.get(path).status_code == 200
        assert time.monotonic() - started < PROBE_S
    assert service.post(INGEST, [make_event()]).json()["inserted"] == 1
    assert "Traceback" not in service.errors


@pytest.fixture(scope="module")
def strict(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that waits a second for its clients, and has few connections."""
    own = {
        "TIERCEL_WORKERS": "1",
        "TIERCEL_SERVER__RECEIVE_TIMEOUT_S": "1",
        "TIERCEL_SERVER__SEND_TIMEOUT_S": "1",
        "TIERCEL_SERVER__CONNECTIONS_MAX": "50",
        "TIERCEL_SERVER__KEEPALIVE_S": "60",
    }
    with serving(copy_home(initialised, tmp_path_factory.mktemp("strict")), **{**VARIABLES, **own}) as started:
        events = [make_event(tags={"text": "x" * 20_000}) for _ in range(500)]
        assert started.post(INGEST, events, timeout_s=60).json()["inserted"] == 500
        yield started


def test_sending_a_byte_now_and_then_does_not_extend_the_time_limit_of_a_body(
    strict: Service, connect: Connect
) -> None:
    head = f"POST {INGEST} HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n["
    started = time.monotonic()
    answer = send_until_answered(connect(strict, head), b" ", timeout_s=10)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started < 5


def test_reading_a_byte_now_and_then_does_not_extend_the_time_limit_of_a_response(
    strict: Service, connect: Connect
) -> None:
    connection = connect(strict, f"GET {PAGE} HTTP/1.1\r\n{HOST}\r\n")
    # For three times the time limit; less than the 10 MB of the response, also if the sockets hold some of it.
    for _ in range(30):
        connection.recv(100)
        time.sleep(0.1)
    connection.settimeout(10)

    received_bytes = 3000
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1024 * 1024):
            received_bytes += len(part)
    assert received_bytes < 10_000_000
    assert "Traceback" not in strict.errors


def test_a_client_that_sustains_the_minimum_rate_is_waited_for(strict: Service, connect: Connect) -> None:
    body = b"[" + b" " * 2500 + b"]"
    head = f"POST {INGEST} HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = connect(strict, head)
    for start in range(0, len(body), 250):
        connection.sendall(body[start : start + 250])
        time.sleep(0.25)

    assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_idle_connections_make_room_for_new_ones(strict: Service, connect: Connect) -> None:
    idle = [connect(strict, f"GET /livez HTTP/1.1\r\n{HOST}\r\n") for _ in range(200)]

    started = time.monotonic()
    assert strict.get("/livez").status_code == 200
    assert time.monotonic() - started < PROBE_S
    assert idle[-1].recv(10) == b"HTTP/1.1 2"
