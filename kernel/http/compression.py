"""Content codings in both directions: compress responses as clients accept it, decompress streams within a limit.

Source: https://www.rfc-editor.org/rfc/rfc9110#section-8.4 (codings) and #section-12.5.3 (``Accept-Encoding``).
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from kernel.errors import TiercelError
from kernel.tracking import measure

if TYPE_CHECKING:
    from kernel.http.request import Request
    from kernel.http.response import FalconResponse

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Below this, headers cost more than the body saves.
MIN_BYTES = 1024
# The most that one step of a decoder may give: a few bytes can decompress to gigabytes.
STEP_BYTES = 256 * 1024
# What a decoder gets first of a member that does not begin its chunk.
_MEMBER_START_BYTES = 1024
_NOT_ZERO = re.compile(rb"[^\0]")
# Higher levels spend more time than a local network saves.
_GZIP_LEVEL = 1
_ZSTD_LEVEL = 1
_GZIP_WBITS = 16 + zlib.MAX_WBITS
# 8 MiB, the largest window that RFC 9659 allows: the sender decides how much memory a decoder takes, up to this.
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
_ALIASES = {"x-gzip": "gzip"}


def _canonical_name(coding: str) -> str:
    name = coding.strip().lower()
    return _ALIASES.get(name, name)


# --- decompression ----------------------------------------------------------------------------------------------------


class DecompressionError(TiercelError):
    """A stream cannot be decompressed.

    Args:
        message: For people.
        reason: The stream is corrupt or has another coding; it is truncated; its output is too large; or it has too
            many members.
    """

    def __init__(self, message: str, reason: Literal["corrupt", "truncated", "too_large", "too_many_members"]) -> None:
        super().__init__(message)
        self.reason = reason


class Decompressor:
    """Decompresses a stream that arrives in chunks; members of gzip and frames of zstd may follow one another.

    Args:
        coding: ``gzip`` or ``zstd``.
        limit_bytes: The most that may come out; None for any amount.
        allow_padding: Whether zeros may follow a member, as in files that are padded to whole blocks.
        members_max: The most members or frames; None for any number.
    """

    def __init__(
        self,
        coding: str,
        limit_bytes: int | None = None,
        *,
        allow_padding: bool = False,
        members_max: int | None = None,
    ) -> None:
        self._coding = coding
        self._limit_bytes = limit_bytes
        self._allow_padding = allow_padding
        self._members_max = members_max
        self._total_bytes = 0
        self._members = 1
        # None between members.
        self._decoder: _Decoder | None = _DECODERS[coding]()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Decompress a chunk in steps of at most 256 KiB. Iterate to the end before the next chunk.

        Raises:
            DecompressionError: The stream is corrupt, has too many members, or more than the limit comes out.
        """
        position, is_new = 0, False
        while position < len(chunk):
            if self._decoder is None:
                if self._allow_padding and (position := _skip_zeros(chunk, position)) == len(chunk):
                    return
                self._decoder = self._next_decoder()
                is_new = True
            # A decoder copies what lies beyond its member: of a chunk full of small members, it gets only a bit.
            given = chunk[position : position + _MEMBER_START_BYTES] if is_new else chunk[position:]
            is_new = False
            for piece in self._steps(self._decoder, given):
                self._total_bytes += len(piece)
                if self._limit_bytes is not None and self._total_bytes > self._limit_bytes:
                    message = f"the {self._coding} stream decompresses to more than {self._limit_bytes} bytes"
                    raise DecompressionError(message, "too_large")
                yield piece
            position += len(given) - len(self._decoder.unused_data)
            if self._decoder.eof:
                self._decoder = None

    def finish(self) -> None:
        """Check, after the last chunk, that the stream is complete.

        Raises:
            DecompressionError: It ends early.
        """
        if self._decoder is not None:
            raise DecompressionError(f"the {self._coding} stream is cut off", "truncated")

    def _next_decoder(self) -> _Decoder:
        self._members += 1
        if self._members_max is not None and self._members > self._members_max:
            message = f"the {self._coding} stream has more than {self._members_max} members or frames"
            raise DecompressionError(message, "too_many_members")
        return _DECODERS[self._coding]()

    def _steps(self, decoder: _Decoder, content: bytes) -> Iterator[bytes]:
        try:
            piece = decoder.decompress(content, STEP_BYTES)
            while piece or not (decoder.eof or decoder.needs_input):
                if piece:
                    yield piece
                if decoder.eof or decoder.needs_input:
                    return
                piece = decoder.decompress(b"", STEP_BYTES)
        except (zlib.error, zstd.ZstdError) as ex:
            raise DecompressionError(str(ex), "corrupt") from ex


def _skip_zeros(chunk: bytes, position: int) -> int:
    found = _NOT_ZERO.search(chunk, position)
    return len(chunk) if found is None else found.start()


def decompress(
    chunks: Iterable[bytes],
    coding: str,
    limit_bytes: int | None = None,
    *,
    allow_padding: bool = False,
    members_max: int | None = None,
) -> Iterator[bytes]:
    """Decompress a stream as it arrives. Arguments as of ``Decompressor``.

    Raises:
        DecompressionError: The stream is corrupt, ends early, has too many members, or more than the limit comes out.
    """
    decompressor = Decompressor(coding, limit_bytes, allow_padding=allow_padding, members_max=members_max)
    for chunk in chunks:
        yield from decompressor.feed(chunk)
    decompressor.finish()


def parse_content_encoding(header: str) -> str | None:
    """Return the coding that a ``Content-Encoding`` names; None if the content is not encoded.

    Raises:
        ValueError: It is unknown, or there are several.
    """
    codings = [name for name in map(_canonical_name, header.split(",")) if name not in {"", "identity"}]
    if not codings:
        return None
    if len(codings) == 1 and codings[0] in CODINGS:
        return codings[0]
    raise ValueError(f"unknown content coding: {header!r:.80}")


class _Decoder(Protocol):
    """Decodes one member of gzip, or one frame of zstd, as the decoders of the standard library do."""

    @property
    def eof(self) -> bool:
        """Whether the member is complete."""

    @property
    def unused_data(self) -> bytes:
        """Input beyond the end of the member."""

    @property
    def needs_input(self) -> bool:
        """Whether there is no more output without more input."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take input and return at most so many bytes."""


class _GzipDecoder:
    """zlib's decoder with the interface of the other decoders."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(_GZIP_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        decoded = self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)
        # zlib may have taken all input and still hold output, if that filled the step.
        self.needs_input = not self._decoder.unconsumed_tail and len(decoded) < max_length
        return decoded


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gzip": _GzipDecoder,
    "zstd": lambda: zstd.ZstdDecompressor(options=_ZSTD_OPTIONS),
}


# --- compression ------------------------------------------------------------------------------------------------------

_ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda content: zstd.compress(content, _ZSTD_LEVEL),
    "gzip": lambda content: zlib.compress(content, _GZIP_LEVEL, _GZIP_WBITS),
}
# In order of our preference, for clients that like several equally.
CODINGS = tuple(_ENCODERS)
_COMPRESSED_ALREADY = re.compile(
    r"(?:image/(?!svg)|video/|audio/|font/|text/event-stream|application/(?:zip|gzip|zstd|octet-stream))"
)
# The weight of identity where a client does not name it: acceptable, but less than anything that is named.
_UNNAMED_WEIGHT = 0.0001
_WEIGHT = re.compile(r"[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*", re.IGNORECASE)


def compress(content: bytes, coding: str) -> bytes:
    """Compress bytes, for speed, with one of ``CODINGS``."""
    return _ENCODERS[coding](content)


class AcceptedCoding(msgspec.Struct, frozen=True):
    """The content coding that a client prefers.

    Args:
        coding: One of ``CODINGS``; None if the client prefers identity, which is the plain body.
        identity: Whether it accepts identity at all.
    """

    coding: str | None
    identity: bool

    def choose(self, size_bytes: int) -> str | None:
        """Return the coding for a body of that size; None for identity."""
        return None if self.identity and size_bytes <= MIN_BYTES else self.coding


def accepted_coding(request: Request, codings: tuple[str, ...] = CODINGS) -> AcceptedCoding:
    """Return the content coding that a client prefers, of those that there are."""
    return parse_accept_encoding(request.env.get("HTTP_ACCEPT_ENCODING", ""), codings)


@lru_cache(maxsize=256)
def parse_accept_encoding(header: str, codings: tuple[str, ...] = CODINGS) -> AcceptedCoding:
    """Parse an ``Accept-Encoding``. Malformed members are ignored.

    Args:
        header: Its value.
        codings: Those to choose from, in order of our preference.
    """
    weights: dict[str, float] = {}
    for member in header.split(","):
        name, separator, parameter = member.partition(";")
        weight = _WEIGHT.fullmatch(parameter)
        if weight is not None or not separator:
            weights[_canonical_name(name)] = 1.0 if weight is None else float(weight[1])
    others = weights.get("*", 0.0)
    coding = max(codings, key=lambda name: weights.get(name, others))
    identity = weights.get("identity", weights.get("*", _UNNAMED_WEIGHT))
    weight_of_coding = weights.get(coding, others)
    return AcceptedCoding(coding if weight_of_coding > 0 and weight_of_coding >= identity else None, identity > 0)


class CompressionMiddleware:
    """Falcon middleware that compresses responses, of errors too. Streams and prepared responses are left alone."""

    def process_response(
        self,
        request: Request,
        response: FalconResponse,
        _resource: object,
        _succeeded: bool,  # noqa: FBT001 - Falcon calls it
    ) -> None:
        """Compress the body of a response if the client accepts it and that makes it smaller."""
        if response.is_prepared:
            return
        content = response.render_body()
        accept: str = request.env.get("HTTP_ACCEPT_ENCODING", "")
        # Only a client that excludes identity (``q=0``) has small bodies compressed.
        if not content or (len(content) <= MIN_BYTES and "=0" not in accept):
            return
        if not _is_compressible(response):
            return
        response.append_header("Vary", "Accept-Encoding")
        if accept:
            _compress_response(response, content, parse_accept_encoding(accept))


def _is_compressible(response: FalconResponse) -> bool:
    # Content-Range counts the bytes of the plain body.
    if response.get_header("Content-Encoding") is not None or response.get_header("Content-Range") is not None:
        return False
    if response.status_code in {204, 304}:
        return False
    return _COMPRESSED_ALREADY.match((response.content_type or "").lower()) is None


def _compress_response(response: FalconResponse, content: bytes, accepted: AcceptedCoding) -> None:
    coding = accepted.choose(len(content))
    if coding is None:
        return
    with measure("compression"):
        encoded = compress(content, coding)
    if accepted.identity and len(encoded) >= len(content):
        return
    response.text = response.media = None
    response.data = encoded
    response.set_header("Content-Encoding", coding)
    etag = response.get_header("ETag")
    if etag is not None and not etag.startswith("W/"):
        # A strong validator identifies the exact bytes, and compression changed them.
        response.set_header("ETag", f"W/{etag}")
