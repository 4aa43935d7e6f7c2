"""The routes of the analytics: ``/api/requests/``, and ``/observability/public/`` with the view of each application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from kernel import Application, Identity, InvalidError, Request, Response, route
from kernel.http import Example, Listing, Page, Single, listing, numbered_page, page_size_of, single
from plugins.observability.access import Access
from plugins.observability.analytics.models import (
    ActiveEndpoint,
    ActiveService,
    ActivityQuery,
    BucketsQuery,
    EndpointsQuery,
    KpiQuery,
    Row,
    RowSet,
    ServicesQuery,
    Timeseries,
    TimeseriesQuery,
    TopQuery,
    WindowQuery,
)
from plugins.observability.analytics.service import AnalyticsService
from plugins.observability.requests_route import requests_route

Item = TypeVar("Item")
Query = TypeVar("Query", bound=WindowQuery)


class AnalyticsRoutes:
    """Handlers of ``/api/requests/kpis/`` and its siblings.

    Args:
        analytics: Computes them.
        page_size: Items of a page by default.
        page_size_max: The most items a client may ask for.
    """

    def __init__(self, analytics: AnalyticsService, page_size: int, page_size_max: int) -> None:
        self._analytics = analytics
        self._page_size = page_size
        self._page_size_max = page_size_max

    @requests_route("hourly/", policy="read", menu="requests by hour")
    def hourly(self, query: BucketsQuery, identity: Identity) -> Response[Sequence[Row]]:
        """Requests by hour, service and endpoint; the newest first."""
        return _rows_with_headers(self._analytics.hourly(query, Access.of(identity)))

    @requests_route("daily/", policy="read", menu="requests by day")
    def daily(self, query: BucketsQuery, identity: Identity) -> Response[Sequence[Row]]:
        """Requests by day, service and endpoint; the newest first."""
        return _rows_with_headers(self._analytics.daily(query, Access.of(identity)))

    @requests_route(
        "kpis/",
        policy="read",
        menu="hits, errors and latencies of the last day",
        examples=(Example(summary="By service", query={"group_by": ["service"], "percentiles": [50, 99]}),),
    )
    def kpis(self, query: KpiQuery, identity: Identity) -> Row:
        """Hits, errors and latencies over a window, and of groups in it."""
        return self._analytics.kpis(query, Access.of(identity)).members

    @requests_route(
        "timeseries/",
        policy="read",
        menu="hits, errors and latencies, hour by hour",
        examples=(Example(summary="Six hours a step", query={"step": "6h"}),),
    )
    def timeseries(self, query: TimeseriesQuery, identity: Identity) -> Timeseries:
        """Hits, errors and latencies over a window, step by step."""
        return self._analytics.timeseries(query, Access.of(identity))

    @requests_route(
        "top-endpoints/",
        policy="read",
        menu="endpoints, the busiest first",
        examples=(Example(summary="The slowest", query={"sort_by": "p99", "limit": 5}),),
    )
    def top_endpoints(self, query: TopQuery, identity: Identity) -> Response[Sequence[Row]]:
        """Endpoints, ranked."""
        return _rows_with_headers(self._analytics.top_endpoints(query, Access.of(identity)))

    @requests_route("services/", policy="read", menu="services, with their first and last event")
    def services(self, request: Request, query: ServicesQuery, identity: Identity) -> Page[ActiveService]:
        """List services that have events, with the time of the first and the last."""
        size = page_size_of(query.page_size, self._page_size, self._page_size_max)
        found = self._analytics.services(query, size, (query.page - 1) * size, Access.of(identity))
        return _page(request, query, size, *found)

    @requests_route("endpoints/", policy="read", menu="endpoints, with their first and last event")
    def endpoints(self, request: Request, query: EndpointsQuery, identity: Identity) -> Page[ActiveEndpoint]:
        """List endpoints that have events, with the time of the first and the last."""
        size = page_size_of(query.page_size, self._page_size, self._page_size_max)
        found = self._analytics.endpoints(query, size, (query.page - 1) * size, Access.of(identity))
        return _page(request, query, size, *found)


class PublicAnalyticsRoutes:
    """Handlers of ``/observability/public/kpis/`` and its siblings, narrowed to the services that an application owns.

    Their policy is ``read``, as under ``/api/requests/``: they are public to applications, not to everybody.

    Args:
        analytics: Computes them.
    """

    def __init__(self, analytics: AnalyticsService) -> None:
        self._analytics = analytics

    @route("/observability/public/kpis/", policy="read", per_application=True)
    def kpis(
        self, request: Request, application: Application | None, query: KpiQuery, identity: Identity
    ) -> Single[Row]:
        """Hits, errors and latencies of an application's services over a window."""
        return single(
            request, application, self._analytics.kpis(_of_application(query, application), Access.of(identity)).members
        )

    @route("/observability/public/timeseries/", policy="read", per_application=True)
    def timeseries(
        self, request: Request, application: Application | None, query: TimeseriesQuery, identity: Identity
    ) -> Single[Timeseries]:
        """Hits, errors and latencies of an application's services, step by step."""
        return single(
            request, application, self._analytics.timeseries(_of_application(query, application), Access.of(identity))
        )

    @route("/observability/public/hourly/", policy="read", per_application=True)
    def hourly(
        self, request: Request, application: Application | None, query: BucketsQuery, identity: Identity
    ) -> Listing[Row]:
        """Requests to an application's services by hour, service and endpoint; the newest first."""
        hours = self._analytics.hourly(_of_application(query, application), Access.of(identity))
        return listing(request, application, hours.rows, **hours.metadata)

    @route("/observability/public/daily/", policy="read", per_application=True)
    def daily(
        self, request: Request, application: Application | None, query: BucketsQuery, identity: Identity
    ) -> Listing[Row]:
        """Requests to an application's services by day, service and endpoint; the newest first."""
        days = self._analytics.daily(_of_application(query, application), Access.of(identity))
        return listing(request, application, days.rows, **days.metadata)

    @route("/observability/public/top-endpoints/", policy="read", per_application=True)
    def top_endpoints(
        self, request: Request, application: Application | None, query: TopQuery, identity: Identity
    ) -> Listing[Row]:
        """Endpoints of an application's services, ranked."""
        endpoints = self._analytics.top_endpoints(_of_application(query, application), Access.of(identity))
        return listing(request, application, endpoints.rows, **endpoints.metadata)


def _page(request: Request, query: ActivityQuery, size: int, items: Sequence[Item], count: int) -> Page[Item]:
    has_next = query.page * size < count
    # Beyond the last page nothing is counted.
    known = count if items or query.page == 1 else None
    return numbered_page(request, items, page=query.page, page_size=size, count=known, has_next=has_next)


def _rows_with_headers(row_set: RowSet) -> Response[Sequence[Row]]:
    """Respond with a bare list; its metadata goes into headers such as ``X-Fresh-Until``."""
    headers = {f"X-{name.replace('_', '-').title()}": str(value) for name, value in row_set.metadata.items()}
    return Response(row_set.rows, headers=headers)


def _of_application(query: Query, application: Application | None) -> Query:
    """Narrow a request to the services of the application in the path."""
    if application is None:
        return query
    if query.application not in (None, application.slug):
        message = f"The path says {application.slug}, got {query.application!r:.80}."
        raise InvalidError(errors={"application": [message]})
    return msgspec.structs.replace(query, application=application.slug)
