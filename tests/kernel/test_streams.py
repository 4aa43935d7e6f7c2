"""Bodies that leave piece by piece."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from kernel.contracts import Route
from kernel.http.response import Response, StreamingResponse
from kernel.testing import Client
from tests.processes import Service, eventually, serving

Mount = Callable[..., Client]


@pytest.fixture(scope="module")
def service(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that streams; none of the tests harms it."""
    environment = {
        "TIERCEL_DATABASE_URL": module_database,
        "TIERCEL_PLUGINS": "tests.kernel.streaming",
        "TIERCEL_REQUIRED": "",
        "TIERCEL_LOG": "json",
    }
    with serving(tmp_path_factory.mktemp("streams") / ".tiercel", **environment) as started:
        yield started


def url(service: Service, folder: Path) -> str:
    """Return where to find the stream of a test."""
    return f"{service.url}/stream/?folder={folder}"


@pytest.mark.process
def test_a_piece_arrives_before_the_next_is_there(service: Service, tmp_path: Path) -> None:
    with httpx.stream("GET", url(service, tmp_path), timeout=10) as response:
        lines = response.iter_lines()
        first = next(lines)
        (tmp_path / "gate").touch()
        *_, last = lines

    assert (first, last) == ("one", "two")
    assert (response.status_code, response.headers["Content-Type"]) == (203, "text/x-pieces")
    assert (response.headers["X-Own"], "Content-Length" in response.headers) == ("yes", False)
    assert eventually((tmp_path / "closed").exists)


@pytest.mark.process
def test_a_client_that_goes_away_ends_the_stream(service: Service, tmp_path: Path) -> None:
    with httpx.stream("GET", url(service, tmp_path), timeout=10) as response:
        next(response.iter_lines())

    assert eventually((tmp_path / "closed").exists)


@pytest.mark.process
def test_head_answers_as_get_would_and_ends_the_stream(service: Service, tmp_path: Path) -> None:
    answer = httpx.head(url(service, tmp_path))

    assert (answer.status_code, answer.headers["Content-Type"], answer.content) == (203, "text/x-pieces", b"")
    assert (tmp_path / "closed").exists()


@pytest.mark.process
def test_the_request_log_knows_how_much_left(service: Service, tmp_path: Path) -> None:
    (tmp_path / "gate").touch()

    answer = httpx.get(url(service, tmp_path))

    assert answer.text == "one\ntwo\n"
    mine = answer.headers["X-Request-ID"]
    assert eventually(lambda: logged_bytes(service, mine) == len(answer.content))


def logged_bytes(service: Service, request_id: str) -> int | None:
    """Return what the request log says of a request; None if it says nothing yet."""
    lines = [json.loads(line) for line in service.errors.splitlines()]
    return next((line["bytes"] for line in lines if line.get("request_id") == request_id), None)


def show() -> StreamingResponse:
    """Stream without a Response around it."""
    return StreamingResponse([b"a" * 2000, b"b"], "text/plain")


def show_with_status() -> Response[StreamingResponse]:
    """Stream with one."""
    return Response(show(), 202)


@pytest.mark.parametrize(("handler", "status"), [(show, 200), (show_with_status, 202)])
def test_a_stream_leaves_as_it_is_however_long(mount: Mount, handler: Callable[..., object], status: int) -> None:
    client = mount(Route(path="/stream/", handler=handler, policy="public"))

    answer = client.get("/stream/", headers={"Accept-Encoding": "gzip"})

    assert (answer.status, answer.content, answer.headers["content-type"]) == (status, b"a" * 2000 + b"b", "text/plain")
    assert "content-encoding" not in answer.headers
