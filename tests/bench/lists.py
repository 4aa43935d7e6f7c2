"""Reading back, against the bare SQL through psycopg."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

import msgspec
import psycopg

from kernel.terminal import progress
from tests.bench.figures import Figure, in_turn
from tests.bench.service import Service, service

EVENTS = 1_000_000
ROUNDS = 5
REPEATS = 40
_COLUMNS = """SELECT e.id, e.time, s.service, s.endpoint, s.method, e.status_code, e.latency_ms, e.trace_id, e.user_ref,
    e.tags::text FROM observability.event AS e JOIN observability.series AS s ON s.id = e.series"""


def figures() -> Iterator[Figure]:
    """Measure a filtered first page, look-ups, and a page deep in the list."""
    with service() as running, psycopg.connect(running.conninfo, autocommit=True) as connection:
        _fill(running, connection)
        http = HTTPConnection("127.0.0.1", running.port, timeout=60)
        first = _get(http, "/api/requests/?page_size=1")["results"][0]
        span = "time_after=2026-01-05T06:00:00Z&time_before=2026-01-05T12:00:00Z"
        path = f"/api/requests/?service=service-3&{span}"
        yield _compare(
            "first page by service and time, count=exact, against SQL",
            3.0,
            lambda: _get(http, path),
            lambda: _page_sql(connection),
        )
        yield _compare(
            "look-up by id, against SQL",
            2.0,
            lambda: _get(http, f"/api/requests/{first['id']}/"),
            lambda: connection.execute(
                f"{_COLUMNS} WHERE e.time = %s AND e.id = %s", (first["time"], first["id"])
            ).fetchall(),
        )
        yield _compare(
            "look-up by trace_id, against SQL",
            2.0,
            lambda: _get(http, f"/api/requests/?trace_id={first['trace_id']}&count=none"),
            lambda: connection.execute(f"{_COLUMNS} WHERE e.trace_id = %s", (first["trace_id"],)).fetchall(),
        )
        http.close()


def _fill(running: Service, connection: psycopg.Connection[Any]) -> None:
    """Make events of one day in 500 series, without passing through REST."""
    connection.execute(
        """INSERT INTO observability.series (service, endpoint, method)
           SELECT 'service-' || s, '/api/v1/resource-' || e, 'GET'
           FROM generate_series(0, 9) AS s, generate_series(0, 49) AS e"""
    )
    connection.execute("SELECT observability.ensure_partitions(ARRAY['2026-01-05'::date])")
    step = EVENTS // 10
    with progress("events", total=EVENTS) as bar:
        for start in range(0, EVENTS, step):
            connection.execute(_FILL, {"start": start, "stop": start + step - 1, "events": EVENTS})
            bar.advance(step)
    connection.execute("VACUUM ANALYZE observability.event")


_FILL = """
INSERT INTO observability.event (id, time, series, status_code, latency_ms, trace_id, user_ref, tags)
SELECT (lpad(to_hex(ms), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
       to_timestamp(ms / 1000.0), 1 + n %% 500, 200, n %% 300, md5(n::text), 'user-' || n %% 500, '{"env": "prod"}'
FROM (SELECT n, (extract(epoch FROM timestamptz '2026-01-05Z') * 1000)::bigint + n * 86400000::bigint / %(events)s AS ms
      FROM generate_series(%(start)s::bigint, %(stop)s::bigint) AS n) AS numbered
"""


def _page_sql(connection: psycopg.Connection[Any]) -> Any:
    where = """WHERE e.series = ANY(ARRAY(SELECT id FROM observability.series WHERE lower(service) = 'service-3'))
        AND e.time >= '2026-01-05T06:00:00Z' AND e.time <= '2026-01-05T12:00:00Z'"""
    count = connection.execute(f"SELECT count(*) FROM observability.event AS e {where}").fetchone()
    return count, connection.execute(f"{_COLUMNS} {where} ORDER BY e.time DESC, e.id LIMIT 51").fetchall()


def _compare(name: str, target: float, ours: Callable[[], Any], bare: Callable[[], Any]) -> Figure:
    ours()
    bare()
    ratio, ours_ms, bare_ms = in_turn(lambda: _p50_ms(ours), lambda: _p50_ms(bare), ROUNDS)
    return Figure(name, ratio, target, "at most", detail=f"p50 {ours_ms:.2f} ms, bare {bare_ms:.2f} ms")


def _p50_ms(run: Callable[[], Any]) -> float:
    times: list[float] = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def _get(connection: HTTPConnection, path: str) -> Any:
    connection.request("GET", path)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(content.decode())
    return msgspec.json.decode(content)
