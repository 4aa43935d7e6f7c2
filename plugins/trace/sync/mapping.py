"""Map columns of Notion to fields of items: which column, which types are allowed, and how values are converted."""

from __future__ import annotations

import difflib
import hashlib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, get_args
from urllib.parse import unquote

import msgspec

from kernel import Dataset
from plugins.trace.datasets import mappable_fields
from plugins.trace.notion.errors import NotionError
from plugins.trace.notion.query import PageObject
from plugins.trace.notion.schema import Property, Schema
from plugins.trace.notion.values import READABLE_TYPES, read_value
from plugins.trace.settings import Source

# What a field holds: one text, a whole number, texts, keys of another dataset, or (under ``properties``) any value.
FieldKind = Literal["text", "number", "texts", "links", "any"]
ProblemKind = Literal["missing", "renamed", "wrong type", "no source"]
# The type of a formula or a rollup shows only in the values of each row.
_CALCULATED = {"formula", "rollup"}
_TEXTUAL = {"title", "rich_text", "select", "status", "url", "email", "phone_number", "unique_id", "date", "number"}
_TIMES = {"created_time", "last_edited_time"}
_COMPATIBLE_TYPES: Mapping[FieldKind, frozenset[str]] = {
    "text": frozenset(_TEXTUAL | _TIMES | _CALCULATED),
    "number": frozenset({"number", "unique_id"} | _CALCULATED),
    "texts": frozenset({"multi_select", "select", "status", "people", "files"} | _CALCULATED),
    # Pages, or the names of items.
    "links": frozenset({"relation", "multi_select", "select", "status"} | _CALCULATED),
}
_NAMED_MAX = 30
# In a slug: what is ASCII, but neither letter nor digit.
_SEPARATORS = re.compile(r"[\x00-/:-`{-\x7f]+")
_WORD_SIGNS = re.compile(r"(?<=[^\W_])[+#]+(?![^\W_])")
_SPELLED_SIGNS = {"+": "-plus", "#": "-sharp"}
# Latin letters that Unicode does not decompose into one of a to z and an accent.
_SPELLED_LETTERS = {
    "\N{LATIN SMALL LETTER DOTLESS I}": "i",
    "ł": "l",
    "ø": "o",
    "đ": "d",
    "ð": "d",
    "þ": "th",
    "æ": "ae",
    "œ": "oe",
    "ħ": "h",
    "ŧ": "t",
    "ŋ": "ng",
    "ə": "e",
}


class Row(msgspec.Struct, frozen=True):
    """A row of a source, reduced to the mapped columns. Stored as JSON.

    Args:
        id: Of its page.
        data_source_id: Where it is.
        created_time: As Notion says, to the minute.
        last_edited_time: The same.
        fields: Of the item; relations hold ids of pages.
        properties: Further values, under ``properties`` of the item.
        page_fields: Fields that hold ids of pages, and not names.
        errors: Values that could not be converted: no item can be made of the row.
    """

    id: str
    data_source_id: str
    created_time: datetime
    last_edited_time: datetime
    fields: Mapping[str, Any]
    properties: Mapping[str, Any] = {}
    page_fields: tuple[str, ...] = msgspec.field(default=(), name="pages")
    errors: tuple[str, ...] = msgspec.field(default=(), name="misfits")


class MappingProblem(msgspec.Struct, frozen=True):
    """Why a field cannot be filled, or a warning.

    Args:
        field: Of the item.
        column: As configured.
        kind: ``renamed`` does not prevent an export: the column is found by its id.
        detail: For people.
    """

    field: str
    column: str
    kind: ProblemKind
    detail: str

    def __str__(self) -> str:
        return f"{self.field}: {self.column!r} {self.kind}: {self.detail}"


class MappedColumn(msgspec.Struct, frozen=True):
    """A field, and the column that fills it.

    Args:
        field: Of the item.
        kind: What the field holds.
        property: The column.
    """

    field: str
    kind: FieldKind
    property: Property


class ColumnMapping(msgspec.Struct, frozen=True):
    """The mapping of a data source's columns to a dataset's fields.

    Args:
        key: The field that identifies an item.
        columns: Those that were found.
        by_name: The column of each configured name.
        title: The column that every data source has.
        problems: What is wrong, or should be looked at.
    """

    key: str
    columns: tuple[MappedColumn, ...]
    by_name: Mapping[str, Property]
    title: Property
    problems: tuple[MappingProblem, ...]

    @property
    def errors(self) -> tuple[MappingProblem, ...]:
        """The problems that prevent an export."""
        return tuple(each for each in self.problems if each.kind != "renamed")

    @property
    def property_ids(self) -> tuple[str, ...]:
        """The ids of the columns to request."""
        return tuple(dict.fromkeys([self.title.id, *(column.property.id for column in self.columns)]))

    def is_compatible(self, earlier: Mapping[str, Property]) -> bool:
        """Tell whether rows that were read with earlier columns still have the same values.

        Renaming or deleting an option changes rows without counting as an edit of them; adding one changes none.

        Args:
            earlier: The column that each configured name stood for.
        """
        mine, theirs = ({(name, c.id, c.type) for name, c in each.items()} for each in (self.by_name, earlier))
        return mine == theirs and all({*earlier[name].options} <= {*c.options} for name, c in self.by_name.items())

    def make_row(
        self, data_source_id: str, page: PageObject, published_key: Callable[[str], str | None] = lambda _: None
    ) -> Row:
        """Convert a page object to a row.

        Args:
            data_source_id: Where the page is.
            page: From the API.
            published_key: Returns the key under which a page is published, by its id.

        Raises:
            ValueError: A value cannot be read, or a column is gone.
        """
        shown = {each["id"]: each for each in page["properties"].values()}
        fields: dict[str, Any] = {}
        properties: dict[str, Any] = {}
        page_fields: list[str] = []
        errors: list[str] = []
        for column in self.columns:
            value = _read_column(page["id"], column.property, shown)
            if column.kind == "links" and _holds_pages(shown[column.property.id]):
                page_fields.append(column.field)
            try:
                converted = convert(column.kind, value)
            except ConversionError as ex:
                errors.append(f"{column.field}: {column.property.name!r}: {ex}")
                continue
            if column.kind == "any":
                properties[column.field] = converted
            elif converted is not None:
                fields[column.field] = converted
        title = _read_column(page["id"], self.title, shown)
        fields["name"] = fields.get("name") or title
        fields[self.key] = fields.get(self.key, "").strip() or _derive_key(title, page["id"], published_key)
        created, edited = (datetime.fromisoformat(page[name]) for name in ("created_time", "last_edited_time"))
        return Row(page["id"], data_source_id, created, edited, fields, properties, tuple(page_fields), tuple(errors))


# --- which column ----------------------------------------------------------------------------------------------------


def map_columns(
    dataset: Dataset, source: Source, schema: Schema, earlier: Mapping[str, Property], sources: Collection[str]
) -> ColumnMapping:
    """Map the columns of a data source to the fields of a dataset's items.

    Args:
        dataset: Whose items are made.
        source: Maps columns to fields.
        schema: The columns as they are.
        earlier: The column that each configured name stood for in the last export: finds renamed ones by their id.
        sources: Datasets that are exported, which relations can point to.

    Raises:
        NotionError: Notion does not show the columns to the connection.
    """
    title = next((each for each in schema.properties if each.type == "title"), None)
    if title is None:
        name = schema.title or schema.data_source_id
        raise NotionError("refused", f"{name} has no columns: the connection lacks the capability to read content")
    problems: list[MappingProblem] = []
    columns: list[MappedColumn] = []
    by_name: dict[str, Property] = {}
    kinds = dict(_field_kinds(dataset))
    fields = [(field, name, kinds[field]) for field, name in source.fields.items()]
    properties: list[tuple[str, str, FieldKind]] = [(field, name, "any") for field, name in source.properties.items()]
    for field, name, kind in (*fields, *properties):
        column = _find_column(schema, earlier, (field, name, kind), problems)
        if column is not None:
            target = dataset.relations.get(field) if kind == "links" else None
            mapped = MappedColumn(field, kind, column)
            problems += _type_problems(mapped, name, target, sources)
            columns.append(mapped)
            by_name[name] = column
    return ColumnMapping(dataset.key, tuple(columns), by_name, title, tuple(problems))


def mapping_digest(source: Source, api_version: str) -> bytes:
    """Return a digest of everything that rows depend on besides Notion: under another one, stored rows are useless."""
    row_format = [(field.encode_name, str(field.type)) for field in msgspec.structs.fields(Row)]
    return hashlib.sha256(msgspec.json.encode((source, api_version, row_format), order="sorted")).digest()


def _derive_key(title: str, page_id: str, published_key: Callable[[str], str | None]) -> str:
    key, earlier = slugify(title), earlier_slug(title)
    # What an earlier version published under such a key keeps it: others may refer to it.
    return earlier if earlier and earlier != key and published_key(page_id) == earlier else key


def _read_column(page_id: str, column: Property, shown: Mapping[str, Mapping[str, Any]]) -> Any:
    if column.id not in shown:
        raise ValueError(f"page {page_id} has no property {column.name!r}")
    try:
        return read_value(shown[column.id])
    except ValueError as ex:
        raise ValueError(f"page {page_id}: property {column.name!r}: {ex}") from ex


def _holds_pages(prop: Mapping[str, Any]) -> bool:
    """Tell whether a value consists of ids of pages, as of a relation, or of a rollup that shows one."""
    parts = prop["rollup"].get("array", ()) if prop["type"] == "rollup" else (prop,)
    return any(each["type"] == "relation" for each in parts)


def _find_column(
    schema: Schema,
    earlier: Mapping[str, Property],
    wanted: tuple[str, str, FieldKind],
    problems: list[MappingProblem],
) -> Property | None:
    """Find a column by its name or id, or else by the id it had in the last export; add to the problems."""
    field, name, kind = wanted
    known = schema.by_id.get(earlier[name].id) if name in earlier else None
    found = schema.by_name.get(name) or _find_by_id(schema, name)
    if found is None and known is None:
        problems.append(MappingProblem(field, name, "missing", f"{_suggest_columns(schema, name)}{_access_hint(kind)}"))
    elif found is None and known is not None:
        problems.append(MappingProblem(field, name, "renamed", f"is now called {known.name!r}"))
    elif found is not None and known is not None and known.id != found.id:
        # A column was replaced, or two swapped their names.
        detail = f"was another column before, which is now called {known.name!r}"
        problems.append(MappingProblem(field, name, "renamed", detail))
    return found or known


def _find_by_id(schema: Schema, text: str) -> Property | None:
    # Percent-encoded, as the API shows ids, or decoded.
    return schema.by_id.get(text) or next((each for each in schema.properties if unquote(each.id) == text), None)


def _suggest_columns(schema: Schema, name: str) -> str:
    where = schema.title or schema.data_source_id
    folded = {each.casefold(): each for each in schema.by_name}
    if close := difflib.get_close_matches(name.casefold(), folded):
        return f"{where} has no such column; did you mean {' or '.join(repr(folded[each]) for each in close)}?"
    names = sorted(schema.by_name)
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return f"{where} has {', '.join(map(repr, names[:_NAMED_MAX]))}{more}"


def _access_hint(kind: FieldKind) -> str:
    return "; Notion shows a relation only if its target is shared as well" if kind == "links" else ""


# --- which type ------------------------------------------------------------------------------------------------------


def _field_kinds(dataset: Dataset) -> Iterator[tuple[str, FieldKind]]:
    """Return the fields that a column can fill, each with what it holds."""
    types = {field.name: field.type for field in msgspec.structs.fields(dataset.item)}
    for name in mappable_fields(dataset):
        if name in dataset.relations:
            yield name, "links"
            continue
        parts = set(get_args(types[name])) or {types[name]}
        yield name, "number" if int in parts else "texts" if ... in parts else "text"


def _type_problems(
    column: MappedColumn, name: str, target: str | None, sources: Collection[str]
) -> Iterator[MappingProblem]:
    kind, actual = column.kind, column.property.type
    if kind == "any":
        if actual not in READABLE_TYPES:
            yield MappingProblem(column.field, name, "wrong type", f"is a {actual}, which cannot be read")
    elif actual not in _COMPATIBLE_TYPES[kind]:
        detail = f"is a {actual}, expected {', '.join(sorted(_COMPATIBLE_TYPES[kind]))}"
        yield MappingProblem(column.field, name, "wrong type", detail)
    elif actual == "relation" and target not in sources:
        detail = f"points to {target}, which [trace.sources] does not have"
        yield MappingProblem(column.field, name, "no source", detail)


# --- which value -----------------------------------------------------------------------------------------------------


class ConversionError(ValueError):
    """A value cannot be converted to what its field holds."""


def convert(kind: FieldKind, value: Any) -> Any:
    """Convert a value to what a field holds; None where there is no value.

    Raises:
        ConversionError: It cannot be: a formula or a rollup has a value of another type, or a number is not whole.
    """
    return value if kind == "any" else _CONVERTERS[kind](value)


def _to_text(value: Any) -> str | None:
    if isinstance(value, list) and len(value) > 1:
        raise ConversionError(f"expected one text, there are {len(value)}")
    return None if value is None else as_text(value)


def _to_whole_number(value: Any) -> int | None:
    number = as_number(value)
    if number is None or type(number) is int:
        return number
    raise ConversionError(f"expected a whole number, got {as_text(value)!r:.80}")


def _to_names(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    for each in values:
        if not isinstance(each, str | None):
            raise ConversionError(f"expected names, got {as_text(each)!r:.80}")
    return as_texts(values)


def slugify(text: str) -> str:
    """Make a key out of a name, without losing a letter.

    Latin letters lose their accents: ``Über uns`` becomes ``uber-uns``, and ``Straße`` ``strasse``. Those of other
    scripts stay: ``Приложение 1`` becomes ``приложение-1``. Signs at the end of a word are spelled: ``C++`` becomes
    ``c-plus-plus``.
    """
    spelled = _WORD_SIGNS.sub(lambda signs: "".join(_SPELLED_SIGNS[sign] for sign in signs[0]), text)
    kept: list[str] = []
    for char in unicodedata.normalize("NFKD", spelled).casefold():
        if char.isascii():
            kept.append(char)
        elif char.isalnum():
            kept.append(_SPELLED_LETTERS.get(char, char))
        elif kept and not kept[-1].isascii() and unicodedata.category(char).startswith("M"):
            # In other scripts a mark makes another letter of one, or is a vowel.
            kept.append(char)
    return _SEPARATORS.sub("-", unicodedata.normalize("NFC", "".join(kept))).strip("-")


def earlier_slug(text: str) -> str:
    """Return the key that earlier versions made out of a name: they dropped letters that are not Latin."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return _SEPARATORS.sub("-", plain).strip("-")


def as_text(value: Any) -> str:
    """Return a value as one text; for a composite value, its most telling part."""
    if isinstance(value, dict):
        value = _representative_part(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(as_text, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)


def as_texts(value: Any) -> list[str]:
    """Return a value as a list of texts, without empty ones."""
    values = value if isinstance(value, list) else [value]
    return [text for text in map(as_text, values) if text]


def as_number(value: Any) -> Any:
    """Return an integer where a value is one (also a float, or the number of a unique id); else the value itself."""
    if isinstance(value, dict) and "number" in value:
        value = value["number"]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _representative_part(value: dict[str, Any]) -> Any:
    """Return a number with its prefix, the URL or name of a file, a place, a time, or an interval as in ISO 8601."""
    if "number" in value:
        number, prefix = value["number"], value.get("prefix")
        return f"{prefix}-{number}" if prefix else number
    if value.get("address") or value.get("name"):
        return value.get("url") or value.get("name") or value["address"]
    if "lat" in value:
        return f"{value['lat']}, {value['lon']}"
    if value.get("start") and value.get("end"):
        return f"{value['start']}/{value['end']}"
    return value.get("start") or value.get("state")


_CONVERTERS = {"text": _to_text, "number": _to_whole_number, "texts": as_texts, "links": _to_names}
