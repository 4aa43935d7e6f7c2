"""What earlier versions stored is right after migrations that change it, on every engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kernel.db.migrations import Migration, MigrationError, find_migrations
from kernel.db.migrations import migrate as apply_migrations
from kernel.testing import Client, make_configuration, running
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.conftest import QUIET
from tests.plugins.observability.engines import (
    TestedEngine,
    community_licence,
    every_engine,
    migrate,
    require_community_licence,
    run_statement,
)
from tests.plugins.observability.events import create, make_event, post_ingest

pytestmark = [every_engine, pytest.mark.slow]

MIGRATIONS = find_migrations("observability", Path("plugins/observability/migrations"))
DAY = "start=2025-12-14&end=2025-12-14"
SERIES = """
    INSERT INTO observability.series (service, endpoint, method) VALUES ('billing', '/api/v1/invoices', 'GET')
"""
EVENTS = """
    INSERT INTO observability.event (id, time, series, status_code, latency_ms, tags)
    SELECT gen_random_uuid(), '2025-12-14 12:00Z', id, 200, latency_ms, '{}'
    FROM observability.series, unnest(ARRAY[10, 20]) AS latency_ms
"""
# As the first migration made it then.
LATENCY_NOT_NULL = "ALTER TABLE observability.event ALTER COLUMN latency_ms SET NOT NULL"
TOUCHED = "INSERT INTO observability.rollup_touched (hour) VALUES ('2025-12-14 12:00Z')"
PARTITION = "SELECT observability.ensure_partitions('{2025-12-14}')"
REFRESH = "CALL observability.refresh_day('2025-12-14 00:00Z', '{2025-12-14 12:00Z}')"
RECORDED = next(each for each in MIGRATIONS if each.path.stem == "0002_rollups")
DAY_BEFORE = "start=2025-12-13&end=2025-12-13"
ROLLED_UP = ("&approx=true&granularity=daily", "&approx=true&granularity=hourly&service=billing")
EVENTS_OF_TWO_DAYS = """
    INSERT INTO observability.event (id, time, series, status_code, latency_ms, tags)
    SELECT gen_random_uuid(), time, id, 200, 10 * sign(extract(minute FROM time)), '{}'
    FROM observability.series,
         generate_series('2025-12-13 00:00Z'::timestamptz, '2025-12-14 23:59Z', '1 minute') AS time
"""
TOUCHED_BY_ALL = """
    INSERT INTO observability.rollup_touched (hour)
    SELECT DISTINCT date_trunc('hour', time, 'UTC') FROM observability.event
"""
POLICY = "CALL observability.refresh_policy(0, NULL)"
COLUMNS = "CALL observability.columnstore_policy(0, NULL)"
LAYOUTS = """
    SELECT view_name::text, orderby FROM timescaledb_information.chunk_compression_settings
    JOIN timescaledb_information.continuous_aggregates
        ON hypertable = format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)::regclass
    ORDER BY 1
"""
REMOVE_FIRST_DAY = (
    "UPDATE observability.retention SET from_time = '2025-12-14 00:00Z' WHERE level = 'raw'",
    "SELECT drop_chunks('observability.event', older_than => timestamptz '2025-12-14 00:00Z')",
)
COMPRESS = "SELECT compress_chunk(chunk) FROM show_chunks('observability.event') AS chunk"


def go_back_to(engine: TestedEngine, url: str, before: str, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Make the database one of the version before a migration, without events, and without policies that run."""
    engine.stop_policies(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA observability CASCADE")
        connection.execute("DELETE FROM tiercel.migration WHERE id LIKE 'observability/%'")
    apply_migrations(url, [each for each in migrations if each.path.stem < before])


def with_older_logarithm(directory: Path) -> Sequence[Migration]:
    """Copy the migrations; in the copies the logarithm of latency 0 fails wherever it is evaluated."""
    for each in MIGRATIONS:
        (directory / each.path.name).write_text(each.text.replace("int4larger(latency_ms, 1)", "latency_ms"))
    return find_migrations("observability", directory)


def serving(engine: TestedEngine, url: str) -> AbstractContextManager[Client]:
    """Run a service on a database as it is."""
    return running(make_configuration(db=engine.settings(url), **QUIET))


def kpis(client: Client, query: str, day: str = DAY) -> tuple[Any, ...]:
    found = client.get(f"/api/requests/kpis/?{day}{query}").json()
    return found["hits"], found["avg_latency_ms"], found["max_latency_ms"]


@pytest.mark.xdist_group("timescale")
def test_a_timescaledb_that_cannot_change_columnar_chunks_is_to_be_updated(timescale_engine: TestedEngine) -> None:
    with timescale_engine.database() as url:
        go_back_to(timescale_engine, url, "0006_absent_latency")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(LATENCY_NOT_NULL)
            # What such a version does.
            connection.execute("""
                CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
                BEGIN
                    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'operation not supported';
                END $$;
                CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION refuse();
            """)

        with pytest.raises(MigrationError, match=r"update the extension to 2\.18 or later"):
            apply_migrations(url, MIGRATIONS)


@community_licence
def test_continuous_aggregates_from_before_keep_what_they_know_and_learn_of_late_events(
    engine: TestedEngine, tmp_path: Path
) -> None:
    require_community_licence(engine)
    with engine.database() as url:
        go_back_to(engine, url, "0016_refresh_attempts", with_older_logarithm(tmp_path))
        (earlier,) = RECORDED.valid_checksums - {RECORDED.sha256}
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE tiercel.migration SET sha256 = %s WHERE id = %s", [earlier, RECORDED.id])
            for statement in (SERIES, EVENTS_OF_TWO_DAYS, TOUCHED_BY_ALL, POLICY, *REMOVE_FIRST_DAY, COMPRESS):
                connection.execute(statement)
        migrate(url)

        with serving(engine, url) as client:
            before = [kpis(client, way, DAY_BEFORE) for way in ROLLED_UP]
            # Beside compressed events, some of which have latency 0.
            create(client)
            container_of(client).rollups.refresh()

            assert before == [kpis(client, way, DAY_BEFORE) for way in ROLLED_UP]
            assert before == [(1440, pytest.approx(10 * 59 / 60), 10)] * 2
            assert [kpis(client, way)[0] for way in ROLLED_UP] == [1441] * 2
            assert run_statement(client, "SELECT FROM observability.rollup_touched") == []
            assert run_statement(client, "SHOW timescaledb.enable_vectorized_aggregation") == [("on",)]


def test_events_with_a_latency_keep_it_and_others_join_them(engine: TestedEngine) -> None:
    with engine.database() as url:
        go_back_to(engine, url, "0006_absent_latency")
        with psycopg.connect(url, autocommit=True) as connection:
            if not engine.name.startswith("timescaledb"):
                connection.execute(PARTITION)
            for statement in (LATENCY_NOT_NULL, SERIES, EVENTS, TOUCHED):
                connection.execute(statement)
            if engine.name == "timescaledb":
                connection.execute(REFRESH)
                connection.execute(COMPRESS)
        migrate(url)

        with serving(engine, url) as client:
            ways = ("", "&approx=true", "&granularity=daily&service=billing", "&method=GET")
            assert {kpis(client, way) for way in ways} == {(2, 15.0, 20)}
            post_ingest(client, [make_event(latency_ms=None), make_event(latency_ms=None, status_code=500)])
            create(client, latency_ms=30)
            for _ in ("from events", "from rollups"):
                assert {kpis(client, way) for way in ways} == {(5, 20.0, 30)}
                container_of(client).rollups.refresh()
            series = run_statement(
                client, "SELECT service, endpoint, method, timed FROM observability.series ORDER BY 4"
            )
            assert series == [("billing", "/api/v1/invoices", "GET", timed) for timed in (False, True)]


@pytest.mark.xdist_group("timescale")
@pytest.mark.engines("timescale_engine")
def test_rollups_and_columns_of_the_former_layout_are_converted(timescale_engine: TestedEngine) -> None:
    with timescale_engine.database() as url:
        go_back_to(timescale_engine, url, "0017_timescale_layout")
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in (SERIES, EVENTS, TOUCHED, REFRESH, COMPRESS):
                connection.execute(statement)
            # As if retention had removed the events: only rollups know them.
            connection.execute("UPDATE observability.retention SET from_time = '2025-12-15Z' WHERE level = 'raw'")
        apply_migrations(url, MIGRATIONS)

        with running(make_configuration(db=timescale_engine.settings(url), log={"level": "error"})) as client:
            before = kpis(client, "&approx=true")
            run_statement(client, "CALL observability.columnstore_policy(0, NULL)")
            layouts = run_statement(
                client,
                "SELECT segmentby, orderby FROM timescaledb_information.chunk_compression_settings"
                " WHERE hypertable = 'observability.event'::regclass",
            )
            events = run_statement(client, "SELECT count(*) FROM observability.event")

    assert before == (2, 15.0, 20)
    assert [(segments or "", order) for segments, order in layouts] == [("", '"time" DESC,id')]
    assert events == [(2,)]


@pytest.mark.xdist_group("timescale")
@pytest.mark.engines("timescale_engine")
def test_first_and_last_events_of_days_from_before_are_found_and_then_computed(timescale_engine: TestedEngine) -> None:
    with timescale_engine.database() as url:
        go_back_to(timescale_engine, url, "0019_first_and_last_events")
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in (SERIES, EVENTS_OF_TWO_DAYS, TOUCHED_BY_ALL, POLICY, COMPRESS):
                connection.execute(statement)
        apply_migrations(url, MIGRATIONS)

        with running(make_configuration(db=timescale_engine.settings(url), **QUIET)) as client:
            found, days = [], []
            for _ in ("from events", "from days"):
                (row,) = client.get("/api/requests/services/").json()["results"]
                found.append((row["hits"], row["first_seen"], row["last_seen"]))
                days.append(run_statement(client, "SELECT bucket FROM observability.seen_day ORDER BY 1"))
                run_statement(client, "CALL observability.seen_policy(0, NULL)")
            locks = run_statement(
                client,
                "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = hashtext('observability.rollups')::oid",
            )

    assert found == [(2880, "2025-12-13T00:00:00Z", "2025-12-14T23:59:00Z")] * 2
    assert days == [[], [(datetime(2025, 12, day, tzinfo=UTC),) for day in (13, 14)]]
    assert locks == []


@community_licence
def test_rollups_that_are_columns_by_series_are_put_in_the_order_of_time(engine: TestedEngine) -> None:
    require_community_licence(engine)
    with engine.database() as url:
        go_back_to(engine, url, "0021_rollup_columns")
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in (SERIES, EVENTS_OF_TWO_DAYS, TOUCHED_BY_ALL, POLICY, COLUMNS):
                connection.execute(statement)
            layouts = [connection.execute(LAYOUTS).fetchall()]
        apply_migrations(url, MIGRATIONS)

        with serving(engine, url) as client:
            found = []
            for _ in ("by series", "by time"):
                found.append([kpis(client, way) for way in ROLLED_UP])
                run_statement(client, COLUMNS)
            layouts.append(run_statement(client, LAYOUTS))

    assert layouts == [
        [("histogram_hour", "series,bucket,bin"), ("rollup_day", "series,bucket"), ("rollup_hour", "series,bucket")],
        [("histogram_hour", "bucket,series,bin"), ("rollup_hour", "bucket,series")],
    ]
    assert found == [[(1440, pytest.approx(10 * 59 / 60), 10)] * 2] * 2
