"""Fakes of what makes requests to Notion wait."""

from __future__ import annotations

from plugins.trace.notion.rate_limit import RateLimiter


class StoppedError(Exception):
    """A wait was stopped, as by the cancellation of a job."""


class FakeSleep:
    """Records waits instead of sleeping.

    Args:
        max_s: Raise ``StoppedError`` in a longer wait.
    """

    def __init__(self, max_s: float = 1.0) -> None:
        self.max_s = max_s
        self.waits_s: list[float] = []

    def __call__(self, seconds: float) -> None:
        """Record a wait."""
        if seconds:
            self.waits_s.append(seconds)
        if seconds > self.max_s:
            raise StoppedError


class UnlimitedRateLimiter(RateLimiter):
    """A fake rate limiter without a limit and without a database."""

    def __init__(self) -> None:
        pass

    def acquire(self) -> None:
        """Return at once."""

    def pause(self, seconds: float) -> None:
        """Ignore the pause."""
