"""Pages of request logs: the list, those that arrive, one of them, and one trace.

Their parameters have the names of the API, so that a page and a call differ by the path alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode
from uuid import UUID

import msgspec

from kernel import Identity, NotFoundError, Request, Response, route
from kernel.http import Page, Panel, TemplateResponse, local_link, page_link
from plugins.observability.access import Access
from plugins.observability.analytics.models import TimeseriesQuery
from plugins.observability.analytics.service import AnalyticsService
from plugins.observability.event_list import EventPages
from plugins.observability.filters import DEFAULT_ORDERING, SORTABLE, parse_ordering, validate_filters
from plugins.observability.models import STATUS_CLASSES, Event, ListQuery, SelectionQuery
from plugins.observability.overview_page import step_for
from plugins.observability.page_links import HELPERS, LIST, LIVE, OVERVIEW, SHARED_FILTERS, trace_link
from plugins.observability.resolution import DAY
from plugins.observability.store import EventStore
from plugins.observability.traces import TraceQuery, TraceRoutes
from plugins.observability.waterfall import make_waterfall

COLUMNS: Mapping[str, str] = {
    "time": "Time (UTC)",
    "status_code": "Status",
    "method": "Method",
    "endpoint": "Endpoint",
    "service": "Service",
    "latency_ms": "Latency",
    "user_ref": "User",
    "trace_id": "Trace",
    "tags": "Tags",
}
Column = Literal["time", "status_code", "method", "endpoint", "service", "latency_ms", "user_ref", "trace_id", "tags"]
_DEFAULT_COLUMNS: tuple[Column, ...] = ("time", "status_code", "method", "endpoint", "service", "latency_ms")
FILTERS: Mapping[str, str] = {
    "service": "Service",
    "endpoint": "Endpoint",
    "method": "Method",
    "status_code": "Status",
    "status_code__in": "One of these statuses",
    "status_class": "Status class",
    "latency_min": "Latency from",
    "latency_max": "Latency to",
    "user_ref": "User",
    "trace_id": "Trace",
    "search": "Search",
    "application": "Application",
    "start": "Start",
    "end": "End",
}
_UNITS = {"latency_min": " ms", "latency_max": " ms"}
# What a click on the head of a column sorts by first: the latest, slowest and worst are what people look for.
_DESCENDING_FIRST = frozenset({"time", "latency_ms", "status_code"})
# What a call of the API does not have.
_PAGE_ONLY = frozenset({"columns"})
# What an export does not have, and what does not hold on another page.
_PAGING = frozenset({"page", "page_size", "cursor", "count"})
_TAGS_SHOWN_MAX = 100
# Filters that rollups do not know.
_UNCOUNTED = ("trace_id", "user_ref", "latency_min", "latency_max", "search")
_STATUSES_MAX = 60
_HISTOGRAM_HEIGHT = 40
# Before and after a request, and like it.
_NEARBY = timedelta(minutes=5)
_BARS_PER_PAGE = 500
# Of the live tail without a script, and how often it is reloaded; with one, as many as the script keeps.
_NEWEST = 50
_REFRESH_S = 5
_LIVE_ROWS_MAX = 500
_TRACE_MAX = 10_000


class ListPageQuery(ListQuery, frozen=True, kw_only=True):
    """Parameters of the page of request logs: those of the list, and what is shown.

    Args:
        columns: In this order.
    """

    columns: tuple[Column, ...] = _DEFAULT_COLUMNS
    count: Literal["exact", "estimated", "none"] = "estimated"


class TracePageQuery(TraceQuery, frozen=True, kw_only=True):
    """Parameters of the page of a trace.

    Args:
        from_ms: Shown from here on, after the first request.
        to_ms: Shown up to here.
        page: Of the requests that are shown, from 1.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=_TRACE_MAX)] = _TRACE_MAX
    from_ms: Annotated[float, msgspec.Meta(ge=0)] | None = None
    to_ms: Annotated[float, msgspec.Meta(ge=0)] | None = None
    page: Annotated[int, msgspec.Meta(ge=1, le=_TRACE_MAX)] = 1


class ColumnHead(NamedTuple):
    """The head of a column: its link sorts by it, if that is possible; ``sorted`` is the value of ``aria-sort``."""

    name: str
    label: str
    href: str | None
    sorted: Literal["ascending", "descending"] | None


class Chip(NamedTuple):
    """A filter that is set, and the link without it."""

    label: str
    value: str
    href: str


class Step(NamedTuple):
    """A bar of the histogram: where it is, how high its parts are, and the link to its requests."""

    x: int
    errors: float
    rest: float
    label: str
    href: str


class RequestPages:
    """Handlers of the pages.

    Args:
        analytics: Counts what is listed, and knows what there is to filter by.
        events: Lists events.
        store: Single events.
        now: The clock.
        needs_key: Whether calls of the API have to be authenticated.
    """

    def __init__(
        self,
        analytics: AnalyticsService,
        events: EventPages,
        store: EventStore,
        now: Callable[[], datetime],
        *,
        needs_key: bool,
    ) -> None:
        self._analytics = analytics
        self._events = events
        self._store = store
        self._traces = TraceRoutes(store)
        self._now = now
        self._needs_key = needs_key

    @route(LIST, policy="read", menu="Requests")
    def list(self, request: Request, query: ListPageQuery, identity: Identity) -> TemplateResponse:
        """Show request logs, newest first."""
        access = Access.of(identity)
        validate_filters(query)
        ordering = parse_ordering(query.ordering)
        sent = [(name, value) for name, value in parse_qsl(request.query_string) if name not in _PAGE_ONLY]
        selection = [(name, value) for name, value in sent if name not in _PAGING]
        filters = [pair for pair in selection if pair[0] != "ordering"]

        def link(**changes: Any) -> str:
            columns = None if query.columns == _DEFAULT_COLUMNS else ",".join(query.columns)
            return page_link(LIST, request, **{"columns": columns, "cursor": None, "page": None, **changes})

        context = {
            "query": query,
            "chips": _chips_of(query, link),
            "all_columns": COLUMNS,
            "call": f"/api/requests/?{urlencode(sent)}" if sent else "/api/requests/",
            "curl": self._curl(request, "/api/requests/", sent),
            "exports": [
                (label, f"/api/requests/export/?{urlencode([*selection, ('format', name)])}")
                for label, name in (("CSV", "csv"), ("NDJSON", "ndjson"), ("Parquet", "parquet"))
            ],
            "clear": page_link(LIST, columns=None if query.columns == _DEFAULT_COLUMNS else ",".join(query.columns)),
            "overview": page_link(OVERVIEW, None, **{name: getattr(query, name) for name in SHARED_FILTERS}),
            "live": page_link(LIVE, None, **{name: value for name, value in filters if name not in ("start", "end")}),
            "status_classes": STATUS_CLASSES,
        }

        def results() -> Mapping[str, Any]:
            found = self._read(request, query, access)
            return {
                **HELPERS,
                "query": query,
                "page": found,
                "count": _count(found, query),
                "heads": [_head(name, ordering, link) for name in query.columns],
                "link": link,
                "next": local_link(found.next, request),
                "previous": local_link(found.previous, request),
                "short_tags": _short_tags,
                "row_tone": _row_tone,
                "is_filtered": bool(filters),
            }

        panels = {
            "results": Panel(results, "observability/results.html", "Matches"),
            "histogram": Panel(
                lambda: self._histogram(query, access, link), "observability/histogram.html", "Over time", refresh_s=30
            ),
            "suggestions": self._suggestions(query, access),
        }
        return TemplateResponse("observability/requests.html", {**HELPERS, **context}, panels=panels)

    @route(LIVE, policy="read", menu="Live tail")
    def live(self, request: Request, query: SelectionQuery, identity: Identity) -> TemplateResponse:
        """Show request logs as they arrive. Without a script, the newest, again and again."""
        access = Access.of(identity)
        validate_filters(query)
        sent = parse_qsl(request.query_string)
        values = {name: getattr(query, name) for name in SelectionQuery.__struct_fields__}
        newest = ListQuery(**values, page_size=_NEWEST, count="none", cursor="")

        def link(**changes: Any) -> str:
            return page_link(LIVE, request, **changes)

        context = {
            "query": query,
            "chips": _chips_of(query, link),
            "clear": LIVE,
            "status_classes": STATUS_CLASSES,
            "newest": self._read(request, newest, access).results,
            "row_tone": _row_tone,
            "refresh_s": _REFRESH_S,
            "rows_max": _LIVE_ROWS_MAX,
            "stream": page_link("/api/requests/live/", request),
            "list": page_link(LIST, None, **dict(sent)),
            "curl": self._curl(request, "/api/requests/live/", sent, "-N"),
        }
        panels = {"suggestions": self._suggestions(query, access)}
        return TemplateResponse("observability/live.html", {**HELPERS, **context}, panels=panels)

    @route("/requests/events/{id}/", policy="read")
    def show(self, request: Request, id: UUID, identity: Identity) -> TemplateResponse:  # noqa: A002 - the name in the path
        """Show one request log with its tags."""
        event = self._store.find(id, Access.of(identity))
        path = f"/api/requests/{event.id}/"
        around = {"start": event.time - _NEARBY, "end": event.time + _NEARBY}
        same = {"service": event.service, "endpoint": event.endpoint, "method": event.method}
        links = [
            ("Requests like this", page_link(LIST, None, **same, status_code=event.status_code)),
            ("Of this endpoint, before", page_link(LIST, None, **same, end=event.time)),
            ("Of this endpoint, after", page_link(LIST, None, **same, start=event.time, ordering="time")),
            ("Of all services, within 5 min", page_link(LIST, None, **around)),
        ]
        if event.user_ref:
            links[3:3] = [
                ("Of this user, before", page_link(LIST, user_ref=event.user_ref, end=event.time)),
                ("Of this user, after", page_link(LIST, user_ref=event.user_ref, start=event.time, ordering="time")),
            ]
        context = {
            "event": event,
            "tags": flatten_tags(event),
            "raw": msgspec.json.format(msgspec.json.encode(event), indent=2).decode(errors="replace"),
            "links": links,
            "overview": page_link(OVERVIEW, None, **same),
            "api": path,
            "curl": self._curl(request, path),
        }
        return TemplateResponse("observability/request.html", {**HELPERS, **context})

    @route("/requests/traces/{trace_id}/", policy="read")
    def trace(
        self, request: Request, trace_id: str, query: TracePageQuery, identity: Identity
    ) -> Response[TemplateResponse]:
        """Show the requests of a trace on a common scale of time."""
        path = trace_link(trace_id)
        try:
            found = self._traces.show(trace_id, TraceQuery(query.limit), identity)
        except NotFoundError:
            missing = {"trace_id": trace_id, "similar": page_link(LIST, search=trace_id[:100] or None)}
            return Response(TemplateResponse("observability/no_trace.html", missing), 404)
        waterfall = make_waterfall(found.events, query.from_ms, query.to_ms)
        last = max(1, -(-len(waterfall.bars) // _BARS_PER_PAGE))
        page = min(query.page, last)

        def numbered(number: int) -> str | None:
            return page_link(path, request, page=number) if 1 <= number <= last else None

        api = f"/api/requests/traces/{quote(trace_id, safe='')}/"
        context = {
            "trace": found,
            "waterfall": waterfall,
            "bars": waterfall.bars[(page - 1) * _BARS_PER_PAGE : page * _BARS_PER_PAGE],
            "zoomed": query.from_ms is not None or query.to_ms is not None,
            "whole": page_link(path, request, from_ms=None, to_ms=None, page=None),
            "zoom": lambda bar: page_link(
                path, request, from_ms=f"{bar.start_ms:.3f}", to_ms=f"{bar.start_ms + bar.length_ms:.3f}", page=None
            ),
            "page": page,
            "pages": last,
            "previous": numbered(page - 1),
            "next": numbered(page + 1),
            "list": page_link(LIST, trace_id=trace_id),
            "api": api,
            "curl": self._curl(request, api),
        }
        return Response(TemplateResponse("observability/trace.html", {**HELPERS, **context}))

    def _read(self, request: Request, query: ListQuery, access: Access) -> Page[Event]:
        """Return a page of the list; raises as ``EventPages.page``."""
        asked = query
        if query.cursor is None and query.page == 1:
            # Pages by cursor stay where they are while requests arrive.
            asked = msgspec.structs.replace(query, cursor="")
        return self._events.page(request, asked, access)

    def _curl(self, request: Request, path: str, parameters: Sequence[tuple[str, str]] = (), *options: str) -> str:
        """Return a call of the API for a shell."""
        url = f"{request.origin}{path}" + (f"?{urlencode(parameters)}" if parameters else "")
        key = ["-H 'Authorization: Api-Key YOUR_KEY'"] if self._needs_key else []
        return " ".join(["curl", *options, *key, shlex.quote(url)])

    def _suggestions(self, query: SelectionQuery, access: Access) -> Panel:
        """Return the panel with names for the filters."""
        return Panel(
            lambda: {"suggestions": self._store.suggest(query.service, access)},
            "observability/suggestions.html",
            None,
            framed=False,
        )

    def _histogram(self, query: ListPageQuery, access: Access, link: Callable[..., str]) -> Mapping[str, Any]:
        if any(getattr(query, name) is not None for name in _UNCOUNTED):
            return {"steps": None}
        now = self._now()
        end = query.end or now
        start = query.start or end - DAY
        name, size = step_for(end - start)
        found = self._analytics.timeseries(
            TimeseriesQuery(
                **{name: getattr(query, name) for name in SHARED_FILTERS},
                start=start,
                end=end,
                step=name,
                approx=True,
                group_by=("status_code",) if query.status_code__in else (),
                limit=_STATUSES_MAX if query.status_code__in else None,
            ),
            access,
        )
        counts = [(each.hits, each.errors) for each in found.steps]
        if query.status_code__in:
            groups = [each for each in found.groups or () if each["status_code"] in query.status_code__in]
            counts = [
                (sum(each["steps"][at].hits for each in groups), sum(each["steps"][at].errors for each in groups))
                for at in range(len(found.steps))
            ]
        peak = max((hits for hits, _ in counts), default=0) or 1
        scale = _HISTOGRAM_HEIGHT / peak
        steps = []
        for at, (each, (hits, errors)) in enumerate(zip(found.steps, counts, strict=True)):
            last = each.start + size - timedelta(microseconds=1)
            label = f"{each.start:%Y-%m-%d %H:%M} UTC: {hits:,} requests, {errors:,} failed"
            href = link(start=max(each.start, start), end=min(last, end))
            steps.append(Step(at, round(errors * scale, 2), round((hits - errors) * scale, 2), label, href))
        return {
            "steps": steps,
            "hits": sum(hits for hits, _ in counts),
            "errors": sum(errors for _, errors in counts),
            "start": start,
            "end": end,
            "is_default": query.start is None,
            "height": _HISTOGRAM_HEIGHT,
            "step": name,
        }


def _count(page: Page[Event], query: ListPageQuery) -> str | None:
    """Return how many requests match, as a sentence; None if that was not asked for."""
    if page.count is None:
        return None
    shown = len(page.results)
    if page.next is None and page.previous is None:
        return f"{shown:,} request{'' if shown == 1 else 's'}"
    if query.count == "exact":
        return f"{page.count:,} requests"
    # The planner may think of fewer than there are on this page.
    return f"About {max(page.count, shown):,} requests, estimated"


def _chips_of(query: SelectionQuery, link: Callable[..., str]) -> Sequence[Chip]:
    """Return the filters that are set.

    Args:
        query: Has them.
        link: Returns a link to the page with changed parameters.
    """
    chips = []
    for name, label in FILTERS.items():
        value = getattr(query, name)
        if value is None or value == ():
            continue
        if isinstance(value, datetime):
            text = f"{value:%Y-%m-%d %H:%M:%S}"
        else:
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else f"{value}{_UNITS.get(name, '')}"
        # A bound of time has two names.
        other = {"start": "time_after", "end": "time_before"}.get(name, name)
        chips.append(Chip(label, text, link(**{name: None, other: None})))
    return chips


def _row_tone(status_code: int) -> str:
    """Return the class of a row in lists of requests: a status is seen before it is read."""
    return "bad" if status_code >= 500 else "warn" if status_code >= 400 else ""


def flatten_tags(event: Event) -> Sequence[tuple[str, str]]:
    """Return the tags of a request as pairs of a path such as ``http.route`` and a value, in their order."""
    pairs: list[tuple[str, str]] = []

    def walk(path: str, value: object) -> None:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                walk(f"{path}.{name}" if path else str(name), inner)
        elif isinstance(value, list) and value and any(isinstance(inner, (dict, list)) for inner in value):
            for number, inner in enumerate(value):
                walk(f"{path}[{number}]", inner)
        else:
            pairs.append((path, value if isinstance(value, str) else msgspec.json.encode(value).decode()))

    try:
        tags = msgspec.json.decode(event.tags)
        if tags:
            walk("", tags)
    except (msgspec.DecodeError, RecursionError):
        # Numbers that jsonb stores and JSON libraries do not read, or nested too deeply.
        return [("", bytes(event.tags).decode(errors="replace"))]
    return pairs


def _short_tags(event: Event) -> str:
    text = bytes(event.tags).decode(errors="replace")
    text = "" if text == "{}" else text
    return text if len(text) <= _TAGS_SHOWN_MAX else f"{text[:_TAGS_SHOWN_MAX]}…"


def _head(name: str, ordering: Sequence[str], link: Callable[..., str]) -> ColumnHead:
    label = COLUMNS[name]
    if name not in SORTABLE:
        return ColumnHead(name, label, None, None)
    first = ordering[0]
    if first.removeprefix("-") != name:
        return ColumnHead(name, label, link(ordering=f"-{name}" if name in _DESCENDING_FIRST else name), None)
    turned = name if first.startswith("-") else f"-{name}"
    href = link(ordering=None if (turned,) == DEFAULT_ORDERING else turned)
    return ColumnHead(name, label, href, "descending" if first.startswith("-") else "ascending")
