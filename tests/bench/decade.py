"""Ten years of events on TimescaleDB against the embedded PostgreSQL: thousands of days, and few events in each.

Runs where ``TIERCEL_TEST_TIMESCALE_URL`` names a server, best one with the default locks: a question that gets none is
answered 503, which ends the run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection

import msgspec
import psycopg

from tests.bench.figures import Figure, in_turn
from tests.bench.load import make_events, send, side_by_side
from tests.bench.service import Service, service
from tests.bench.timescale import (
    QUIET,
    TARGET,
    URL,
    ask_ms,
    late_refresh,
    path_of,
    read,
    refresh_s,
    run_policies,
    service_on,
)

YEARS = 10
# Of these, every tenth has events: each chunk of rollups of ten days would have one.
DAYS_APART = 10
EVENTS = 100_000
EVENTS_FULL = 1_000_000
BATCH = 1_000
ROUNDS = 5
PARALLEL = 4


def figures(full: bool) -> Iterator[Figure]:
    """Measure ingest, refresh and questions, one at a time and four; nothing without a server of TimescaleDB."""
    server = os.environ.get(URL)
    if not server:
        print(f"{URL} is not set: skipped", file=sys.stderr)
        return
    with service(**QUIET) as plain, service_on(server) as timescale:
        batches = make_batches(EVENTS_FULL if full else EVENTS)
        yield _slower("ingest", *(_ingest_s(each, batches) for each in (timescale, plain)))
        yield _slower("refresh", *(refresh_s(each) for each in (timescale, plain)))
        for each in (plain, timescale):
            with psycopg.connect(each.conninfo, autocommit=True) as connection:
                run_policies(connection)
                connection.execute("VACUUM ANALYZE")
        for name, path in questions(plain, timescale).items():
            yield _one(name, plain, timescale, path)
            yield _parallel(name, plain, timescale, path)
        yield late_refresh("refresh, 1,000 late events of a former year", plain, timescale, former_days())


def make_batches(events: int) -> Sequence[bytes]:
    """Encode events of ten years up to yesterday, the oldest first."""
    days = _days()
    made = make_events(events)
    for number, event in enumerate(made):
        day = days[number * len(days) // events]
        event["time"] = f"{day:%Y-%m-%d}T{event['time'][11:]}"
    return [msgspec.json.encode(made[at : at + BATCH]) for at in range(0, events, BATCH)]


def former_days() -> Sequence[datetime]:
    """Return days with events, of different years, that are in the longest chunks."""
    return [_days()[-(years * 365 // DAYS_APART)] for years in range(2, 2 + ROUNDS)]


def _days() -> Sequence[datetime]:
    first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=YEARS * 365)
    return [first + timedelta(days=day) for day in range(0, YEARS * 365, DAYS_APART)]


def _ingest_s(running: Service, batches: Sequence[bytes]) -> float:
    connection = HTTPConnection("127.0.0.1", running.port, timeout=120)
    started = time.perf_counter()
    for batch in batches:
        send(connection, batch, {})
    connection.close()
    return time.perf_counter() - started


def questions(plain: Service, timescale: Service) -> Mapping[str, tuple[str, str]]:
    """Return the path of each question, on TimescaleDB and on the embedded server, whose ids differ."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    whole = {"start": today - timedelta(days=YEARS * 365), "end": today}
    cut = {"start": whole["start"] + timedelta(hours=7, minutes=23), "end": today - timedelta(hours=7, minutes=18)}
    page = {"page_size": 50, "count": "none"}
    of_one = {"service": "service-3", "endpoint": "/api/v1/resource-7"}
    alike = {
        "list": path_of("", **page),
        "list with its count": path_of("", page_size=50),
        "list, oldest first": path_of("", ordering="time", **page),
        "list of a service": path_of("", service="service-3", **page),
        "kpis, exact": path_of("kpis/", **whole),
        "kpis, approx": path_of("kpis/", approx="true", **cut),
        "kpis, approx, an endpoint": path_of("kpis/", approx="true", **of_one, **cut),
        "top endpoints, approx": path_of("top-endpoints/", approx="true", **whole),
    }
    there, here = (
        read(each.port, path_of("", time_before="2021-01-01", **page))["results"][0] for each in (timescale, plain)
    )
    return {
        **{name: (path, path) for name, path in alike.items()},
        "event by id": (f"/api/requests/{there['id']}/", f"/api/requests/{here['id']}/"),
        "trace": (f"/api/requests/traces/{there['trace_id']}/", f"/api/requests/traces/{here['trace_id']}/"),
    }


def _one(name: str, plain: Service, timescale: Service, paths: tuple[str, str]) -> Figure:
    there, here = paths
    ratio, slow, fast = in_turn(lambda: ask_ms(timescale.port, there), lambda: ask_ms(plain.port, here), ROUNDS)
    return Figure(name, ratio, TARGET, "at most", detail=f"p50 {slow:.1f} ms, embedded {fast:.1f} ms")


def _parallel(name: str, plain: Service, timescale: Service, paths: tuple[str, str]) -> Figure:
    def rate(each: Service, path: str) -> float:
        def ask(_: int) -> int:
            ask_ms(each.port, path)
            return 1

        return side_by_side(PARALLEL, ask)

    there, here = paths
    ratio, fast, slow = in_turn(lambda: rate(plain, here), lambda: rate(timescale, there), ROUNDS)
    detail = f"{slow:.1f} rounds/s, embedded {fast:.1f}"
    return Figure(f"{name}, {PARALLEL} at a time", ratio, TARGET, "at most", detail=detail)


def _slower(name: str, there_s: float, here_s: float) -> Figure:
    return Figure(name, there_s / here_s, TARGET, "at most", detail=f"{there_s:.1f} s, embedded {here_s:.1f} s")
