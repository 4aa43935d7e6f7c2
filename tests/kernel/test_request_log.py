"""One record a request, with what left."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import falcon
import msgspec
import pytest

from kernel.contracts import Route
from kernel.errors import NotFoundError
from kernel.http.access_log import RequestLog, RequestRecord
from kernel.http.request import Request
from kernel.logging import make_logger
from kernel.settings import LogSettings
from kernel.testing import Client
from tests.kernel.fakes import CapturedLog, raise_oops

Mount = Callable[..., Client]
CHUNKS = [b"one", b"two", b"three"]


class Streaming:
    """Streams its answer."""

    def on_get(self, request: Request, response: falcon.Response) -> None:
        response.stream = iter(CHUNKS)


class Records:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.taken: list[RequestRecord] = []

    def put(self, record: RequestRecord) -> None:
        """Take one record."""
        self.taken.append(record)


def hello(name: str) -> str:
    """Answer."""
    return f"hello {name}"


def missing() -> str:
    """Find nothing."""
    raise NotFoundError


def public(path: str, handler: object, **given: Any) -> Route:
    """Return a public route."""
    return Route(path=path, handler=handler, policy="public", **given)


@pytest.fixture
def client(mount: Mount) -> Client:
    return mount(
        public("/hello/{name}/", hello),
        public("/missing/", missing),
        public("/oops/", raise_oops_plainly),
        public("/quiet/", missing, logged=False),
        public("/stream/", Streaming(), method=None),
    )


def raise_oops_plainly() -> str:
    """Fail."""
    return str(raise_oops())


def record_of(client: Client, method: str, path: str, **given: Any) -> RequestRecord:
    """Send a request and return its record."""
    records: list[RequestRecord] = []
    client.service.shared.requests.subscribe("test", records.extend)
    client.request(method, path, **given)
    client.service.shared.requests.flush()
    (record,) = records
    return record


def test_a_record_says_what_was_asked_and_what_left(client: Client) -> None:
    before = datetime.now(UTC)

    record = record_of(client, "GET", "/hello/you/?x=1", headers={"X-Request-ID": "my-id"})

    assert (record.request_id, record.method, record.template, record.path) == (
        "my-id",
        "GET",
        "/hello/{name}",
        "/hello/you/",
    )
    assert len(record.trace_id) == 32
    assert before <= record.time <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("method", "path", "status", "template"),
    [
        ("GET", "/missing/", 404, "/missing"),
        ("GET", "/oops/", 500, "/oops"),
        ("GET", "/nowhere/", 404, ""),
        ("POST", "/missing/", 405, ""),
        ("GET", "/missing/?x=1", 400, "/missing"),
        ("HEAD", "/missing/", 404, "/missing"),
    ],
)
def test_a_record_has_the_final_status_and_the_route(
    method: str, path: str, status: int, template: str, client: Client
) -> None:
    record = record_of(client, method, path)

    assert (record.status, record.template) == (status, template)


def test_the_duration_is_in_ms(mount: Mount) -> None:
    def last() -> None:
        time.sleep(0.02)

    assert 20 <= record_of(mount(public("/slow/", last)), "GET", "/slow/").duration_ms < 2000


def test_the_time_is_that_of_arrival(mount: Mount) -> None:
    seen: list[datetime] = []

    def look() -> str:
        seen.append(datetime.now(UTC))
        return ""

    assert record_of(mount(public("/look/", look)), "GET", "/look/").time <= seen[0]


@pytest.mark.parametrize(
    ("method", "path", "length_bytes"),
    [("GET", "/hello/you/", len('"hello you"')), ("HEAD", "/hello/you/", 0), ("GET", "/stream/", 11)],
)
def test_a_record_counts_the_bytes_that_left(method: str, path: str, length_bytes: int, client: Client) -> None:
    assert record_of(client, method, path).bytes == length_bytes


def test_the_path_is_recorded_as_text(client: Client) -> None:
    assert record_of(client, "GET", "/caf%C3%A9").path == "/café"


@pytest.mark.parametrize("path", ["/quiet/", "/livez", "/readyz?exclude=database,startup,writes", "/startupz"])
def test_probes_are_left_out(path: str, client: Client, captured: CapturedLog) -> None:
    records: list[RequestRecord] = []
    client.service.shared.requests.subscribe("test", records.extend)

    client.get(path)
    client.service.shared.requests.flush()

    assert not records
    assert not captured.events("request")


def test_a_stream_is_recorded_once_it_is_closed_and_passes_the_close_on() -> None:
    records, closed = Records(), []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter(CHUNKS)

        def close(self) -> None:
            closed.append(True)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Body:
        start_response("200 OK", [])
        return Body()

    body: Any = RequestLog(application, None, records)({"REQUEST_METHOD": "GET"}, lambda status, headers: None)
    first = next(iter(body))
    assert not records.taken
    body.close()

    assert (first, closed, records.taken[0].bytes) == (b"one", [True], 3)


def test_a_line_is_logged_for_a_request(client: Client, captured: CapturedLog) -> None:
    client.get("/hello/you/", headers={"X-Request-ID": "my-id"})

    (line,) = captured.events("request")
    assert line["request_id"] == "my-id"
    assert (line["method"], line["route"], line["path"], line["status"], line["bytes"]) == (
        "GET",
        "/hello/{name}",
        "/hello/you/",
        200,
        11,
    )
    assert line["duration_ms"] >= 0


def test_no_line_is_logged_where_that_is_switched_off(mount: Mount, captured: CapturedLog) -> None:
    mount(public("/missing/", missing), log={"requests": False}).get("/missing/")

    assert not captured.events("request")


def make_lines(settings: LogSettings, write: Callable[[Any], object]) -> str:
    """Return what a logger writes."""
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, write_through=True)
    write(make_logger(settings, stream))
    return buffer.getvalue().decode()


def test_json_lines_are_one_object_each() -> None:
    def write(log: Any) -> None:
        log.info("request", status=200, path="/a\nb", home=object)
        log.warning("second")

    first, second = map(msgspec.json.decode, make_lines(LogSettings(format="json"), write).splitlines())

    assert (first["event"], first["level"], first["status"], first["path"]) == ("request", "info", 200, "/a\nb")
    assert datetime.fromisoformat(first["timestamp"]).tzinfo is not None
    assert (second["event"], second["level"]) == ("second", "warning")


@pytest.mark.parametrize("format_", ["json", "console"])
def test_a_traceback_is_logged_without_local_variables(format_: Any) -> None:
    def write(log: Any) -> None:
        hunter = "".join(("hun", "ter2"))
        try:
            raise_oops(password=hunter)
        except RuntimeError:
            log.exception("failed")

    text = make_lines(LogSettings(format=format_), write)

    assert "RuntimeError: oops" in text
    assert "raise_oops" in text
    assert "hunter2" not in text


def test_the_console_is_for_people() -> None:
    text = make_lines(LogSettings(format="console"), lambda log: log.info("request", status=200))

    assert "request" in text
    assert "status=200" in text
    assert "{" not in text


def test_lines_below_the_level_are_left_out() -> None:
    text = make_lines(LogSettings(level="error"), lambda log: (log.warning("quiet"), log.error("loud")))

    assert "loud" in text
    assert "quiet" not in text
