"""Follow the cursors of a paginated response, and reject pages that never end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plugins.trace.notion.errors import NotionError

# Notion may return empty pages, but not so many in a row without anything new.
_STALLED_PAGES_MAX = 20


class PageCursors:
    """The cursors of one paginated response. Not reusable."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._stalled_pages = 0

    def advance(self, page: Mapping[str, Any], *, has_new: bool) -> str | None:
        """Return the cursor of the next page; None after the last.

        Args:
            page: As Notion returned it.
            has_new: Whether it has anything that no earlier page had.

        Raises:
            NotionError: The pages never end, or there is no cursor to continue with.
        """
        cursor: str | None = page.get("next_cursor")
        if not cursor:
            if page.get("has_more"):
                raise NotionError("incomplete", "there are more pages, but no cursor to continue with", retry=True)
            return None
        self._stalled_pages = 0 if has_new else self._stalled_pages + 1
        if cursor in self._seen or self._stalled_pages > _STALLED_PAGES_MAX:
            raise NotionError("incomplete", "the pages repeat endlessly", retry=True)
        self._seen.add(cursor)
        # A cursor is followed even if has_more is false: one request more is cheap, a missing row is not.
        return cursor if page.get("has_more") or page["results"] else None
