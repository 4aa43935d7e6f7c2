"""Values that are longer than a page shows: 25 references, and what is calculated from no more than those.

A page says of a relation that there is more; of other values it only shows as many as it may. What may have been cut is
read by itself, to its end; what cannot have been cut is not, because each costs a request.
Sources: https://developers.notion.com/reference/page-property-values#paginated-page-properties
and https://developers.notion.com/reference/property-item-object
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from plugins.trace.notion.api import NotionApi
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.schema import Property, Schema
from plugins.trace.notion.values import read_value

_SHOWN_MAX = 25
_LISTS = frozenset({"title", "rich_text", "people", "relation"})
Given = Mapping[str, Any]


def witnesses(schema: Schema, columns: Collection[Property]) -> Sequence[str]:
    """Return ids of relations that have to come with some columns: they tell whether those may have been cut.

    A rollup goes over one relation. What a formula is made of its text does not say for certain: it may be any of them.
    """
    relations = [each.id for each in schema.properties if each.type == "relation"]
    wanted: dict[str, None] = {}
    for column in columns:
        if column.type == "rollup" and column.over is not None:
            wanted[column.over] = None
        elif column.type == "formula":
            wanted.update(dict.fromkeys(relations))
    return list(wanted)


def read_whole(api: NotionApi, page: Given, columns: Collection[Property]) -> Given:
    """Return a page whose values are whole.

    Args:
        api: Asks Notion.
        page: With these columns and their witnesses.
        columns: Those that are wanted.

    Raises:
        NotionError: A value cannot be read to its end.
    """
    shown = {each["id"]: each for each in page["properties"].values()}
    cut = [each for each in dict.fromkeys(columns) if each.id in shown and _may_be_cut(each, shown)]
    if not cut:
        return page
    whole = {each.id: _whole(api, page["id"], each, shown[each.id]) for each in cut}
    return {**page, "properties": {name: whole.get(p["id"], p) for name, p in page["properties"].items()}}


def _may_be_cut(column: Property, shown: Mapping[str, Given]) -> bool:
    given = shown[column.id]
    if given["type"] != column.type:
        # It is another column by now, which whoever reads the schema again will see.
        return False
    if column.type == "rollup":
        over = None if column.over is None else shown.get(column.over)
        # Of a relation that is not to be seen nobody knows how long it is.
        return over is None or _is_cut(over) or _is_cut_inside(given["rollup"])
    if column.type == "formula":
        return any(_is_cut(each) for each in shown.values() if each["type"] == "relation")
    return _is_cut(given)


def _is_cut(given: Given) -> bool:
    kind = given["type"]
    if kind == "relation" and "has_more" in given:
        return bool(given["has_more"])
    if kind in {"relation", "people"}:
        return len(given[kind] or ()) >= _SHOWN_MAX
    if kind in {"title", "rich_text"}:
        return sum(1 for part in given[kind] or () if part["type"] == "mention") >= _SHOWN_MAX
    return False


def _is_cut_inside(rollup: Given) -> bool:
    kind = rollup["type"]
    return kind == "incomplete" or (kind == "array" and any(_is_cut(each) for each in rollup["array"]))


def _whole(api: NotionApi, page_id: str, column: Property, shown: Given) -> Given:
    items: list[Given] = []
    last: Given = {}
    for part in api.property_items(page_id, column.id):
        last = part
        items += part.get("results", ())
    if last["object"] != "list":
        return last
    if column.type == "rollup":
        rollup = last["property_item"]["rollup"]
        if rollup["type"] == "array":
            rollup = {**rollup, "array": [_as_shown(each) for each in items]}
            _check_texts(column, shown, rollup)
        return {"id": column.id, "type": "rollup", "rollup": rollup}
    if column.type not in _LISTS:
        raise NotionError("changed", f"page {page_id}: {column.name} is no {column.type} any more", retry=True)
    return {"id": column.id, "type": column.type, column.type: [each[column.type] for each in items]}


def _as_shown(item: Given) -> Given:
    """Return an item as a page shows the value: as a list, where it may have several."""
    kind = item["type"]
    return {**item, kind: [item[kind]]} if kind in _LISTS else item


def _check_texts(column: Property, shown: Given, rollup: Given) -> None:
    """Make sure that texts came as wholes: of long rollups, Notion gives each part of a text as an item of its own."""
    before, after = (_texts(each) for each in (shown["rollup"], rollup))
    if before != after[: len(before)]:
        reason = f"{column.name} shows texts of several parts, of more than {_SHOWN_MAX} pages: they come in pieces"
        raise NotionError("refused", reason)


def _texts(rollup: Given) -> list[str]:
    shown = [each for each in rollup.get("array", ()) if each["type"] in {"title", "rich_text"}]
    return [text for each in shown if (text := read_value(each))]
