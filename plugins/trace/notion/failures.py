"""What Notion, or somebody between, answers instead of what was asked for: named, and with what to do about it.

Sources: https://developers.notion.com/reference/status-codes and https://developers.notion.com/reference/request-limits
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any

import msgspec

from kernel import retry_after_s
from plugins.trace.notion.errors import Kind, NotionError

# The standard has no name for it.
_OVERLOADED = 529
_LIMITED = frozenset({HTTPStatus.TOO_MANY_REQUESTS, _OVERLOADED})
_WORTH_A_RETRY = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT})
_MESSAGE_CHARACTERS_MAX = 300
_KINDS: Mapping[str, Kind] = {"object_not_found": "missing", "validation_error": "invalid"}
_HINTS = {
    "unauthorized": "NOTION_TOKEN is wrong, or was revoked",
    "restricted_resource": "the connection lacks a capability: it has to read content, and user information for people",
    "object_not_found": "it is not there, or not shared with the connection",
}


class _Body(msgspec.Struct):
    """What Notion says of an error."""

    code: str
    message: str
    additional_data: Any = None


def read_failure(status: int, body: str, retry_after: str | None, now: datetime) -> NotionError:
    """Name a failure.

    Only what Notion itself says counts as its word: a 404 of a proxy does not mean that a page is gone.

    Args:
        status: HTTP status.
        body: As it came.
        retry_after: The header.
        now: UTC.
    """
    said = _read_body(body)
    wait_s = retry_after_s(retry_after, now)
    return NotionError(_kind(status, said), _words(status, said), retry=_is_transient(status), retry_after_s=wait_s)


def _read_body(body: str) -> _Body | None:
    try:
        return msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeError):
        return None


def _is_transient(status: int) -> bool:
    return status in _LIMITED or status in _WORTH_A_RETRY or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _kind(status: int, said: _Body | None) -> Kind:
    if status in _LIMITED:
        return "limited"
    if _is_transient(status):
        return "unavailable"
    return "refused" if said is None else _KINDS.get(said.code, "refused")


def _words(status: int, said: _Body | None) -> str:
    if said is None:
        return f"answered {status}, and not in Notion's words"
    data = said.additional_data if isinstance(said.additional_data, dict) else {}
    given = (data.get("rate_limit_reason"), _HINTS.get(said.code))
    message = " ".join(said.message.split())[:_MESSAGE_CHARACTERS_MAX]
    return "; ".join([f"answered {status} {said.code:.60}: {message}", *(str(each) for each in given if each)])
