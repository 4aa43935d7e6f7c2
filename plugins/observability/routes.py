"""The routes of request logs."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from kernel import Identity, RawBody, Request, Response, StreamBody, strip_bom
from kernel.http import Example, Page, is_json_lines, require_json
from plugins.observability.access import Access
from plugins.observability.event_list import EventPages
from plugins.observability.ingest.decode import decode_fields
from plugins.observability.ingest.idempotency import KEY_MAX, read_idempotency_key
from plugins.observability.ingest.service import IngestService
from plugins.observability.ingest.stream import StreamIngest
from plugins.observability.ingest.validate import invalid_fields, validate_event, validate_fields
from plugins.observability.models import Event, EventIn, IngestQuery, IngestResult, ListQuery
from plugins.observability.removal import Removal, RemovalQuery, RemovalResult
from plugins.observability.requests_route import requests_route
from plugins.observability.series import OTHER
from plugins.observability.store import EventStore

# An edit changes neither the id nor what it was derived from.
EDITABLE = tuple(name for name in EventIn.__struct_fields__ if name != "event_id")

ONE_EVENT = {"application/json": EventIn}
# Of a service of its own, which the example of DELETE removes.
_SERVICE = "tiercel-example"
_EVENT = {
    "time": "2026-01-01T12:00:00Z",
    "service": _SERVICE,
    "endpoint": "/api/orders/",
    "method": "GET",
    "status_code": 200,
    "latency_ms": 12,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "tags": {"region": "eu"},
}
_LINES = f"{msgspec.json.encode(_EVENT).decode()}\n" * 2
_KEY_MEANING = "The same key with the same body again stores nothing again."
IDEMPOTENCY = {
    "Idempotency-Key": typing.Annotated[
        str, msgspec.Meta(min_length=1, max_length=KEY_MAX, pattern="^[!-~]+$", description=_KEY_MEANING)
    ]
}
# What the body of PATCH may have, for the OpenAPI document.
EventChanges = msgspec.defstruct(
    "EventChanges",
    [
        (field.name, typing.Union[field.type, msgspec.UnsetType], msgspec.UNSET)  # noqa: UP007 - the type is only known here
        for field in msgspec.structs.fields(EventIn)
        if field.name in EDITABLE
    ],
    namespace={"__doc__": EventIn.__doc__},
)


class RequestLogRoutes:
    """Handlers of ``/api/requests/``.

    Args:
        store: Single events.
        pages: Lists of events.
        ingest: Stores new events.
        removal: Removes selections of events.
        now: The clock.
    """

    def __init__(
        self,
        store: EventStore,
        pages: EventPages,
        ingest: IngestService,
        removal: Removal,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._pages = pages
        self._ingest = ingest
        self._removal = removal
        self._stream = StreamIngest(ingest, now)
        self._now = now

    @requests_route(
        "",
        policy="read",
        menu="request logs, newest first",
        examples=(
            Example(summary="The latest"),
            Example(
                summary="Errors of a service",
                query={"service": _SERVICE, "status_code__in": [500, 503], "page_size": 10},
            ),
        ),
    )
    def list(self, request: Request, query: ListQuery, identity: Identity) -> Page[Event]:
        """List request logs, newest first."""
        return self._pages.page(request, query, Access.of(identity))

    @requests_route(
        "",
        method="POST",
        policy="ingest",
        responses={200: Event, 201: Event},
        accepts=ONE_EVENT,
        examples=(Example(body=_EVENT),),
        request_headers=IDEMPOTENCY,
    )
    def create(self, request: Request, body: RawBody, identity: Identity) -> Response[Event]:
        """Store one request log."""
        require_json(request)
        access = Access.of(identity)
        event_id, is_new = self._ingest.ingest_event(strip_bom(body.content), _idempotency_key(request), access)
        # Not what was sent: a replay finds the stored event, which may have been edited since.
        location = {"Location": f"{request.path}/{event_id}/"}
        event = self._store.find(event_id, access.including(OTHER))
        return Response(event, 201 if is_new else 200, location)

    @requests_route(
        "ingest/",
        method="POST",
        policy="ingest",
        accepts={"application/json": Sequence[EventIn], "application/x-ndjson": EventIn},
        examples=(
            Example(summary="A batch", body=[_EVENT, _EVENT | {"status_code": 404}]),
            Example(summary="A stream, one a line", body=_LINES, media_type="application/x-ndjson"),
        ),
        request_headers=IDEMPOTENCY,
    )
    def ingest(self, request: Request, query: IngestQuery, body: StreamBody, identity: Identity) -> IngestResult:
        """Store a batch of request logs, or a stream with one a line. A batch may also be an object with ``events``."""
        key, access = _idempotency_key(request), Access.of(identity)
        if is_json_lines(request):
            return self._stream.ingest_stream(body, query, key, access)
        require_json(request)
        return self._ingest.ingest_json(strip_bom(body.read(self._ingest.max_bytes)), query, key, access)

    @requests_route(
        "",
        method="DELETE",
        policy="write",
        examples=(Example(summary="Those of a service", query={"service": _SERVICE}),),
    )
    def remove(self, query: RemovalQuery, identity: Identity) -> RemovalResult:
        """Delete every request log that some filters match; at least one filter is required."""
        access = Access.of(identity)
        return self._removal.count(query, access) if query.dry_run else self._removal.remove(query, access)

    @requests_route("{id}/", policy="read")
    def show(self, id: UUID, identity: Identity) -> Event:  # noqa: A002 - the name of the segment
        """Show one request log."""
        return self._store.find(id, Access.of(identity))

    @requests_route("{id}/", method="PUT", policy="write", accepts=ONE_EVENT, examples=(Example(body=_EVENT),))
    def replace(self, request: Request, id: UUID, body: RawBody, identity: Identity) -> Event:  # noqa: A002 - the name in the path
        """Replace every field of a request log; those left out get their defaults."""
        require_json(request)
        event, messages = validate_event(decode_fields(strip_bom(body.content)), self._now())
        if event is None:
            raise invalid_fields(messages)
        return self._store.edit(id, {name: getattr(event, name) for name in EDITABLE}, Access.of(identity))

    @requests_route(
        "{id}/",
        method="PATCH",
        policy="write",
        accepts={"application/json": EventChanges},
        examples=(Example(body={"status_code": 503}),),
    )
    def update(self, request: Request, id: UUID, body: RawBody, identity: Identity) -> Event:  # noqa: A002 - the name in the path
        """Change some fields of a request log."""
        require_json(request)
        values, messages = validate_fields(decode_fields(strip_bom(body.content)), self._now())
        if messages:
            raise invalid_fields(messages)
        changes = {name: value for name, value in values.items() if name in EDITABLE}
        return self._store.edit(id, changes, Access.of(identity))

    @requests_route("{id}/", method="DELETE", policy="write")
    def delete(self, id: UUID, identity: Identity) -> Response[None]:  # noqa: A002 - the name in the path
        """Delete a request log."""
        self._store.delete(id, Access.of(identity))
        return Response(None, 204)


def _idempotency_key(request: Request) -> str | None:
    return read_idempotency_key(request.get_header("Idempotency-Key"))
