"""Limits on how many requests of a kind are served at the same time, so that they never occupy every thread."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable

from kernel.errors import TooManyRequestsError, UnavailableError

_RETRY_AFTER_S = 5


class ConcurrencyLimit:
    """At most ``limit`` holders at the same time in this process, such as streaming responses.

    Example::

        release = self._limit.acquire()
        return StreamingResponse(Export(rows, on_close=release), "text/csv")

    Args:
        limit: How many; 0 rejects every request.
        detail: What a client is told when the limit is reached.
        per_owner: How many of them one owner may hold, such as an account; None for all.
    """

    def __init__(self, limit: int, detail: str, per_owner: int | None = None) -> None:
        self._limit = limit
        self._detail = detail
        self._per_owner = limit if per_owner is None else per_owner
        self._lock = threading.Lock()
        self._held: Counter[Hashable] = Counter()

    def acquire(self, owner: Hashable = None) -> Callable[[], None]:
        """Acquire a slot, without waiting, and return the function that releases it.

        It may be called more than once, from any thread.

        Args:
            owner: Who is limited to ``per_owner`` of them.

        Raises:
            UnavailableError: The limit is reached (503).
            TooManyRequestsError: The owner holds as many as one may (429).
        """
        with self._lock:
            if self._held.total() >= self._limit:
                raise UnavailableError(self._detail, retry_after_s=_RETRY_AFTER_S)
            if self._held[owner] >= self._per_owner:
                detail = f"{self._detail}; of these, one account may hold {self._per_owner}"
                raise TooManyRequestsError(detail, retry_after_s=_RETRY_AFTER_S)
            self._held[owner] += 1
        held = [owner]

        def release() -> None:
            with self._lock:
                if held:
                    self._held[held.pop()] -= 1
                    # Owners that hold nothing are forgotten.
                    self._held += Counter()

        return release
