"""Spans of the service's own requests, statements, jobs and outgoing requests, for a collector of OpenTelemetry.

Off unless one of ``ENDPOINTS`` is set in the environment, where the SDK has all of its settings
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Needs ``tiercel[otel]``, which is
imported only then.

A tracker of ``kernel.tracking`` makes the spans, so that they begin and end where time is measured anyway. Attributes
are those of the stable conventions for HTTP and databases
(https://opentelemetry.io/docs/specs/semconv/http/http-spans/,
https://opentelemetry.io/docs/specs/semconv/db/database-spans/). No attribute has a value of a statement, a query
string, a header other than ``User-Agent``, or a body.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kernel.logging import Logger
from kernel.package_names import own_version
from kernel.tracking import (
    STATEMENTS_MAX,
    OutgoingRequest,
    ResourceTracker,
    TrackedStatement,
    current_tracker,
    set_current_tracker,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanKind, Tracer

# Either turns tracing on.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_SERVICE = "tiercel"
# How long a process that stops waits until its last spans are sent.
_FLUSH_TIMEOUT_S = 2.0
_USER_AGENT_MAX = 256
# Others are attackers' to choose, and would be names without end: https://opentelemetry.io/docs/specs/semconv/http/.
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
_OTHER_METHOD = "_OTHER"
_SERVER_ERRORS = range(500, 600)
_CLIENT_ERRORS_FROM = 400


def make_tracing(environ: Mapping[str, str], log: Logger) -> Tracing | None:
    """Return what makes spans, if the environment asks for that; else None. No thread is started yet.

    Args:
        environ: Environment variables.
        log: Is told why there are none although the environment asks for them.
    """
    if not any(environ.get(name) for name in ENDPOINTS):
        return None
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    protocol = next((found for name in PROTOCOLS if (found := environ.get(name))), _PROTOCOL)
    if protocol != _PROTOCOL:
        log.warning("tracing_off", reason=f"the protocol {protocol:.40} is not supported; use {_PROTOCOL}")
        return None
    if not _is_installed():
        log.warning("tracing_off", reason="OpenTelemetry is not installed; pip install 'tiercel[otel]'")
        return None
    return Tracing(log)


def _is_installed() -> bool:
    try:
        return None not in (find_spec("opentelemetry.sdk.trace"), find_spec("opentelemetry.exporter.otlp.proto.http"))
    except ModuleNotFoundError:  # a parent package
        return False


class Tracing:
    """Makes spans, and sends them in a thread of its own, in batches.

    A collector that is slow or away delays nothing: spans that do not fit into the queue, 2,048 by default, are lost.

    Args:
        log: The service's log.
    """

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._tracer: Tracer | None = None
        self._provider: TracerProvider | None = None
        self._exporter: OTLPSpanExporter | None = None

    def start(self) -> None:
        """Start the thread. After the fork."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create()
        defaults = {SERVICE_VERSION: own_version()}
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            defaults[SERVICE_NAME] = _SERVICE
        try:
            self._exporter = OTLPSpanExporter()
            self._provider = TracerProvider(resource=resource.merge(Resource(defaults)), shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        except ValueError as ex:
            # A variable that cannot be understood is no reason not to serve.
            self._log.error("tracing_off", reason=str(ex))
        else:
            self._tracer = self._provider.get_tracer("tiercel", own_version())

    def stop(self) -> None:
        """Send the spans that wait, for a few seconds at most, and stop the thread."""
        self._tracer = None
        if self._provider is None or self._exporter is None:
            return
        # The SDK would wait for half a minute.
        shutdown: Callable[[], None] = self._provider.shutdown
        thread = threading.Thread(target=shutdown, name="tracing-stop", daemon=True)
        thread.start()
        thread.join(_FLUSH_TIMEOUT_S)
        if thread.is_alive():
            self._log.warning("spans_lost", reason=f"they could not be sent within {_FLUSH_TIMEOUT_S:g} s")
            # Ends its wait for the next attempt, and with it the threads.
            self._exporter.shutdown()  # type: ignore[no-untyped-call] # the SDK has no types there
        self._provider = self._exporter = None

    def begin_request(
        self, environ: Mapping[str, Any], path: str, parent: str | None, started_ns: int
    ) -> SpanTracker | None:
        """Begin the span of a request, in the trace of the client if that sent one.

        Args:
            environ: Of WSGI.
            path: As the client sent it, without the query string.
            parent: The client's ``traceparent``, if it is well-formed.
            started_ns: When it arrived, of ``time.perf_counter_ns``.

        Returns:
            Its tracker; None before ``start`` and after ``stop``.
        """
        if self._tracer is None:
            return None
        from opentelemetry.trace import SpanKind

        sent_method = environ["REQUEST_METHOD"]
        method = sent_method if sent_method in _METHODS else _OTHER_METHOD
        attributes = {
            "http.request.method": method,
            "url.path": path,
            "url.scheme": environ["wsgi.url_scheme"],
        }
        context = _remote_context(parent, environ.get("HTTP_TRACESTATE"))
        span = self._tracer.start_span(_known_method(sent_method), context, SpanKind.SERVER, attributes)
        return SpanTracker(self._tracer, span, started_ns)

    @contextmanager
    def job(self, name: str, job_id: int, attempt: int, parent: str | None) -> Iterator[SpanTracker | None]:
        """Make a span of a run of a job, and of what it does in the block.

        Args:
            name: Which job.
            job_id: Its id.
            attempt: Which attempt.
            parent: The ``traceparent`` of the request that started it.
        """
        if self._tracer is None:
            yield None
            return
        from opentelemetry.trace import SpanKind

        attributes: dict[str, str | int] = {
            "tiercel.job.name": name,
            "tiercel.job.id": job_id,
            "tiercel.job.attempt": attempt,
        }
        context = _remote_context(parent, None)
        span = self._tracer.start_span(f"job {name}", context, SpanKind.CONSUMER, attributes)
        tracker = SpanTracker(self._tracer, span, time.perf_counter_ns())
        outer = current_tracker()
        set_current_tracker(tracker)
        try:
            yield tracker
        finally:
            set_current_tracker(outer)
            tracker.end()


class SpanTracker(ResourceTracker):
    """Makes spans of what a request or a job does.

    Args:
        tracer: Makes spans.
        span: That of the request or job.
        started_ns: When that began, of ``time.perf_counter_ns``.
    """

    is_reported = False
    traceparent: str

    def __init__(self, tracer: Tracer, span: Span, started_ns: int) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        super().__init__(started_ns)
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span, Context())
        self.traceparent = _traceparent(span)

    def end_request(self, environ: Mapping[str, Any], template: str, status: int, request_id: str) -> None:
        """End the span of a request.

        Args:
            environ: Of WSGI; it has what trusted proxies say of client and host.
            template: The route that answered; empty if none did.
            status: Of the response.
            request_id: As in ``X-Request-ID``.
        """
        span = self._span
        if span.is_recording():
            host, port = _split_host(environ.get("HTTP_HOST") or environ.get("SERVER_NAME", ""))
            found = {
                "http.response.status_code": status,
                "http.route": template or None,
                "server.address": host or None,
                "server.port": port,
                "client.address": environ.get("REMOTE_ADDR") or None,
                "network.protocol.version": environ.get("SERVER_PROTOCOL", "").partition("/")[2] or None,
                "user_agent.original": environ.get("HTTP_USER_AGENT", "")[:_USER_AGENT_MAX] or None,
                "tiercel.request_id": request_id,
            }
            span.set_attributes({name: value for name, value in found.items() if value is not None})
            if template:
                span.update_name(f"{_known_method(environ['REQUEST_METHOD'])} {template}")
            if status in _SERVER_ERRORS:
                self.fail(str(status))
        self.end()

    def fail(self, error_type: str, description: str | None = None) -> None:
        """Record that the request or job failed.

        Args:
            error_type: What failed, in few different words.
            description: For people, without secrets.
        """
        _fail(self._span, error_type, description)

    def end(self) -> None:
        """End the span, with how long each phase took."""
        if self._span.is_recording():
            durations = {f"tiercel.{name}_ms": each for name, each in self.durations_ms().items() if name != "total"}
            self._span.set_attributes({**durations, "tiercel.statement_count": self.statement_count})
        self._span.end()

    @contextmanager
    def statement(self, sql: str) -> Iterator[TrackedStatement]:
        """Record a statement, and make a span of it; of many, of the first."""
        if self.statement_count >= STATEMENTS_MAX or not self._span.is_recording():
            with super().statement(sql) as statement:
                yield statement
            return
        from opentelemetry.trace import SpanKind

        operation = sql.split(None, 1)[0].upper() if sql.strip() else "SQL"
        attributes = {"db.system.name": "postgresql", "db.query.text": sql, "db.query.summary": operation}
        with self._child(operation, SpanKind.CLIENT, attributes) as span, super().statement(sql) as statement:
            try:
                yield statement
            except Exception as ex:
                sqlstate = getattr(ex, "sqlstate", None)
                if sqlstate is not None:
                    span.set_attribute("db.response.status_code", sqlstate)
                raise

    @contextmanager
    def outgoing_request(self, method: str, url: str) -> Iterator[OutgoingRequest]:
        """Make a span of a request to another service, which it continues."""
        from opentelemetry.trace import SpanKind

        parts = urlsplit(url)
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "url.full": f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",
            "server.address": parts.hostname or "",
            "server.port": parts.port or (443 if parts.scheme == "https" else 80),
        }
        with self._child(method, SpanKind.CLIENT, attributes) as span:
            outgoing = OutgoingRequest({"traceparent": _traceparent(span), **_tracestate(span)})
            try:
                yield outgoing
            finally:
                if outgoing.status is not None:
                    span.set_attribute("http.response.status_code", outgoing.status)
                    if outgoing.status >= _CLIENT_ERRORS_FROM:
                        _fail(span, str(outgoing.status))

    @contextmanager
    def _child(self, name: str, kind: SpanKind, attributes: Mapping[str, str | int]) -> Iterator[Span]:
        # Not the context manager of the SDK: that records the text of exceptions, which may quote values.
        span = self._tracer.start_span(name, self._context, kind, attributes)
        try:
            yield span
        except Exception as ex:
            _fail(span, type(ex).__qualname__)
            raise
        finally:
            span.end()


def _fail(span: Span, error_type: str, description: str | None = None) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, description))


def _known_method(method: str) -> str:
    return method if method in _METHODS else "HTTP"


def _split_host(host: str) -> tuple[str, int | None]:
    """Split the header ``Host`` into name and port; an address of IPv6 has brackets."""
    name, colon, port = host.rpartition(":")
    return (name, int(port)) if colon and port.isdecimal() and len(port) <= 5 else (host, None)


def _traceparent(span: Span) -> str:
    """Return the header ``traceparent`` of a span."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"


def _tracestate(span: Span) -> dict[str, str]:
    text = span.get_span_context().trace_state.to_header()
    return {"tracestate": text} if text else {}


def _remote_context(traceparent: str | None, tracestate: str | None) -> Context:
    """Return the context of a span of another process; an empty one for None."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, set_span_in_context

    if traceparent is None:
        return Context()
    _, trace_id, span_id, flags = traceparent.split("-")
    state = None if tracestate is None else TraceState.from_header([tracestate])
    parent = SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16)),
        trace_state=state,
    )
    return set_span_in_context(NonRecordingSpan(parent), Context())
