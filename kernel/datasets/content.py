"""Items to content and back: checked, sorted, and always the same bytes for the same items."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from kernel.contracts import Dataset
from kernel.conversion import UNKNOWN, convert_fields
from kernel.datasets.model import Content, Rejected
from kernel.datasets.ordering import ordered_by

# Keys of dictionaries in one order, so that equal items make equal bytes.
_ENCODER = msgspec.json.Encoder(order="deterministic")
# What is wrong with an item, not with us.
_BAD_ITEM = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)


def make_content(dataset: Dataset, items: Iterable[object], aside: Sequence[Rejected] = ()) -> Content:
    """Check items, sort them and encode them.

    Args:
        dataset: Says what an item is, its key and the order.
        items: Structs of the dataset, or mappings with their fields.
        aside: What whoever gives the items has rejected already.
    """
    decoder = msgspec.json.Decoder(dataset.item)
    # Of an item only what it is sorted by stays an object: there may be many, and each is here as it came already.
    names = tuple(dict.fromkeys([*(field.removeprefix("-") for field in dataset.order), dataset.key]))
    sortable: Any = msgspec.defstruct("Sortable", [*names, "encoded_"])
    good: dict[Any, Any] = {}
    rejected: list[Rejected] = list(aside)
    for index, item in enumerate(items):
        try:
            encoded = _ENCODER.encode(item)
            if b"null" in encoded and not _is_finite(item):
                raise ValueError("JSON has no NaN and no infinity")
            # A Struct does not check its fields when it is made; what is published must be what it says.
            checked = decoder.decode(encoded)
            key = getattr(checked, dataset.key)
            if key in good:
                raise ValueError(f"another item has the {dataset.key} {key!r:.80}")
        except _BAD_ITEM as ex:
            rejected.append(Rejected(index, _reason(dataset, item, ex), _shown(item)))
        else:
            good[key] = sortable(*(getattr(checked, name) for name in names), _ENCODER.encode(checked))
    # The key decides between equals.
    ordered = ordered_by(good.values(), (*dataset.order, dataset.key))
    data = b"".join([b"[", b",".join([each.encoded_ for each in ordered]), b"]"])
    return Content(hashlib.sha256(data).digest(), data, len(ordered), rejected)


def read_items(dataset: Dataset, data: bytes) -> tuple[Any, ...]:
    """Decode content into Structs.

    Raises:
        msgspec.ValidationError: The Struct has changed since, in a way that old items do not fit.
    """
    return msgspec.json.decode(data, type=tuple[dataset.item, ...])  # type: ignore[name-defined]


def _is_finite(value: object) -> bool:
    # msgspec writes null for NaN and infinity, which would pass where a field may be null.
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, msgspec.Struct):
        return all(_is_finite(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_finite, value))
    return True


def _reason(dataset: Dataset, item: object, error: Exception) -> str:
    if isinstance(item, Mapping) and isinstance(error, msgspec.ValidationError):
        _, errors = convert_fields(item, dataset.item)
        # A field too many is wrong only where the Struct says so; then it is what msgspec complains of.
        named = {name: messages for name, messages in errors.items() if messages != [UNKNOWN]}
        if named:
            return "; ".join(f"{name}: {' '.join(messages)}" for name, messages in named.items())
    return str(error).replace("`", "") or type(error).__name__


def _shown(item: object) -> Any:
    try:
        return msgspec.json.decode(_ENCODER.encode(item))
    except _BAD_ITEM:
        return repr(item)[:1000]
