"""Query sessions: which series are read, and whether the server keeps the plans of queries."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from kernel.identity import SYSTEM_ACCOUNT
from kernel.testing import Client
from plugins.observability.analytics.scope import Scope
from plugins.observability.analytics.session import QuerySession
from plugins.observability.resolution import DAY, Resolution, Span
from tests.conftest import Serve
from tests.plugins.observability.analytics.factories import container_of, ingest
from tests.plugins.observability.engines import TestedEngine, every_server, one_engine, partitioned_server
from tests.plugins.observability.events import ROOT, make_event
from tests.processes import eventually

pytestmark = every_server

START = datetime(2025, 12, 10, tzinfo=UTC)
# Filters of one series.
ONE_SERIES = {"service": "a", "endpoint": "/0"}


def ingest_two_series(client: Client) -> None:
    ingest(client, [make_event(time=START.isoformat(), service="a", endpoint=f"/{number}") for number in range(2)])


@pytest.fixture(scope="module")
def client(shared: Client) -> Client:
    """A service with events of two series, for tests that only read."""
    ingest_two_series(shared)
    return shared


@pytest.fixture
def own_client(serve: Serve) -> Client:
    """A service with events of two series, for one test."""
    client = serve(observability={"log_own_requests": False})
    ingest_two_series(client)
    return client


def scope_of(days: int, filters: Mapping[str, Any]) -> Scope:
    return Scope(Span(START, START + days * DAY), SYSTEM_ACCOUNT, **filters)


def plan_mode(client: Client, scope: Scope, *, approx: bool) -> str:
    """Return the ``plan_cache_mode`` of a session."""
    with QuerySession.open(client.service.shared.db, scope, approx=approx) as session:
        ((mode,),) = session._connection.execute("SHOW plan_cache_mode")
        assert isinstance(mode, str)
        return mode


def rows_read(session: QuerySession) -> int:
    """Return how many rows of the tables of events a session has read so far."""
    ((count,),) = session._connection.execute(
        "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables"
        " WHERE relid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'observability.event'::regclass)"
    )
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize(
    ("filters", "days", "approx", "mode"),
    [
        (ONE_SERIES, 30, True, "force_generic_plan"),
        ({"service": "a"}, 30, True, "force_generic_plan"),
        (ONE_SERIES, 2, False, "force_generic_plan"),
        # Many events may have to be found.
        (ONE_SERIES, 3, False, "force_custom_plan"),
        ({}, 2, True, "force_custom_plan"),
    ],
)
def test_plans_are_kept_for_few_series_and_few_events_only(
    engine: TestedEngine, client: Client, filters: Mapping[str, str], days: int, approx: bool, mode: str
) -> None:
    if engine.name == "timescaledb" and not approx:
        # All columnar chunks would be in it.
        mode = "force_custom_plan"

    assert plan_mode(client, scope_of(days, filters), approx=approx) == mode


@one_engine
@pytest.mark.parametrize(("filters", "plans"), [(ONE_SERIES, [(2, 0)]), ({}, [])])
def test_queries_whose_plans_are_kept_are_prepared_at_once(
    client: Client, filters: Mapping[str, str], plans: list[tuple[int, int]]
) -> None:
    with QuerySession.open(client.service.shared.db, scope_of(2, filters), approx=True) as session:
        session._connection.execute("DEALLOCATE ALL")
        for _ in range(2):
            assert session.totals(session.plan(Resolution.RAW), 500).hits == (1 if filters else 2)

        assert (
            plans
            == session._connection.execute(
                "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%errors%'"
            ).fetchall()
        )


def test_plans_for_many_series_are_not_kept(own_client: Client) -> None:
    ingest(
        own_client, [make_event(time=START.isoformat(), service="b", endpoint=f"/{number}") for number in range(101)]
    )

    assert plan_mode(own_client, scope_of(2, {"service": "b"}), approx=True) == "force_custom_plan"


@partitioned_server
def test_plans_with_many_partitions_are_not_kept(own_client: Client) -> None:
    with own_client.service.shared.db.connection() as connection:
        # Only recent days and those to come have a partition each.
        connection.execute(
            "SELECT observability.ensure_partitions(ARRAY("
            "  SELECT current_date + day FROM generate_series(0, 60) AS day))"
        )

    assert plan_mode(own_client, scope_of(2, ONE_SERIES), approx=True) == "force_custom_plan"


def test_the_plan_mode_of_a_session_ends_with_its_transaction(client: Client) -> None:
    db = client.service.shared.db
    with db.connection() as connection:
        before = connection.execute("SHOW plan_cache_mode").fetchone()

    assert plan_mode(client, scope_of(2, ONE_SERIES), approx=True) == "force_generic_plan"

    for _ in range(db.stats()["pool_size"]):
        with db.connection() as connection:
            assert connection.execute("SHOW plan_cache_mode").fetchone() == before


def vacuum_events(database: str) -> bool:
    """Vacuum; tell whether every page with events is known to be visible to all, so that an index alone is read."""
    with psycopg.connect(database, autocommit=True) as connection:
        # Commits are asynchronous on test servers, and VACUUM marks no page all-visible before their WAL is flushed.
        connection.execute("SET synchronous_commit = on")
        connection.execute("VACUUM ANALYZE")
        ((pages,),) = connection.execute(
            "SELECT sum(relpages - relallvisible) FROM pg_class"
            " WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'observability.event'::regclass)"
        )
    return bool(pages == 0)


def test_exact_percentiles_of_few_series_are_read_from_an_index_alone(
    engine: TestedEngine, own_client: Client, database: str
) -> None:
    # Of columns, none is read.
    engine.stop_policies(database)
    times = [(START + timedelta(seconds=number)).isoformat() for number in range(5000)]
    ingest(own_client, [make_event(time=time, service=f"s{number % 50}") for number, time in enumerate(times)])
    container_of(own_client).rollups.refresh()
    # It leaves out pages that somebody else writes to disk, and rows that an older snapshot may not see.
    assert eventually(lambda: vacuum_events(database))

    scope = scope_of(1, {"service": "s7"})
    with QuerySession.open(own_client.service.shared.db, scope, approx=False) as session:
        hours, events = session.plan(Resolution.HOUR), session.plan(Resolution.RAW)
        before = rows_read(session)
        totals, percentiles = session.totals_and_percentiles(hours, events, 500, [95.0])
        read = rows_read(session) - before

    assert (totals.hits, percentiles, read) == (100, [123.0], 0)


def test_many_series_and_spellings_of_one_name_are_found(serve: Serve) -> None:
    client = serve(observability={"log_own_requests": False})
    time = (START + timedelta(minutes=30)).isoformat()
    many = [make_event(time=time, service="Many", endpoint=f"/{number}", method="GET") for number in range(150)]
    same = [make_event(time=time, service=f"S{number}", endpoint="/Same", method="GET") for number in range(150)]
    both = [make_event(time=time, service=name, endpoint=f"/{name}", method="GET") for name in ("many", "MANY", "same")]
    both += [make_event(time=time, service="MANY", endpoint="/same", method="Get")]
    ingest(client, [*many, *same, *both])
    expected = {"service=many": 153, "endpoint=/same": 152, "service=many&endpoint=/same": 1, "method=get": 304}

    for source in ("hourly", "daily"):
        for filters, hits in expected.items():
            for approx in ("", "&approx=true"):
                query = f"start=2025-12-10&end=2025-12-10&granularity=daily&{filters}{approx}"
                found = client.get(f"{ROOT}kpis/?{query}").json()
                assert found["hits"] == hits, (source, query)
                assert found["source"] == ("raw" if "method" in filters and not approx else source), query
        container_of(client).rollups.refresh()


@pytest.mark.parametrize(
    ("query", "method"),
    [
        ("with_p95=true", "percentiles_by_group"),
        ("with_p95=true&approx=true", "histogram_by_group"),
        ("sort_by=p95_latency_ms", "totals_by_group"),
    ],
)
def test_figures_that_do_not_rank_are_read_only_for_the_endpoints_shown(
    client: Client, monkeypatch: pytest.MonkeyPatch, query: str, method: str
) -> None:
    read: list[tuple[str, str]] = []
    original = getattr(QuerySession, method)

    def recording(*arguments: Any) -> Any:
        found = original(*arguments)
        read.extend(found)
        return found

    monkeypatch.setattr(QuerySession, method, recording)

    rows = client.get(f"{ROOT}top-endpoints/?start=2025-12-10&end=2025-12-10&limit=1&{query}").json()

    assert read == [(row["service"], row["endpoint"]) for row in rows] == [("a", "/0")]
