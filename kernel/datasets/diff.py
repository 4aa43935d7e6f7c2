"""The difference between two views of a dataset, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from kernel.contracts import Dataset
from kernel.datasets.models import Snapshot
from kernel.datasets.views import View


class FieldChange(msgspec.Struct, frozen=True):
    """The two values of a field that changed."""

    before: Any
    after: Any


class Changed(msgspec.Struct, frozen=True):
    """An item that both versions have, with different fields.

    Args:
        key: Of the item.
        fields: The fields that differ, by name.
    """

    key: Any
    fields: dict[str, FieldChange]


class Difference(msgspec.Struct, frozen=True):
    """The difference between two versions.

    Args:
        dataset: Name of the dataset.
        from_version: The earlier version.
        to_version: The later version.
        added: Items that only the later version has.
        removed: Items that only the earlier version has.
        changed: Items that both have, with different fields.
        unchanged: Number of items that are equal.
    """

    dataset: str
    from_version: int
    to_version: int
    added: Sequence[Any]
    removed: Sequence[Any]
    changed: Sequence[Changed]
    unchanged: int


def compare_views(earlier: View, later: View) -> Difference:
    """Compare two views of one dataset; items with equal keys are the same item."""
    dataset = later.dataset
    before = {getattr(item, dataset.key): item for item in earlier.items}
    after = {getattr(item, dataset.key): item for item in later.items}
    both = [key for key in after if key in before]
    changed = [Changed(key, _fields(before[key], after[key])) for key in both if before[key] != after[key]]
    return Difference(
        dataset=dataset.name,
        from_version=earlier.snapshot.version,
        to_version=later.snapshot.version,
        added=[item for key, item in after.items() if key not in before],
        removed=[item for key, item in before.items() if key not in after],
        changed=changed,
        unchanged=len(both) - len(changed),
    )


def preview_publication(dataset: Dataset, current: View | None, items: tuple[Any, ...]) -> Difference:
    """Compare the current version with what publishing some items would make of it.

    Args:
        dataset: The dataset.
        current: Its current version, unfiltered; None before the first.
        items: The items.

    Returns:
        The difference; from and to the same version where publishing would change nothing.
    """
    before = current or View(dataset, _unpublished(dataset, 0, ()), ())
    later = View(dataset, _unpublished(dataset, before.snapshot.version + 1, items), items)
    difference = compare_views(before, later)
    if not (difference.added or difference.removed or difference.changed):
        return msgspec.structs.replace(difference, to_version=difference.from_version)
    return difference


def _unpublished(dataset: Dataset, version: int, items: tuple[Any, ...]) -> Snapshot:
    now = datetime.now(UTC)
    return Snapshot(dataset.name, version, "", now, items, 0, now)


def _fields(before: msgspec.Struct, after: msgspec.Struct) -> dict[str, FieldChange]:
    return {
        name: FieldChange(getattr(before, name), getattr(after, name))
        for name in after.__struct_fields__
        if getattr(before, name) != getattr(after, name)
    }
