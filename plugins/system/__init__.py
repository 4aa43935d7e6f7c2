"""How the service is and what it has: health, statistics, applications, datasets, jobs, the root of the API."""

from __future__ import annotations

from collections.abc import Iterable

from kernel import HealthCheck, Route, Services, hookimpl
from plugins.system.applications import ApplicationRoutes
from plugins.system.datasets import DatasetRoutes
from plugins.system.health import HealthRoutes
from plugins.system.jobs import JobRoutes
from plugins.system.stats import StatsRoutes


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return ``/health/``, ``/api/health/``, ``/stats/``, ``/api/`` and what is below ``/api/v1/``."""
    kinds = (HealthRoutes, StatsRoutes, ApplicationRoutes, DatasetRoutes, JobRoutes)
    return [route for kind in kinds for route in kind(services).routes()]


@hookimpl
def register_health_checks(services: Services) -> Iterable[HealthCheck]:
    """Return a check of the caches' mechanism."""
    return [HealthCheck(name="cache", probe=services.cache.check, critical=False)]
