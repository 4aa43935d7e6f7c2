"""The analytics as applications look at them: narrowed to the services that each owns."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from kernel import Application, Handler, InvalidError, Listing, Request, Route, Single, listing, single
from plugins.observability.analytics.answers import Analytics
from plugins.observability.analytics.model import (
    BucketsQuery,
    DayRow,
    EndpointRow,
    HourRow,
    KpiQuery,
    Kpis,
    TopQuery,
    WindowQuery,
)
from plugins.observability.analytics.timeseries import Timeseries, TimeseriesAnswer, TimeseriesQuery

Q = TypeVar("Q", bound=WindowQuery)
ROOT = "/observability/public/"


class PublicAnalytics:
    """Handlers of ``/observability/public/kpis/`` and its siblings.

    Args:
        analytics: Answers.
        timeseries: Answers step by step.
    """

    def __init__(self, analytics: Analytics, timeseries: Timeseries) -> None:
        self._analytics = analytics
        self._timeseries = timeseries

    def kpis(self, request: Request, application: Application | None, query: KpiQuery) -> Single[Kpis]:
        """Hits, errors and latencies of an application's services over a window."""
        return single(request, application, self._analytics.kpis(_narrowed(query, application)))

    def timeseries(
        self, request: Request, application: Application | None, query: TimeseriesQuery
    ) -> Single[TimeseriesAnswer]:
        """Hits, errors and latencies of an application's services, step by step."""
        return single(request, application, self._timeseries.answer(_narrowed(query, application)))

    def hourly(self, request: Request, application: Application | None, query: BucketsQuery) -> Listing[HourRow]:
        """Requests to an application's services by hour, service and endpoint; the newest first."""
        found = self._analytics.hourly(_narrowed(query, application))
        return listing(request, application, found.rows, **found.about)

    def daily(self, request: Request, application: Application | None, query: BucketsQuery) -> Listing[DayRow]:
        """Requests to an application's services by day, service and endpoint; the newest first."""
        found = self._analytics.daily(_narrowed(query, application))
        return listing(request, application, found.rows, **found.about)

    def top_endpoints(self, request: Request, application: Application | None, query: TopQuery) -> Listing[EndpointRow]:
        """Endpoints of an application's services, ranked."""
        found = self._analytics.top_endpoints(_narrowed(query, application))
        return listing(request, application, found.rows, **found.about)

    def routes(self) -> list[Route]:
        """Return the routes, for everybody and for each application."""

        def route(name: str, handler: Handler) -> Route:
            # What a service is asked, and how it fares, is no more public here than under /api/requests/.
            return Route(path=f"{ROOT}{name}/", handler=handler, policy="read", per_application=True)

        return [
            route("kpis", self.kpis),
            route("timeseries", self.timeseries),
            route("hourly", self.hourly),
            route("daily", self.daily),
            route("top-endpoints", self.top_endpoints),
        ]


def _narrowed(query: Q, application: Application | None) -> Q:
    if application is None:
        return query
    if query.application not in (None, application.slug):
        message = f"The path says {application.slug}, got {query.application!r:.80}."
        raise InvalidError(errors={"application": [message]})
    return msgspec.structs.replace(query, application=application.slug)
