"""Property values in Notion's JSON format.

Source: https://developers.notion.com/reference/page-property-values
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

Shape = dict[str, Any]
_PLAIN = {"bold": False, "italic": False, "strikethrough": False, "underline": False, "code": False, "color": "default"}
# Empty values by type; None for all others.
EMPTY: Mapping[str, Any] = {
    **dict.fromkeys(("title", "rich_text", "multi_select", "relation", "people", "files"), ()),
    "checkbox": False,
    "button": {},
}


class Calculated(msgspec.Struct, frozen=True):
    """The two values of a formula over a long relation.

    Args:
        shown: In a page object, where it is calculated over 25 references at most.
        whole: From the endpoint of one property.
    """

    shown: Shape
    whole: Shape


def rich_text(text: str, **annotations: bool) -> list[Shape]:
    """Return a rich text."""
    part = {"type": "text", "text": {"content": text, "link": None}, "annotations": {**_PLAIN, **annotations}}
    return [{**part, "plain_text": text, "href": None}] if text else []


def page_mention(title: str) -> Shape:
    """Return the mention of a page, a part of a rich text."""
    page_id = _id("page", title)
    mention = {"type": "page", "page": {"id": page_id}}
    return {
        "type": "mention",
        "mention": mention,
        "annotations": _PLAIN,
        "plain_text": title,
        "href": f"https://www.notion.so/{page_id.replace('-', '')}",
    }


def user_mention(name: str) -> Shape:
    """Return the mention of a person, a part of a rich text."""
    mention = {"type": "user", "user": person(name)}
    return {"type": "mention", "mention": mention, "annotations": _PLAIN, "plain_text": f"@{name}", "href": None}


def equation(expression: str) -> Shape:
    """Return an equation, a part of a rich text."""
    given = {"expression": expression}
    return {"type": "equation", "equation": given, "annotations": _PLAIN, "plain_text": expression, "href": None}


def option(name: str | None) -> Shape | None:
    """Return an option of a select."""
    return None if name is None else {"id": _id("option", name)[:4], "name": name, "color": "blue"}


def person(name: str) -> Shape:
    """Return a member of the workspace."""
    email = f"{name.lower()}@example.com"
    return {**user(name), "name": name, "avatar_url": None, "type": "person", "person": {"email": email}}


def bot(name: str) -> Shape:
    """Return a connection."""
    owner = {"type": "workspace", "workspace": True}
    return {**user(name), "name": name, "avatar_url": None, "type": "bot", "bot": {"owner": owner}}


def user(name: str) -> Shape:
    """Return a user of whom Notion shows only the id."""
    return {"object": "user", "id": _id("user", name)}


def group(name: str) -> Shape:
    """Return a group of members."""
    return {"object": "group", "id": _id("group", name), "name": name}


def date(start: str, end: str | None = None, time_zone: str | None = None) -> Shape:
    """Return a date, a time, or an interval."""
    return {"start": start, "end": end, "time_zone": time_zone}


def external_file(name: str, url: str) -> Shape:
    """Return a file that is hosted elsewhere."""
    return {"name": name, "type": "external", "external": {"url": url}}


def hosted_file(name: str) -> Shape:
    """Return a file that is hosted by Notion: its URL expires after an hour."""
    url = f"https://prod-files-secure.s3.us-west-2.amazonaws.com/{name}?X-Amz-Signature=0123"
    return {"name": name, "type": "file", "file": {"url": url, "expiry_time": "2026-11-21T13:00:00.000Z"}}


def formula(kind: str, value: Any) -> Shape:
    """Return the value of a formula; of kind ``unsupported`` if Notion cannot calculate it."""
    return {"type": kind, kind: {} if kind == "unsupported" else value}


def rollup(kind: str, value: Any, function: str) -> Shape:
    """Return the value of a rollup."""
    return {"type": kind, kind: value, "function": function}


def verification(state: str, by: Shape | None = None, period: Shape | None = None) -> Shape:
    """Return the verification of a page of a wiki."""
    return {"state": state, "date": period, "verified_by": by}


def place(lat: float, lon: float, name: str | None = None, address: str | None = None) -> Shape:
    """Return a place."""
    ids = {"aws_place_id": None, "google_place_id": None}
    return {"lat": lat, "lon": lon, "name": name, "address": address, **ids}


def _id(kind: str, name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{kind}:{name}"))
