"""Content codings, both ways: streams decoded within a limit, bytes encoded for speed (RFC 9110, 8.4)."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from kernel.errors import MalformedError, TooLargeError, UnsupportedMediaError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# The most that one step of a decoder may give: a few bytes can stand for gigabytes.
CHUNK_BYTES = 256 * 1024
# Beyond 1, both spend more time than a local network saves.
_GZIP_LEVEL = 1
_ZSTD_LEVEL = 1
_GZIP_WBITS = 16 + zlib.MAX_WBITS
# 8 MiB, the window that RFC 9659 allows: what a decoder holds is for the sender to choose, up to this.
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}


class _Decoder(Protocol):
    """One member of gzip, or one frame of zstd."""

    @property
    def eof(self) -> bool:
        """Whether it is complete."""

    @property
    def unused_data(self) -> bytes:
        """What was given to it beyond its end."""

    @property
    def needs_input(self) -> bool:
        """Whether it has given all it can."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take bytes and give at most that many."""


class _GzipDecoder:
    """zlib, in the shape in which the standard library has its later decoders."""

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
        # A full step may have left more inside, also where it took all bytes.
        self.needs_input = not self._decoder.unconsumed_tail and len(decoded) < max_length
        return decoded


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gzip": _GzipDecoder,
    "zstd": lambda: zstd.ZstdDecompressor(options=_ZSTD_OPTIONS),
}
_ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda content: zstd.compress(content, _ZSTD_LEVEL),
    "gzip": lambda content: zlib.compress(content, _GZIP_LEVEL, _GZIP_WBITS),
}
# The first is taken where a client likes them equally.
CODINGS = tuple(_ENCODERS)
_ALIASES = {"x-gzip": "gzip"}


def canonical(coding: str) -> str:
    """Return the one name of a content coding."""
    name = coding.strip().lower()
    return _ALIASES.get(name, name)


def coding_of(header: str) -> str | None:
    """Return the coding a ``Content-Encoding`` names; None for none.

    Raises:
        UnsupportedMediaError: It is not known here, or there are several.
    """
    codings = [name for name in map(canonical, header.split(",")) if name not in {"", "identity"}]
    if not codings:
        return None
    if len(codings) == 1 and codings[0] in CODINGS:
        return codings[0]
    raise UnsupportedMediaError(
        "The body is encoded in a way that is not understood here.",
        detail=f"expected one Content-Encoding of {', '.join(CODINGS)}; got {header!r:.80}",
        headers={"Accept-Encoding": ", ".join(CODINGS)},
    )


def encode(content: bytes, coding: str) -> bytes:
    """Encode bytes with one of ``CODINGS``."""
    return _ENCODERS[coding](content)


def decoded(chunks: Iterable[bytes], coding: str, limit_bytes: int) -> Iterator[bytes]:
    """Decode a stream as it comes; members of gzip and frames of zstd may follow one another.

    Args:
        chunks: As they were sent.
        coding: One of ``CODINGS``.
        limit_bytes: The most that may come out.

    Raises:
        TooLargeError: More comes out. No more than the limit and a chunk was decoded.
        MalformedError: The stream is corrupt, or ends early.
    """
    total_bytes = 0
    decoder: _Decoder | None = _DECODERS[coding]()
    for chunk in chunks:
        rest = chunk
        while rest:
            decoder = decoder or _DECODERS[coding]()
            for piece in _steps(decoder, rest, coding):
                total_bytes += len(piece)
                if total_bytes > limit_bytes:
                    raise TooLargeError(detail=f"the body decodes to more than {limit_bytes} bytes")
                yield piece
            rest = decoder.unused_data
            if decoder.eof:
                decoder = None
    if decoder is not None:
        raise MalformedError("The body ended early.", detail=f"its {coding} stream is not complete")


def _steps(decoder: _Decoder, content: bytes, coding: str) -> Iterator[bytes]:
    try:
        piece = decoder.decompress(content, CHUNK_BYTES)
        while piece or not (decoder.eof or decoder.needs_input):
            if piece:
                yield piece
            if decoder.eof or decoder.needs_input:
                return
            piece = decoder.decompress(b"", CHUNK_BYTES)
    except (zlib.error, zstd.ZstdError) as ex:
        raise MalformedError(f"The body is no valid {coding}.", detail=str(ex)) from ex
