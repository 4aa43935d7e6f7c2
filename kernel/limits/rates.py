"""Rates, such as ``1000/minute``, and what is left of them, as headers of a response."""

from __future__ import annotations

import msgspec

_WINDOWS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
# In place of a rate.
UNLIMITED = "unlimited"


class Rate(msgspec.Struct, frozen=True, gc=False):
    """How many requests are allowed in a window of time.

    Args:
        limit: Requests.
        window_s: Seconds.
    """

    limit: int
    window_s: int


def parse_rate(text: str) -> Rate | None:
    """Read a rate: ``1000/minute``; per second, minute, hour or day. None for ``unlimited``.

    Args:
        text: As the settings have it, validated.
    """
    if text == UNLIMITED:
        return None
    limit, _, window = text.partition("/")
    return Rate(int(limit), _WINDOWS_S[window])


class RateState(msgspec.Struct, frozen=True, gc=False):
    """What is left of a rate.

    Args:
        name: What is limited: a scope of throttles, or a unit of a plan.
        rate: How much is allowed.
        remaining: How much of it is left.
        reset_s: Seconds until all of it is there again.
    """

    name: str
    rate: Rate
    remaining: int
    reset_s: int

    def headers(self) -> dict[str, str]:
        """Return the headers that say it, by name in lower case.

        ``RateLimit-Policy`` and ``RateLimit`` are those of draft-ietf-httpapi-ratelimit-headers-10. ``X-RateLimit-*``
        are for clients that know these only; ``Reset`` is in seconds from now.
        """
        rate, remaining, reset_s = self.rate, self.remaining, self.reset_s
        return {
            "ratelimit-policy": f'"{self.name}";q={rate.limit};w={rate.window_s}',
            "ratelimit": f'"{self.name}";r={remaining};t={reset_s}',
            "x-ratelimit-limit": str(rate.limit),
            "x-ratelimit-remaining": str(remaining),
            "x-ratelimit-reset": str(reset_s),
        }
