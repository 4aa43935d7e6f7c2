"""Values on their way into ``jsonb`` columns."""

from __future__ import annotations

from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from kernel.conversion import strip_nul


def encode_json(value: Any) -> Jsonb | None:
    """Make a value that a ``jsonb`` column takes; None stays none.

    Raises:
        TypeError: It cannot be JSON.
    """
    return None if value is None else Jsonb(strip_nul(msgspec.to_builtins(value, str_keys=True)))
