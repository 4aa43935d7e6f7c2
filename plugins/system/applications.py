"""``/api/v1/applications/``: the applications, and what each of them sees."""

from __future__ import annotations

from collections.abc import Sequence

from kernel import Services, route
from kernel.datasets import ApplicationSummary, summarize_application


class ApplicationRoutes:
    """The handler of ``/api/v1/applications/``.

    Args:
        services: Applications and datasets.
    """

    def __init__(self, services: Services) -> None:
        self._applications = services.applications
        self._datasets = services.datasets

    @route("/api/v1/applications/", policy="read", menu="applications")
    def list(self) -> Sequence[ApplicationSummary]:
        """List every application with its features, its filters and the number of items it sees."""
        return [summarize_application(self._datasets, each) for each in self._applications.all]
