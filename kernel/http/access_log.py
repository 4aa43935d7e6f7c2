"""The request log: a WSGI wrapper outside Falcon, because only there the final status is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from kernel.http.request import CONTEXT, make_context, path_as_sent
from kernel.logging import Logger

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class RequestRecord(msgspec.Struct, frozen=True):
    """One served request.

    Args:
        time: When it arrived, UTC.
        request_id: As answered in ``X-Request-ID``.
        trace_id: 32 hexadecimal digits.
        method: In capitals.
        template: The route that answered, or empty.
        path: As the client sent it, without the query.
        status: The status that left.
        bytes: Length of the body that left.
        duration_ms: From arrival to the last byte handed to the server.
        application: Whose view it was, where the path named one.
    """

    time: datetime
    request_id: str
    trace_id: str
    method: str
    template: str
    path: str
    status: int
    bytes: int
    duration_ms: float
    application: str | None = None


class Sink(Protocol):
    """Takes records; must not block."""

    def put(self, record: RequestRecord) -> None:
        """Take one record."""


class RequestLog:
    """Give every request an id, time it, log it and hand the record on.

    Args:
        application: The Falcon application.
        log: Writes one line a request; None writes none.
        sink: Hands records to subscribers.
    """

    def __init__(self, application: Application, log: Logger | None, sink: Sink) -> None:
        self._application = application
        self._log = log
        self._sink = sink

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request (PEP 3333)."""
        arrived, started_ns = datetime.now(UTC), time.perf_counter_ns()
        context = environ[CONTEXT] = make_context(environ)
        status = 0

        def start(line: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            nonlocal status
            status = int(line[:3])
            headers += (("X-Request-ID", context.request_id), ("traceparent", context.traceparent))
            return start_response(line, headers, *exc_info)

        def finish(length_bytes: int) -> None:
            if context.logged:
                self._record(
                    RequestRecord(
                        time=arrived,
                        request_id=context.request_id,
                        trace_id=context.trace_id,
                        method=environ["REQUEST_METHOD"],
                        template=context.template,
                        path=path_as_sent(environ),
                        status=status,
                        bytes=length_bytes,
                        # Whole microseconds; ``round`` takes longer than all else here.
                        duration_ms=(time.perf_counter_ns() - started_ns) // 1000 / 1000,
                        application=context.application,
                    )
                )

        body = self._application(environ, start)
        if isinstance(body, list):
            finish(sum(map(len, body)))
            return body
        return _Counted(body, finish)

    def _record(self, record: RequestRecord) -> None:
        if self._log is not None:
            named = {} if record.application is None else {"application": record.application}
            self._log.info(
                "request",
                request_id=record.request_id,
                trace_id=record.trace_id,
                method=record.method,
                route=record.template,
                path=record.path,
                status=record.status,
                bytes=record.bytes,
                duration_ms=record.duration_ms,
                **named,
            )
        self._sink.put(record)


class _Counted:
    """A streamed body that reports its length once it is closed (PEP 3333)."""

    def __init__(self, body: Iterable[bytes], finish: Callable[[int], None]) -> None:
        self._body = body
        self._finish = finish
        self._length_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._body:
            self._length_bytes += len(chunk)
            yield chunk

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._finish(self._length_bytes)
