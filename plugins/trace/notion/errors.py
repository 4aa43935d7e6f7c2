"""What can go wrong with Notion."""

from __future__ import annotations

from typing import Literal

Kind = Literal["refused", "missing", "invalid", "limited", "unavailable", "timeout", "cut", "changed", "incomplete"]


class NotionError(Exception):
    """An answer that is not there, or cannot be used.

    Args:
        kind: For whoever decides what to do.
        reason: For people; holds no secret.
        retry: Whether the same request may work another time.
        retry_after_s: When, as far as Notion says.
    """

    def __init__(self, kind: Kind, reason: str, *, retry: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.retry = retry
        self.retry_after_s = retry_after_s
