"""How the service is: documented health endpoints, statistics, and the root of the API."""

from __future__ import annotations

from collections.abc import Iterable

from kernel import HealthCheck, Route, Services, hookimpl
from plugins.system.health import HealthRoutes
from plugins.system.stats import StatsRoutes


@hookimpl
def register_routes(services: Services) -> Iterable[Route]:
    """Return ``/health/``, ``/api/health/``, ``/stats/`` and ``/api/``."""
    return [*HealthRoutes(services).routes(), *StatsRoutes(services).routes()]


@hookimpl
def register_health_checks(services: Services) -> Iterable[HealthCheck]:
    """Return a check of the caches' mechanism."""
    return [HealthCheck(name="cache", probe=services.cache.check, critical=False)]
