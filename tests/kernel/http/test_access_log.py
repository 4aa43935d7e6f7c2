"""One record for each request, with its final status; and subscribers that receive the records in batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import falcon
import pytest

from kernel.contracts import Route
from kernel.errors import NotFoundError, UnavailableError
from kernel.http.access_log import BATCH_MAX, QUEUE_MAX, AccessLog, FeedStats, RequestFeed, RequestRecord
from kernel.http.request import Request
from kernel.testing import Client
from tests.kernel.fakes import CapturedLog, raise_oops

Mount = Callable[..., Client]
CHUNKS = [b"one", b"two", b"three"]


class Streaming:
    """Streams its answer."""

    def on_get(self, request: Request, response: falcon.Response) -> None:
        response.stream = iter(CHUNKS)


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


def test_a_record_has_request_id_method_route_path_and_time(client: Client) -> None:
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


def test_the_duration_of_a_record_is_in_ms(mount: Mount) -> None:
    def last() -> None:
        time.sleep(0.02)

    assert 20 <= record_of(mount(public("/slow/", last)), "GET", "/slow/").duration_ms < 2000


def test_the_time_of_a_record_is_that_of_arrival(mount: Mount) -> None:
    seen: list[datetime] = []

    def look() -> str:
        seen.append(datetime.now(UTC))
        return ""

    assert record_of(mount(public("/look/", look)), "GET", "/look/").time <= seen[0]


@pytest.mark.parametrize(
    ("method", "path", "length_bytes"),
    [("GET", "/hello/you/", len('"hello you"')), ("HEAD", "/hello/you/", 0), ("GET", "/stream/", 11)],
)
def test_a_record_counts_the_bytes_that_were_sent(method: str, path: str, length_bytes: int, client: Client) -> None:
    assert record_of(client, method, path).bytes == length_bytes


def test_the_path_is_recorded_as_text(client: Client) -> None:
    assert record_of(client, "GET", "/caf%C3%A9").path == "/café"


@pytest.mark.parametrize("path", ["/quiet/", "/livez", "/readyz?exclude=database,startup,writes", "/startupz"])
def test_probes_are_not_recorded(path: str, client: Client, captured: CapturedLog) -> None:
    records: list[RequestRecord] = []
    client.service.shared.requests.subscribe("test", records.extend)

    client.get(path)
    client.service.shared.requests.flush()

    assert not records
    assert not captured.events("request")


def test_a_stream_is_recorded_when_it_is_closed_and_its_body_is_closed_as_well(feed: RequestFeed) -> None:
    records: list[RequestRecord] = []
    closed: list[bool] = []
    feed.subscribe("test", records.extend)

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter(CHUNKS)

        def close(self) -> None:
            closed.append(True)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Body:
        start_response("200 OK", [])
        return Body()

    body: Any = AccessLog(application, None, feed, lambda *_: None)(
        {"REQUEST_METHOD": "GET"}, lambda status, headers: None
    )
    first = next(iter(body))
    feed.flush()
    assert not records
    body.close()
    feed.flush()

    assert (first, closed, records[0].bytes) == (b"one", [True], 3)


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


def test_no_line_is_logged_if_log_requests_is_off(mount: Mount, captured: CapturedLog) -> None:
    mount(public("/missing/", missing), log={"requests": False}).get("/missing/")

    assert not captured.events("request")


# --- delivering records -----------------------------------------------------------------------------------------------

NOON = datetime(2025, 12, 14, 12, tzinfo=UTC)


class Subscriber:
    """A fake subscriber that records batches.

    Args:
        failures: Raised by the first calls, one by each.
    """

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.batches: list[list[int]] = []

    def __call__(self, records: Sequence[RequestRecord]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append([record.status for record in records])


@pytest.fixture
def feed(captured: CapturedLog) -> RequestFeed:
    return RequestFeed(captured.log)


def put(feed: RequestFeed, numbers: Sequence[int]) -> None:
    """Put records that are told apart by their status."""
    for number in numbers:
        feed.put(RequestRecord(NOON, "id", "trace", "GET", "/x", "/x/", number, 0, 0.1))


def test_records_are_delivered_in_order_and_in_batches(feed: RequestFeed) -> None:
    subscriber = Subscriber()
    feed.subscribe("test", subscriber)

    put(feed, range(BATCH_MAX + 5))
    feed.flush()

    assert [len(batch) for batch in subscriber.batches] == [BATCH_MAX, 5]
    assert list(chain(*subscriber.batches)) == list(range(BATCH_MAX + 5))


def test_an_empty_queue_delivers_nothing(feed: RequestFeed) -> None:
    subscriber = Subscriber()
    feed.subscribe("test", subscriber)

    feed.flush()

    assert not subscriber.batches


def test_a_failing_subscriber_does_not_affect_the_others(feed: RequestFeed) -> None:
    first, second = Subscriber(RuntimeError("oops")), Subscriber()
    feed.subscribe("first", first)
    feed.subscribe("second", second)

    put(feed, [1, 2])
    feed.flush()

    assert (first.batches, second.batches) == ([], [[1, 2]])


def test_records_stay_queued_in_order_while_the_database_is_unavailable(feed: RequestFeed) -> None:
    subscriber = Subscriber(UnavailableError("away"))
    feed.subscribe("test", subscriber)
    put(feed, [1, 2])
    feed.flush()
    assert feed.stats() == {"test": FeedStats(delivered=0, dropped=0, waiting=2)}

    put(feed, [3])
    feed.flush()

    assert subscriber.batches == [[1, 2, 3]]
    assert feed.stats() == {"test": FeedStats(delivered=3, dropped=0, waiting=0)}


def test_a_batch_that_fails_is_dropped_and_logged(feed: RequestFeed, captured: CapturedLog) -> None:
    subscriber = Subscriber(ValueError("poison"))
    feed.subscribe("test", subscriber)
    put(feed, range(BATCH_MAX + 1))

    feed.flush()

    assert subscriber.batches == [[BATCH_MAX]]
    assert feed.stats() == {"test": FeedStats(delivered=1, dropped=BATCH_MAX, waiting=0)}
    (line,) = captured.events("request_feed_failed")
    assert (line["subscriber"], line["dropped"]) == ("test", BATCH_MAX)


def test_a_full_queue_drops_the_newest_and_counts_them(feed: RequestFeed) -> None:
    subscriber = Subscriber()
    feed.subscribe("test", subscriber)

    put(feed, range(QUEUE_MAX + 3))
    assert feed.stats() == {"test": FeedStats(delivered=0, dropped=3, waiting=QUEUE_MAX)}
    feed.flush()

    assert subscriber.batches[-1][-1] == QUEUE_MAX - 1


def test_put_never_blocks_on_a_subscriber(feed: RequestFeed) -> None:
    entered, release = threading.Event(), threading.Event()

    def hang(records: Sequence[RequestRecord]) -> None:
        entered.set()
        release.wait(10)

    feed.subscribe("test", hang)
    put(feed, [1])
    feed.start()
    assert entered.wait(5)

    started = time.monotonic()
    put(feed, range(100))
    took_s = time.monotonic() - started
    release.set()
    feed.stop()

    assert took_s < 1


def test_concurrent_flushes_deliver_no_record_twice(feed: RequestFeed) -> None:
    taken: list[int] = []
    inside = threading.Barrier(2, timeout=0.2)

    def deliver(records: Sequence[RequestRecord]) -> None:
        # Were another one let in at the same time, it would meet us here with the same batch.
        with pytest.raises(threading.BrokenBarrierError):
            inside.wait()
        taken.extend(record.status for record in records)

    feed.subscribe("test", deliver)
    put(feed, [1, 2])
    other = threading.Thread(target=feed.flush)
    other.start()
    feed.flush()
    other.join()

    assert taken == [1, 2]


def test_stopping_delivers_what_is_queued(feed: RequestFeed) -> None:
    subscriber = Subscriber()
    feed.start()
    feed.subscribe("test", subscriber)
    put(feed, [1])

    feed.stop()

    assert subscriber.batches == [[1]]
    assert not feed.stats()
