"""TimescaleDB against the embedded PostgreSQL: the same service, the same events, the same questions.

Runs where ``TIERCEL_TEST_TIMESCALE_URL`` names a server. Days older than a week are columns there, by its policy.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.client import HTTPConnection
from itertools import count
from typing import Any
from urllib.parse import urlencode

import msgspec
import psycopg

from kernel.testing import create_database, drop_database
from tests.bench.figures import Figure, in_turn
from tests.bench.load import INGEST, make_events, post, send
from tests.bench.month import DAYS, Connected, Month, fill, last_month, make_series, rollups
from tests.bench.service import Service, service

EVENTS = 1_500_000
EVENTS_FULL = 6_000_000
ROUNDS = 5
REPEATS = 5
INGEST_EVENTS = 50_000
INGEST_BATCH = 1_000
LATE_EVENTS = 1_000
# No documented question is slower than this, against the embedded server.
TARGET = 3.0
AGE_OF_COLUMNS = timedelta(days=7)
URL = "TIERCEL_TEST_TIMESCALE_URL"
QUIET = {"TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS": "false"}
_RUNS = count()


def figures(full: bool) -> Iterator[Figure]:
    """Measure questions, late writes, ingest and disk; nothing without a server of TimescaleDB."""
    server = os.environ.get(URL)
    if not server:
        print(f"{URL} is not set: skipped", file=sys.stderr)
        return
    events = EVENTS_FULL if full else EVENTS
    month = last_month()
    with service(**QUIET) as plain, service_on(server) as timescale:
        for each in (plain, timescale):
            prepare(each, month, events)
        yield from disk(plain, timescale, events)
        for name, path in questions(plain, month).items():
            yield _slower(name, plain, timescale, path)
        yield from late_writes(plain, timescale, month)
        days = [day for day in month.days if month.days[-1] - day > AGE_OF_COLUMNS]
        yield late_refresh("refresh, 1,000 late events of a day", plain, timescale, days[:ROUNDS])
        yield _ingest(plain, timescale)


@contextmanager
def service_on(server: str) -> Iterator[Service]:
    """Run a service on a new database of a server."""
    name = f"bench_{os.getpid()}"
    # Its launcher visits template1, which cannot be copied then.
    url = create_database(server, name, "template0")
    try:
        with service(TIERCEL_DATABASE_URL=url, **QUIET) as running:
            yield running
    finally:
        drop_database(server, name)


def prepare(running: Service, month: Month, events: int) -> None:
    """Store a month of events, compute their rollups, and make columns of what is old enough."""
    with psycopg.connect(running.conninfo, autocommit=True) as connection:
        make_series(connection)
        # The same events everywhere.
        connection.execute("SELECT setseed(0.5)")
        fill(connection, month, events, range(10))
    with rollups(running.conninfo) as kept:
        kept.refresh()
    with psycopg.connect(running.conninfo, autocommit=True) as connection:
        run_policies(connection)
        connection.execute("VACUUM ANALYZE")


def run_policies(connection: Connected) -> None:
    """Run what the server does by itself with old chunks, now."""
    if connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'").fetchone():
        jobs = connection.execute(
            "SELECT job_id FROM timescaledb_information.jobs"
            " WHERE proc_name IN ('policy_compression', 'columnstore_policy', 'trace_policy')"
        )
        for (job,) in jobs.fetchall():
            connection.execute("CALL run_job(%s)", [job])


def questions(running: Service, month: Month) -> Mapping[str, str]:
    """Return the path of each documented question."""
    old = month.days[8]
    day = {"start": old, "end": old + timedelta(days=1, microseconds=-1)}
    cut = {"start": month.start + timedelta(hours=7, minutes=23), "end": month.days[-1] + timedelta(hours=16)}
    whole = {"start": month.start, "end": month.days[-1] + timedelta(days=1, microseconds=-1)}
    of_one = {"service": "service-3", "endpoint": "/api/v1/resource-7"}
    page = {"page_size": 50, "count": "none"}
    first = read(running.port, path_of("", **day, **page))["results"][0]
    approx = {**cut, "approx": "true"}
    return {
        "list, newest": path_of("", **page),
        "list, an old day": path_of("", **day, **page),
        "list, an old day with its count": path_of("", **day, page_size=50),
        "list, oldest first": path_of("", ordering="time", **page),
        "list, a service": path_of("", service="service-3", **page),
        "list, a service on an old day": path_of("", service="service-3", **day, **page),
        "list, an endpoint on an old day": path_of("", **of_one, **day, **page),
        "list, a status class on an old day": path_of("", status_class="5xx", **day, **page),
        "list, a user on an old day": path_of("", user_ref="user-77", **day, **page),
        "list, the slowest of an old day": path_of("", ordering="-latency_ms", **day, **page),
        "event by id": f"/api/requests/{first['id']}/",
        "list of a trace": path_of("", trace_id=first["trace_id"], **page),
        "trace": f"/api/requests/traces/{first['trace_id']}/",
        "kpis, exact, an old day": path_of("kpis/", **day),
        "kpis, exact, a service on an old day": path_of("kpis/", service="service-3", **day),
        "kpis, exact, a month": path_of("kpis/", **cut),
        "kpis, approx, a month": path_of("kpis/", **approx),
        "kpis, approx, whole days": path_of("kpis/", **whole, approx="true"),
        "kpis, approx, a service": path_of("kpis/", service="service-3", **approx),
        "kpis, approx, an endpoint": path_of("kpis/", **of_one, **approx),
        "kpis, approx, by service": path_of("kpis/", group_by="service", **approx),
        "kpis, approx, by status": path_of("kpis/", group_by="status", **approx),
        "top endpoints, approx": path_of("top-endpoints/", with_p95="true", **approx),
        "top endpoints, exact": path_of("top-endpoints/", with_p95="true", **day),
        "hourly": path_of("hourly/", **day),
        "hourly, an endpoint": path_of("hourly/", **of_one, **cut),
        "daily": path_of("daily/", limit=5000, **approx),
        "daily, exact percentiles": path_of("daily/", **day),
        "time series by hour": path_of("timeseries/", step="1h", **cut),
        "time series by day, percentiles": path_of("timeseries/", step="1d", percentiles="50,95", **approx),
        "time series by hour, a service": path_of("timeseries/", step="1h", service="service-3", **approx),
        "time series by minute, an old day": path_of("timeseries/", step="5m", **day),
        "services": path_of("services/"),
        "endpoints": path_of("endpoints/", page_size=50),
        "export, an old day": path_of("export/", **day),
        "export, a service": path_of("export/", service="service-3", **day),
    }


def path_of(route: str, **parameters: object) -> str:
    """Return a path below /api/requests/."""
    return f"/api/requests/{route}?{urlencode({name: _text(value) for name, value in parameters.items()})}"


def _text(value: object) -> str:
    return str(value).replace("+00:00", "Z").replace(" ", "T")


def _slower(name: str, plain: Service, timescale: Service, path: str) -> Figure:
    for each in (timescale, plain):
        ask_ms(each.port, path, 1)
    ratio, there, here = in_turn(lambda: ask_ms(timescale.port, path), lambda: ask_ms(plain.port, path), ROUNDS)
    return Figure(name, ratio, TARGET, "at most", detail=f"p50 {there:.1f} ms, embedded {here:.1f} ms")


def ask_ms(port: int, path: str, repeats: int = REPEATS) -> float:
    """Return the median time to an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    times: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        _get(connection, path)
        times.append((time.perf_counter() - started) * 1000)
    connection.close()
    return statistics.median(times)


def _get(connection: HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {content.decode()}")
    return content


def read(port: int, path: str) -> Any:
    """Return what is answered."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        return msgspec.json.decode(_get(connection, path))
    finally:
        connection.close()


def late_writes(plain: Service, timescale: Service, month: Month) -> Iterator[Figure]:
    """Measure events that arrive for days that are columns already: of one of these days, and of many."""
    old = [day for day in month.days if month.days[-1] - day > AGE_OF_COLUMNS]
    cases: Sequence[tuple[str, int, int, bool]] = (
        ("1,000 late events of a day", 1_000, 1, False),
        ("10,000 late events of a day", 10_000, 1, False),
        ("1,000 late events of three weeks", 1_000, len(old), False),
        ("1,000 late events with a key", 1_000, 1, True),
    )
    for name, events, days, keyed in cases:
        times: dict[int, list[float]] = {plain.port: [], timescale.port: []}
        again: dict[int, list[float]] = {plain.port: [], timescale.port: []}
        for _ in range(ROUNDS):
            body = _late_events(events, [old[next(_RUNS) % len(old)] for _ in range(days)])
            headers = {"Idempotency-Key": f"late {next(_RUNS)}"} if keyed else {}
            for each in (plain, timescale):
                times[each.port].append(_send_ms(each.port, body, headers))
                if keyed:
                    again[each.port].append(_send_ms(each.port, body, headers))
        yield _ratio(name, times[timescale.port], times[plain.port])
        if keyed:
            yield _ratio(f"{name}, again", again[timescale.port], again[plain.port])


def late_refresh(name: str, plain: Service, timescale: Service, days: Sequence[datetime]) -> Figure:
    """Measure refreshes after late events, each time of another day whose rollups are columns already."""
    times: dict[int, list[float]] = {plain.port: [], timescale.port: []}
    for number, day in enumerate(days):
        body = _late_events(LATE_EVENTS, [day])
        pair = (plain, timescale)
        for each in pair[:: -1 if number % 2 else 1]:
            _send_ms(each.port, body, {})
            times[each.port].append(refresh_s(each) * 1000)
        with psycopg.connect(timescale.conninfo, autocommit=True) as connection:
            run_policies(connection)
    return _ratio(name, times[timescale.port], times[plain.port])


def refresh_s(running: Service) -> float:
    """Return the time that it takes to compute the rollups."""
    started = time.perf_counter()
    with rollups(running.conninfo) as kept:
        # The server's own policy may be at it.
        kept.refresh(lock_wait_s=600)
    return time.perf_counter() - started


def _ratio(name: str, there: Sequence[float], here: Sequence[float]) -> Figure:
    ratio = statistics.median(one / other for one, other in zip(there, here, strict=True))
    detail = f"p50 {statistics.median(there):.0f} ms, embedded {statistics.median(here):.0f} ms"
    return Figure(name, ratio, TARGET, "at most", detail=detail)


def _late_events(events: int, days: Sequence[Any]) -> bytes:
    made = make_events(events)
    for number, event in enumerate(made):
        event["time"] = f"{days[number % len(days)]:%Y-%m-%d}T{event['time'][11:]}"
        event["service"] = f"service-{number % 20}"
        event["endpoint"] = f"/api/v1/resource-{number % 25}"
    return msgspec.json.encode(made)


def _send_ms(port: int, body: bytes, headers: Mapping[str, str]) -> float:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    started = time.perf_counter()
    send(connection, body, headers)
    took_ms = (time.perf_counter() - started) * 1000
    connection.close()
    return took_ms


def _ingest(plain: Service, timescale: Service) -> Figure:
    """Measure events of a day that is not a column yet."""
    bodies = [msgspec.json.encode(make_events(INGEST_BATCH)) for _ in range(10)]

    def run(each: Service) -> float:
        return post(each.port, bodies, INGEST_BATCH, connections=2, events=INGEST_EVENTS, path=INGEST)

    ratio, here, there = in_turn(lambda: run(plain), lambda: run(timescale), ROUNDS)
    detail = f"{there:,.0f} events/s, embedded {here:,.0f}"
    return Figure("ingest, times slower", ratio, TARGET, "at most", detail=detail)


def disk(plain: Service, timescale: Service, events: int) -> Iterator[Figure]:
    """Measure bytes an event: of days that are columns, of the others, and of rollups."""
    with psycopg.connect(plain.conninfo) as connection:
        ((rows, kept),) = connection.execute(_PLAIN_SIZES)
    with psycopg.connect(timescale.conninfo) as connection:
        ((old, new),) = connection.execute(_CHUNK_SIZES)
        ((aggregates,),) = connection.execute(_AGGREGATE_SIZES)
    old_days = DAYS - AGE_OF_COLUMNS.days
    of_columns, of_rows = old / (events * old_days / DAYS), new / (events * AGE_OF_COLUMNS.days / DAYS)
    detail = f"columns {of_columns:.0f}, rows {of_rows:.0f}, embedded {rows / events:.0f} bytes"
    yield Figure("disk of an old event", of_columns / (rows / events), 1.0, "at most", detail=detail)
    detail = f"{aggregates / events:.0f} bytes an event, embedded {kept / events:.0f}"
    yield Figure("disk of rollups", aggregates / kept, 1.5, "at most", detail=detail)


_PLAIN_SIZES = """
SELECT (SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits
        WHERE inhparent = 'observability.event'::regclass),
       (SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
        WHERE relnamespace = 'observability'::regnamespace AND relkind = 'r'
          AND relname ~ '^(rollup|coarse)_(hour|day)$')
"""
_CHUNK_SIZES = """
SELECT coalesce(sum(total_bytes) FILTER (WHERE is_compressed), 0)::bigint,
       coalesce(sum(total_bytes) FILTER (WHERE NOT is_compressed), 0)::bigint
FROM chunks_detailed_size('observability.event') JOIN timescaledb_information.chunks USING (chunk_schema, chunk_name)
"""
_AGGREGATE_SIZES = """
SELECT sum(hypertable_size(format(
    '%I.%I', materialization_hypertable_schema, materialization_hypertable_name)::regclass))::bigint
FROM timescaledb_information.continuous_aggregates
"""
