"""Reading back, against the bare SQL through psycopg."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql

from kernel.cli.output import progress
from kernel.db.pool import QUERIES as KERNEL_QUERIES
from plugins.observability.access import SYSTEM
from plugins.observability.event_ids import time_range
from plugins.observability.filters import order_by, parse_ordering, with_tie_breaker
from plugins.observability.queries import QUERIES
from tests.bench.figures import Figure, in_turn
from tests.bench.load import wrk_p50_ms
from tests.bench.service import service

EVENTS = 1_000_000
EVENTS_FULL = 5_000_000
ROUNDS = 5
REPEATS = 200
PAGE_SIZE = 50
# No limit is reached.
TAGS = {"tags_max_bytes": 65_536}
DEEP_PAGE = 10_000
WALK_PAGE_SIZE = 1_000
SERVICE = "service-3"
SPAN = ("2026-01-05T06:00:00Z", "2026-01-05T12:00:00Z")
_LIST = "/api/requests/"

Connected = psycopg.Connection[Any]
Run = Callable[[], Any]


def figures(full: bool) -> Iterator[Figure]:
    """Measure a filtered first page, look-ups, and a page deep in the list."""
    with service() as running, psycopg.connect(running.conninfo, autocommit=True) as connection:
        events = EVENTS_FULL if full else EVENTS
        _fill(connection, events)
        _configure(connection)
        http = HTTPConnection("127.0.0.1", running.port, timeout=60)
        first = _get(http, page_size=1)["results"][0]
        # Idle for longer than the service keeps it; the client reconnects.
        http.close()
        floor_ms = wrk_p50_ms(running.port, "/livez")
        for name, target, path, bare in (
            ("first page by service and time, count=exact", 3.0, _PAGE, _page_sql(connection)),
            ("look-up by id", 2.0, f"{_LIST}{first['id']}/", _id_sql(connection, first["id"])),
            (
                "look-up by trace_id",
                2.0,
                _path(trace_id=first["trace_id"], count="none"),
                _trace_sql(connection, first["trace_id"]),
            ),
        ):
            ratio, ours_ms, bare_ms = _against_sql(running.port, path, bare)
            detail = f"p50 {ours_ms:.2f} ms, bare {bare_ms:.2f} ms, an empty route {floor_ms:.2f} ms; {events:,} events"
            yield Figure(f"{name}, against SQL", ratio, target, "at most", detail=detail)
        yield _deep_page(running.port, http)
        http.close()


def _against_sql(port: int, path: str, bare: Run) -> tuple[float, float, float]:
    """Measure a path against the SQL behind it, each over one connection, the rows made into Python."""
    wrk_p50_ms(port, path)
    bare()
    return in_turn(lambda: wrk_p50_ms(port, path), lambda: _p50_ms(bare), ROUNDS)


def _deep_page(port: int, http: HTTPConnection) -> Figure:
    """Walk to a page by cursor and measure it and the first."""
    cursor = ""
    for _ in range((DEEP_PAGE - 1) * PAGE_SIZE // WALK_PAGE_SIZE):
        answer = _get(http, cursor=cursor, count="none", page_size=WALK_PAGE_SIZE)
        cursor = parse_qs(urlsplit(answer["next"]).query)["cursor"][0]

    deep, first = (_path(cursor=at, count="none", page_size=PAGE_SIZE) for at in (cursor, ""))
    ratio, deep_ms, first_ms = in_turn(lambda: wrk_p50_ms(port, deep), lambda: wrk_p50_ms(port, first), ROUNDS)
    detail = f"p50 {deep_ms:.2f} ms, first {first_ms:.2f} ms"
    return Figure(f"page {DEEP_PAGE:,} by cursor, against the first", ratio, 1.5, "at most", detail=detail)


def _fill(connection: Connected, events: int) -> None:
    """Make events of one day in 500 series, without passing through REST."""
    connection.execute(
        """INSERT INTO observability.series (service, endpoint, method)
           SELECT 'service-' || s, '/api/v1/resource-' || e, 'GET'
           FROM generate_series(0, 9) AS s, generate_series(0, 49) AS e"""
    )
    connection.execute("SELECT observability.ensure_partitions(ARRAY['2026-01-05'::date])")
    step = events // 10
    with progress("events", total=events) as bar:
        for start in range(0, events, step):
            connection.execute(_FILL, {"start": start, "stop": start + step - 1, "events": events})
            bar.advance(step)
    connection.execute("VACUUM ANALYZE observability.event")


_FILL = """
INSERT INTO observability.event (id, time, series, status_code, latency_ms, trace_id, user_ref, tags)
SELECT (lpad(to_hex(ms), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
       to_timestamp(ms / 1000.0), 1 + n %% 500, 200, n %% 300, md5(n::text), 'user-' || n %% 500, '{"env": "prod"}'
FROM (SELECT n, (extract(epoch FROM timestamptz '2026-01-05Z') * 1000)::bigint + n * 86400000::bigint / %(events)s AS ms
      FROM generate_series(%(start)s::bigint, %(stop)s::bigint) AS n) AS numbered
"""


def _configure(connection: Connected) -> None:
    """Give the bare connection what those of the service have."""
    no_limits = {"statement_timeout_ms": "0", "idle_timeout_ms": "0"}
    connection.execute(KERNEL_QUERIES["configure_session"], no_limits)


def _page_sql(connection: Connected) -> Run:
    where = sql.SQL(" AND ").join(sql.SQL(QUERIES[f"filter_{name}"]) for name in ("series", "start", "end"))
    count = sql.SQL("SELECT count(*) FROM observability.event AS e WHERE {where}").format(where=where)
    page = _list_sql(where)
    identity = {**SYSTEM.parameters, "service": SERVICE, "endpoint": None, "method": None, "services": None}

    def run() -> Any:
        series = [number for (number,) in connection.execute(QUERIES["match_series"], identity)]
        values = {"series": series, "start": SPAN[0], "end": SPAN[1]}
        return (
            connection.execute(count, values).fetchall(),
            connection.execute(page, {**values, "limit": PAGE_SIZE + 1, "offset": 0, **TAGS}).fetchall(),
        )

    return run


def _id_sql(connection: Connected, event_id: str) -> Run:
    start, end = time_range(UUID(event_id))
    values = {"id": event_id, **SYSTEM.parameters, "from_time": start, "to_time": end, **TAGS}
    return lambda: connection.execute(QUERIES["find_event"], values).fetchall()


def _trace_sql(connection: Connected, trace_id: str) -> Run:
    statement = _list_sql(sql.SQL(QUERIES["filter_trace_id"]))
    values = {"trace_id": trace_id, "limit": PAGE_SIZE + 1, "offset": 0, **TAGS}
    return lambda: connection.execute(statement, values).fetchall()


def _list_sql(where: sql.Composable) -> sql.Composed:
    order = order_by(with_tie_breaker(parse_ordering(())))
    page = sql.SQL(QUERIES["page_of_events"]).format(join=sql.SQL(QUERIES["join_first"]), where=where, order=order)
    return sql.SQL(QUERIES["list_events"]).format(page=page)


def _p50_ms(run: Run) -> float:
    times: list[float] = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def _path(**parameters: object) -> str:
    return f"{_LIST}?{urlencode(parameters)}"


_PAGE = _path(service=SERVICE, time_after=SPAN[0], time_before=SPAN[1], page_size=PAGE_SIZE)


def _get(connection: HTTPConnection, **parameters: object) -> Any:
    connection.request("GET", _path(**parameters))
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(content.decode())
    return msgspec.json.decode(content)
