"""Property values as plain data, complete also where a page object shows only a part of them.

A value becomes text, numbers, booleans, None, or lists and mappings of these. Only what lasts and may be published:
files hosted by Notion have no URL, because it expires within an hour; people have a name or id, but no email address.

A page object shows at most 25 references of a property, and calculates formulas and rollups over those alone. A value
that may be truncated is retrieved separately; others are not, because each costs a request.

Sources: https://developers.notion.com/reference/page-property-values (also "Paginated page properties") and
https://developers.notion.com/reference/property-item-object
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.schema import Property, Schema

if TYPE_CHECKING:
    from plugins.trace.notion.client import NotionClient

Value = Any
# A property, a rollup or another object as Notion returns it.
Json = Mapping[str, Any]
_REFERENCES_MAX = 25
_LIST_TYPES = frozenset({"title", "rich_text", "people", "relation"})


def read_value(prop: Json) -> Value:
    """Return the value of a property as plain data.

    Args:
        prop: As in a page object: ``type``, and the value under the name of its type.

    Raises:
        ValueError: Its type is unknown, or Notion could not calculate it.
    """
    kind = prop["type"]
    if kind not in _READERS:
        raise ValueError(f"properties of type {kind!r:.40} cannot be read")
    return _READERS[kind](prop.get(kind))


def _text(parts: Any) -> str:
    return "".join(part["plain_text"] for part in parts or ())


def _name(option: Any) -> str | None:
    return None if option is None else option["name"]


def _names(options: Any) -> list[str]:
    return [option["name"] for option in options or ()]


def _plain(value: Any) -> Value:
    return value


def _user(user: Any) -> str | None:
    """Return the name of a person, bot or group; the id where Notion gives no name."""
    return None if user is None else user.get("name") or user["id"]


def _users(users: Any) -> list[str]:
    return [name for user in users or () if (name := _user(user)) is not None]


def _date(date: Any) -> Value:
    return None if date is None else {key: date.get(key) for key in ("start", "end", "time_zone")}


def _file(file: Json) -> Value:
    url = (file.get("external") or {}).get("url")
    return {"name": file["name"]} if url is None else {"name": file["name"], "url": url}


def _unique_id(unique_id: Any) -> Value:
    # The number is missing until Notion has assigned one.
    if unique_id is None or unique_id.get("number") is None:
        return None
    return {"prefix": unique_id.get("prefix"), "number": unique_id["number"]}


def _verification(verification: Any) -> Value:
    if verification is None:
        return None
    date, by = _date(verification.get("date")), _user(verification.get("verified_by"))
    return {"state": verification["state"], "date": date, "verified_by": by}


def _place(place: Any) -> Value:
    return None if place is None else {key: place.get(key) for key in ("name", "address", "lat", "lon")}


def _formula(formula: Json) -> Value:
    kind = formula["type"]
    if kind not in _CALCULATED:
        raise ValueError(f"Notion could not calculate it: the formula is {kind!r:.40}")
    return _CALCULATED[kind](formula.get(kind))


def _rollup(rollup: Json) -> Value:
    kind = rollup["type"]
    if kind == "array":
        values = [read_value(each) for each in rollup["array"]]
        return [each for value in values for each in (value if isinstance(value, list) else [value])]
    if kind not in _CALCULATED:
        raise ValueError(f"Notion could not calculate it: {rollup.get('function')} is {kind!r:.40}")
    return _CALCULATED[kind](rollup.get(kind))


_CALCULATED: Mapping[str, Callable[[Any], Value]] = {
    "string": _plain,
    "number": _plain,
    "boolean": _plain,
    "date": _date,
}
_READERS: Mapping[str, Callable[[Any], Value]] = {
    "title": _text,
    "rich_text": _text,
    "number": _plain,
    "checkbox": bool,
    "select": _name,
    "status": _name,
    "multi_select": _names,
    "date": _date,
    "people": _users,
    "created_by": _user,
    "last_edited_by": _user,
    "created_time": _plain,
    "last_edited_time": _plain,
    "files": lambda files: [_file(each) for each in files or ()],
    # Thousands of rows point to the same few pages: keep each id in memory once.
    "relation": lambda pages: [sys.intern(page["id"]) for page in pages or ()],
    "url": _plain,
    "email": _plain,
    "phone_number": _plain,
    "formula": _formula,
    "rollup": _rollup,
    "unique_id": _unique_id,
    "verification": _verification,
    "place": _place,
    # A button has no value.
    "button": lambda _: None,
}
READABLE_TYPES = frozenset(_READERS)


# --- values that are longer than a page object shows -----------------------------------------------------------------


def truncation_witnesses(schema: Schema, columns: Collection[Property]) -> Sequence[str]:
    """Return the ids of relations to request along with some columns: they tell whether those may be truncated.

    A rollup aggregates one relation. Which relations a formula uses cannot be read from its text with certainty: any
    of them may be one.
    """
    relations = [each.id for each in schema.properties if each.type == "relation"]
    witnesses: dict[str, None] = {}
    for column in columns:
        if column.type == "rollup" and column.over is not None:
            witnesses[column.over] = None
        elif column.type == "formula":
            witnesses.update(dict.fromkeys(relations))
    return list(witnesses)


def complete_values(client: NotionClient, page: Json, columns: Collection[Property]) -> Json:
    """Return a page object whose values are complete.

    Args:
        client: Sends the requests.
        page: With these columns and their truncation witnesses.
        columns: Those that are wanted.

    Raises:
        NotionError: A value cannot be read completely.
    """
    shown = {each["id"]: each for each in page["properties"].values()}
    truncated = [each for each in dict.fromkeys(columns) if each.id in shown and _may_be_truncated(each, shown)]
    if not truncated:
        return page
    complete = {each.id: _retrieve_value(client, page["id"], each, shown[each.id]) for each in truncated}
    return {**page, "properties": {name: complete.get(p["id"], p) for name, p in page["properties"].items()}}


def _may_be_truncated(column: Property, shown: Mapping[str, Json]) -> bool:
    prop = shown[column.id]
    if prop["type"] != column.type:
        # The column changed since the schema was read; the reader compares schemas at the end and rejects the export.
        return False
    if column.type == "rollup":
        relation = None if column.over is None else shown.get(column.over)
        # Without access to the relation its length is unknown.
        return relation is None or _is_truncated(relation) or _has_truncated_items(prop["rollup"])
    if column.type == "formula":
        return any(_is_truncated(each) for each in shown.values() if each["type"] == "relation")
    return _is_truncated(prop)


def _is_truncated(prop: Json) -> bool:
    kind = prop["type"]
    if kind == "relation" and "has_more" in prop:
        return bool(prop["has_more"])
    if kind in {"relation", "people"}:
        return len(prop[kind] or ()) >= _REFERENCES_MAX
    if kind in {"title", "rich_text"}:
        return sum(1 for part in prop[kind] or () if part["type"] == "mention") >= _REFERENCES_MAX
    return False


def _has_truncated_items(rollup: Json) -> bool:
    kind = rollup["type"]
    return kind == "incomplete" or (kind == "array" and any(_is_truncated(each) for each in rollup["array"]))


def _retrieve_value(client: NotionClient, page_id: str, column: Property, shown: Json) -> Json:
    """Return a property as a page object would show it without truncation."""
    items: list[Json] = []
    last: Json = {}
    for part in client.retrieve_property(page_id, column.id):
        last = part
        items += part.get("results", ())
    if last["object"] != "list":
        return last
    if column.type == "rollup":
        rollup = last["property_item"]["rollup"]
        if rollup["type"] == "array":
            rollup = {**rollup, "array": [_as_in_page(each) for each in items]}
            _ensure_texts_are_whole(column, shown, rollup)
        return {"id": column.id, "type": "rollup", "rollup": rollup}
    if column.type not in _LIST_TYPES:
        raise NotionError("changed", f"page {page_id}: {column.name} is no longer a {column.type}", retry=True)
    return {"id": column.id, "type": column.type, column.type: [each[column.type] for each in items]}


def _as_in_page(item: Json) -> Json:
    """Return a property item in the shape of a page object, where types with several values are lists."""
    kind = item["type"]
    return {**item, kind: [item[kind]]} if kind in _LIST_TYPES else item


def _ensure_texts_are_whole(column: Property, shown: Json, rollup: Json) -> None:
    """Reject a rollup of rich texts with several parts: Notion returns each part as a separate item."""
    before, after = (_rollup_texts(each) for each in (shown["rollup"], rollup))
    if before != after[: len(before)]:
        raise NotionError(
            "refused",
            f"{column.name} shows rich texts of more than {_REFERENCES_MAX} pages, some with several parts: Notion "
            "returns these in pieces",
        )


def _rollup_texts(rollup: Json) -> list[str]:
    texts = [each for each in rollup.get("array", ()) if each["type"] in {"title", "rich_text"}]
    return [text for each in texts if (text := read_value(each))]
