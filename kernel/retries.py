"""When to ask another service again."""

from __future__ import annotations

import random
from datetime import datetime
from email.utils import parsedate_to_datetime


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Read ``Retry-After``: seconds or a date.

    Args:
        header: Its value.
        now: UTC.

    Returns:
        Seconds from now, at least 0; None if there is none, or it makes no sense.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        # More digits than these would not fit a float.
        return float(text[:20])
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None  # no date; or one without an offset, which HTTP does not know


def backoff_s(attempt: int, first_s: float, max_s: float, jitter: float | None = None) -> float:
    """Say how long to wait: twice as long each time, less up to half of it, so that clients do not come back as one.

    Args:
        attempt: How many have failed, from 1.
        first_s: Before the second attempt.
        max_s: However many have failed.
        jitter: 0 to 1; drawn by default.
    """
    if jitter is None:
        jitter = random.random()  # noqa: S311 - no secret depends on it
    return min(max_s, first_s * 2.0 ** (attempt - 1)) * (1 - jitter / 2)
