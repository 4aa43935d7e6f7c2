"""What goes wrong with Notion, and on the way to it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from tests.notion.calls import AnswerError, Call, Fault

Where = Callable[[Call], bool]
Answer = dict[str, Any]


# --- when ------------------------------------------------------------------------------------------------------------


def times(count: int, fault: Fault, where: Where = lambda call: True, *, after: int = 0) -> Fault:
    """Let a fault happen so many times.

    Args:
        count: How often.
        fault: Which.
        where: The requests that it happens to.
        after: How many of these are spared first.
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
    """Let a fault happen one time."""
    return times(1, fault, where, after=after)


def queries(source_id: str | None = None) -> Where:
    """Pick queries, of a data source or of any."""
    return lambda call: call.is_query and source_id in (None, call.path[1])


# --- errors of Notion ------------------------------------------------------------------------------------------------


def failing(status: int, code: str, message: str = "Something went wrong.", **headers: str) -> Fault:
    """Answer with an error in Notion's words. Underscores in names of headers stand for dashes."""
    shown = {name.replace("_", "-"): value for name, value in headers.items()}

    def fail(_call: Call) -> None:
        raise AnswerError(status, code, message, shown)

    return fail


def limited(retry_after_s: int | None = None, reason: str = "connection_rate_limit") -> Fault:
    """Answer that there were too many requests, as Notion does for a connection or a workspace."""
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}

    def fail(_call: Call) -> None:
        more = {"rate_limit_reason": reason}
        raise AnswerError(429, "rate_limited", "You have been rate limited.", headers, additional_data=more)

    return fail


def overloaded(retry_after_s: int | None = None) -> Fault:
    """Answer that Notion has too much to do."""
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return failing(529, "service_overload", "Notion is overloaded.", **headers)


class RequestLimit:
    """The limit of a connection: so many requests in a window, then 429 until it ends.

    Args:
        count: How many.
        window_s: How long a window is; a minute at Notion.
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
            limited(1 + int(start_s + self._window_s - now_s))(call)


# --- errors on the way -----------------------------------------------------------------------------------------------


def foreign(status: int, content: bytes = b"<html><body>Bad gateway</body></html>") -> Fault:
    """Let somebody answer who stands between."""

    def answer(call: Call) -> None:
        call.foreign = (status, content)

    return answer


def cut(after_bytes: int = 40) -> Fault:
    """Cut the connection in the middle of an answer."""

    def hang_up(call: Call) -> None:
        call.cut_after_bytes = after_bytes

    return hang_up


def dropped(call: Call) -> None:
    """Cut the connection before the answer."""
    call.is_dropped = True


def held(until: threading.Event) -> Fault:
    """Let an answer wait."""

    def hold(call: Call) -> None:
        call.held_until = until

    return hold


def trickling(byte_interval_s: float) -> Fault:
    """Let an answer come byte by byte: never silent for long, never done."""

    def trickle(call: Call) -> None:
        call.byte_interval_s = byte_interval_s

    return trickle


# --- answers that are not true ---------------------------------------------------------------------------------------


def altered(change: Callable[[Answer], None]) -> Fault:
    """Change an answer."""

    def alter(call: Call) -> None:
        call.alter = change

    return alter


def silently_short(rows: int = 0) -> Fault:
    """End a query after a part of its page, and say nothing of it."""

    def change(answer: Answer) -> None:
        answer["results"] = answer["results"][:rows]
        answer |= {"has_more": False, "next_cursor": None, "request_status": {"type": "complete"}}

    return altered(change)


def leaving_out(index: int = 0) -> Fault:
    """Leave a row out of a page."""

    def change(answer: Answer) -> None:
        if answer["results"]:
            answer["results"].pop(index % len(answer["results"]))

    return altered(change)


def repeating(index: int = 0) -> Fault:
    """Give a row of a page twice."""

    def change(answer: Answer) -> None:
        if answer["results"]:
            answer["results"].append(answer["results"][index % len(answer["results"])])

    return altered(change)


def refusing_cursor(call: Call) -> None:
    """Refuse to go on with a query that was begun."""
    if call.is_query and call.body.get("start_cursor") is not None:
        raise AnswerError(400, "validation_error", "The start_cursor provided is invalid: it has expired.")


def meanwhile(change: Callable[[], object]) -> Fault:
    """Let somebody else change the workspace before the answer."""

    def happen(_call: Call) -> None:
        change()

    return happen
