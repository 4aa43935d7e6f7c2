"""The service over HTTP: health, statistics, applications, datasets, jobs, the root, and pages about the API."""

from __future__ import annotations

from collections.abc import Iterable

from kernel import HealthCheck, Route, Services, collect_routes, hookimpl
from plugins.system.api_documents import redoc, swagger_ui
from plugins.system.applications import ApplicationRoutes
from plugins.system.dataset_pages import DatasetListPages
from plugins.system.datasets import DatasetRoutes
from plugins.system.health import HealthRoutes
from plugins.system.job_events import JobEventRoutes
from plugins.system.job_pages import JobPages
from plugins.system.jobs import JobRoutes
from plugins.system.pages import SystemPages
from plugins.system.root import RootRoutes
from plugins.system.stats import StatsRoutes


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return the routes of health, the roots, statistics, applications, datasets and jobs."""
    health = HealthRoutes(services)
    root = RootRoutes(services)
    stats = StatsRoutes(services)
    applications = ApplicationRoutes(services)
    datasets = DatasetRoutes(services)
    jobs = JobRoutes(services)
    job_events = JobEventRoutes(services)
    pages = SystemPages(services)
    job_pages = JobPages(services, jobs)
    handlers = collect_routes(
        health.basic,
        health.api,
        root.page,
        root.root,
        root.versioned_root,
        swagger_ui,
        redoc,
        stats.show,
        applications.list,
        datasets.list,
        datasets.show,
        datasets.versions,
        datasets.diff,
        datasets.rejected,
        datasets.rollback,
        jobs.list,
        jobs.catalog,
        jobs.show,
        jobs.log,
        job_events.stream,
        jobs.start,
        jobs.cancel,
        pages.health,
        job_pages.list,
        job_pages.ask,
        job_pages.start,
        job_pages.start_again,
        job_pages.cancel,
        job_pages.show,
        job_pages.schedules,
        pages.plugins,
        pages.stats,
    )
    return [*handlers, *DatasetListPages(services).routes()]


@hookimpl
def register_health_checks(services: Services) -> Iterable[HealthCheck]:
    """Return a check that the caches work."""
    return [HealthCheck(name="cache", probe=services.cache.check, critical=False)]
