"""The page ``/requests/live/``: request logs as they arrive. Without a script, the newest, again and again."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode

from kernel import Identity, Request, route
from kernel.http import TemplateResponse, page_link
from plugins.observability.access import Access
from plugins.observability.filters import validate_filters
from plugins.observability.models import STATUS_CLASSES, ListQuery, SelectionQuery
from plugins.observability.page_links import HELPERS, LIST
from plugins.observability.request_pages import LIVE, RequestPages, chips_of, row_tone

# Without a script.
_NEWEST = 50
_REFRESH_S = 5
# As long as the script keeps.
_ROWS_MAX = 500


class LivePage:
    """The handler of the page.

    Args:
        pages: What the pages of request logs have in common.
    """

    def __init__(self, pages: RequestPages) -> None:
        self._pages = pages

    @route(LIVE, policy="read", menu="Live tail")
    def show(self, request: Request, query: SelectionQuery, identity: Identity) -> TemplateResponse:
        """Show request logs as they arrive."""
        access = Access.of(identity)
        validate_filters(query)
        sent = parse_qsl(request.query_string)
        values = {name: getattr(query, name) for name in SelectionQuery.__struct_fields__}
        newest = ListQuery(**values, page_size=_NEWEST, count="none", cursor="")

        def link(**changes: Any) -> str:
            return page_link(LIVE, request, **changes)

        context = {
            "query": query,
            "chips": chips_of(query, link),
            "clear": LIVE,
            "status_classes": STATUS_CLASSES,
            "newest": self._pages.read(request, newest, access).results,
            "row_tone": row_tone,
            "refresh_s": _REFRESH_S,
            "rows_max": _ROWS_MAX,
            "stream": "/api/requests/live/" + (f"?{urlencode(sent)}" if sent else ""),
            "list": page_link(LIST, None, **dict(sent)),
            "curl": self._pages.curl(request, "/api/requests/live/", sent, "-N"),
        }
        panels = {"suggestions": self._pages.suggestions(query, access)}
        return TemplateResponse("observability/live.html", {**HELPERS, **context}, panels=panels)
