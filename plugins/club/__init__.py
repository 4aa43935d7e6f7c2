"""Community figures: fetched from the APIs that the configuration names, ranked, and served to each application."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from kernel import Command, Dataset, HealthCheck, Job, Route, Services, hookimpl
from kernel.http import Search
from plugins.club.commands import make_refresh_command
from plugins.club.datasets import DATASETS
from plugins.club.health import ClubHealth
from plugins.club.jobs import RefreshJob, run_refresh
from plugins.club.pages import make_dataset_pages
from plugins.club.report import RefreshReport
from plugins.club.routes import make_routes
from plugins.club.settings import ClubSettings


@hookimpl
def register_settings() -> type[msgspec.Struct]:
    """Return the sources and the limits of fetching them."""
    return ClubSettings


@hookimpl
def register_datasets() -> Iterable[Dataset]:
    """Return ``hero-metrics`` and ``most-present``."""
    return DATASETS


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return the ranked figures per application, their index, the health of the plugin, and pages."""
    return make_routes(services)


@hookimpl
def register_searches(services: Services) -> Iterable[Search]:
    """Return searches for key figures and members by name."""
    return services.once(make_dataset_pages).searches()


@hookimpl
def register_jobs(services: Services) -> Iterable[Job]:
    """Return ``club.refresh``."""
    return [RefreshJob(services).job()]


@hookimpl
def register_health_checks(services: Services) -> Iterable[HealthCheck]:
    """Return a check of the sources; not critical, as their last content is served."""
    return [HealthCheck(name="club", probe=ClubHealth(services).check, critical=False)]


@hookimpl
def register_commands(services: Services) -> Iterable[Command]:
    """Return ``refresh``."""
    return [make_refresh_command(services)]


def run_full_export(services: Services) -> RefreshReport:
    """Fetch all sources and publish the datasets, in this process. Blocks.

    Args:
        services: Those of this plugin: ``service.registry.services["club"]``.

    Raises:
        ConflictError: A refresh is already running.
        RefreshError: Every source failed, or the refresh was cancelled.
    """
    return run_refresh(services)


async def run_full_export_async(services: Services) -> RefreshReport:
    """Run ``run_full_export`` without blocking the event loop.

    Args:
        services: As for ``run_full_export``.
    """
    return await asyncio.to_thread(run_refresh, services)
