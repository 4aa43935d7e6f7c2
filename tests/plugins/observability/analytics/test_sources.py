"""The source of answers, and how exact they say they are."""

from __future__ import annotations

import pytest

from kernel.testing import Client
from tests.plugins.observability.analytics.factories import WINDOW, ask, ingest_hourly_events
from tests.plugins.observability.analytics.oracle import percentile_cont
from tests.plugins.observability.engines import every_engine

pytestmark = every_engine


@pytest.fixture(scope="module")
def client(shared: Client) -> Client:
    """A service with an event an hour over four days, and clean rollups."""
    ingest_hourly_events(shared)
    return shared


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("hourly/?", "hourly"),
        ("daily/?", "daily"),
        ("top-endpoints/?", "daily"),
        ("top-endpoints/?granularity=hourly", "hourly"),
        ("top-endpoints/?method=GET", "raw"),
        ("top-endpoints/?sort_by=p95_latency_ms", "raw"),
        ("top-endpoints/?sort_by=p95_latency_ms&approx=true", "daily"),
    ],
)
def test_lists_name_their_source_in_a_header(client: Client, path: str, source: str) -> None:
    assert ask(client, f"{path}&{WINDOW}").headers["x-source"] == source


def test_percentiles_are_exact_unless_approx_is_given(client: Client) -> None:
    expected = [percentile_cont([10 * number for number in range(96)], each) for each in (95, 50, 99.9)]

    exact = ask(client, f"kpis/?{WINDOW}&percentiles=50,99.9").json()
    approx = ask(client, f"kpis/?{WINDOW}&percentiles=50,99.9&approx=true").json()

    assert [exact["p95_latency_ms"], *(each["value_ms"] for each in exact["percentiles"])] == expected
    assert {(each["basis"], each["max_relative_error"]) for each in exact["percentiles"]} == {("raw", 0.0)}
    assert "p95_max_relative_error" not in exact
    found = [approx["p95_latency_ms"], *(each["value_ms"] for each in approx["percentiles"])]
    assert found == [pytest.approx(value, rel=0.01) for value in expected]
    assert {(each["basis"], each["max_relative_error"]) for each in approx["percentiles"]} == {("rollup", 0.01)}
    assert approx["p95_max_relative_error"] == 0.01


@pytest.mark.parametrize("name", ["daily", "top-endpoints"])
def test_lists_name_the_bound_of_their_percentiles_in_a_header(client: Client, name: str) -> None:
    more = "" if name == "daily" else "&with_p95=true"

    exact, approx = (ask(client, f"{name}/?{WINDOW}{more}{query}") for query in ("", "&approx=true"))

    assert "x-p95-max-relative-error" not in exact.headers
    assert approx.headers["x-p95-max-relative-error"] == "0.01"


def test_percentiles_of_endpoints_are_given_on_request_only(client: Client) -> None:
    plain = ask(client, f"top-endpoints/?{WINDOW}&limit=2").json()
    shown = ask(client, f"top-endpoints/?{WINDOW}&limit=2&with_p95=true").json()
    everyone = ask(client, f"top-endpoints/?{WINDOW}&with_p95=true").json()

    assert [row["p95_latency_ms"] for row in plain] == [None, None]
    assert shown == everyone[:2]
    assert all(row["p95_latency_ms"] > 0 for row in everyone)


@pytest.mark.parametrize("filters", ["", "&service=a", "&service=a&endpoint=/0"])
def test_rollups_count_errors_from_any_status(client: Client, filters: str) -> None:
    given = {hour: 500 if hour % 5 == 0 else 404 if hour % 7 == 0 else 200 for hour in range(96)}
    asked = [hour for hour in given if not filters or (hour % 2 == 0 and ("endpoint" not in filters or hour % 3 == 0))]

    for error_from in (100, 199, 200, 201, 403, 404, 405, 500, 501, 599):
        for granularity in ("hourly", "daily"):
            query = f"{WINDOW}{filters}&error_from={error_from}&granularity={granularity}&approx=true"
            found = ask(client, f"kpis/?{query}").json()
            assert (found["source"], found["hits"]) == (granularity, len(asked)), query
            assert found["errors"] == sum(given[hour] >= error_from for hour in asked), query
