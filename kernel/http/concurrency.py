"""Limits on how many requests of a kind are served at the same time, so that they never occupy every thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kernel.errors import UnavailableError

_RETRY_AFTER_S = 5


class ConcurrencyLimit:
    """At most ``limit`` holders at the same time in this process, such as streaming responses.

    Example::

        release = self._limit.acquire()
        return StreamingResponse(Export(rows, on_close=release), "text/csv")

    Args:
        limit: How many; 0 rejects every request.
        detail: What a client is told when the limit is reached.
    """

    def __init__(self, limit: int, detail: str) -> None:
        self._detail = detail
        self._slots = threading.BoundedSemaphore(limit) if limit > 0 else None

    def acquire(self) -> Callable[[], None]:
        """Acquire a slot, without waiting, and return the function that releases it.

        It may be called more than once, from any thread.

        Raises:
            UnavailableError: The limit is reached (503).
        """
        slots = self._slots
        if slots is None or not slots.acquire(blocking=False):
            raise UnavailableError(self._detail, retry_after_s=_RETRY_AFTER_S)
        held = [slots]

        def release() -> None:
            if held:
                held.pop().release()

        return release
