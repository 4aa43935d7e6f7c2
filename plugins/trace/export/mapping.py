"""Bind the fields of items to the columns of a data source, by the ids that columns keep when they are renamed."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal
from urllib.parse import unquote

import msgspec

from kernel import Dataset
from plugins.trace.export.fitting import Kind, MisfitError, convert, fitting_types, kinds_of
from plugins.trace.export.model import Row
from plugins.trace.export.texts import slugify
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.schema import Property, Schema
from plugins.trace.notion.values import READABLE, read_value
from plugins.trace.settings import Source

Trouble = Literal["missing", "renamed", "wrong type", "no source"]
_NAMED_MAX = 30


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

    def __str__(self) -> str:
        return f"{self.field}: {self.property!r} {self.trouble}: {self.detail}"


class Column(msgspec.Struct, frozen=True):
    """A field and where it comes from.

    Args:
        field: Of the item.
        kind: What it becomes.
        property: The column.
    """

    field: str
    kind: Kind
    property: Property


class Binding(msgspec.Struct, frozen=True):
    """A dataset's fields, bound to a schema.

    Args:
        key: The field that identifies an item.
        columns: Bound fields.
        named: What each name of the configuration was found to be.
        title: The column that every data source has.
        problems: What is wrong, or should be looked at.
    """

    key: str
    columns: tuple[Column, ...]
    named: Mapping[str, Property]
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

    def same_columns(self, named: Mapping[str, Property]) -> bool:
        """Tell whether the names of the configuration were the same columns, and rows have the same values in them.

        To rename or delete an option changes rows that nobody has edited; one that is new changes none.
        """
        mine, theirs = ({(name, c.id, c.type) for name, c in each.items()} for each in (self.named, named))
        return mine == theirs and all({*named[name].options} <= {*c.options} for name, c in self.named.items())

    def row(self, data_source_id: str, page: Mapping[str, Any]) -> Row:
        """Make a row of a page.

        Raises:
            ValueError: A value cannot be read, or a column is gone.
        """
        given = {each["id"]: each for each in page["properties"].values()}
        fields: dict[str, Any] = {}
        properties: dict[str, Any] = {}
        pages: list[str] = []
        misfits: list[str] = []
        for column in self.columns:
            value = _read(page["id"], column.property, given)
            if column.kind == "links" and _is_of_pages(given[column.property.id]):
                pages.append(column.field)
            try:
                made = convert(column.kind, value)
            except MisfitError as ex:
                misfits.append(f"{column.field}: {column.property.name!r}: {ex}")
                continue
            if column.kind == "any":
                properties[column.field] = made
            elif made is not None:
                fields[column.field] = made
        title = _read(page["id"], self.title, given)
        fields["name"] = fields.get("name") or title
        fields[self.key] = fields.get(self.key, "").strip() or slugify(title)
        created, edited = (datetime.fromisoformat(page[name]) for name in ("created_time", "last_edited_time"))
        return Row(page["id"], data_source_id, created, edited, fields, properties, tuple(pages), tuple(misfits))


def bind(
    dataset: Dataset, source: Source, schema: Schema, earlier: Mapping[str, Property], sources: Collection[str]
) -> Binding:
    """Bind a dataset's fields to the columns of a data source.

    Args:
        dataset: Whose items are made.
        source: Says which column is for which field.
        schema: The columns as they are.
        earlier: What each name of the configuration was when it was exported last: finds those that were renamed.
        sources: Datasets that are exported, which relations can lead to.

    Raises:
        NotionError: Columns are kept from us.
    """
    title = next((each for each in schema.properties if each.type == "title"), None)
    if title is None:
        where = schema.title or schema.data_source_id
        raise NotionError("refused", f"{where} comes without its columns: the connection may not read content")
    problems: list[Problem] = []
    columns: list[Column] = []
    named: dict[str, Property] = {}
    kinds = dict(kinds_of(dataset))
    wanted = [(field, name, kinds[field]) for field, name in source.fields.items()]
    further: list[tuple[str, str, Kind]] = [(field, name, "any") for field, name in source.properties.items()]
    for field, name, kind in (*wanted, *further):
        column = _find(schema, earlier, (field, name, kind), problems)
        if column is not None:
            target = dataset.relations.get(field) if kind == "links" else None
            problems += _misfits(Column(field, kind, column), name, target, sources)
            columns.append(Column(field, kind, column))
            named[name] = column
    return Binding(dataset.key, tuple(columns), named, title, tuple(problems))


def digest(source: Source, api_version: str) -> bytes:
    """Return a digest of what a source is made of: rows that were read under another one say nothing."""
    shape = [(field.name, str(field.type)) for field in msgspec.structs.fields(Row)]
    return hashlib.sha256(msgspec.json.encode((source, api_version, shape), order="sorted")).digest()


def _read(page_id: str, column: Property, given: Mapping[str, Mapping[str, Any]]) -> Any:
    if column.id not in given:
        raise ValueError(f"page {page_id} has no property {column.name!r}")
    try:
        return read_value(given[column.id])
    except ValueError as ex:
        raise ValueError(f"page {page_id}: property {column.name!r}: {ex}") from ex


def _is_of_pages(given: Mapping[str, Any]) -> bool:
    """Tell whether a value leads to pages; a rollup does that shows a relation."""
    parts = given["rollup"].get("array", ()) if given["type"] == "rollup" else (given,)
    return any(each["type"] == "relation" for each in parts)


def _find(
    schema: Schema, earlier: Mapping[str, Property], wanted: tuple[str, str, Kind], problems: list[Problem]
) -> Property | None:
    field, name, kind = wanted
    known = schema.by_id.get(earlier[name].id) if name in earlier else None
    found = schema.by_name.get(name) or _find_id(schema, name)
    if found is None and known is None:
        problems.append(Problem(field, name, "missing", f"{_instead(schema, name)}{_hint(kind)}"))
    elif found is None and known is not None:
        problems.append(Problem(field, name, "renamed", f"is called {known.name!r} now"))
    elif found is not None and known is not None and known.id != found.id:
        # Somebody may have replaced a column, or swapped two names.
        detail = f"was another column before, which is called {known.name!r} now"
        problems.append(Problem(field, name, "renamed", detail))
    return found or known


def _find_id(schema: Schema, text: str) -> Property | None:
    # Encoded for URLs, as Notion's API shows them, or not.
    return schema.by_id.get(text) or next((each for each in schema.properties if unquote(each.id) == text), None)


def _instead(schema: Schema, name: str) -> str:
    where = schema.title or schema.data_source_id
    plain = {each.casefold(): each for each in schema.by_name}
    if close := difflib.get_close_matches(name.casefold(), plain):
        return f"{where} has no such column; did you mean {' or '.join(repr(plain[each]) for each in close)}?"
    names = sorted(schema.by_name)
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return f"{where} has {', '.join(map(repr, names[:_NAMED_MAX]))}{more}"


def _hint(kind: Kind) -> str:
    # Notion keeps them back.
    return "; a relation shows only if what it leads to is shared as well" if kind == "links" else ""


def _misfits(column: Column, name: str, target: str | None, sources: Collection[str]) -> Iterator[Problem]:
    kind, given = column.kind, column.property.type
    if kind == "any":
        if given not in READABLE:
            yield Problem(column.field, name, "wrong type", f"is a {given}, which cannot be read")
    elif given not in fitting_types(kind):
        detail = f"is a {given}, expected {', '.join(sorted(fitting_types(kind)))}"
        yield Problem(column.field, name, "wrong type", detail)
    elif given == "relation" and target not in sources:
        yield Problem(column.field, name, "no source", f"leads to {target}, which [trace.sources] does not have")
