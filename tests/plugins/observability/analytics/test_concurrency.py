"""Answers while others write and refresh: each is consistent with one snapshot of the database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from kernel import ConflictError, UnavailableError
from kernel.identity import SYSTEM_ACCOUNT
from kernel.testing import Client
from plugins.observability.analytics.scope import Scope
from plugins.observability.analytics.session import QuerySession
from plugins.observability.resolution import DAY, Resolution, Span
from plugins.observability.rollups.refresh import RefreshReport
from tests.conftest import Serve
from tests.plugins.observability.analytics.factories import container_of, ingest
from tests.plugins.observability.engines import every_server
from tests.plugins.observability.events import ROOT, create, make_event
from tests.processes import eventually

pytestmark = every_server

START = datetime(2025, 12, 10, tzinfo=UTC)
WINDOW = "start=2025-12-10&end=2025-12-12"
BATCHES = 150
OFFSETS = [
    timedelta(0),
    timedelta(hours=23, minutes=59),
    timedelta(days=1),
    timedelta(days=1, hours=5),
    timedelta(days=2),
]

HELD_UP = """pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
      -- TimescaleDB's is a procedure.
      AND (query LIKE '%coarse_day%' OR query LIKE 'CALL observability.refresh_day%')"""


@pytest.fixture
def client(serve: Serve) -> Client:
    return serve(observability={"log_own_requests": False})


def batch() -> list[dict[str, Any]]:
    """Make an event at each offset, one of them an error."""
    return [
        make_event(time=(START + offset).isoformat(), status_code=200 if offset else 500, latency_ms=10)
        for offset in OFFSETS
    ]


def kpis(client: Client, query: str) -> tuple[int, int, float]:
    answer = client.get(f"{ROOT}kpis/?{WINDOW}{query}")
    assert answer.status == 200, answer.content
    found = answer.json()
    return found["hits"], found["errors"], found["avg_latency_ms"]


def write(client: Client) -> None:
    for _ in range(BATCHES):
        ingest(client, batch())


def read(client: Client, query: str, done: threading.Event) -> int:
    """Ask until the others are done; return how many answers differed from the one before."""
    before, changes = 0, 0
    while not done.is_set():
        hits, errors, average = kpis(client, query)
        # The event that is moved is counted once at any time; a batch is counted as a whole or not at all.
        assert (hits % len(OFFSETS), hits >= before) == (1, True)
        assert errors == hits // len(OFFSETS)
        assert average == 10
        changes += hits > before
        before = hits
    return changes


def move(client: Client, url: str, done: threading.Event) -> None:
    while not done.is_set():
        for offset in OFFSETS:
            answer = client.request("PATCH", url, json={"time": (START + offset).isoformat()})
            assert answer.status == 200, answer.content


def refresh(client: Client, done: threading.Event) -> int:
    count = 0
    while not done.is_set():
        count += container_of(client).rollups.refresh().hours > 0
    return count


@contextmanager
def held_up(client: Client, database: str) -> Iterator[Future[RefreshReport]]:
    """Begin a refresh, and hold it up at the last of the tables that it writes."""
    with psycopg.connect(database) as blocking, ThreadPoolExecutor(1) as pool:
        blocking.execute("LOCK TABLE observability.coarse_day IN SHARE ROW EXCLUSIVE MODE")
        refreshing = pool.submit(container_of(client).rollups.refresh)
        with psycopg.connect(database, autocommit=True) as watching:
            assert eventually(lambda: bool(watching.execute(f"SELECT FROM {HELD_UP}").fetchall()))
        yield refreshing
        blocking.rollback()


@pytest.mark.slow
def test_answers_are_whole_while_others_write_move_and_refresh(client: Client) -> None:
    moving = create(client, time=START.isoformat(), latency_ms=10)
    done = threading.Event()

    def until_done(job: Callable[..., Any], *given: Any) -> Any:
        try:
            return job(client, *given, done)
        except BaseException:
            done.set()
            raise

    with ThreadPoolExecutor(6) as pool:
        readers = [
            pool.submit(until_done, read, query)
            for query in ("&granularity=hourly", "&approx=true&percentiles=50", "&method=get")
        ]
        others = [pool.submit(until_done, move, moving), pool.submit(until_done, refresh)]
        try:
            write(client)
        finally:
            done.set()

    refreshed = [job.result() for job in others][1]
    assert refreshed > 1
    assert all(reader.result() > 1 for reader in readers)
    assert kpis(client, "&approx=true")[0] == BATCHES * len(OFFSETS) + 1
    container_of(client).rollups.refresh()
    assert kpis(client, "&approx=true")[0] == BATCHES * len(OFFSETS) + 1


def test_the_queries_of_a_session_see_one_snapshot(client: Client) -> None:
    ingest(client, batch())
    container_of(client).rollups.refresh()

    scope = Scope(Span(START, START + 3 * DAY), SYSTEM_ACCOUNT)
    with QuerySession.open(client.service.shared.db, scope, approx=False) as session:
        plan = session.plan(Resolution.DAY)
        ingest(client, batch())
        container_of(client).rollups.refresh()
        totals = session.totals(plan, 500)

    assert (plan.source, totals.hits, totals.errors) == (Resolution.DAY, 5, 1)


def test_a_refresh_whose_connection_dies_half_way_changes_no_answer(client: Client, database: str) -> None:
    ingest(client, batch())
    container_of(client).rollups.refresh()
    ingest(client, batch())
    before = kpis(client, "&approx=true")

    with held_up(client, database) as refreshing, psycopg.connect(database, autocommit=True) as killing:
        killing.execute(f"SELECT pg_terminate_backend(pid) FROM {HELD_UP}")
        with pytest.raises(UnavailableError):
            refreshing.result()

    after = kpis(client, "&approx=true")
    container_of(client).rollups.refresh()
    assert before == after == kpis(client, "&approx=true") == (10, 2, 10)


def test_what_is_written_during_a_refresh_is_not_forgotten(client: Client, database: str) -> None:
    ingest(client, batch())

    with held_up(client, database) as refreshing:
        ingest(client, batch())
    refreshing.result()

    assert kpis(client, "&approx=true") == (10, 2, 10)
    container_of(client).rollups.refresh()
    assert kpis(client, "&approx=true") == (10, 2, 10)


def test_only_one_refreshes_at_a_time(client: Client) -> None:
    ingest(client, batch())

    def refresh_as_well(_done: int, _total: int) -> None:
        with pytest.raises(ConflictError, match="Somebody else"):
            container_of(client).rollups.refresh()

    assert container_of(client).rollups.refresh(progress=refresh_as_well).days == 3
