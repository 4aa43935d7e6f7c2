"""Requests to the fake Notion, and what becomes of them besides the right answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class AnswerError(Exception):
    """What leaves at once, instead of what would have."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"object": "error", "status": status, "code": code, "message": message, **more}
        self.headers = dict(headers or {})


class Call:
    """One request."""

    def __init__(self, method: str, target: str, headers: Mapping[str, str], body: Any, number: int) -> None:
        url = urlsplit(target)
        self.method = method
        self.path = [unquote(part) for part in url.path.split("/")[2:]]
        self.query = parse_qs(url.query)
        self.headers = headers
        self.body = body
        self.number = number
        # Send so many bytes of the answer, and hang up.
        self.cut_after_bytes: int | None = None
        # Hang up without an answer.
        self.is_dropped = False
        # Answer only when this is set.
        self.held_until: threading.Event | None = None
        # Send each byte only after so long.
        self.byte_interval_s = 0.0
        # Send this instead, with that status: what somebody says who stands between.
        self.foreign: tuple[int, bytes] | None = None
        # Change what Notion would have answered.
        self.alter: Callable[[dict[str, Any]], None] = lambda answer: None

    @property
    def is_query(self) -> bool:
        """Whether rows are asked for."""
        return self.path[0] == "data_sources" and self.path[-1] == "query"


# Looks at a request first: raises an AnswerError, changes the workspace, or does nothing.
Fault = Callable[[Call], None]
