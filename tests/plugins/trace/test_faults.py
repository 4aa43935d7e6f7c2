"""What fails at Notion, or on the way: tried again where that may help, given up at once where it cannot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kernel import Database
from plugins.trace.notion.errors import NotionError
from tests.applications import warning_of
from tests.conftest import Serve
from tests.notion.calls import Fault
from tests.notion.faults import (
    cut,
    dropped,
    failing,
    foreign,
    held,
    limited,
    meanwhile,
    once,
    overloaded,
    queries,
    refusing_cursor,
    times,
    trickling,
)
from tests.notion.server import FakeNotion
from tests.plugins.trace.asking import GaveUpError, Waits, asking
from tests.plugins.trace.exports import Specifications, keys_of, refresh, refresh_in_vain, serve_trace

TRANSIENT: dict[str, Fault] = {
    "rate limited": limited(),
    "rate limited, no wait": limited(0),
    "overloaded": overloaded(),
    "overloaded, no wait": overloaded(0),
    "500": failing(500, "internal_server_error"),
    "503": failing(503, "service_unavailable"),
    "503 of a database": failing(503, "database_connection_unavailable"),
    "504": failing(504, "gateway_timeout"),
    "conflict": failing(409, "conflict_error"),
    "502 of a proxy": foreign(502),
    "500 of a proxy": foreign(500, b""),
    "429 of a proxy": foreign(429),
    "408 of a proxy": foreign(408),
    "cut in the middle": cut(40),
    "cut before the body": cut(0),
    "cut before the answer": dropped,
    "no JSON": foreign(200, b"<html>Please log in</html>"),
    "no text": foreign(200, b"\xff\xfe\x00"),
    "half a JSON": foreign(200, b'{"object": "list", "results": ['),
    "another object": foreign(200, b'{"object": "error"}'),
    "no object": foreign(200, b"[]"),
    "no rows": foreign(200, b'{"object": "list"}'),
    "rows that are none": foreign(200, b'{"object": "list", "results": null}'),
}
FINAL: dict[str, tuple[Fault, str]] = {
    "401": (failing(401, "unauthorized", "API token is invalid."), "NOTION_TOKEN is wrong, or was revoked"),
    "403": (failing(403, "restricted_resource"), "the connection lacks a capability"),
    "404": (failing(404, "object_not_found"), "not shared with the connection"),
    "400": (failing(400, "validation_error", "body.sorts is wrong."), "body.sorts is wrong."),
    "400 without a version": (failing(400, "missing_version"), "missing_version"),
    "404 of a proxy": (foreign(404), "answered 404, and not in Notion's words"),
    "403 of a proxy": (foreign(403), "answered 403, and not in Notion's words"),
    "redirected": (foreign(302), "answered 302"),
}


@pytest.fixture
def db(serve: Serve) -> Database:
    """The database of a service that has the plugin."""
    return serve(plugins=["system", "trace"]).service.registry.services["trace"].db


@pytest.mark.parametrize("name", TRANSIENT)
def test_what_passes_is_tried_again(
    db: Database, notion: FakeNotion, specifications: Specifications, name: str
) -> None:
    notion.faults.append(once(TRANSIENT[name]))

    with asking(db, notion) as api:
        rows = api.query(specifications.features.id)["results"]

    assert (len(rows), api.requests, api.retries) == (3, 2, 1)


@pytest.mark.parametrize("name", FINAL)
def test_what_does_not_pass_is_given_up_at_once_and_named(
    db: Database, notion: FakeNotion, specifications: Specifications, name: str
) -> None:
    fault, words = FINAL[name]
    notion.faults.append(fault)

    with asking(db, notion) as api, pytest.raises(NotionError, match=words) as caught:
        api.query(specifications.features.id)

    assert (api.requests, caught.value.retry) == (1, False)


def test_what_goes_on_failing_is_given_up_in_the_end(
    db: Database, notion: FakeNotion, specifications: Specifications
) -> None:
    waits = Waits()
    notion.faults.append(failing(500, "internal_server_error"))

    with asking(db, notion, waits, retries=3) as api, pytest.raises(NotionError, match="tried 4 times") as caught:
        api.data_source(specifications.features.id)

    assert (api.requests, api.retries, caught.value.retry) == (4, 3, True)
    assert [seconds / 0.01 for seconds in waits.asked_s] == [
        pytest.approx(0.75, abs=0.25),
        pytest.approx(1.5, abs=0.5),
        pytest.approx(3.0, abs=1.0),
    ]


def test_a_page_that_a_proxy_does_not_find_is_not_gone(
    db: Database, notion: FakeNotion, specifications: Specifications
) -> None:
    page_id = next(iter(specifications.features.pages))
    notion.faults.append(foreign(404))

    with asking(db, notion) as api, pytest.raises(NotionError) as caught:
        api.page(page_id)

    assert caught.value.kind == "refused"


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Set at the end: answers that are held until then do not outlive the test."""
    event = threading.Event()
    yield event
    event.set()


def test_an_answer_that_does_not_come_is_asked_for_again(
    db: Database, notion: FakeNotion, specifications: Specifications, released: threading.Event
) -> None:
    notion.faults.append(once(held(released)))

    with asking(db, notion, timeout_s=0.2) as api:
        found = api.data_source(specifications.features.id)

    assert (found["id"], api.requests) == (specifications.features.id, 2)


def test_an_answer_that_never_ends_is_asked_for_again(
    db: Database, notion: FakeNotion, specifications: Specifications
) -> None:
    notion.faults.append(once(trickling(0.05)))
    began_s = time.monotonic()

    with asking(db, notion, timeout_s=0.3) as api:
        found = api.data_source(specifications.features.id)

    assert (found["id"], api.requests) == (specifications.features.id, 2)
    assert time.monotonic() - began_s < 3


def test_who_is_told_to_stop_does_not_wait_for_the_rest_of_an_answer(
    db: Database, notion: FakeNotion, specifications: Specifications
) -> None:
    notion.faults.append(trickling(0.05))
    began_s = time.monotonic()

    def stop_soon(_seconds: float) -> None:
        if time.monotonic() - began_s > 0.2:
            raise GaveUpError

    with asking(db, notion, stop_soon, timeout_s=60) as api, pytest.raises(GaveUpError):
        api.data_source(specifications.features.id)

    assert time.monotonic() - began_s < 3


def test_an_export_goes_on_through_a_storm_and_says_what_it_took(
    serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    client = serve_trace(serve, notion, specifications.sources())
    faults = [limited(), overloaded(), foreign(502), cut(), dropped]
    notion.faults += [times(2, fault, after=4 * index) for index, fault in enumerate(faults)]

    certificate = refresh(client)

    assert keys_of(client, "features") == ["feature-0", "feature-1", "feature-2"]
    assert certificate.retries == 10
    assert certificate.requests == len(notion.calls)
    assert certificate.received_bytes > 5_000
    assert 0 < certificate.duration_s < 30


def test_a_cursor_that_is_refused_does_not_end_a_walk(
    serve: Serve, notion: FakeNotion, specifications: Specifications
) -> None:
    for number in range(20):
        specifications.workspace.add_page(specifications.features, {"Name": f"More {number}"})
    notion.querying.page_max = 4
    notion.faults.append(once(refusing_cursor, queries(specifications.features.id), after=3))
    client = serve_trace(serve, notion, specifications.sources())

    certificate = refresh(client)

    assert {each.dataset: each.items for each in certificate.datasets}["features"] == 23


Change = Callable[[Specifications], object]
REFUSED: dict[str, tuple[Change, str]] = {
    "a column is deleted": (lambda made: made.workspace.remove_column(made.features, "Area"), "Area"),
    "a column gets another type": (lambda made: made.workspace.change_type(made.features, "Area", "checkbox"), "Area"),
    "a data source is deleted": (lambda made: made.workspace.remove_data_source(made.features), "not shared"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_an_export_wrong_between_two_pages_is_refused(
    serve: Serve, notion: FakeNotion, specifications: Specifications, name: str
) -> None:
    change, words = REFUSED[name]
    client = serve_trace(serve, notion, specifications.sources())
    refresh(client)
    notion.querying.page_max = 1
    notion.faults.append(once(meanwhile(lambda: change(specifications)), queries(specifications.features.id), after=1))

    reason = refresh_in_vain(client, "features", full=True)

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
    "a row is thrown away": (
        lambda made: made.workspace.trash(next(iter(made.features.pages.values()))),
        ["feature-1", "feature-2"],
    ),
    "a row is made": (
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
def test_what_happens_between_two_pages_is_in_the_export(
    serve: Serve, notion: FakeNotion, specifications: Specifications, name: str, full: bool
) -> None:
    change, keys = ALLOWED[name]
    client = serve_trace(serve, notion, specifications.sources())
    refresh(client)
    notion.querying.page_max = 1
    notion.faults.append(once(meanwhile(lambda: change(specifications)), queries(specifications.features.id), after=1))

    refresh(client, full=full)

    assert keys_of(client, "features") == keys
    assert {item.area for item in client.service.shared.datasets.read("features").items} == {"flow"}
