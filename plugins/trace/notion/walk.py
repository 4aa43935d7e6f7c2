"""Walk over every row of a data source, however many there are.

A query of Notion ends at 10,000 rows, with nothing but a ``request_status`` to tell. The limit holds for a query, not
for a data source; so a walk goes along a time that rows have, and where a query was cut off starts a new one at the
last row. Rows at the edge come twice and count once.
Source: https://developers.notion.com/guides/data-apis/query-large-data-sources
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from plugins.trace.notion.api import NotionApi
from plugins.trace.notion.errors import NotionError

ROWS_MAX = 10_000
Raw = Mapping[str, Any]


class Question(msgspec.Struct, frozen=True):
    """Which rows of a data source, and what of them.

    Args:
        data_source_id: Which one.
        property_ids: Columns that rows come with.
        along: The time by which they come. ``created_time`` never changes; a row that is edited meanwhile comes again
            along ``last_edited_time``.
        since: Only rows of that time and later.
        in_trash: The rows in the trash, and no others.
    """

    data_source_id: str
    property_ids: tuple[str, ...]
    along: Literal["created_time", "last_edited_time"] = "created_time"
    since: str | None = None
    in_trash: bool = False


class Window(msgspec.Struct, frozen=True):
    """What one query gave.

    Args:
        start: Rows of that time and later; None from the first.
        requests: Pages it took.
        cut_off: Whether there was more than a query can give.
    """

    start: str | None
    requests: int
    cut_off: bool


class Walk:
    """One walk over a data source. Use it once.

    Args:
        api: Asks Notion.
        question: Which rows.
        on_page: Called after each page with how many rows there are so far.
    """

    def __init__(self, api: NotionApi, question: Question, on_page: Callable[[int], None] = lambda _: None) -> None:
        self._api = api
        self._question = question
        self._on_page = on_page
        self._seen: dict[str, str] = {}
        self.windows: list[Window] = []

    def rows(self) -> Iterator[Raw]:
        """Return every row; one that was edited meanwhile may come again.

        Raises:
            NotionError: They cannot be read to the end.
        """
        start = self._question.since
        while True:
            query = _Query(self._api, self._question, start)
            for page in query.pages():
                yield from self._new(page)
                self._on_page(len(self._seen))
            self.windows.append(Window(start, query.requests, query.cut_off))
            if not query.cut_off:
                return
            if query.last is None or query.last == start:
                where = self._question.data_source_id
                raise NotionError("incomplete", f"more than {ROWS_MAX:,} rows of data source {where} are of {start}")
            start = query.last

    def _new(self, page: Sequence[Raw]) -> Iterator[Raw]:
        for row in page:
            edited = row["last_edited_time"]
            if self._seen.get(row["id"]) != edited:
                self._seen[row["id"]] = edited
                yield row


class _Query:
    """One query, paged to its end."""

    def __init__(self, api: NotionApi, question: Question, start: str | None) -> None:
        self._api = api
        self._along = question.along
        self._id = question.data_source_id
        self._asked: dict[str, Any] = {
            "sorts": [{"timestamp": self._along, "direction": "ascending"}],
            "filter_properties": list(question.property_ids),
        }
        if start is not None:
            self._asked["filter"] = {"timestamp": self._along, self._along: {"on_or_after": start}}
        if question.in_trash:
            self._asked["in_trash"] = True
        self.requests = 0
        self.cut_off = False
        self.last: str | None = None

    def pages(self) -> Iterator[Sequence[Raw]]:
        rows = 0
        cursor: str | None = None
        while True:
            answer = self._api.query(self._id, start_cursor=cursor, **self._asked)
            self.requests += 1
            page = answer["results"]
            rows += len(page)
            if page:
                self.last = page[-1][self._along]
            status = answer.get("request_status") or {}
            cursor = answer.get("next_cursor") if answer.get("has_more") else None
            # Whatever it says of itself, a query that ends at the limit may have been cut off there.
            self.cut_off = self.cut_off or status.get("type") == "incomplete" or (cursor is None and rows >= ROWS_MAX)
            yield page
            if cursor is None:
                return
