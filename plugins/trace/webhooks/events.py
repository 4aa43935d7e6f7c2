"""Which events say that rows of ours may be other ones.

Source: https://developers.notion.com/reference/webhooks-events-delivery
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from plugins.trace.settings import TraceSettings

_ROW = ("created", "content_updated", "properties_updated", "deleted", "undeleted", "moved")
_TABLE = ("created", "content_updated", "schema_updated", "deleted", "undeleted", "moved")
_TYPES = frozenset(
    {
        *(f"page.{each}" for each in _ROW),
        *(f"{table}.{each}" for table in ("data_source", "database") for each in _TABLE),
    }
)
_MOVED = "page.moved"
_ID = re.compile(r"[0-9a-fA-F-]{32,36}")


def is_of_interest(event: Any, settings: TraceSettings) -> bool:
    """Tell whether an event may concern rows of ours.

    Args:
        event: As it came, decoded. Fields that are missing or of another shape count as unknown.
        settings: Which databases and data sources are ours.
    """
    # Where the page was is not told.
    return _get(event, "type") == _MOVED or (_get(event, "type") in _TYPES and _may_be_ours(event, settings))


def moved_page(event: Any) -> str | None:
    """Return the page that was moved, if that is what happened."""
    page_id = _get(event, "entity", "id")
    is_moved = _get(event, "type") == _MOVED and isinstance(page_id, str) and _ID.fullmatch(page_id)
    return page_id if is_moved else None


def _may_be_ours(event: Any, settings: TraceSettings) -> bool:
    named = set(_ids(event))
    sources = settings.sources.values()
    ours = {plain_id(each) for source in sources for each in (*source.databases, *source.data_sources)}
    parent = _get(event, "data", "parent")
    if named & ours or not _get(parent, "id"):
        return True
    # Subscriptions of an older version name the database alone, which need not be configured.
    nameless = _get(parent, "type") == "database" and _get(parent, "data_source_id") is None
    return nameless and any(source.data_sources for source in sources)


def _ids(event: Any) -> Iterator[str]:
    parent = _get(event, "data", "parent")
    for value in (_get(event, "entity", "id"), _get(parent, "id"), _get(parent, "data_source_id")):
        if isinstance(value, str):
            yield plain_id(value)


def plain_id(text: str) -> str:
    """Return an id as it is without dashes, which Notion takes either way."""
    return text.replace("-", "").lower()


def _get(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
