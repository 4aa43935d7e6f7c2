"""Pages for people: the overview at ``/requests/``, the list of request logs, one of them, and one trace.

Their parameters have the names of the API, so that a page and a call differ by the path alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode
from uuid import UUID

import msgspec

from kernel import Identity, InvalidError, Request, route
from kernel.http import (
    Chart,
    Panel,
    Series,
    TemplateResponse,
    compare,
    format_value,
    local_link,
    page_link,
)
from plugins.observability.access import Access
from plugins.observability.analytics.models import KpiQuery, TimeseriesQuery, TopQuery, WindowQuery
from plugins.observability.analytics.scope import window_of
from plugins.observability.analytics.service import GROUPED_STEPS_MAX, AnalyticsService
from plugins.observability.event_list import EventPages
from plugins.observability.models import STATUS_CODES, Event, ListQuery
from plugins.observability.resolution import DAY, HOUR, Span
from plugins.observability.store import EventStore
from plugins.observability.traces import Trace, TraceQuery, TraceRoutes

OVERVIEW = "/requests/"
LIST = "/requests/list/"
MINUTE = timedelta(minutes=1)
Last = Literal["15m", "1h", "6h", "24h", "7d", "30d", "90d"]
LENGTHS: Mapping[Last, timedelta] = {
    "15m": 15 * MINUTE,
    "1h": HOUR,
    "6h": 6 * HOUR,
    "24h": DAY,
    "7d": 7 * DAY,
    "30d": 30 * DAY,
    "90d": 90 * DAY,
}
DEFAULT_LAST: Last = "24h"
# Steps of charts. From an hour on, percentiles come from rollups.
_STEPS = {
    "1m": MINUTE,
    "5m": 5 * MINUTE,
    "15m": 15 * MINUTE,
    "1h": HOUR,
    "3h": 3 * HOUR,
    "12h": 12 * HOUR,
    "1d": DAY,
}
_STEPS_PER_CHART = 90
# Longer than this, minutes are too expensive to read.
_FINE_WINDOW_MAX = 6 * HOUR
_WINDOW_MAX = 400 * DAY
_PERCENTILES = (50.0, 99.0)
# So that each of them may have a step for every day of the longest window.
_STATUSES_MAX = GROUPED_STEPS_MAX // (_WINDOW_MAX // DAY + 2)
_ROWS = 8
_SERVER_ERRORS = tuple(range(500, STATUS_CODES.stop))
COLUMNS = ("time", "service", "endpoint", "method", "status_code", "latency_ms", "trace_id", "user_ref")
Column = Literal["time", "service", "endpoint", "method", "status_code", "latency_ms", "trace_id", "user_ref"]
_DEFAULT_COLUMNS: tuple[Column, ...] = ("time", "service", "endpoint", "method", "status_code", "latency_ms")
# Filters that the overview and the list share.
_SHARED = ("service", "endpoint", "method")
# What a call of the API does not have.
_PAGE_ONLY = ("columns", "last")
# What an export does not have.
_PAGING = ("page", "page_size", "cursor", "count")


class OverviewQuery(WindowQuery, frozen=True, kw_only=True):
    """Parameters of the overview.

    Args:
        method: HTTP method.
        last: How long the window is, if it has no start; it ends now, or with ``end``.
    """

    method: str | None = None
    last: Last = DEFAULT_LAST


class ListPageQuery(ListQuery, frozen=True, kw_only=True):
    """Parameters of the page of request logs: those of the list, and what is shown.

    Args:
        columns: In this order.
    """

    columns: tuple[Column, ...] = _DEFAULT_COLUMNS
    count: Literal["exact", "estimated", "none"] = "estimated"


class Bar(NamedTuple):
    """A request in the waterfall of a trace: position and width, in thousandths of the whole."""

    event: Event
    x: float
    width: float
    offset: str


class RequestPages:
    """Handlers of the pages.

    Args:
        analytics: Computes what the overview shows.
        events: Lists events.
        store: Single events.
        now: The clock.
    """

    def __init__(
        self, analytics: AnalyticsService, events: EventPages, store: EventStore, now: Callable[[], datetime]
    ) -> None:
        self._analytics = analytics
        self._events = events
        self._store = store
        self._traces = TraceRoutes(store)
        self._now = now

    @route(OVERVIEW, policy="read", menu="Overview")
    def overview(self, request: Request, query: OverviewQuery, identity: Identity) -> TemplateResponse:
        """Show how much, how well and how fast requests were answered."""
        window, access = self._window(query), Access.of(identity)
        before = _period_before(window)
        filters = {name: value for name in (*_SHARED, "application") if (value := getattr(query, name)) is not None}
        inclusive = {"start": window.start, "end": window.end - timedelta(microseconds=1)}
        seen = {**filters, **inclusive}

        def rank(sort_by: str) -> Sequence[Mapping[str, Any]]:
            top = TopQuery(**seen, sort_by=sort_by, limit=_ROWS, with_p95=True, approx=True)
            return [
                {
                    **row,
                    "href": page_link(OVERVIEW, request, service=row["service"], endpoint=row["endpoint"]),
                    "list": page_link(
                        LIST, None, **_of_list({**seen, "service": row["service"], "endpoint": row["endpoint"]})
                    ),
                }
                for row in self._analytics.top_endpoints(top, access).rows
            ]

        def totals() -> Mapping[str, Any]:
            found = self._totals(seen, {**filters, **before}, access)
            return {
                **found,
                "is_empty": not found["hits"] and self._is_empty(request, access),
                "origin": origin,
                "end": window.end,
            }

        origin = request.origin
        panels = {
            "totals": Panel(totals, "observability/totals.html", "Totals"),
            "charts": Panel(
                lambda: {"charts": self._charts(seen, window, access)}, "observability/charts.html", "Over time"
            ),
            "busiest": Panel(lambda: {"rows": rank("hits")}, "observability/ranking.html", "Busiest endpoints"),
            "slowest": Panel(lambda: {"rows": rank("p95")}, "observability/ranking.html", "Slowest endpoints"),
            "errors": Panel(
                lambda: {
                    **_HELPERS,
                    **self._newest_errors(request, seen, window, access),
                    "everything": page_link(LIST, None, **_of_list(seen)),
                },
                "observability/errors.html",
                "Newest errors",
            ),
        }
        context = {
            "query": query,
            "window": window,
            "lasts": [
                (last, page_link(OVERVIEW, request, last=last, start=None, end=None, time_after=None, time_before=None))
                for last in LENGTHS
            ],
            "last": query.last if query.start is None else None,
            "filters": list(filters.items()),
            "clear": page_link(OVERVIEW, request, **dict.fromkeys((*_SHARED, "application"))),
        }
        return TemplateResponse("observability/overview.html", context, panels=panels)

    @route(LIST, policy="read", menu="Requests")
    def list(self, request: Request, query: ListPageQuery, identity: Identity) -> TemplateResponse:
        """Show request logs, newest first."""
        asked = query
        if query.cursor is None and query.page == 1:
            # Pages by cursor stay where they are while requests arrive.
            asked = msgspec.structs.replace(query, cursor="")
        found = self._events.page(request, asked, Access.of(identity))
        sent = [(name, value) for name, value in parse_qsl(request.query_string) if name not in _PAGE_ONLY]
        call = f"{request.origin}/api/requests/" + (f"?{urlencode(sent)}" if sent else "")
        selection = [(name, value) for name, value in sent if name not in _PAGING]
        context = {
            "query": query,
            "page": found,
            "filters": selection,
            "next": local_link(found.next, request),
            "previous": local_link(found.previous, request),
            "columns": query.columns,
            "all_columns": COLUMNS,
            "curl": f"curl {shlex.quote(call)}",
            "exports": [
                (label, f"/api/requests/export/?{urlencode([*selection, ('format', name)])}")
                for label, name in (("CSV", "csv"), ("NDJSON", "ndjson"), ("Parquet", "parquet"))
            ],
            "clear": LIST,
            "overview": page_link(OVERVIEW, None, **{name: getattr(query, name) for name in _SHARED}),
        }
        return TemplateResponse("observability/requests.html", {**_HELPERS, **context})

    @route("/requests/events/{id}/", policy="read")
    def show(self, id: UUID, identity: Identity) -> TemplateResponse:  # noqa: A002 - the name in the path
        """Show one request log with its tags."""
        event = self._store.find(id, Access.of(identity))
        tags = msgspec.json.format(event.tags, indent=2).decode(errors="replace")
        context = {"event": event, "tags": tags, "has_tags": tags.strip() != "{}"}
        return TemplateResponse("observability/request.html", {**_HELPERS, **context})

    @route("/requests/traces/{trace_id}/", policy="read")
    def trace(self, trace_id: str, query: TraceQuery, identity: Identity) -> TemplateResponse:
        """Show the requests of a trace on a common scale of time."""
        found = self._traces.show(trace_id, query, identity)
        bars, length_ms = _waterfall(found)
        context = {"trace": found, "bars": bars, "length_ms": length_ms}
        return TemplateResponse("observability/trace.html", {**_HELPERS, **context})

    def _window(self, query: OverviewQuery) -> Span:
        window = window_of(query.start, query.end, self._now(), LENGTHS[query.last])
        if window.end - window.start > _WINDOW_MAX:
            raise InvalidError(errors={"start": [f"Expected at most {_WINDOW_MAX.days} days before the end."]})
        return window

    def _is_empty(self, request: Request, access: Access) -> bool:
        latest = ListQuery(page_size=1, count="none", cursor="")
        return not self._events.page(request, latest, access).results

    def _totals(self, seen: Mapping[str, Any], before: Mapping[str, Any], access: Access) -> Mapping[str, Any]:
        now = self._analytics.kpis(KpiQuery(**seen, percentiles=_PERCENTILES, approx=True), access)
        then = self._analytics.kpis(KpiQuery(**before, percentiles=_PERCENTILES, approx=True), access)
        percentiles = [{each.percentile: each.value_ms for each in kpis.percentiles} for kpis in (now, then)]
        latencies = [("p50", 50.0), ("p99", 99.0)]
        tiles = [
            compare("Requests", now.figures["hits"], then.figures["hits"], "count", less_is_better=None),
            compare("Error rate", _rate(now.figures), _rate(then.figures), "percent", less_is_better=True),
            *(
                compare(
                    f"Latency {name}", percentiles[0].get(each), percentiles[1].get(each), "ms", less_is_better=True
                )
                for name, each in latencies
            ),
        ]
        p95 = compare(
            "Latency p95", now.figures["p95_latency_ms"], then.figures["p95_latency_ms"], "ms", less_is_better=True
        )
        tiles.insert(3, p95)
        return {"hits": now.figures["hits"], "tiles": tiles, "fresh_until": now.fresh_until, "covered": now.covered}

    def _charts(self, seen: Mapping[str, Any], window: Span, access: Access) -> Sequence[Chart]:
        name, step = _step_for(window)
        query = TimeseriesQuery(
            **seen,
            step=name,
            percentiles=(50.0, 95.0, 99.0),
            group_by=("status_code",),
            limit=_STATUSES_MAX,
            approx=True,
        )
        found = self._analytics.timeseries(query, access)
        starts = [each.start for each in found.steps]
        by_class = {number: [0] * len(starts) for number in range(1, 6)}
        # 1xx, and the rarest statuses, if there are too many.
        others = [each.hits for each in found.steps]
        for group in found.groups or ():
            layer = by_class[group["status_code"] // 100]
            for position, each in enumerate(group["steps"]):
                layer[position] += each.hits
        for number in range(2, 6):
            others = [count - hits for count, hits in zip(others, by_class[number], strict=True)]
        percentiles = {number: [each.percentiles_ms[f"{number}"] for each in found.steps] for number in (50, 95, 99)}
        layers = [
            Series("2xx", "good", by_class[2]),
            Series("3xx", "info", by_class[3]),
            Series("4xx", "warn", by_class[4]),
            Series("5xx", "bad", by_class[5]),
        ]
        if any(others):
            layers.append(Series("other", "muted", others))
        return [
            Chart(
                title=f"Requests per {name}",
                unit="count",
                starts=starts,
                step=step,
                stacked=True,
                series=layers,
            ),
            Chart(
                title="Latency",
                unit="ms",
                starts=starts,
                step=step,
                series=[
                    Series("p50", "first", percentiles[50]),
                    Series("p95", "second", percentiles[95]),
                    Series("p99", "third", percentiles[99]),
                ],
            ),
            Chart(
                title="Error rate",
                unit="percent",
                starts=starts,
                step=step,
                series=[Series("5xx", "bad", [each.error_rate if each.hits else None for each in found.steps])],
            ),
        ]

    def _newest_errors(
        self, request: Request, seen: Mapping[str, Any], window: Span, access: Access
    ) -> Mapping[str, Any]:
        if "application" in seen:
            # The list knows no applications.
            return {"events": [], "list": None}
        name, step = _step_for(window)
        steps = self._analytics.timeseries(TimeseriesQuery(**seen, step=name, approx=True), access).steps
        events: list[Event] = []
        # Rollups know when errors happened: without them, all events may have to be read to find a few.
        for each in reversed(steps):
            if each.errors and len(events) < _ROWS:
                span = {
                    "start": max(each.start, window.start),
                    "end": min(each.start + step, window.end) - timedelta(microseconds=1),
                }
                query = ListQuery(
                    **{**_of_list(seen), **span},
                    status_code__in=_SERVER_ERRORS,
                    page_size=min(_ROWS - len(events), each.errors),
                    count="none",
                    cursor="",
                )
                events.extend(self._events.page(request, query, access).results)
        everything = _of_list({**seen, "status_code__in": ",".join(map(str, _SERVER_ERRORS))})
        return {"events": events, "list": page_link(LIST, None, **everything)}


def _period_before(window: Span) -> dict[str, datetime]:
    return {
        "start": window.start - (window.end - window.start),
        "end": window.start - timedelta(microseconds=1),
    }


def _step_for(window: Span) -> tuple[str, timedelta]:
    """Return the finest step with which a chart has room for a window, and with which it is not expensive."""
    length = window.end - window.start
    for name, step in _STEPS.items():
        if length / step <= _STEPS_PER_CHART and (step >= HOUR or length <= _FINE_WINDOW_MAX + MINUTE):
            return name, step
    return "1d", DAY


def _rate(figures: Mapping[str, Any]) -> float | None:
    return figures["error_rate"] if figures["hits"] else None


def _of_list(selection: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of the list that select the same; it knows no applications."""
    return {name: value for name, value in selection.items() if name != "application"}


def _waterfall(trace: Trace) -> tuple[Sequence[Bar], float]:
    """Return the bars of a trace, and how long it took in ms: from its first request to the last answer."""

    def ms(event: Event) -> float:
        return (event.time - trace.start) / timedelta(milliseconds=1)

    length = max((ms(event) + (event.latency_ms or 0) for event in trace.events), default=0)
    scale = 1000 / length if length else 0
    bars = [
        Bar(
            event,
            # The narrowest is still seen, also at the very end.
            round(min(996, ms(event) * scale), 1),
            round(max(4, (event.latency_ms or 0) * scale), 1),
            format_value(ms(event), "ms"),
        )
        for event in trace.events
    ]
    return bars, length


def event_link(event: Event) -> str:
    """Return the path of the page of a request."""
    return f"/requests/events/{event.id}/"


def trace_link(trace_id: str) -> str:
    """Return the path of the page of a trace."""
    return f"/requests/traces/{quote(trace_id, safe='')}/"


_HELPERS: Mapping[str, Any] = {
    "event_link": event_link,
    "trace_link": trace_link,
}
