"""Request logs as Structs: what clients send, what is stored, what is returned."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, get_args
from uuid import UUID

import msgspec

from kernel import FieldErrors
from plugins.observability.time_window import TimeWindowQuery

# In characters.
SERVICE_MAX = 100
ENDPOINT_MAX = 255
METHOD_MAX = 20
REFERENCE_MAX = 128
EVENT_ID_MAX = 255
INT32_MAX = 2**31 - 1

Service = Annotated[str, msgspec.Meta(min_length=1, max_length=SERVICE_MAX)]
Endpoint = Annotated[str, msgspec.Meta(min_length=1, max_length=ENDPOINT_MAX)]
HttpMethod = Annotated[str, msgspec.Meta(min_length=1, max_length=METHOD_MAX)]
STATUS_CODES = range(100, 600)
StatusClass = Literal["1xx", "2xx", "3xx", "4xx", "5xx"]
STATUS_CLASSES: tuple[StatusClass, ...] = get_args(StatusClass)
StatusCode = Annotated[int, msgspec.Meta(ge=STATUS_CODES.start, le=STATUS_CODES.stop - 1)]
# A float is rounded.
LatencyMs = Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)] | Annotated[float, msgspec.Meta(ge=0, lt=INT32_MAX + 0.5)]
Reference = Annotated[str, msgspec.Meta(max_length=REFERENCE_MAX)]
EventId = Annotated[str, msgspec.Meta(min_length=1, max_length=EVENT_ID_MAX)]
Tags = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})]
NO_TAGS = msgspec.Raw(b"{}")
# In place of stored tags that are not sent back.
OMITTED_TAGS = msgspec.Raw(b'{"_omitted":"These tags are longer than the setting observability.tags_max_bytes."}')
OMITTED_FROM_PAGE = msgspec.Raw(b'{"_omitted":"The page would be too large. Ask for fewer events, or for this one."}')


def status_range(status_code: int | None, status_class: StatusClass | None) -> range | None:
    """Return the statuses that two filters let through, both of which must; None without any."""
    if status_code is None and status_class is None:
        return None
    first = STATUS_CODES.start if status_class is None else int(status_class[0]) * 100
    statuses = STATUS_CODES if status_class is None else range(first, first + 100)
    if status_code is None:
        return statuses
    return range(status_code, status_code + 1) if status_code in statuses else range(0)


class EventIn(msgspec.Struct, gc=False):
    """A request log as clients send it; unknown fields are ignored.

    Args:
        time: When the request happened; UTC unless it has an offset.
        service: The service that answered.
        endpoint: The path or route it answered on.
        method: HTTP method, stored in upper case.
        status_code: HTTP status.
        latency_ms: How long it took, in ms, rounded to whole ones, halves up; None if that was not measured.
        trace_id: The trace it belongs to.
        user_ref: The user who sent the request, as the sender calls them.
        tags: A JSON object, stored unchanged, of at most ``observability.tags_max_bytes``.
        event_id: The sender's own id of the event, among those of its service. An event sent again with the same id and
            time is stored once.
    """

    time: datetime
    service: Service
    endpoint: Endpoint
    method: HttpMethod
    status_code: StatusCode
    latency_ms: LatencyMs | None
    trace_id: Reference | None = None
    user_ref: Reference | None = None
    tags: Tags = NO_TAGS
    event_id: EventId | None = None


class Event(msgspec.Struct, frozen=True):
    """A stored request log.

    Args:
        id: A UUIDv7; its first 48 bits are the ``time`` the event was sent with, in ms.
        latency_ms: None if it was not measured.
    """

    id: UUID
    time: datetime
    service: str
    endpoint: str
    method: str
    status_code: int
    latency_ms: int | None
    trace_id: str | None
    user_ref: str | None
    tags: Tags


class ItemError(msgspec.Struct, frozen=True):
    """Why one item of a batch is rejected.

    Args:
        index: Position of the item in the batch, from 0.
        errors: Messages by field.
    """

    index: int
    errors: FieldErrors


class IngestResult(msgspec.Struct, frozen=True):
    """The outcome of a batch. ``inserted``, ``duplicates`` and ``rejected`` add up to the items that were sent.

    Args:
        inserted: Items that this request stored.
        duplicates: Items that were stored before.
        rejected: Items that are not stored.
        errors: The first ``max_errors`` of the rejected items, in order.
        capped: Items, inserted or duplicate, that belong to endpoint ``__other__`` because the account has reached
            its maximum of series.
        unknown_methods: Items, inserted or duplicate, whose method is not a registered one; left out if there are none.
    """

    inserted: int
    duplicates: int
    rejected: int
    errors: Sequence[ItemError]
    capped: int = 0
    unknown_methods: int | msgspec.UnsetType = msgspec.UNSET


class IngestQuery(msgspec.Struct, frozen=True):
    """Query parameters of ingest. Each may only lower the setting of the same name.

    Args:
        strict: Store nothing unless every item is valid.
        batch_size: Rows sent to the database at a time; after the first 100 batches of a request, at least 100.
        max_events: A request with more items than this is answered with 413.
        max_errors: How many errors the response lists; 0 for counts only.
    """

    strict: bool = False
    batch_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_events: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_errors: Annotated[int, msgspec.Meta(ge=0)] | None = None


class SelectionQuery(TimeWindowQuery, frozen=True):
    """Query parameters that select events.

    Args:
        service: Its name, in any case.
        endpoint: Its path or route, in any case.
        method: HTTP method, in any case.
        trace_id: The trace.
        user_ref: The user, as the sender calls them.
        status_code: HTTP status.
        status_code__in: One of these statuses.
        status_class: A class of statuses, such as ``5xx``.
        application: Of the services that this application owns only.
        latency_min: In ms, inclusive.
        latency_max: In ms, inclusive.
        search: Terms that all occur in service, endpoint, trace or user.
    """

    service: str | None = None
    endpoint: str | None = None
    method: str | None = None
    trace_id: str | None = None
    user_ref: str | None = None
    status_code: int | None = None
    status_code__in: tuple[int, ...] = ()
    status_class: StatusClass | None = None
    application: str | None = None
    latency_min: int | None = None
    latency_max: int | None = None
    search: str | None = None


class FilterQuery(SelectionQuery, frozen=True):
    """Query parameters that select and order events.

    Args:
        ordering: Fields to sort by; a leading - sorts descending.
    """

    ordering: tuple[str, ...] = ()


class ListQuery(FilterQuery, frozen=True):
    """Query parameters of the list: filters, order and page."""

    page: Annotated[int, msgspec.Meta(ge=1, le=INT32_MAX)] = 1
    page_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    cursor: str | None = None
    count: Literal["exact", "estimated", "none"] = "exact"
