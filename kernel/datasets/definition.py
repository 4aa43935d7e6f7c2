"""What a dataset must be to be published and served."""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from typing import Any

import msgspec

from kernel.contracts import Dataset
from kernel.conversion import base_type, describe_type, is_sequence, struct_fields
from kernel.datasets.files import file_fields

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def validate_dataset(dataset: Dataset) -> None:
    """Refuse a dataset that cannot work.

    Raises:
        ValueError: Says what is wrong with it.
    """
    if not _NAME.fullmatch(dataset.name):
        raise ValueError(f"dataset {dataset.name!r:.80}: expected small letters, digits, '-' and '_'")
    if not dataset.item.__struct_config__.frozen:
        # All applications share the items; a filter that changed one would change it for all.
        raise ValueError(f"dataset {dataset.name!r}: {dataset.item.__name__} must be frozen")
    known = {field.name for field in struct_fields(dataset.item).values()}
    ordered = (field.removeprefix("-") for field in dataset.order)
    named = {dataset.key, *ordered, *file_fields(dataset), *dataset.relations}
    if unknown := sorted(named - known):
        raise ValueError(f"dataset {dataset.name!r}: {dataset.item.__name__} has no field {', '.join(unknown)}")


def find_wrong_relation(owned: Sequence[tuple[str, Dataset]]) -> tuple[str, ValueError] | None:
    """Find a dataset with a field that does not hold keys of the dataset it is said to.

    Whoever is left out for that takes datasets along, to which others may be related: ask again.

    Args:
        owned: Every dataset, with the plugin that returned it.

    Returns:
        The plugin, and what is wrong.
    """
    datasets = {dataset.name: dataset for _, dataset in owned}
    for owner, dataset in owned:
        for field, name in dataset.relations.items():
            if reason := _refused(dataset, field, name, datasets.get(name)):
                return owner, ValueError(f"dataset {dataset.name!r}: relation {field!r}: {reason}")
    return None


def _refused(dataset: Dataset, field: str, name: str, other: Dataset | None) -> str | None:
    if other is None:
        return f"there is no dataset {name!r}"
    if base_type(_type_of(other, other.key)) is not str:
        return f"keys of {name!r} are no texts"
    annotation = _type_of(dataset, field)
    held = typing.get_args(base_type(annotation))[0] if is_sequence(annotation) else annotation
    return (
        None if base_type(held) is str else f"expected str, str | None or tuple of str, not {describe_type(annotation)}"
    )


def _type_of(dataset: Dataset, name: str) -> Any:
    return next(field.type for field in msgspec.structs.fields(dataset.item) if field.name == name)
