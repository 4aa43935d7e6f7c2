"""``/api/v1/applications/``: the applications, and what each of them sees."""

from __future__ import annotations

import msgspec

from kernel import Request, Services, route
from kernel.datasets import ApplicationSummary, summarize_application
from kernel.http import ListQuery, Page, list_page


class ApplicationsQuery(ListQuery, frozen=True):
    """Parameters of the list.

    Args:
        search: Applications with this text in any of their text fields, ignoring case.
        ordering: Fields separated by commas; a leading ``-`` sorts descending. In configured order by default.
        page: Number of a page, from 1.
        page_size: Applications per page; ``http.page_size`` by default.
        slug: Only the application with this slug.
        name: Only applications of this name.
        features: Only applications with this feature.
        services: Only the application to which the request logs of this service belong.
    """

    slug: str | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET
    features: str | msgspec.UnsetType = msgspec.UNSET
    services: str | msgspec.UnsetType = msgspec.UNSET


class ApplicationRoutes:
    """The handler of ``/api/v1/applications/``.

    Args:
        services: Applications, datasets, page sizes.
    """

    def __init__(self, services: Services) -> None:
        self._applications = services.applications
        self._datasets = services.datasets
        self._http = services.kernel_settings.http

    @route("/api/v1/applications/", policy="read", menu="applications")
    def list(self, request: Request, query: ApplicationsQuery) -> Page[ApplicationSummary]:
        """List the applications that the client may read: features, filters and the number of items that each sees."""
        found = [summarize_application(self._datasets, each) for each in self._applications.readable]
        return list_page(request, found, query, ApplicationSummary, self._http)
