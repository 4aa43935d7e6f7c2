"""Answers when events come late, were removed, or belong to another account."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pytest
from psycopg import sql

from kernel.testing import Client
from tests.conftest import Serve
from tests.plugins.observability.analytics.factories import (
    WINDOW,
    ask,
    container_of,
    hourly_event,
    ingest,
    ingest_hourly_events,
)
from tests.plugins.observability.engines import every_server

pytestmark = [every_server, pytest.mark.slow]

TABLES = {
    "raw": ("event",),
    "hourly": ("rollup_hour", "coarse_hour"),
    "daily": ("rollup_day", "coarse_day"),
}


@pytest.fixture
def client(serve: Serve) -> Client:
    """A service with an event an hour over four days, and clean rollups."""
    client = serve(observability={"log_own_requests": False})
    ingest_hourly_events(client)
    return client


def empty(database: str, tables: Sequence[str]) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        for table in tables:
            connection.execute(sql.SQL("TRUNCATE observability.{}").format(sql.Identifier(table)))


def keep_since(database: str, **levels: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        for level, since in levels.items():
            connection.execute("UPDATE observability.retention SET from_time = %s WHERE level = %s", [since, level])
            table = {"raw": "event", "hour": "rollup_hour", "day": "rollup_day"}[level]
            column = "time" if level == "raw" else "bucket"
            delete = sql.SQL("DELETE FROM observability.{} WHERE {} < %s")
            connection.execute(delete.format(sql.Identifier(table), sql.Identifier(column)), [since])


@pytest.mark.parametrize(
    ("source", "queries"),
    [
        (
            "daily",
            [
                WINDOW,
                f"{WINDOW}&granularity=daily",
                "end=2025-12-13&start=2025-12-11T23:59:59.999999",
                f"{WINDOW}&error_from=500&service=a&endpoint=/0",
                f"{WINDOW}&method=GET&error_from=400&approx=true",
            ],
        ),
        (
            "hourly",
            [
                f"{WINDOW}&granularity=hourly",
                "end=2025-12-13&start=2025-12-13",
                "end=2025-12-13&start=2025-12-12",
                f"{WINDOW}&method=GET&approx=true&granularity=hourly",
            ],
        ),
        ("raw", [f"{WINDOW}&method=GET", f"{WINDOW}&error_from=400"]),
    ],
)
def test_the_source_is_what_was_read(client: Client, database: str, source: str, queries: Sequence[str]) -> None:
    before = {query: ask(client, f"kpis/?{query}").json() for query in queries}

    # Totals do not need what the source does not name.
    empty(database, [table for name, tables in TABLES.items() if name != source for table in tables])

    for query, kpis in before.items():
        after = ask(client, f"kpis/?{query}").json()
        assert kpis["source"] == after["source"] == source, query
        for name in ("hits", "errors", "error_rate", "avg_latency_ms", "max_latency_ms"):
            assert after[name] == kpis[name], (query, name)
        assert kpis["hits"] > 0, query


def test_events_since_the_last_refresh_are_counted_and_reported(client: Client) -> None:
    clean = ask(client, f"kpis/?{WINDOW}").json()
    ingest(client, [hourly_event(50)])

    found = ask(client, f"kpis/?{WINDOW}").json()

    assert found["hits"] == clean["hits"] + 1
    assert (found["source"], found["fresh_until"]) == ("daily", "2025-12-12T02:00:00Z")
    assert clean["fresh_until"] > "2026"


def test_percentiles_of_endpoints_are_filtered_by_method(client: Client) -> None:
    ingest(client, [hourly_event(number, method="POST", latency_ms=1) for number in range(96)])

    rows = ask(client, f"top-endpoints/?{WINDOW}&with_p95=true&method=post&limit=3").json()

    assert [row["p95_latency_ms"] for row in rows] == [1.0, 1.0, 1.0]


def test_equal_endpoints_are_in_order_of_name(serve: Serve) -> None:
    client = serve(observability={"log_own_requests": False})
    names = [("a", "/Z"), ("a", "/a"), ("a", "/é"), ("b", "/")]
    ingest(client, [hourly_event(1, service=service, endpoint=endpoint) for service, endpoint in reversed(names)])

    for sort_by in ("hits", "errors", "error_rate", "avg_latency_ms", "max_latency_ms"):
        for direction in ("asc", "desc"):
            rows = ask(client, f"top-endpoints/?{WINDOW}&sort_by={sort_by}&direction={direction}").json()
            assert [(row["service"], row["endpoint"]) for row in rows] == names, (sort_by, direction)


def test_rows_of_one_bucket_are_in_order_of_name(serve: Serve) -> None:
    client = serve(observability={"log_own_requests": False})
    names = [("B", "/"), ("a", "/Z"), ("a", "/_"), ("a", "/a")]
    ingest(client, [hourly_event(1, service=service, endpoint=endpoint) for service, endpoint in reversed(names)])

    for name in ("hourly", "daily"):
        rows = ask(client, f"{name}/?{WINDOW}").json()
        assert [(row["service"], row["endpoint"]) for row in rows] == names, name


@pytest.mark.parametrize(
    ("kept", "query", "covered", "hits"),
    [
        ({"raw": "2025-12-11"}, "start=2025-12-10T01:45&end=2025-12-11T00:15", "2025-12-10T01:00:00Z", 23),
        (
            {"raw": "2025-12-12", "hour": "2025-12-11"},
            "start=2025-12-10T12:00&end=2025-12-12",
            "2025-12-10T00:00:00Z",
            72,
        ),
        ({"raw": "2025-12-12", "hour": "2025-12-12", "day": "2025-12-11"}, WINDOW, "2025-12-11T00:00:00Z", 72),
    ],
)
def test_where_events_were_removed_an_answer_says_what_it_covers(
    client: Client, database: str, kept: dict[str, str], query: str, covered: str, hits: int
) -> None:
    keep_since(database, **kept)

    for approx in ("", "&approx=true", "&method=GET"):
        found = ask(client, f"kpis/?{query}{approx}").json()
        listed = ask(client, f"top-endpoints/?{query}{approx}")
        assert (found["hits"], found["covered"]["start"]) == (hits, covered)
        assert listed.headers["x-covered"].startswith(f"{covered}/")
        assert found["p95_max_relative_error"] == 0.01


def test_where_everything_was_removed_an_answer_covers_nothing(client: Client, database: str) -> None:
    keep_since(database, raw="2026-01-01", hour="2026-01-01", day="2026-01-01")

    found = ask(client, f"kpis/?{WINDOW}").json()

    assert found["hits"] == 0
    assert found["covered"] == {"start": "2025-12-14T00:00:00Z", "end": "2025-12-14T00:00:00Z"}


def test_hourly_rows_are_never_made_of_days(client: Client, database: str) -> None:
    keep_since(database, raw="2025-12-12", hour="2025-12-12")

    answer = ask(client, f"hourly/?{WINDOW}")

    assert {row["bucket"][:10] for row in answer.json()} == {"2025-12-12", "2025-12-13"}
    assert {row["hits"] for row in answer.json()} == {1}
    assert answer.headers["x-covered"] == "2025-12-12T00:00:00Z/2025-12-14T00:00:00Z"


def test_events_of_another_account_are_in_no_answer(client: Client, database: str) -> None:
    queries = ("", "&approx=true", "&method=GET", "&service=a", "&service=a&approx=true")
    ours = [ask(client, f"{name}/?{WINDOW}").json() for name in ("hourly", "daily", "top-endpoints")]
    kpis = {query: ask(client, f"kpis/?{WINDOW}{query}").json() for query in queries}
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("""
            WITH theirs AS (
                INSERT INTO observability.series (account, service, endpoint, method)
                VALUES (7, 'a', '/0', 'GET') RETURNING id
            ), hour AS (
                INSERT INTO observability.rollup_touched (hour)
                SELECT generate_series('2025-12-10 00:00Z'::timestamptz, '2025-12-12 05:00Z', '1 hour')
            )
            INSERT INTO observability.event (id, time, series, status_code, latency_ms, tags)
            SELECT gen_random_uuid(), at, id, 500, 99999, '{}'
            FROM theirs, generate_series('2025-12-10 00:00Z'::timestamptz, '2025-12-12 05:00Z', '1 hour') AS at
        """)

    for _ in ("from events", "from rollups"):
        for query in queries:
            again = ask(client, f"kpis/?{WINDOW}{query}").json()
            expected = {**kpis[query], "fresh_until": None, "source": None}
            assert {**again, "fresh_until": None, "source": None} == expected, query
        assert [ask(client, f"{name}/?{WINDOW}").json() for name in ("hourly", "daily", "top-endpoints")] == ours
        container_of(client).rollups.refresh()


def test_many_scattered_dirty_hours_change_no_answer(client: Client) -> None:
    ingest(client, [hourly_event(number, latency_ms=5000) for number in range(0, 96, 3)])

    for query in (
        "granularity=hourly",
        "granularity=hourly&approx=true",
        "approx=true&service=a&endpoint=/0",
        "approx=true&service=a",
        "approx=true&method=GET",
    ):
        touched = ask(client, f"kpis/?{WINDOW}&{query}").json()
        exact = ask(client, f"kpis/?{WINDOW}&{query}&error_from=500".replace("&approx=true", "")).json()
        assert touched["source"] in ("hourly", "daily")
        assert touched["hits"] == exact["hits"] > 0
        assert touched["p95_latency_ms"] == pytest.approx(exact["p95_latency_ms"], rel=0.01)
    assert sum(row["hits"] for row in ask(client, f"hourly/?{WINDOW}").json()) == 96 + 32
