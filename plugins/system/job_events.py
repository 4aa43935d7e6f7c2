"""``/api/v1/jobs/{id}/events/``: the events of a job, streamed as server-sent events while it runs."""

from __future__ import annotations

import msgspec

from kernel import Identity, InvalidError, Request, Response, Services, StreamingResponse, route
from kernel.http import LastEventId, ServerEvent
from kernel.jobs import JobEvent, JobFollower, JobRecord
from plugins.system.job_access import JobId, LineId, RunQuery, reading_runs

_POLL_INTERVAL_S = 0.25
# Suffix of the last event's id: a client that reconnects with it has received everything.
_END = "-end"


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
        services: Jobs, and the event streams of this process.
    """

    def __init__(self, services: Services) -> None:
        self._jobs = services.jobs
        self._streams = services.event_streams

    @route(
        "/api/v1/jobs/{id}/events/",
        policy="read",
        responses={200: {"text/event-stream": str}, 204: None},
        request_headers={"Last-Event-ID": LastEventId},
    )
    def stream(
        self,
        request: Request,
        id: JobId,  # noqa: A002 - path parameter
        query: EventsQuery,
        identity: Identity,
    ) -> Response[StreamingResponse] | Response[None]:
        """Stream ``state``, ``log`` and ``progress`` events of a job until it is finished."""
        after, has_end = _parse_last_event_id(request.get_header("Last-Event-ID") or str(query.log))
        with reading_runs(identity, query):
            source = _JobEvents(JobFollower(self._jobs, id, after))
        first = source.poll()
        if has_end and source.is_finished:
            return self._streams.refuse_reconnects()
        return self._streams.respond(request, source, _POLL_INTERVAL_S, first)


class _JobEvents:
    """The events of a job, as they are sent."""

    def __init__(self, follower: JobFollower) -> None:
        self._follower = follower

    @property
    def is_finished(self) -> bool:
        return self._follower.is_finished

    def poll(self) -> list[ServerEvent]:
        return [_as_sent(event) for event in self._follower.poll()]


def _as_sent(event: JobEvent) -> ServerEvent:
    is_last = isinstance(event.value, JobRecord) and event.value.is_finished
    return ServerEvent(event.kind, event.value, f"{event.line}{_END if is_last else ''}")


def _parse_last_event_id(text: str) -> tuple[int, bool]:
    """Return the id of the last log line that a client has received, and whether it has received the last event."""
    number = text.removesuffix(_END)
    try:
        return msgspec.convert(number or "0", LineId, strict=False), number != text
    except msgspec.ValidationError as ex:
        raise InvalidError(errors={"Last-Event-ID": [f"Expected an id of this stream, got {text!r:.80}."]}) from ex
