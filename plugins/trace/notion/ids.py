"""Ids of databases, data sources and pages, in the one form that Notion answers with."""

from __future__ import annotations

import re
import uuid
from urllib.parse import urlsplit

_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# The last part of a path: a title before the id is optional.
_AT_THE_END = re.compile(rf"(?:^|[/-])({_ID.pattern})/?$", re.IGNORECASE)


def read_id(text: str) -> str | None:
    """Return an id with its dashes; None if there is none.

    Args:
        text: An id, with or without dashes, or a URL as Notion copies it. What follows the ``?`` of such a URL is about
            views of a database and pages in it, not about the database.
    """
    text = text.strip()
    if _ID.fullmatch(text):
        return str(uuid.UUID(text))
    try:
        path = urlsplit(text).path if "://" in text else ""
    except ValueError:
        return None
    found = _AT_THE_END.search(path)
    return None if found is None else str(uuid.UUID(found[1]))
