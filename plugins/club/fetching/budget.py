"""The time a source has."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Limits what a source may take in all, whatever it does.

    Args:
        limit: Entered by the task it limits; has a deadline.
    """

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit

    @property
    def left_s(self) -> float:
        """What is left."""
        when = self._limit.when()
        return float("inf") if when is None else when - asyncio.get_running_loop().time()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock."""
        left_s = self.left_s
        if left_s <= 0:  # it is over, and the task about to hear of it
            yield
            return
        self._limit.reschedule(None)
        try:
            yield
        finally:
            self._limit.reschedule(asyncio.get_running_loop().time() + left_s)
