"""``/api/requests/traces/{trace_id}/``: every request of a trace."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec

from kernel import Identity, NotFoundError
from kernel.http import Example
from plugins.observability.access import Access
from plugins.observability.models import Event
from plugins.observability.requests_route import requests_route
from plugins.observability.store import EventStore


class TraceQuery(msgspec.Struct, frozen=True):
    """Parameters of a trace.

    Args:
        limit: Events at most.
    """

    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000


class Trace(msgspec.Struct, frozen=True):
    """The events of a trace.

    Args:
        trace_id: As it was sent.
        count: How many events are listed.
        truncated: Whether there are more than ``limit``: those that are missing are later than those listed.
        start: Time of the first event.
        end: Time of the last event that is listed.
        services: Their services, in order of the first event of each.
        events: In order of time.
    """

    trace_id: str
    count: int
    truncated: bool
    start: datetime
    end: datetime
    services: Sequence[str]
    events: Sequence[Event]


class TraceRoutes:
    """The handler of traces.

    Args:
        store: The events.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store

    @requests_route(
        "traces/{trace_id}/",
        policy="read",
        examples=(Example(path={"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}),),
    )
    def show(self, trace_id: str, query: TraceQuery, identity: Identity) -> Trace:
        """Show the request logs of a trace, in order of time."""
        # PostgreSQL stores no text with a NUL, and rejects a query that has one.
        found = [] if "\x00" in trace_id else self._store.trace(trace_id, query.limit + 1, Access.of(identity))
        if not found:
            raise NotFoundError(detail=f"no request log has the trace_id {trace_id!r:.140}")
        events = found[: query.limit]
        return Trace(
            trace_id=trace_id,
            count=len(events),
            truncated=len(found) > len(events),
            start=events[0].time,
            end=events[-1].time,
            services=list(dict.fromkeys(event.service for event in events)),
            events=events,
        )
