"""Queries over data sources: filters, sorts, and the 10,000 rows at which a query ends.

Filters are those that Notion documents; it refuses all others, and so does this.
Source: https://developers.notion.com/reference/filter-data-source-entries
"""

from __future__ import annotations

import json
import operator
import uuid
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import msgspec

from tests.notion.workspace import Column, DataSource, Page, Workspace

Json = Mapping[str, Any]
Passes = Callable[[Page], bool]
Row = tuple[tuple[datetime, str], Page]
_NESTED_MAX = 2
_TIMESTAMPS = ("created_time", "last_edited_time")


class InvalidQueryError(Exception):
    """Notion would answer with a validation error."""


def compile_filter(source: DataSource, given: Any, depth: int = 0) -> Passes:
    """Return a function that tells whether a row passes a filter.

    Raises:
        InvalidQueryError: The filter is not valid.
    """
    if not isinstance(given, Mapping):
        raise InvalidQueryError("body.filter should be an object")
    for name, join in (("and", all), ("or", any)):
        if name in given:
            return _compound(source, given, name, join, depth)
    if "timestamp" in given:
        return _timestamp(given)
    if "property" in given:
        return _property(source, given)
    raise InvalidQueryError("body.filter.or should be defined, instead was `undefined`.")


def _compound(source: DataSource, given: Json, name: str, join: Callable[[list[bool]], bool], depth: int) -> Passes:
    if len(given) > 1 or not isinstance(given[name], list):
        raise InvalidQueryError(f"body.filter.{name} should be an array, and alone")
    if depth == _NESTED_MAX:
        raise InvalidQueryError("compound filters can be nested two levels deep")
    parts = [compile_filter(source, each, depth + 1) for each in given[name]]
    return lambda page: join([passes(page) for passes in parts])


def _timestamp(given: Json) -> Passes:
    name = given["timestamp"]
    if name not in _TIMESTAMPS or set(given) - {"type"} != {"timestamp", name}:
        raise InvalidQueryError("body.filter.timestamp should be a timestamp, with a condition of the same name")
    condition, value = _single_member(given[name])
    if condition not in _TIMES or not isinstance(value, str):
        raise InvalidQueryError(f"body.filter.{name}.{condition} is not a condition of times")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise InvalidQueryError(f"body.filter.{name}.{condition} should be a valid ISO 8601 date string") from None
    compare = _TIMES[condition]
    return lambda page: compare(getattr(page, name), moment)


def _property(source: DataSource, given: Json) -> Passes:
    column = _column(source, given["property"])
    kind, condition = _single_member({key: each for key, each in given.items() if key not in ("property", "type")})
    if kind != column.type:
        raise InvalidQueryError(f"database property {column.type} does not match filter {kind}")
    if kind not in _CONDITIONS:
        raise InvalidQueryError(f"filters of {kind} are not implemented")
    return _CONDITIONS[kind](column, *_single_member(condition))


def _column(source: DataSource, name: str) -> Column:
    for each in source.columns:
        if name in (each.name, each.id, unquote(each.id)):
            return each
    raise InvalidQueryError(f"Could not find property with name or id: {name}")


def _single_member(given: Any) -> tuple[str, Any]:
    if not isinstance(given, Mapping) or len(given) != 1:
        raise InvalidQueryError("a condition should be one key with its value")
    return next(iter(given.items()))


def _number(column: Column, condition: str, value: Any) -> Passes:
    if condition in _EXISTENCE:
        return _existence(condition, value, lambda page: (page.values.get(column.id) or {}).get("number") is None)
    if condition not in _NUMBERS or isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidQueryError(f"{condition} is not a condition of numbers, or its value is none")
    compare = _NUMBERS[condition]

    def passes(page: Page) -> bool:
        number = (page.values.get(column.id) or {}).get("number")
        return condition == "does_not_equal" if number is None else compare(number, value)

    return passes


def _text(column: Column, condition: str, value: Any) -> Passes:
    def text(page: Page) -> str:
        return "".join(part["plain_text"] for part in page.values.get(column.id, ())).casefold()

    if condition in _EXISTENCE:
        return _existence(condition, value, lambda page: not text(page))
    if condition not in _TEXTS or not isinstance(value, str):
        raise InvalidQueryError(f"{condition} is not a condition of texts, or its value is none")
    compare, wanted = _TEXTS[condition], value.casefold()
    return lambda page: compare(text(page), wanted)


def _existence(condition: str, value: Any, is_empty: Passes) -> Passes:
    if value is not True:
        raise InvalidQueryError(f"{condition} should be true")
    return is_empty if condition == "is_empty" else lambda page: not is_empty(page)


_EXISTENCE = ("is_empty", "is_not_empty")
_TIMES: Mapping[str, Callable[[datetime, datetime], bool]] = {
    "equals": operator.eq,
    "before": operator.lt,
    "after": operator.gt,
    "on_or_before": operator.le,
    "on_or_after": operator.ge,
}
_NUMBERS: Mapping[str, Callable[[float, float], bool]] = {
    "equals": operator.eq,
    "does_not_equal": operator.ne,
    "greater_than": operator.gt,
    "less_than": operator.lt,
    "greater_than_or_equal_to": operator.ge,
    "less_than_or_equal_to": operator.le,
}
_TEXTS: Mapping[str, Callable[[str, str], bool]] = {
    "equals": operator.eq,
    "does_not_equal": operator.ne,
    "contains": operator.contains,
    "does_not_contain": lambda text, wanted: wanted not in text,
    "starts_with": str.startswith,
    "ends_with": str.endswith,
}
_CONDITIONS: Mapping[str, Callable[[Column, str, Any], Passes]] = {
    "unique_id": _number,
    "title": _text,
    "rich_text": _text,
}


# --- pages of a query ------------------------------------------------------------------------------------------------


class Cursor(msgspec.Struct, frozen=True):
    """Where a query continues: after this row, when so many were returned."""

    query_key: str
    after: tuple[datetime, str]
    rows: int


class QueryPage(msgspec.Struct, frozen=True):
    """One page of the rows of a query."""

    pages: Sequence[Page]
    next_cursor: str | None
    is_incomplete: bool


class QueryEngine:
    """Evaluates queries.

    Args:
        workspace: Has the rows.
        rows_max: After how many rows a query ends.
    """

    def __init__(self, workspace: Workspace, rows_max: int) -> None:
        self._workspace = workspace
        self.rows_max = rows_max
        # Pages may be shorter than requested.
        self.page_max = 100
        self._cursors: dict[str, Cursor] = {}
        self._cache: dict[str, tuple[int, list[Row]]] = {}

    def query(self, source: DataSource, body: Json) -> QueryPage:
        """Return one page of a query.

        Raises:
            InvalidQueryError: The query is not valid.
        """
        size = body.get("page_size", 100)
        if not 1 <= size <= 100:
            raise InvalidQueryError("body.page_size should be between 1 and 100")
        size = min(size, self.page_max)
        query_key = json.dumps(
            [source.id, *(body.get(name) for name in ("filter", "sorts", "in_trash"))], sort_keys=True
        )
        rows = self._matching_rows(source, body, query_key)
        # Every page of a query that will be cut off says so, and not only the last one.
        is_capped = len(rows) > self.rows_max
        returned = 0
        if (text := body.get("start_cursor")) is not None:
            cursor = self._cursors.get(text)
            if cursor is None or cursor.query_key != query_key:
                raise InvalidQueryError("The start_cursor provided is invalid")
            returned = cursor.rows
            rows = _rows_after(rows, cursor.after, body)
        room = min(size, self.rows_max - returned)
        shown = rows[:room]
        has_more = len(rows) > len(shown)
        ends_at_limit = has_more and returned + len(shown) >= self.rows_max
        next_cursor = None
        if has_more and not ends_at_limit:
            next_cursor = str(uuid.uuid4())
            self._cursors[next_cursor] = Cursor(query_key, shown[-1][0], returned + len(shown))
        return QueryPage([page for _, page in shown], next_cursor, is_capped or ends_at_limit)

    def _matching_rows(self, source: DataSource, body: Json, query_key: str) -> list[Row]:
        cached = self._cache.get(query_key)
        if cached is not None and cached[0] == self._workspace.changes:
            return cached[1]
        by, descending = _order(body)
        wanted = bool(body.get("in_trash"))
        passes = compile_filter(source, body["filter"]) if "filter" in body else lambda page: True
        rows = [
            ((getattr(page, by), page.id), page)
            for page in source.pages.values()
            if page.in_trash == wanted and not page.is_archived and passes(page)
        ]
        rows.sort(key=lambda row: row[0], reverse=descending)
        self._cache[query_key] = (self._workspace.changes, rows)
        return rows


def _order(body: Json) -> tuple[str, bool]:
    sorts = body.get("sorts") or [{"timestamp": "created_time", "direction": "descending"}]
    return sorts[0]["timestamp"], sorts[0]["direction"] == "descending"


def _rows_after(rows: list[Row], after: tuple[datetime, str], body: Json) -> list[Row]:
    if _order(body)[1]:
        return [row for row in rows if row[0] < after]
    return rows[bisect_right(rows, after, key=lambda row: row[0]) :]
