"""Properties as page objects show them and as the endpoint of one property returns them, rollups included.

Sources: https://developers.notion.com/reference/property-item-object and
https://developers.notion.com/reference/page-property-values#rollup
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tests.notion.values import EMPTY, Calculated, Shape, rollup, user
from tests.notion.workspace import Column, Page, Workspace, shown_time

REFERENCES_MAX = 25
SHOW_ORIGINAL = "show_original"
_LISTS = frozenset({"title", "rich_text", "relation", "people"})
# Functions that the endpoint of one property does not calculate.
_NOT_CALCULATED_ALONE = frozenset({"show_unique", "unique", "median", "count_per_group", "percent_per_group"})


def shown_property(workspace: Workspace, page: Page, column: Column) -> Shape:
    """Return a property as in a page object: truncated after 25 references."""
    value = _value(page, column)
    if column.type == "rollup":
        related = _related(workspace, page, column)[:REFERENCES_MAX]
        value = calculate(workspace, column, related) if value is None else value
    elif isinstance(value, Calculated):
        value = value.shown
    shown: Shape = {"id": column.id, "type": column.type, column.type: value}
    if column.type in _LISTS:
        shown[column.type] = _cut(column.type, value or ())
    if column.type == "relation":
        shown["has_more"] = len(value or ()) > REFERENCES_MAX
    return shown


def property_item(workspace: Workspace, page: Page, column: Column, query: Mapping[str, Sequence[str]]) -> Shape:
    """Return the response of a single property: one item, or a page of a list.

    Args:
        workspace: Has the related pages.
        page: Has the property.
        column: Which property.
        query: Parameters of the request.
    """
    value = _value(page, column)
    if column.type == "rollup":
        return _rollup(workspace, page, column, query)
    if column.type in _LISTS:
        items = [_item(column.id, column.type, each) for each in value or ()]
        return _list(page, column, items, query, {})
    return _item(column.id, column.type, value.whole if isinstance(value, Calculated) else value)


def _value(page: Page, column: Column) -> Any:
    if column.type in ("created_time", "last_edited_time"):
        return shown_time(getattr(page, column.type))
    if column.type in ("created_by", "last_edited_by"):
        return page.values.get(column.id, user("somebody"))
    return page.values.get(column.id, EMPTY.get(column.type))


def _cut(kind: str, value: Sequence[Shape]) -> list[Shape]:
    if kind in ("relation", "people"):
        return list(value)[:REFERENCES_MAX]
    mentions = [index for index, part in enumerate(value) if part["type"] == "mention"]
    return list(value)[: mentions[REFERENCES_MAX] if len(mentions) > REFERENCES_MAX else None]


def _rollup(workspace: Workspace, page: Page, column: Column, query: Mapping[str, Sequence[str]]) -> Shape:
    function = column.config["function"]
    related = _related(workspace, page, column)
    if function == SHOW_ORIGINAL:
        items = [_item(column.id, kind, each) for kind, each in originals(workspace, column, related)]
        return _list(page, column, items, query, {"type": "array", "array": [], "function": function})
    over = column.config["relation_property_id"]
    items = [_item(quote(over, safe=""), "relation", {"id": each.id}) for each in related]
    result = {"type": "unsupported", "unsupported": {}, "function": function}
    if is_calculated_alone(function):
        result = calculate(workspace, column, related)
    answer = _list(page, column, items, query, result)
    if answer["has_more"]:
        answer["property_item"]["rollup"] = {"type": "incomplete", "incomplete": {}, "function": function}
    return answer


def _related(workspace: Workspace, page: Page, column: Column) -> list[Page]:
    over = quote(column.config.get("relation_property_id", ""), safe="")
    found = (workspace.find(each["id"]) for each in page.values.get(over, ()))
    return [each for each in found if each is not None]


def _list(
    page: Page, column: Column, items: Sequence[Shape], query: Mapping[str, Sequence[str]], result: Shape
) -> Shape:
    size = int(query.get("page_size", ["100"])[0])
    start = int(query.get("start_cursor", ["0"])[0])
    end = start + size
    next_cursor = str(end) if end < len(items) else None
    next_url = None
    if next_cursor is not None:
        next_url = f"https://api.notion.com/v1/pages/{page.id}/properties/{column.id}?start_cursor={next_cursor}"
    return {
        "object": "list",
        "results": list(items[start:end]),
        "next_cursor": next_cursor,
        "has_more": next_cursor is not None,
        "type": "property_item",
        "property_item": {"id": column.id, "next_url": next_url, "type": column.type, column.type: result},
    }


def _item(column_id: str, kind: str, value: Any) -> Shape:
    return {"object": "property_item", "id": column_id, "type": kind, kind: value}


# --- rollups ---------------------------------------------------------------------------------------------------------


def is_calculated_alone(function: str) -> bool:
    """Tell whether the endpoint of one property calculates a function."""
    return function not in _NOT_CALCULATED_ALONE


def calculate(workspace: Workspace, column: Column, related: Sequence[Page]) -> Shape:
    """Return the value of a rollup over some pages.

    Args:
        workspace: Has the pages.
        column: The rollup.
        related: The pages to aggregate.
    """
    function = column.config["function"]
    values = list(_values(workspace, column, related))
    if function in (SHOW_ORIGINAL, "show_unique"):
        return rollup("array", [{"type": kind, kind: value} for kind, value in values], function)
    if function == "earliest_date":
        dates = [value for _, value in values if value is not None]
        return rollup("date", min(dates, key=lambda each: str(each["start"]), default=None), function)
    return rollup("number", _NUMBERS[function]([value for _, value in values]), function)


def originals(workspace: Workspace, column: Column, related: Sequence[Page]) -> Iterator[tuple[str, Any]]:
    """Return the values of some pages one by one, with lists flattened."""
    for kind, value in _values(workspace, column, related):
        yield from ((kind, each) for each in value) if kind in _LISTS else ((kind, value),)


def _values(workspace: Workspace, column: Column, related: Sequence[Page]) -> Iterator[tuple[str, Any]]:
    wanted = quote(column.config["rollup_property_id"], safe="")
    for page in related:
        target = next(each for each in workspace.data_sources[page.data_source_id].columns if each.id == wanted)
        yield target.type, page.values.get(target.id, EMPTY.get(target.type))


_NUMBERS: Mapping[str, Callable[[Sequence[Any]], float]] = {
    "count": len,
    "sum": lambda values: sum(value or 0 for value in values),
    "median": lambda values: sorted(value or 0 for value in values)[len(values) // 2],
}
