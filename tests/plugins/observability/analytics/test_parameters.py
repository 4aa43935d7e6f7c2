"""Parameters of the analytics: defaults, limits, and what a wrong one is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from kernel.testing import Client
from tests.plugins.observability.engines import every_engine, one_engine
from tests.plugins.observability.events import ROOT, make_event, post_ingest

pytestmark = every_engine

LISTS = ("hourly", "daily", "top-endpoints")
ACTIVITY = ("services", "endpoints")
ENDPOINTS = (*LISTS, "kpis", "timeseries")
WITH_GROUPS = ("kpis", "timeseries")
# Those that ask for a method, and say what is an error.
WITH_METHOD = ("top-endpoints", "kpis", "timeseries")
WITH_PERCENTILES = ENDPOINTS
NUL_REJECTED = (r"Null characters are not allowed, got 'a\x00'.",)
STARTS, ENDS = ("start", "time_after"), ("end", "time_before")
AGES = {"now": 0, "23 h": 23, "25 h": 25, "6 days": 6 * 24 + 23, "8 days": 7 * 24 + 1}


@pytest.fixture(scope="module")
def client(shared: Client) -> Client:
    """A service with an event of each age, and many endpoints an hour of one old day."""
    now = datetime.now(UTC)
    post_ingest(
        shared, [make_event(time=(now - timedelta(hours=age)).isoformat(), service="aged") for age in AGES.values()]
    )
    post_ingest(shared, [make_event(service="many", endpoint=f"/{number}") for number in range(600)])
    return shared


def percentiles(count: int) -> str:
    """Return a parameter that asks for so many percentiles."""
    return f"percentiles={','.join(map(str, range(count)))}"


def ask(client: Client, name: str, query: str) -> Any:
    answer = client.get(f"{ROOT}{name}/?{query}")
    assert answer.status == 200, answer.content
    return answer.json()


def hits_of(found: Any) -> int:
    """Sum up the hits of any of the answers."""
    rows = found if isinstance(found, list) else found.get("steps", [found])
    return sum(row["hits"] for row in rows)


def errors_of(client: Client, name: str, query: str) -> dict[str, list[str]]:
    answer = client.get(f"{ROOT}{name}/?{query}")
    assert answer.status == 400, answer.content
    found: dict[str, list[str]] = answer.json()["errors"]
    return found


@pytest.mark.parametrize("name", ENDPOINTS)
def test_the_window_is_the_last_day_or_week_by_default(client: Client, name: str) -> None:
    found = ask(client, name, "service=aged")

    assert hits_of(found) == (4 if name == "daily" else 2)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_an_end_alone_moves_the_start_as_well(client: Client, name: str) -> None:
    end = (datetime.now(UTC) - timedelta(hours=24)).isoformat().replace("+", "%2B")

    found = ask(client, name, f"service=aged&end={end}")

    assert hits_of(found) == (3 if name == "daily" else 1)


@pytest.mark.parametrize(
    ("name", "default", "most"), [("top-endpoints", 20, 200), ("hourly", 500, 600), ("daily", 500, 600)]
)
def test_rows_are_limited(client: Client, name: str, default: int, most: int) -> None:
    window = "service=many&start=2025-12-14&end=2025-12-14"

    assert len(ask(client, name, window)) == default
    assert len(ask(client, name, f"{window}&limit=1")) == 1
    assert len(ask(client, name, f"{window}&limit={200 if name == 'top-endpoints' else 5000}")) == most


# Parameters are checked before the database is asked.
@one_engine
@pytest.mark.parametrize(
    ("query", "parameter", "parts", "names"),
    [
        ("start=soon", "start", ("'soon'", "ISO 8601"), ENDPOINTS),
        *(
            (f"end={quote(end)}", "end", (repr(end), "ISO 8601"), ENDPOINTS)
            for end in ("2025-02-30", "2026-11-20+02:00", "2026-11-20x05:00")
        ),
        ("start=2025-12-15&end=2025-12-14", "start", ("2025-12-15", "2025-12-14"), ENDPOINTS),
        ("limit=0", "limit", (">= 1", "'0'"), LISTS),
        ("limit=5001", "limit", ("<= 5000", "'5001'"), ("hourly", "daily")),
        ("limit=201", "limit", ("<= 200", "'201'"), ("top-endpoints",)),
        ("service=a%00", "service", NUL_REJECTED, ENDPOINTS),
        ("endpoint=a%00", "endpoint", NUL_REJECTED, ENDPOINTS),
        ("method=a%00", "method", NUL_REJECTED, WITH_METHOD),
        ("granularity=weekly", "granularity", ("auto or hourly or daily", "'weekly'"), ("kpis", "top-endpoints")),
        ("error_from=99", "error_from", (">= 100", "'99'"), WITH_METHOD),
        ("error_from=600", "error_from", ("<= 599", "'600'"), WITH_METHOD),
        ("approx=perhaps", "approx", ("bool", "'perhaps'"), ENDPOINTS),
        ("sort_by=name", "sort_by", ("hits or errors or error_rate", "'name'"), ("top-endpoints",)),
        ("direction=up", "direction", ("asc or desc", "'up'"), ("top-endpoints",)),
        ("with_p95=2", "with_p95", ("bool", "'2'"), ("top-endpoints",)),
        ("percentiles=101", "percentiles", ("<= 100", "'101'"), WITH_PERCENTILES),
        ("percentiles=-1", "percentiles", (">= 0", "'-1'"), WITH_PERCENTILES),
        ("percentiles=nan", "percentiles", ("'nan'",), WITH_PERCENTILES),
        (percentiles(21), "percentiles", ("20",), WITH_PERCENTILES),
        ("method=GET", "method", ("Unknown parameter", "service"), ("hourly", "daily")),
        ("limit=1", "limit", ("give group_by as well",), WITH_GROUPS),
        ("sort_by=p99", "sort_by", ("give group_by as well",), WITH_GROUPS),
        ("direction=asc", "direction", ("give group_by as well",), WITH_GROUPS),
        ("group_by=service&limit=201", "limit", ("<= 200", "'201'"), WITH_GROUPS),
        ("group_by=day", "group_by", ("service or endpoint or method", "'day'"), WITH_METHOD),
        ("group_by=service,day", "group_by", ("service or endpoint or method", "'service,day'"), WITH_METHOD),
        ("group_by=service", "group_by", ("Unknown parameter",), ("hourly", "daily", "services", "endpoints")),
        ("sort_by=p", "sort_by", ("hits or errors or error_rate", "'p'"), ("top-endpoints",)),
        ("sort_by=p101", "sort_by", ("percentile such as p95", "'p101'"), ("top-endpoints",)),
        ("ordering=name", "ordering", ("Cannot sort by name", "first_seen"), ACTIVITY),
        ("search=a%00", "search", NUL_REJECTED, ACTIVITY),
        ("page=0", "page", (">= 1", "'0'"), ACTIVITY),
        ("page_size=1001", "page_size", ("<= 1000", "1001"), ACTIVITY),
        ("granularity=daily", "granularity", ("Unknown parameter", "service"), ("timeseries",)),
        ("servce=x", "servce", ("Unknown parameter", "service"), ENDPOINTS),
    ],
)
def test_a_wrong_value_is_rejected_by_name_with_what_is_allowed(
    client: Client, query: str, parameter: str, parts: tuple[str, ...], names: tuple[str, ...]
) -> None:
    for name in names:
        errors = errors_of(client, name, query)

        assert list(errors) == [parameter], name
        assert all(part in errors[parameter][0] for part in parts), (name, errors)


@pytest.mark.parametrize("name", WITH_PERCENTILES)
def test_up_to_twenty_percentiles_are_answered(client: Client, name: str) -> None:
    found = ask(client, name, f"{percentiles(20)}&start=2025-12-14&end=2025-12-14")

    if name == "timeseries":
        answered = list(found["steps"][0]["percentiles_ms"])
    else:
        row = found if name == "kpis" else found[0]
        answered = [member for member in row if member[0] == "p" and member not in ("p95_latency_ms", "percentiles")]
    assert len(answered) == 20


@pytest.mark.parametrize("name", [*ENDPOINTS, *ACTIVITY])
def test_times_have_two_names_of_which_one_may_be_given(client: Client, name: str) -> None:
    def rows(query: str) -> Any:
        found = ask(client, name, f"service=many&{query}")
        # The time of the request, and the request itself.
        return {**found, "fresh_until": None, "next": None} if isinstance(found, dict) else found

    given = rows("start=2025-12-14&end=2025-12-14")
    others = [rows(f"{start}=2025-12-14&{end}=2025-12-14") for start in STARTS for end in ENDS]
    errors = errors_of(client, name, "start=2025-12-14&time_after=2025-12-14")

    assert given
    assert all(each == given for each in others)
    assert set(errors) == {"start", "time_after"}


@pytest.mark.parametrize("name", ENDPOINTS)
def test_an_unknown_application_is_not_found_and_the_known_are_listed(client: Client, name: str) -> None:
    answer = client.get(f"{ROOT}{name}/?application=nowhere")

    assert answer.status == 404
    assert "available_apps" in answer.json()


@pytest.mark.parametrize("name", ENDPOINTS)
def test_both_roots_answer(client: Client, name: str) -> None:
    query = "service=many&start=2025-12-14&end=2025-12-14"

    ours = ask(client, name, query)
    answer = client.get(f"/api/v1/requests/{name}/?{query}")

    assert (answer.status, answer.json()) == (200, ours)
    assert hits_of(ours) > 0


@pytest.mark.parametrize("name", LISTS)
def test_a_list_says_until_when_rollups_include_every_event(client: Client, name: str) -> None:
    known = ask(client, "kpis", "")["fresh_until"]

    answer = client.get(f"{ROOT}{name}/")

    assert answer.headers["x-fresh-until"] == known == "2025-12-14T12:00:00Z"


def test_nothing_in_a_window_is_zero_hits_and_no_latencies(client: Client) -> None:
    found = ask(client, "kpis", "start=2001-01-01&end=2001-01-02&percentiles=50")

    assert found.pop("fresh_until")
    assert found == {
        "hits": 0,
        "errors": 0,
        "error_rate": 0.0,
        "avg_latency_ms": None,
        "p95_latency_ms": None,
        "max_latency_ms": None,
        "p50_latency_ms": None,
        "source": "hourly",
        "percentiles": [{"percentile": 50.0, "value_ms": None, "max_relative_error": 0.0, "basis": "raw"}],
    }


@pytest.mark.parametrize("name", LISTS)
def test_nothing_in_a_window_is_an_empty_list(client: Client, name: str) -> None:
    assert ask(client, name, "start=2001-01-01&end=2001-01-02") == []


@pytest.mark.parametrize("name", [*LISTS, "kpis"])
@pytest.mark.parametrize("approx", ["true", "false"])
@pytest.mark.parametrize("window", ["start=0100-01-01&end=2100-01-01", "start=0001-01-01&end=9999-12-31"])
def test_a_window_of_thousands_of_years_is_answered(client: Client, name: str, approx: str, window: str) -> None:
    limit = "" if name == "kpis" else "&limit=200"

    found = ask(client, name, f"{window}&service=many&approx={approx}{limit}")

    assert hits_of(found) == (600 if name == "kpis" else 200)


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize("window", ["end=0001-01-01", "start=9999-12-31&end=9999-12-31"])
def test_the_first_and_the_last_day_of_all_are_answered(client: Client, name: str, window: str) -> None:
    assert hits_of(ask(client, name, window)) == 0


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("hourly", "bucket service endpoint hits errors error_rate avg_latency_ms max_latency_ms"),
        ("daily", "bucket service endpoint hits errors error_rate avg_latency_ms p95_latency_ms max_latency_ms"),
        ("top-endpoints", "service endpoint hits errors error_rate avg_latency_ms p95_latency_ms max_latency_ms"),
    ],
)
def test_rows_have_the_documented_members(client: Client, name: str, members: str) -> None:
    assert list(ask(client, name, "service=many&start=2025-12-14&end=2025-12-14&limit=1")[0]) == members.split()
