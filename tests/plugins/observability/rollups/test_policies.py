"""What TimescaleDB does by itself under its community licence: refresh, and old chunks as columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from kernel.testing import Client
from tests.plugins.observability.engines import TestedEngine, migrate, run_statement, serving_on
from tests.plugins.observability.events import create, make_events, post_ingest
from tests.plugins.observability.inserting import copy_by_statements

pytestmark = pytest.mark.xdist_group("timescale")
DAY = "start=2025-12-14&end=2025-12-14&granularity=daily&approx=true"


@pytest.fixture
def client(timescale_engine: TestedEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A service on TimescaleDB."""
    copy_by_statements(monkeypatch)
    with serving_on(timescale_engine) as started:
        yield started


def kpis(client: Client) -> tuple[Any, ...]:
    found = client.get(f"/api/requests/kpis/?{DAY}").json()
    return found["hits"], found["source"]


def test_rollups_are_continuous_aggregates_that_show_only_what_was_materialised(client: Client) -> None:
    found = run_statement(
        client,
        "SELECT view_name, materialized_only FROM timescaledb_information.continuous_aggregates ORDER BY 1",
    )

    names = [f"{kind}_{level}" for kind in ("coarse", "histogram", "rollup") for level in ("day", "hour")]
    assert found == [(name, True) for name in names]


@pytest.mark.parametrize(("version", "kind"), [("2.12.2", "r"), ("2.13.0", "v")])
def test_aggregates_are_used_from_the_version_on_that_can_join_and_stack_them(
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
            # There is one session: whoever connects next has this as well.
            connection.execute("SET search_path = pretended, pg_catalog, public")
        migrate(url)

        with psycopg.connect(url, autocommit=True) as connection:
            found = connection.execute("SELECT relkind FROM pg_class WHERE relname = 'rollup_hour'").fetchall()

    assert found == [(kind,)]


def test_policies_refresh_and_turn_old_chunks_into_columns(client: Client) -> None:
    jobs = run_statement(client, "SELECT proc_name FROM timescaledb_information.jobs WHERE job_id >= 1000 ORDER BY 1")

    assert [name for (name,) in jobs] == ["policy_compression", "refresh_policy"]


def test_the_refresh_policy_refreshes_what_was_touched(client: Client) -> None:
    post_ingest(client, make_events(3))

    run_statement(client, "CALL observability.refresh_policy(0, NULL)")

    assert kpis(client) == (3, "daily")
    assert run_statement(client, "SELECT FROM observability.rollup_touched") == []


def test_events_in_columns_are_read_changed_and_joined_by_late_ones(client: Client) -> None:
    url, doomed = create(client, latency_ms=1), create(client, latency_ms=2)
    before = client.get(url).json()
    run_statement(client, "SELECT compress_chunk(chunk) FROM show_chunks('observability.event') AS chunk")

    moved = client.request("PATCH", url, json={"status_code": 500})
    late = create(client, latency_ms=3)
    deleted = client.request("DELETE", doomed)
    run_statement(client, "CALL observability.refresh_policy(0, NULL)")

    assert (moved.status, moved.json()) == (200, {**before, "status_code": 500})
    assert (client.get(url).json(), client.get(late).status) == (moved.json(), 200)
    assert (deleted.status, client.get(doomed).status) == (204, 404)
    assert kpis(client) == (2, "daily")


def test_a_replay_of_events_in_columns_stores_nothing_twice(client: Client) -> None:
    events = make_events(5)
    headers = {"Idempotency-Key": "once"}
    client.post("/api/requests/ingest/", events, headers=headers)
    run_statement(client, "SELECT compress_chunk(chunk) FROM show_chunks('observability.event') AS chunk")

    again = client.post("/api/requests/ingest/", events, headers=headers).json()

    assert again["inserted"] == 0
    assert run_statement(client, "SELECT count(*) FROM observability.event") == [(5,)]


def test_no_edit_of_events_in_columns_is_too_large(timescale_engine: TestedEngine) -> None:
    limit = "timescaledb.max_tuples_decompressed_per_dml_transaction"
    with serving_on(timescale_engine, before=f"SET {limit} = 1") as client:
        urls = [create(client, latency_ms=number) for number in range(3)]
        run_statement(client, "SELECT compress_chunk(chunk) FROM show_chunks('observability.event') AS chunk")

        run_statement(client, "UPDATE observability.event SET user_ref = 'someone'")

        assert [client.get(url).json()["user_ref"] for url in urls] == ["someone"] * 3
