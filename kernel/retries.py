"""How long to wait before a request to another service is retried."""

from __future__ import annotations

import random
from datetime import datetime
from email.utils import parsedate_to_datetime


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Parse ``Retry-After``: seconds, or an HTTP date (RFC 9110, section 10.2.3).

    Args:
        header: Value of the header; None if there is none.
        now: Current time, UTC.

    Returns:
        Seconds from now, at least 0; None if there is no header or it cannot be parsed.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        # A float would overflow with many more digits.
        return float(text[:20])
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None  # not a date, or one without an offset, which HTTP does not have


def backoff_s(attempt: int, first_s: float, max_s: float, jitter: float | None = None) -> float:
    """Return how long to wait before the next attempt: exponential backoff with jitter.

    The wait doubles with each attempt, less a random part of up to half, so that clients do not retry at the same time.

    Args:
        attempt: Number of attempts that failed, from 1.
        first_s: Wait after the first, in seconds.
        max_s: The longest wait, in seconds.
        jitter: 0 to 1, the share of the random part; drawn by default.
    """
    if jitter is None:
        jitter = random.random()  # noqa: S311 - no secret depends on it
    return min(max_s, first_s * 2.0 ** (attempt - 1)) * (1 - jitter / 2)
