"""Exports over real sockets: clients that stall or disconnect, and exports that fail half-way."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.outage import outage
from tests.plugins.observability.events import make_events
from tests.processes import TLS, Service, eventually, serving

pytestmark = pytest.mark.process

URL = "/api/requests/export/?format=ndjson"
# Far more than sockets buffer.
EVENTS, TAG_BYTES = 20_000, 2_000


@pytest.fixture(scope="module")
def service(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with 40 MB of events that runs one export at a time."""
    environment = {
        "TIERCEL_DATABASE_URL": module_database,
        "TIERCEL_PLUGINS": "system,observability",
        "TIERCEL_THREADS": "4",
        "TIERCEL_SERVER__SEND_TIMEOUT_S": "2",
        "TIERCEL_OBSERVABILITY__EXPORTS_MAX": "1",
        "TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS": "false",
    }
    with serving(tmp_path_factory.mktemp("exports") / ".tiercel", **environment) as started:
        taken = started.post("/api/requests/ingest/", make_events(EVENTS, tags={"text": "x" * TAG_BYTES}), timeout_s=60)
        assert taken.status_code == 200, taken.text
        yield started


def is_free(service: Service) -> bool:
    """Tell whether an export may begin."""
    return httpx.get(f"{service.url}{URL}&service=nobody", verify=TLS).status_code == 200


@contextlib.contextmanager
def stalled(service: Service) -> Iterator[socket.socket]:
    """Begin an export and read nothing but its first bytes."""
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(f"GET {URL} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        yield client


def test_an_export_is_complete_and_ends_with_its_trailer(service: Service) -> None:
    lines = service.get(URL, timeout_s=60).text.splitlines()

    assert len(lines) == EVENTS + 1
    assert lines[-1].startswith(f'{{"rows":{EVENTS},"sha256":')


def test_an_export_that_fails_half_way_does_not_look_complete(service: Service, module_database: str) -> None:
    content: list[bytes] = []
    with httpx.stream("GET", service.url + URL, timeout=30, verify=TLS) as response:
        pieces = response.iter_bytes()
        content.append(next(pieces))
        with outage(module_database), pytest.raises(httpx.RemoteProtocolError):
            content.extend(pieces)

    assert response.status_code == 200
    assert b'"sha256"' not in b"".join(content)
    assert eventually(lambda: is_free(service))


def test_one_export_too_many_is_503_until_the_other_client_disconnects(service: Service) -> None:
    with stalled(service):
        refused = service.get(URL)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")

    assert eventually(lambda: is_free(service))


def test_the_export_of_a_client_that_stops_reading_ends(service: Service) -> None:
    with stalled(service):
        assert eventually(lambda: is_free(service))


def test_a_stalled_export_does_not_delay_the_stop_of_the_service(tmp_path: Path, service: Service) -> None:
    with serving(tmp_path / ".tiercel", **variables_of(service)) as other, stalled(other):
        assert other.stop() == 0


def variables_of(service: Service) -> dict[str, str]:
    """Return the environment of another service on the same database."""
    wanted = ("TIERCEL_DATABASE_URL", "TIERCEL_PLUGINS", "TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS")
    environment = dict(
        entry.split("=", 1)
        for entry in Path(f"/proc/{service.process.pid}/environ").read_text().split("\0")
        if "=" in entry
    )
    return {name: environment[name] for name in wanted}
