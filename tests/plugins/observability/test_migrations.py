"""What earlier versions stored is right after migrations that change it, on every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from kernel.db.migrations import MigrationError, find_migrations
from kernel.db.migrations import migrate as apply_migrations
from kernel.testing import Client, make_configuration, running
from tests.plugins.observability.analytics.factories import container_of
from tests.plugins.observability.engines import TestedEngine, every_engine, migrate, run_statement
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
COMPRESS = "SELECT compress_chunk(chunk) FROM show_chunks('observability.event') AS chunk"


def go_back_to(url: str, before: str) -> None:
    """Make the database one of the version before a migration, without events."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA observability CASCADE")
        connection.execute("DELETE FROM tiercel.migration WHERE id LIKE 'observability/%'")
    apply_migrations(url, [each for each in MIGRATIONS if each.path.stem < before])


def kpis(client: Client, query: str) -> tuple[Any, ...]:
    found = client.get(f"/api/requests/kpis/?{DAY}{query}").json()
    return found["hits"], found["avg_latency_ms"], found["max_latency_ms"]


@pytest.mark.xdist_group("timescale")
def test_a_timescaledb_that_cannot_change_columnar_chunks_is_to_be_updated(timescale_engine: TestedEngine) -> None:
    with timescale_engine.database() as url:
        go_back_to(url, "0006_absent_latency")
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


def test_events_with_a_latency_keep_it_and_others_join_them(engine: TestedEngine) -> None:
    with engine.database() as url:
        go_back_to(url, "0006_absent_latency")
        with psycopg.connect(url, autocommit=True) as connection:
            if not engine.name.startswith("timescaledb"):
                connection.execute(PARTITION)
            for statement in (LATENCY_NOT_NULL, SERIES, EVENTS, TOUCHED):
                connection.execute(statement)
            if engine.name == "timescaledb":
                connection.execute(REFRESH)
                connection.execute(COMPRESS)
        migrate(url)

        configuration = make_configuration(
            db=engine.settings(url),
            log={"level": "error", "requests": False},
            observability={"log_own_requests": False},
        )
        with running(configuration) as client:
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
        go_back_to(url, "0017_timescale_layout")
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
