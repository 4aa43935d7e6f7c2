"""Values as the fields of items want them."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_NO_LETTERS = re.compile(r"[^a-z0-9]+")


def slugify(text: str) -> str:
    """Make a key out of a name: ``Über uns`` becomes ``uber-uns``."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return _NO_LETTERS.sub("-", plain).strip("-")


def as_text(value: Any) -> str:
    """Return a value as one text; of a value with parts, what people know it by."""
    if isinstance(value, dict):
        value = _known_by(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(as_text, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)


def as_texts(value: Any) -> list[str]:
    """Return a value as texts; nothing is none."""
    values = value if isinstance(value, list) else [value]
    return [text for text in map(as_text, values) if text]


def as_number(value: Any) -> Any:
    """Return a whole number as one; anything else as it is, for the item to refuse."""
    if isinstance(value, dict) and "number" in value:
        value = value["number"]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _known_by(value: dict[str, Any]) -> Any:
    """Return a part: a time, or a span as ISO 8601 writes it; of a file, the address that lasts, or else its name."""
    if "number" in value:
        number, prefix = value["number"], value.get("prefix")
        return f"{prefix}-{number}" if prefix else number
    if value.get("address") or value.get("name"):
        return value.get("url") or value.get("name") or value["address"]
    if "lat" in value:
        return f"{value['lat']}, {value['lon']}"
    if value.get("start") and value.get("end"):
        return f"{value['start']}/{value['end']}"
    return value.get("start") or value.get("state")
