"""The socket of a client: waits for the client without occupying a thread, and no longer than a client may take."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec

from kernel.errors import TiercelError

# The client has closed its side, or the connection is reset. Only Linux tells the first without reading.
_GONE = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
# A thread that waits for a body is woken for this much of it, or for its rest: each wake takes a turn and the GIL.
_RECEIVE_MIN_BYTES = 16 * 1024
# A client that sends a request and closes its side at once may still want the response, so a request that is served
# within this time is served to it.
_HALF_CLOSED_S = 1.0


class SlowClientError(TiercelError, TimeoutError):
    """A client sends its request or reads its response too slowly."""


class ClientLimits(msgspec.Struct, frozen=True):
    """How long a client may keep a request waiting.

    Args:
        receive_timeout_s: For a part of a body, in seconds.
        send_timeout_s: For a part of a response to be read, in seconds.
        rate_min_bytes: Bytes per second that a client must sustain beyond that.
    """

    receive_timeout_s: float
    send_timeout_s: float
    rate_min_bytes: int


class _WaitBudget:
    """The time that a client may be waited for in one direction: waiting uses it up, and bytes that pass restore it."""

    def __init__(self, timeout_s: float, rate_min_bytes: int) -> None:
        self._timeout_s = timeout_s
        self._rate_min_bytes = rate_min_bytes
        self.remaining_s = timeout_s

    def reset(self) -> None:
        """Start anew, for the next request."""
        self.remaining_s = self._timeout_s

    def passed(self, size_bytes: int) -> None:
        """Count bytes that were received or sent."""
        self.remaining_s = min(self._timeout_s, self.remaining_s + size_bytes / self._rate_min_bytes)

    def waited(self, duration_s: float) -> None:
        """Count time that was spent waiting."""
        self.remaining_s -= duration_s


class ClientSocket(socket.socket):
    """A blocking socket whose waits let other requests run, and end when the client is too slow.

    In blocking mode, the limits apply to all calls of a request together: a time limit for each call would let a client
    that sends a byte now and then hold on forever.

    Args:
        accepted: The socket from ``accept``; it is detached.
        limits: How long the client may take.

    Attributes:
        waited_s: How long the client has been waited for, all requests together.
    """

    def __init__(self, accepted: socket.socket, limits: ClientLimits) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self._receiving = _WaitBudget(limits.receive_timeout_s, limits.rate_min_bytes)
        self._sending = _WaitBudget(limits.send_timeout_s, limits.rate_min_bytes)
        self._waiting: Callable[[], AbstractContextManager[None]] = nullcontext
        self._queued_at = time.monotonic()
        self.waited_s = 0.0

    def begin_request(self, waiting: Callable[[], AbstractContextManager[None]]) -> None:
        """Give the client its whole time again.

        Args:
            waiting: Called for the context in which to wait, such as ``RequestThreadPool.waiting``.
        """
        self._receiving.reset()
        self._sending.reset()
        self._waiting = waiting
        self._queued_at = time.monotonic()

    def is_gone(self) -> bool:
        """Tell whether the client has closed its side of the connection. One that has is taken to have disconnected."""
        poll = select.poll()
        poll.register(self.fileno(), _GONE)
        return bool(poll.poll(0))

    def is_abandoned(self) -> bool:
        """Tell whether the request has waited in the queue until its client disconnected."""
        return time.monotonic() - self._queued_at > _HALF_CLOSED_S and self.is_gone()

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive bytes as ``socket.recv`` does.

        Raises:
            SlowClientError: In blocking mode: the client is too slow.
        """
        return self.receive(bufsize, 1, flags)

    def receive(self, bufsize: int, expected_bytes: int, flags: int = 0) -> bytes:
        """Receive bytes as ``recv`` does; if there are none, wait for a good part of those that the client has to send.

        Args:
            bufsize: The most.
            expected_bytes: How many the client has announced, 1 if that is not known.
            flags: As for ``socket.recv``.

        Raises:
            SlowClientError: In blocking mode: the client is too slow.
        """
        timeout_s = self.gettimeout()
        if timeout_s == 0:
            return super().recv(bufsize, flags)
        # With a time limit, the system would wait for that long itself, and hold the thread's turn.
        is_ready = timeout_s is None or self._wait_for_input(expected_bytes, timeout_s)
        while True:
            try:
                content = super().recv(bufsize, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not is_ready:
                    raise SlowClientError("the client is too slow") from None
                is_ready = self._wait_for_input(expected_bytes, timeout_s)
            else:
                self._receiving.passed(len(content))
                return content

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send all bytes as ``socket.sendall`` does.

        Raises:
            SlowClientError: In blocking mode: the client is too slow.
        """
        if self.gettimeout() is not None:
            super().sendall(data, flags)
            return
        rest = memoryview(data).cast("B")
        while rest:
            try:
                sent = super().send(rest, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not self._wait(select.POLLOUT, self._sending):
                    raise SlowClientError("the client is too slow") from None
            else:
                self._sending.passed(sent)
                rest = rest[sent:]

    def _wait_for_input(self, expected_bytes: int, timeout_s: float | None) -> bool:
        """Wait for input; tell whether there was enough in time. Otherwise there may be some."""
        low_water_bytes = min(expected_bytes, _RECEIVE_MIN_BYTES)
        if low_water_bytes == 1:
            return self._wait(select.POLLIN, self._receiving, timeout_s)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low_water_bytes)
        try:
            return self._wait(select.POLLIN, self._receiving, timeout_s)
        finally:
            # Whoever polls the socket next waits for any byte.
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _wait(self, event: int, budget: _WaitBudget, timeout_s: float | None = None) -> bool:
        """Wait for the client, and take the time from its budget; tell whether it was ready in time."""
        limit_s = budget.remaining_s if timeout_s is None else min(timeout_s, budget.remaining_s)
        poll = select.poll()
        poll.register(self.fileno(), event)
        started = time.monotonic()
        with self._waiting():
            ready = poll.poll(max(limit_s, 0) * 1000)
            waited_s = time.monotonic() - started
        budget.waited(waited_s)
        self.waited_s += waited_s
        return bool(ready)
