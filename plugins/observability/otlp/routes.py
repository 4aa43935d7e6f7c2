"""``POST /v1/traces``: OTLP/HTTP, as OpenTelemetry's exporters and collectors send it.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp. Answers have the encoding of the request, errors included:
``google.rpc.Status`` in place of the body that other routes have. Exporters retry 429 and 503, and no other status that
this service answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import falcon
import msgspec

from kernel import ApiError, Identity, Request, StreamBody, route
from kernel.http import ErrorBody, Example, PreparedResponse, media_type, require_json
from plugins.observability.access import Access
from plugins.observability.models import IngestResult, ItemError
from plugins.observability.otlp.decode import ExportTraceServiceRequest
from plugins.observability.otlp.service import SpanIngest

JSON, PROTOBUF = "application/json", "application/x-protobuf"
# Of rejected spans, in the message to their sender.
_ERRORS_SHOWN = 5
_MESSAGE_MAX = 1000


class ExportTracePartialSuccess(msgspec.Struct, frozen=True, rename="camel"):
    """What of a request was not stored.

    Args:
        rejected_spans: How many spans; an integer of 64 bits, which JSON has as a text.
        error_message: Why the first of them were rejected.
    """

    rejected_spans: str
    error_message: str


class ExportTraceServiceResponse(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The response to a request that was stored, as a whole or in part.

    Args:
        partial_success: Left out if no span was rejected. Spans that no HTTP server made are ignored, not rejected.
    """

    partial_success: ExportTracePartialSuccess | None = None


class RpcStatus(msgspec.Struct, frozen=True):
    """The body of an error, ``google.rpc.Status``, without the code, which OTLP does not use."""

    message: str


def encode_error(error: ApiError, sent_media_type: str) -> tuple[str, bytes]:
    """Encode an error, in the encoding that the client sent; see ``ErrorBody``."""
    message = f"{error.message} ({error.detail})" if error.detail else error.message
    if sent_media_type != PROTOBUF:
        return JSON, msgspec.json.encode(RpcStatus(message))
    from plugins.observability.otlp.decode_protobuf import encode_status

    return PROTOBUF, encode_status(message)


# Of the same service as other examples, which that of DELETE removes.
EXAMPLE = Example(
    summary="One request that a service answered",
    body={
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "tiercel-example"}}]},
                "scopeSpans": [
                    {
                        "spans": [
                            {
                                "traceId": "5b8efff798038103d269b633813fc60c",
                                "spanId": "eee19b7ec3c1b174",
                                "kind": 2,
                                "startTimeUnixNano": "1767268800000000000",
                                "endTimeUnixNano": "1767268800042000000",
                                "attributes": [
                                    {"key": "http.request.method", "value": {"stringValue": "GET"}},
                                    {"key": "http.route", "value": {"stringValue": "/orders/{id}"}},
                                    {"key": "http.response.status_code", "value": {"intValue": "200"}},
                                ],
                            }
                        ]
                    }
                ],
            }
        ]
    },
)


class TraceServiceRoutes:
    """The handler of OTLP/HTTP.

    Args:
        spans: Stores the spans.
    """

    def __init__(self, spans: SpanIngest) -> None:
        self._spans = spans

    @route(
        "/v1/traces/",
        method="POST",
        policy="ingest",
        responses={200: {JSON: ExportTraceServiceResponse, PROTOBUF: bytes}},
        accepts={JSON: ExportTraceServiceRequest, PROTOBUF: bytes},
        examples=(EXAMPLE,),
        error_body=ErrorBody(encode=encode_error, types={JSON: RpcStatus, PROTOBUF: bytes}),
    )
    def export(
        self, request: Request, body: StreamBody, identity: Identity
    ) -> ExportTraceServiceResponse | PreparedResponse:
        """Store the server spans of an OpenTelemetry `ExportTraceServiceRequest` as request logs.

        The body is `application/x-protobuf` or `application/json`, and may be compressed. Spans that no HTTP server
        made are ignored. A span that is sent again is stored once.

        Raises:
            MalformedError: The body is no such request.
            UnsupportedMediaError: It has another media type.
        """
        is_protobuf = media_type(request) == PROTOBUF
        if not is_protobuf:
            require_json(request, or_else=PROTOBUF)
        content = body.read(self._spans.max_bytes)
        result = self._spans.ingest_spans(content, is_protobuf=is_protobuf, access=Access.of(identity))
        return _protobuf_response(result) if is_protobuf else _json_response(result)


def _json_response(result: IngestResult) -> ExportTraceServiceResponse:
    if not result.rejected:
        return ExportTraceServiceResponse()
    return ExportTraceServiceResponse(ExportTracePartialSuccess(str(result.rejected), _describe(result.errors)))


def _protobuf_response(result: IngestResult) -> PreparedResponse:
    from plugins.observability.otlp.decode_protobuf import encode_response

    message = _describe(result.errors) if result.rejected else ""
    return PreparedResponse(falcon.HTTP_200, {"content-type": PROTOBUF}, encode_response(result.rejected, message))


def _describe(errors: Sequence[ItemError]) -> str:
    """Return what is wrong with the first spans: ``span 3: status_code: This field is required.``"""
    described = [
        f"span {error.index}: {name}: {message}"
        for error in errors[:_ERRORS_SHOWN]
        for name, messages in error.errors.items()
        for message in messages
    ]
    return ("; ".join(described) or "Some spans are invalid.")[:_MESSAGE_MAX]
