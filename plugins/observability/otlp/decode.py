"""Decode spans out of the JSON of OTLP/HTTP; ``decode_protobuf`` does the same for Protocol Buffers.

Memory is bounded before it is taken: a span takes a few times the bytes that it is sent as, but three bytes of other
JSON can take a hundred. So objects are counted first, and spans are decoded one by one, each at most a megabyte long.

The JSON is that of Protocol Buffers, except that ids are hexadecimal:
https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kernel import MalformedError, TooLargeError
from plugins.observability.ingest.decode import EVENT_MAX_BYTES

# ``Span.SpanKind`` and ``Status.StatusCode`` of trace.proto.
KIND_SERVER = 2
STATUS_ERROR = 2
TOO_LONG = f"A span may have at most {EVENT_MAX_BYTES} bytes."

_KINDS = {"SPAN_KIND_SERVER": KIND_SERVER}
_STATUSES = {"STATUS_CODE_ERROR": STATUS_ERROR}
_INT64 = range(-(2**63), 2**63)
_UINT64_MAX = 2**64 - 1
_DIGITS_MAX = 20
_HEXADECIMAL = re.compile(r"[0-9a-f]*")
# Objects that valid spans consist of are longer: ``{"intValue":1}``. So many are always allowed.
_OBJECT_MIN_BYTES = 10
_OBJECTS_MIN = 10_000
# msgspec raises these for what it cannot read to its end.
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class ServerSpan(msgspec.Struct, gc=False):
    """A span of a server, in either encoding.

    Args:
        trace_id: Hexadecimal, in lower case.
        span_id: Likewise.
        parent_span_id: Likewise; empty for the first span of a trace.
        start_ns: Unix time.
        end_ns: Unix time.
        is_error: Whether its status is that of an error.
        status_message: What its status says.
        attributes: Its attributes as plain data.
        resource: Attributes of what made it, shared by several spans.
    """

    trace_id: str
    span_id: str
    parent_span_id: str
    start_ns: int
    end_ns: int
    is_error: bool
    status_message: str
    attributes: dict[str, Any]
    resource: Mapping[str, Any]


class SpanError(msgspec.Struct, frozen=True, gc=False):
    """A span that cannot be read.

    Args:
        reason: For its sender.
    """

    reason: str


# None for a span that no server made.
DecodedSpan = ServerSpan | SpanError | None


class Message(msgspec.Struct, rename="camel", gc=False):
    """Base of the messages: a field that is null has its default, and unknown fields are ignored."""


class AnyValue(Message, gc=False):
    """A value: one of these.

    Args:
        int_value: 64 bits, as a number or a text.
        double_value: A number, or ``NaN``, ``Infinity`` or ``-Infinity``.
        bytes_value: Base64.
    """

    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | str | None = None
    double_value: float | str | None = None
    bytes_value: str | None = None
    array_value: ArrayValue | None = None
    kvlist_value: KeyValueList | None = None


class ArrayValue(Message, gc=False):
    """Several values."""

    values: list[AnyValue] | None = None


class KeyValue(Message, gc=False):
    """A value with its name."""

    key: str = ""
    value: AnyValue | None = None


class KeyValueList(Message, gc=False):
    """Several values with their names."""

    values: list[KeyValue] | None = None


class Status(Message, gc=False):
    """The status of a span.

    Args:
        code: 2 for an error.
    """

    code: int | str | None = None
    message: str | None = None


class Span(Message, gc=False):
    """A span, as far as it is read.

    Args:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        parent_span_id: Likewise, if it has a parent.
        kind: 2 for that of a server; all others are ignored.
        start_time_unix_nano: Nanoseconds since 1970, as a number or a text.
        end_time_unix_nano: Likewise.
    """

    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    kind: int | str | None = None
    start_time_unix_nano: int | str | None = None
    end_time_unix_nano: int | str | None = None
    attributes: list[KeyValue] | None = None
    status: Status | None = None


class Resource(Message, gc=False):
    """What made spans; its attribute ``service.name`` is the service of the events."""

    attributes: list[KeyValue] | None = None


class ScopeSpans(Message, gc=False):
    """The spans of an instrumentation."""

    spans: list[Span] | None = None


class ResourceSpans(Message, gc=False):
    """The spans of a resource."""

    resource: Resource | None = None
    scope_spans: list[ScopeSpans] | None = None


class ExportTraceServiceRequest(Message, gc=False):
    """The body of a request that exports spans."""

    resource_spans: list[ResourceSpans] | None = None


# The same, but resources and spans are left to be decoded one by one.
_NULL = msgspec.Raw(b"null")


class _RawScopeSpans(Message, gc=False):
    spans: list[msgspec.Raw] | None = None


class _RawResourceSpans(Message, gc=False):
    resource: msgspec.Raw = _NULL
    scope_spans: list[_RawScopeSpans] | None = None


class _RawRequest(Message, gc=False):
    resource_spans: list[_RawResourceSpans] | None = None


class _Kind(Message, gc=False):
    kind: int | str | None = None


_REQUEST = msgspec.json.Decoder(_RawRequest)
_RESOURCE = msgspec.json.Decoder(Resource)
_KIND = msgspec.json.Decoder(_Kind)
_SPAN = msgspec.json.Decoder(Span)


def decode_json(content: bytes, spans_max: int) -> Iterator[DecodedSpan]:
    """Yield the spans of an ``ExportTraceServiceRequest``, in order.

    Args:
        content: JSON.
        spans_max: The most it may have.

    Raises:
        MalformedError: It is no such request.
        TooLargeError: It has too many spans, or objects too many for spans.
    """
    if content.count(b"{") > max(_OBJECTS_MIN, len(content) // _OBJECT_MIN_BYTES):
        raise TooLargeError(detail="the body has more objects than spans of its length have")
    try:
        request = _REQUEST.decode(content)
    except _DECODE_ERRORS as ex:
        raise MalformedError("The body is not JSON of an ExportTraceServiceRequest.", detail=str(ex)) from ex
    groups = request.resource_spans or ()
    ensure_few(sum(len(scope.spans or ()) for group in groups for scope in group.scope_spans or ()), spans_max)
    for group in groups:
        resource = _decode_resource(group.resource)
        for scope in group.scope_spans or ():
            for raw in scope.spans or ():
                yield _decode_span(raw, resource)


def ensure_few(count: int, spans_max: int) -> None:
    """Check how many spans a request has.

    Raises:
        TooLargeError: It has too many.
    """
    if count > spans_max:
        raise TooLargeError("Too many spans in one request.", detail=f"the limit is {spans_max}")


def plain_float(value: float) -> float | str:
    """Return a number as JSON can hold it: those that are not finite under the names that Protocol Buffers has."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def plain_bytes(value: bytes) -> str:
    """Return bytes as the JSON of Protocol Buffers has them, Base64."""
    return base64.b64encode(value).decode()


def _decode_resource(raw: msgspec.Raw) -> Mapping[str, Any]:
    """Return the attributes of a resource.

    Raises:
        TooLargeError: It is too long.
        MalformedError: It is none.
    """
    content = bytes(raw)
    if content == bytes(_NULL):
        return {}
    if len(content) > EVENT_MAX_BYTES:
        raise TooLargeError(detail=f"a resource may have at most {EVENT_MAX_BYTES} bytes")
    try:
        return _plain_members(_RESOURCE.decode(content).attributes)
    except (*_DECODE_ERRORS, ValueError) as ex:
        raise MalformedError("A resource cannot be read.", detail=str(ex)) from ex


def _decode_span(raw: msgspec.Raw, resource: Mapping[str, Any]) -> DecodedSpan:
    content = bytes(raw)
    if len(content) > EVENT_MAX_BYTES:
        return SpanError(TOO_LONG)
    try:
        kind = _KIND.decode(content).kind
        if kind != KIND_SERVER and _KINDS.get(str(kind)) != KIND_SERVER:
            return None
        span = _SPAN.decode(content)
        status = span.status or Status()
        return ServerSpan(
            trace_id=_identifier(span.trace_id),
            span_id=_identifier(span.span_id),
            parent_span_id=_identifier(span.parent_span_id),
            start_ns=_time_ns(span.start_time_unix_nano),
            end_ns=_time_ns(span.end_time_unix_nano),
            is_error=status.code == STATUS_ERROR or _STATUSES.get(str(status.code)) == STATUS_ERROR,
            status_message=status.message or "",
            attributes=_plain_members(span.attributes),
            resource=resource,
        )
    except RecursionError:
        return SpanError("A value is nested too deeply.")
    except (*_DECODE_ERRORS, ValueError) as ex:
        return SpanError(str(ex))


def _identifier(text: str | None) -> str:
    lowered = (text or "").lower()
    if not _HEXADECIMAL.fullmatch(lowered):
        raise ValueError(f"Expected a hexadecimal identifier, got {text!r:.40}")
    return lowered


def _integer(value: int | str) -> int:
    """Return an integer of 64 bits; as text, it has at most 20 characters."""
    if isinstance(value, str) and len(value) > _DIGITS_MAX:
        raise ValueError(f"Expected an integer of 64 bits, got {value!r:.40}")
    return int(value)


def _time_ns(value: int | str | None) -> int:
    time_ns = _integer(value or 0)
    if not 0 <= time_ns <= _UINT64_MAX:
        raise ValueError(f"Expected nanoseconds since 1970, got {value!r:.40}")
    return time_ns


def _plain_members(members: Sequence[KeyValue] | None) -> dict[str, Any]:
    return {member.key: _plain(member.value) for member in members or ()}


def _plain(value: AnyValue | None) -> Any:
    if value is None:
        return None
    if value.string_value is not None:
        return value.string_value
    if value.bool_value is not None:
        return value.bool_value
    if value.int_value is not None:
        number = _integer(value.int_value)
        if number not in _INT64:
            raise ValueError(f"Expected an integer of 64 bits, got {number}")
        return number
    if value.double_value is not None:
        return plain_float(float(value.double_value))
    if value.array_value is not None:
        return [_plain(each) for each in value.array_value.values or ()]
    if value.kvlist_value is not None:
        return _plain_members(value.kvlist_value.values)
    return value.bytes_value
