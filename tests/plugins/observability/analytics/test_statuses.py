"""Filters by status, histograms of steps, and the share of requests up to a latency."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kernel.testing import Client, make_configuration, running
from tests.plugins.observability.analytics import oracle
from tests.plugins.observability.analytics.factories import container_of, ingest, random_events
from tests.plugins.observability.engines import TestedEngine, every_engine, every_server, run_statement
from tests.plugins.observability.events import ROOT, listed

pytestmark = every_engine

APPLICATIONS = "tests.plugins.observability.analytics.applications"
DAY = timedelta(days=1)
# Cuts hours and days, so that events are read beside both rollups.
START = datetime(2025, 12, 12, 7, 20, tzinfo=UTC)
END = datetime(2025, 12, 14, 16, 50, tzinfo=UTC)
WINDOW = f"start={START:%Y-%m-%dT%H:%M}&end={END:%Y-%m-%dT%H:%M}"
EVENTS = random_events(300)
STATUSES = {
    "status_code=500": range(500, 501),
    "status_class=5xx": range(500, 600),
    "status_class=4xx": range(400, 500),
    "status_code=404&status_class=4xx": range(404, 405),
    "status_code=404&status_class=5xx": range(0),
}


@pytest.fixture(scope="module")
def client(engine: TestedEngine, module_database: str) -> Iterator[Client]:
    """A service with an application, and events that rollups include."""
    configuration = make_configuration(
        db=engine.settings(module_database),
        plugins=["system", "observability", APPLICATIONS],
        log={"level": "error", "requests": False},
        observability={"log_own_requests": False},
    )
    with running(configuration) as started:
        ingest(started, EVENTS)
        container_of(started).rollups.refresh()
        yield started


def ask(client: Client, name: str, query: str) -> Any:
    answer = client.get(f"{ROOT}{name}/?{WINDOW}&{query}")
    assert answer.status == 200, answer.content
    return answer.json()


def chosen(statuses: range = range(600), **filters: str) -> list[oracle.Event]:
    events = oracle.matching(EVENTS, START, END, filters)
    return [event for event in events if event["status_code"] in statuses]


@pytest.mark.parametrize("filters", [{}, {"service": "billing"}, {"endpoint": "/a", "method": "GET"}])
def test_statuses_are_counted_alike_from_rollups_and_from_events(client: Client, filters: dict[str, str]) -> None:
    narrowed = "".join(f"&{name}={value}" for name, value in filters.items())
    for query, statuses in STATUSES.items():
        events = chosen(statuses, **filters)
        expected = oracle.summary(events, 450)
        counted = {name: expected[name] for name in ("hits", "errors", "error_rate")}
        for approx in (False, True):
            given = f"{query}{narrowed}&error_from=450&approx={str(approx).lower()}"
            kpis = ask(client, "kpis", given)
            steps = ask(client, "timeseries", f"{given}&step=5h")["steps"]
            services = ask(client, "top-endpoints", f"{given}&group_by=service,status")

            assert oracle.agrees(kpis, counted if approx else expected), (query, approx)
            assert kpis["p95_latency_ms"] is None or not approx
            assert {step["start"]: step["hits"] for step in steps if step["hits"]} == {
                step["start"]: step["hits"] for step in oracle.steps(events, timedelta(hours=5))
            }
            groups = oracle.groups(events, ("service", "status_code"), 450)
            assert sum(row["hits"] for row in services) == len(events)
            assert {row["status_code"] for row in services} == {row["status_code"] for row in groups}


def test_what_rollups_cannot_tell_by_status_is_said(client: Client) -> None:
    answer = client.get(f"{ROOT}top-endpoints/?{WINDOW}&status_class=5xx&sort_by=p99&approx=true")

    assert answer.status == 400
    assert "Rollups know no latencies by status" in answer.json()["errors"]["sort_by"][0]
    assert ask(client, "top-endpoints", "status_class=5xx&sort_by=p99")


@pytest.mark.parametrize("approx", ["true", "false"])
@pytest.mark.parametrize("step", ["30m", "1h", "1d"])
def test_histograms_hold_every_latency_once(client: Client, approx: str, step: str) -> None:
    found = ask(client, "timeseries", f"step={step}&histogram=true&approx={approx}&percentiles=50")
    bounds = found["histogram_bounds_ms"]
    latencies = [event["latency_ms"] for event in chosen()]

    assert all(len(each["histogram"]) == len(bounds) for each in found["steps"])
    assert all(sum(each["histogram"]) == each["hits"] for each in found["steps"])
    for position, bound in enumerate(bounds):
        below = sum(sum(each["histogram"][: position + 1]) for each in found["steps"])
        # Some are counted that took up to 2 % longer.
        assert sum(each <= bound for each in latencies) <= below <= sum(each <= bound * 1.02 for each in latencies)
    assert "histogram" not in ask(client, "timeseries", f"step={step}")["steps"][0]


@pytest.mark.parametrize("latency_ms", [0, 3, 500, 1999, 2**31 - 1])
def test_the_share_up_to_a_latency_is_found(client: Client, latency_ms: int) -> None:
    latencies = [event["latency_ms"] for event in chosen()]
    exact = ask(client, "kpis", f"latency_ms={latency_ms}")["latency_share"]
    approximate = ask(client, "kpis", f"latency_ms={latency_ms}&approx=true")["latency_share"]
    expected = sum(each <= latency_ms for each in latencies)

    assert (exact["hits"], exact["share"]) == (expected, expected / len(latencies))
    assert (exact["max_relative_error"], approximate["max_relative_error"]) == (0.0, 0.02)
    around = [sum(each <= latency_ms * factor for each in latencies) for factor in (1, 1.02)]
    assert around[0] <= approximate["hits"] <= around[1]
    assert "latency_share" not in ask(client, "kpis", "")


def test_lists_know_classes_of_statuses_and_applications(client: Client) -> None:
    of_class = listed(client, "status_class=4xx&page_size=1000")
    of_shop = listed(client, "application=shop&page_size=1000&count=estimated")

    assert len(of_class) == sum(event["status_code"] == 404 for event in EVENTS)
    assert len(of_shop) == sum(event["service"] == "billing" for event in EVENTS)
    assert listed(client, "application=idle") == []
    assert client.get(f"{ROOT}?application=nowhere").status == 404
    exported = client.get(f"{ROOT}export/?application=shop&status_class=4xx&format=ndjson").content
    expected = sum(event["service"] == "billing" and event["status_code"] == 404 for event in EVENTS)
    # The last line is the trailer.
    assert exported.count(b'"status_code":404') == exported.count(b"\n") - 1 == expected


def test_a_removal_keeps_to_an_application(client: Client) -> None:
    dry = client.request("DELETE", f"{ROOT}?application=shop&status_class=5xx&dry_run=true")
    nobody = client.request("DELETE", f"{ROOT}?application=idle&dry_run=true")

    assert dry.json()["matched"] == sum(e["service"] == "billing" and e["status_code"] == 500 for e in EVENTS)
    assert nobody.json()["matched"] == 0


@every_server
def test_without_events_rollups_still_count_statuses(engine: TestedEngine) -> None:
    with (
        engine.database() as url,
        running(make_configuration(db=engine.settings(url), log={"level": "error", "requests": False})) as client,
    ):
        ingest(client, EVENTS)
        container_of(client).rollups.refresh()
        run_statement(client, "UPDATE observability.retention SET from_time = '2025-12-15Z' WHERE level = 'raw'")

        found = client.get(f"{ROOT}kpis/?start=2025-12-12&end=2025-12-14&status_code=500&latency_ms=100").json()

    assert found["hits"] == sum(event["status_code"] == 500 for event in EVENTS)
    assert (found["p95_latency_ms"], found["avg_latency_ms"], found["latency_share"]["share"]) == (None, None, None)
