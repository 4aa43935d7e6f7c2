"""Decode spans out of the Protocol Buffers of OTLP/HTTP. Imported with the first of them, which takes 0.1 s.

A message that is decoded as a whole can take a hundred times its bytes: of a field that repeats, two bytes are an
empty message. So ``ExportTraceServiceRequest`` is walked in its wire format, and only what it consists of is decoded:
resources and spans, one by one, each at most a megabyte long.

Source of the wire format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from kernel import MalformedError, TooLargeError
from plugins.observability.ingest.decode import EVENT_MAX_BYTES
from plugins.observability.otlp.decode import (
    KIND_SERVER,
    STATUS_ERROR,
    TOO_LONG,
    DecodedSpan,
    ServerSpan,
    SpanError,
    ensure_few,
    plain_bytes,
    plain_float,
)

# Numbers of fields: of ExportTraceServiceRequest, ResourceSpans, and ScopeSpans.
_RESOURCE_SPANS = 1
_RESOURCE, _SCOPE_SPANS = 1, 2
_SPANS = 2
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_VARINT_MAX_BYTES = 10
# A span may have a resource and a scope of its own, with the address of a schema each.
_FIELDS_PER_SPAN = 6
_FIELDS_MIN = 10_000


class _Walk(msgspec.Struct):
    """Counts what is walked, so that a body of tiny fields does not take long.

    Args:
        content: The body.
        fields_left: How many more fields it may have.
    """

    content: bytes
    fields_left: int

    def messages(self, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
        """Yield where each field of a number begins and ends, in a message that begins and ends there.

        Raises:
            MalformedError: It is no message.
            TooLargeError: It has too many fields.
        """
        at = start
        while at < end:
            self.fields_left -= 1
            if self.fields_left < 0:
                raise TooLargeError(detail="the body has more fields than spans can have")
            tag, at = self._varint(at, end)
            kind = tag & 7
            size = 0
            if kind == _LEN:
                size, at = self._varint(at, end)
            elif kind == _VARINT:
                _, at = self._varint(at, end)
            elif kind in (_I64, _I32):
                size = 8 if kind == _I64 else 4
            else:
                raise _malformed(f"there is no wire type {kind}")
            if at + size > end:
                raise _malformed("a field goes beyond the end of its message")
            if kind == _LEN and tag >> 3 == wanted:
                yield at, at + size
            at += size

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        for position in range(at, min(end, at + _VARINT_MAX_BYTES)):
            byte = self.content[position]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position + 1
            shift += 7
        raise _malformed("a number does not end")


def decode_protobuf(content: bytes, spans_max: int) -> Iterator[DecodedSpan]:
    """Yield the spans of an ``ExportTraceServiceRequest``, in order.

    Args:
        content: Protocol Buffers.
        spans_max: The most it may have.

    Raises:
        MalformedError: It is no such request.
        TooLargeError: It has too many spans, or fields.
    """
    walk = _Walk(content, max(_FIELDS_MIN, _FIELDS_PER_SPAN * spans_max))
    count = 0
    try:
        for group in walk.messages(0, len(content), _RESOURCE_SPANS):
            # The fields of a message may be in any order.
            resource = _decode_resource(walk, *group)
            for scope in walk.messages(*group, _SCOPE_SPANS):
                for start, end in walk.messages(*scope, _SPANS):
                    count += 1
                    ensure_few(count, spans_max)
                    yield _decode_span(content[start:end], resource)
    except DecodeError as ex:
        raise _malformed(str(ex)) from ex


def _decode_resource(walk: _Walk, start: int, end: int) -> Mapping[str, Any]:
    resource = Resource()
    size_bytes = 0
    for at, to in walk.messages(start, end, _RESOURCE):
        size_bytes += to - at
        if size_bytes > EVENT_MAX_BYTES:
            raise TooLargeError(detail=f"a resource may have at most {EVENT_MAX_BYTES} bytes")
        resource.MergeFromString(walk.content[at:to])
    return _plain_members(resource.attributes)


def _decode_span(content: bytes, resource: Mapping[str, Any]) -> DecodedSpan:
    if len(content) > EVENT_MAX_BYTES:
        return SpanError(TOO_LONG)
    span = Span.FromString(content)
    if span.kind != KIND_SERVER:
        return None
    return ServerSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        is_error=span.status.code == STATUS_ERROR,
        status_message=span.status.message,
        attributes=_plain_members(span.attributes),
        resource=resource,
    )


def _plain_members(members: Sequence[KeyValue]) -> dict[str, Any]:
    return {member.key: _plain(member.value) for member in members}


def _plain(value: AnyValue) -> Any:
    if text := value.string_value:
        return text  # nearly all are
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_plain(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return _plain_members(value.kvlist_value.values)
    found = getattr(value, kind)
    if kind == "double_value":
        return plain_float(found)
    return plain_bytes(found) if kind == "bytes_value" else found


def encode_response(rejected_spans: int, error_message: str) -> bytes:
    """Encode an ``ExportTraceServiceResponse``. Its ``partial_success`` must not be set if there is nothing to say."""
    response = ExportTraceServiceResponse()
    if rejected_spans or error_message:
        response.partial_success.rejected_spans = rejected_spans
        response.partial_success.error_message = error_message
    return response.SerializeToString()


def encode_status(message: str) -> bytes:
    """Encode a ``google.rpc.Status``, without the code, which OTLP does not use."""
    content: bytes = Status(message=message).SerializeToString()
    return content


def _malformed(detail: str) -> MalformedError:
    return MalformedError("The body is not a protobuf message ExportTraceServiceRequest.", detail=detail)
