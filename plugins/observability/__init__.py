"""Request logs of any service: ingest, list, edit, analyze, export and expire them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import msgspec

from kernel import Command, HealthCheck, Job, Route, Services, collect_routes, hookimpl
from kernel.http import Search
from plugins.observability.analytics.commands import make_analytics_commands
from plugins.observability.analytics.routes import AnalyticsRoutes, PublicAnalyticsRoutes
from plugins.observability.commands import make_commands
from plugins.observability.container import make_container
from plugins.observability.event_list import EventPages
from plugins.observability.export import ExportRoutes
from plugins.observability.jobs import make_jobs
from plugins.observability.ledger_page import IngestPage
from plugins.observability.live import ArrivalReader, LiveRoutes
from plugins.observability.marks import Marks, make_mark_command, make_mark_pages
from plugins.observability.otlp.routes import TraceServiceRoutes
from plugins.observability.overview_page import OverviewPage
from plugins.observability.own_requests import OwnRequests
from plugins.observability.request_pages import RequestPages
from plugins.observability.retention.commands import make_retention_command
from plugins.observability.rollups.commands import make_refresh_commands
from plugins.observability.routes import RequestLogRoutes
from plugins.observability.searches import make_searches
from plugins.observability.settings import ObservabilitySettings
from plugins.observability.timescale import ensure_licensed
from plugins.observability.traces import TraceRoutes


@hookimpl
def register_settings() -> type[msgspec.Struct]:
    """Return the table ``[observability]``."""
    return ObservabilitySettings


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return ``/api/requests/`` and everything below it, OTLP, the ledger, and the pages below ``/requests/``."""
    container = services.once(make_container)
    http = services.kernel_settings.http
    pages = EventPages(container.store, http.page_size, http.page_size_max)
    logs = RequestLogRoutes(container.store, pages, container.ingest, container.removal, container.now)
    traces = TraceRoutes(container.store)
    spans = TraceServiceRoutes(container.spans)
    exports = ExportRoutes(container.scanner, container.settings.exports_max, services.stopping, services.usage)
    live = LiveRoutes(ArrivalReader(container.db, container.store), services)
    analytics = AnalyticsRoutes(container.analytics, http.page_size, http.page_size_max)
    public = PublicAnalyticsRoutes(container.analytics)
    marks = Marks(services)
    overview = OverviewPage(container.analytics, pages, container.store, container.marks, container.now)
    needs_key = services.kernel_settings.auth == "required"
    shown = RequestPages(container.analytics, pages, container.store, container.now, needs_key=needs_key)
    return [
        *marks.routes(),
        *collect_routes(
            logs.list,
            logs.create,
            logs.ingest,
            logs.show,
            logs.replace,
            logs.update,
            logs.delete,
            logs.remove,
            live.stream,
            traces.show,
            spans.export,
            exports.export,
            analytics.hourly,
            analytics.daily,
            analytics.kpis,
            analytics.timeseries,
            analytics.top_endpoints,
            analytics.services,
            analytics.endpoints,
            public.kpis,
            public.timeseries,
            public.hourly,
            public.daily,
            public.top_endpoints,
            container.ledger.show,
            overview.show,
            shown.list,
            shown.live,
            IngestPage(container.ledger, container.now).show,
            shown.show,
            shown.trace,
        ),
        *make_mark_pages(services, marks).routes(),
    ]


@hookimpl
def register_jobs(services: Services) -> Iterable[Job]:
    """Return ``observability.rollups`` and ``observability.retention``."""
    return make_jobs(services.once(make_container))


@hookimpl
def register_health_checks(services: Services) -> Iterable[HealthCheck]:
    """Return lines of ``tiercel check``, of senders with too many series among others, and of ``/readyz``."""
    container = services.once(make_container)
    rollups, licensed = container.rollups, partial(ensure_licensed, container.db)
    return [
        HealthCheck(name="timescaledb", probe=licensed, review=licensed),
        HealthCheck(name="series", review=container.ledger.describe_capped),
        HealthCheck(name="ingest", review=container.ledger.describe_refused),
        HealthCheck(name="locks", review=container.partitions.describe_locks),
        HealthCheck(name="rollups", probe=rollups.probe, review=rollups.describe_failed_days, critical=False),
    ]


@hookimpl
def register_commands(services: Services) -> Iterable[Command]:
    """Return ``import``, ``export``, ``forget``, ``seed``, ``ledger``, ``mark``, upkeep, and analytics."""
    container = services.once(make_container)
    return [
        *make_commands(container),
        *make_analytics_commands(container.analytics, services.kernel_settings.http.page_size),
        *make_refresh_commands(container.rollups, container.now),
        make_retention_command(container.retention),
        make_mark_command(Marks(services)),
    ]


@hookimpl
def register_searches(services: Services) -> Iterable[Search]:
    """Return what is found of services and endpoints, and by the id of a trace or a request."""
    container = services.once(make_container)
    return make_searches(container.analytics, container.store, container.now)


@hookimpl
def startup(services: Services) -> None:
    """Subscribe to the service's own requests."""
    container = services.once(make_container)
    if container.settings.log_own_requests:
        services.requests.subscribe("observability", OwnRequests(container.ingest).store)
