"""Turn what a source calls an item into one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from plugins.club.jsonpath import Path, find, parse_path
from plugins.club.model import ITEM_KINDS, DatasetName, Item

CONSTANT = "="
# Made of others, so that they always fit them.
_COMPUTED = frozenset({"id"})
_NAMED_BY: dict[DatasetName, str] = {"hero-metrics": "metric", "most-present": "member"}
_NUMBERS: dict[str, type] = {"value": float, "count": int}


class BadItemError(Exception):
    """An item is not what the mapping expects; the message says what is wrong with it, for people."""


def mappable_fields(dataset: DatasetName) -> tuple[str, ...]:
    """Return the fields of a dataset's items that a mapping may name."""
    return tuple(name for name in ITEM_KINDS[dataset].__struct_fields__ if name not in _COMPUTED)


class Mapper:
    """Makes items of one source.

    Args:
        dataset: What kind they are.
        mapping: By field, a path inside the source's item, or ``=`` and a constant. A field it does not name is looked
            for under its own name.
        feature: The feature of every item; None leaves it to the mapping.

    Raises:
        ValueError: The mapping names a field there is not, or something that is no path.
    """

    def __init__(self, dataset: DatasetName, mapping: Mapping[str, str], feature: str | None = None) -> None:
        fields = mappable_fields(dataset)
        for name in mapping:
            if name not in fields:
                raise ValueError(f"{name}: no such field; there are {', '.join(fields)}")
        if feature is not None and "feature" in mapping:
            raise ValueError("feature: is given twice, by the source and by its mapping")
        self._dataset = dataset
        self._constants = {name: text.removeprefix(CONSTANT) for name, text in mapping.items() if _is_constant(text)}
        if feature is not None:
            self._constants["feature"] = feature
        self._paths = {name: _path(name, mapping.get(name, name)) for name in fields if name not in self._constants}

    def make(self, raw: Any) -> Item:
        """Make an item.

        Raises:
            BadItemError: Something needed is missing, or is not what it should be.
        """
        values: dict[str, Any] = {name: _from_text(name, text) for name, text in self._constants.items()}
        for name, path in self._paths.items():
            found = find(raw, path)
            # Many APIs send null for what they have not got.
            if found is not msgspec.UNSET and found is not None:
                values[name] = _prepared(name, found)
        named_by = values.get(_NAMED_BY[self._dataset])
        if named_by is not None:
            values.setdefault("name", named_by)
        if self._dataset == "most-present":
            values["id"] = f"{values.get('feature')}/{values.get('member')}"
        try:
            return msgspec.convert(values, ITEM_KINDS[self._dataset])
        except msgspec.ValidationError as ex:
            raise BadItemError(_explain(ex)) from ex


def _is_constant(text: str) -> bool:
    return text.startswith(CONSTANT)


def _path(name: str, text: str) -> Path:
    try:
        return parse_path(text)
    except ValueError as ex:
        raise ValueError(f"{name}: {ex}") from ex


def _from_text(name: str, text: str) -> Any:
    if name == "tags":
        return [tag.strip() for tag in text.split(",") if tag.strip()]
    return _prepared(name, text)


def _prepared(name: str, value: Any) -> Any:
    """Bridge what APIs do not agree on: numbers sent as text, and whole numbers that identify somebody."""
    if name in _NUMBERS and isinstance(value, str):
        try:
            return msgspec.convert(value, _NUMBERS[name], strict=False)
        except msgspec.ValidationError:
            return value
    if name in {"metric", "member", "name"} and type(value) is int:
        return str(value)
    return value


def _explain(error: msgspec.ValidationError) -> str:
    reason, _, place = str(error).replace("`", "").partition(" - at ")
    field = place.removeprefix("$").removeprefix(".")
    return f"{field}: {reason}" if field else reason
