"""Filters and orderings of the list."""

from __future__ import annotations

from typing import Any

import pytest

from kernel.testing import Client
from tests.plugins.observability.engines import every_engine, one_engine
from tests.plugins.observability.events import ROOT, listed, make_event, post_ingest, short_id, unique_service

pytestmark = every_engine

# Told apart by latency_ms.
EVENTS: list[dict[str, Any]] = [
    make_event(latency_ms=1, service="billing", endpoint="/Pay", method="GET", time="2025-12-01T00:00:00Z"),
    make_event(latency_ms=2, service="Billing", endpoint="/pay", method="post", time="2025-12-02T00:00:00Z"),
    make_event(latency_ms=3, service="auth", endpoint="/login", method="POST", time="2025-12-03T10:00:00.5Z"),
    make_event(latency_ms=4, service="auth_v2", endpoint="/100%", trace_id="T-100%", time="2025-12-04T00:00:00Z"),
    make_event(latency_ms=5, service="authxv2", endpoint="/100", trace_id="t-100", time="2025-12-05T00:00:00Z"),
    make_event(latency_ms=6, service="ÄRGER", status_code=404, user_ref="Zoë\\", time="2025-12-06T00:00:00Z"),
    make_event(latency_ms=7, status_code=503, trace_id=None, user_ref=None, time="2025-12-07T00:00:00Z"),
]


@pytest.fixture(scope="module", autouse=True)
def stored(shared: Client) -> None:
    post_ingest(shared, EVENTS)


def latencies(client: Client, query: str) -> list[int]:
    return [event["latency_ms"] for event in listed(client, f"ordering=latency_ms&{query}")]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("service=billing", [1, 2, 7]),
        ("service=BILLING&endpoint=/PAY", [1, 2]),
        ("endpoint=/pay&method=Post", [2]),
        ("method=post", [2, 3]),
        ("service=bill", []),
        ("service=auth_v2", [4]),
        ("service=%C3%A4rger", [6]),
        ("trace_id=T-100%25", [4]),
        ("trace_id=t-100%25", []),
        ("user_ref=Zo%C3%AB%5C", [6]),
        ("status_code=404", [6]),
        ("status_code__in=404,503", [6, 7]),
        ("status_code__in=404&status_code__in=503", [6, 7]),
        ("status_code__in=404,200&status_code=404", [6]),
        ("status_code=99", []),
        ("latency_min=3&latency_max=4", [3, 4]),
        ("latency_min=7", [7]),
        ("latency_min=5&latency_max=4", []),
        ("time_after=2025-12-06", [6, 7]),
        ("time_after=2025-12-06T00:00:00.000001Z", [7]),
        ("time_before=2025-12-02T00:00:00Z", [1, 2]),
        ("time_after=2025-12-03T12:00:00.5%2B02:00&time_before=2025-12-03T12:00:00.5%2B02:00", [3]),
        ("time_after=2025-12-03T12:00:00.5+02:00&time_before=2025-12-03T12:00:00.5+02:00", [3]),
        ("time_after=2025-12-03T12:00:00.5+02&time_before=2025-12-03T12:00:00.5+02", [3]),
        ("time_after=2025-12-06 00:00&time_before=2025-12-06+00:00", [6]),
        ("time_after=0001-01-01&time_before=9999-12-31", [1, 2, 3, 4, 5, 6, 7]),
        # A date alone is the whole day at either end.
        ("time_after=2025-12-02&time_before=2025-12-02", [2]),
        ("start=2025-12-02&end=2025-12-03", [2, 3]),
        ("time_after=2025-12-02&end=20251203", [2, 3]),
        ("start=2025-12-06&time_before=2025-12-06T00:00", [6]),
        ("search=PAY", [1, 2]),
        ("search=bill pay", [1, 2]),
        ("search=bill,pay", [1, 2]),
        ("search=auth%20t-1", [4, 5]),
        ("search=_", [4]),
        ("search=%25", [4]),
        ("search=100%25", [4]),
        ("search=%5C", [6]),
        ("search=%C3%A4rg", [6]),
        ("search=zo%C3%8B", [6]),
        ("search=", [1, 2, 3, 4, 5, 6, 7]),
        ("search=user-001&status_code=404", []),
        ("search=a%27%20OR%201=1--", []),
    ],
)
def test_filters_select_events(shared: Client, query: str, expected: list[int]) -> None:
    assert latencies(shared, query) == expected


@pytest.mark.parametrize(
    "query",
    [
        f"search={'x' * 256}",
        f"search=billing {'x' * 129}",
        f"trace_id={'x' * 129}",
        f"user_ref={'x' * 129}",
        f"service={'x' * 101}",
        "service=nobody",
        "status_code=99",
        "status_code__in=99,600",
        "latency_max=-1",
        "latency_min=5&latency_max=4",
        "time_before=1969-12-31",
        "start=2025-12-02&end=2025-12-01",
    ],
    ids=short_id,
)
def test_what_no_event_can_match_is_not_looked_for(shared: Client, query: str) -> None:
    page = shared.get(f"{ROOT}?count=estimated&{query}").json()

    # The planner knows that there are none.
    assert (page["count"], page["results"]) == (0, [])


def test_a_long_search_term_still_finds_an_endpoint(shared: Client) -> None:
    service, path = unique_service(), "/" + "long" * 60
    post_ingest(shared, [make_event(service=service, endpoint=path, time="2020-01-01T00:00:00Z")])

    (found,) = listed(shared, f"search={path[1:].upper()}")

    assert found["service"] == service
    shared.request("DELETE", f"{ROOT}{found['id']}/")


@one_engine
@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("colour=red", "colour"),
        ("status_code=two", "status_code"),
        ("status_code=99999", "status_code"),
        ("status_code__in=200,x", "status_code__in"),
        ("status_code__in=200,99999", "status_code__in"),
        ("latency_min=1.5", "latency_min"),
        ("latency_max=99999999999", "latency_max"),
        ("time_after=yesterday", "time_after"),
        ("time_before=2025-13-01", "time_before"),
        ("time_before=2025-12-01%00", "time_before"),
        ("time_after=2025-12-01%2B02:00", "time_after"),
        ("service=a&service=b", "service"),
        ("service=%00", "service"),
        ("trace_id=a%00", "trace_id"),
        ("search=a%00", "search"),
        ("search=" + "a%20" * 11, "search"),
        ("ordering=colour", "ordering"),
        ("ordering=time,-time", "ordering"),
        ("ordering=--time", "ordering"),
        ("page=0", "page"),
        ("page=x", "page"),
        ("page=99999999999", "page"),
        ("page_size=0", "page_size"),
        ("page_size=1001", "page_size"),
        ("count=roughly", "count"),
        ("cursor=rubbish", "cursor"),
        ("cursor=&page=2", "page"),
    ],
)
def test_a_wrong_parameter_is_named(shared: Client, query: str, name: str) -> None:
    answer = shared.get(f"{ROOT}?{query}")

    assert (answer.status, list(answer.json()["errors"])) == (400, [name])


@one_engine
def test_all_wrong_parameters_are_named(shared: Client) -> None:
    answer = shared.get(f"{ROOT}?colour=red&status_code=x&page=0")

    assert set(answer.json()["errors"]) == {"colour", "status_code", "page"}


@one_engine
@pytest.mark.parametrize("path", [ROOT, f"{ROOT}export/", "/api/v1/ingest/ledger/"])
def test_a_bound_given_by_both_of_its_names_is_an_error_that_names_both(shared: Client, path: str) -> None:
    answer = shared.get(f"{path}?start=2025-12-01&time_after=2025-12-01&end=2025-12-02&time_before=2025-12-03")

    assert (answer.status, set(answer.json()["errors"])) == (400, {"start", "time_after", "end", "time_before"})
    assert shared.get(f"{path}?start=2025-12-01&time_before=2025-12-01").status == 200


@one_engine
@pytest.mark.parametrize("query", ["service=%FF", "search=%ED%A0%80"])
def test_a_query_string_that_is_not_utf8_is_malformed(shared: Client, query: str) -> None:
    assert shared.get(f"{ROOT}?{query}").status == 400


@pytest.mark.parametrize(
    ("ordering", "expected"),
    [
        ("", [7, 6, 5, 4, 3, 2, 1]),
        ("ordering=-time", [7, 6, 5, 4, 3, 2, 1]),
        ("ordering=time", [1, 2, 3, 4, 5, 6, 7]),
        ("ordering=-latency_ms", [7, 6, 5, 4, 3, 2, 1]),
        ("ordering=-status_code,latency_ms", [7, 6, 1, 2, 3, 4, 5]),
        ("ordering=status_code,-latency_ms", [5, 4, 3, 2, 1, 6, 7]),
        ("ordering=status_code", [5, 4, 3, 2, 1, 6, 7]),
        ("ordering=service,time", [2, 3, 4, 5, 1, 7, 6]),
        ("ordering=method&ordering=-endpoint&ordering=time", [6, 7, 1, 4, 5, 2, 3]),
    ],
)
def test_events_are_sorted(shared: Client, ordering: str, expected: list[int]) -> None:
    assert [event["latency_ms"] for event in listed(shared, ordering)] == expected
