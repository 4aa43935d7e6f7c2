"""The overview page over ninety days of events: as a whole, and panel by panel."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection

import psycopg

from kernel.cli.output import progress
from tests.bench.figures import Figure
from tests.bench.month import Connected, fill_span, make_series, rollups
from tests.bench.service import service

EVENTS = 900_000
EVENTS_FULL = 10_000_000
DAYS = 90
LASTS = ("15m", "6h", "24h", "7d", "30d", "90d")
# A person waits no longer without losing the thread: https://www.nngroup.com/articles/response-times-3-important-limits/
PAGE_MAX_S = 1.0
REPEATS = 7
DAY = timedelta(days=1)
_FILTERS = {"of a service": "&service=service-3", "of a status": "&status_class=5xx"}


def figures(full: bool) -> Iterator[Figure]:
    """Measure the page over each range, its panels over the longest, and what filters make of that."""
    events = EVENTS_FULL if full else EVENTS
    with (
        service(TIERCEL_OBSERVABILITY__LOG_OWN_REQUESTS="false") as running,
        psycopg.connect(running.conninfo, autocommit=True) as connection,
    ):
        make_series(connection)
        _fill(connection, events)
        with rollups(running.conninfo) as kept:
            kept.refresh()
        connection.execute("VACUUM ANALYZE")
        http = HTTPConnection("127.0.0.1", running.port, timeout=60)
        pages = {last: _p50_s(http, f"last={last}") for last in LASTS}
        for last, page_s in pages.items():
            detail = f"{events:,} events over {DAYS} days; {page_s / pages['24h']:.1f} times that of 24h"
            yield Figure(f"overview, {last}", page_s, PAGE_MAX_S, "at most", unit="s", detail=detail)
        for name, query in _FILTERS.items():
            page_s = _p50_s(http, f"last=90d{query}")
            yield Figure(f"overview, 90d {name}", page_s, PAGE_MAX_S, "at most", unit="s")
        for panel in _panels(http):
            panel_s = _p50_s(http, "last=90d", panel)
            detail = f"24h: {_p50_s(http, 'last=24h', panel) * 1000:.0f} ms"
            yield Figure(f"overview, 90d, panel {panel}", panel_s, None, "at most", unit="s", detail=detail)
        http.close()


def _fill(connection: Connected, events: int) -> None:
    """Store events of the last ninety days, up to now, day by day as they would come."""
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    with progress("days", total=DAYS) as bar:
        for number in range(DAYS - 1, -1, -1):
            start = today - number * DAY
            span = min(DAY, now - start)
            fill_span(connection, start, span, max(1, round(events / DAYS * (span / DAY))))
            bar.advance(1)


def _panels(http: HTTPConnection) -> list[str]:
    return re.findall(r'data-panel="(\w+)"', _get(http, "last=24h").decode())


def _p50_s(http: HTTPConnection, query: str, panel: str | None = None) -> float:
    times: list[float] = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        _get(http, query, panel)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _get(http: HTTPConnection, query: str, panel: str | None = None) -> bytes:
    headers = {"Accept": "text/html"} | ({"X-Panel": panel} if panel else {})
    http.request("GET", f"/requests/?{query}", headers=headers)
    answer = http.getresponse()
    content = answer.read()
    # A panel that failed is shown with the page.
    if answer.status != 200 or b'role="alert"' in content:
        raise RuntimeError(content.decode()[-2000:])
    return content
