"""The values of properties as plain data.

Source: https://developers.notion.com/reference/page-property-values
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Value = Any


def read_value(given: Mapping[str, Any]) -> Value:
    """Return the value of a property: texts, numbers, booleans, None, and lists and mappings of these.

    Args:
        given: As a page has it: ``id``, ``type``, and the value under the name of its type.

    Raises:
        ValueError: It is of a type we do not know.
    """
    kind = given["type"]
    if kind not in _READERS:
        raise ValueError(f"properties of type {kind!r:.40} cannot be read")
    return _READERS[kind](given.get(kind))


def _text(parts: Any) -> str:
    return "".join(part["plain_text"] for part in parts or ())


def _name(option: Any) -> str | None:
    return None if option is None else option["name"]


_READERS: Mapping[str, Callable[[Any], Value]] = {
    "title": _text,
    "rich_text": _text,
    "number": lambda number: number,
    "checkbox": bool,
    "select": _name,
    "status": _name,
    "multi_select": lambda options: [option["name"] for option in options or ()],
    "relation": lambda pages: [page["id"] for page in pages or ()],
    "url": lambda text: text,
    "email": lambda text: text,
    "phone_number": lambda text: text,
}
