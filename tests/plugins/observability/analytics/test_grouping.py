"""Groups: by which dimensions, in what order, with which percentiles. That figures are right, test_properties shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kernel import InvalidError
from kernel.testing import Client, make_configuration, running
from plugins.observability.analytics.grouping import Ranking, parse_sort_key, percentile_field
from tests.conftest import Serve
from tests.plugins.observability.analytics.factories import container_of, ingest
from tests.plugins.observability.engines import TestedEngine, every_engine, every_server, one_engine, run_statement
from tests.plugins.observability.events import ROOT, make_event

pytestmark = every_engine

APPLICATIONS = "tests.plugins.observability.analytics.applications"
WINDOW = "start=2025-12-14&end=2025-12-14"
# By service: latencies of its requests. A quarter of those to billing fail.
LATENCIES = {"billing": [10, 20, 30, 1000], "store": [50, 50], "other": [400]}


@pytest.fixture(scope="module")
def client(engine: TestedEngine, module_database: str) -> Iterator[Client]:
    """A service with two applications, and events that rollups include."""
    configuration = make_configuration(
        db=engine.settings(module_database),
        plugins=["system", "observability", APPLICATIONS],
        log={"level": "error", "requests": False},
        observability={"log_own_requests": False},
    )
    events = [
        make_event(
            service=service,
            endpoint=f"/{position % 2}",
            method="POST" if position == 3 else "GET",
            status_code=500 if position == 3 else 200,
            latency_ms=latency_ms,
            time=f"2025-12-14T{position:02}:30:00Z",
        )
        for service, latencies in LATENCIES.items()
        for position, latency_ms in enumerate(latencies)
    ]
    with running(configuration) as started:
        ingest(started, events)
        container_of(started).rollups.refresh()
        yield started


def ask(client: Client, query: str, name: str = "kpis") -> Any:
    answer = client.get(f"{ROOT}{name}/?{WINDOW}&{query}")
    assert answer.status == 200, answer.content
    return answer.json()


def errors_of(client: Client, query: str, name: str = "kpis") -> Any:
    answer = client.get(f"{ROOT}{name}/?{WINDOW}&{query}")
    assert answer.status == 400, answer.content
    return answer.json()["errors"]


@pytest.mark.parametrize(
    ("group_by", "groups"),
    [
        ("service", [{"service": "billing"}, {"service": "store"}, {"service": "other"}]),
        ("endpoint", [{"endpoint": "/0"}, {"endpoint": "/1"}]),
        ("method", [{"method": "GET"}, {"method": "POST"}]),
        ("status", [{"status_code": 200}, {"status_code": 500}]),
        ("application", [{"application": "shop"}, {"application": None}]),
        ("method,status", [{"method": "GET", "status_code": 200}, {"method": "POST", "status_code": 500}]),
        ("status,status_code", [{"status_code": 200}, {"status_code": 500}]),
    ],
)
def test_groups_have_the_dimensions_asked_for(client: Client, group_by: str, groups: list[dict[str, Any]]) -> None:
    for name in ("kpis", "timeseries", "top-endpoints"):
        found = ask(client, f"group_by={group_by}", name)
        rows = found if name == "top-endpoints" else found["groups"]
        assert [dict(list(row.items())[: len(groups[0])]) for row in rows] == groups, name
        assert sum(row["hits"] for row in rows) == 7, name


def test_kpis_of_groups_have_the_members_of_all(client: Client) -> None:
    found = ask(client, "group_by=service&sort_by=error_rate&percentiles=50,99.9")

    assert found["hits"] == 7
    assert found["groups"][0] == {
        "service": "billing",
        "hits": 4,
        "errors": 1,
        "error_rate": 0.25,
        "avg_latency_ms": 265.0,
        "p50_latency_ms": 25.0,
        "p95_latency_ms": pytest.approx(854.5),
        "p99_9_latency_ms": pytest.approx(997.09),
        "max_latency_ms": 1000,
    }
    assert [member for member in found if member in found["groups"][0]] == list(found["groups"][0])[1:]


def test_a_service_of_two_applications_counts_for_each_and_other_names_do_not(client: Client) -> None:
    assert [row["hits"] for row in ask(client, "group_by=application")["groups"]] == [6, 1]
    narrowed = ask(client, "group_by=application,service&application=shop")["groups"]
    assert [(row["application"], row["service"]) for row in narrowed] == [("shop", "billing"), ("shop", "store")]
    exact, approximate = (ask(client, f"group_by=application&approx={each}")["groups"] for each in ("false", "true"))
    for row, other in zip(exact, approximate, strict=True):
        assert other["p95_latency_ms"] == pytest.approx(row["p95_latency_ms"], rel=0.01)


@pytest.mark.parametrize("approx", ["false", "true"])
@pytest.mark.parametrize(
    ("sort_by", "direction", "services"),
    [
        ("p99", "desc", ["billing", "other", "store"]),
        ("p99.9", "asc", ["store", "other", "billing"]),
        ("p50_latency_ms", "desc", ["other", "store", "billing"]),
        ("p99_9_latency_ms", "desc", ["billing", "other", "store"]),
        ("avg", "desc", ["other", "billing", "store"]),
        ("max", "asc", ["store", "other", "billing"]),
    ],
)
def test_groups_are_ranked_by_any_percentile(
    client: Client, sort_by: str, direction: str, services: list[str], approx: str
) -> None:
    query = f"group_by=service&sort_by={sort_by}&direction={direction}&approx={approx}"

    for name in ("kpis", "timeseries", "top-endpoints"):
        found = ask(client, query, name)
        rows = found if name == "top-endpoints" else found["groups"]
        assert [row["service"] for row in rows] == services, name


def test_the_percentile_that_ranks_is_shown(client: Client) -> None:
    answer = client.get(f"{ROOT}top-endpoints/?{WINDOW}&sort_by=p99&limit=1")

    (row,) = answer.json()
    assert (row["service"], row["endpoint"]) == ("billing", "/1")
    assert row["p99_latency_ms"] == pytest.approx(990.2)
    assert row["p95_latency_ms"] is None
    assert answer.headers["x-source"] == "raw"


def test_the_bound_of_further_percentiles_has_a_header(client: Client) -> None:
    headers = {
        query: client.get(f"{ROOT}top-endpoints/?{WINDOW}&{query}").headers
        for query in ("percentiles=99", "percentiles=99&approx=true", "with_p95=true&approx=true")
    }

    bounds = ("x-p95-max-relative-error", "x-percentiles-max-relative-error")
    assert [tuple(found.get(name) for name in bounds) for found in headers.values()] == [
        (None, None),
        (None, "0.01"),
        ("0.01", None),
    ]


@pytest.mark.parametrize("approx", ["false", "true"])
@pytest.mark.parametrize("name", ["hourly", "daily"])
def test_rows_by_bucket_have_percentiles(client: Client, name: str, approx: str) -> None:
    rows = ask(client, f"service=billing&endpoint=/1&percentiles=50,99&approx={approx}", name)

    found = [(row["p50_latency_ms"], row["p99_latency_ms"]) for row in rows]
    expected = [(1000, 1000), (20, 20)] if name == "hourly" else [(510, 990.2)]
    assert found == [pytest.approx(pair, rel=0.01 if approx == "true" else 1e-9) for pair in expected]
    assert ("p95_latency_ms" in rows[0]) == (name == "daily")


def test_statuses_are_counted_by_rollups_which_have_no_latencies_of_them(client: Client) -> None:
    exact, counted = (ask(client, f"group_by=status&approx={each}") for each in ("false", "true"))

    assert (exact["source"], counted["source"]) == ("raw", "hourly")
    assert [(row["hits"], row["errors"]) for row in counted["groups"]] == [(6, 0), (1, 1)]
    assert [row["max_latency_ms"] for row in exact["groups"]] == [400, 1000]
    for name in ("avg_latency_ms", "p95_latency_ms", "max_latency_ms"):
        assert [row[name] for row in counted["groups"]] == [None, None], name
    assert errors_of(client, "group_by=status&approx=true&sort_by=p99") == {
        "sort_by": ["Rollups know no latencies by status: expected hits, errors or error_rate, got 'p99'."]
    }


def test_groups_are_limited(client: Client) -> None:
    for name in ("kpis", "timeseries"):
        assert [row["service"] for row in ask(client, "group_by=service&limit=1", name)["groups"]] == ["billing"]


def test_a_group_of_a_time_series_has_every_step(client: Client) -> None:
    found = ask(client, "group_by=service&step=1h&percentiles=50", "timeseries")

    billing, store, _ = found["groups"]
    assert [step["start"] for step in store["steps"]] == [step["start"] for step in found["steps"]]
    assert [step["hits"] for step in billing["steps"]] == [1] * 4 + [0] * 20
    assert [step["percentiles_ms"]["50"] for step in store["steps"]] == [50.0, 50.0] + [None] * 22
    assert (billing["hits"], billing["errors"]) == (4, 1)


def test_too_many_steps_of_all_groups_are_rejected(client: Client) -> None:
    assert errors_of(client, "group_by=service&step=1m&limit=35", "timeseries") == {
        "limit": [
            "Expected at most 50000 steps of all groups, got 35 groups of 1440 steps: take a lower limit, a longer "
            "step or a shorter window."
        ]
    }
    assert ask(client, "group_by=service&step=1m&limit=34", "timeseries")


@every_server
def test_where_events_were_removed_groups_come_from_rollups(serve: Serve) -> None:
    client = serve(observability={"log_own_requests": False})
    ingest(client, [make_event(latency_ms=ms, status_code=ms) for ms in (200, 200, 500)])
    container_of(client).rollups.refresh()
    run_statement(client, "UPDATE observability.retention SET from_time = '2025-12-15 00:00Z' WHERE level = 'raw'")

    (service,) = ask(client, "group_by=service&percentiles=50")["groups"]
    statuses = ask(client, "group_by=status", "timeseries")["groups"]

    assert service["p50_latency_ms"] == pytest.approx(200, rel=0.01)
    assert [(row["status_code"], row["hits"], row["avg_latency_ms"]) for row in statuses] == [
        (200, 2, None),
        (500, 1, None),
    ]


@one_engine
@pytest.mark.parametrize(
    ("percentile", "field"),
    [(50.0, "p50"), (99.9, "p99_9"), (99.95, "p99_95"), (0.0, "p0"), (1e-7, "p0_0000001"), (100.0, "p100")],
)
def test_fields_are_named_after_percentiles(percentile: float, field: str) -> None:
    assert percentile_field(percentile) == f"{field}_latency_ms"
    assert parse_sort_key(field) == parse_sort_key(f"{field}_latency_ms") == percentile


def test_groups_without_a_figure_are_last_in_either_direction() -> None:
    figures = {("b",): 1.0, ("a",): None, (None,): 1.0, ("c",): 2.0}

    ranked = {way: Ranking(direction=way).rank(figures) for way in ("asc", "desc")}  # type: ignore[arg-type]

    assert ranked == {"asc": [("b",), (None,), ("c",), ("a",)], "desc": [("c",), ("b",), (None,), ("a",)]}


@pytest.mark.parametrize("text", ["p", "p-1", "p100.1", "p1e2", "95", "p99,9", "latency", "P95", "p95_latency"])
def test_what_is_no_figure_is_no_sort_key(text: str) -> None:
    with pytest.raises(InvalidError, match="Some"):
        parse_sort_key(text)
