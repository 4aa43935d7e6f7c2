"""Pages of the list of request logs: by number, or by cursor."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kernel import InvalidError, Request
from kernel.http import Page, cursor_page, numbered_page, page_size_of, read_cursor
from plugins.observability.access import Access
from plugins.observability.filters import (
    Conditions,
    key_values,
    keyset,
    parse_ordering,
    validate_filters,
    with_tie_breaker,
)
from plugins.observability.models import Event, ListQuery
from plugins.observability.store import EventStore

_KEY_TYPES: dict[str, type] = {
    "time": datetime,
    "id": UUID,
    "latency_ms": int,
    "status_code": int,
    "service": str,
    "endpoint": str,
    "method": str,
}


class EventPages:
    """Lists events a page at a time.

    Args:
        store: The events.
        page_size: Items of a page by default.
        page_size_max: The most items a client may ask for.
    """

    def __init__(self, store: EventStore, page_size: int, page_size_max: int) -> None:
        self._store = store
        self._page_size = page_size
        self._page_size_max = page_size_max

    def page(self, request: Request, query: ListQuery, access: Access) -> Page[Event]:
        """Return the page a client asks for: by cursor if the parameter ``cursor`` is given, by number otherwise.

        Raises:
            InvalidError: A parameter is wrong; names it.
            NotFoundError: The page is beyond the last.
        """
        validate_filters(query)
        size = page_size_of(query.page_size, self._page_size, self._page_size_max)
        ordering = parse_ordering(query.ordering)
        conditions = self._store.conditions(query, access, for_estimate=query.count == "estimated")
        count = self._count(query, conditions)
        if query.cursor is None:
            return self._page_by_number(request, query.page, size, ordering, conditions, count)
        if query.page != 1:
            raise InvalidError(errors={"page": ["A page has a number or a cursor, not both."]})
        return self._page_by_cursor(request, query.cursor, size, ordering, conditions, count)

    def _count(self, query: ListQuery, conditions: Conditions) -> int | None:
        if query.count == "none":
            return None
        return self._store.count(conditions) if query.count == "exact" else self._store.estimate(conditions)

    def _page_by_number(
        self,
        request: Request,
        page: int,
        size: int,
        ordering: Sequence[str],
        conditions: Conditions,
        count: int | None,
    ) -> Page[Event]:
        # One event more than the page holds tells whether there is a next page, whatever the count says.
        events, _ = self._store.list(conditions, with_tie_breaker(ordering), size + 1, (page - 1) * size)
        return numbered_page(
            request, events[:size], page=page, page_size=size, count=count, has_next=len(events) > size
        )

    def _page_by_cursor(
        self,
        request: Request,
        text: str,
        size: int,
        ordering: Sequence[str],
        conditions: Conditions,
        count: int | None,
    ) -> Page[Event]:
        keys = with_tie_breaker(ordering)
        name = ",".join(ordering)
        cursor = read_cursor(text, name, [_KEY_TYPES[column] for column, _ in keys])
        backwards = cursor is not None and cursor.backwards
        if cursor is not None:
            if any(isinstance(value, str) and "\x00" in value for value in cursor.values):
                raise InvalidError(errors={"cursor": ["Null characters are not allowed."]})
            after = keyset(keys, cursor.values, backwards=backwards)
            conditions = conditions.and_also(after)
        found, fitting = self._store.list(conditions, keys, size + 1, backwards=backwards)
        # A page whose tags would be too long ends early: its link leads to the next event. A page by number cannot.
        size = min(size, fitting)
        events = list(found[: size + 1])
        if backwards:
            events.reverse()
        return cursor_page(
            request,
            events,
            cursor=cursor,
            page_size=size,
            ordering=name,
            keys_of=lambda event: key_values(event, keys),
            count=count,
        )
