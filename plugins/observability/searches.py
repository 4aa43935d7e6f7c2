"""What the search of all pages finds of request logs: services, endpoints, and what has the id that was entered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from kernel import Identity, NotFoundError
from kernel.http import Search, SearchResult, format_value, page_link
from plugins.observability.access import Access
from plugins.observability.analytics.models import ActivityQuery, EndpointsQuery, ServicesQuery
from plugins.observability.analytics.service import AnalyticsService
from plugins.observability.models import REFERENCE_MAX
from plugins.observability.page_links import OVERVIEW, event_link, trace_link
from plugins.observability.store import EventStore

K = TypeVar("K", bound=ActivityQuery)
# Services and endpoints that had requests lately, those with most of them first.
_DAYS = 30
# Of a trace. What is shorter is no id that anybody would look for.
_ID_LENGTH_MIN = 6


def make_searches(analytics: AnalyticsService, store: EventStore, now: Callable[[], datetime]) -> Sequence[Search]:
    """Make the searches.

    Args:
        analytics: Knows services and endpoints.
        store: Single events.
        now: The clock.
    """

    def latest(kind: type[K], text: str) -> K:
        return kind(search=text, start=now() - timedelta(days=_DAYS), ordering=("-hits",))

    def find_services(text: str, identity: Identity, limit: int) -> Sequence[SearchResult]:
        found, _ = analytics.services(latest(ServicesQuery, text), limit, 0, Access.of(identity))
        return [
            SearchResult(each.service, page_link(OVERVIEW, service=each.service), _describe(each.hits))
            for each in found
        ]

    def find_endpoints(text: str, identity: Identity, limit: int) -> Sequence[SearchResult]:
        found, _ = analytics.endpoints(latest(EndpointsQuery, text), limit, 0, Access.of(identity))
        return [
            SearchResult(
                each.endpoint,
                page_link(OVERVIEW, service=each.service, endpoint=each.endpoint),
                f"{each.service}, {_describe(each.hits)}",
            )
            for each in found
        ]

    def find_ids(text: str, identity: Identity, limit: int) -> Sequence[SearchResult]:  # noqa: ARG001 - one at most
        if not _ID_LENGTH_MIN <= len(text) <= REFERENCE_MAX:
            return []
        access = Access.of(identity)
        if events := store.trace(text, 1, access):
            return [SearchResult(text, trace_link(text), f"trace, from {events[0].service}")]
        with suppress(ValueError, NotFoundError):
            event = store.find(UUID(text), access)
            return [SearchResult(f"{event.method} {event.endpoint}", event_link(event), f"request of {event.service}")]
        return []

    return [
        Search(name="Services", find=find_services),
        Search(name="Endpoints", find=find_endpoints),
        Search(name="Requests", find=find_ids),
    ]


def _describe(hits: int) -> str:
    return f"{format_value(hits, 'count')} requests in {_DAYS} days"
