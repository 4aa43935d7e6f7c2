"""Paths of the pages of request logs, and links between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from plugins.observability.models import Event

OVERVIEW = "/requests/"
LIST = "/requests/list/"
LIVE = "/requests/live/"
MARKS = "/requests/marks/"
# Filters that the overview and the list have in common.
SHARED_FILTERS = ("service", "endpoint", "method", "status_code", "status_class", "application")

# Takes the times out of a link, under both of their names.
WITHOUT_TIMES: Mapping[str, None] = dict.fromkeys(("start", "end", "time_after", "time_before"))


def event_link(event: Event) -> str:
    """Return a link to the page of an event."""
    return f"/requests/events/{event.id}/"


def trace_link(trace_id: str) -> str:
    """Return a link to the page of a trace."""
    return f"/requests/traces/{quote(trace_id, safe='')}/"


# For templates.
HELPERS: Mapping[str, Any] = {"event_link": event_link, "trace_link": trace_link}
