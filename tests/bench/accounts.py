"""An account among ten thousand that send events of the same service, against the same account alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from kernel.identity import OPEN, acting_as
from kernel.testing import Client, make_configuration, running
from plugins.observability.access import Access
from plugins.observability.analytics.models import KpiQuery
from plugins.observability.container import Container, make_container
from plugins.observability.filters import DEFAULT_ORDERING, order_by, with_tie_breaker
from plugins.observability.models import IngestQuery, ListQuery
from tests.bench.figures import Figure

ACCOUNT = 7
ACCOUNTS = 10_000
SERIES = 100
EVENTS = 100_000
DAYS = 10
BATCH_EVENTS = 1000
REPEATS = 40
SERVICE = "shop"
_QUIET = {"log": {"level": "error", "requests": False}, "observability": {"log_own_requests": False}}
_ACCESS = Access(account=ACCOUNT)
_IDENTITY = msgspec.structs.replace(OPEN, account=ACCOUNT)


def figures(_full: bool) -> Iterator[Figure]:
    """Measure KPIs, the first page and ingest of an account, before and after the others come."""
    end = datetime.now(UTC)
    with running(make_configuration(**_QUIET)) as client:
        container = client.service.registry.services["observability"].once(make_container)
        _fill(client, container, "account = %(account)s", accounts=1, series=SERIES, end=end)
        alone = _measure(client, container, end)
        _fill(client, container, "account <> %(account)s", accounts=ACCOUNTS, series=1, end=end)
        among_others = _measure(client, container, end)
    for name, ms in among_others.items():
        detail = f"p50 {ms:.2f} ms, alone {alone[name]:.2f} ms; {EVENTS:,} events, and as many of {ACCOUNTS:,} others"
        yield Figure(
            f"{name} of an account among others, against alone", ms / alone[name], 1.5, "at most", detail=detail
        )


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


def _measure(client: Client, container: Container, end: datetime) -> Mapping[str, float]:
    """Return the medians of what the account asks, in ms."""
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

    def first_page() -> object:
        conditions = container.store.conditions(ListQuery(), _ACCESS)
        return container.store.list(conditions, order_by(with_tie_breaker(DEFAULT_ORDERING)), 51)

    asked: Mapping[str, Callable[[], object]] = {
        "exact KPIs of a day": kpis(day),
        "exact KPIs of a service and a day": kpis(day, service=SERVICE),
        "approximate KPIs of ten days": kpis(month, approx=True),
        "KPIs of ten days by endpoint": kpis(month, approx=True, group_by=("endpoint",)),
        "first page": first_page,
        "ingest of a batch": lambda: container.ingest.ingest_json(events, IngestQuery(), access=_ACCESS),
    }
    with acting_as(_IDENTITY):
        return {name: _p50_ms(ask) for name, ask in asked.items()}


def _p50_ms(ask: Callable[[], object]) -> float:
    ask()
    taken: list[float] = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1000


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
