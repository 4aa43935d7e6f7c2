"""The values of properties as plain data: texts, numbers, booleans, None, and lists and mappings of these.

Only what lasts and may be shown: the address of a file that Notion hosts is gone within an hour, and of people there is
a name, or else their id, but never an address.
Source: https://developers.notion.com/reference/page-property-values
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

Value = Any
Given = Mapping[str, Any]


def read_value(given: Given) -> Value:
    """Return the value of a property.

    Args:
        given: As a page has it: ``type``, and the value under the name of its type.

    Raises:
        ValueError: It is of a type we do not know, or Notion could not calculate it.
    """
    kind = given["type"]
    if kind not in _READERS:
        raise ValueError(f"properties of type {kind!r:.40} cannot be read")
    return _READERS[kind](given.get(kind))


def _text(parts: Any) -> str:
    return "".join(part["plain_text"] for part in parts or ())


def _name(option: Any) -> str | None:
    return None if option is None else option["name"]


def _names(options: Any) -> list[str]:
    return [option["name"] for option in options or ()]


def _plain(value: Any) -> Value:
    return value


def _user(user: Any) -> str | None:
    """Return the name of a person, a bot or a group; of some Notion tells nothing but the id."""
    return None if user is None else user.get("name") or user["id"]


def _users(users: Any) -> list[str]:
    return [name for user in users or () if (name := _user(user)) is not None]


def _date(date: Any) -> Value:
    return None if date is None else {key: date.get(key) for key in ("start", "end", "time_zone")}


def _file(file: Given) -> Value:
    url = (file.get("external") or {}).get("url")
    return {"name": file["name"]} if url is None else {"name": file["name"], "url": url}


def _unique_id(given: Any) -> Value:
    # One that was given to nobody yet has no number.
    if given is None or given.get("number") is None:
        return None
    return {"prefix": given.get("prefix"), "number": given["number"]}


def _verification(given: Any) -> Value:
    if given is None:
        return None
    date, by = _date(given.get("date")), _user(given.get("verified_by"))
    return {"state": given["state"], "date": date, "verified_by": by}


def _place(given: Any) -> Value:
    return None if given is None else {key: given.get(key) for key in ("name", "address", "lat", "lon")}


def _formula(given: Given) -> Value:
    kind = given["type"]
    if kind not in _FORMULAS:
        raise ValueError(f"Notion could not calculate it: the formula is {kind!r:.40}")
    return _FORMULAS[kind](given.get(kind))


def _rollup(given: Given) -> Value:
    kind = given["type"]
    if kind == "array":
        values = [read_value(each) for each in given["array"]]
        return [each for value in values for each in (value if isinstance(value, list) else [value])]
    if kind not in _FORMULAS:
        raise ValueError(f"Notion could not calculate it: {given.get('function')} is {kind!r:.40}")
    return _FORMULAS[kind](given.get(kind))


_FORMULAS: Mapping[str, Callable[[Any], Value]] = {
    "string": _plain,
    "number": _plain,
    "boolean": _plain,
    "date": _date,
}
_READERS: Mapping[str, Callable[[Any], Value]] = {
    "title": _text,
    "rich_text": _text,
    "number": _plain,
    "checkbox": bool,
    "select": _name,
    "status": _name,
    "multi_select": _names,
    "date": _date,
    "people": _users,
    "created_by": _user,
    "last_edited_by": _user,
    "created_time": _plain,
    "last_edited_time": _plain,
    "files": lambda files: [_file(each) for each in files or ()],
    # Thousands of rows lead to the same few pages: once in memory is enough.
    "relation": lambda pages: [sys.intern(page["id"]) for page in pages or ()],
    "url": _plain,
    "email": _plain,
    "phone_number": _plain,
    "formula": _formula,
    "rollup": _rollup,
    "unique_id": _unique_id,
    "verification": _verification,
    "place": _place,
    # It only does something.
    "button": lambda _: None,
}
READABLE = frozenset(_READERS)
