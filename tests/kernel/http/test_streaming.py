"""Streaming responses, through gunicorn and in process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from kernel.contracts import Route
from kernel.http.response import Response, StreamingResponse
from kernel.testing import Client
from tests.processes import TLS, Service, eventually, serving

Mount = Callable[..., Client]


@pytest.fixture(scope="module")
def service(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that streams; none of the tests harms it."""
    environment = {
        "TIERCEL_DATABASE_URL": module_database,
        "TIERCEL_PLUGINS": "tests.kernel.http.streaming",
        "TIERCEL_REQUIRED": "",
        "TIERCEL_LOG": "json",
    }
    with serving(tmp_path_factory.mktemp("streams") / ".tiercel", **environment) as started:
        yield started


def url(service: Service, folder: Path) -> str:
    """Return the URL of a stream whose gate is a file in this folder."""
    return f"{service.url}/stream/?folder={folder}"


@pytest.mark.process
def test_a_chunk_is_sent_before_the_next_one_exists(service: Service, tmp_path: Path) -> None:
    with httpx.stream("GET", url(service, tmp_path), timeout=10, verify=TLS) as response:
        lines = response.iter_lines()
        first = next(lines)
        (tmp_path / "gate").touch()
        *_, last = lines

    assert (first, last) == ("one", "two")
    assert (response.status_code, response.headers["Content-Type"]) == (203, "text/x-pieces")
    assert (response.headers["X-Own"], "Content-Length" in response.headers) == ("yes", False)
    assert eventually((tmp_path / "closed").exists)


@pytest.mark.process
def test_a_disconnected_client_closes_the_stream(service: Service, tmp_path: Path) -> None:
    with httpx.stream("GET", url(service, tmp_path), timeout=10, verify=TLS) as response:
        next(response.iter_lines())

    assert eventually((tmp_path / "closed").exists)


@pytest.mark.process
def test_head_has_the_headers_of_get_and_closes_the_stream(service: Service, tmp_path: Path) -> None:
    answer = httpx.head(url(service, tmp_path))

    assert (answer.status_code, answer.headers["Content-Type"], answer.content) == (203, "text/x-pieces", b"")
    assert (tmp_path / "closed").exists()


@pytest.mark.process
def test_the_access_log_counts_the_bytes_of_a_stream(service: Service, tmp_path: Path) -> None:
    (tmp_path / "gate").touch()

    answer = httpx.get(url(service, tmp_path), verify=TLS)

    assert answer.text == "one\ntwo\n"
    mine = answer.headers["X-Request-ID"]
    assert eventually(lambda: logged_bytes(service, mine) == len(answer.content))


def logged_bytes(service: Service, request_id: str) -> int | None:
    """Return the length that the access log has of a request; None if it has none yet."""
    lines = [json.loads(line) for line in service.errors.splitlines()]
    return next((line["bytes"] for line in lines if line.get("request_id") == request_id), None)


def show() -> StreamingResponse:
    """Stream without a Response around it."""
    return StreamingResponse([b"a" * 2000, b"b"], "text/plain")


def show_with_status() -> Response[StreamingResponse]:
    """Stream with one."""
    return Response(show(), 202)


@pytest.mark.parametrize(("handler", "status"), [(show, 200), (show_with_status, 202)])
def test_a_stream_is_not_compressed(mount: Mount, handler: Callable[..., object], status: int) -> None:
    client = mount(Route(path="/stream/", handler=handler, policy="public"))

    answer = client.get("/stream/", headers={"Accept-Encoding": "gzip"})

    assert (answer.status, answer.content, answer.headers["content-type"]) == (status, b"a" * 2000 + b"b", "text/plain")
    assert "content-encoding" not in answer.headers
