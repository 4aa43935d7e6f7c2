"""Which host is asked, and by how many at once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from plugins.club.fetching.budget import Budget

_DEFAULT_PORTS = {"http": 80, "https": 443}


def shown(url: httpx.URL) -> str:
    """Say for people which URL is meant, without its query, which may hold a key."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def refusal(current: httpx.URL, target: httpx.URL) -> str | None:
    """Say why a URL that an answer names must not be followed; None if it may.

    Allowed is the same host and port, and the step from http to https between their default ports.
    """
    try:
        host = target.host
    except UnicodeError:  # IDNA refuses the name
        return "is no URL"
    if target.scheme not in _DEFAULT_PORTS:
        return "is no http or https"
    if target.userinfo:
        return "holds a user or password"
    if host != current.host:
        return f"is on another host than {current.host}"
    if current.scheme == "https" and target.scheme == "http":
        return "leaves https"
    if _port(target) == _port(current) and target.scheme == current.scheme:
        return None
    upgraded = (current.scheme, _port(current), target.scheme, _port(target)) == ("http", 80, "https", 443)
    return None if upgraded else f"is on another port than {_port(current)}"


def _port(url: httpx.URL) -> int:
    return url.port or _DEFAULT_PORTS[url.scheme]


class HostLimits:
    """Bounds the requests that are with a host at one time.

    Args:
        per_host: How many.
    """

    def __init__(self, per_host: int) -> None:
        self._slots: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(per_host))

    @asynccontextmanager
    async def slot(self, url: httpx.URL, budget: Budget) -> AsyncIterator[None]:
        """Hold one of the host's places. Waiting for it is not charged: those before may be slow."""
        slots = self._slots[url.host]
        with budget.paused():
            await slots.acquire()
        try:
            yield
        finally:
            slots.release()
