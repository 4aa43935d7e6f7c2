"""A latency that was not measured is absent from every answer: null, and in no average, percentile or filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from kernel.testing import Client
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import every_engine
from tests.plugins.observability.events import ROOT, listed, make_event, post_ingest, unique_service

pytestmark = every_engine

DAY = "start=2025-12-14&end=2025-12-14"
# Every way to the figures of a day: exact or approximate, from events or from rollups.
WAYS = ("", "&approx=true", "&granularity=daily", "&method=GET", "&endpoint=/api/v1/invoices&approx=true")


def store(client: Client, latencies: Sequence[int | None], **fields: Any) -> str:
    """Store an event of each latency in a service of their own; return its name."""
    service = unique_service()
    events = [make_event(service=service, latency_ms=latency_ms, **fields) for latency_ms in latencies]
    assert post_ingest(client, events).json()["inserted"] == len(latencies)
    return service


def figures(client: Client, service: str) -> list[tuple[Any, ...]]:
    """Return the hits, average and maximum in every answer on the day of a service."""
    names = ("hits", "avg_latency_ms", "max_latency_ms")
    found = [client.get(f"{ROOT}kpis/?{DAY}&service={service}{way}").json() for way in WAYS]
    for name in ("top-endpoints", "hourly", "daily"):
        found += client.get(f"{ROOT}{name}/?{DAY}&service={service}").json()
    steps = client.get(f"{ROOT}timeseries/?{DAY}&service={service}").json()["steps"]
    found += [step for step in steps if step["hits"]]
    assert len(found) == len(WAYS) + 4
    return [tuple(each[name] for name in names) for each in found]


def p95s(client: Client, service: str, query: str = "") -> list[Any]:
    """Return the 95th percentile in every answer on the day of a service that has one."""
    query = f"{DAY}&service={service}{query}"
    found = [client.get(f"{ROOT}kpis/?{query}").json()]
    for name in ("top-endpoints/?with_p95=true&", "top-endpoints/?sort_by=p95_latency_ms&", "daily/?"):
        found += client.get(f"{ROOT}{name}{query}").json()
    steps = client.get(f"{ROOT}timeseries/?{query}&percentiles=95").json()["steps"]
    return [*(each["p95_latency_ms"] for each in found), *(s["percentiles_ms"]["95"] for s in steps if s["hits"])]


def test_averages_and_percentiles_leave_it_out_before_and_after_a_refresh(shared: Client) -> None:
    service = store(shared, [10, None, 20, None, None])

    for _ in ("from events", "from rollups"):
        assert set(figures(shared, service)) == {(5, 15.0, 20)}
        assert set(p95s(shared, service)) == {19.5}
        assert p95s(shared, service, "&approx=true") == [pytest.approx(19.5, rel=0.01)] * 5
        container_of(shared).rollups.refresh()


@pytest.mark.parametrize("latencies", [[2, 2], [7], [1000, 1000, 1000, None]], ids=str)
def test_approximate_percentiles_of_equal_latencies_are_exact(shared: Client, latencies: list[int | None]) -> None:
    service = store(shared, latencies)
    query = f"{DAY}&service={service}&approx=true&percentiles=0,1,50,99.9,100"

    for _ in ("from events", "from rollups"):
        assert set(p95s(shared, service, "&approx=true")) == {latencies[0]}
        for path in ("kpis/?group_by=method", "top-endpoints/?sort_by=p99", "hourly/?limit=9", "daily/?limit=9"):
            answer = shared.get(f"{ROOT}{path}&{query}").json()
            rows = answer if isinstance(answer, list) else [answer, *answer["groups"]]
            figures = {value for row in rows for name, value in row.items() if name[0] == "p" and name.endswith("_ms")}
            assert figures - {None} == {latencies[0]}, path
        steps = shared.get(f"{ROOT}timeseries/?{query}").json()["steps"]
        assert {ms for step in steps if step["hits"] for ms in step["percentiles_ms"].values()} == {latencies[0]}
        container_of(shared).rollups.refresh()


def test_where_no_latency_was_measured_there_is_no_figure(shared: Client) -> None:
    service = store(shared, [None, None])

    for _ in ("from events", "from rollups"):
        assert set(figures(shared, service)) == {(2, None, None)}
        assert {*p95s(shared, service), *p95s(shared, service, "&approx=true")} == {None}
        container_of(shared).rollups.refresh()


def test_an_edit_takes_a_latency_away_and_gives_one(shared: Client) -> None:
    service = store(shared, [10, None, 40])
    first, second, third = (event["id"] for event in listed(shared, f"service={service}&ordering=latency_ms"))
    container_of(shared).rollups.refresh()

    shared.request("PATCH", f"{ROOT}{first}/", json={"latency_ms": None})
    shared.request("PATCH", f"{ROOT}{third}/", json={"latency_ms": 20})

    assert shared.get(f"{ROOT}{second}/").json()["latency_ms"] == 40
    for _ in ("from events", "from rollups"):
        assert set(figures(shared, service)) == {(3, 30.0, 40)}
        container_of(shared).rollups.refresh()


def test_lists_have_it_last_in_either_direction_and_no_filter_matches_it(shared: Client) -> None:
    service = store(shared, [3, None, 1])

    def latencies(query: str) -> list[Any]:
        return [event["latency_ms"] for event in listed(shared, f"service={service}&{query}")]

    assert latencies("ordering=latency_ms") == [1, 3, None]
    assert latencies("ordering=-latency_ms") == [3, 1, None]
    assert latencies("latency_min=0&ordering=latency_ms") == [1, 3]
    assert latencies(f"latency_max={2**31 - 1}&ordering=latency_ms") == [1, 3]


def test_endpoints_without_one_are_ranked_last_in_either_direction(shared: Client) -> None:
    service = unique_service()
    latencies = {"/absent": None, "/fast": 1, "/slow": 9}
    post_ingest(shared, [make_event(service=service, endpoint=each, latency_ms=ms) for each, ms in latencies.items()])

    for sort_by in ("avg_latency_ms", "max_latency_ms", "p95_latency_ms"):
        for direction, expected in (("asc", ["/fast", "/slow", "/absent"]), ("desc", ["/slow", "/fast", "/absent"])):
            query = f"{DAY}&service={service}&sort_by={sort_by}&direction={direction}"
            rows = shared.get(f"{ROOT}top-endpoints/?{query}").json()
            assert [row["endpoint"] for row in rows] == expected, (sort_by, direction)


def test_an_export_can_be_ingested_again(shared: Client) -> None:
    service = store(shared, [7, None])
    exported = shared.get(f"{ROOT}export/?format=ndjson&service={service}").content
    events = [msgspec.json.decode(line) for line in exported.splitlines()[:-1]]
    csv = shared.get(f"{ROOT}export/?format=csv&service={service}").content

    copies = [{**event, "service": f"{service}-copy"} for event in events]
    post_ingest(shared, copies)

    again = listed(shared, f"service={service}-copy&ordering=latency_ms")
    assert [event["latency_ms"] for event in again] == [7, None]
    assert sorted(line.split(b",")[6] for line in csv.splitlines()[1:-1]) == [b"", b"7"]


def test_events_that_differ_in_it_alone_are_not_taken_for_each_other(shared: Client) -> None:
    service = unique_service()
    events = [make_event(service=service, latency_ms=latency_ms) for latency_ms in (0, None)]

    answers = [shared.post(f"{ROOT}ingest/", events, headers={"Idempotency-Key": service}).json() for _ in range(2)]

    assert [(answer["inserted"], answer["duplicates"]) for answer in answers] == [(2, 0), (0, 2)]


def test_it_must_be_said(shared: Client) -> None:
    answer = shared.post(ROOT, make_event(latency_ms=...))

    assert (answer.status, answer.json()["errors"]) == (400, {"latency_ms": ["This field is required."]})
