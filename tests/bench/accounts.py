"""An account among ten thousand that send events of the same service, against alone; and row-level security."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import msgspec
from psycopg import sql

from kernel.identity import OPEN, acting_as
from kernel.testing import Client, make_configuration, running
from plugins.observability.access import Access
from plugins.observability.analytics.models import KpiQuery
from plugins.observability.container import Container, make_container
from plugins.observability.filters import DEFAULT_ORDERING, with_tie_breaker
from plugins.observability.models import IngestQuery, ListQuery
from tests.bench.figures import Figure, in_turn

ACCOUNT = 7
ACCOUNTS = 10_000
SERIES = 100
EVENTS = 100_000
DAYS = 10
BATCH_EVENTS = 1000
REPEATS = 100
SERVICE = "shop"
# What is read by time, the edges of a window and percentiles, is among as many events of others. And rollups of some
# series are looked up one by one, where those of all are read in their order.
TARGETS = {
    "exact KPIs of a day": 1.4,
    "exact KPIs of a service and a day": 1.2,
    "approximate KPIs of ten days": 1.4,
    "KPIs of ten days by endpoint": 1.35,
    "first page": 1.2,
    "ingest of a batch": 1.15,
}
# Of the processor time of the server's process: what the policies take is less than what times differ by.
WALL_TARGETS = {"first page": 1.2, "first page of a service": 1.2}
WALL_ROUNDS = 15
WALL_REPEATS = 500
_QUIET = {"log": {"level": "error", "requests": False}, "observability": {"log_own_requests": False}}
_ACCESS = Access(account=ACCOUNT)
_IDENTITY = msgspec.structs.replace(OPEN, account=ACCOUNT)


def figures(_full: bool) -> Iterator[Figure]:
    """Measure KPIs, the first page and ingest of an account that is alone, and of one among others, in turn; then with
    policies and without.
    """
    end = datetime.now(UTC)
    with running(make_configuration(**_QUIET)) as alone, running(make_configuration(**_QUIET)) as shared:
        asks: list[Mapping[str, Callable[[], object]]] = []
        for client in (shared, alone):
            container = client.service.registry.services["observability"].once(make_container)
            _fill(client, container, "account = %(account)s", accounts=1, series=SERIES, end=end)
            if client is shared:
                _fill(client, container, "account <> %(account)s", accounts=ACCOUNTS, series=1, end=end)
            asks.append(_asks(container, end))
        among_others, on_its_own = asks
        for name, target in TARGETS.items():
            with acting_as(_IDENTITY):
                among_others[name](), on_its_own[name]()
                ratio, ms, alone_ms = in_turn(_timed(among_others[name]), _timed(on_its_own[name]), REPEATS)
            detail = f"p50 {ms:.2f} ms, alone {alone_ms:.2f} ms; {EVENTS:,} events, and as many of {ACCOUNTS:,} others"
            yield Figure(f"{name} of an account among others, against alone", ratio, target, "at most", detail=detail)
        for name, target in WALL_TARGETS.items():
            scoped, unscoped = (_with_policies(alone, state, on_its_own[name]) for state in ("ENABLE", "DISABLE"))
            with acting_as(_IDENTITY):
                ratio, ms, without_ms = in_turn(scoped, unscoped, WALL_ROUNDS)
            detail = f"{ms:.3f} ms of the server's processor time, without {without_ms:.3f} ms"
            yield Figure(f"{name} under row-level security, against none", ratio, target, "at most", detail=detail)


def _with_policies(client: Client, state: LiteralString, ask: Callable[[], object]) -> Callable[[], float]:
    """Return what measures the server's processor time for an ask, with the policies of series in some state."""

    def measure() -> float:
        with client.service.db.connection(60) as connection:
            connection.execute(sql.SQL("ALTER TABLE observability.series {} ROW LEVEL SECURITY").format(sql.SQL(state)))
            # The pool hands out the connection that was used last.
            server = Path(f"/proc/{connection.info.backend_pid}/schedstat")
        # What is planned once is planned anew.
        ask()
        before_ns = _processor_ns(server)
        for _ in range(WALL_REPEATS):
            ask()
        return (_processor_ns(server) - before_ns) / WALL_REPEATS / 1e6

    return measure


def _processor_ns(schedstat: Path) -> int:
    return int(schedstat.read_text().split()[0])


def _fill(client: Client, container: Container, of_whom: str, *, accounts: int, series: int, end: datetime) -> None:
    """Make events that are spread over some days and all series of some accounts, without passing through REST."""
    values = {"account": ACCOUNT, "accounts": accounts, "series": series, "events": EVENTS, "end": end, "days": DAYS}
    first = end - timedelta(days=DAYS)
    days = [(first + timedelta(days=number)).date() for number in range(DAYS + 1)]
    with client.service.db.connection(600) as connection:
        connection.execute("SELECT observability.ensure_partitions(%s::date[])", [days])
        connection.execute(_MAKE_SERIES, values)
        connection.execute(_MAKE_EVENTS[of_whom], values)
        connection.execute(_TOUCH, values)
    container.rollups.refresh()
    with client.service.db.connection(600) as connection:
        connection.execute("VACUUM ANALYZE")


def _asks(container: Container, end: datetime) -> Mapping[str, Callable[[], object]]:
    """Return what the account asks."""
    month, day = end - timedelta(days=DAYS - 1), end - timedelta(days=1)
    events = msgspec.json.encode(
        [
            {
                # Outside of the windows that are asked for.
                "time": end - timedelta(days=2 * DAYS, seconds=number),
                "service": SERVICE,
                "endpoint": f"/{number % SERIES}",
                "method": "GET",
                "status_code": 200,
                "latency_ms": number,
            }
            for number in range(BATCH_EVENTS)
        ]
    )

    def kpis(start: datetime, **given: Any) -> Callable[[], object]:
        return lambda: container.analytics.kpis(KpiQuery(start=start, end=end, **given), _ACCESS)

    def first_page(**given: Any) -> Callable[[], object]:
        def ask() -> object:
            conditions = container.store.conditions(ListQuery(**given), _ACCESS)
            return container.store.list(conditions, with_tie_breaker(DEFAULT_ORDERING), 51)

        return ask

    return {
        "exact KPIs of a day": kpis(day),
        "exact KPIs of a service and a day": kpis(day, service=SERVICE),
        "approximate KPIs of ten days": kpis(month, approx=True),
        "KPIs of ten days by endpoint": kpis(month, approx=True, group_by=("endpoint",)),
        "first page": first_page(),
        "first page of a service": first_page(service=SERVICE),
        "ingest of a batch": lambda: container.ingest.ingest_json(events, IngestQuery(), access=_ACCESS),
    }


def _timed(ask: Callable[[], object]) -> Callable[[], float]:
    def measure() -> float:
        start = time.perf_counter()
        ask()
        return (time.perf_counter() - start) * 1000

    return measure


# The account itself, or all others.
_MAKE_SERIES = """
INSERT INTO observability.series (account, service, endpoint, method)
SELECT CASE WHEN %(accounts)s = 1 THEN %(account)s ELSE 100 + a END, 'shop', '/' || s, 'GET'
FROM generate_series(1, %(accounts)s) AS a, generate_series(0, %(series)s - 1) AS s"""
_MAKE = """
WITH numbered AS MATERIALIZED (
    SELECT id, row_number() OVER (ORDER BY id) - 1 AS number FROM observability.series WHERE {whose}
)
INSERT INTO observability.event (id, time, series, status_code, latency_ms, trace_id, user_ref, tags)
SELECT gen_random_uuid(), %(end)s - n * make_interval(days => %(days)s) / %(events)s, id, 200, n %% 300,
       NULL, NULL, '{{}}'
FROM generate_series(1, %(events)s) AS n JOIN numbered ON number = n %% (SELECT count(*) FROM numbered)"""
_MAKE_EVENTS = {whose: _MAKE.format(whose=whose) for whose in ("account = %(account)s", "account <> %(account)s")}
_TOUCH = """
INSERT INTO observability.rollup_touched (account, hour)
SELECT DISTINCT account, date_trunc('hour', time, 'UTC')
FROM observability.event JOIN observability.series AS s ON s.id = series
WHERE (account = %(account)s) = (%(accounts)s = 1)"""
