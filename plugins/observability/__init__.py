"""Request logs of any service: take them in, give them back."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kernel import Command, Job, Route, Services, collect_routes, hookimpl
from plugins.observability.analytics.commands import make_analytics_commands
from plugins.observability.analytics.routes import AnalyticsRoutes, PublicAnalyticsRoutes
from plugins.observability.commands import make_commands
from plugins.observability.export import ExportRoutes
from plugins.observability.jobs import make_jobs
from plugins.observability.ledger_view import LedgerView
from plugins.observability.listing import Listing
from plugins.observability.own_requests import OwnRequests
from plugins.observability.parts import make_parts
from plugins.observability.retention.commands import make_retention_command
from plugins.observability.rollups.commands import make_refresh_commands
from plugins.observability.routes import RequestLogs
from plugins.observability.seed import make_seed_command
from plugins.observability.settings import ObservabilitySettings
from plugins.observability.traces import TraceRoutes


@hookimpl
def register_settings() -> type[msgspec.Struct]:
    """Return the limits of ingest."""
    return ObservabilitySettings


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return ``/api/requests/`` and what is below it."""
    parts = services.once(make_parts)
    listing = Listing(parts.store, services.kernel_settings.http.page_size, services.kernel_settings.http.page_size_max)
    requests = RequestLogs(parts.store, listing, parts.ingest, services.clock.now)
    analytics = AnalyticsRoutes(parts.analytics)
    public = PublicAnalyticsRoutes(parts.analytics)
    ledger = LedgerView(parts.ledger, services.clock.now)
    traces = TraceRoutes(parts.store)
    exports = ExportRoutes(services)
    return [
        *requests.routes(),
        *collect_routes(
            traces.show,
            exports.export,
            analytics.hourly,
            analytics.daily,
            analytics.kpis,
            analytics.timeseries,
            analytics.top_endpoints,
            public.kpis,
            public.timeseries,
            public.hourly,
            public.daily,
            public.top_endpoints,
        ),
        *ledger.routes(),
    ]


@hookimpl
def register_jobs(services: Services) -> Iterable[Job]:
    """Return ``observability.rollups`` and ``observability.retention``."""
    parts = services.once(make_parts)
    return make_jobs(parts.rollups, parts.retention, services.settings(ObservabilitySettings).running_hour_wait_s)


@hookimpl
def register_commands(services: Services) -> Iterable[Command]:
    """Return ``import``, ``seed``, ``ledger``, ``refresh``, ``retention``, and those that print analytics."""
    parts = services.once(make_parts)
    ledger = LedgerView(parts.ledger, services.clock.now)
    return [
        *make_commands(parts),
        *make_analytics_commands(parts.analytics),
        make_seed_command(parts),
        ledger.command(),
        *make_refresh_commands(parts.rollups, services.clock.now),
        make_retention_command(parts.retention),
    ]


@hookimpl
def startup(services: Services) -> None:
    """Begin to store the service's own requests."""
    settings = services.settings(ObservabilitySettings)
    if settings.log_own_requests:
        services.requests.subscribe("observability", OwnRequests(services.once(make_parts).writer).store)
