"""The schema of a data source: its columns, and a fingerprint that changes with them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

_TYPES_WITH_OPTIONS = frozenset({"select", "multi_select", "status"})


class Property(msgspec.Struct, frozen=True, order=True):
    """A column.

    Args:
        id: Does not change when the column is renamed.
        name: For people.
        type: Such as ``rich_text``.
        target: The data source that a relation points to.
        over: The relation whose pages a rollup aggregates; None if the connection has no access to it.
        options: The ids and names of the options of a select, multi-select or status.
    """

    id: str
    name: str
    type: str
    target: str | None = None
    over: str | None = None
    options: tuple[tuple[str, str], ...] = ()


class Schema(msgspec.Struct, frozen=True):
    """The columns of a data source.

    Args:
        data_source_id: Which one.
        title: Of the data source, for people.
        properties: Ordered by id.
    """

    data_source_id: str
    title: str
    properties: tuple[Property, ...]

    @property
    def by_name(self) -> Mapping[str, Property]:
        """Columns by name."""
        return {each.name: each for each in self.properties}

    @property
    def by_id(self) -> Mapping[str, Property]:
        """Columns by id."""
        return {each.id: each for each in self.properties}

    @property
    def unique_id(self) -> str | None:
        """The id of the column of unique ids; None if there is none. A data source has one at most."""
        return next((each.id for each in self.properties if each.type == "unique_id"), None)

    @property
    def fingerprint(self) -> str:
        """A digest of ids, names, types and options; changes when a column is added, removed or altered."""
        return hashlib.sha256(msgspec.json.encode(self.properties)).hexdigest()


def read_schema(data_source: Mapping[str, Any]) -> Schema:
    """Return the schema of a data source object.

    Source: https://developers.notion.com/reference/data-source
    """
    columns: Mapping[str, Any] = data_source["properties"]
    # Ids are percent-encoded, except where one column refers to another.
    ids = {unquote(each["id"]): each["id"] for each in columns.values()}
    properties = [
        Property(
            each["id"],
            name,
            each["type"],
            (each.get("relation") or {}).get("data_source_id"),
            ids.get(unquote((each.get("rollup") or {}).get("relation_property_id", ""))),
            _options(each),
        )
        for name, each in columns.items()
    ]
    title = "".join(part.get("plain_text", "") for part in data_source.get("title", ()))
    return Schema(data_source["id"], title, tuple(sorted(properties)))


def _options(column: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    config = column.get(column["type"]) if column["type"] in _TYPES_WITH_OPTIONS else None
    return tuple((each["id"], each["name"]) for each in (config or {}).get("options", ()))
