"""``/api/v1/applications/``: which applications there are and what each sees."""

from __future__ import annotations

from collections.abc import Sequence

from kernel import Envelope, Request, Route, Services, envelope
from kernel.datasets import ApplicationSummary, summarize_application


class ApplicationRoutes:
    """The handler of the list.

    Args:
        services: Has the applications and their data.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    def list(self, request: Request) -> Envelope[Sequence[ApplicationSummary]]:
        """List every application with features, filters and item counts."""
        services = self._services
        return envelope(request, [summarize_application(services.datasets, each) for each in services.applications.all])

    def routes(self) -> Sequence[Route]:
        """Return the route."""
        return [Route(path="/api/v1/applications/", handler=self.list, policy="read", menu="applications")]
