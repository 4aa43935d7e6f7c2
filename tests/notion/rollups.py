"""What rollups come to.

Source: https://developers.notion.com/reference/page-property-values#rollup
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tests.notion.values import EMPTY, Shape, rollup
from tests.notion.workspace import Column, Page, Workspace

SHOW_ORIGINAL = "show_original"
_LISTS = frozenset({"title", "rich_text", "relation", "people"})
# What the endpoint of one property does not calculate.
_NOT_ALONE = frozenset({"show_unique", "unique", "median", "count_per_group", "percent_per_group"})


def is_calculated_alone(function: str) -> bool:
    """Tell whether the endpoint of one property calculates a function."""
    return function not in _NOT_ALONE


def calculate(workspace: Workspace, column: Column, related: Sequence[Page]) -> Shape:
    """Return what a rollup comes to, over these pages.

    Args:
        workspace: Where the pages are.
        column: The rollup.
        related: Pages that the relation leads to, as many as count.
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
    """Return the values of these pages one by one; those that are lists, flattened."""
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
