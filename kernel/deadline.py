"""How long a request may work: a deadline that its loops and its database statements look at.

The time counts in which the service works, or waits for the database; not that in which it waits for the client, which
has limits of its own. A client that has disconnected ends its request likewise: nobody would read the response.
"""

from __future__ import annotations

import time
from contextvars import ContextVar, Token
from typing import Protocol

from kernel.errors import ApiError, ClientGoneError, DeadlineExceededError

# A client that has disconnected is noticed within this time. A request that takes less does not look for it.
CHECK_INTERVAL_S = 1.0


class ClientConnection(Protocol):
    """The connection to a client, as the server provides it."""

    waited_s: float

    def is_gone(self) -> bool:
        """Tell whether the client has closed its side."""


class Deadline:
    """The time in which some work has to be done; as a context manager, that of the work in the block.

    Args:
        timeout_s: How long the work may take; infinity for no limit.
        client: For whom the work is done, if somebody waits for it.
    """

    __slots__ = ("_client", "_next_look", "_outer", "_started", "_timeout_s", "_waited_before_s")

    def __init__(self, timeout_s: float, client: ClientConnection | None = None) -> None:
        self._timeout_s = timeout_s
        self._client = client
        self._outer: Token[Deadline | None] | None = None
        self.restart()

    def restart(self) -> None:
        """Give the work its whole time again: it has got somewhere, as when a part is committed."""
        self._started = time.monotonic()
        self._waited_before_s = 0.0 if self._client is None else self._client.waited_s
        self._next_look = self._started + min(CHECK_INTERVAL_S, self._timeout_s)

    def check(self) -> None:
        """Raise unless the work may go on. Call it in every loop that a client can make long; it costs next to nothing.

        Raises:
            DeadlineExceededError: The time is over (503).
            ClientGoneError: The client has disconnected; it is looked for once a second.
        """
        if time.monotonic() >= self._next_look and (reason := self._look()) is not None:
            raise reason

    def is_over(self) -> bool:
        """Tell whether ``check`` would raise."""
        return time.monotonic() >= self._next_look and self._look() is not None

    def _look(self) -> ApiError | None:
        # While it is over, the next look stays in the past.
        client, now = self._client, time.monotonic()
        waited_s = 0.0 if client is None else client.waited_s - self._waited_before_s
        remaining_s = self._started + self._timeout_s + waited_s - now
        if remaining_s <= 0:
            return DeadlineExceededError(f"the request took longer than {self._timeout_s:g} s")
        if client is not None and client.is_gone():
            return ClientGoneError()
        self._next_look = now + min(CHECK_INTERVAL_S, remaining_s)
        return None

    def __enter__(self) -> Deadline:
        self._outer = _CURRENT.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._outer is not None:
            _CURRENT.reset(self._outer)
            self._outer = None


_CURRENT: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


def current_deadline() -> Deadline:
    """Return the deadline of the request that this thread serves; outside of requests, one that never passes.

    Example::

        deadline = current_deadline()
        for row in rows:
            deadline.check()
            ...
    """
    return _CURRENT.get() or Deadline(float("inf"))
