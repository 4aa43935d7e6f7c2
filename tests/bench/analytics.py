"""Analytics of a month, against the same figures computed from the events by one SQL statement."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, LiteralString
from urllib.parse import urlencode

import msgspec
import psycopg
from psycopg import sql

from kernel.db.pool import QUERIES as KERNEL_QUERIES
from kernel.identity import SYSTEM_ACCOUNT
from tests.bench.disk import disk
from tests.bench.figures import Figure, in_turn
from tests.bench.load import wrk_p50_ms
from tests.bench.month import SHARES, Connected, Month, fill, last_month, make_series, rollups
from tests.bench.service import Service, service

EVENTS = 1_000_000
EVENTS_FULL = 10_000_000
ROUNDS = 3
REPEATS = 1
REPEATS_FEW = 9
REPEATS_SHORT = 50
# What is quick can be asked more often, against the noise.
ROUNDS_SHORT = 9
_FEW_SERIES_MAX = 100
# Long enough for some of the slowest answers.
WRK_S = 3
KPIS = "/api/requests/kpis/"
TOP = "/api/requests/top-endpoints/"

FILTERS: tuple[Mapping[str, str], ...] = (
    {},
    {"service": "service-3"},
    {"method": "GET"},
    {"endpoint": "/api/v1/resource-7"},
    {"error_from": "400"},
    {"service": "service-3", "method": "GET", "error_from": "400"},
    {"service": "service-3", "endpoint": "/api/v1/resource-7"},
)


class Window(msgspec.Struct, frozen=True):
    """What is asked about: it cuts hours and days, as every real one does."""

    start: datetime
    end: datetime


class Bare:
    """The same queries in plain SQL.

    Args:
        connection: With the server's default planner settings.
        window: The span of time.
    """

    def __init__(self, connection: Connected, window: Window) -> None:
        self._connection = connection
        self._window = window

    def kpis_ms(self, filters: Mapping[str, str], percentiles: tuple[float, ...], repeats: int = REPEATS) -> float:
        """Return how long hits, errors and latencies take."""
        return self._ms(_KPIS, filters, repeats, fractions=list(percentiles))

    def percentile_ms(self, filters: Mapping[str, str], fraction: float, repeats: int) -> float:
        """Return how long a percentile takes, and nothing else."""
        return self._ms(_PERCENTILE, filters, repeats, fractions=[fraction])

    def top_ms(self, by: str) -> float:
        """Return how long the ranked endpoints take."""
        return self._ms(_TOP[by], {}, REPEATS)

    def _ms(self, statement: sql.SQL, filters: Mapping[str, str], repeats: int, **values: Any) -> float:
        names = [name for name in ("service", "endpoint", "method") if name in filters]
        scope = sql.SQL(" AND ").join(
            [
                sql.SQL("account = %(account)s"),
                *(sql.SQL("lower({0}) = lower({1})").format(sql.Identifier(n), sql.Placeholder(n)) for n in names),
            ]
        )
        matching = sql.SQL("SELECT id FROM observability.series WHERE {}").format(scope)
        asked = {"account": SYSTEM_ACCOUNT, "error_from": 500, **filters, **values}
        given = {**msgspec.structs.asdict(self._window), **asked}

        def ask() -> None:
            # Whichever is quicker: few are looked up first, by a third; many are joined, by two thirds.
            few = [] if not names else [number for (number,) in self._connection.execute(matching, given)]
            chosen = sql.Placeholder("few") if 0 < len(few) <= _FEW_SERIES_MAX else matching
            query = statement.format(scope=sql.SQL("series = ANY({})").format(chosen))
            self._connection.execute(query, {**given, "few": few}).fetchall()

        return _p50_ms(ask, repeats)


_KPIS = sql.SQL(
    """SELECT count(*), count(*) FILTER (WHERE status_code >= %(error_from)s::int), avg(latency_ms)::float8,
       max(latency_ms), percentile_cont(%(fractions)s::float8[]) WITHIN GROUP (ORDER BY latency_ms)
FROM observability.event
WHERE time >= %(start)s AND time <= %(end)s AND {scope}"""
)
_PERCENTILE = sql.SQL(
    """SELECT percentile_cont(%(fractions)s::float8[]) WITHIN GROUP (ORDER BY latency_ms)
FROM observability.event
WHERE time >= %(start)s AND time <= %(end)s AND {scope}"""
)
_RANKED: LiteralString = """
SELECT service, endpoint, count(*) AS hits, count(*) FILTER (WHERE status_code >= %(error_from)s::int),
       avg(latency_ms)::float8, max(latency_ms) {p95}
FROM observability.event JOIN observability.series ON series.id = series
WHERE time >= %(start)s AND time <= %(end)s AND account = %(account)s
GROUP BY service, endpoint ORDER BY {order} DESC LIMIT 20"""
_P95: LiteralString = "percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms)"
_TOP = {
    "hits": sql.SQL(_RANKED.format(p95="", order="hits")),
    "p95_latency_ms": sql.SQL(_RANKED.format(p95=f", {_P95} AS p95", order="p95")),
}


def figures(full: bool) -> Iterator[Figure]:
    """Measure KPIs under filters, ranked endpoints, an exact percentile, and disk.

    How many times quicker than SQL rollups are grows with the events: of few, the ratio is shown for the record.
    """
    events = EVENTS_FULL if full else EVENTS
    kpis_target, top_target = (30, 20) if full else (None, None)
    month = last_month()
    window = Window(month.start + timedelta(hours=7, minutes=23), month.days[-1] + timedelta(hours=16, minutes=41))
    with (
        service(TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS="false") as running,
        psycopg.connect(running.conninfo, autocommit=True) as connection,
    ):
        connection.execute(KERNEL_QUERIES["configure_session"])
        # With the server's default planner settings.
        connection.execute("SET plan_cache_mode = auto; SET parallel_setup_cost TO DEFAULT")
        make_series(connection)
        yield from _growth(running, connection, month, events, window)
        bare = Bare(connection, window)
        for filters in FILTERS:
            yield _kpis(running.port, bare, window, filters, kpis_target)
        yield _ceiling(running.port, bare, window)
        for by in ("hits", "p95_latency_ms"):
            yield _top(running.port, bare, window, by, top_target)
        yield from _exact(running.port, connection, month)
        yield from disk(connection, events)


def _growth(running: Service, connection: Connected, month: Month, events: int, window: Window) -> Iterator[Figure]:
    """Measure the same answers before and after nine tenths of the events are stored."""
    hours = Window(month.start + timedelta(hours=8), month.days[-1] + timedelta(hours=16) - timedelta(microseconds=1))
    asked = {"kpis": window, "kpis of whole hours": hours}
    _fill(running, connection, month, events, range(1))
    few_ms = {name: _typical_kpis_ms(running.port, each) for name, each in asked.items()}
    _fill(running, connection, month, events, range(1, SHARES))
    many_ms = {name: _typical_kpis_ms(running.port, each) for name, each in asked.items()}
    # What a cut leaves of an hour is read from its events, which are ten times as many. Rollups grow a little: more
    # events fill more bins, until all are filled.
    for name, target in (("kpis", None), ("kpis of whole hours", 1.5)):
        few, many = few_ms[name], many_ms[name]
        detail = f"p50 {many:.1f} ms of {events:,} events, {few:.1f} ms of {events // SHARES:,}"
        yield Figure(f"{name}, ten times the events", many / few, target, "at most", detail=detail)


def _typical_kpis_ms(port: int, window: Window) -> float:
    return statistics.median(_kpis_ms(port, window, {}) for _ in range(ROUNDS))


def _fill(running: Service, connection: Connected, month: Month, events: int, shares: range) -> None:
    fill(connection, month, events, shares)
    with rollups(running.conninfo) as kept:
        kept.refresh()
    connection.execute("VACUUM ANALYZE")


def _kpis(port: int, bare: Bare, window: Window, filters: Mapping[str, str], target: float | None) -> Figure:
    name = f"kpis by {' '.join(filters) or 'nothing'}"
    repeats = REPEATS_FEW if {"service", "endpoint"} <= filters.keys() else REPEATS
    return _faster(
        name,
        lambda: bare.kpis_ms(filters, (0.5, 0.95, 0.99), repeats),
        lambda: _kpis_ms(port, window, filters),
        target,
    )


def _ceiling(port: int, bare: Bare, window: Window) -> Figure:
    """Measure an answer that finds nothing, against SQL of the fewest events: none can be that much faster."""
    filters = FILTERS[-1]
    return _faster(
        f"kpis that find nothing, for {' '.join(filters)}",
        lambda: bare.kpis_ms(filters, (0.5, 0.95, 0.99), REPEATS_FEW),
        lambda: _kpis_ms(port, window, {**filters, "service": "unknown"}),
        None,
    )


def _top(port: int, bare: Bare, window: Window, by: str, target: float | None) -> Figure:
    path = _path(TOP, window, {"sort_by": by, "approx": "true"})
    name = f"top endpoints by {by}"
    return _faster(name, lambda: bare.top_ms(by), lambda: wrk_p50_ms(port, path, seconds=WRK_S), target)


def _exact(port: int, connection: Connected, month: Month) -> Iterator[Figure]:
    """Measure answers whose percentile comes from the events: of a service, and of half of all series."""
    last = month.days[-2] + timedelta(hours=7)
    day, days = Window(last - timedelta(days=1), last), Window(last - timedelta(days=6), last)
    of_service, of_method = {"service": "service-3"}, {"method": "GET"}
    of_day, of_days = Bare(connection, day), Bare(connection, days)
    ask = partial(wrk_p50_ms, port, _path(KPIS, day, of_service), seconds=1)
    for name, ask_bare, target in (
        ("SQL", partial(of_day.kpis_ms, of_service, (0.95,), REPEATS_SHORT), 1.1),
        # Which leaves out hits, errors, average and maximum.
        ("SQL for nothing else", partial(of_day.percentile_ms, of_service, 0.95, REPEATS_SHORT), None),
    ):
        yield _slower(f"exact p95 of a service over 24 h, against {name}", ask, ask_bare, ROUNDS_SHORT, target)
    # Nobody should look these up one by one.
    ask = partial(wrk_p50_ms, port, _path(KPIS, days, of_method), seconds=WRK_S)
    ask_bare = partial(of_days.kpis_ms, of_method, (0.95,))
    yield _slower("exact p95 of a method over 6 days, against SQL", ask, ask_bare, ROUNDS, 1.5)


def _slower(
    name: str, ours_ms: Callable[[], float], raw_ms: Callable[[], float], rounds: int, target: float | None
) -> Figure:
    ratio, ours, raw = in_turn(ours_ms, raw_ms, rounds)
    return Figure(name, ratio, target, "at most", detail=f"p50 {ours:.1f} ms, bare {raw:.1f} ms")


def _faster(name: str, raw_ms: Callable[[], float], ours_ms: Callable[[], float], target: float | None) -> Figure:
    ratio, raw, ours = in_turn(raw_ms, ours_ms, ROUNDS)
    detail = f"p50 {ours:.1f} ms from rollups, {raw:.0f} ms from events in SQL"
    return Figure(f"{name}, approx, times faster than SQL", ratio, target, detail=detail)


def _kpis_ms(port: int, window: Window, filters: Mapping[str, str]) -> float:
    path = _path(KPIS, window, {"approx": "true", "percentiles": "50,99", **filters})
    return wrk_p50_ms(port, path, seconds=WRK_S)


def _path(path: str, window: Window, parameters: Mapping[str, str]) -> str:
    times = {name: time.isoformat() for name, time in msgspec.structs.asdict(window).items()}
    return f"{path}?{urlencode({**times, **parameters})}"


def _p50_ms(run: Callable[[], Any], repeats: int) -> float:
    times: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)
