"""Items of other datasets in the place of the keys that an item holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kernel.contracts import Dataset
from kernel.datasets.views import HIDDEN_SHOWN_MAX, View


class Included(msgspec.Struct, frozen=True):
    """What became of the keys that a field of some items holds, each counted once.

    Args:
        items: Keys that made way for an item.
        missing: Keys of nothing; they are left out.
        hidden: Keys of items that the application does not see; they are left out.
        missing_keys: The first of them, where somebody wants it explained.
        hidden_keys: Likewise.
    """

    items: int
    missing: int
    hidden: int
    missing_keys: Sequence[str] | msgspec.UnsetType = msgspec.UNSET
    hidden_keys: Sequence[str] | msgspec.UnsetType = msgspec.UNSET


class Related(msgspec.Struct, frozen=True, eq=False):
    """Where the items are whose keys a field holds.

    Args:
        dataset: Of those items.
        view: What the application sees of them.
    """

    dataset: Dataset
    view: View


def relations_of(dataset: Dataset, shown: type[msgspec.Struct]) -> dict[str, str]:
    """Return the relations of a dataset that are left in what is shown of its items.

    Args:
        dataset: Which.
        shown: The Struct that is shown.

    Returns:
        By field, the name of the dataset whose keys it holds.
    """
    before, after = _types(dataset.item), _types(shown)
    return {field: name for field, name in dataset.relations.items() if before.get(field, str) == after.get(field)}


def include(
    items: Sequence[msgspec.Struct], related: Mapping[str, Related], *, explain: bool
) -> tuple[list[dict[str, Any]], dict[str, Included]]:
    """Put items in the place of keys.

    Args:
        items: Hold the keys.
        related: By field, where the others are.
        explain: Name the keys that are left out.

    Returns:
        The items as they are encoded, and by field what became of its keys.
    """
    shown = [msgspec.to_builtins(item, enc_hook=str) for item in items]
    return shown, {field: _include(items, shown, field, each, explain=explain) for field, each in related.items()}


def _types(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


def _include(
    items: Sequence[msgspec.Struct], shown: Sequence[dict[str, Any]], field: str, related: Related, *, explain: bool
) -> Included:
    found = _by_key(related.dataset, related.view.items)
    keys: dict[str, None] = {}
    for item, into in zip(items, shown, strict=True):
        held = getattr(item, field)
        name = item.__struct_encode_fields__[item.__struct_fields__.index(field)]
        if held is None or isinstance(held, str):
            into[name] = found.get(held)
            # An empty text is as good as none.
            held = (held,) if held else ()
        else:
            into[name] = [found[key] for key in held if key in found]
        keys.update(dict.fromkeys(held))
    there = _by_key(related.dataset, related.view.snapshot.items)
    missing = [key for key in keys if key not in there]
    hidden = [key for key in keys if key in there and key not in found]
    included = Included(len(keys) - len(missing) - len(hidden), len(missing), len(hidden))
    if not explain:
        return included
    return msgspec.structs.replace(
        included, missing_keys=missing[:HIDDEN_SHOWN_MAX], hidden_keys=hidden[:HIDDEN_SHOWN_MAX]
    )


def _by_key(dataset: Dataset, items: Sequence[Any]) -> dict[str | None, Any]:
    return {getattr(item, dataset.key): item for item in items}
