"""The policies of TimescaleDB under its community licence: refresh of rollups, compression of old chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from tests.plugins.observability.events import create, listed, make_event, make_events, post_ingest
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
        ("trace_policy", "01:00:00"),
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
    # An event for each row of an hour.
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


@community_licence
def test_rollups_that_are_columns_are_in_batches_that_a_question_about_some_series_can_skip(
    engine: TestedEngine, serve: Serve
) -> None:
    require_community_licence(engine)
    client = serve()
    post_ingest(client, [make_event(endpoint=f"/{number}") for number in range(600)])
    container_of(client).rollups.refresh()
    run_statement(client, "CALL observability.columnstore_policy(0, NULL)")
    ((first,),) = run_statement(client, "SELECT min(series) FROM observability.rollup_hour")

    for name in ("rollup_hour", "histogram_hour"):
        assert batches_read(client, f"SELECT series FROM observability.{name}") == 3
        assert batches_read(client, f"SELECT series FROM observability.{name} WHERE series = {first}") == 1


def batches_read(client: Client, query: str) -> int:
    """Return how many batches of columns a query decompresses."""
    ((plan,),) = run_statement(client, f"EXPLAIN (ANALYZE, FORMAT JSON) {query}")
    return int(
        sum(node["Actual Rows"] for node in nodes(plan[0]["Plan"]) if "compress" in node.get("Relation Name", ""))
    )


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a node of a plan, and those below it."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


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


KNOWN_DAYS = "SELECT bucket, hashes FROM observability.trace_day ORDER BY 1"
FORGET_DAYS = "UPDATE observability.trace_day SET hashes = '{}' WHERE bucket = '2025-12-14 00:00Z'"
COMPRESS_OLD = (
    "SELECT compress_chunk(chunk) FROM show_chunks('observability.event', older_than => interval '8 days') AS chunk"
)


def know_traces(client: Client) -> None:
    """Make columns of old events, and look up on which days traces have some."""
    container_of(client).rollups.refresh()
    for statement in ("CALL observability.trace_policy(0, NULL)", COMPRESS_OLD):
        run_statement(client, statement)


def trace_times(client: Client, trace_id: str = "t") -> list[str]:
    """Return the times of the events of a trace, as the trace and the list of its events have them."""
    answer = client.get(f"/api/requests/traces/{trace_id}/").json()
    times = [event["time"] for event in answer.get("events", [])]
    assert times == [event["time"] for event in listed(client, f"trace_id={trace_id}&ordering=time")]
    return times


def known_until(client: Client) -> str:
    ((until,),) = run_statement(client, "SELECT until::text FROM observability.trace_watermark")
    return str(until)


@community_licence
def test_a_trace_is_looked_for_on_the_days_that_have_it(engine: TestedEngine, serve: Serve) -> None:
    require_community_licence(engine)
    client = serve()
    times = [f"2025-12-{day}T{hour}:00:00Z" for day in (13, 14, 16) for hour in (10, 11)]
    recent = f"{today() - DAY:%Y-%m-%d}T10:00:00Z"
    post_ingest(client, [make_event(time=time, trace_id="t") for time in (*times, recent)])
    post_ingest(client, [make_event(time="2025-12-15T10:00:00Z", trace_id=other) for other in ("u", None)])
    before = known_until(client)
    know_traces(client)

    assert (before, known_until(client)) == ("-infinity", "2025-12-17 00:00:00+00")
    assert [day.day for day, _ in run_statement(client, KNOWN_DAYS)] == [13, 14, 15, 16]
    assert trace_times(client) == [*times, recent]
    assert (trace_times(client, "u"), trace_times(client, "v")) == (["2025-12-15T10:00:00Z"], [])
    windows = {"start=2025-12-14": 5, "end=2025-12-14T10:30:00Z": 3, "start=2025-12-13T11:00:00Z&end=2025-12-13": 1}
    for window, count in windows.items():
        assert len(listed(client, f"trace_id=t&{window}")) == count
    # Not looked for in the events of other days.
    run_statement(client, FORGET_DAYS)
    assert trace_times(client) == [*times[:2], *times[4:], recent]


@community_licence
def test_late_events_of_a_trace_are_found_before_and_after_their_hours_are_refreshed(
    engine: TestedEngine, serve: Serve
) -> None:
    require_community_licence(engine)
    client = serve()
    days = ["2025-12-13", "2025-12-14", "2025-12-15"]
    urls = [create(client, time=f"{day}T10:00:00Z", trace_id=day[-2:]) for day in days]
    know_traces(client)

    create(client, time="2025-12-14T12:00:00Z", trace_id="t")
    # Of a day that had none.
    create(client, time="2025-12-10T12:00:00Z", trace_id="t")
    client.request("PATCH", urls[0], json={"trace_id": "t"})
    client.request("PATCH", urls[1], json={"time": "2025-12-15T12:00:00Z"})
    client.request("DELETE", urls[2])
    found = []
    for _ in ("dirty", "clean"):
        found.append([trace_times(client, trace_id) for trace_id in ("t", "13", "14", "15")])
        container_of(client).rollups.refresh()

    late = ["2025-12-10T12:00:00Z", "2025-12-13T10:00:00Z", "2025-12-14T12:00:00Z"]
    assert found == [[late, [], ["2025-12-15T12:00:00Z"], []]] * 2
    assert touched(client) == []
    # Nothing is added twice.
    create(client, time="2025-12-14T12:00:01Z", trace_id="t")
    known = run_statement(client, KNOWN_DAYS)
    container_of(client).rollups.refresh()
    assert run_statement(client, KNOWN_DAYS) == known


@community_licence
def test_a_trace_of_many_days_is_looked_for_on_all(engine: TestedEngine, serve: Serve) -> None:
    require_community_licence(engine)
    client = serve()
    times = [f"{datetime(2025, 11, 1) + DAY * number:%Y-%m-%d}T10:00:00Z" for number in range(40)]
    post_ingest(client, [make_event(time=time, trace_id="t") for time in times])
    know_traces(client)

    assert trace_times(client) == times
    assert len(listed(client, "trace_id=t&start=2025-11-02&end=2025-12-05")) == 34


@community_licence
def test_days_of_traces_go_with_the_events(engine: TestedEngine, serve: Serve) -> None:
    require_community_licence(engine)
    client = serve()
    times = [f"2025-12-{day}T10:00:00Z" for day in (13, 14, 15)]
    post_ingest(client, [make_event(time=time, trace_id="t") for time in times])
    know_traces(client)
    run_statement(client, "UPDATE observability.retention SET from_time = '2025-12-15 00:00Z' WHERE level = 'raw'")

    run_statement(client, "CALL observability.trace_policy(0, NULL)")

    assert [day.day for day, _ in run_statement(client, KNOWN_DAYS)] == [14, 15]


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


def test_policies_do_nothing_while_another_session_refreshes(client: Client) -> None:
    post_ingest(client, make_events(3, trace_id="t"))
    run_policy(client)
    create(client)
    # There is one session, which has a lock as often as it likes.
    run_statement(client, "CREATE SCHEMA pretended")
    for name in ("pg_try_advisory_lock", "pg_try_advisory_xact_lock"):
        run_statement(
            client,
            f"CREATE FUNCTION pretended.{name}(key integer) RETURNS boolean LANGUAGE sql AS"
            " $$ SELECT key <> hashtext('observability.rollups') $$",
        )
    run_statement(client, "SET search_path = pretended, pg_catalog, public")

    run_policy(client)
    run_statement(client, "CALL observability.trace_policy(0, NULL)")

    assert len(touched(client)) == 1
    assert kpis(client) == (4, "hourly")
    assert known_until(client) == "-infinity"
    run_statement(client, "SET search_path = DEFAULT")
    run_statement(client, "CALL observability.trace_policy(0, NULL)")
    assert known_until(client) == "2025-12-15 00:00:00+00"


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
