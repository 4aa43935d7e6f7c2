"""``/api/v1/jobs/{id}/events/``: what happens to a job, while it happens, as server-sent events.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Event
from typing import Annotated

import msgspec

from kernel import (
    ConcurrencyLimit,
    InvalidError,
    NotFoundError,
    Request,
    Response,
    Services,
    StreamingResponse,
    UnavailableError,
)
from kernel.jobs import Follower, JobEvent, JobRecord

ID_MAX = 2**63 - 1
JobId = Annotated[int, msgspec.Meta(ge=1, le=ID_MAX)]
_LineNumber = Annotated[int, msgspec.Meta(ge=0, le=ID_MAX)]

_LOOK_INTERVAL_S = 0.25
# Only what is written tells that a client has gone; proxies cut what is silent for long.
_HEARTBEAT_INTERVAL_S = 2.0
_RECONNECT_MS = 2000
_HEARTBEAT = b":\n\n"
# Ends the id of the last event: who comes back with it has seen everything.
_END = "-end"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class JobEventRoute:
    """The handler of a stream of events.

    Args:
        services: Has the jobs; says when this process stops.
    """

    def __init__(self, services: Services) -> None:
        self._jobs = services.jobs
        self._stopping = services.stopping
        # A stream takes a thread: the others are for everybody else.
        streams_max = services.kernel_settings.server.threads // 2
        detail = f"this process keeps {streams_max} streams at most, half as many as it has threads"
        self._limit = ConcurrencyLimit(streams_max, detail)

    def stream(self, request: Request, id: JobId) -> Response[StreamingResponse | None]:  # noqa: A002 - the segment's name
        """Send ``state``, ``log`` and ``progress`` events of a job until it is finished."""
        after, is_over = _read_last_event_id(request.get_header("Last-Event-ID") or "")
        follower = Follower(self._jobs, id, after)
        first = follower.look()
        if is_over and follower.is_finished:
            # What the standard has for telling a client to come back no more.
            return Response(None, 204, _HEADERS)
        release = self._limit.acquire()
        return Response(
            StreamingResponse(_Events(follower, first, self._stopping, release), "text/event-stream"), 200, _HEADERS
        )


class _Events:
    """The chunks of a stream. Closing it releases its slot, whether or not it was ever begun."""

    def __init__(self, follower: Follower, first: list[JobEvent], stopping: Event, release: Callable[[], None]) -> None:
        self._follower = follower
        self._first = first
        self._stopping = stopping
        self._release = release

    def __iter__(self) -> Iterator[bytes]:
        yield f"retry: {_RECONNECT_MS}\n\n".encode() + b"".join(map(_encode, self._first))
        sent_at = time.monotonic()
        while not self._follower.is_finished and not self._stopping.wait(_LOOK_INTERVAL_S):
            try:
                events = self._follower.look()
            except NotFoundError:
                return
            except UnavailableError:
                # The database is away. A client that was sent off now would be refused when it comes back.
                events = []
            now = time.monotonic()
            if events or now - sent_at >= _HEARTBEAT_INTERVAL_S:
                yield b"".join(map(_encode, events)) or _HEARTBEAT
                sent_at = now

    def close(self) -> None:
        """Leave the place to the next."""
        self._release()


def _encode(event: JobEvent) -> bytes:
    is_last = isinstance(event.value, JobRecord) and event.value.is_finished
    head = f"id: {event.line}{_END if is_last else ''}\nevent: {event.kind}\ndata: "
    return head.encode() + msgspec.json.encode(event.value) + b"\n\n"


def _read_last_event_id(text: str) -> tuple[int, bool]:
    """Return the number of the last log line a client has, and whether it has seen the end."""
    number = text.removesuffix(_END)
    try:
        return msgspec.convert(number or "0", _LineNumber, strict=False), number != text
    except msgspec.ValidationError as ex:
        raise InvalidError(errors={"Last-Event-ID": [f"Expected an id of this stream, got {text!r:.80}."]}) from ex
