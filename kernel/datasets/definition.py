"""What a dataset must be to be published and served."""

from __future__ import annotations

import re

from kernel.contracts import Dataset
from kernel.datasets.files import file_fields
from kernel.fields import struct_fields

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def refuse_wrong_dataset(dataset: Dataset) -> None:
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
    named = {dataset.key, *(field.removeprefix("-") for field in dataset.order), *file_fields(dataset)}
    if unknown := sorted(named - known):
        raise ValueError(f"dataset {dataset.name!r}: {dataset.item.__name__} has no field {', '.join(unknown)}")
