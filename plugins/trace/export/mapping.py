"""Bind the fields of items to the columns of a data source, by the ids that columns keep when they are renamed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, get_args

import msgspec

from kernel import Dataset
from plugins.trace.export.model import Row
from plugins.trace.export.texts import as_number, as_text, as_texts, slugify
from plugins.trace.notion.schema import Property, Schema
from plugins.trace.notion.values import read_value
from plugins.trace.settings import Source

Kind = Literal["text", "number", "texts", "any"]
Trouble = Literal["unknown field", "missing", "renamed", "wrong type", "no source"]
_CONVERT = {"text": as_text, "number": as_number, "texts": as_texts}
# What a field of each kind can be made of. A formula or a rollup shows what it is only in each row.
_CALCULATED = {"formula", "rollup"}
_WORDS = {"title", "rich_text", "select", "status", "url", "email", "phone_number", "unique_id", "date", "number"}
_TIMES = {"created_time", "last_edited_time"}
_FITS: Mapping[Kind, frozenset[str]] = {
    "text": frozenset(_WORDS | _TIMES | _CALCULATED),
    "number": frozenset({"number", "unique_id"} | _CALCULATED),
    "texts": frozenset({"multi_select", "select", "status", "people", "files"} | _CALCULATED),
}
# Relations of items lead to pages, or name what they lead to.
_LINKS = frozenset({"relation", "multi_select", "select", "status"} | _CALCULATED)


class Problem(msgspec.Struct, frozen=True):
    """Why a field cannot be filled, or what somebody should look at.

    Args:
        field: Of the item.
        property: As configured.
        trouble: ``renamed`` is none for an export: the column is found by its id.
        detail: For people.
    """

    field: str
    property: str
    trouble: Trouble
    detail: str


class Column(msgspec.Struct, frozen=True):
    """A field and where it comes from.

    Args:
        field: Of the item.
        kind: What it becomes.
        property: The column.
        target: Of a field that holds keys of another dataset, the name of that.
    """

    field: str
    kind: Kind
    property: Property
    target: str | None = None


class Binding(msgspec.Struct, frozen=True):
    """A dataset's fields, bound to a schema.

    Args:
        key: The field that identifies an item.
        columns: Bound fields.
        title: The column that every data source has.
        problems: What is wrong, or should be looked at.
    """

    key: str
    columns: tuple[Column, ...]
    title: Property
    problems: tuple[Problem, ...]

    @property
    def failures(self) -> tuple[Problem, ...]:
        """What keeps an export from being right."""
        return tuple(each for each in self.problems if each.trouble != "renamed")

    @property
    def property_ids(self) -> tuple[str, ...]:
        """The columns that are needed."""
        return tuple(dict.fromkeys([self.title.id, *(column.property.id for column in self.columns)]))

    def same_columns(self, other: Binding) -> bool:
        """Tell whether another binding reads the same columns, of the same types."""
        mine, theirs = ({(c.field, c.property.id, c.property.type) for c in b.columns} for b in (self, other))
        return mine == theirs

    def row(self, data_source_id: str, page: Mapping[str, Any]) -> Row:
        """Make a row of a page.

        Raises:
            ValueError: A value cannot be read, or a column is gone.
        """
        given = {each["id"]: each for each in page["properties"].values()}
        fields: dict[str, Any] = {}
        properties: dict[str, Any] = {}
        pages: list[str] = []
        for column in self.columns:
            if column.property.id not in given:
                raise ValueError(f"page {page['id']} has no property {column.property.name!r}")
            value = read_value(given[column.property.id])
            if column.kind == "any":
                properties[column.field] = value
            elif column.target is not None:
                is_pages = column.property.type == "relation"
                fields[column.field] = value if is_pages else [slugify(text) for text in as_texts(value)]
                pages += [column.field] if is_pages else []
            elif value is not None:
                fields[column.field] = _CONVERT[column.kind](value)
        title = read_value(given[self.title.id])
        fields.setdefault("name", title)
        if not fields.get(self.key):
            fields[self.key] = slugify(title)
        created, edited = (datetime.fromisoformat(page[name]) for name in ("created_time", "last_edited_time"))
        return Row(page["id"], data_source_id, created, edited, fields, properties, tuple(pages))


def bind(dataset: Dataset, source: Source, schema: Schema, earlier: Schema | None, sources: Sequence[str]) -> Binding:
    """Bind a dataset's fields to the columns of a data source.

    Args:
        dataset: Whose items are made.
        source: Says which column is for which field.
        schema: The columns as they are.
        earlier: As they were when it was exported last: finds those that were renamed.
        sources: Datasets that are exported, which relations can lead to.
    """
    problems: list[Problem] = []
    columns: list[Column] = []
    kinds = dict(_kinds(dataset))
    for field, name in source.fields.items():
        if field not in kinds:
            known = ", ".join(kinds)
            problems.append(Problem(field, name, "unknown field", f"{dataset.name} have {known}"))
            continue
        column = _find(schema, earlier, field, name, problems)
        if column is not None:
            target = dataset.relations.get(field)
            problems += _misfits(field, kinds[field], column, target, sources)
            columns.append(Column(field, kinds[field], column, target))
    for field, name in source.properties.items():
        column = _find(schema, earlier, field, name, problems)
        if column is not None:
            columns.append(Column(field, "any", column))
    title = next(each for each in schema.properties if each.type == "title")
    return Binding(dataset.key, tuple(columns), title, tuple(problems))


def digest(source: Source) -> bytes:
    """Return a digest of what a source is made of: rows that were read under another one say nothing."""
    return hashlib.sha256(msgspec.json.encode(source, order="sorted")).digest()


def _find(schema: Schema, earlier: Schema | None, field: str, name: str, problems: list[Problem]) -> Property | None:
    found = schema.by_name.get(name) or schema.by_id.get(name)
    if found is not None:
        return found
    known = None if earlier is None else earlier.by_name.get(name)
    found = None if known is None else schema.by_id.get(known.id)
    if found is None:
        there = ", ".join(sorted(schema.by_name))
        problems.append(Problem(field, name, "missing", f"{schema.title or schema.data_source_id} has {there}"))
    else:
        problems.append(Problem(field, name, "renamed", f"is called {found.name!r} now"))
    return found


def _misfits(field: str, kind: Kind, column: Property, target: str | None, sources: Sequence[str]) -> Iterator[Problem]:
    fitting = _FITS[kind] if target is None else _LINKS
    if column.type not in fitting:
        detail = f"is a {column.type}, expected {', '.join(sorted(fitting))}"
        yield Problem(field, column.name, "wrong type", detail)
    elif column.type == "relation" and target not in sources:
        yield Problem(field, column.name, "no source", f"leads to {target}, which [trace.sources] does not have")


def _kinds(dataset: Dataset) -> Iterator[tuple[str, Kind]]:
    for field in msgspec.structs.fields(dataset.item):
        if field.name == "properties":
            continue
        types = set(get_args(field.type)) or {field.type}
        yield field.name, "number" if int in types else "text" if str in types and ... not in types else "texts"
