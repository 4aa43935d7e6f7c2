"""One query for rows of a data source, page by page, and whether it gave them all.

A query ends at 10,000 rows. What says so is ``request_status``, on any of its pages.
Source: https://developers.notion.com/reference/query-a-data-source
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from plugins.trace.notion.api import NotionApi
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.paging import Cursors
from plugins.trace.notion.splitting import Condition, Mark, mark

ROWS_MAX = 10_000
# The time at which a row was made never changes: rows do not move while they are read.
ALONG = "created_time"
_RESTARTS_MAX = 2
Raw = Mapping[str, Any]


class Question(msgspec.Struct, frozen=True):
    """Which rows of a data source, and what of them.

    Args:
        data_source_id: Which one.
        property_ids: Columns that rows come with.
        unique_id: The column of unique ids, if there is one: tells rows apart that were made in the same minute.
        edited_since: Only rows that were edited then or later.
        in_trash: The rows in the trash, and no others.
    """

    data_source_id: str
    property_ids: tuple[str, ...]
    unique_id: str | None = None
    edited_since: str | None = None
    in_trash: bool = False


class Query:
    """One query, paged to its end.

    Args:
        api: Asks Notion.
        question: Which rows.
        conditions: That they meet as well.
    """

    def __init__(self, api: NotionApi, question: Question, conditions: Sequence[Condition]) -> None:
        self._api = api
        self._question = question
        self._asked = _body(question, conditions)
        self._cursors = Cursors()
        self._restarts = 0
        self.requests = 0
        self.cut_off = False
        self._forget()

    def _forget(self) -> None:
        self._rows = 0
        self._ids: set[str] = set()
        self.first: str | None = None
        self.last: str | None = None
        # Only while all rows are of one minute, which may have to be split.
        self.marks: list[Mark] = []

    def pages(self) -> Iterator[Sequence[Raw]]:
        """Return the rows page by page, and afterwards whether that was all.

        Raises:
            NotionError: The query cannot be read to its end.
        """
        cursor: str | None = None
        while True:
            answer = self._page(cursor)
            if answer is None:
                cursor = None
                continue
            self.requests += 1
            page = answer["results"]
            is_new = self._look(page)
            status = answer.get("request_status") or {}
            cursor = self._cursors.follow(answer, is_new=is_new)
            # Whatever it says of itself, a query that ends at the limit may have been cut off there.
            ended_there = cursor is None and self._rows >= ROWS_MAX
            self.cut_off = self.cut_off or status.get("type") == "incomplete" or ended_there
            yield page
            if cursor is None:
                return

    def _page(self, cursor: str | None) -> Raw | None:
        """Return a page; None if the cursor is not valid any more, and everything is asked for again."""
        try:
            return self._api.query(self._question.data_source_id, start_cursor=cursor, **self._asked)
        except NotionError as ex:
            if ex.kind != "invalid" or cursor is None or self._restarts == _RESTARTS_MAX:
                raise
        self._restarts += 1
        self._forget()
        return None

    def _look(self, page: Sequence[Raw]) -> bool:
        """Look at a page; tell whether it has rows that no earlier one had."""
        known = len(self._ids)
        for row in page:
            self._ids.add(row["id"])
            made = row.get(ALONG)
            if made is None or (row["object"] == "page" and "properties" not in row):
                raise NotionError("refused", f"page {row['id']} comes empty: the connection may not read content")
            if self.last is not None and made < self.last:
                raise NotionError("incomplete", "rows come in another order than was asked for", retry=True)
            self.first = self.first or made
            self.last = made
            if made == self.first:
                self.marks.append(mark(row, self._question.unique_id))
        if self.first != self.last:
            self.marks.clear()
        self._rows += len(page)
        return len(self._ids) > known


def is_trashed(page: Raw) -> bool:
    """Tell whether a page is in the trash, or archived: then it is in no query that does not ask for it.

    Until version 2026-03-11 ``archived`` meant the trash; since then ``is_archived`` is something of its own.
    """
    return bool(page.get("in_trash") or page.get("archived") or page.get("is_archived"))


def _body(question: Question, conditions: Sequence[Condition]) -> dict[str, Any]:
    ids = dict.fromkeys([*question.property_ids, *([question.unique_id] if question.unique_id else [])])
    body: dict[str, Any] = {
        "sorts": [{"timestamp": ALONG, "direction": "ascending"}],
        "filter_properties": list(ids),
    }
    if question.edited_since is not None:
        edited = {"timestamp": "last_edited_time", "last_edited_time": {"on_or_after": question.edited_since}}
        conditions = [edited, *conditions]
    if conditions:
        body["filter"] = conditions[0] if len(conditions) == 1 else {"and": list(conditions)}
    if question.in_trash:
        body["in_trash"] = True
    return body
