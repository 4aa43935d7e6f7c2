"""What the server answers itself: requests that gunicorn cannot parse, and exceptions that leave the application.

They have the same body as every other error (``kernel.http.errors``). It is never ``application/problem+json``, because
the headers that would ask for it may be what is wrong.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec
from gunicorn.http import errors as gunicorn_errors
from gunicorn.util import http_date

from kernel.errors import (
    ApiError,
    ForbiddenError,
    InternalError,
    MalformedError,
    NotSupportedError,
    OtherClientError,
    VersionNotSupportedError,
)
from kernel.http.errors import body
from kernel.http.request import RequestContext

_DETAIL_MAX = 200
_REFERRED_TO = re.compile(
    rb"^(Origin|X-Request-ID|traceparent):[ \t]*([\x21-\x7e]+)[ \t]*\r$", re.IGNORECASE | re.MULTILINE
)
_OTHER_STATUSES: tuple[tuple[type[BaseException], int, str], ...] = (
    (gunicorn_errors.LimitRequestLine, 414, "The request line is too long."),
    (gunicorn_errors.ExpectationFailed, 417, "The server cannot do what is expected."),
    (gunicorn_errors.LimitRequestHeaders, 431, "The headers are too many or too long."),
)
# How gunicorn's C parser reports a transfer coding that it does not know, as one of many malformed headers.
_UNSUPPORTED_CODING = "Unsupported Transfer-Encoding"
# Every other exception of the parser is a 400. Subclasses stand before their bases.
_MESSAGES: tuple[tuple[type[BaseException], str], ...] = (
    (gunicorn_errors.InvalidRequestLine, "The request line is malformed."),
    (gunicorn_errors.InvalidRequestMethod, "The method is malformed."),
    (gunicorn_errors.ObsoleteFolding, "A header is folded over several lines."),
    (gunicorn_errors.InvalidHeaderName, "A header has an invalid name."),
    (gunicorn_errors.InvalidHeader, "A header is malformed."),
    (gunicorn_errors.InvalidSchemeHeaders, "The headers that name the scheme contradict each other."),
    (gunicorn_errors.ParseException, "The request could not be understood."),
)
# What the application did wrong: an invalid header of a response, for one.
_OWN_FAULTS = ("InvalidResponseHeader", "InvalidResponseHeaderName", "ConfigurationProblem")


def as_api_error(error: BaseException) -> ApiError:
    """Return the error that a client is answered with.

    Args:
        error: Raised by gunicorn's parser, or by the application.
    """
    if isinstance(error, ApiError):
        return error
    if type(error).__name__ in _OWN_FAULTS:
        return InternalError()
    detail = f"{error!s:.{_DETAIL_MAX}}"
    for kind, status, message in _OTHER_STATUSES:
        if isinstance(error, kind):
            return OtherClientError(status, message, detail=detail)
    if isinstance(error, gunicorn_errors.InvalidHTTPVersion):
        return VersionNotSupportedError(detail=detail)
    if isinstance(error, gunicorn_errors.UnsupportedTransferCoding) or _UNSUPPORTED_CODING in detail:
        return NotSupportedError("The transfer coding is not supported.", detail=detail)
    if isinstance(error, gunicorn_errors.ForbiddenProxyRequest | ssl.SSLError):
        return ForbiddenError(detail=detail)
    for kind, message in _MESSAGES:
        if isinstance(error, kind):
            return MalformedError(message, detail=detail)
    return InternalError()


def read_headers(head: bytes) -> Sequence[tuple[str, str]]:
    """Return the headers that an error refers to, of a request that cannot be parsed: it may only be too long.

    Args:
        head: As far as it arrived.
    """
    return [(name.decode().upper(), value.decode()) for name, value in _REFERRED_TO.findall(head)]


def encode_error_response(
    error: ApiError, context: RequestContext, headers: Mapping[str, str], *, has_body: bool = True
) -> tuple[bytes, int]:
    """Return a whole response, and the length of its body in bytes. The connection is closed after it.

    Args:
        error: What the client is told.
        context: The identifiers of the request.
        headers: Further headers, which every response has.
        has_body: False for the response to a HEAD.
    """
    content = msgspec.json.encode(body(error, context.request_id))
    lines = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
        f"Date: {http_date()}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        f"X-Request-ID: {context.request_id}",
        f"traceparent: {context.traceparent}",
        *(f"{name}: {value}" for name, value in {**headers, **error.headers}.items()),
    )
    head = "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n"
    return (head + content, len(content)) if has_body else (head, 0)
