"""Queries over data sources: filters, sorts, and the 10,000 rows at which they end."""

from __future__ import annotations

import json
import uuid
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tests.notion.filters import RefusedError, read_filter
from tests.notion.workspace import DataSource, Page, Workspace

Given = Mapping[str, Any]
Row = tuple[tuple[datetime, str], Page]


class Cursor(msgspec.Struct, frozen=True):
    """Where a query goes on: behind this row, which was the so many-th."""

    question: str
    after: tuple[datetime, str]
    rows: int


class Found(msgspec.Struct, frozen=True):
    """A page of rows."""

    pages: Sequence[Page]
    next_cursor: str | None
    is_incomplete: bool


class Querying:
    """Answers queries.

    Args:
        workspace: What is asked about.
        rows_max: Where a query ends.
    """

    def __init__(self, workspace: Workspace, rows_max: int) -> None:
        self._workspace = workspace
        self.rows_max = rows_max
        # Pages may be shorter than asked for.
        self.page_max = 100
        self._cursors: dict[str, Cursor] = {}
        self._kept: dict[str, tuple[int, list[Row]]] = {}

    def query(self, source: DataSource, asked: Given) -> Found:
        """Answer one page of a query.

        Raises:
            RefusedError: The question makes no sense.
        """
        size = asked.get("page_size", 100)
        if not 1 <= size <= 100:
            raise RefusedError("body.page_size should be between 1 and 100")
        size = min(size, self.page_max)
        question = json.dumps(
            [source.id, *(asked.get(name) for name in ("filter", "sorts", "in_trash"))], sort_keys=True
        )
        rows = self._ordered(source, asked, question)
        # Each page of a query says that there is more than a query can give, and not the last alone.
        is_capped = len(rows) > self.rows_max
        done = 0
        if (text := asked.get("start_cursor")) is not None:
            cursor = self._cursors.get(text)
            if cursor is None or cursor.question != question:
                raise RefusedError("The start_cursor provided is invalid")
            done = cursor.rows
            rows = _behind(rows, cursor.after, asked)
        room = min(size, self.rows_max - done)
        shown = rows[:room]
        more = len(rows) > len(shown)
        ends_there = more and done + len(shown) >= self.rows_max
        next_cursor = None
        if more and not ends_there:
            next_cursor = str(uuid.uuid4())
            self._cursors[next_cursor] = Cursor(question, shown[-1][0], done + len(shown))
        return Found([page for _, page in shown], next_cursor, is_capped or ends_there)

    def _ordered(self, source: DataSource, asked: Given, question: str) -> list[Row]:
        kept = self._kept.get(question)
        if kept is not None and kept[0] == self._workspace.changes:
            return kept[1]
        by, descending = _order(asked)
        wanted = bool(asked.get("in_trash"))
        passes = read_filter(source, asked["filter"]) if "filter" in asked else lambda page: True
        rows = [
            ((getattr(page, by), page.id), page)
            for page in source.pages.values()
            if page.in_trash == wanted and not page.is_archived and passes(page)
        ]
        rows.sort(key=lambda row: row[0], reverse=descending)
        self._kept[question] = (self._workspace.changes, rows)
        return rows


def _order(asked: Given) -> tuple[str, bool]:
    sorts = asked.get("sorts") or [{"timestamp": "created_time", "direction": "descending"}]
    return sorts[0]["timestamp"], sorts[0]["direction"] == "descending"


def _behind(rows: list[Row], after: tuple[datetime, str], asked: Given) -> list[Row]:
    if _order(asked)[1]:
        return [row for row in rows if row[0] < after]
    return rows[bisect_right(rows, after, key=lambda row: row[0]) :]
