"""The access log: one line and one record for each request, and subscribers that receive the records in batches.

``AccessLog`` wraps the WSGI application outside Falcon, because only there the final status is known. It gives records
to a ``RequestFeed``, which delivers them from a thread of its own, so that no request waits for a subscriber.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from kernel.errors import UnavailableError
from kernel.http.request import CONTEXT_KEY, RequestContext, make_context, path_as_sent
from kernel.identity import set_current_identity
from kernel.logging import Logger
from kernel.threads import BackgroundThread
from kernel.tracing import SpanTracker, Tracing
from kernel.tracking import ResourceTracker, current_tracker, set_current_tracker

if TYPE_CHECKING:
    from kernel.http.metrics import RequestMetrics

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]
QUEUE_MAX = 20_000
BATCH_MAX = 1_000
INTERVAL_S = 1.0


class RequestRecord(msgspec.Struct, frozen=True):
    """One served request.

    Args:
        time: When it arrived, UTC.
        request_id: As in the response's ``X-Request-ID``.
        trace_id: 32 hexadecimal digits.
        method: In upper case.
        template: The route that answered, such as ``/api/requests/{id}``; empty if none did.
        path: As the client sent it, without the query string.
        status: The final status.
        bytes: Length of the body as sent.
        duration_ms: From arrival to the last byte handed to the server.
        application: Slug of the application whose view it was, if the path named one.
        received_bytes: How much of the body of the request was read, as it was sent.
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
    received_bytes: int = 0


class RejectedRequest(msgspec.Struct, frozen=True):
    """A request that the server rejected before it reached the application, such as one that is no valid HTTP.

    Args:
        context: Its identifiers.
        client: Address that connected, a proxy's for instance: nothing in the request is trusted. Empty if the socket
            is a local one.
        method: Empty if it could not be parsed.
        path: Empty if it could not be parsed.
        status: Of the response.
        bytes: Length of its body.
        reason: What was wrong, without anything that the client sent.
    """

    context: RequestContext
    client: str
    method: str
    path: str
    status: int
    bytes: int
    reason: str


# --- logging requests -------------------------------------------------------------------------------------------------


class AccessLog:
    """WSGI middleware that identifies, times and logs every request.

    Args:
        application: The Falcon application.
        log: Gets one line for each request; None for no lines.
        feed: Gets one record for each request.
        finish_tracking: Called at the end of each request that is tracked, with its method and the final status; see
            ``kernel.http.resource_tracking``.
        tracing: Makes a span of each request; None for no spans.
        metrics: Counts requests that are being answered, and those that were rejected; None for neither.
    """

    def __init__(
        self,
        application: Application,
        log: Logger | None,
        feed: RequestFeed,
        finish_tracking: Callable[[ResourceTracker, RequestContext, str, int], None],
        tracing: Tracing | None = None,
        metrics: RequestMetrics | None = None,
    ) -> None:
        self._application = application
        self._log = log
        self._feed = feed
        self._finish_tracking = finish_tracking
        self._tracing = tracing
        self._metrics = metrics

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request (PEP 3333)."""
        arrived, started_ns = datetime.now(UTC), time.perf_counter_ns()
        context = environ[CONTEXT_KEY] = make_context(environ)
        context.started_ns = started_ns
        set_current_identity(None)
        set_current_tracker(None if self._tracing is None else _begin_span(self._tracing, context, environ))
        metrics = self._metrics
        if metrics is not None:
            metrics.begin(context)
        status = 0

        def start(line: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            nonlocal status
            status = int(line[:3])
            headers += (("X-Request-ID", context.request_id), ("traceparent", context.traceparent))
            return start_response(line, headers, *exc_info)

        def finish(length_bytes: int) -> None:
            # A thread that is done with a request has nobody to act for.
            set_current_identity(None)
            if metrics is not None:
                metrics.end(context)
            tracker = current_tracker()
            if tracker is not None:
                set_current_tracker(None)
                self._finish_tracking(tracker, context, environ["REQUEST_METHOD"], status)
                if isinstance(tracker, SpanTracker):
                    tracker.end_request(environ, context.template, status, context.request_id)
            if context.logged:
                self._record(
                    environ.get("REMOTE_ADDR", ""),
                    RequestRecord(
                        time=arrived,
                        request_id=context.request_id,
                        trace_id=context.trace_id,
                        method=environ["REQUEST_METHOD"],
                        template=context.template,
                        path=path_as_sent(environ),
                        status=status,
                        bytes=length_bytes,
                        # Whole microseconds; ``round`` takes longer than everything else here.
                        duration_ms=(time.perf_counter_ns() - started_ns) // 1000 / 1000,
                        application=context.application,
                        received_bytes=context.received_bytes,
                    ),
                )

        body = self._serve(environ, start, context)
        if isinstance(body, list):
            finish(sum(map(len, body)))
            return body
        return _CountingBody(body, finish)

    def _serve(self, environ: dict[str, Any], start: StartResponse, context: RequestContext) -> Iterable[bytes]:
        """Call the application. A request whose exception leaves it is over."""
        try:
            return self._application(environ, start)
        except BaseException:
            if self._metrics is not None:
                self._metrics.end(context)
            raise

    def log_rejected(self, rejected: RejectedRequest) -> None:
        """Log a request that never reached the application. Subscribers get no record of it: it has no route."""
        if self._metrics is not None:
            self._metrics.reject(rejected.status)
        if self._log is not None:
            self._log.info(
                "request",
                request_id=rejected.context.request_id,
                trace_id=rejected.context.trace_id,
                method=rejected.method,
                route="",
                path=rejected.path,
                status=rejected.status,
                bytes=rejected.bytes,
                client=rejected.client,
                reason=rejected.reason,
            )

    def _record(self, client: str, record: RequestRecord) -> None:
        if self._log is not None:
            application = {} if record.application is None else {"application": record.application}
            # The clients of a Unix socket have no address.
            address = {"client": client} if client else {}
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
                **address,
                **application,
            )
        self._feed.put(record)


def _begin_span(tracing: Tracing, context: RequestContext, environ: Mapping[str, Any]) -> SpanTracker | None:
    """Begin the span of a request, and make its identifiers those of the context."""
    parent = f"00-{context.trace_id}-{context.parent_id}-{context.sampled}" if context.parent_id else None
    tracker = tracing.begin_request(environ, path_as_sent(environ), parent, context.started_ns)
    if tracker is not None:
        _, context.trace_id, context.span_id, context.sampled = tracker.traceparent.split("-")
    return tracker


class _CountingBody:
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


# --- delivering records -----------------------------------------------------------------------------------------------

Subscriber = Callable[[Sequence[RequestRecord]], None]


class FeedStats(msgspec.Struct, frozen=True):
    """Records of one subscriber since the process started."""

    delivered: int
    dropped: int
    waiting: int


class RequestFeed:
    """Queues the records of requests and delivers them to subscribers, once a second and in batches.

    Args:
        log: For failures of subscribers.
    """

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._subscriptions: list[_Subscription] = []
        self._thread = BackgroundThread("request-feed", self._run)

    def subscribe(self, name: str, deliver: Subscriber) -> Callable[[], None]:
        """Deliver every record from now on. Call it from the hook ``startup``.

        Args:
            name: For logs and statistics.
            deliver: Called with up to 1,000 records, in the order in which they were served. If it raises
                ``UnavailableError``, the same records are delivered again later; if it raises anything else, they are
                dropped.

        Returns:
            A function that delivers what is queued for this subscriber, now.
        """
        subscription = _Subscription(name, deliver, self._log)
        self._subscriptions.append(subscription)
        return subscription.flush

    def put(self, record: RequestRecord) -> None:
        """Queue a record for every subscriber; never blocks."""
        for subscription in self._subscriptions:
            subscription.put(record)

    def start(self) -> None:
        """Start delivering. After the fork."""
        self._thread.start()

    def stop(self) -> None:
        """Deliver what is queued, then stop and forget the subscribers."""
        self._thread.stop()
        self._subscriptions.clear()

    def flush(self) -> None:
        """Deliver what is queued, now."""
        for subscription in self._subscriptions:
            subscription.flush()

    def stats(self) -> dict[str, FeedStats]:
        """Return statistics by subscriber."""
        return {each.name: FeedStats(each.delivered, each.dropped, each.waiting) for each in self._subscriptions}

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.wait(INTERVAL_S):
            self.flush()
        self.flush()


class _Subscription:
    """The queue of one subscriber."""

    def __init__(self, name: str, deliver: Subscriber, log: Logger) -> None:
        self.name = name
        self._deliver = deliver
        self._log = log
        self._queue: deque[RequestRecord] = deque()
        self._delivering = threading.Lock()
        self.delivered = 0
        self.dropped = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def put(self, record: RequestRecord) -> None:
        # A full queue means that the subscriber fails or is slow: drop the newest, so that the rest has no gaps.
        if len(self._queue) >= QUEUE_MAX:
            self.dropped += 1
        else:
            self._queue.append(record)

    def flush(self) -> None:
        with self._delivering:
            self._flush()

    def _flush(self) -> None:
        while self._queue:
            batch = [self._queue[index] for index in range(min(BATCH_MAX, len(self._queue)))]
            try:
                self._deliver(batch)
            except UnavailableError as ex:
                self._log.warning("request_feed_waits", subscriber=self.name, reason=ex.detail, waiting=self.waiting)
                return
            except Exception:
                self._log.exception("request_feed_failed", subscriber=self.name, dropped=len(batch))
                self.dropped += len(batch)
            else:
                self.delivered += len(batch)
            for _ in batch:
                self._queue.popleft()
