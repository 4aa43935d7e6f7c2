"""The routes of the analytics."""

from __future__ import annotations

from collections.abc import Sequence

from kernel import Handler, Response, Route
from plugins.observability.analytics.answers import Analytics
from plugins.observability.analytics.model import (
    BucketsQuery,
    DayRow,
    EndpointRow,
    Found,
    HourRow,
    KpiQuery,
    Kpis,
    R,
    TopQuery,
)
from plugins.observability.analytics.timeseries import Timeseries, TimeseriesAnswer, TimeseriesQuery
from plugins.observability.routes import ROOTS


class AnalyticsRoutes:
    """Handlers of ``/api/requests/kpis/`` and its siblings.

    Args:
        analytics: Answers.
        timeseries: Answers step by step.
    """

    def __init__(self, analytics: Analytics, timeseries: Timeseries) -> None:
        self._analytics = analytics
        self._timeseries = timeseries

    def hourly(self, query: BucketsQuery) -> Response[Sequence[HourRow]]:
        """Requests by hour, service and endpoint; the newest first."""
        return _reply(self._analytics.hourly(query))

    def daily(self, query: BucketsQuery) -> Response[Sequence[DayRow]]:
        """Requests by day, service and endpoint; the newest first."""
        return _reply(self._analytics.daily(query))

    def kpis(self, query: KpiQuery) -> Kpis:
        """Hits, errors and latencies over a window."""
        return self._analytics.kpis(query)

    def top_endpoints(self, query: TopQuery) -> Response[Sequence[EndpointRow]]:
        """Endpoints, ranked."""
        return _reply(self._analytics.top_endpoints(query))

    def timeseries(self, query: TimeseriesQuery) -> TimeseriesAnswer:
        """Hits, errors and latencies over a window, step by step."""
        return self._timeseries.answer(query)

    def routes(self) -> list[Route]:
        """Return the routes, under both roots."""

        def route(path: str, handler: Handler, menu: str) -> Route:
            first, *others = (f"{root}{path}/" for root in ROOTS)
            return Route(path=first, aliases=tuple(others), handler=handler, policy="read", menu=menu)

        return [
            route("hourly", self.hourly, "requests by hour"),
            route("daily", self.daily, "requests by day"),
            route("kpis", self.kpis, "hits, errors and latencies of the last day"),
            route("timeseries", self.timeseries, "hits, errors and latencies, hour by hour"),
            route("top-endpoints", self.top_endpoints, "endpoints, the busiest first"),
        ]


def _reply(found: Found[R]) -> Response[Sequence[R]]:
    """Answer with a bare list; what there is to say about it goes into headers."""
    headers = {f"X-{name.replace('_', '-').title()}": str(value) for name, value in found.about.items()}
    return Response(found.rows, headers=headers)
