"""What handlers return: a value, or a Reply where the status or headers differ from 200 and none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Generic, TypeVar

import falcon
import msgspec

T = TypeVar("T")


def _encode(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be encoded as JSON")


class Reply(msgspec.Struct, Generic[T], frozen=True):
    """An answer with a status or headers of its own.

    Args:
        body: Encoded as JSON; None with status 204 sends nothing.
        status: HTTP status.
        headers: Further response headers.
    """

    body: T
    status: int = 200
    headers: Mapping[str, str] = {}


class Encoded(msgspec.Struct, frozen=True):
    """A body that is encoded already, as JSON: kept from an earlier answer.

    Args:
        content: The bytes.
    """

    content: bytes


_JSON = msgspec.json.Encoder(enc_hook=_encode)


def write(response: falcon.Response, value: object) -> None:
    """Write what a handler returned into a response."""
    if isinstance(value, Reply):
        response.status = falcon.code_to_http_status(value.status)
        for name, text in value.headers.items():
            response.set_header(name, text)
        value = value.body
        if value is None:
            return
    if isinstance(value, Encoded):
        response.data = value.content
        return
    response.data = _JSON.encode(value)
