"""Faults of Notion's API and of the network, to inject into the fake."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from tests.notion.server import Call, Fault, ResponseError

Where = Callable[[Call], bool]
Answer = dict[str, Any]


# --- which requests --------------------------------------------------------------------------------------------------


def times(count: int, fault: Fault, where: Where = lambda call: True, *, after: int = 0) -> Fault:
    """Inject a fault into some requests.

    Args:
        count: Into how many.
        fault: Which.
        where: Selects requests.
        after: How many of these to skip first.
    """
    seen = 0

    def happen(call: Call) -> None:
        nonlocal seen
        if not where(call):
            return
        seen += 1
        if after < seen <= after + count:
            fault(call)

    return happen


def once(fault: Fault, where: Where = lambda call: True, *, after: int = 0) -> Fault:
    """Inject a fault into one request."""
    return times(1, fault, where, after=after)


def is_query(source_id: str | None = None) -> Where:
    """Select queries of one data source, or of any."""
    return lambda call: call.is_query and source_id in (None, call.path[1])


# --- error responses -------------------------------------------------------------------------------------------------


def error_response(status: int, code: str, message: str = "Something went wrong.", **headers: str) -> Fault:
    """Respond with an error of Notion's. Underscores in names of headers become dashes."""
    shown = {name.replace("_", "-"): value for name, value in headers.items()}

    def fail(_call: Call) -> None:
        raise ResponseError(status, code, message, shown)

    return fail


def rate_limited(retry_after_s: int | None = None, reason: str = "connection_rate_limit") -> Fault:
    """Respond that the rate limit of the connection, or of the workspace, is exceeded."""
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}

    def fail(_call: Call) -> None:
        more = {"rate_limit_reason": reason}
        raise ResponseError(429, "rate_limited", "You have been rate limited.", headers, additional_data=more)

    return fail


def overloaded(retry_after_s: int | None = None) -> Fault:
    """Respond that Notion is overloaded."""
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return error_response(529, "service_overload", "Notion is overloaded.", **headers)


class RequestLimit:
    """A rate limit: so many requests in a window, then 429 until it ends.

    Args:
        count: Requests in a window.
        window_s: Length of a window; a minute at Notion.
    """

    def __init__(self, count: int, window_s: float) -> None:
        self._count = count
        self._window_s = window_s
        self._windows: dict[str, tuple[float, int]] = defaultdict(lambda: (-window_s, 0))
        self.refused = 0

    def __call__(self, call: Call) -> None:
        """Count a request."""
        token = call.headers["authorization"]
        now_s = time.monotonic()
        start_s, taken = self._windows[token]
        if now_s - start_s >= self._window_s:
            start_s, taken = now_s, 0
        self._windows[token] = (start_s, taken + 1)
        if taken >= self._count:
            self.refused += 1
            rate_limited(1 + int(start_s + self._window_s - now_s))(call)


# --- the network -----------------------------------------------------------------------------------------------------


def proxy_response(status: int, content: bytes = b"<html><body>Bad gateway</body></html>") -> Fault:
    """Respond as a proxy would."""

    def answer(call: Call) -> None:
        call.proxy_response = (status, content)

    return answer


def truncated(after_bytes: int = 40) -> Fault:
    """Close the connection in the middle of a response."""

    def hang_up(call: Call) -> None:
        call.truncate_after_bytes = after_bytes

    return hang_up


def disconnected(call: Call) -> None:
    """Close the connection before the response."""
    call.disconnect = True


def delayed(until: threading.Event) -> Fault:
    """Delay a response until an event is set."""

    def hold(call: Call) -> None:
        call.delay_until = until

    return hold


def trickling(byte_interval_s: float) -> Fault:
    """Send a response byte by byte: no read times out, but it takes forever."""

    def trickle(call: Call) -> None:
        call.byte_interval_s = byte_interval_s

    return trickle


# --- wrong responses -------------------------------------------------------------------------------------------------


def altered(change: Callable[[Answer], None]) -> Fault:
    """Change a response."""

    def alter(call: Call) -> None:
        call.alter = change

    return alter


def silently_truncated(rows: int = 0) -> Fault:
    """End a query early, without any sign of it in the response."""

    def change(answer: Answer) -> None:
        answer["results"] = answer["results"][:rows]
        answer |= {"has_more": False, "next_cursor": None, "request_status": {"type": "complete"}}

    return altered(change)


def omitting_row(index: int = 0) -> Fault:
    """Omit a row from a page of results."""

    def change(answer: Answer) -> None:
        if answer["results"]:
            answer["results"].pop(index % len(answer["results"]))

    return altered(change)


def repeating_row(index: int = 0) -> Fault:
    """Repeat a row within a page of results."""

    def change(answer: Answer) -> None:
        if answer["results"]:
            answer["results"].append(answer["results"][index % len(answer["results"])])

    return altered(change)


def expired_cursor(call: Call) -> None:
    """Respond that the cursor of a query has expired."""
    if call.is_query and call.body.get("start_cursor") is not None:
        raise ResponseError(400, "validation_error", "The start_cursor provided is invalid: it has expired.")


def concurrently(change: Callable[[], object]) -> Fault:
    """Change the workspace before the response, as another user would."""

    def happen(_call: Call) -> None:
        change()

    return happen
