"""Walk over every row of a data source, however many there are.

A query of Notion ends at 10,000 rows, with nothing but a ``request_status`` to tell. The limit holds for a query, not
for a data source; so a walk goes along the time at which rows were made, and where a query was cut off starts a new one
at the last row. That time never changes, so nothing moves while it is read. Rows at the edge come twice and count once.
Where one minute alone has more rows than a query gives, it is split by what tells its rows apart.
Source: https://developers.notion.com/guides/data-apis/query-large-data-sources
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

import msgspec

from plugins.trace.notion.api import NotionApi
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.query import ALONG, ROWS_MAX, Query, Question, Raw, is_trashed
from plugins.trace.notion.splitting import Condition, Mark, split

# Notion rounds times to it.
_MINUTE = timedelta(minutes=1)
_CONDITIONS_MAX = 50


class Window(msgspec.Struct, frozen=True):
    """The rows that were made in a span of time.

    Args:
        start: Made then or later, up to the start of the next window; None from the first.
        requests: Pages it took.
        cut_off: Whether there was more than a query can give.
        parts: Of a minute that had to be split, how many queries gave all of it.
        split_by: By what.
    """

    start: str | None
    requests: int
    cut_off: bool
    parts: int = 1
    split_by: tuple[str, ...] = ()


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
        self._others: set[str] = set()
        self.windows: list[Window] = []

    @property
    def others(self) -> int:
        """How many data sources were among the rows, as a wiki has them."""
        return len(self._others)

    def rows(self) -> Iterator[Raw]:
        """Return every page; one that was edited meanwhile may come again.

        Raises:
            NotionError: They cannot be read to the end.
        """
        start: str | None = None
        while True:
            query = Query(self._api, self._question, () if start is None else (_made({"on_or_after": start}),))
            yield from self._read(query)
            self.windows.append(Window(start, query.requests, query.cut_off))
            if not query.cut_off:
                return
            if query.last is None:
                raise NotionError("incomplete", f"{self._where} was cut off before its first row", retry=True)
            before, start = start, query.last
            if query.first == query.last:
                yield from self._minute(start, query.marks)
                start = _shown(datetime.fromisoformat(start) + _MINUTE)
            if before is not None and start <= before:
                raise self._no_further(before)

    def _minute(self, start: str, marks: Sequence[Mark]) -> Iterator[Raw]:
        """Return the rows of one minute, part by part. Marks are of those that came already."""
        end = _shown(datetime.fromisoformat(start) + _MINUTE)
        tally = _Tally(start)
        yield from self._parts((_made({"on_or_after": start}), _made({"before": end})), marks, tally)
        by = tuple(dict.fromkeys(tally.split_by))
        self.windows.append(Window(start, tally.requests, cut_off=True, parts=tally.parts, split_by=by))

    def _parts(self, asked: Sequence[Condition], marks: Sequence[Mark], tally: _Tally) -> Iterator[Raw]:
        found = split(marks, self._question.unique_id, asked)
        if found is None or len(asked) > _CONDITIONS_MAX:
            reason = f"more than {ROWS_MAX:,} rows were made in one minute, {tally.start}"
            raise NotionError(
                "incomplete", f"{self._where}: {reason}, and nothing tells them apart: a column of unique ids would"
            )
        if any(condition in asked for condition in found.conditions):
            # None of the rows meets all the conditions of a split: these were not heeded.
            raise self._no_further(tally.start)
        tally.split_by.append(found.by)
        for condition in found.conditions:
            query = Query(self._api, self._question, (*asked, condition))
            yield from self._read(query)
            tally.requests += query.requests
            if query.cut_off:
                yield from self._parts((*asked, condition), query.marks, tally)
            else:
                tally.parts += 1

    def _read(self, query: Query) -> Iterator[Raw]:
        for page in query.pages():
            yield from self._new(page)
            self._on_page(len(self._seen))

    def _new(self, page: Sequence[Raw]) -> Iterator[Raw]:
        for row in page:
            if row["object"] != "page":
                self._others.add(row["id"])
            elif self._question.in_trash and not is_trashed(row):
                raise NotionError("invalid", f"{self._where}: rows in the trash cannot be asked for")
            elif self._seen.get(row["id"]) != (edited := row["last_edited_time"]):
                self._seen[row["id"]] = edited
                yield row

    def _no_further(self, start: str) -> NotionError:
        reason = f"{self._where}: rows from {start} on lead no further, though there are more"
        return NotionError("incomplete", reason, retry=True)

    @property
    def _where(self) -> str:
        return f"data source {self._question.data_source_id}"


class _Tally:
    """How a minute was split."""

    def __init__(self, start: str) -> None:
        self.start = start
        self.requests = 0
        self.parts = 0
        self.split_by: list[str] = []


def _made(comparison: Condition) -> Condition:
    return {"timestamp": ALONG, ALONG: comparison}


def _shown(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
