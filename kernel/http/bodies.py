"""Read the body of a request: whole or as a stream, within limits, whatever its ``Content-Encoding``."""

from __future__ import annotations

import io
from collections.abc import Iterator

import msgspec

from kernel.errors import MalformedError, OtherClientError, TooLargeError, UnsupportedMediaError
from kernel.http.encodings import coding_of, decoded
from kernel.http.request import Request

CHUNK_BYTES = 64 * 1024


class BodyLimits(msgspec.Struct, frozen=True):
    """How large a body may be.

    Args:
        sent_bytes: As it arrives.
        decoded_bytes: What an encoded one may decode to.
    """

    sent_bytes: int
    decoded_bytes: int


class RawBody(msgspec.Struct, frozen=True):
    """A body that the handler decodes itself.

    Args:
        content: The bytes, decoded from their ``Content-Encoding``, at most ``http.max_body_bytes`` as sent.
        media_type: Without parameters, in small letters.
    """

    content: bytes
    media_type: str


class StreamBody:
    """A body that the handler reads as it arrives, once: with ``read``, ``chunks`` or ``lines``.

    All three raise ``MalformedError`` where the body breaks off or is corrupt, ``OtherClientError`` (408) where the
    client stops sending, and ``TooLargeError`` beyond a limit.

    Args:
        request: Whose body it is.
        limits: How large it may be.
    """

    def __init__(self, request: Request, limits: BodyLimits) -> None:
        self._request = request
        self._limits = limits
        self.media_type = media_type(request)

    def read(self) -> bytes:
        """Read the whole body."""
        return read_body(self._request, self._limits)

    def chunks(self) -> Iterator[bytes]:
        """Read it piece by piece, decoded from its ``Content-Encoding``."""
        return body_chunks(self._request, self._limits)

    def lines(self, max_line_bytes: int) -> Iterator[bytes]:
        """Read it line by line, without the ends of the lines.

        Args:
            max_line_bytes: The longest line; more is never held.

        Raises:
            TooLargeError: A line is longer.
        """
        parts: list[bytes] = []
        held_bytes = 0
        for chunk in self.chunks():
            *ended, rest = chunk.split(b"\n")
            if ended:
                ended[0] = b"".join((*parts, ended[0]))
                for line in ended:
                    if len(line) > max_line_bytes:
                        raise _line_too_long(max_line_bytes)
                    yield line
                parts, held_bytes = [], 0
            if rest:
                parts.append(rest)
                held_bytes += len(rest)
            if held_bytes > max_line_bytes:
                raise _line_too_long(max_line_bytes)
        if parts:
            yield b"".join(parts)


def _line_too_long(max_line_bytes: int) -> TooLargeError:
    return TooLargeError("A line is too long.", detail=f"it has more than {max_line_bytes} bytes")


def media_type(request: Request) -> str:
    """Return the media type of the body without parameters, in small letters; empty if the client named none."""
    return (request.content_type or "").partition(";")[0].strip().lower()


def require_json(request: Request) -> None:
    """Refuse bodies that say they are something else.

    A page of another site can post forms and plain text without asking first; JSON it cannot.

    Raises:
        UnsupportedMediaError: The media type is not JSON.
    """
    kind = media_type(request)
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaError(detail=f"expected application/json, got {kind or 'no Content-Type'}")


def read_body(request: Request, limits: BodyLimits) -> bytes:
    """Read the whole body, decoded from its ``Content-Encoding``.

    Raises:
        UnsupportedMediaError: The coding is not known here; nothing is read.
        TooLargeError: It is larger than a limit; nothing more than the limit is read.
        MalformedError: It ended before ``Content-Length``, its chunks are wrong, or what is encoded is corrupt.
        OtherClientError: The client stopped sending (408).
    """
    coding = _coding(request)
    expected_bytes = _expected(request, limits)
    if coding is None and expected_bytes is not None:
        content = _read(request, expected_bytes)
        _refuse_short(len(content), expected_bytes)
        return content
    # Gives its bytes away without a copy of them.
    buffer = io.BytesIO()
    for chunk in body_chunks(request, limits):
        buffer.write(chunk)
    return buffer.getvalue()


def body_chunks(request: Request, limits: BodyLimits) -> Iterator[bytes]:
    """Read the body as it arrives. Raises as ``read_body``, also after the first chunks."""
    coding = _coding(request)
    sent = _chunks_as_sent(request, limits)
    return sent if coding is None else decoded(sent, coding, limits.decoded_bytes)


def _chunks_as_sent(request: Request, limits: BodyLimits) -> Iterator[bytes]:
    expected_bytes = _expected(request, limits)
    limit_bytes = limits.sent_bytes if expected_bytes is None else expected_bytes
    arrived_bytes = 0
    # One byte more than the limit tells that there is more, where no length did.
    beyond_bytes = 1 if expected_bytes is None else 0
    while chunk := _read(request, min(CHUNK_BYTES, limit_bytes + beyond_bytes - arrived_bytes)):
        arrived_bytes += len(chunk)
        if arrived_bytes > limit_bytes:
            raise TooLargeError(detail=f"the body has more than {limit_bytes} bytes")
        yield chunk
    if expected_bytes is not None:
        _refuse_short(arrived_bytes, expected_bytes)


def _coding(request: Request) -> str | None:
    header = request.get_header("Content-Encoding")
    return None if header is None else coding_of(header)


def _expected(request: Request, limits: BodyLimits) -> int | None:
    """Return the length of the body in bytes as sent; None if only its end will tell."""
    expected_bytes: int | None = request.content_length
    if expected_bytes is None:
        chunked = "chunked" in request.get_header("Transfer-Encoding", default="").lower()
        return None if chunked else 0
    if expected_bytes > limits.sent_bytes:
        raise TooLargeError(detail=f"the body has {expected_bytes} bytes; the limit is {limits.sent_bytes}")
    return expected_bytes


def _read(request: Request, size_bytes: int) -> bytes:
    if size_bytes == 0:
        return b""
    # Without a length the server below us ends the stream where the last chunk does.
    stream = request.bounded_stream if request.content_length is not None else request.stream
    try:
        content: bytes = stream.read(size_bytes)
    except BlockingIOError as ex:
        raise OtherClientError(408, "The body did not arrive in time.") from ex
    except Exception as ex:
        # The server below has classes of its own for every way in which a client can get this wrong.
        raise MalformedError("The body cannot be read.", detail=str(ex)) from ex
    return content


def _refuse_short(arrived_bytes: int, expected_bytes: int) -> None:
    if arrived_bytes < expected_bytes:
        raise MalformedError("The body ended early.", detail=f"{arrived_bytes} of {expected_bytes} bytes arrived")
