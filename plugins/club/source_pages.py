"""The page of sources: how fresh each is, why a fetch failed, when the next is due; and fetching them now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernel import ApiError, ConflictError, Identity, NotFoundError, Request, Response, Services, route
from kernel.http import JOB_EVENTS, JOB_PAGE, FormResponse, Notice, Panel, Submitted, TemplateResponse, redirect
from plugins.club.health import ClubHealth
from plugins.club.jobs import JOB, RefreshParameters
from plugins.club.settings import ClubSettings

SOURCES_PATH = "/club/sources/"
STARTED = Notice("The sources are about to be fetched.")
_REFRESH_S = 30


class SourcePages:
    """The handlers of ``/club/sources/``.

    Args:
        services: Of this plugin.
    """

    def __init__(self, services: Services) -> None:
        self._jobs = services.jobs
        self._clock = services.clock
        self._settings = services.settings(ClubSettings)
        self._health = ClubHealth(services)

    @route(SOURCES_PATH, policy="staff", menu="Sources")
    def show(self, identity: Identity) -> TemplateResponse:
        """Show how fresh each source is, why its last fetch failed, and when the next is due."""
        return self._page(identity)

    @route(SOURCES_PATH, policy="write", method="POST")
    def fetch(self, request: Request, form: Submitted[RefreshParameters], identity: Identity) -> FormResponse:
        """Fetch all sources, or some, which the page then follows.

        Raises:
            ForbiddenError: Only staff may do so.
            NotFoundError: There is no such source.
        """
        self._jobs.ensure_may_control(JOB)
        parameters = form.value()
        if unknown := [name for name in parameters.sources if name not in self._settings.sources]:
            raise NotFoundError(f"Unknown source: {unknown[0]:.80}")
        try:
            self._jobs.start(JOB, parameters, request_id=request.request_id)
        except ConflictError as ex:
            return Response(self._page(identity, ex), ex.status)
        return redirect(SOURCES_PATH, STARTED)

    def _page(self, identity: Identity, error: ApiError | None = None) -> TemplateResponse:
        may_fetch = "write" in identity.scopes
        panels = {
            "status": Panel(self._status, "club/status.html", "Fetching", refresh_s=_REFRESH_S),
            "sources": Panel(
                lambda: self._sources(may_fetch=may_fetch), "club/sources_panel.html", "Sources", refresh_s=_REFRESH_S
            ),
        }
        context = {"error": error, "may_fetch": may_fetch and bool(self._settings.sources), "path": SOURCES_PATH}
        return TemplateResponse("club/sources.html", context, panels=panels)

    def _status(self) -> Mapping[str, Any]:
        sources = self._health.list_sources()
        return {
            "job": next(each for each in self._jobs.summaries(self._clock.now()) if each.name == JOB),
            "problems": [each for each in sources if each.problem is not None],
            # The same for all.
            "next_try_at": sources[0].next_try_at if sources else None,
            "stale_after_s": self._settings.stale_after_s,
            "has_sources": bool(sources),
            "job_page": JOB_PAGE,
            "job_events": JOB_EVENTS,
        }

    def _sources(self, *, may_fetch: bool) -> Mapping[str, Any]:
        return {
            "sources": self._health.list_sources(),
            "may_fetch": may_fetch,
            "path": SOURCES_PATH,
        }
