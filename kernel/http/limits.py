"""A limited number of places for answers that take long, so that they never hold every thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kernel.errors import UnavailableError

_RETRY_AFTER_S = 5


class ConcurrencyLimit:
    """A number of places in this process.

    Args:
        number: How many there are; none at all is possible.
        limit: The limit in words, for whoever finds no place.
    """

    def __init__(self, number: int, limit: str) -> None:
        self._limit = limit
        self._free = threading.BoundedSemaphore(number) if number > 0 else None

    def take(self) -> Callable[[], None]:
        """Take a place; return what leaves it again, which may be called more than once.

        Raises:
            UnavailableError: Every place is taken.
        """
        free = self._free
        if free is None or not free.acquire(blocking=False):
            raise UnavailableError(self._limit, retry_after_s=_RETRY_AFTER_S)
        taken = [free]

        def leave() -> None:
            if taken:
                taken.pop().release()

        return leave
