"""Server-sent events: streams that a client reads for as long as it likes, each of which occupies a thread.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event
from typing import Annotated, Any, Protocol

import msgspec

from kernel.errors import ApiError, NotFoundError, UnavailableError
from kernel.http.auth import Authorizer, ensure_policy
from kernel.http.concurrency import ConcurrencyLimit
from kernel.http.request import Request
from kernel.http.response import Response, StreamingResponse
from kernel.identity import Identity, acting_as, current_identity
from kernel.settings import Settings

MEDIA_TYPE = "text/event-stream"
# Only writing reveals that a client has disconnected; and proxies close connections that are silent for long.
_HEARTBEAT_INTERVAL_S = 2.0
_HEARTBEAT = b":\n\n"
_RECONNECT_MS = 2000
# Keys and sessions are remembered for at most 4 s: one that is revoked reads for at most 5 s more.
_AUTHORIZE_INTERVAL_S = 0.5
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_LAST_EVENT_ID = "Id of the last event that the client has: the stream goes on after it."
# For routes of streams: ``request_headers={"Last-Event-ID": LastEventId}``.
LastEventId = Annotated[str, msgspec.Meta(description=_LAST_EVENT_ID)]


class ServerEvent(msgspec.Struct, frozen=True):
    """One event.

    Args:
        kind: Its name, the field ``event``.
        value: The field ``data``, as JSON.
        id: What a client sends as ``Last-Event-ID`` to go on after it; None if it cannot.
    """

    kind: str
    value: Any
    id: str | None = None

    def encode(self) -> bytes:
        """Return the event as it is sent."""
        head = f"event: {self.kind}\ndata: " if self.id is None else f"id: {self.id}\nevent: {self.kind}\ndata: "
        return head.encode() + msgspec.json.encode(self.value) + b"\n\n"


class EventSource(Protocol):
    """Where the events of a stream come from."""

    @property
    def is_finished(self) -> bool:
        """Whether there will be no more events."""

    def poll(self) -> Iterator[ServerEvent] | Sequence[ServerEvent]:
        """Return the events since the last poll. The next poll comes when the client has received them.

        Raises:
            NotFoundError: What is followed is gone: the stream ends.
            UnavailableError: The database is unavailable: it is polled again.
        """


class EventStreams:
    """The event streams of a process.

    Each occupies a thread, so they are limited to half of the threads, and those of one account to half of these: the
    other half is for everybody else.

    Args:
        settings: Of these, ``server.threads`` and ``auth``.
        authorizer: Asked during the stream whether its client still may read it.
        stopping: Ends all streams.
    """

    def __init__(self, settings: Settings, authorizer: Authorizer, stopping: Event) -> None:
        self._authorizer = authorizer
        self._stopping = stopping
        most = settings.server.threads // 2
        detail = f"this process serves at most {most} streams, half as many as it has threads"
        # Where nobody is authenticated, everybody is one account.
        per_account = most if settings.auth == "open" else max(1, most // 2)
        self._limit = ConcurrencyLimit(most, detail, per_account)

    def respond(
        self, request: Request, source: EventSource, interval_s: float, first: Sequence[ServerEvent] = ()
    ) -> Response[StreamingResponse]:
        """Return the response that streams what a source has, until it is finished or the client disconnects.

        The stream also ends when the process stops, and when the credentials of its client are revoked, expire, or
        change what they let it see. A client that reads slowly is sent the next events when it has read these.

        Args:
            request: What is responded to. Its route has the policy ``read``.
            source: Where the events come from.
            interval_s: The time between two polls.
            first: Events that are sent at once.

        Raises:
            UnavailableError: There are too many streams (503).
            TooManyRequestsError: The account has too many of them (429).
        """
        identity = current_identity()
        release = self._limit.acquire(None if identity is None else identity.account)
        may_go_on = _Permission(self._authorizer, request, identity)
        stream = _EventStream(source, interval_s, first, self._stopping, may_go_on, release)
        return Response(StreamingResponse(stream, MEDIA_TYPE), 200, _HEADERS)

    def refuse_reconnects(self) -> Response[None]:
        """Return the response to a client that has received everything: 204 tells it to stop reconnecting."""
        return Response(None, 204, _HEADERS)


class _Permission:
    """Whether the client of a stream may still read it."""

    def __init__(self, authorizer: Authorizer, request: Request, identity: Identity | None) -> None:
        self._authorizer = authorizer
        self._request = request
        self._seen = _what_is_seen(identity)
        self._asked_s = time.monotonic()
        self._holds = True

    def __call__(self) -> bool:
        now_s = time.monotonic()
        if self._holds and now_s - self._asked_s >= _AUTHORIZE_INTERVAL_S:
            self._asked_s = now_s
            self._holds = self._ask()
        return self._holds

    def _ask(self) -> bool:
        try:
            # A key is looked up for the service itself, not for the account of the request.
            with acting_as(None):
                identity = self._authorizer.authenticate(self._request, "read")
            if identity is None:
                return False
            ensure_policy(identity, "read")
        except UnavailableError:
            # Nothing can be read meanwhile, either.
            return True
        except ApiError:
            return False
        return _what_is_seen(identity) == self._seen


def _what_is_seen(identity: Identity | None) -> Mapping[str, object]:
    names = ("account", "sites", "services", "applications")
    return {} if identity is None else {name: getattr(identity, name) for name in names}


class _EventStream:
    """The body of a stream. Closing it releases its slot of the limit, whether or not it was iterated."""

    def __init__(
        self,
        source: EventSource,
        interval_s: float,
        first: Sequence[ServerEvent],
        stopping: Event,
        may_go_on: Callable[[], bool],
        release: Callable[[], None],
    ) -> None:
        self._source = source
        self._interval_s = interval_s
        self._first = first
        self._stopping = stopping
        self._may_go_on = may_go_on
        self._release = release

    def __iter__(self) -> Iterator[bytes]:
        yield f"retry: {_RECONNECT_MS}\n\n".encode() + b"".join(each.encode() for each in self._first)
        sent_s = time.monotonic()
        while not self._source.is_finished and not self._stopping.wait(self._interval_s) and self._may_go_on():
            try:
                for event in self._source.poll():
                    # One by one: a client that stops reading stops the reading of what is not sent yet.
                    yield event.encode()
                    sent_s = time.monotonic()
                    if self._stopping.is_set() or not self._may_go_on():
                        return
            except NotFoundError:
                return
            except UnavailableError:
                # Keep the stream open while the database is unavailable: a client that reconnects would get an error.
                pass
            if time.monotonic() - sent_s >= _HEARTBEAT_INTERVAL_S:
                yield _HEARTBEAT
                sent_s = time.monotonic()

    def close(self) -> None:
        """Release the slot."""
        self._release()
