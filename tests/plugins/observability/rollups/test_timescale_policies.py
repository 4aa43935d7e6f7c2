"""The policies of TimescaleDB under its community licence: refresh of rollups, compression of old chunks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product
from typing import Any

import psycopg
import pytest

from kernel import HealthCheck, UnavailableError
from kernel.testing import Client
from tests.conftest import Serve
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import (
    TestedEngine,
    community_licence,
    migrate,
    require_community_licence,
    run_statement,
    serving_on,
)
from tests.plugins.observability.events import create, make_event, make_events, post_ingest
from tests.plugins.observability.rollups.factories import DAY, HOUR, store_at, today
from tests.plugins.observability.rollups.test_failed_days import failing

pytestmark = pytest.mark.xdist_group("timescale")
CHUNKS = """
    SELECT chunks.range_start, chunks.range_end
    FROM timescaledb_information.chunks JOIN timescaledb_information.continuous_aggregates AS aggregate
      ON aggregate.materialization_hypertable_name = chunks.hypertable_name
    WHERE aggregate.view_name = '{}' ORDER BY 1
"""
DAY_QUERY = "start=2025-12-14&end=2025-12-14&granularity=daily&approx=true"


@pytest.fixture
def client(timescale_engine: TestedEngine) -> Iterator[Client]:
    """A service on TimescaleDB."""
    with serving_on(timescale_engine) as started:
        yield started


def kpis(client: Client, query: str = DAY_QUERY) -> tuple[Any, ...]:
    found = client.get(f"/api/requests/kpis/?{query}").json()
    return found["hits"], found["source"]


def touched(client: Client) -> list[Any]:
    return run_statement(client, "SELECT hour FROM observability.rollup_touched ORDER BY 1")


def run_policy(client: Client) -> None:
    run_statement(client, "CALL observability.refresh_policy(0, NULL)")


def test_rollups_are_continuous_aggregates_with_materialized_data_only(client: Client) -> None:
    found = run_statement(
        client,
        "SELECT view_name, materialized_only FROM timescaledb_information.continuous_aggregates ORDER BY 1",
    )

    names = [
        f"{kind}_{level}" for kind in ("coarse", "coarse_totals", "histogram", "rollup") for level in ("day", "hour")
    ]
    assert found == [(name, True) for name in [*names, "seen_day"]]


@pytest.mark.parametrize(("version", "kind"), [("2.12.2", "r"), ("2.13.0", "v")])
def test_continuous_aggregates_need_a_version_that_can_join_and_stack_them(
    timescale_engine: TestedEngine, version: str, kind: str
) -> None:
    with timescale_engine.database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA observability CASCADE")
            connection.execute("DELETE FROM tiercel.migration WHERE id LIKE 'observability/%'")
            connection.execute("CREATE SCHEMA pretended")
            connection.execute(
                f"CREATE VIEW pretended.pg_extension AS SELECT extname, '{version}' AS extversion"
                " FROM pg_catalog.pg_extension WHERE extname = 'timescaledb'".encode()
            )
            # There is only one session, so this affects later connections as well.
            connection.execute("SET search_path = pretended, pg_catalog, public")
        migrate(url)

        with psycopg.connect(url, autocommit=True) as connection:
            found = connection.execute("SELECT relkind FROM pg_class WHERE relname = 'rollup_hour'").fetchall()

    assert found == [(kind,)]


def test_policies_refresh_rollups_and_compress_old_chunks(client: Client) -> None:
    jobs = run_statement(
        client,
        "SELECT proc_name, coalesce(config ->> 'compress_after', schedule_interval::text)"
        " FROM timescaledb_information.jobs WHERE job_id >= 1000 ORDER BY 1",
    )

    assert jobs == [
        ("columnstore_policy", "12:00:00"),
        ("policy_compression", "7 days"),
        ("refresh_policy", "00:05:00"),
        ("seen_policy", "01:00:00"),
    ]


@community_licence
def test_rollups_of_former_years_are_in_longer_chunks(engine: TestedEngine, serve: Serve) -> None:
    require_community_licence(engine)
    client = serve()
    store_at(client, *(today() - days * DAY for days in (3000, 500, 100, 50, 5)))

    container_of(client).rollups.refresh()

    hours, days = (
        [(end - start).days for start, end in run_statement(client, CHUNKS.format(name))]
        for name in ("rollup_hour", "coarse_day")
    )
    assert hours == [360, 360, 30, 10, 10]
    assert (days[:2], days[-1]) == ([360, 360], 90)
    assert len(days) <= 5


def test_old_rollups_become_columns_and_late_events_still_count(client: Client) -> None:
    post_ingest(client, make_events(3))
    run_policy(client)

    for _ in range(2):
        run_statement(client, "CALL observability.columnstore_policy(0, NULL)")
    compressed = run_statement(
        client,
        "SELECT aggregate.view_name FROM timescaledb_information.chunks"
        " JOIN timescaledb_information.continuous_aggregates AS aggregate"
        " ON aggregate.materialization_hypertable_name = chunks.hypertable_name"
        " WHERE is_compressed ORDER BY 1",
    )
    create(client, latency_ms=3)
    run_policy(client)

    assert compressed == [("histogram_hour",), ("rollup_hour",)]
    assert kpis(client) == (4, "daily")


@community_licence
def test_a_refresh_decompresses_the_rollups_of_its_day_and_no_others(engine: TestedEngine, serve: Serve) -> None:
    require_community_licence(engine)
    client = serve()
    # An event for each row of an hour; a batch of columns has at most 1,000.
    rows_of_hour = list(product(("/a", "/b"), range(2, 102, 2)))
    events = [
        make_event(time=f"2025-12-{day}T{hour:02}:30:00Z", endpoint=endpoint, latency_ms=latency_ms)
        for day, hour, (endpoint, latency_ms) in product((13, 14, 15), range(24), rows_of_hour)
    ]
    post_ingest(client, events)
    container_of(client).rollups.refresh()
    run_statement(client, "CALL observability.columnstore_policy(0, NULL)")

    create(client, time="2025-12-14T12:00:00Z", endpoint="/b")
    container_of(client).rollups.refresh()

    ((chunk,),) = run_statement(client, "SELECT show_chunks('observability.histogram_hour')::text")
    rows = run_statement(client, f"SELECT DISTINCT date_trunc('day', bucket, 'UTC') FROM ONLY {chunk}")
    assert rows == [(datetime(2025, 12, 14, tzinfo=UTC),)]
    assert client.get(f"/api/requests/kpis/?{DAY_QUERY}").json()["hits"] == len(events) // 3 + 1


def test_compressed_chunks_are_in_the_order_of_time_and_not_divided_by_series(client: Client) -> None:
    columns = run_statement(
        client,
        "SELECT attname, segmentby_column_index, orderby_column_index, orderby_asc"
        " FROM timescaledb_information.compression_settings WHERE hypertable_name = 'event'"
        " ORDER BY segmentby_column_index, orderby_column_index",
    )

    assert columns == [("time", None, 1, False), ("id", None, 2, True)]


def test_the_refresh_policy_refreshes_dirty_hours(client: Client) -> None:
    post_ingest(client, make_events(3))

    run_policy(client)

    assert kpis(client) == (3, "daily")
    assert touched(client) == []
    assert run_statement(client, "SELECT objid FROM pg_locks WHERE locktype = 'advisory'") == []


def seen(client: Client, query: str = "") -> tuple[str, str]:
    (row,) = client.get(f"/api/requests/services/?{query}").json()["results"]
    return row["first_seen"], row["last_seen"]


def test_first_and_last_events_of_whole_days_are_not_looked_up(client: Client) -> None:
    times = ["2025-12-13T10:00:00Z", "2025-12-14T11:00:00Z", "2025-12-15T12:00:00Z"]
    post_ingest(client, [make_event(time=time) for time in times])
    run_policy(client)
    # To tell which of them is read.
    ((table,),) = run_statement(
        client,
        "SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)"
        " FROM timescaledb_information.continuous_aggregates WHERE view_name = 'seen_day'",
    )
    with client.service.shared.db.connection() as connection:
        connection.execute(
            f"UPDATE {table} SET first_seen = first_seen - interval '1 min', last_seen = last_seen + interval '1 min'"
        )

    assert seen(client) == ("2025-12-13T09:59:00Z", "2025-12-15T12:01:00Z")
    # Parts of days.
    assert seen(client, "time_after=2025-12-13T09:30:00Z&time_before=2025-12-15T20:00:00Z") == (times[0], times[-1])
    # A day that is dirty.
    post_ingest(client, [make_event(time="2025-12-15T11:30:00Z")])
    assert seen(client) == ("2025-12-13T09:59:00Z", times[-1])
    # Of removed events, only the bucket is known.
    run_statement(client, "UPDATE observability.retention SET from_time = '2025-12-14 00:00Z' WHERE level = 'raw'")
    run_statement(client, "DELETE FROM observability.event WHERE time < '2025-12-14 00:00Z'")
    assert seen(client) == ("2025-12-13T10:00:00Z", times[-1])


def test_first_and_last_events_follow_what_is_edited_and_deleted(client: Client) -> None:
    first, last = (create(client, time=f"2025-12-14T{hour}:00:00Z") for hour in (10, 12))
    create(client, time="2025-12-14T11:00:00Z")
    run_policy(client)
    before = seen(client)

    client.request("DELETE", first)
    client.request("PATCH", last, json={"time": "2025-12-14T10:30:00Z"})
    dirty = seen(client)
    run_policy(client)

    assert before == ("2025-12-14T10:00:00Z", "2025-12-14T12:00:00Z")
    assert dirty == seen(client) == ("2025-12-14T10:30:00Z", "2025-12-14T11:00:00Z")
    days = run_statement(client, "SELECT first_seen, last_seen FROM observability.seen_day")
    assert days == [(datetime(2025, 12, 14, 10, 30, tzinfo=UTC), datetime(2025, 12, 14, 11, tzinfo=UTC))]


def test_the_refresh_policy_leaves_the_running_hour_alone(client: Client) -> None:
    now = datetime.now(UTC)
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    store_at(client, now, this_hour - HOUR)

    run_policy(client)

    assert touched(client) == [(this_hour,)]
    assert run_statement(client, "SELECT bucket FROM observability.rollup_hour") == [(this_hour - HOUR,)]


@pytest.mark.parametrize(
    "times",
    [("2025-10-26T01:30:00Z", "2025-10-27T00:30:00Z"), ("2026-03-29T00:30:00Z", "2026-03-29T23:30:00Z")],
    ids=["25 hours", "23 hours"],
)
def test_a_day_has_24_hours_in_any_time_zone_of_the_policy(client: Client, times: tuple[str, str]) -> None:
    post_ingest(client, [make_event(time=time) for time in times])
    # A service has UTC, the server's own workers have what it is configured to.
    run_statement(client, "SET TimeZone = 'Europe/Berlin'")

    run_policy(client)

    run_statement(client, "SET TimeZone = 'UTC'")
    days = f"start={times[0][:10]}&end={times[1][:10]}&granularity=daily&approx=true"
    assert kpis(client, days) == (2, "daily")
    assert touched(client) == []


def test_no_answer_is_wrong_after_a_refresh_that_failed_half_way(client: Client) -> None:
    post_ingest(client, make_events(3))
    path = f"/api/requests/kpis/?{DAY_QUERY}&service=billing"
    before = client.get(path).json()
    run_statement(client, "ALTER MATERIALIZED VIEW observability.coarse_day RENAME TO away")

    with pytest.raises(psycopg.errors.UndefinedTable):
        run_policy(client)
    failed = client.get(path).json()
    run_statement(client, "ALTER MATERIALIZED VIEW observability.away RENAME TO coarse_day")
    run_policy(client)

    assert failed == before
    repaired = client.get(path).json()
    assert (repaired["hits"], repaired["source"]) == (3, "daily")
    assert repaired["p95_latency_ms"] == pytest.approx(before["p95_latency_ms"], rel=0.01)


def test_the_refresh_policy_goes_on_after_a_day_that_failed(client: Client) -> None:
    days = [today() - 2 * DAY, today() - DAY]
    store_at(client, *days)

    with failing(client, days[0]):
        for _ in ("stops at the first day", "begins with the second"):
            with pytest.raises(psycopg.errors.DivisionByZero):
                run_policy(client)

    assert touched(client) == [(days[0],)]
    run_policy(client)
    assert touched(client) == []


def test_the_refresh_policy_does_nothing_while_another_session_refreshes(client: Client) -> None:
    post_ingest(client, make_events(3))
    # There is one session, which has a lock as often as it likes.
    run_statement(client, "CREATE SCHEMA pretended")
    run_statement(
        client,
        "CREATE FUNCTION pretended.pg_try_advisory_lock(key integer) RETURNS boolean LANGUAGE sql AS"
        " $$ SELECT key <> hashtext('observability.rollups') $$",
    )
    run_statement(client, "SET search_path = pretended, pg_catalog, public")

    run_policy(client)

    assert len(touched(client)) == 1
    assert kpis(client) == (3, "hourly")


def test_compressed_events_can_be_read_and_edited_and_late_ones_inserted(client: Client) -> None:
    url, doomed = create(client, latency_ms=1), create(client, latency_ms=2)
    before = client.get(url).json()
    run_statement(client, "SELECT compress_chunk(chunk) FROM show_chunks('observability.event') AS chunk")

    moved = client.request("PATCH", url, json={"status_code": 500})
    late = create(client, latency_ms=3)
    deleted = client.request("DELETE", doomed)
    run_policy(client)

    assert (moved.status, moved.json()) == (200, {**before, "status_code": 500})
    assert (client.get(url).json(), client.get(late).status) == (moved.json(), 200)
    assert (deleted.status, client.get(doomed).status) == (204, 404)
    assert kpis(client) == (2, "daily")


def test_a_replay_of_compressed_events_stores_nothing_twice(client: Client) -> None:
    events = make_events(5)
    headers = {"Idempotency-Key": "once"}
    client.post("/api/requests/ingest/", events, headers=headers)
    run_statement(client, "SELECT compress_chunk(chunk) FROM show_chunks('observability.event') AS chunk")

    again = client.post("/api/requests/ingest/", events, headers=headers).json()

    assert again["inserted"] == 0
    assert run_statement(client, "SELECT count(*) FROM observability.event") == [(5,)]


def test_a_licence_that_was_changed_makes_the_service_not_ready(client: Client) -> None:
    checks = {each.name: each for _, each in client.service.registry.contributions(HealthCheck)}
    check = checks["timescaledb"]
    assert check.review is not None
    assert check.review() is None
    # The licence is set on the server's command line, which this build does not have.
    run_statement(client, "CREATE SCHEMA changed")
    run_statement(
        client,
        "CREATE FUNCTION changed.current_setting(name text, missing_ok boolean) RETURNS text LANGUAGE sql AS $$"
        " SELECT CASE name WHEN 'timescaledb.license' THEN 'apache'"
        " ELSE pg_catalog.current_setting(name, missing_ok) END $$",
    )
    run_statement(client, "SET search_path = changed, pg_catalog, public")

    ready = client.get("/readyz")

    failed = {each["name"]: each["detail"] for each in ready.json()["checks"] if each["status"] == "failed"}
    assert (ready.status, list(failed)) == (503, ["timescaledb"])
    assert failed["timescaledb"].startswith("timescaledb.license of the database server is apache")
    with pytest.raises(UnavailableError):
        check.review()


def test_an_edit_of_compressed_events_has_no_limit(timescale_engine: TestedEngine) -> None:
    limit = "timescaledb.max_tuples_decompressed_per_dml_transaction"
    with serving_on(timescale_engine, before=f"SET {limit} = 1") as client:
        urls = [create(client, latency_ms=number) for number in range(3)]
        run_statement(client, "SELECT compress_chunk(chunk) FROM show_chunks('observability.event') AS chunk")

        run_statement(client, "UPDATE observability.event SET user_ref = 'someone'")

        assert [client.get(url).json()["user_ref"] for url in urls] == ["someone"] * 3
