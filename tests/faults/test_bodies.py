"""Bodies that are too large, truncated, not JSON or deeply nested: rejected, and nothing is stored."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.conftest import VARIABLES, stored_batches
from tests.faults.senders import PATH, make_batch
from tests.processes import TLS, Service, copy_home, eventually, serving

pytestmark = pytest.mark.process

MAX_BYTES = 1024 * 1024
JSON = {"Content-Type": "application/json"}
BATCH = json.dumps(make_batch(1, 100)).encode()


@pytest.fixture(scope="module")
def service(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that accepts bodies of up to one MiB."""
    own = {"TIERCEL_HTTP__MAX_BODY_BYTES": str(MAX_BYTES)}
    with serving(copy_home(initialised, tmp_path_factory.mktemp("bodies")), **VARIABLES, **own) as started:
        yield started


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        pytest.param(b" " * (MAX_BYTES + 1), {413}, id="oversized"),
        pytest.param(BATCH[:-1], {400}, id="truncated array"),
        pytest.param(BATCH[:-40], {400}, id="truncated event"),
        pytest.param(BATCH[:-1] + b"]]", {400}, id="trailing characters"),
        pytest.param(b"", {400}, id="empty"),
        pytest.param(b"\x00" * 1000, {400}, id="zeros"),
        pytest.param(b"\xff\xfe" * 1000, {400}, id="not UTF-8"),
        pytest.param(b"[" * 100_000, {400}, id="nested arrays, truncated"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, {200, 400}, id="nested arrays"),
        pytest.param(b'{"events":' * 50_000, {400}, id="nested objects"),
        pytest.param(b'[{"tags":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}]", {200, 400}, id="nested tags"),
    ],
)
def test_an_invalid_body_is_rejected_and_nothing_is_stored(service: Service, body: bytes, statuses: set[int]) -> None:
    answer = httpx.post(service.url + PATH, content=body, headers=JSON, verify=TLS)

    assert answer.status_code in statuses, answer.text[:300]
    assert answer.json().get("inserted", 0) == 0
    assert stored_batches(service.home) == {}
    assert service.is_ready()
    assert "Traceback" not in service.errors


@pytest.mark.parametrize(
    "framing", ["Content-Length: {size}\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n"]
)
def test_nothing_is_stored_if_the_client_disconnects_during_the_body(service: Service, framing: str) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall((head + framing.format(size=len(BATCH))).encode() + BATCH[: len(BATCH) // 2])
    lines = len(service.errors.splitlines())

    assert eventually(lambda: len(service.errors.splitlines()) >= lines and service.is_ready())
    assert stored_batches(service.home) == {}
    assert "Traceback" not in service.errors
