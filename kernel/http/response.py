"""What handlers return: a value, or a Response where the status or headers differ from 200 and none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, Generic, TypeVar

import falcon
import msgspec

T = TypeVar("T")


def _encode(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be encoded as JSON")


class Response(msgspec.Struct, Generic[T], frozen=True):
    """An answer with a status or headers of its own.

    Args:
        body: Encoded as JSON; None with status 204 sends nothing.
        status: HTTP status.
        headers: Further response headers.
    """

    body: T
    status: int = 200
    headers: Mapping[str, str] = {}


class StreamingResponse(msgspec.Struct, frozen=True):
    """A body that leaves piece by piece, each as soon as it is there: return it in a ``Response``, or as it is.

    It holds a thread of the server for as long as it lasts.

    Args:
        chunks: The pieces. Its ``close()``, if it has one, is called in the end, also when the client has gone.
        media_type: For the header ``Content-Type``.
    """

    chunks: Iterable[bytes]
    media_type: str


class PreparedResponse(msgspec.Struct, frozen=True):
    """An answer that is ready to leave: kept from an earlier one, coded as the client wants it.

    Args:
        status: The whole line, such as ``200 OK``.
        headers: By name in small letters. It becomes the response's own.
        content: The bytes, JSON unless a header says otherwise; None sends nothing.
    """

    status: str
    headers: dict[str, str]
    content: bytes | None


class FalconResponse(falcon.Response):
    """A Falcon response that can be given as a whole."""

    # Whether nothing is to be done to it any more, such as compressing it.
    is_prepared = False

    def prepare(self, prepared: PreparedResponse) -> None:
        """Take status, headers and body at once, unchecked: what ``set_header`` does to each was done before."""
        self.status = prepared.status
        self._headers.update(prepared.headers)
        self.data = prepared.content
        self.is_prepared = True

    def close_stream(self) -> None:
        """Close a stream that will not be sent: Falcon answers HEAD without looking at it."""
        close = getattr(self.stream, "close", None)
        if close is not None:
            close()


_JSON = msgspec.json.Encoder(enc_hook=_encode)


def write(response: FalconResponse, value: object) -> None:
    """Write what a handler returned into a response."""
    if isinstance(value, PreparedResponse):
        response.prepare(value)
        return
    if isinstance(value, Response):
        response.status = falcon.code_to_http_status(value.status)
        for name, text in value.headers.items():
            response.set_header(name, text)
        value = value.body
        if value is None:
            return
    if isinstance(value, StreamingResponse):
        response.content_type = value.media_type
        response.stream = value.chunks
        return
    response.data = _JSON.encode(value)
