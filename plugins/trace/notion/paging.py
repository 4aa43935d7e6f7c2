"""Follow the cursors of an answer that comes page by page, as long as they lead on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plugins.trace.notion.errors import NotionError

# Pages may come empty; so many in a row without anything new lead nowhere.
_IDLE_MAX = 20


class Cursors:
    """The cursors of one answer. Use them once: each has to lead to another page."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._idle = 0

    def follow(self, answer: Mapping[str, Any], *, is_new: bool) -> str | None:
        """Return what to ask for the next page with; None at the end.

        Args:
            answer: A page.
            is_new: Whether there is anything on it that no earlier page had.

        Raises:
            NotionError: The pages never end.
        """
        cursor: str | None = answer.get("next_cursor")
        if not cursor:
            if answer.get("has_more"):
                raise NotionError("incomplete", "there is more, and no cursor to ask for it", retry=True)
            return None
        self._idle = 0 if is_new else self._idle + 1
        if cursor in self._seen or self._idle > _IDLE_MAX:
            raise NotionError("incomplete", "pages go round in a circle", retry=True)
        self._seen.add(cursor)
        # A cursor is followed even where nothing more is promised: asking costs little.
        return cursor if answer.get("has_more") or answer["results"] else None
