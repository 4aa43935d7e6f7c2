"""The routes ``/health/`` and ``/api/health/``; the kernel has ``/livez``, ``/readyz`` and ``/startupz``."""

from __future__ import annotations

import msgspec

from kernel import Response, Services, route
from kernel.http import CheckResult, worst_status

_NO_STORE = {"Cache-Control": "no-store"}


class HealthQuery(msgspec.Struct, frozen=True):
    """Parameters of ``/api/health/``.

    Args:
        db: Also check the database.
    """

    db: bool = False


class ApiHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """Response of ``/api/health/``; ``db`` only if it was requested."""

    status: str
    db: str | None = None


class BasicHealth(msgspec.Struct, frozen=True):
    """Response of ``/health/``.

    Args:
        status: ``ok``, ``degraded`` or ``failed``.
        database: ``ok``, or the reason of the failure.
        cache: ``ok``, or the reason of the failure.
        jobs: ``ok``, or which jobs fail, or that no worker runs.
        engine: Engine and version of the database; None while it is unavailable.
    """

    status: str
    database: str
    cache: str
    jobs: str
    engine: str | None


class HealthRoutes:
    """The handlers of the health endpoints. Probes are not logged.

    Args:
        services: Health checks.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    @route(
        "/health/",
        policy="public",
        logged=False,
        menu="health",
        responses={200: BasicHealth, 503: BasicHealth},
    )
    def basic(self) -> Response[BasicHealth]:
        """Check database, cache and jobs; 503 if the database is unavailable."""
        results = {result.name: result for result in self._services.health.run(only=("database", "cache", "jobs"))}
        database, cache, jobs = results["database"], results["cache"], results["jobs"]
        status = "failed" if database.status != "ok" else worst_status((cache, jobs))
        engine = database.detail if database.status == "ok" else None
        body = BasicHealth(status, _describe(database), _describe(cache), _describe(jobs), engine)
        return Response(body, 200 if database.status == "ok" else 503, _NO_STORE)

    @route("/api/health/", policy="public", logged=False, responses={200: ApiHealth, 503: ApiHealth})
    def api(self, query: HealthQuery) -> Response[ApiHealth]:
        """Return ok; with ``db=1``, 503 if the database is unavailable."""
        if not query.db:
            return Response(ApiHealth("ok"), 200, _NO_STORE)
        (database,) = self._services.health.run(only=("database",))
        if database.status == "ok":
            return Response(ApiHealth("ok", "ok"), 200, _NO_STORE)
        return Response(ApiHealth("error", _describe(database)), 503, _NO_STORE)


def _describe(result: CheckResult) -> str:
    return "ok" if result.status == "ok" else result.detail or "failed"
