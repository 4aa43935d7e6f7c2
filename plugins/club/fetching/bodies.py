"""Read what a server sends, and no more than is wanted."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator

import httpx

from plugins.club.fetching.outcome import FetchError

ACCEPTED_ENCODING = "gzip"

_GZIP_WBITS = 16 + zlib.MAX_WBITS
# A few bytes can stand for gigabytes: the most one step may give.
_STEP_BYTES = 256 * 1024


async def read_body(response: httpx.Response, max_bytes: int) -> bytes:
    """Read and decompress a body.

    Args:
        response: An open stream.
        max_bytes: The most that may come out.

    Raises:
        FetchError: It is larger, cut off, or encoded in a way that was not asked for.
    """
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in {"identity", "", "gzip", "x-gzip"}:
        raise FetchError("content", f"the answer is encoded as {coding!r:.40}, which was not asked for")
    gzip = _Gunzip() if coding.endswith("gzip") else None
    body = bytearray()
    async for piece in _pieces(response.aiter_raw(), gzip):
        body += piece
        if len(body) > max_bytes:
            raise FetchError("too-large", f"the answer is larger than {max_bytes:,} bytes")
    if gzip is not None and not gzip.complete:
        raise FetchError("cut", "the answer was cut off", retry=True)
    return bytes(body)


async def _pieces(chunks: AsyncIterator[bytes], gzip: _Gunzip | None) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if gzip is None:
            yield chunk
        else:
            for piece in gzip.decoded(chunk):
                yield piece


class _Gunzip:
    """Decodes gzip as it comes; members may follow one another."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP_WBITS)
        self._begun = False

    @property
    def complete(self) -> bool:
        """Whether what came is whole."""
        return not self._begun or self._member.eof

    def decoded(self, chunk: bytes) -> Iterator[bytes]:
        """Decode, step by step.

        Raises:
            FetchError: It is no gzip.
        """
        rest = chunk
        while rest:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP_WBITS)
            self._begun = True
            try:
                piece = self._member.decompress(rest, _STEP_BYTES)
            except zlib.error as ex:
                raise FetchError("malformed", "the answer says it is gzip, and is not") from ex
            if piece:
                yield piece
            rest = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
