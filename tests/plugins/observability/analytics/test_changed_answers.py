"""Answers when events come late, are gone, or are somebody else's."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pytest
from psycopg import sql

from kernel.testing import Client
from tests.conftest import Serve
from tests.plugins.observability.analytics.answering import WINDOW, ask, fill, make_hourly
from tests.plugins.observability.analytics.computing import ingest, parts_of
from tests.plugins.observability.engines import every_server

pytestmark = every_server

TABLES = {
    "raw": ("event",),
    "hourly": ("rollup_hour", "coarse_hour"),
    "daily": ("rollup_day", "coarse_day"),
}


@pytest.fixture
def client(serve: Serve) -> Client:
    """A service with some events over four days that its rollups know."""
    client = serve(observability={"log_own_requests": False})
    fill(client)
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
    ("query", "source"),
    [
        ("", "daily"),
        ("&granularity=daily", "daily"),
        ("&granularity=hourly", "hourly"),
        ("&start=2025-12-13", "hourly"),
        ("&start=2025-12-12", "hourly"),
        ("&start=2025-12-11T23:59:59.999999", "daily"),
        ("&method=GET", "raw"),
        ("&error_from=400", "raw"),
        ("&error_from=500&service=a&endpoint=/0", "daily"),
        ("&method=GET&error_from=400&approx=true", "daily"),
        ("&method=GET&approx=true&granularity=hourly", "hourly"),
    ],
)
def test_the_source_is_what_was_read(client: Client, database: str, query: str, source: str) -> None:
    window = WINDOW if "start" not in query else "end=2025-12-13"
    before = ask(client, f"kpis/?{window}{query}").json()

    # All that it does not name may go: the totals stay.
    empty(database, [table for level, tables in TABLES.items() if level != source for table in tables])

    after = ask(client, f"kpis/?{window}{query}").json()
    assert before["source"] == after["source"] == source
    for name in ("hits", "errors", "error_rate", "avg_latency_ms", "max_latency_ms"):
        assert after[name] == before[name], name
    assert before["hits"] > 0


def test_what_was_written_since_the_last_refresh_is_counted_and_told(client: Client) -> None:
    clean = ask(client, f"kpis/?{WINDOW}").json()
    ingest(client, [make_hourly(50)])

    found = ask(client, f"kpis/?{WINDOW}").json()

    assert found["hits"] == clean["hits"] + 1
    assert (found["source"], found["fresh_until"]) == ("daily", "2025-12-12T02:00:00Z")
    assert clean["fresh_until"] > "2026"


def test_a_method_narrows_the_percentiles_of_rows_that_are_shown(client: Client) -> None:
    ingest(client, [make_hourly(number, method="POST", latency_ms=1) for number in range(96)])

    rows = ask(client, f"top-endpoints/?{WINDOW}&with_p95=true&method=post&limit=3").json()

    assert [row["p95_latency_ms"] for row in rows] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("sort_by", ["hits", "errors", "error_rate", "avg_latency_ms", "max_latency_ms"])
def test_equal_endpoints_are_in_order_of_name(serve: Serve, sort_by: str, direction: str) -> None:
    client = serve(observability={"log_own_requests": False})
    names = [("a", "/Z"), ("a", "/a"), ("a", "/é"), ("b", "/")]
    ingest(client, [make_hourly(1, service=service, endpoint=endpoint) for service, endpoint in reversed(names)])

    rows = ask(client, f"top-endpoints/?{WINDOW}&sort_by={sort_by}&direction={direction}").json()

    assert [(row["service"], row["endpoint"]) for row in rows] == names


@pytest.mark.parametrize("name", ["hourly", "daily"])
def test_rows_of_one_bucket_are_in_order_of_name(serve: Serve, name: str) -> None:
    client = serve(observability={"log_own_requests": False})
    names = [("B", "/"), ("a", "/Z"), ("a", "/_"), ("a", "/a")]
    ingest(client, [make_hourly(1, service=service, endpoint=endpoint) for service, endpoint in reversed(names)])

    rows = ask(client, f"{name}/?{WINDOW}").json()

    assert [(row["service"], row["endpoint"]) for row in rows] == names


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
def test_where_events_are_gone_an_answer_says_what_it_covers(
    client: Client, database: str, kept: dict[str, str], query: str, covered: str, hits: int
) -> None:
    keep_since(database, **kept)

    for approx in ("", "&approx=true", "&method=GET"):
        found = ask(client, f"kpis/?{query}{approx}").json()
        listed = ask(client, f"top-endpoints/?{query}{approx}")
        assert (found["hits"], found["covered"]["start"]) == (hits, covered)
        assert listed.headers["x-covered"].startswith(f"{covered}/")
        assert found["p95_max_relative_error"] == 0.01


def test_where_everything_is_gone_an_answer_covers_nothing(client: Client, database: str) -> None:
    keep_since(database, raw="2026-01-01", hour="2026-01-01", day="2026-01-01")

    found = ask(client, f"kpis/?{WINDOW}").json()

    assert found["hits"] == 0
    assert found["covered"] == {"start": "2025-12-14T00:00:00Z", "end": "2025-12-14T00:00:00Z"}


def test_days_are_not_passed_off_as_hours(client: Client, database: str) -> None:
    keep_since(database, raw="2025-12-12", hour="2025-12-12")

    answer = ask(client, f"hourly/?{WINDOW}")

    assert {row["bucket"][:10] for row in answer.json()} == {"2025-12-12", "2025-12-13"}
    assert {row["hits"] for row in answer.json()} == {1}
    assert answer.headers["x-covered"] == "2025-12-12T00:00:00Z/2025-12-14T00:00:00Z"


@pytest.mark.parametrize("query", ["", "&approx=true", "&method=GET", "&service=a", "&service=a&approx=true"])
def test_events_of_another_account_are_in_no_answer(client: Client, database: str, query: str) -> None:
    ours = [ask(client, f"{name}/?{WINDOW}").json() for name in ("hourly", "daily", "top-endpoints")]
    kpis = ask(client, f"kpis/?{WINDOW}{query}").json()
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
        again = ask(client, f"kpis/?{WINDOW}{query}").json()
        assert {**again, "fresh_until": None, "source": None} == {**kpis, "fresh_until": None, "source": None}
        assert [ask(client, f"{name}/?{WINDOW}").json() for name in ("hourly", "daily", "top-endpoints")] == ours
        parts_of(client).rollups.refresh()


def test_many_scattered_touched_hours_change_no_answer(client: Client) -> None:
    ingest(client, [make_hourly(number, latency_ms=5000) for number in range(0, 96, 3)])

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
