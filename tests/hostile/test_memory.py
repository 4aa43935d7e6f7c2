"""Small bodies that take much memory once they are decompressed or decoded: a process takes a few times their limit."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tests.faults.conftest import VARIABLES
from tests.processes import TLS, Service, copy_home, serving

pytestmark = pytest.mark.process

INGEST = "/api/requests/ingest/"
MIB = 1024 * 1024
BATCH_MAX_BYTES = 16 * MIB
BODY_MAX_BYTES = MIB
BODIES_MAX_BYTES = 24 * MIB
# What else a process does: threads that start, modules that are imported late, the log of requests.
NOISE_BYTES = 16 * MIB
VALID = (
    b'{"time":"2026-01-05T00:00:00Z","service":"a","endpoint":"/","method":"GET","status_code":200,"latency_ms":1,'
    b'"tags":{}}'
)
EVENT = json.loads(VALID)


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker, with limits a quarter of those by default."""
    own = {
        "TIERCEL_WORKERS": "1",
        "TIERCEL_HTTP__BODIES_MAX_BYTES": str(BODIES_MAX_BYTES),
        "TIERCEL_OBSERVABILITY__INGEST_MAX_BYTES": str(BATCH_MAX_BYTES),
        "TIERCEL_OBSERVABILITY__INGEST_MAX_EVENTS": "25000",
        "TIERCEL_DB__STATEMENT_TIMEOUT_S": "20",
    }
    with serving(copy_home(initialised, tmp_path_factory.mktemp("memory")), **{**VARIABLES, **own}) as started:
        assert started.post(INGEST, [EVENT] * 100).json()["inserted"] == 100
        yield started


def repeat(part: bytes, size_bytes: int) -> bytes:
    return part * (size_bytes // len(part))


def array(item: bytes, size_bytes: int = BATCH_MAX_BYTES - 1024) -> bytes:
    return b"[" + repeat(item + b",", size_bytes) + b"0]"


def members(size_bytes: int) -> bytes:
    """Return the members of an object, each with a name of its own."""
    return b",".join(b'"%d":0' % number for number in range(size_bytes // 10))


def peak_bytes(worker: psutil.Process) -> int:
    """Return the most memory that a process has had since ``forget_peak``."""
    lines = Path(f"/proc/{worker.pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def send(service: Service, path: str, body: bytes, media_type: str = "application/json") -> tuple[httpx.Response, int]:
    """Send a body compressed; return the response and how much memory the worker took for it."""
    (worker,) = service.workers()
    before = worker.memory_info().rss
    Path(f"/proc/{worker.pid}/clear_refs").write_text("5", encoding="ascii")
    headers = {"Content-Type": media_type, "Content-Encoding": "gzip"}
    answer = httpx.post(service.url + path, content=gzip.compress(body, 1), headers=headers, timeout=60, verify=TLS)
    return answer, peak_bytes(worker) - before


WRONG_TIME = VALID.replace(b"2026-01-05", b"2026-99-99")
TRAILER = b'{"rows":1,"sha256":"' + b"0" * 64 + b'"}\n'
BATCHES = {
    "numbers": partial(array, b"0"),
    "far too many numbers": partial(array, b"0", 256 * MIB),
    "arrays": partial(array, b"[]"),
    "brackets that are not closed": partial(repeat, b"[", BATCH_MAX_BYTES - 1024),
    "objects": partial(array, b"{}"),
    "texts": partial(array, b'""'),
    "short events": partial(array, VALID),
    "as many wrong events as are allowed": lambda: b"[" + b",".join([WRONG_TIME] * 25_000) + b"]",
    "one event of numbers": lambda: b"[" + array(b"0") + b"]",
    "one event of arrays, and half a surrogate pair": lambda: b'["\\ud800",' + array(b"[]") + b"]",
    "tags of numbers": lambda: b"[" + VALID[:-2] + b'"a":' + array(b"0") + b"}}]",
    "an event with many members": lambda: b'[{"time":0,' + members(BATCH_MAX_BYTES) + b"}]",
    "wrapped, with many other members": lambda: b'{"events":5,' + members(BATCH_MAX_BYTES) + b"}",
    "no batch": lambda: b'{"x":' + array(b"{}") + b"}",
}


@pytest.mark.parametrize("make_body", BATCHES.values(), ids=BATCHES.keys())
def test_a_batch_takes_at_most_four_times_the_limit(service: Service, make_body: partial[bytes]) -> None:
    answer, taken_bytes = send(service, INGEST, make_body())

    assert taken_bytes <= 4 * BATCH_MAX_BYTES + NOISE_BYTES
    assert answer.status_code in {200, 400, 413}
    assert answer.json().get("inserted", 0) == 0
    assert len(answer.content) < 100_000
    assert "Traceback" not in service.errors


STREAMS = {
    "brackets": lambda: repeat(b"[]\n", MIB // 8),
    "blank lines": lambda: repeat(b" " * 100 + b"\n", 32 * MIB),
    "wrong trailers": lambda: repeat(TRAILER, 16 * MIB),
    "lines of arrays": lambda: repeat(b"[" + repeat(b"[],", MIB - 1024) + b"0]\n", 16 * MIB),
}


@pytest.mark.parametrize("make_body", STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_takes_no_more_than_its_batches(service: Service, make_body: partial[bytes]) -> None:
    answer, taken_bytes = send(service, INGEST, make_body(), "application/x-ndjson")

    assert taken_bytes <= 4 * BATCH_MAX_BYTES + NOISE_BYTES
    assert answer.status_code == 200
    assert "Traceback" not in service.errors


@pytest.mark.parametrize(
    ("path", "make_body", "status"),
    [
        ("/api/v1/jobs/", lambda: b'{"name":"x","parameters":{"a":' + array(b"[]", 64 * MIB) + b"}}", 413),
        ("/api/v1/jobs/", lambda: b'{"name":"x","parameters":{"a":' + array(b"[]", MIB - 1024) + b"}}", 413),
        ("/api/v1/jobs/", lambda: b'{"name":"x","parameters":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}}", 400),
        ("/api/v1/datasets/features/rollback/", lambda: array(b"{}", MIB - 1024), 413),
        ("/api/requests/", lambda: b'{"service":' + array(b"0", 64 * MIB) + b"}", 413),
        ("/api/requests/", lambda: b'{"service":' + array(b"[]", MIB // 4) + b"}", 400),
        ("/trace/webhooks/notion/", lambda: array(b"[]", 64 * MIB), 413),
        ("/trace/webhooks/notion/", lambda: b"[" * 60_000, 404),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
def test_every_other_body_takes_little(
    service: Service, path: str, make_body: Callable[[], bytes], status: int
) -> None:
    answer, taken_bytes = send(service, path, make_body())

    assert taken_bytes <= 4 * BODY_MAX_BYTES + NOISE_BYTES
    assert answer.status_code == status, answer.text
    assert "Traceback" not in service.errors


@contextmanager
def begun(service: Service, size_bytes: int, sent: bytes) -> Iterator[socket.socket]:
    """Announce a batch, and send the beginning of it."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        head = f"POST {INGEST} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {size_bytes}\r\n\r\n".encode() + sent)
        time.sleep(0.5)  # nothing tells when the service has read it
        yield connection


def test_bodies_beyond_the_memory_of_a_process_are_refused_for_the_moment(service: Service) -> None:
    batch = b"[" + b" " * (14 * MIB) + VALID + b"]"
    with begun(service, len(batch), batch[:-1]) as connection:
        refused, _ = send(service, INGEST, batch)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        assert service.post(INGEST, [EVENT]).json()["inserted"] == 1

        connection.sendall(batch[-1:])
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    assert send(service, INGEST, batch)[0].json()["inserted"] == 1


def test_a_body_that_is_announced_but_not_sent_takes_no_room(service: Service) -> None:
    with begun(service, 14 * MIB, b"["), begun(service, 14 * MIB, b"["):
        assert send(service, INGEST, b"[" + b" " * (14 * MIB) + VALID + b"]")[0].json()["inserted"] == 1
