"""Filters of queries, as Notion documents them; it refuses all others, and so do we.

Source: https://developers.notion.com/reference/filter-data-source-entries
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from tests.notion.workspace import Column, DataSource, Page

Given = Mapping[str, Any]
Passes = Callable[[Page], bool]
_NESTED_MAX = 2
_TIMESTAMPS = ("created_time", "last_edited_time")


class RefusedError(Exception):
    """A question that Notion would not answer."""


def read_filter(source: DataSource, asked: Any, depth: int = 0) -> Passes:
    """Return what tells whether a row passes a filter.

    Raises:
        RefusedError: It is none.
    """
    if not isinstance(asked, Mapping):
        raise RefusedError("body.filter should be an object")
    for name, join in (("and", all), ("or", any)):
        if name in asked:
            return _compound(source, asked, name, join, depth)
    if "timestamp" in asked:
        return _timestamp(asked)
    if "property" in asked:
        return _property(source, asked)
    raise RefusedError("body.filter.or should be defined, instead was `undefined`.")


def _compound(source: DataSource, asked: Given, name: str, join: Callable[[list[bool]], bool], depth: int) -> Passes:
    if len(asked) > 1 or not isinstance(asked[name], list):
        raise RefusedError(f"body.filter.{name} should be an array, and alone")
    if depth == _NESTED_MAX:
        raise RefusedError("compound filters can be nested two levels deep")
    parts = [read_filter(source, each, depth + 1) for each in asked[name]]
    return lambda page: join([passes(page) for passes in parts])


def _timestamp(asked: Given) -> Passes:
    name = asked["timestamp"]
    if name not in _TIMESTAMPS or set(asked) - {"type"} != {"timestamp", name}:
        raise RefusedError("body.filter.timestamp should be a timestamp, with a condition of the same name")
    condition, value = _only(asked[name])
    if condition not in _TIMES or not isinstance(value, str):
        raise RefusedError(f"body.filter.{name}.{condition} is not a condition of times")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise RefusedError(f"body.filter.{name}.{condition} should be a valid ISO 8601 date string") from None
    compare = _TIMES[condition]
    return lambda page: compare(getattr(page, name), moment)


def _property(source: DataSource, asked: Given) -> Passes:
    column = _column(source, asked["property"])
    kind, condition = _only({key: each for key, each in asked.items() if key not in ("property", "type")})
    if kind != column.type:
        raise RefusedError(f"database property {column.type} does not match filter {kind}")
    if kind not in _CONDITIONS:
        raise RefusedError(f"filters of {kind} are not known here")
    return _CONDITIONS[kind](column, *_only(condition))


def _column(source: DataSource, name: str) -> Column:
    for each in source.columns:
        if name in (each.name, each.id, unquote(each.id)):
            return each
    raise RefusedError(f"Could not find property with name or id: {name}")


def _only(given: Any) -> tuple[str, Any]:
    if not isinstance(given, Mapping) or len(given) != 1:
        raise RefusedError("a condition should be one key with its value")
    return next(iter(given.items()))


def _number(column: Column, condition: str, value: Any) -> Passes:
    if condition in _EXISTENCE:
        return _existence(condition, value, lambda page: (page.values.get(column.id) or {}).get("number") is None)
    if condition not in _NUMBERS or isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError(f"{condition} is not a condition of numbers, or its value is none")
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
        raise RefusedError(f"{condition} is not a condition of texts, or its value is none")
    compare, wanted = _TEXTS[condition], value.casefold()
    return lambda page: compare(text(page), wanted)


def _existence(condition: str, value: Any, is_empty: Passes) -> Passes:
    if value is not True:
        raise RefusedError(f"{condition} should be true")
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
