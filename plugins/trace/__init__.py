"""Feature specifications from Notion: features, gateways, tiers and tags, as each application sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from kernel import Command, Dataset, HealthCheck, Job, Route, Services, hookimpl
from kernel.http import Search
from plugins.trace.commands import make_commands
from plugins.trace.datasets import DATASETS
from plugins.trace.freshness import FreshnessCheck
from plugins.trace.jobs import ExportJobs, run_export
from plugins.trace.pages import make_dataset_pages
from plugins.trace.routes import make_routes
from plugins.trace.settings import TraceSettings
from plugins.trace.sync.completeness import ExportReport


@hookimpl
def register_settings() -> type[msgspec.Struct]:
    """Return the table ``[trace]``: sources, token, schedules and limits."""
    return TraceSettings


@hookimpl
def register_datasets() -> Iterable[Dataset]:
    """Return features, gateways, tiers and tags."""
    return DATASETS


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return the routes of the datasets, the feature matrix, the index and the webhook."""
    return make_routes(services)


@hookimpl
def register_searches(services: Services) -> Iterable[Search]:
    """Return searches for features, gateways, tiers and tags by name."""
    return services.once(make_dataset_pages).searches()


@hookimpl
def register_jobs(services: Services) -> Iterable[Job]:
    """Return ``trace.refresh`` and ``trace.reconcile``."""
    return ExportJobs(services).jobs()


@hookimpl
def register_health_checks(services: Services) -> Iterable[HealthCheck]:
    """Return a check of the exports. Not critical: the last good export is still served."""
    freshness = FreshnessCheck(services)
    return [HealthCheck(name="trace", probe=freshness.check, critical=False, setup=freshness.describe_setup)]


@hookimpl
def register_commands(services: Services) -> Iterable[Command]:
    """Return ``refresh``, ``check`` and ``webhook``."""
    return make_commands(services)


@hookimpl
def startup(services: Services) -> None:
    """Log a warning if sources are configured, but cannot be read."""
    settings = services.settings(TraceSettings)
    if settings.sources and settings.idle_reason:
        services.log.warning("notion_not_read", reason=settings.idle_reason)


def run_full_export(services: Services) -> ExportReport:
    """Read every row from Notion and publish the datasets, in this process. Blocks.

    Args:
        services: Of this plugin: ``service.registry.services["trace"]``.

    Raises:
        ConflictError: Another export is running.
        ExportError: The export was refused; the last good versions are still served.
    """
    return run_export(services, full=True)


async def run_full_export_async(services: Services) -> ExportReport:
    """Do the same as ``run_full_export`` without blocking the event loop.

    Args:
        services: As of ``run_full_export``.
    """
    return await asyncio.to_thread(run_full_export, services)
