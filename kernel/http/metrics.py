"""``/metrics``, and what is measured of requests.

The access log's feed delivers the records of requests once a second; counting them then, in batches, costs a request
next to nothing.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import falcon
from falcon.util.mediatypes import best_match

from kernel.contracts import Route, collect_routes, route
from kernel.errors import UnauthorizedError
from kernel.http.access_log import RequestFeed, RequestRecord
from kernel.http.compression import accepted_coding, compress
from kernel.http.request import Request, RequestContext
from kernel.http.response import PreparedResponse
from kernel.http.routing import MountedRoute
from kernel.metrics import OTHER, Metrics, Reading
from kernel.settings import MetricSettings

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

PATH = "/metrics"
# The label of requests that no route has answered, as those that are stored as events have it.
NO_ROUTE = "(no route)"
_METHODS = frozenset(falcon.HTTP_METHODS)
# Prometheus' text format, and what it became: https://prometheus.io/docs/specs/om/open_metrics_spec/
_TEXT = "text/plain; version=0.0.4"
_OPENMETRICS = "application/openmetrics-text; version=1.0.0"
_RESPONSES = {200: {"text/plain": str, "application/openmetrics-text": str}}
_CHALLENGES = {"WWW-Authenticate": 'Bearer realm="tiercel metrics"'}


class RequestMetrics:
    """What is measured of requests. Probes, and scrapes, are left out, as they are of the access log.

    Args:
        metrics: Of the process.
        routes: Returns all routes, to whose plugins requests count.
    """

    def __init__(self, metrics: Metrics, routes: Callable[[], Sequence[MountedRoute]]) -> None:
        self._metrics = metrics
        self._routes = routes
        self._owners: dict[str, str] | None = None
        # By id: contexts are not hashable. Adding and removing one are atomic.
        self._in_flight: dict[int, RequestContext] = {}
        # Of requests by method, template and status, all of which are bounded.
        labels = ("plugin", "method", "route")
        self._requests = metrics.counter(
            "tiercel_http_requests_total", "Requests that were answered.", (*labels, "status")
        )
        self._durations = metrics.histogram(
            "tiercel_http_request_duration_seconds", "From arrival to the last byte handed to the server.", labels
        )
        self._received = metrics.counter(
            "tiercel_http_request_body_bytes_total", "Bytes of bodies that were read, as they were sent.", labels
        )
        self._sent = metrics.counter(
            "tiercel_http_response_body_bytes_total", "Bytes of bodies that were sent, compressed.", labels
        )
        self._rejected = metrics.counter(
            "tiercel_http_rejected_requests_total",
            "Requests that the server answered itself, such as those that are no valid HTTP.",
            ("status",),
        )
        metrics.read_in_process("tiercel_http_", self._read)

    def subscribe(self, feed: RequestFeed) -> None:
        """Count the requests of a feed from now on."""
        self._metrics.before_flush(feed.subscribe("metrics", self.count))

    def begin(self, context: RequestContext) -> None:
        """Note that a request has arrived."""
        self._in_flight[id(context)] = context

    def end(self, context: RequestContext) -> None:
        """Note that it is answered."""
        self._in_flight.pop(id(context), None)

    def reject(self, status: int) -> None:
        """Count a request that never reached the application."""
        self._rejected.inc(_status_class(status))

    def count(self, records: Sequence[RequestRecord]) -> None:
        """Count requests that were answered."""
        if self._owners is None:
            self._owners = {each.template: each.owner for each in self._routes()}
        groups: dict[tuple[str, str, int], _Group] = {}
        for record in records:
            key = (record.template, record.method, record.status)
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group()
            group.received_bytes += record.received_bytes
            group.sent_bytes += record.bytes
            group.durations_s.append(record.duration_ms / 1000)
        for (template, method, status), group in groups.items():
            known_method = method if method in _METHODS else OTHER
            labels = (self._owners.get(template, ""), known_method, template or NO_ROUTE)
            self._requests.inc(*labels, _status_class(status), by=len(group.durations_s))
            self._durations.observe_many(group.durations_s, *labels)
            self._received.inc(*labels, by=group.received_bytes)
            self._sent.inc(*labels, by=group.sent_bytes)

    def _read(self) -> Iterable[Reading]:
        # Of a copy: others arrive meanwhile.
        count = sum(context.logged for context in list(self._in_flight.values()))
        process = {"process": self._metrics.process}
        yield Reading("requests_in_flight", "Requests that are being answered.", count, process)


class _Group:
    """Requests of one route, method and status."""

    __slots__ = ("durations_s", "received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.received_bytes = 0
        self.sent_bytes = 0
        self.durations_s: list[float] = []


def _status_class(status: int) -> str:
    return f"{status // 100}xx"


class MetricsRoutes:
    """The handler of ``/metrics``.

    Args:
        metrics: Of the process.
        settings: Who may read them.
    """

    def __init__(self, metrics: Metrics, settings: MetricSettings) -> None:
        self._metrics = metrics
        self._token = None if settings.token is None or settings.public else settings.token.reveal().encode()
        self._is_public = settings.public or settings.token is not None

    def routes(self) -> Sequence[Route]:
        """Return the route, if metrics are on. Scrapes are not logged."""
        if not self._metrics.is_on:
            return ()
        return collect_routes(self.show_public if self._is_public else self.show)

    @route(PATH, policy="staff", logged=False, responses=_RESPONSES)
    def show(self, request: Request) -> PreparedResponse:
        """Return the metrics of this instance, of all its processes, in the format that the client prefers."""
        return self._respond(request)

    @route(PATH, policy="public", logged=False, responses=_RESPONSES)
    def show_public(self, request: Request) -> PreparedResponse:
        """Return the metrics of this instance to those who have the token, if there is one."""
        if self._token is not None:
            scheme, _, given = request.get_header("Authorization", default="").partition(" ")
            is_right = hmac.compare_digest(given.strip(" ").encode("utf-8", "replace"), self._token)
            if scheme.lower() not in {"bearer", "api-key"} or not is_right:
                # Who tries tokens is in the log.
                request.log_context.logged = True
                raise UnauthorizedError(detail="the token of metrics is missing or wrong", headers=_CHALLENGES)
        return self._respond(request)

    def _respond(self, request: Request) -> PreparedResponse:
        collected = _Collected(list(self._metrics.collect()))
        media_type = _media_type(request.get_header("Accept", default=""))
        content = _encode(collected, media_type)
        headers = {
            "content-type": f"{media_type}; charset=utf-8",
            "cache-control": "no-store",
            "vary": "Accept, Accept-Encoding",
        }
        coding = accepted_coding(request).choose(len(content))
        if coding is not None:
            content, headers["content-encoding"] = compress(content, coding), coding
        return PreparedResponse("200 OK", headers, content)


class _Collected:
    """What was collected, in the shape that prometheus_client encodes."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _media_type(accept: str) -> str:
    """Return the format that a client prefers; the older one if it says nothing of either."""
    try:
        return best_match((_TEXT, _OPENMETRICS), accept) or _TEXT
    except ValueError:
        return _TEXT


def _encode(collected: _Collected, media_type: str) -> bytes:
    if media_type == _OPENMETRICS:
        from prometheus_client.openmetrics.exposition import generate_latest as encode_openmetrics

        encoded: bytes = encode_openmetrics(collected)
        return encoded
    from prometheus_client.exposition import generate_latest as encode_text

    return encode_text(collected)
