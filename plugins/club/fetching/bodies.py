"""Read what a server sends, and no more than is wanted."""

from __future__ import annotations

import httpx

from kernel import DecompressionError, Decompressor
from plugins.club.fetching.outcome import FetchError

ACCEPTED_ENCODING = "gzip"


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
    decompressor = Decompressor("gzip") if coding.endswith("gzip") else None
    body = bytearray()
    is_empty = True
    try:
        async for chunk in response.aiter_raw():
            is_empty = is_empty and not chunk
            for piece in (chunk,) if decompressor is None else decompressor.feed(chunk):
                body += piece
                if len(body) > max_bytes:
                    raise FetchError("too-large", f"the answer is larger than {max_bytes:,} bytes")
        # A response without a body, such as a 304, names its coding all the same.
        if decompressor is not None and not is_empty:
            decompressor.finish()
    except DecompressionError as ex:
        if ex.reason == "truncated":
            raise FetchError("cut", "the answer was cut off", retry=True) from ex
        raise FetchError("malformed", "the answer says it is gzip, and is not") from ex
    return bytes(body)
