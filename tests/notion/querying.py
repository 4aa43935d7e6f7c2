"""Queries over data sources: filters, sorts, and the 10,000 rows at which they end."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tests.notion.workspace import DataSource, Page, Workspace

Given = Mapping[str, Any]


class Cursor(msgspec.Struct, frozen=True):
    """Where a query goes on: behind this row, which was the so many-th."""

    question: str
    after: tuple[datetime, str]
    rows: int


class Found(msgspec.Struct, frozen=True):
    """A page of rows."""

    pages: Sequence[Page]
    next_cursor: str | None
    incomplete: bool


class RefusedError(Exception):
    """A question that Notion would not answer."""


class Querying:
    """Answers queries.

    Args:
        workspace: What is asked about.
        rows_max: Where a query ends.
    """

    def __init__(self, workspace: Workspace, rows_max: int) -> None:
        self._workspace = workspace
        self.rows_max = rows_max
        self._cursors: dict[str, Cursor] = {}
        self._kept: dict[str, tuple[int, list[tuple[tuple[datetime, str], Page]]]] = {}

    def query(self, source: DataSource, asked: Given) -> Found:
        """Answer one page of a query.

        Raises:
            RefusedError: The question makes no sense.
        """
        size = asked.get("page_size", 100)
        if not 1 <= size <= 100:
            raise RefusedError("body.page_size should be between 1 and 100")
        question = json.dumps(
            [source.id, *(asked.get(name) for name in ("filter", "sorts", "in_trash"))], sort_keys=True
        )
        rows = self._ordered(source, asked, question)
        done = 0
        if (text := asked.get("start_cursor")) is not None:
            cursor = self._cursors.get(text)
            if cursor is None or cursor.question != question:
                raise RefusedError("The start_cursor provided is invalid")
            done = cursor.rows
            rows = [row for row in rows if _is_behind(row[0], cursor.after, asked)]
        room = min(size, self.rows_max - done)
        shown = rows[:room]
        more = len(rows) > len(shown)
        capped = more and done + len(shown) >= self.rows_max
        next_cursor = None
        if more and not capped:
            next_cursor = str(uuid.uuid4())
            self._cursors[next_cursor] = Cursor(question, shown[-1][0], done + len(shown))
        return Found([page for _, page in shown], next_cursor, capped)

    def _ordered(self, source: DataSource, asked: Given, question: str) -> list[tuple[tuple[datetime, str], Page]]:
        kept = self._kept.get(question)
        if kept is not None and kept[0] == self._workspace.changes:
            return kept[1]
        by, descending = _order(asked)
        wanted = bool(asked.get("in_trash"))
        rows = [
            ((getattr(page, by), page.id), page)
            for page in source.pages.values()
            if page.in_trash == wanted and matches(source, page, asked.get("filter"))
        ]
        rows.sort(key=lambda row: row[0], reverse=descending)
        self._kept[question] = (self._workspace.changes, rows)
        return rows


def matches(source: DataSource, page: Page, asked: Given | None) -> bool:
    """Tell whether a row passes a filter.

    Raises:
        RefusedError: We do not know the filter.
    """
    if asked is None:
        return True
    if "and" in asked:
        return all(matches(source, page, each) for each in asked["and"])
    if "or" in asked:
        return any(matches(source, page, each) for each in asked["or"])
    if "timestamp" in asked:
        name = asked["timestamp"]
        return _compare(getattr(page, name), asked[name], datetime.fromisoformat)
    raise RefusedError(f"filter {asked} is not known")


_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "on_or_after": lambda value, other: value >= other,
    "after": lambda value, other: value > other,
    "on_or_before": lambda value, other: value <= other,
    "before": lambda value, other: value < other,
    "equals": lambda value, other: value == other,
}


def _compare(value: Any, asked: Given, read: Callable[[str], Any]) -> bool:
    for name, other in asked.items():
        if name not in _COMPARISONS:
            raise RefusedError(f"condition {name} is not known")
        if not _COMPARISONS[name](value, read(other)):
            return False
    return True


def _order(asked: Given) -> tuple[str, bool]:
    sorts = asked.get("sorts") or [{"timestamp": "created_time", "direction": "descending"}]
    return sorts[0]["timestamp"], sorts[0]["direction"] == "descending"


def _is_behind(place: tuple[datetime, str], after: tuple[datetime, str], asked: Given) -> bool:
    return place < after if _order(asked)[1] else place > after
