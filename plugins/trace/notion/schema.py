"""The schema of a data source: its properties by name, and what tells it from an earlier one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

_CHOSEN = frozenset({"select", "multi_select", "status"})


class Property(msgspec.Struct, frozen=True, order=True):
    """A column.

    Args:
        id: Stays when the column is renamed.
        name: As people see it.
        type: Such as ``rich_text``.
        target: Of a relation, the data source that it leads to.
        over: Of a rollup, the relation that it goes over; None if that is not to be seen.
        options: Of a select, a multi-select or a status, the ids and names of what can be chosen.
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
        data_source_id: Whose.
        title: Of the data source, for people.
        properties: In the order of their ids.
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
        """The id of the column of unique ids; None if there is none. There cannot be two."""
        return next((each.id for each in self.properties if each.type == "unique_id"), None)

    @property
    def fingerprint(self) -> str:
        """A digest of ids, names, types and options: another one says that a column came, went or changed."""
        return hashlib.sha256(msgspec.json.encode(self.properties)).hexdigest()


def read_schema(answer: Mapping[str, Any]) -> Schema:
    """Read a data source as Notion describes it.

    Source: https://developers.notion.com/reference/data-source
    """
    given: Mapping[str, Any] = answer["properties"]
    # Ids are encoded for URLs, but not where one column names another.
    ids = {unquote(each["id"]): each["id"] for each in given.values()}
    properties = [
        Property(
            each["id"],
            name,
            each["type"],
            (each.get("relation") or {}).get("data_source_id"),
            ids.get(unquote((each.get("rollup") or {}).get("relation_property_id", ""))),
            _options(each),
        )
        for name, each in given.items()
    ]
    title = "".join(part.get("plain_text", "") for part in answer.get("title", ()))
    return Schema(answer["id"], title, tuple(sorted(properties)))


def _options(column: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    config = column.get(column["type"]) if column["type"] in _CHOSEN else None
    return tuple((each["id"], each["name"]) for each in (config or {}).get("options", ()))
