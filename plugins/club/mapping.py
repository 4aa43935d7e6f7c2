"""Map the items of a source's JSON to the items of a dataset.

A mapping names, for each field, a path into the source's item such as ``data.pages[0].members``: names separated by
dots, list indexes in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from plugins.club.models import ITEM_TYPES, DatasetName, Item

Path = tuple[str | int, ...]

CONSTANT_PREFIX = "="
_PATH_STEP = re.compile(r"\[(?P<index>\d{1,9})\]|(?P<dot>\.)?(?P<name>[^.\[\]]+)")
# Derived from other fields, and therefore always consistent with them.
_COMPUTED_FIELDS = frozenset({"id"})
# The field that identifies an item, and is its display name where the source has none.
_IDENTIFIERS: dict[DatasetName, str] = {"hero-metrics": "metric", "most-present": "member"}
_NUMBER_TYPES: dict[str, type] = {"value": float, "count": int}


class InvalidItemError(Exception):
    """An item of a source does not fit the dataset; the message names the field and the problem."""


def parse_path(text: str) -> Path:
    """Parse a path. The empty path is the document itself.

    Raises:
        ValueError: The text is not a path.
    """
    steps: list[str | int] = []
    position = 0
    while position < len(text):
        step = _PATH_STEP.match(text, position)
        # A dot separates a name from the step before it, and is allowed nowhere else.
        if step is None or (step["name"] is not None and (step["dot"] is not None) != (position > 0)):
            raise ValueError(f"{text!r:.80} is not a path: expected names separated by dots, and [indexes]")
        steps.append(int(step["index"]) if step["name"] is None else step["name"])
        position = step.end()
    return tuple(steps)


def look_up(document: Any, path: Path) -> Any:
    """Return the value at a path of decoded JSON, or ``msgspec.UNSET`` if there is none."""
    value = document
    for step in path:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and step < len(value) else msgspec.UNSET
        else:
            value = value.get(step, msgspec.UNSET) if isinstance(value, dict) else msgspec.UNSET
    return value


def mappable_fields(dataset: DatasetName) -> tuple[str, ...]:
    """Return the fields of a dataset's items that a mapping may set."""
    return tuple(name for name in ITEM_TYPES[dataset].__struct_fields__ if name not in _COMPUTED_FIELDS)


class Mapper:
    """Converts the items of one source.

    Args:
        dataset: The dataset they belong to.
        mapping: By field, a path into the source's item, or ``=`` followed by a constant. A field that it does not
            name is looked up under its own name.
        feature: The feature of every item; None leaves it to the mapping.

    Raises:
        ValueError: The mapping names an unknown field or contains an invalid path.
    """

    def __init__(self, dataset: DatasetName, mapping: Mapping[str, str], feature: str | None = None) -> None:
        fields = mappable_fields(dataset)
        for name in mapping:
            if name not in fields:
                raise ValueError(f"{name}: no such field; there are {', '.join(fields)}")
        if feature is not None and "feature" in mapping:
            raise ValueError("feature: set both by the source and by its mapping")
        self._dataset = dataset
        self._constants = {
            name: text.removeprefix(CONSTANT_PREFIX)
            for name, text in mapping.items()
            if text.startswith(CONSTANT_PREFIX)
        }
        if feature is not None:
            self._constants["feature"] = feature
        self._paths = {
            name: _parse_field_path(name, mapping.get(name, name)) for name in fields if name not in self._constants
        }

    def convert(self, raw: Any) -> Item:
        """Convert an item of the source's JSON.

        Raises:
            InvalidItemError: A required field is missing, or a field has an invalid value.
        """
        values: dict[str, Any] = {name: _parse_constant(name, text) for name, text in self._constants.items()}
        for name, path in self._paths.items():
            found = look_up(raw, path)
            # Many APIs send null for a field without a value.
            if found is not msgspec.UNSET and found is not None:
                values[name] = _coerce(name, found)
        identifier = values.get(_IDENTIFIERS[self._dataset])
        if identifier is not None:
            values.setdefault("name", identifier)
        if self._dataset == "most-present":
            values["id"] = f"{values.get('feature')}/{values.get('member')}"
        try:
            return msgspec.convert(values, ITEM_TYPES[self._dataset])
        except msgspec.ValidationError as ex:
            raise InvalidItemError(_describe(ex)) from ex


def _parse_field_path(name: str, text: str) -> Path:
    try:
        return parse_path(text)
    except ValueError as ex:
        raise ValueError(f"{name}: {ex}") from ex


def _parse_constant(name: str, text: str) -> Any:
    if name == "tags":
        return [tag.strip() for tag in text.split(",") if tag.strip()]
    return _coerce(name, text)


def _coerce(name: str, value: Any) -> Any:
    """Accept what APIs disagree on: numbers sent as text, and identifiers sent as integers."""
    if name in _NUMBER_TYPES and isinstance(value, str):
        try:
            return msgspec.convert(value, _NUMBER_TYPES[name], strict=False)
        except msgspec.ValidationError:
            return value
    if name in {"metric", "member", "name"} and type(value) is int:
        return str(value)
    return value


def _describe(error: msgspec.ValidationError) -> str:
    reason, _, location = str(error).replace("`", "").partition(" - at ")
    field = location.removeprefix("$").removeprefix(".")
    return f"{field}: {reason}" if field else reason
