"""``/api/v1/jobs/{id}/events/``: the events of a job, streamed as server-sent events while it runs.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Event
from typing import Annotated

import msgspec

from kernel import (
    Identity,
    InvalidError,
    NotFoundError,
    Request,
    Response,
    Services,
    StreamingResponse,
    UnavailableError,
    route,
)
from kernel.http import ConcurrencyLimit
from kernel.jobs import JobEvent, JobFollower, JobRecord
from plugins.system.job_access import JobId, LineId, RunQuery, reading_runs

_POLL_INTERVAL_S = 0.25
# Only writing reveals that a client has disconnected; and proxies close connections that are silent for long.
_HEARTBEAT_INTERVAL_S = 2.0
_HEARTBEAT = b":\n\n"
_RECONNECT_MS = 2000
# Suffix of the last event's id: a client that reconnects with it has received everything.
_END = "-end"
_LAST_EVENT_ID = "Id of the last event that the client has: the stream goes on after it."
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventsQuery(RunQuery, frozen=True, kw_only=True):
    """Parameters of the stream.

    Args:
        log: Only log lines with a higher id, where the client has no last event yet.
        all_accounts: Also of a run of another account, for staff that acts for none.
    """

    log: LineId = 0


class JobEventRoutes:
    """The handler of ``/api/v1/jobs/{id}/events/``.

    Args:
        services: Jobs, and the signal that this process stops.
    """

    def __init__(self, services: Services) -> None:
        self._jobs = services.jobs
        self._stopping = services.stopping
        # Each stream occupies a thread; half of them stay free for other requests.
        streams_max = services.kernel_settings.server.threads // 2
        limit = f"this process serves at most {streams_max} streams, half as many as it has threads"
        self._limit = ConcurrencyLimit(streams_max, limit)

    @route(
        "/api/v1/jobs/{id}/events/",
        policy="read",
        responses={200: {"text/event-stream": str}, 204: None},
        request_headers={"Last-Event-ID": Annotated[str, msgspec.Meta(description=_LAST_EVENT_ID)]},
    )
    def stream(
        self,
        request: Request,
        id: JobId,  # noqa: A002 - path parameter
        query: EventsQuery,
        identity: Identity,
    ) -> Response[StreamingResponse | None]:
        """Stream ``state``, ``log`` and ``progress`` events of a job until it is finished."""
        after, has_end = _parse_last_event_id(request.get_header("Last-Event-ID") or str(query.log))
        with reading_runs(identity, query):
            follower = JobFollower(self._jobs, id, after)
        first = follower.poll()
        if has_end and follower.is_finished:
            # By the specification, 204 tells a client to stop reconnecting.
            return Response(None, 204, _HEADERS)
        release = self._limit.acquire()
        stream = _EventStream(follower, first, self._stopping, release)
        return Response(StreamingResponse(stream, "text/event-stream"), 200, _HEADERS)


class _EventStream:
    """The body of a stream. Closing it releases its slot of the limit, whether or not it was iterated."""

    def __init__(
        self, follower: JobFollower, first: list[JobEvent], stopping: Event, release: Callable[[], None]
    ) -> None:
        self._follower = follower
        self._first = first
        self._stopping = stopping
        self._release = release

    def __iter__(self) -> Iterator[bytes]:
        yield f"retry: {_RECONNECT_MS}\n\n".encode() + b"".join(map(_encode, self._first))
        sent_s = time.monotonic()
        while not self._follower.is_finished and not self._stopping.wait(_POLL_INTERVAL_S):
            try:
                events = self._follower.poll()
            except NotFoundError:
                return
            except UnavailableError:
                # Keep the stream open while the database is unavailable: a client that reconnects would get an error.
                events = []
            now_s = time.monotonic()
            if events or now_s - sent_s >= _HEARTBEAT_INTERVAL_S:
                yield b"".join(map(_encode, events)) or _HEARTBEAT
                sent_s = now_s

    def close(self) -> None:
        """Release the slot."""
        self._release()


def _encode(event: JobEvent) -> bytes:
    is_last = isinstance(event.value, JobRecord) and event.value.is_finished
    head = f"id: {event.line}{_END if is_last else ''}\nevent: {event.kind}\ndata: "
    return head.encode() + msgspec.json.encode(event.value) + b"\n\n"


def _parse_last_event_id(text: str) -> tuple[int, bool]:
    """Return the id of the last log line that a client has received, and whether it has received the last event."""
    number = text.removesuffix(_END)
    try:
        return msgspec.convert(number or "0", LineId, strict=False), number != text
    except msgspec.ValidationError as ex:
        raise InvalidError(errors={"Last-Event-ID": [f"Expected an id of this stream, got {text!r:.80}."]}) from ex
