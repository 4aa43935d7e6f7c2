"""Which columns can fill which fields, and which of their values do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import msgspec

from kernel import Dataset
from plugins.trace.datasets import mappable_fields
from plugins.trace.export.texts import as_number, as_text, as_texts

Kind = Literal["text", "number", "texts", "links", "any"]
# A formula or a rollup shows what it is only in each row.
_CALCULATED = {"formula", "rollup"}
_WORDS = {"title", "rich_text", "select", "status", "url", "email", "phone_number", "unique_id", "date", "number"}
_TIMES = {"created_time", "last_edited_time"}
_FITS: Mapping[Kind, frozenset[str]] = {
    "text": frozenset(_WORDS | _TIMES | _CALCULATED),
    "number": frozenset({"number", "unique_id"} | _CALCULATED),
    "texts": frozenset({"multi_select", "select", "status", "people", "files"} | _CALCULATED),
    # They lead to pages, or name what they lead to.
    "links": frozenset({"relation", "multi_select", "select", "status"} | _CALCULATED),
}


class MisfitError(ValueError):
    """A value is nothing that its field can hold."""


def kinds_of(dataset: Dataset) -> Iterator[tuple[str, Kind]]:
    """Return the fields that a column can be for, each with what it holds."""
    types = {field.name: field.type for field in msgspec.structs.fields(dataset.item)}
    for name in mappable_fields(dataset):
        parts = set(get_args(types[name])) or {types[name]}
        yield name, "links" if name in dataset.relations else _kind(parts)


def fitting_types(kind: Kind) -> frozenset[str]:
    """Return the types of columns that a field can be made of."""
    return _FITS[kind]


def convert(kind: Kind, value: Any) -> Any:
    """Return a value as a field holds it; None where there is nothing to hold.

    Raises:
        MisfitError: It cannot: a formula or a rollup that comes to something else, or half a number.
    """
    return value if kind == "any" else _CONVERT[kind](value)


def _kind(parts: set[Any]) -> Kind:
    if int in parts:
        return "number"
    return "texts" if ... in parts else "text"


def _one_text(value: Any) -> str | None:
    if isinstance(value, list) and len(value) > 1:
        raise MisfitError(f"expected one text, there are {len(value)}")
    return None if value is None else as_text(value)


def _whole_number(value: Any) -> int | None:
    number = as_number(value)
    if number is None or type(number) is int:
        return number
    raise MisfitError(f"expected a whole number, got {as_text(value)!r:.80}")


def _names(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    for each in values:
        if not isinstance(each, str | None):
            raise MisfitError(f"expected names, got {as_text(each)!r:.80}")
    return as_texts(values)


_CONVERT = {"text": _one_text, "number": _whole_number, "texts": as_texts, "links": _names}
