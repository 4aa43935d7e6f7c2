"""The limits of fetching: bytes of a response, time of a source, requests to a host."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx

from kernel.http import DecompressionError, Decompressor
from plugins.club.fetch.results import FetchError

ACCEPT_ENCODING = "gzip"


async def read_body(response: httpx.Response, max_bytes: int) -> bytes:
    """Read and decompress the body of a response.

    Args:
        response: An open stream.
        max_bytes: Maximum size after decompression.

    Raises:
        FetchError: The body is larger, incomplete, or encoded otherwise than requested.
    """
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in {"identity", "", "gzip", "x-gzip"}:
        raise FetchError("content", f"the response is encoded as {coding!r:.40}, which was not requested")
    decompressor = Decompressor("gzip") if coding.endswith("gzip") else None
    body = bytearray()
    is_empty = True
    try:
        async for chunk in response.aiter_raw():
            is_empty = is_empty and not chunk
            for piece in (chunk,) if decompressor is None else decompressor.feed(chunk):
                body += piece
                if len(body) > max_bytes:
                    raise FetchError("too-large", f"the response is larger than {max_bytes:,} bytes")
        # An empty body is complete, whatever coding its headers declare.
        if decompressor is not None and not is_empty:
            decompressor.finish()
    except DecompressionError as ex:
        if ex.reason == "truncated":
            raise FetchError("cut", "the response is incomplete", retry=True) from ex
        raise FetchError("malformed", "the response declares gzip, but is not valid gzip") from ex
    return bytes(body)


class TimeBudget:
    """The total time of a source, whatever it spends it on.

    Args:
        timeout: Entered by the task that it limits; has a deadline.
    """

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._timeout = timeout

    @property
    def remaining_s(self) -> float:
        """The remaining time in seconds; infinite while paused."""
        deadline = self._timeout.when()
        return float("inf") if deadline is None else deadline - asyncio.get_running_loop().time()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time spent in the block."""
        remaining_s = self.remaining_s
        if remaining_s <= 0:  # expired: the task is about to be cancelled
            yield
            return
        self._timeout.reschedule(None)
        try:
            yield
        finally:
            self._timeout.reschedule(asyncio.get_running_loop().time() + remaining_s)


class HostLimits:
    """Limits the concurrent requests to each host.

    Args:
        per_host: Maximum number of them.
    """

    def __init__(self, per_host: int) -> None:
        self._slots: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(per_host))

    @asynccontextmanager
    async def slot(self, url: httpx.URL, budget: TimeBudget) -> AsyncIterator[None]:
        """Hold one of the host's slots. Waiting for it is not charged to the source: others may be slow."""
        slots = self._slots[url.host]
        with budget.paused():
            await slots.acquire()
        try:
            yield
        finally:
            slots.release()
