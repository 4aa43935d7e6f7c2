"""Errors of Notion's API: what an error response means, and whether the request may be retried.

Sources: https://developers.notion.com/reference/status-codes and https://developers.notion.com/reference/request-limits
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any, Literal

import msgspec

from kernel import retry_after_s

ErrorKind = Literal[
    "refused",  # cannot succeed until configuration, token or workspace are changed
    "not_found",  # deleted, or not shared with the connection
    "invalid",  # Notion does not accept the request
    "rate_limited",
    "unavailable",
    "timeout",
    "transport",  # the connection failed, or the response is not one of Notion's API
    "changed",  # the workspace changed while it was read
    "incomplete",  # not everything can be read, or a relation has no target
]
# No member of HTTPStatus: "service_overload".
_OVERLOADED = 529
_RATE_LIMITED = frozenset({HTTPStatus.TOO_MANY_REQUESTS, _OVERLOADED})
_RETRYABLE = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT})
_MESSAGE_CHARACTERS_MAX = 300
_KINDS: Mapping[str, ErrorKind] = {"object_not_found": "not_found", "validation_error": "invalid"}
_HINTS = {
    "unauthorized": "NOTION_TOKEN is wrong, or was revoked",
    "restricted_resource": "the connection lacks a capability: it has to read content, and user information for people",
    "object_not_found": "it does not exist, or is not shared with the connection",
}


class NotionError(Exception):
    """A request failed, or what it returned cannot be used.

    Args:
        kind: Category, for callers.
        reason: For people; holds no secret.
        retry: Whether the same request may succeed later.
        retry_after_s: When, if Notion says so.
    """

    def __init__(
        self, kind: ErrorKind, reason: str, *, retry: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.retry = retry
        self.retry_after_s = retry_after_s


class _ErrorBody(msgspec.Struct):
    """The body of an error response."""

    code: str
    message: str
    additional_data: Any = None


def classify_response(status: int, body: str, retry_after: str | None, now: datetime) -> NotionError:
    """Return the error for a response with an error status.

    Only a body in Notion's format decides the kind: a 404 from a proxy does not mean that a page is gone.

    Args:
        status: HTTP status.
        body: As received.
        retry_after: The header.
        now: UTC.
    """
    error = _decode_body(body)
    is_transient = status in _RATE_LIMITED | _RETRYABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    kind = _kind(status, error, is_transient=is_transient)
    return NotionError(
        kind, _describe(status, error), retry=is_transient, retry_after_s=retry_after_s(retry_after, now)
    )


def _decode_body(body: str) -> _ErrorBody | None:
    try:
        return msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.DecodeError, UnicodeError):
        return None


def _kind(status: int, error: _ErrorBody | None, *, is_transient: bool) -> ErrorKind:
    if status in _RATE_LIMITED:
        return "rate_limited"
    if is_transient:
        return "unavailable"
    return "refused" if error is None else _KINDS.get(error.code, "refused")


def _describe(status: int, error: _ErrorBody | None) -> str:
    if error is None:
        return f"answered {status}, with a body that is not Notion's"
    data = error.additional_data if isinstance(error.additional_data, dict) else {}
    details = (data.get("rate_limit_reason"), _HINTS.get(error.code))
    message = " ".join(error.message.split())[:_MESSAGE_CHARACTERS_MAX]
    return "; ".join([f"answered {status} {error.code:.60}: {message}", *(str(each) for each in details if each)])
