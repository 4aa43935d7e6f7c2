"""Make events of spans, by the semantic conventions of HTTP servers: the stable ones and those before.

Sources: https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server and, for the older names,
https://opentelemetry.io/docs/specs/semconv/non-normative/http-migration/.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from kernel import FieldErrors
from kernel.http import mask
from plugins.observability.event_ids import EPOCH
from plugins.observability.ingest.decode import decode_field
from plugins.observability.ingest.validate import REQUIRED, validate_event
from plugins.observability.models import ENDPOINT_MAX, METHOD_MAX, REFERENCE_MAX, EventIn
from plugins.observability.otlp.decode import ServerSpan
from plugins.observability.path_templates import NO_ROUTE, Templates

# What becomes a field of the event: the stable name first.
_METHOD = ("http.request.method", "http.method")
_STATUS = ("http.response.status_code", "http.status_code")
_ROUTE = ("http.route",)
_USER = ("user.id", "enduser.id")
_SERVICE = ("service.name",)
_FIELDS = frozenset((*_METHOD, *_STATUS, *_ROUTE, *_USER, *_SERVICE))
# These stay tags: a template leaves out a part of them. Some instrumentations have no path, but a URL, or neither.
_PATH = ("url.path", "http.target")
_URL = ("url.full", "http.url")

_TRACE_ID_LENGTH, _SPAN_ID_LENGTH = 32, 16
_NS_PER_MS = 1_000_000
_NS_PER_US = 1_000
_FAILED = 500
_NUMBERS = frozenset({int, float, bool})


def is_http(span: ServerSpan) -> bool:
    """Tell whether a span of a server is one of an HTTP server; those of RPC and messaging are servers as well."""
    return any(name in span.attributes for name in _METHOD)


def map_tags(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a resource, or of a span, that become tags."""
    return {
        name: value if value.__class__ in _NUMBERS else mask(value, name)
        for name, value in attributes.items()
        if name not in _FIELDS
    }


def map_span(
    span: ServerSpan, resource_tags: Mapping[str, Any], templates: Templates, now: datetime
) -> tuple[EventIn | None, FieldErrors]:
    """Make an event of a span of an HTTP server.

    Args:
        span: The span.
        resource_tags: From ``map_tags``.
        templates: Applied to the path, where there is no route.
        now: UTC; events may be a day ahead of it.

    Returns:
        The event and no messages, or None and what is wrong by field.
    """
    wrong = _wrong_identifiers(span)
    if wrong:
        return None, wrong
    attributes = span.attributes
    tags = {
        **resource_tags,
        **map_tags(attributes),
        "span_id": span.span_id,
    }
    if span.parent_span_id:
        tags["parent_span_id"] = span.parent_span_id
    if span.status_message:
        tags["otel.status_description"] = mask(span.status_message)
    user = _first(attributes, _USER)
    values = {
        "time": EPOCH + timedelta(microseconds=span.start_ns // _NS_PER_US),
        "service": _first(span.resource, _SERVICE),
        "endpoint": _endpoint(attributes, templates)[:ENDPOINT_MAX],
        "method": str(_first(attributes, _METHOD))[:METHOD_MAX],
        "status_code": _status_code(span),
        "latency_ms": (span.end_ns - span.start_ns) / _NS_PER_MS if span.end_ns else None,
        "trace_id": span.trace_id,
        "user_ref": None if user is None else str(user)[:REFERENCE_MAX],
        "tags": msgspec.Raw(msgspec.json.encode(tags)),
        "event_id": f"{span.trace_id}-{span.span_id}",
    }
    return _validate(values, now)


def _validate(values: dict[str, Any], now: datetime) -> tuple[EventIn | None, FieldErrors]:
    texts = (values["service"], values["endpoint"], values["method"], values["user_ref"])
    if b"\\u0000" not in bytes(values["tags"]) and not any("\x00" in str(text) for text in texts):
        try:
            return msgspec.convert(values, EventIn), {}
        except msgspec.ValidationError:
            pass  # the slow path says what is wrong
    given = {name: value for name, value in values.items() if value is not None or name == "latency_ms"}
    raw = {**given, "time": values["time"].isoformat(), "tags": decode_field("tags", bytes(values["tags"]))}
    return validate_event(raw, now)


def _wrong_identifiers(span: ServerSpan) -> FieldErrors:
    """Return what is wrong with the identifiers and the time of a span, without which it cannot be told from others."""
    wrong: dict[str, list[str]] = {}
    if len(span.trace_id) != _TRACE_ID_LENGTH or not span.trace_id.strip("0"):
        wrong["trace_id"] = ["Expected 16 bytes that are not all zero."]
    if len(span.span_id) != _SPAN_ID_LENGTH or not span.span_id.strip("0"):
        wrong["span_id"] = ["Expected 8 bytes that are not all zero."]
    if span.start_ns == 0:
        wrong["time"] = [REQUIRED]
    return wrong


def _status_code(span: ServerSpan) -> Any:
    """Return the status of the response.

    The attribute is missing only if no response was sent. A server that failed before it sent one has an error as the
    status of its span; of any other span, nothing tells how the request ended.
    """
    found = _first(span.attributes, _STATUS)
    return _FAILED if found is None and span.is_error else found


def _endpoint(attributes: Mapping[str, Any], templates: Templates) -> str:
    route = _first(attributes, _ROUTE)
    if route is not None:
        return str(route)
    path = _first(attributes, _PATH)
    if path is None and (url := _first(attributes, _URL)) is not None:
        # After the host, which may have an address of IPv6.
        path = "/" + str(url).partition("://")[2].partition("/")[2]
    return NO_ROUTE if path is None else templates.apply(str(path).partition("?")[0].partition("#")[0])


def _first(attributes: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the first attribute of several names that is neither null nor empty; None if there is none."""
    for name in names:
        value = attributes.get(name)
        if value is not None and value != "":
            return value
    return None
