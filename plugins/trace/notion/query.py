"""Read every row of a data source, also beyond the 10,000 rows at which a query ends.

A query with more rows ends there without an error; only ``request_status`` says that it is incomplete. The limit holds
for a query, not for a data source. So a scan reads rows in the order of ``created_time``, which never changes: rows do
not move while they are read. Where a query is cut off, the next one starts at the time of its last row; rows that come
twice count once. A minute with more rows than a query can return is split by unique id, last edit or title.

Sources: https://developers.notion.com/reference/query-a-data-source,
https://developers.notion.com/guides/data-apis/query-large-data-sources and
https://developers.notion.com/reference/filter-data-source-entries
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.pagination import PageCursors

if TYPE_CHECKING:
    from plugins.trace.notion.client import NotionClient

# A page object: a row as Notion returns it.
PageObject = Mapping[str, Any]
Condition = Mapping[str, Any]
TITLE = "title"
QUERY_ROWS_MAX = 10_000
_CREATED = "created_time"
_EDITED = "last_edited_time"
# Notion rounds times to the minute.
_MINUTE = timedelta(minutes=1)
_RESTARTS_MAX = 2
_CONDITIONS_MAX = 50
_SUBSTRING_CHARACTERS_MAX = 3
_Value = TypeVar("_Value", int, str)


class RowQuery(msgspec.Struct, frozen=True):
    """Which rows of a data source to read, and which of their columns.

    Args:
        data_source_id: Which one.
        property_ids: The columns to return.
        unique_id: The column of unique ids, if there is one: tells rows apart that were created in the same minute.
        edited_since: Only rows that were edited at this time or later.
        in_trash: The rows in the trash, and no others.
    """

    data_source_id: str
    property_ids: tuple[str, ...]
    unique_id: str | None = None
    edited_since: str | None = None
    in_trash: bool = False


class ScanWindow(msgspec.Struct, frozen=True):
    """A span of creation times that was read by one query, or by several that split it.

    Args:
        start: Its rows were created at this time or later, before the start of the next window; None from the first.
        requests: How many it took.
        cut_off: Whether it has more rows than one query can return.
        parts: Into how many queries it was split.
        split_by: By which columns.
    """

    start: str | None
    requests: int
    cut_off: bool
    parts: int = 1
    split_by: tuple[str, ...] = ()


# --- the state of a page object --------------------------------------------------------------------------------------


def is_trashed(page: PageObject) -> bool:
    """Tell whether a page is in the trash or archived: queries leave it out unless they ask for the trash.

    Before version 2026-03-11 ``archived`` meant the trash; since then ``is_archived`` is a separate state.
    """
    return bool(page.get("in_trash") or page.get("archived") or page.get("is_archived"))


def is_live(page: PageObject) -> bool:
    """Tell whether an object is a page that is neither in the trash nor archived."""
    return page["object"] == "page" and not is_trashed(page)


def parent_data_source(page: PageObject) -> str | None:
    """Return the id of the data source that a page is a row of."""
    parent: Mapping[str, Any] = page.get("parent") or {}
    return parent.get("data_source_id")


def find_live_page(client: NotionClient, page_id: str) -> PageObject | None:
    """Return a page; None if it does not exist or is in the trash.

    Raises:
        NotionError: Notion does not respond.
    """
    try:
        page = client.retrieve_page(page_id)
    except NotionError as ex:
        if ex.kind == "not_found":
            return None
        raise
    return page if is_live(page) else None


# --- all rows --------------------------------------------------------------------------------------------------------


class RowScan:
    """One pass over the rows of a data source. Not reusable.

    Args:
        client: Sends the requests.
        query: Which rows.
        on_progress: Called after each page with the number of rows so far.
    """

    def __init__(
        self, client: NotionClient, query: RowQuery, on_progress: Callable[[int], None] = lambda _: None
    ) -> None:
        self._client = client
        self._query = query
        self._on_progress = on_progress
        # When each row was edited last, by id.
        self._seen: dict[str, str] = {}
        self._nested: set[str] = set()
        self.windows: list[ScanWindow] = []

    @property
    def nested_data_sources(self) -> int:
        """How many data sources were among the rows, as there are in a wiki."""
        return len(self._nested)

    def rows(self) -> Iterator[PageObject]:
        """Return every row; one that is edited during the scan may come twice.

        Raises:
            NotionError: Not every row can be read.
        """
        start: str | None = None
        while True:
            paged = _PagedQuery(self._client, self._query, () if start is None else (_created({"on_or_after": start}),))
            yield from self._read(paged)
            self.windows.append(ScanWindow(start, paged.requests, paged.cut_off))
            if not paged.cut_off:
                return
            if paged.last is None:
                raise NotionError("incomplete", f"{self._name} was cut off before its first row", retry=True)
            previous, start = start, paged.last
            if paged.first == paged.last:
                yield from self._split_minute(start, paged.split_keys)
                start = _format_time(datetime.fromisoformat(start) + _MINUTE)
            if previous is not None and start <= previous:
                raise self._stalled(previous)

    def _split_minute(self, start: str, keys: Sequence[SplitKey]) -> Iterator[PageObject]:
        """Return the rows of one minute by several queries.

        Args:
            start: The minute.
            keys: Of the rows that were read already.
        """
        end = _format_time(datetime.fromisoformat(start) + _MINUTE)
        statistics = _SplitStatistics(start)
        conditions = (_created({"on_or_after": start}), _created({"before": end}))
        yield from self._read_split(conditions, keys, statistics)
        split_by = tuple(dict.fromkeys(statistics.split_by))
        self.windows.append(
            ScanWindow(start, statistics.requests, cut_off=True, parts=statistics.parts, split_by=split_by)
        )

    def _read_split(
        self, conditions: Sequence[Condition], keys: Sequence[SplitKey], statistics: _SplitStatistics
    ) -> Iterator[PageObject]:
        split = choose_split(keys, self._query.unique_id, conditions)
        if split is None or len(conditions) > _CONDITIONS_MAX:
            raise NotionError(
                "incomplete",
                f"{self._name}: more than {QUERY_ROWS_MAX:,} rows were created in one minute, {statistics.start}, and "
                "nothing tells them apart: add a column of unique ids",
            )
        if any(condition in conditions for condition in split.conditions):
            # No row that was read meets all conditions of a split, so Notion ignored these.
            raise self._stalled(statistics.start)
        statistics.split_by.append(split.by)
        for condition in split.conditions:
            paged = _PagedQuery(self._client, self._query, (*conditions, condition))
            yield from self._read(paged)
            statistics.requests += paged.requests
            if paged.cut_off:
                yield from self._read_split((*conditions, condition), paged.split_keys, statistics)
            else:
                statistics.parts += 1

    def _read(self, paged: _PagedQuery) -> Iterator[PageObject]:
        for page in paged.pages():
            yield from self._unseen(page)
            self._on_progress(len(self._seen))

    def _unseen(self, rows: Sequence[PageObject]) -> Iterator[PageObject]:
        for row in rows:
            if row["object"] != "page":
                self._nested.add(row["id"])
            elif self._query.in_trash and not is_trashed(row):
                raise NotionError("invalid", f"{self._name}: Notion does not list rows in the trash")
            elif self._seen.get(row["id"]) != (edited := row[_EDITED]):
                self._seen[row["id"]] = edited
                yield row

    def _stalled(self, start: str) -> NotionError:
        reason = f"{self._name}: queries for rows from {start} on return the same rows again, although there are more"
        return NotionError("incomplete", reason, retry=True)

    @property
    def _name(self) -> str:
        return f"data source {self._query.data_source_id}"


class _SplitStatistics:
    """How a minute was split."""

    def __init__(self, start: str) -> None:
        self.start = start
        self.requests = 0
        self.parts = 0
        self.split_by: list[str] = []


def _created(comparison: Condition) -> Condition:
    return {"timestamp": _CREATED, _CREATED: comparison}


def _format_time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- one query -------------------------------------------------------------------------------------------------------


class _PagedQuery:
    """One query, read to its end.

    Args:
        client: Sends the requests.
        query: Which rows.
        conditions: Further ones that the rows meet.
    """

    def __init__(self, client: NotionClient, query: RowQuery, conditions: Sequence[Condition]) -> None:
        self._client = client
        self._query = query
        self._body = _query_body(query, conditions)
        self._cursors = PageCursors()
        self._restarts = 0
        self.requests = 0
        self.cut_off = False
        self._reset()

    def _reset(self) -> None:
        self._row_count = 0
        self._ids: set[str] = set()
        self.first: str | None = None
        self.last: str | None = None
        # Collected only while all rows were created in the same minute, which may have to be split.
        self.split_keys: list[SplitKey] = []

    def pages(self) -> Iterator[Sequence[PageObject]]:
        """Return the rows page by page; ``cut_off`` says afterwards whether there are more.

        Raises:
            NotionError: The query cannot be read to its end.
        """
        cursor: str | None = None
        while True:
            page = self._request(cursor)
            if page is None:
                cursor = None
                continue
            self.requests += 1
            rows = page["results"]
            has_new = self._track(rows)
            status = page.get("request_status") or {}
            cursor = self._cursors.advance(page, has_new=has_new)
            # A query that ends at the limit may have been cut off there, whatever its status says.
            ended_at_limit = cursor is None and self._row_count >= QUERY_ROWS_MAX
            self.cut_off = self.cut_off or status.get("type") == "incomplete" or ended_at_limit
            yield rows
            if cursor is None:
                return

    def _request(self, cursor: str | None) -> PageObject | None:
        """Return a page; None if the cursor has expired, and the query starts again."""
        try:
            return self._client.query_data_source(self._query.data_source_id, start_cursor=cursor, **self._body)
        except NotionError as ex:
            if ex.kind != "invalid" or cursor is None or self._restarts == _RESTARTS_MAX:
                raise
        self._restarts += 1
        self._reset()
        return None

    def _track(self, rows: Sequence[PageObject]) -> bool:
        """Validate the order of rows; tell whether there are any that no earlier page had."""
        known = len(self._ids)
        for row in rows:
            self._ids.add(row["id"])
            created = row.get(_CREATED)
            if created is None or (row["object"] == "page" and "properties" not in row):
                reason = f"page {row['id']} has no properties: the connection lacks the capability to read content"
                raise NotionError("refused", reason)
            if self.last is not None and created < self.last:
                raise NotionError("incomplete", "rows are not in the requested order", retry=True)
            self.first = self.first or created
            self.last = created
            if created == self.first:
                self.split_keys.append(make_split_key(row, self._query.unique_id))
        if self.first != self.last:
            self.split_keys.clear()
        self._row_count += len(rows)
        return len(self._ids) > known


def _query_body(query: RowQuery, conditions: Sequence[Condition]) -> dict[str, Any]:
    ids = dict.fromkeys([*query.property_ids, *([query.unique_id] if query.unique_id else [])])
    body: dict[str, Any] = {
        "sorts": [{"timestamp": _CREATED, "direction": "ascending"}],
        "filter_properties": list(ids),
    }
    if query.edited_since is not None:
        edited = {"timestamp": _EDITED, _EDITED: {"on_or_after": query.edited_since}}
        conditions = [edited, *conditions]
    if conditions:
        body["filter"] = conditions[0] if len(conditions) == 1 else {"and": list(conditions)}
    if query.in_trash:
        body["in_trash"] = True
    return body


# --- splitting a query that has too many rows ------------------------------------------------------------------------


class SplitKey(msgspec.Struct, frozen=True):
    """What tells rows apart that were created in the same minute.

    Args:
        number: In the column of unique ids, if there is one.
        edited: When it was edited last.
        title: Of the page.
    """

    number: int | None
    edited: str
    title: str


class Split(msgspec.Struct, frozen=True):
    """Conditions that split a query: every row meets at least one; no row that was read meets all.

    Args:
        by: The column or time that they compare.
        conditions: In the order in which to query: a row that is edited meanwhile moves to a later one.
    """

    by: str
    conditions: tuple[Condition, ...]


def make_split_key(row: PageObject, unique_id: str | None) -> SplitKey:
    """Return what tells a row from others.

    Args:
        row: A page, or a data source among the pages of a wiki.
        unique_id: The column of unique ids, if there is one.
    """
    columns = {each["id"]: each for each in row["properties"].values()} if row["object"] == "page" else {}
    numbered = (columns.get(unique_id) or {}).get("unique_id") or {}
    parts = (columns.get(TITLE) or {}).get(TITLE) or ()
    return SplitKey(numbered.get("number"), row[_EDITED], "".join(part["plain_text"] for part in parts))


def choose_split(keys: Sequence[SplitKey], unique_id: str | None, conditions: Sequence[Condition]) -> Split | None:
    """Choose how to split a query.

    A condition and its negation cover every row, whatever Notion makes of upper and lower case or of substrings. Where
    a column may be empty, neither comparison holds; a third condition covers those rows.

    Args:
        keys: Of the rows that it returned.
        unique_id: The column of unique ids, if there is one.
        conditions: Those it has.

    Returns:
        None if nothing tells those rows apart.
    """
    return _split_by_number(keys, unique_id, conditions) or _split_by_time(keys) or _split_by_title(keys, conditions)


def _split_by_number(keys: Sequence[SplitKey], unique_id: str | None, conditions: Sequence[Condition]) -> Split | None:
    median = _median([each.number for each in keys if each.number is not None])
    if unique_id is None or median is None:
        return None
    comparisons = [{"less_than": median}, {"greater_than_or_equal_to": median}]
    return Split("unique_id", _column_conditions(unique_id, "unique_id", comparisons, conditions))


def _split_by_time(keys: Sequence[SplitKey]) -> Split | None:
    median = _median([each.edited for each in keys])
    if median is None:
        return None
    comparisons = ({"before": median}, {"on_or_after": median})
    return Split(_EDITED, tuple({"timestamp": _EDITED, _EDITED: each} for each in comparisons))


def _split_by_title(keys: Sequence[SplitKey], conditions: Sequence[Condition]) -> Split | None:
    """Split by the substring that is in closest to half of the titles."""
    titles = [each.title.casefold().strip() for each in keys]
    # A substring that was used before told nothing apart then: Notion may treat different letters as the same.
    used = {substring for each in conditions for substring in (each.get(TITLE) or {}).values()}
    counts = Counter(substring for title in titles for substring in _substrings(title) - used)
    # Different titles may have the same short substrings, but none contains the longest title.
    if (longest := max(titles, key=len)) and longest not in used:
        counts[longest] = titles.count(longest)
    candidates = sorted(
        (abs(2 * count - len(titles)), len(substring), substring)
        for substring, count in counts.items()
        if count < len(titles)
    )
    if not candidates:
        return None
    substring = candidates[0][2]
    comparisons = [{"contains": substring}, {"does_not_contain": substring}]
    return Split(TITLE, _column_conditions(TITLE, TITLE, comparisons, conditions))


def _column_conditions(
    property_id: str, kind: str, comparisons: Sequence[Condition], conditions: Sequence[Condition]
) -> tuple[Condition, ...]:
    # Rows with an empty column are read by the first split on it; a split of its parts need not repeat that.
    is_split_again = any(each.get("property") == property_id for each in conditions)
    wanted = comparisons if is_split_again else [*comparisons, {"is_empty": True}]
    return tuple({"property": property_id, kind: each} for each in wanted)


def _median(values: Iterable[_Value]) -> _Value | None:
    """Return a value that about half of the values are less than, and at least one is; None if all are equal."""
    ordered = sorted(values)
    if not ordered or ordered[0] == ordered[-1]:
        return None
    middle = ordered[len(ordered) // 2]
    return middle if middle > ordered[0] else next(each for each in ordered if each > ordered[0])


def _substrings(title: str) -> set[str]:
    substrings = {
        title[start : start + size] for size in range(1, _SUBSTRING_CHARACTERS_MAX + 1) for start in range(len(title))
    }
    # Notion may strip leading and trailing spaces of a search text.
    return {each for each in substrings if each == each.strip() and each}
