"""Items to content and back: checked, sorted, and always the same bytes for the same items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from kernel.contracts import Dataset
from kernel.datasets.model import Content, Rejected
from kernel.fields import convert_each

# Keys of dictionaries in one order, so that equal items make equal bytes.
_ENCODER = msgspec.json.Encoder(order="deterministic")


def make_content(dataset: Dataset, items: Iterable[object]) -> Content:
    """Check items, sort them and encode them.

    Args:
        dataset: Says what an item is, its key and the order.
        items: Structs of the dataset, or mappings with their fields.
    """
    decoder = msgspec.json.Decoder(dataset.item)
    good: dict[Any, tuple[Any, bytes]] = {}
    rejected: list[Rejected] = []
    for index, item in enumerate(items):
        try:
            encoded = _ENCODER.encode(item)
            # A Struct does not check its fields when it is made; what is published must be what it says.
            checked = decoder.decode(encoded)
            key = getattr(checked, dataset.key)
            if key in good:
                raise ValueError(f"another item has the {dataset.key} {key!r:.80}")  # noqa: TRY301 - as all others
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as ex:
            rejected.append(Rejected(index, _reason(dataset, item, ex), _shown(item)))
        else:
            good[key] = (checked, _ENCODER.encode(checked))
    ordered = _sorted(dataset, [checked for checked, _ in good.values()])
    data = b"[" + b",".join(good[getattr(item, dataset.key)][1] for item in ordered) + b"]"
    return Content(hashlib.sha256(data).digest(), data, len(ordered), rejected)


def read_items(dataset: Dataset, data: bytes) -> tuple[Any, ...]:
    """Decode content into Structs.

    Raises:
        msgspec.ValidationError: The Struct has changed since, in a way that old items do not fit.
    """
    return msgspec.json.decode(data, type=tuple[dataset.item, ...])  # type: ignore[name-defined]


def sort_key(value: Any) -> tuple[bool, Any]:
    """Return by what a value of a field is sorted: nothing comes after everything."""
    return (value is None, value)


def _sorted(dataset: Dataset, items: Sequence[Any]) -> list[Any]:
    ordered = sorted(items, key=lambda item: sort_key(getattr(item, dataset.key)))
    for field in reversed(dataset.order):
        name = field.removeprefix("-")
        ordered.sort(key=lambda item: sort_key(getattr(item, name)), reverse=field != name)
    return ordered


def _reason(dataset: Dataset, item: object, error: Exception) -> str:
    if isinstance(item, Mapping):
        _, errors = convert_each(item, dataset.item)
        if errors:
            return "; ".join(f"{name}: {' '.join(messages)}" for name, messages in errors.items())
    return str(error).replace("`", "")


def _shown(item: object) -> Any:
    try:
        return msgspec.json.decode(_ENCODER.encode(item))
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return repr(item)[:1000]
