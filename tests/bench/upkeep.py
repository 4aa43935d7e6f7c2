"""What rollups cost those who write, and how fast they catch up."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg

from plugins.observability.rollups.refresh import Rollups
from tests.bench.figures import Figure, in_turn
from tests.bench.load import bodies, post
from tests.bench.month import fill_span, make_series, rollups
from tests.bench.service import Service, service

EVENTS = 600_000
EVENTS_FULL = 3_000_000
BEHIND = 3_000_000
BEHIND_FULL = 10_000_000
ROUNDS = 3
BATCH = 1_000
CONNECTIONS = 4
# The running hour is refreshed every five minutes: a run has one refresh of all it stored, and is shorter than that.
SPAN = timedelta(hours=1)
TEN_MINUTES_S = 600
UNTOUCHED = (sys.executable, "-m", "tests.bench.untouched")
_QUIET = {"TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS": "false"}


def figures(full: bool) -> Iterator[Figure]:
    """Measure ingest with and without upkeep, then a refresh of what piled up."""
    events = EVENTS_FULL if full else EVENTS
    with (
        service(**_QUIET) as running,
        service(program=UNTOUCHED, **_QUIET) as untouched,
        rollups(running.conninfo) as kept,
    ):
        ratio, with_them, without = _compare(running, untouched, kept, events)
    detail = f"{with_them:,.0f} events/s, {without:,.0f} without; a refresh in every {events:,} events"
    yield Figure("ingest with rollups kept, against without", ratio, 0.85, detail=detail)
    with service(**_QUIET) as running, rollups(running.conninfo) as kept:
        yield _catch_up(running, kept, round(without * TEN_MINUTES_S), BEHIND_FULL if full else BEHIND)


def _compare(running: Service, untouched: Service, kept: Rollups, events: int) -> tuple[float, float, float]:
    content = bodies(40, BATCH, span=SPAN)
    for each in (running, untouched):
        _post(each, content, events // 10)
    return in_turn(
        lambda: _post_and_refresh(running, kept, content, events), lambda: _post(untouched, content, events), ROUNDS
    )


def _post(running: Service, content: list[bytes], events: int) -> float:
    running.empty()
    return post(running.port, content, BATCH, connections=CONNECTIONS, events=events)


def _post_and_refresh(running: Service, kept: Rollups, content: list[bytes], events: int) -> float:
    """Post events; when half of them are stored, refresh concurrently."""
    half = threading.Thread(target=_refresh_at, args=(running.conninfo, kept, events // 2))
    running.empty()
    half.start()
    speed = post(running.port, content, BATCH, connections=CONNECTIONS, events=events)
    half.join()
    return speed


def _refresh_at(conninfo: str, kept: Rollups, events: int) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        started = _stored(connection)
        while _stored(connection) - started < events:
            time.sleep(0.2)
    kept.refresh()


def _stored(connection: psycopg.Connection[tuple[int]]) -> int:
    row = connection.execute("SELECT coalesce(sum(stored), 0)::bigint FROM observability.ingest_ledger").fetchone()
    assert row is not None
    return row[0]


def _catch_up(running: Service, kept: Rollups, ten_minutes: int, most: int) -> Figure:
    """Refresh what ten minutes of ingest leave behind, or the part of it that a run has time for."""
    events = min(most, ten_minutes)
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    with psycopg.connect(running.conninfo, autocommit=True) as connection:
        make_series(connection)
        fill_span(connection, now - SPAN, timedelta(minutes=10), events)
        connection.execute("VACUUM ANALYZE observability.event")
    started = time.perf_counter()
    kept.refresh()
    took_s = time.perf_counter() - started
    detail = f"{events:,} events in {took_s:.1f} s, of the {ten_minutes:,} that ten minutes bring"
    whole_s = took_s * max(1.0, ten_minutes / events)
    return Figure("refresh after ten minutes of ingest", whole_s, 120, "at most", "s", detail)
