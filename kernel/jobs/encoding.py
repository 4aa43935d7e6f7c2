"""Values on their way into ``jsonb`` columns."""

from __future__ import annotations

from typing import Any

import msgspec
from psycopg.types.json import Jsonb


def encode_json(value: Any) -> Jsonb | None:
    """Make a value that a ``jsonb`` column takes; None stays none.

    Raises:
        TypeError: It cannot be JSON.
    """
    return None if value is None else Jsonb(without_nul(msgspec.to_builtins(value, str_keys=True)))


def without_nul(value: Any) -> Any:
    """Return a value without null characters: PostgreSQL's text has none."""
    if isinstance(value, str):
        return value.replace("\x00", "")
    if isinstance(value, dict):
        return {without_nul(key): without_nul(inner) for key, inner in value.items()}
    return [without_nul(inner) for inner in value] if isinstance(value, list | tuple) else value
