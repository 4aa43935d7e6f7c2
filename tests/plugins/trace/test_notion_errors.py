"""Errors of Notion and of the network: retried if they are transient, raised at once if they are not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kernel import Database
from plugins.trace.notion.errors import NotionError
from tests.applications import warning_of
from tests.conftest import Serve
from tests.notion.faults import (
    concurrently,
    delayed,
    disconnected,
    error_response,
    expired_cursor,
    is_query,
    once,
    overloaded,
    proxy_response,
    rate_limited,
    times,
    trickling,
    truncated,
)
from tests.notion.server import FakeNotion, Fault
from tests.plugins.trace.factories import Specifications, export, export_refused, keys_of, notion_client, serve_trace
from tests.plugins.trace.fakes import FakeSleep, StoppedError

pytestmark = pytest.mark.slow

TRANSIENT: dict[str, Fault] = {
    "rate limited": rate_limited(),
    "rate limited, no wait": rate_limited(0),
    "overloaded": overloaded(),
    "overloaded, no wait": overloaded(0),
    "500": error_response(500, "internal_server_error"),
    "503": error_response(503, "service_unavailable"),
    "503 of a database": error_response(503, "database_connection_unavailable"),
    "504": error_response(504, "gateway_timeout"),
    "conflict": error_response(409, "conflict_error"),
    "502 of a proxy": proxy_response(502),
    "500 of a proxy": proxy_response(500, b""),
    "429 of a proxy": proxy_response(429),
    "408 of a proxy": proxy_response(408),
    "closed in the middle": truncated(40),
    "closed before the body": truncated(0),
    "closed before the response": disconnected,
    "not JSON": proxy_response(200, b"<html>Please log in</html>"),
    "not text": proxy_response(200, b"\xff\xfe\x00"),
    "truncated JSON": proxy_response(200, b'{"object": "list", "results": ['),
    "an object of another type": proxy_response(200, b'{"object": "error"}'),
    "not an object": proxy_response(200, b"[]"),
    "no rows": proxy_response(200, b'{"object": "list"}'),
    "rows that are null": proxy_response(200, b'{"object": "list", "results": null}'),
}
FINAL: dict[str, tuple[Fault, str]] = {
    "401": (error_response(401, "unauthorized", "API token is invalid."), "NOTION_TOKEN is wrong, or was revoked"),
    "403": (error_response(403, "restricted_resource"), "the connection lacks a capability"),
    "404": (error_response(404, "object_not_found"), "not shared with the connection"),
    "400": (error_response(400, "validation_error", "body.sorts is wrong."), "body.sorts is wrong."),
    "400 without a version": (error_response(400, "missing_version"), "missing_version"),
    "404 of a proxy": (proxy_response(404), "answered 404, with a body that is not Notion's"),
    "403 of a proxy": (proxy_response(403), "answered 403, with a body that is not Notion's"),
    "redirected": (proxy_response(302), "answered 302"),
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_transient_error_is_retried(
    db: Database, notion: FakeNotion, specifications: Specifications, name: str
) -> None:
    notion.faults.append(once(TRANSIENT[name]))

    with notion_client(db, notion) as client:
        rows = client.query_data_source(specifications.features.id)["results"]

    assert (len(rows), client.request_count, client.retry_count) == (3, 2, 1)


@pytest.mark.parametrize("name", FINAL)
def test_a_permanent_error_is_raised_at_once_with_its_meaning(
    db: Database, notion: FakeNotion, specifications: Specifications, name: str
) -> None:
    fault, words = FINAL[name]
    notion.faults.append(fault)

    with notion_client(db, notion) as client, pytest.raises(NotionError, match=words) as caught:
        client.query_data_source(specifications.features.id)

    assert (client.request_count, caught.value.retry) == (1, False)


def test_an_error_that_persists_is_raised_after_the_last_retry(
    db: Database, notion: FakeNotion, specifications: Specifications
) -> None:
    waits = FakeSleep()
    notion.faults.append(error_response(500, "internal_server_error"))

    with (
        notion_client(db, notion, waits, retries=3) as client,
        pytest.raises(NotionError, match="tried 4 times") as caught,
    ):
        client.retrieve_data_source(specifications.features.id)

    assert (client.request_count, client.retry_count, caught.value.retry) == (4, 3, True)
    assert [seconds / 0.01 for seconds in waits.waits_s] == [
        pytest.approx(0.75, abs=0.25),
        pytest.approx(1.5, abs=0.5),
        pytest.approx(3.0, abs=1.0),
    ]


def test_a_404_from_a_proxy_does_not_mean_that_a_page_is_gone(
    db: Database, notion: FakeNotion, specifications: Specifications
) -> None:
    page_id = next(iter(specifications.features.pages))
    notion.faults.append(proxy_response(404))

    with notion_client(db, notion) as client, pytest.raises(NotionError) as caught:
        client.retrieve_page(page_id)

    assert caught.value.kind == "refused"


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Set at the end: responses that are delayed until then do not outlive the test."""
    event = threading.Event()
    yield event
    event.set()


def test_a_response_that_does_not_come_in_time_is_requested_again(
    db: Database, notion: FakeNotion, specifications: Specifications, released: threading.Event
) -> None:
    notion.faults.append(once(delayed(released)))

    with notion_client(db, notion, timeout_s=0.2) as client:
        found = client.retrieve_data_source(specifications.features.id)

    assert (found["id"], client.request_count) == (specifications.features.id, 2)


def test_a_response_that_never_ends_is_requested_again(
    db: Database, notion: FakeNotion, specifications: Specifications
) -> None:
    notion.faults.append(once(trickling(0.05)))
    began_s = time.monotonic()

    with notion_client(db, notion, timeout_s=0.3) as client:
        found = client.retrieve_data_source(specifications.features.id)

    assert (found["id"], client.request_count) == (specifications.features.id, 2)
    assert time.monotonic() - began_s < 3


def test_a_stop_does_not_wait_for_the_rest_of_a_response(
    db: Database, notion: FakeNotion, specifications: Specifications
) -> None:
    notion.faults.append(trickling(0.05))
    began_s = time.monotonic()

    def stop_soon(_seconds: float) -> None:
        if time.monotonic() - began_s > 0.2:
            raise StoppedError

    with notion_client(db, notion, stop_soon, timeout_s=60) as client, pytest.raises(StoppedError):
        client.retrieve_data_source(specifications.features.id)

    assert time.monotonic() - began_s < 3


def test_an_export_survives_many_transient_errors_and_reports_the_retries(
    serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources())
    faults = [rate_limited(), overloaded(), proxy_response(502), truncated(), disconnected]
    notion.faults += [times(2, fault, after=4 * index) for index, fault in enumerate(faults)]

    report = export(client)

    assert keys_of(client, "features") == ["feature-0", "feature-1", "feature-2"]
    assert report.retries == 10
    assert report.requests == len(notion.calls)
    assert report.received_bytes > 5_000
    assert 0 < report.duration_s < 30


def test_an_expired_cursor_does_not_end_an_export(
    serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    for number in range(20):
        specifications.workspace.add_page(specifications.features, {"Name": f"More {number}"})
    notion.query_engine.page_max = 4
    notion.faults.append(once(expired_cursor, is_query(specifications.features.id), after=3))
    client = serve_trace(serve, notion, specifications.sources())

    report = export(client)

    assert {each.dataset: each.items for each in report.datasets}["features"] == 23


Change = Callable[[Specifications], object]
REFUSED: dict[str, tuple[Change, str]] = {
    "a column is deleted": (lambda made: made.workspace.remove_column(made.features, "Area"), "Area"),
    "a column gets another type": (lambda made: made.workspace.change_type(made.features, "Area", "checkbox"), "Area"),
    "a data source is deleted": (lambda made: made.workspace.remove_data_source(made.features), "not shared"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_change_of_columns_or_data_sources_between_two_pages_refuses_the_export(
    serve: Serve, notion: FakeNotion, specifications: Specifications, name: str
) -> None:
    change, words = REFUSED[name]
    client = serve_trace(serve, notion, specifications.sources())
    export(client)
    notion.query_engine.page_max = 1
    notion.faults.append(
        once(concurrently(lambda: change(specifications)), is_query(specifications.features.id), after=1)
    )

    reason = export_refused(client, "features", full=True)

    assert words in reason
    assert keys_of(client, "features") == ["feature-0", "feature-1", "feature-2"]
    assert words in str(warning_of(client, "features"))


ALLOWED: dict[str, tuple[Change, list[str]]] = {
    "a column is renamed": (
        lambda made: made.workspace.rename(made.features, "Area", "Zone"),
        ["feature-0", "feature-1", "feature-2"],
    ),
    "a data source is added": (
        lambda made: add_feature(made, "Added"),
        ["added", "feature-0", "feature-1", "feature-2"],
    ),
    "a row is trashed": (
        lambda made: made.workspace.trash(next(iter(made.features.pages.values()))),
        ["feature-1", "feature-2"],
    ),
    "a row is added": (
        lambda made: made.workspace.add_page(made.features, {"Name": "Added", "Area": "flow"}),
        ["added", "feature-0", "feature-1", "feature-2"],
    ),
}


def add_feature(made: Specifications, name: str) -> None:
    """Add a data source with one row to the database of the features."""
    columns = {column.name: (column.type, column.config) for column in made.features.columns}
    source = made.workspace.add_data_source("More features", columns, made.features.database_id)
    made.workspace.add_page(source, {"Name": name, "Area": "flow"})


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", ALLOWED)
def test_a_change_of_rows_between_two_pages_is_in_the_export(
    serve: Serve, notion: FakeNotion, specifications: Specifications, name: str, full: bool
) -> None:
    change, keys = ALLOWED[name]
    client = serve_trace(serve, notion, specifications.sources())
    export(client)
    notion.query_engine.page_max = 1
    notion.faults.append(
        once(concurrently(lambda: change(specifications)), is_query(specifications.features.id), after=1)
    )

    export(client, full=full)

    assert keys_of(client, "features") == keys
    assert {item.area for item in client.service.shared.datasets.read("features").items} == {"flow"}
