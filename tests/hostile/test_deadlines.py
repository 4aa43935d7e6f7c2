"""Requests that would work for minutes, and requests whose clients hang up: they end, and others do not notice."""

from __future__ import annotations

import gzip
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.faults.conftest import VARIABLES
from tests.faults.database import ask, connect
from tests.hostile.test_slow_clients import make_event
from tests.processes import TLS, Service, copy_home, eventually, serving, slowdown

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.process

INGEST = "/api/requests/ingest/"
REQUEST_TIMEOUT_S = 3
# Some milliseconds on a machine that does nothing else.
PROBE_S = 1.0
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tiercel' AND wait_event_type = 'Lock'"
EVENTS = "SELECT count(*) FROM observability.event"


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker with two threads, and little time for each request."""
    own = {
        "TIERCEL_WORKERS": "1",
        "TIERCEL_THREADS": "2",
        "TIERCEL_HTTP__REQUEST_TIMEOUT_S": str(REQUEST_TIMEOUT_S),
        "TIERCEL_DB__STATEMENT_TIMEOUT_S": "60",
        "TIERCEL_TRACE__WEBHOOK_TOKEN": "secret_of_the_webhook_of_the_tests",
    }
    with serving(copy_home(initialised, tmp_path_factory.mktemp("deadlines")), **{**VARIABLES, **own}) as started:
        yield started


def send(service: Service, content: bytes, *, query: str = "", path: str = INGEST, **headers: str) -> httpx.Response:
    """Send a body to ingest."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(service.url + path + query, content=content, headers=named, timeout=60, verify=TLS)


def send_and_hang_up(service: Service, content: bytes, **headers: str) -> None:
    """Send a whole request to ingest, and close the connection at once."""
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    head = f"POST {INGEST} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n{''.join(lines)}\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(head.encode() + content)


@contextmanager
def locked(home: Path) -> Iterator[Callable[[], None]]:
    """Lock the table of events, so that whoever stores one waits; the function that is returned ends that."""
    with ExitStack() as stack:
        connection = stack.enter_context(connect(home))
        stack.enter_context(connection.transaction(force_rollback=True))
        connection.execute("LOCK TABLE observability.event IN ACCESS EXCLUSIVE MODE")
        yield stack.close


def slowest_probe_s(service: Service, until: Callable[[], bool]) -> float:
    """Probe until a condition holds; return how long the slowest probe took, were the machine this service's alone."""
    slowest_s = 0.0
    while True:
        started = time.monotonic()
        assert service.get("/livez").status_code == 200
        took_s = time.monotonic() - started
        if took_s > slowest_s:
            slowest_s = max(slowest_s, took_s / slowdown())
        if until():
            return slowest_s
        time.sleep(0.05)  # probes are to measure the load, not to be it


def test_a_statement_ends_with_its_request(service: Service) -> None:
    with locked(service.home):
        started = time.monotonic()
        answer = service.post(INGEST, [make_event(), make_event()], timeout_s=30)
        took_s = time.monotonic() - started

        assert (answer.status_code, answer.json()["code"]) == (503, "deadline_exceeded")
        assert answer.headers["Retry-After"]
        assert REQUEST_TIMEOUT_S <= took_s < REQUEST_TIMEOUT_S + 5
        assert eventually(lambda: ask(service.home, WAITING) == 0, 2)
    assert service.post(INGEST, [make_event()], timeout_s=30).json()["inserted"] == 1


def test_a_statement_ends_when_the_client_hangs_up(service: Service) -> None:
    with locked(service.home):
        send_and_hang_up(service, json.dumps([make_event()] * 2).encode(), Content_Type="application/json")

        assert eventually(lambda: ask(service.home, WAITING) == 1, 2)
        # Long before the deadline.
        assert eventually(lambda: ask(service.home, WAITING) == 0, REQUEST_TIMEOUT_S - 1)


def test_a_request_whose_client_hung_up_in_the_queue_is_not_served(service: Service) -> None:
    before = ask(service.home, EVENTS)
    with locked(service.home) as unlock, ThreadPoolExecutor(2) as pool:
        body = json.dumps([make_event()] * 2).encode()
        occupying = [pool.submit(send, service, body, Content_Type="application/json") for _ in range(2)]
        assert eventually(lambda: ask(service.home, WAITING) == 2, 2)
        for _ in range(20):
            send_and_hang_up(service, body, Content_Type="application/json")
        time.sleep(1.2)  # a client that has closed its side counts as gone after a second
        unlock()
        stored = sum(each.result().json().get("inserted", 0) for each in occupying)

    assert service.post(INGEST, [make_event()], timeout_s=30).json()["inserted"] == 1
    assert ask(service.home, EVENTS) == before + stored + 1


def test_a_client_that_closes_its_side_is_answered(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(b"GET /api/requests/?page_size=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_millions_of_blank_lines_cost_nothing(service: Service) -> None:
    newlines = gzip.compress(b"\n" * 250_000_000)
    headers = {"Content_Type": "application/x-ndjson", "Content_Encoding": "gzip"}
    for _ in range(20):
        send_and_hang_up(service, newlines, **headers)

    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(send, service, newlines, **headers)
        assert slowest_probe_s(service, answered.done) < PROBE_S

    assert answered.result().status_code == 413
    assert time.monotonic() - started < 10


def test_blank_lines_among_events_are_skipped_fast(service: Service) -> None:
    line = json.dumps(make_event()).encode()
    body = b"".join((line, b" \r\n" * 300_000)) * 50
    headers = {"Content_Type": "application/x-ndjson", "Content_Encoding": "gzip"}

    started = time.monotonic()
    answer = send(service, gzip.compress(body, 1), **headers)

    assert (answer.status_code, answer.json()["inserted"]) == (200, 50)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("coding", "member"), [("zstd", zstd.compress(b"")), ("gzip", gzip.compress(b"", mtime=0))], ids=["zstd", "gzip"]
)
def test_members_without_content_cost_nothing(service: Service, coding: str, member: bytes) -> None:
    body = member * (8_000_000 // len(member))

    started = time.monotonic()
    answer = send(service, body, Content_Type="application/json", Content_Encoding=coding)

    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", ["json", "x-ndjson"])
def test_small_batches_cost_little(service: Service, kind: str) -> None:
    events = [json.dumps(make_event()) for _ in range(8_000)]
    body = ("\n".join(events) if kind == "x-ndjson" else f"[{','.join(events)}]").encode()

    started = time.monotonic()
    answer = send(service, body, query="?batch_size=1", Content_Type=f"application/{kind}")

    assert answer.json()["inserted"] == 8_000
    assert time.monotonic() - started < 15


def test_many_unstorable_events_cost_little(service: Service) -> None:
    # A number with more digits after the point than the database stores.
    body = json.dumps([make_event(tags={"a": "?"})] * 2000).replace('"?"', "0." + "1" * 20_000).encode()

    started = time.monotonic()
    answer = send(service, gzip.compress(body, 1), Content_Type="application/json", Content_Encoding="gzip")

    assert answer.status_code in {200, 503}
    assert answer.json().get("inserted", 0) == 0
    assert time.monotonic() - started < 20


def test_a_search_has_limits(service: Service) -> None:
    def search(path: str, text: str) -> int:
        return httpx.get(service.url + path, params={"search": text}, timeout=30, verify=TLS).status_code

    assert search("/api/requests/", " ".join(["_" * 29] * 10)) == 200
    for path in ("/api/requests/", "/api/requests/services/", "/api/v1/datasets/"):
        assert search(path, " ".join(["_" * 255] * 10)) == 400


def test_the_webhook_decodes_nothing_that_is_not_signed(service: Service) -> None:
    path = "/trace/webhooks/notion/"
    packed = gzip.compress(b" " * 50_000_000)

    assert send(service, packed[:60_000], path=path, Content_Encoding="gzip").status_code == 401
    assert send(service, b" " * 66_000, path=path).status_code == 413


def test_a_body_that_is_decoded_for_long_delays_no_probe(service: Service) -> None:
    # Half a surrogate pair: nothing but the slowest way decodes this.
    body = gzip.compress(b'[{"time": "\\ud800"}' + b",[[]]" * 12_000_000 + b"]", 1)
    with ThreadPoolExecutor(2) as pool:
        headers = {"Content_Type": "application/json", "Content_Encoding": "gzip"}
        answered = [pool.submit(send, service, body, **headers) for _ in range(2)]
        slowest_s = slowest_probe_s(service, lambda: all(each.done() for each in answered))

    assert {each.result().status_code for each in answered} <= {400, 413, 503}
    assert slowest_s < PROBE_S
    assert "Traceback" not in service.errors
