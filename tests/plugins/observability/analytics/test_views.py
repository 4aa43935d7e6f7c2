"""The views ``apirequest_hourly`` and ``apirequest_daily``, for questions in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from kernel.testing import Client
from plugins import observability
from plugins.observability.rollups.histogram import Histogram
from tests.conftest import Serve
from tests.plugins.observability.analytics import oracle
from tests.plugins.observability.analytics.factories import ask, container_of, ingest, random_events
from tests.plugins.observability.engines import every_engine, every_server, run_statement
from tests.plugins.observability.events import ROOT, make_event

pytestmark = every_engine

HOURLY: LiteralString = "SELECT * FROM apirequest_hourly ORDER BY bucket DESC, service, endpoint"
DAILY: LiteralString = "SELECT * FROM apirequest_daily ORDER BY bucket DESC, service, endpoint"
MIGRATION = Path(observability.__file__).parent / "migrations" / "0007_documented_views.sql"
WINDOW = "start=2025-12-12&end=2025-12-14"


@pytest.fixture
def client(serve: Serve) -> Client:
    return serve(observability={"log_own_requests": False})


def select(client: Client, statement: LiteralString) -> list[dict[str, Any]]:
    """Return rows as the HTTP API has them."""
    with client.service.shared.db.connection() as connection:
        cursor = connection.execute(statement)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, map(_plain, row), strict=True)) for row in cursor]


def _plain(value: Any) -> Any:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


def without_rate(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "error_rate"} for row in rows]


def test_the_views_know_every_event_before_and_after_a_refresh(client: Client) -> None:
    unmeasured = [make_event(time=f"2025-12-12T0{hour}:30:00Z", latency_ms=None) for hour in range(2)]
    early, late = [*random_events(60), *unmeasured], random_events(20, seed=2)
    ingest(client, early)

    for events, step in ((early, "none"), (early, "all"), (early + late, "some"), (early + late, "all again")):
        if step == "some":
            ingest(client, late)
        elif step != "none":
            container_of(client).rollups.refresh()
        assert oracle.agrees(select(client, HOURLY), without_rate(oracle.hours(events))), step
        daily = select(client, DAILY)
        assert oracle.agrees(daily, without_rate(oracle.days(events)), relative_error=0.01), step
        answered = ask(client, f"daily/?{WINDOW}").json()
        assert oracle.agrees(daily, without_rate(answered), relative_error=0.01), step


def test_the_views_have_the_documented_columns(client: Client) -> None:
    ingest(client, [make_event(status_code=500, latency_ms=7)])

    (hour,), (day,) = select(client, HOURLY), select(client, DAILY)

    assert hour == {
        "bucket": "2025-12-14T12:00:00Z",
        "service": "billing",
        "endpoint": "/api/v1/invoices",
        "hits": 1,
        "errors": 1,
        "avg_latency_ms": 7.0,
        "max_latency_ms": 7,
    }
    assert day == {**hour, "bucket": "2025-12-14T00:00:00Z", "p95_latency_ms": 7.0}
    assert select(client, "SELECT * FROM observability.apirequest_hourly") == [hour]


def test_deleted_events_are_in_no_view(client: Client) -> None:
    created = client.post(ROOT, make_event()).json()
    container_of(client).rollups.refresh()
    assert select(client, DAILY)

    client.request("DELETE", f"{ROOT}{created['id']}/")

    assert select(client, HOURLY) == select(client, DAILY) == []


@every_server
def test_of_removed_events_the_views_have_what_rollups_have(client: Client) -> None:
    ingest(client, random_events(40))
    container_of(client).rollups.refresh()
    hours, days = select(client, HOURLY), select(client, DAILY)

    def remove(level: LiteralString, table: LiteralString, column: LiteralString) -> None:
        run_statement(client, f"DELETE FROM observability.{table} WHERE {column} < '2025-12-13 00:00Z'")
        run_statement(
            client, f"UPDATE observability.retention SET from_time = '2025-12-13 00:00Z' WHERE level = '{level}'"
        )

    remove("raw", "event", "time")
    # A removed hour stays as it was, though an entry says that it was written to.
    run_statement(
        client, "INSERT INTO observability.rollup_touched (hour) SELECT min(bucket) FROM observability.rollup_hour"
    )
    assert (select(client, HOURLY), select(client, DAILY)) == (hours, days)

    remove("hour", "rollup_hour", "bucket")
    assert select(client, HOURLY) == [row for row in hours if row["bucket"] >= "2025-12-13"]
    assert select(client, DAILY) == days


@every_server
@pytest.mark.parametrize("view", ["apirequest_hourly", "apirequest_daily"])
def test_a_condition_on_time_reads_only_what_it_selects(client: Client, view: LiteralString) -> None:
    # Recent days have a partition, or a chunk, each.
    now = datetime.now(UTC)
    times = [now - timedelta(days=days) for days in (2, 5)]
    ingest(client, [make_event(time=time.isoformat()) for time in times])

    with client.service.shared.db.connection() as connection:
        tables = connection.execute(
            "SELECT relname FROM observability.event JOIN pg_class ON pg_class.oid = event.tableoid ORDER BY time DESC"
        ).fetchall()
        plan = connection.execute(
            f"EXPLAIN (ANALYZE, COSTS OFF) SELECT * FROM {view}"
            " WHERE bucket >= date_trunc('day', now() - interval '2 days', 'UTC')"
        ).fetchall()

    read = [line for (line,) in plan if "never executed" not in line]
    assert [any(f" on {table}" in line for line in read) for (table,) in tables] == [True, False]


@every_server
@pytest.mark.parametrize("percentile", [0, 50, 95, 99.9, 100])
@pytest.mark.parametrize("latencies", [[0], [1], [0, 1], [0, 0, 5000], [10] * 99 + [70_000], list(range(0, 4000, 7))])
def test_a_percentile_of_a_histogram_is_that_of_other_answers(
    shared: Client, latencies: list[int], percentile: float
) -> None:
    with shared.service.shared.db.connection() as connection:
        row = connection.execute(
            "SELECT packed::text, observability.histogram_percentile(packed, cardinality(%(ms)s), %(percentile)s)"
            " FROM (SELECT sum(observability.histogram_of(1, observability.latency_bin(ms))) AS packed"
            "       FROM unnest(%(ms)s::int[]) AS ms) AS summed",
            {"ms": latencies, "percentile": percentile},
        ).fetchone()
    assert row is not None
    assert row[1] == pytest.approx(Histogram(row[0]).percentile_ms(percentile))


@every_server
def test_plain_names_are_left_alone_where_they_are_taken_or_not_allowed(client: Client, database: str) -> None:
    _, _, block = MIGRATION.read_text().partition("-- Under their plain names")
    with psycopg.connect(database) as connection:

        def kind() -> Any:
            row = connection.execute(
                "SELECT relkind::text FROM pg_class WHERE oid = to_regclass('public.apirequest_hourly')"
            ).fetchone()
            return row and row[0]

        found = [kind()]
        connection.execute("DROP VIEW public.apirequest_hourly; CREATE TABLE public.apirequest_hourly ()")
        connection.execute(f"--{block}".encode())
        found.append(kind())
        connection.execute("DROP TABLE public.apirequest_hourly; REVOKE CREATE ON SCHEMA public FROM pg_database_owner")
        connection.execute(f"--{block}".encode())
        found.append(kind())
        connection.execute("GRANT CREATE ON SCHEMA public TO pg_database_owner")
        connection.execute(f"--{block}".encode())
        found.append(kind())
        connection.rollback()

    assert found == ["v", "r", None, "v"]
