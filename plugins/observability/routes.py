"""The routes of request logs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from kernel import (
    Handler,
    InvalidError,
    Method,
    Page,
    Policy,
    RawBody,
    Request,
    Response,
    Route,
    StreamBody,
    require_json,
)
from plugins.observability.ingest.batch import Ingest
from plugins.observability.ingest.decoding import decode_item
from plugins.observability.ingest.identity import read_key
from plugins.observability.ingest.stream import NDJSON, StreamIngest
from plugins.observability.ingest.validation import validate_event, validate_fields
from plugins.observability.listing import Listing
from plugins.observability.model import Event, EventIn, IngestQuery, IngestResult, ListQuery, Messages
from plugins.observability.store import EventStore

# What an edit can change: not the id, nor what it was derived from.
EDITABLE = tuple(name for name in EventIn.__struct_fields__ if name != "event_id")
ROOTS = ("/api/requests/", "/api/v1/requests/")


class RequestLogs:
    """Handlers of ``/api/requests/``.

    Args:
        store: Single events.
        listing: Pages of them.
        ingest: Batches.
        now: The clock.
    """

    def __init__(
        self,
        store: EventStore,
        listing: Listing,
        ingest: Ingest,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._listing = listing
        self._ingest = ingest
        self._stream = StreamIngest(ingest, now)
        self._now = now

    def list_events(self, request: Request, query: ListQuery) -> Page[Event]:
        """List request logs, newest first."""
        return self._listing.page(request, query)

    def create(self, request: Request, body: RawBody) -> Response[Event]:
        """Store one request log."""
        require_json(request)
        event, messages = validate_event(decode_item(body.content), self._now())
        if event is None:
            raise self._ingest.reject_one(messages)
        event_id, is_new = self._ingest.take_one(event, _key(request))
        # A replay finds what is there, also when it was edited since.
        location = {"Location": f"{request.path}/{event_id}/"}
        return Response(self._store.find(event_id), 201 if is_new else 200, location)

    def show(self, id: UUID) -> Event:  # noqa: A002 - the name of the segment
        """Show one request log."""
        return self._store.find(id)

    def replace(self, request: Request, id: UUID, body: RawBody) -> Event:  # noqa: A002
        """Replace every field of a request log; what is left out goes back to its default."""
        require_json(request)
        event, messages = validate_event(decode_item(body.content), self._now())
        if event is None:
            raise _invalid(messages)
        return self._store.replace(id, {name: getattr(event, name) for name in EDITABLE})

    def update(self, request: Request, id: UUID, body: RawBody) -> Event:  # noqa: A002
        """Change some fields of a request log."""
        require_json(request)
        values, messages = validate_fields(decode_item(body.content), self._now())
        if messages:
            raise _invalid(messages)
        return self._store.replace(id, {name: value for name, value in values.items() if name in EDITABLE})

    def delete(self, id: UUID) -> Response[None]:  # noqa: A002
        """Delete a request log for good."""
        self._store.delete(id)
        return Response(None, 204)

    def take(self, request: Request, query: IngestQuery, body: StreamBody) -> IngestResult:
        """Store a batch of request logs, or a stream of them with one a line."""
        key = _key(request)
        if body.media_type in NDJSON:
            return self._stream.take(body, query, key)
        require_json(request)
        return self._ingest.take(body.read(), query, key)

    def routes(self) -> list[Route]:
        """Return the routes, under both roots."""

        def route(
            path: str, handler: Handler, policy: Policy, method: Method = "GET", menu: str | None = None
        ) -> Route:
            first, *others = (root + path for root in ROOTS)
            return Route(path=first, aliases=tuple(others), handler=handler, policy=policy, method=method, menu=menu)

        return [
            route("", self.list_events, "read", menu="request logs, newest first"),
            route("", self.create, "ingest", "POST"),
            route("ingest/", self.take, "ingest", "POST"),
            route("{id}/", self.show, "read"),
            route("{id}/", self.replace, "write", "PUT"),
            route("{id}/", self.update, "write", "PATCH"),
            route("{id}/", self.delete, "write", "DELETE"),
        ]


def _key(request: Request) -> str | None:
    return read_key(request.get_header("Idempotency-Key"))


def _invalid(messages: Messages) -> InvalidError:
    return InvalidError(f"Some fields are wrong: {', '.join(messages)}.", errors=messages)
