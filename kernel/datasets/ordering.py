"""The order of items: by any fields, whatever these hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any

_NUMBER, _TEXT, _TIME, _OTHER = range(4)


def ordered_by(items: Iterable[Any], order: Sequence[str]) -> list[Any]:
    """Sort items by fields; a leading ``-`` turns one around. Items without a value come last either way."""
    ordered = list(items)
    for field in reversed(order):
        name = field.removeprefix("-")
        there = [item for item in ordered if getattr(item, name) is not None]
        there.sort(key=lambda item: _rank(getattr(item, name)), reverse=field != name)
        if len(there) < len(ordered):
            there += [item for item in ordered if getattr(item, name) is None]
        ordered = there
    return ordered


def _rank(value: Any) -> tuple[int, Any]:
    # A field may hold several types, which Python does not compare with each other.
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return (_TEXT, value)
    if isinstance(value, int | float):
        return (_NUMBER, value)
    if isinstance(value, datetime):
        return (_TIME, value if value.tzinfo is not None else value.replace(tzinfo=UTC))
    return (_OTHER, str(value))
