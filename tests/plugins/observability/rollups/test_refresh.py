"""Refreshes: answers are the same before and after, on every engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kernel.testing import Client
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import TestedEngine, every_engine
from tests.plugins.observability.events import create, make_event, make_events, post_ingest

pytestmark = every_engine

WINDOW = "start=2025-12-14&end=2025-12-14"


def rows_of(client: Client, query: str) -> Sequence[tuple[Any, ...]]:
    with client.service.shared.db.connection() as connection:
        return connection.execute(query).fetchall()


def kpis(client: Client, query: str = "approx=true") -> dict[str, Any]:
    answer = client.get(f"/api/requests/kpis/?{WINDOW}&granularity=daily&{query}")
    assert answer.status == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def figures(client: Client) -> tuple[Any, ...]:
    """Return hits, errors, average and maximum latency, and the source."""
    found = kpis(client)
    return tuple(found[name] for name in ("hits", "errors", "avg_latency_ms", "max_latency_ms", "source"))


def test_the_service_says_which_engine_it_is_on(engine: TestedEngine, client: Client) -> None:
    assert client.get("/stats/").json()["engine"]["name"] == engine.name


def test_after_a_refresh_answers_come_from_rollups(client: Client) -> None:
    post_ingest(client, make_events(5))
    before = kpis(client)

    refreshed = container_of(client).rollups.refresh()

    after = kpis(client)
    assert (before["source"], after["source"], refreshed.hours) == ("hourly", "daily", 1)
    for name in ("hits", "errors", "avg_latency_ms", "max_latency_ms"):
        assert after[name] == before[name], name
    assert after["p95_latency_ms"] == pytest.approx(before["p95_latency_ms"], rel=0.01)


def test_late_events_show_before_and_after_the_next_refresh(client: Client) -> None:
    rollups = container_of(client).rollups
    post_ingest(client, make_events(2))
    rollups.refresh()
    post_ingest(client, [make_event(latency_ms=3, status_code=503)])

    late = figures(client)
    rollups.refresh()

    assert late == (3, 1, 4 / 3, 3, "hourly")
    assert figures(client) == (3, 1, 4 / 3, 3, "daily")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"latency_ms": 400, "status_code": 500}, (2, 1, 225.0, 400)),
        ({"time": "2003-01-01T00:00:00Z"}, (1, 0, 50.0, 50)),
        (None, (1, 0, 50.0, 50)),
    ],
    ids=["edited", "moved away", "deleted"],
)
def test_a_change_shows_before_and_after_the_next_refresh(
    client: Client, changes: dict[str, Any] | None, expected: tuple[Any, ...]
) -> None:
    rollups = container_of(client).rollups
    url = create(client, latency_ms=100)
    create(client, latency_ms=50, time="2025-12-14T15:00:00Z")
    rollups.refresh()
    method = "DELETE" if changes is None else "PATCH"
    assert client.request(method, url, json=changes).status in (200, 204)

    changed = figures(client)
    rollups.refresh()

    assert changed == (*expected, "hourly")
    assert figures(client) == (*expected, "daily")


def test_a_refresh_of_some_hours_leaves_the_others_to_the_events(client: Client) -> None:
    rollups = container_of(client).rollups
    for hour in ("03", "05", "20"):
        create(client, time=f"2025-12-14T{hour}:30:00Z", latency_ms=int(hour))
    (at,) = (hour for (hour,) in rows_of(client, "SELECT max(hour) FROM observability.rollup_touched"))

    refreshed = rollups.refresh(end=at)

    assert refreshed.hours == 2
    assert figures(client) == (3, 0, 28 / 3, 20, "hourly")
    assert [hour for (hour,) in rows_of(client, "SELECT hour FROM observability.rollup_touched")] == [at]


def test_filters_and_percentiles_are_answered_from_rollups(client: Client) -> None:
    events = [
        make_event(service=service, endpoint=f"/{service}/{number % 2}", method=method, latency_ms=number)
        for number in range(40)
        for service in ("a", "b")
        for method in ("GET", "POST")
    ]
    post_ingest(client, events)
    container_of(client).rollups.refresh()

    for query in ("service=A", "service=b&method=POST", "endpoint=/a/1", "endpoint=/b/0&method=get"):
        exact, approx = kpis(client, query), kpis(client, f"{query}&approx=true&percentiles=50,99")
        assert approx["source"] == "daily"
        assert approx["hits"] == exact["hits"] > 0
        assert approx["p95_latency_ms"] == pytest.approx(exact["p95_latency_ms"], rel=0.01)
        assert [each["basis"] for each in approx["percentiles"]] == ["rollup", "rollup"]
