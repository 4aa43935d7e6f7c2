"""Spans for tests, in both encodings of OTLP/HTTP."""

from __future__ import annotations

import base64
import math
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from google.protobuf.json_format import ParseDict
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from kernel.testing import Client, Result

PATH = "/v1/traces"
PROTOBUF = "application/x-protobuf"
START_NS = 1_765_713_600_123_456_789
START = datetime(2025, 12, 14, 12, 0, 0, 123_456, tzinfo=UTC)


def any_value(value: Any) -> dict[str, Any]:
    """Return an ``AnyValue``."""
    if isinstance(value, dict):
        return {"kvlistValue": {"values": attributes(value)}}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(each) for each in value]}}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"doubleValue": {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]}
    if value is None:
        return {}
    for kind, name in ((bool, "boolValue"), (str, "stringValue"), (int, "intValue"), (float, "doubleValue")):
        if isinstance(value, kind):
            return {name: str(value) if kind is int else value}
    raise TypeError(value)


def attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a list of ``KeyValue``."""
    return [{"key": name, "value": any_value(value)} for name, value in values.items()]


def make_span(attrs: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Make a span of an HTTP server, some attributes and fields changed. Those given as ``...`` are left out."""
    given = {"http.request.method": "GET", "http.route": "/users/{id}", "http.response.status_code": 200}
    span = {
        "traceId": secrets.token_hex(16),
        "spanId": secrets.token_hex(8),
        "name": "GET /users/{id}",
        "kind": 2,
        "startTimeUnixNano": str(START_NS),
        "endTimeUnixNano": str(START_NS + 12_500_000),
        "attributes": attributes({k: v for k, v in {**given, **(attrs or {})}.items() if v is not ...}),
        **fields,
    }
    return {name: value for name, value in span.items() if value is not ...}


def make_request(*spans: Any, service: str | None = "shop", **resource: Any) -> dict[str, Any]:
    """Make an ``ExportTraceServiceRequest`` as JSON."""
    named = {} if service is None else {"service.name": service}
    scope = {"scope": {"name": "test"}, "spans": list(spans)}
    return {"resourceSpans": [{"resource": {"attributes": attributes({**named, **resource})}, "scopeSpans": [scope]}]}


def to_protobuf(request: Mapping[str, Any]) -> bytes:
    """Return a request in the other encoding. Its ids are bytes, which the usual JSON of messages has in Base64."""

    def based(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: base64.b64encode(bytes.fromhex(inner)).decode()
                if name in {"traceId", "spanId", "parentSpanId"}
                else based(inner)
                for name, inner in value.items()
            }
        return [based(each) for each in value] if isinstance(value, list) else value

    return ParseDict(based(request), ExportTraceServiceRequest()).SerializeToString()


def export(client: Client, request: Mapping[str, Any], **headers: str) -> Result:
    """Send a request as JSON."""
    return client.post(PATH, request, headers=headers)


def export_protobuf(client: Client, content: bytes, **headers: str) -> Result:
    """Send a request as Protocol Buffers."""
    return client.post(PATH, content=content, headers={"Content-Type": PROTOBUF, **headers})


def partial_success(answer: Result) -> tuple[int, str]:
    """Return how many spans an answer says are rejected, and why; in whatever encoding it is."""
    assert answer.status == 200, answer.content
    if answer.headers["content-type"] == PROTOBUF:
        found = ExportTraceServiceResponse.FromString(answer.content).partial_success
        return found.rejected_spans, found.error_message
    assert answer.headers["content-type"] == "application/json"
    said = msgspec.json.decode(answer.content).get("partialSuccess", {})
    return int(said.get("rejectedSpans", 0)), said.get("errorMessage", "")


def status_message(answer: Result) -> str:
    """Return the message of the ``google.rpc.Status`` that an error is, in whatever encoding it is."""
    if answer.headers["content-type"] == PROTOBUF:
        message: str = Status.FromString(answer.content).message
        return message
    assert answer.headers["content-type"] == "application/json"
    decoded = msgspec.json.decode(answer.content)
    assert set(decoded) == {"message"}
    return str(decoded["message"])


def send(client: Client, encoding: str, spans: Sequence[Any], **resource: Any) -> Result:
    """Send spans in an encoding."""
    request = make_request(*spans, **resource)
    return export(client, request) if encoding == "json" else export_protobuf(client, to_protobuf(request))
