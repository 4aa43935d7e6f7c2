"""Pages for people: the list of request logs, one of them, and one trace.

Their parameters have the names of the API, so that a page and a call differ by the path alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

import msgspec

from kernel import Identity, Request, route
from kernel.http import (
    TemplateResponse,
    format_value,
    local_link,
    page_link,
)
from plugins.observability.access import Access
from plugins.observability.event_list import EventPages
from plugins.observability.models import Event, ListQuery
from plugins.observability.page_links import HELPERS, LIST, OVERVIEW, SHARED_FILTERS
from plugins.observability.store import EventStore
from plugins.observability.traces import Trace, TraceQuery, TraceRoutes

COLUMNS = ("time", "service", "endpoint", "method", "status_code", "latency_ms", "trace_id", "user_ref")
Column = Literal["time", "service", "endpoint", "method", "status_code", "latency_ms", "trace_id", "user_ref"]
_DEFAULT_COLUMNS: tuple[Column, ...] = ("time", "service", "endpoint", "method", "status_code", "latency_ms")
# What a call of the API does not have.
_PAGE_ONLY = ("columns", "last")
# What an export does not have.
_PAGING = ("page", "page_size", "cursor", "count")


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
        events: Lists events.
        store: Single events.
    """

    def __init__(self, events: EventPages, store: EventStore) -> None:
        self._events = events
        self._store = store
        self._traces = TraceRoutes(store)

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
            "overview": page_link(OVERVIEW, None, **{name: getattr(query, name) for name in SHARED_FILTERS}),
        }
        return TemplateResponse("observability/requests.html", {**HELPERS, **context})

    @route("/requests/events/{id}/", policy="read")
    def show(self, id: UUID, identity: Identity) -> TemplateResponse:  # noqa: A002 - the name in the path
        """Show one request log with its tags."""
        event = self._store.find(id, Access.of(identity))
        tags = msgspec.json.format(event.tags, indent=2).decode(errors="replace")
        context = {"event": event, "tags": tags, "has_tags": tags.strip() != "{}"}
        return TemplateResponse("observability/request.html", {**HELPERS, **context})

    @route("/requests/traces/{trace_id}/", policy="read")
    def trace(self, trace_id: str, query: TraceQuery, identity: Identity) -> TemplateResponse:
        """Show the requests of a trace on a common scale of time."""
        found = self._traces.show(trace_id, query, identity)
        bars, length_ms = _waterfall(found)
        context = {"trace": found, "bars": bars, "length_ms": length_ms}
        return TemplateResponse("observability/trace.html", {**HELPERS, **context})


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
