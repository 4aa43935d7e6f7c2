"""``services/`` and ``endpoints/``: what has events, and since when and until when."""

from __future__ import annotations

from typing import Any

import pytest

from kernel.testing import Client
from tests.conftest import Serve
from tests.plugins.observability.analytics.factories import container_of, ingest
from tests.plugins.observability.engines import every_engine, every_server, run_statement
from tests.plugins.observability.events import ROOT, make_event

pytestmark = every_engine

EVENTS = [
    make_event(service="shop", endpoint="/cart", method="GET", time="2025-11-01T10:00:00.000001Z"),
    make_event(service="shop", endpoint="/cart", method="PUT", time="2025-12-14T10:20:00Z", status_code=500),
    make_event(service="shop", endpoint="/order", method="GET", time="2025-12-13T23:59:59.999999Z"),
    make_event(service="Auth", endpoint="/login", method="POST", time="2025-12-14T09:00:00Z"),
]
LATE = make_event(service="late", endpoint="/100%", method="GET", time="2025-12-14T10:30:00Z")


@pytest.fixture(scope="module")
def client(shared: Client) -> Client:
    """A service whose rollups include all events but the last."""
    ingest(shared, EVENTS)
    container_of(shared).rollups.refresh()
    ingest(shared, [LATE])
    return shared


def listed(client: Client, path: str) -> list[dict[str, Any]]:
    answer = client.get(f"{ROOT}{path}")
    assert answer.status == 200, answer.content
    rows: list[dict[str, Any]] = answer.json()["results"]
    return rows


def test_services_have_their_first_and_last_event(client: Client) -> None:
    assert listed(client, "services/?search=shop") == [
        {
            "service": "shop",
            "endpoints": 2,
            "hits": 3,
            "errors": 1,
            "error_rate": 0.3333,
            "first_seen": "2025-11-01T10:00:00.000001Z",
            "last_seen": "2025-12-14T10:20:00Z",
        }
    ]


def test_endpoints_of_a_service_have_their_methods(client: Client) -> None:
    cart, order = listed(client, "endpoints/?service=SHOP")

    assert cart == {
        "service": "shop",
        "endpoint": "/cart",
        "methods": ["GET", "PUT"],
        "hits": 2,
        "errors": 1,
        "error_rate": 0.5,
        "first_seen": "2025-11-01T10:00:00.000001Z",
        "last_seen": "2025-12-14T10:20:00Z",
    }
    assert (order["endpoint"], order["first_seen"], order["last_seen"]) == (
        "/order",
        *["2025-12-13T23:59:59.999999Z"] * 2,
    )


@pytest.mark.parametrize(
    ("query", "services"),
    [
        ("", ["Auth", "late", "shop"]),
        ("ordering=-service", ["shop", "late", "Auth"]),
        ("ordering=-hits", ["shop", "Auth", "late"]),
        ("ordering=first_seen", ["shop", "Auth", "late"]),
        ("ordering=-last_seen", ["late", "shop", "Auth"]),
        ("ordering=-error_rate,-service", ["shop", "late", "Auth"]),
        ("search=A", ["Auth", "late"]),
        ("search=h+a", ["Auth"]),
        ("search=%25", []),
        ("service=auth", ["Auth"]),
        ("endpoint=/cart", ["shop"]),
        ("application=skyflow", []),
        ("start=2025-12-14", ["Auth", "late", "shop"]),
        ("end=2025-11-30", ["shop"]),
        ("time_after=2025-12-14T10:20:00Z&time_before=2025-12-14T10:20:00Z", ["shop"]),
    ],
)
def test_services_are_searched_narrowed_and_ordered(client: Client, query: str, services: list[str]) -> None:
    assert [row["service"] for row in listed(client, f"services/?{query}")] == services


@pytest.mark.parametrize(
    ("search", "endpoints"), [("shop", ["/cart", "/order"]), ("SHOP+car", ["/cart"]), ("100%25", ["/100%"]), ("_", [])]
)
def test_endpoints_are_searched_by_either_name(client: Client, search: str, endpoints: list[str]) -> None:
    assert [row["endpoint"] for row in listed(client, f"endpoints/?search={search}")] == endpoints


def test_the_first_and_the_last_event_are_those_of_the_window(client: Client) -> None:
    (row,) = listed(client, "services/?service=shop&start=2025-12-01&end=2025-12-14T10:19:59Z")

    assert (row["hits"], row["first_seen"], row["last_seen"]) == (1, *["2025-12-13T23:59:59.999999Z"] * 2)


def test_lists_have_pages(client: Client) -> None:
    first = client.get(f"{ROOT}services/?page_size=2").json()
    second = client.get(f"{ROOT}services/?{first['next'].partition('?')[2]}").json()

    assert [first["count"], second["count"]] == [3, 3]
    assert [row["service"] for row in first["results"] + second["results"]] == ["Auth", "late", "shop"]
    beyond = client.get(f"{ROOT}services/?page_size=2&page=3")
    assert (second["next"], beyond.status, beyond.json()["detail"]) == (None, 404, "page 3")


@every_server
def test_what_has_lost_its_events_is_gone(serve: Serve) -> None:
    client = serve(observability={"log_own_requests": False})
    created = client.post(ROOT, make_event(service="gone")).json()
    container_of(client).rollups.refresh()
    assert listed(client, "services/")

    client.request("DELETE", f"{ROOT}{created['id']}/")

    assert listed(client, "services/") == []
    assert client.get(f"{ROOT}endpoints/").json()["count"] == 0


@every_server
def test_of_removed_events_the_hour_is_known_or_the_day(serve: Serve) -> None:
    client = serve(observability={"log_own_requests": False})
    ingest(client, [make_event(time="2025-12-10T10:20:00Z"), make_event(time="2025-12-14T10:20:00Z")])
    container_of(client).rollups.refresh()
    found = []
    for statement in (
        "DELETE FROM observability.event WHERE time < '2025-12-11 00:00Z'",
        "UPDATE observability.retention SET from_time = '2025-12-11 00:00Z' WHERE level = 'raw'",
        "DELETE FROM observability.rollup_hour WHERE bucket < '2025-12-11 00:00Z'",
        "UPDATE observability.retention SET from_time = '2025-12-11 00:00Z' WHERE level = 'hour'",
    ):
        run_statement(client, statement)
        if statement.startswith("UPDATE"):
            (row,) = listed(client, "services/")
            found.append((row["hits"], row["first_seen"], row["last_seen"]))

    assert found == [
        (2, "2025-12-10T10:00:00Z", "2025-12-14T10:20:00Z"),
        (2, "2025-12-10T00:00:00Z", "2025-12-14T10:20:00Z"),
    ]
