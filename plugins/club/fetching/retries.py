"""When to try again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kernel import backoff_s
from plugins.club.fetching.budget import Budget
from plugins.club.fetching.outcome import FetchError

T = TypeVar("T")

# Whatever a server asks for, and however often it failed.
WAIT_MAX_S = 60.0


class Retries:
    """Tries again what may work the next time.

    Args:
        retries: How often, after the first attempt.
        first_s: Wait before the first of them.
        budget: No wait goes beyond it.
        on_retry: Told why.
    """

    def __init__(self, retries: int, first_s: float, budget: Budget, on_retry: Callable[[str], None]) -> None:
        self._retries = retries
        self._first_s = first_s
        self._budget = budget
        self._on_retry = on_retry

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what an attempt gives.

        Raises:
            FetchError: It failed for good, or too often.
        """
        failed = 0
        while True:
            try:
                return await attempt()
            except FetchError as ex:
                failed += 1
                if not ex.retry or self._retries == 0:
                    raise
                if failed > self._retries:
                    raise FetchError(ex.kind, f"{ex.reason}; tried {failed} times") from ex
                wait_s = self._wait_s(failed, ex.retry_after_s)
                if wait_s >= self._budget.left_s:
                    raise FetchError(ex.kind, f"{ex.reason}; no time left to try again in {wait_s:.0f} s") from ex
                self._on_retry(ex.reason)
            await asyncio.sleep(wait_s)

    def _wait_s(self, failed: int, asked_s: float | None) -> float:
        own_s = backoff_s(failed, self._first_s, WAIT_MAX_S)
        return own_s if asked_s is None else min(WAIT_MAX_S, max(own_s, asked_s))
