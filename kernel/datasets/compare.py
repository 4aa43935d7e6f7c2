"""What differs between two views of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from kernel.contracts import Dataset
from kernel.datasets.model import Snapshot
from kernel.datasets.views import View


class FieldChange(msgspec.Struct, frozen=True):
    """A field with another value than before."""

    before: Any
    after: Any


class Changed(msgspec.Struct, frozen=True):
    """An item that is in both.

    Args:
        key: Of the item.
        fields: Those that differ, by name.
    """

    key: Any
    fields: dict[str, FieldChange]


class Difference(msgspec.Struct, frozen=True):
    """What differs between two versions.

    Args:
        dataset: Its name.
        from_version: The earlier one.
        to_version: The later one.
        added: Items that only the later has.
        removed: Items that only the earlier has.
        changed: Items that both have, with other fields.
        unchanged: How many items are the same.
    """

    dataset: str
    from_version: int
    to_version: int
    added: Sequence[Any]
    removed: Sequence[Any]
    changed: Sequence[Changed]
    unchanged: int


def compare(dataset: Dataset, earlier: View, later: View) -> Difference:
    """Compare two views of a dataset, item by item, by their keys."""
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


def preview(dataset: Dataset, earlier: View | None, items: tuple[Any, ...]) -> Difference:
    """Compare what serves with what would be published; the same version where nothing differs.

    Args:
        dataset: Which.
        earlier: What serves; None if nothing does.
        items: What would.
    """
    before = earlier or View(_snapshot(dataset, 0, ()), ())
    later = View(_snapshot(dataset, before.snapshot.version + 1, items), items)
    difference = compare(dataset, before, later)
    if not (difference.added or difference.removed or difference.changed):
        return msgspec.structs.replace(difference, to_version=difference.from_version)
    return difference


def _snapshot(dataset: Dataset, version: int, items: tuple[Any, ...]) -> Snapshot:
    return Snapshot(dataset.name, version, "", datetime.now(UTC), items, 0)


def _fields(before: msgspec.Struct, after: msgspec.Struct) -> dict[str, FieldChange]:
    return {
        name: FieldChange(getattr(before, name), getattr(after, name))
        for name in after.__struct_fields__
        if getattr(before, name) != getattr(after, name)
    }
