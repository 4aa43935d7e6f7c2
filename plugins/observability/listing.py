"""Pages of the list of request logs, numbered or by cursor."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from kernel import Cursor, InvalidError, Page, Request, decode_cursor, encode_cursor, link, numbered
from plugins.observability.filters import (
    Conditions,
    key_values,
    keyset,
    order_by,
    parse_ordering,
    refuse_out_of_range,
    with_tie_breaker,
)
from plugins.observability.model import Event, ListQuery
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


class Listing:
    """Lists events a page at a time.

    Args:
        store: The events.
        page_size: Items of a page where the client does not say.
        page_size_max: The most a client may ask for.
    """

    def __init__(self, store: EventStore, page_size: int, page_size_max: int) -> None:
        self._store = store
        self._page_size = page_size
        self._page_size_max = max(page_size, page_size_max)

    def page(self, request: Request, query: ListQuery) -> Page[Event]:
        """Return the page a client asks for: by number, or by cursor if the parameter ``cursor`` is there.

        Raises:
            InvalidError: A parameter is wrong; names it.
            NotFoundError: A page beyond the last.
        """
        refuse_out_of_range(query)
        size = query.page_size or self._page_size
        if size > self._page_size_max:
            raise InvalidError(errors={"page_size": [f"Expected at most {self._page_size_max}, got {size}."]})
        ordering = parse_ordering(query.ordering)
        conditions = self._store.conditions(query)
        count = self._count(query, conditions)
        if query.cursor is None:
            return self._numbered(request, query.page, size, ordering, conditions, count)
        if query.page != 1:
            raise InvalidError(errors={"page": ["A page has a number or a cursor, not both."]})
        return self._by_cursor(request, query.cursor, size, ordering, conditions, count)

    def _count(self, query: ListQuery, conditions: Conditions) -> int | None:
        if query.count == "none":
            return None
        return self._store.count(conditions) if query.count == "exact" else self._store.estimate(conditions)

    def _numbered(
        self,
        request: Request,
        page: int,
        size: int,
        ordering: Sequence[str],
        conditions: Conditions,
        count: int | None,
    ) -> Page[Event]:
        order = order_by(with_tie_breaker(ordering))
        # One more than the page holds tells whether there is a next one, whatever the count says.
        events = self._store.list(conditions, order, size + 1, (page - 1) * size)
        return numbered(request, events[:size], page=page, page_size=size, count=count, more=len(events) > size)

    def _by_cursor(
        self,
        request: Request,
        text: str,
        size: int,
        ordering: Sequence[str],
        conditions: Conditions,
        count: int | None,
    ) -> Page[Event]:
        keys = with_tie_breaker(ordering)
        cursor = _read(text, ordering, keys) if text else None
        backwards = cursor is not None and cursor.backwards
        if cursor is not None:
            after = keyset(keys, cursor.values, backwards=backwards)
            conditions = Conditions(conditions.parts + after.parts, conditions.values | after.values)
        events = self._store.list(conditions, order_by(keys, backwards=backwards), size + 1)
        more, events = len(events) > size, events[:size]
        if backwards:
            events.reverse()

        def beside(event: Event, *, before: bool) -> str:
            made = Cursor(",".join(ordering), key_values(event, keys), backwards=before)
            return link(request, cursor=encode_cursor(made))

        has_next = bool(events) and (more or backwards)
        has_previous = bool(events) and (more if backwards else cursor is not None)
        return Page(
            count=count,
            next=beside(events[-1], before=False) if has_next else None,
            previous=beside(events[0], before=True) if has_previous else None,
            results=events,
        )


def _read(text: str, ordering: Sequence[str], keys: Sequence[tuple[str, bool]]) -> Cursor:
    cursor = decode_cursor(text)
    if cursor.ordering != ",".join(ordering) or len(cursor.values) != len(keys):
        raise InvalidError(errors={"cursor": ["This cursor belongs to another ordering."]})
    try:
        values: tuple[Any, ...] = tuple(
            msgspec.convert(value, _KEY_TYPES[name]) for value, (name, _) in zip(cursor.values, keys, strict=True)
        )
    except msgspec.ValidationError as ex:
        raise InvalidError(errors={"cursor": ["This is no cursor that a page was given with."]}) from ex
    if any(isinstance(value, str) and "\x00" in value for value in values):
        raise InvalidError(errors={"cursor": ["Null characters are not allowed."]})
    return msgspec.structs.replace(cursor, values=values)
